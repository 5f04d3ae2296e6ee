# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 · Real adapters: what did training change?
#
# Somebody hands you a folder with an adapter. Its update $\Delta W$ is a matrix per layer, some of it
# large, all of it of low rank. What can you read off it? In this lesson you train small adapters with
# Hugging Face PEFT, save them as PEFT does, open the folders, and find out which of their marks say
# something about the task, and which every trained adapter has.
#
# *About 30 minutes; about a minute of computing. Runs on a CPU. You need lessons 00 and 02, and PEFT
# with transformers (`pip install 'missviz[peft]'`).*
#
# | word | meaning |
# |---|---|
# | *relative norm* | $\lVert \Delta W \rVert / \lVert W_0 \rVert$: how far a layer moved |
# | *stable rank* | $\sum \sigma_n^2 / \sigma_1^2$: near 1 if one direction has nearly all energy |
# | *cosine* | of two updates of one layer, as long vectors: 1 is the same direction, 0 is unrelated |
# | *control* | an adapter that cannot have learnt the task, to compare with |

# %%
import copy
import tempfile
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, MissConfig, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

import missviz as mv
from missviz import check
from missviz.analysis.comparison import random_like
from missviz.machine import one_thread

warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
FOLDER = Path(tempfile.mkdtemp())
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# %% [markdown]
# **The model.** A Llama of three layers, 64 wide, made from a configuration: nothing is downloaded.
# Its base learns sequences with $x_t = x_{t-1} + x_{t-2}$ modulo 32. **The task** for the adapters:
# $x_t = x_{t-1} + 3\,x_{t-2}$ modulo 32, new sequences in every batch. **The control**: 32 sequences of
# random tokens, always the same ones. There is no rule in them; they can only be memorised.


# %%
def sequences(weight, seed):
    """Batches of 32 sequences that follow x_t = x_{t-1} + weight · x_{t-2} (mod 32)."""
    generator = torch.Generator().manual_seed(seed)

    def batch():
        x = torch.randint(32, (32, 24), generator=generator)
        for t in range(2, 24):
            x[:, t] = (x[:, t - 1] + weight * x[:, t - 2]) % 32
        return x

    return batch


def random_labels(seed):
    x = torch.randint(32, (32, 24), generator=torch.Generator().manual_seed(seed))
    return lambda: x


@one_thread()  # so small a model gains nothing from more, and loses much where others compute too
def train(model, batch, steps, learning_rate=3e-3):
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=learning_rate)
    for _ in range(steps):
        x = batch()
        loss = model(input_ids=x, labels=x).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return loss.item()


torch.manual_seed(0)
base = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=32,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=24,
    )
)
print(f"base: loss {train(base, sequences(1, seed=0), steps=250):.2f}")


# %%
def adapt(name, config, batch, seed):
    """Train an adapter with PEFT and save it, as anybody would."""
    torch.manual_seed(seed)
    model = get_peft_model(copy.deepcopy(base), config)
    loss = train(model, batch, steps=100)
    model.save_pretrained(FOLDER / name)
    print(f"{name}: loss {loss:.2f}")
    return FOLDER / name


lora = LoraConfig(r=8, lora_alpha=8, target_modules=TARGETS)
known = adapt("task, known", lora, sequences(3, seed=10), seed=0)
again = adapt("task, again", lora, sequences(3, seed=11), seed=1)
labels = adapt("random labels", lora, random_labels(seed=12), seed=2)
pissa_config = LoraConfig(r=8, lora_alpha=8, target_modules=TARGETS, init_lora_weights="pissa")
pissa = adapt("PiSSA", pissa_config, sequences(3, seed=13), seed=3)
miss = adapt("MiSS", MissConfig(r=16, target_modules=TARGETS), sequences(3, seed=14), seed=4)

# %% [markdown]
# ## Predict
#
# Rank 8 allows a stable rank of up to 8. Two random 8-dimensional factors make one of about 4.

# %%
guess = mv.predict(
    "The stable rank of ΔW, mean over all modules: after training on the task, and after training "
    "on random labels?",
    [
        "low after the task (a rule is simple), near 4 after random labels",
        "near 4 after both",
        "low after both",
        "low after random labels only",
    ],
)
guess

# %% [markdown]
# ## Run
#
# `mv.read_peft` opens a folder. It needs neither PEFT nor the model; `base` is there for what is
# relative to $W_0$. For an adapter of your own, write its path in place of `known` (and leave `base`
# out, or give the path of the base model's safetensors).

# %%
adapter = mv.read_peft(known)
table = mv.inspect_adapter(adapter, base)
print(f"{adapter.method}, {len(adapter)} modules, {table.num_parameters.sum():,} trained numbers")
table[["module", "norm", "relative_norm", "stable_rank", "effective_rank"]].head(7).round(2)

# %% [markdown]
# The picture has every module: kinds are rows, layers are columns, the colour is
# $\lVert \Delta W \rVert / \lVert W_0 \rVert$. To the right the singular values of one module, with
# those of a control in dashes. Move `module` and `control` with the arrow keys.

# %%
other = mv.read_peft(labels)
panel = mv.explore.adapter(adapter, {"random labels": other}, base=base)
panel

# %%
controls = {
    "task, known": adapter,
    "task, again": mv.read_peft(again),
    "random labels": other,
    "same-norm random": random_like(adapter, seed=0),
}
stable, size, likeness = {}, {}, {}
for name, updates in controls.items():
    rows = mv.inspect_adapter(updates, base)
    stable[name] = rows.stable_rank.mean()
    size[name] = rows.relative_norm.mean()
    likeness[name] = mv.compare(adapter, updates).cosine.mean()
    print(
        f"{name:17} relative norm {size[name]:.2f}   stable rank {stable[name]:.1f}   "
        f"cosine to the known one {likeness[name]:+.2f}"
    )
guess.reveal(
    f"stable rank {stable['task, known']:.1f} after the task, "
    f"{stable['random labels']:.1f} after random labels"
)

# %% [markdown]
# ## Notice
#
# 1. Stable rank is low after the task **and** after random labels, far below the random control of
#    equal norm. It is a mark of training, not of the task.
# 2. The norm is no mark of the task either: memorising noise moved the layers further.
# 3. The cosine knows. Another start and other data give an update that points partly the same way;
#    training on noise gives one that does not.
#
# ## Explain
#
# **What comes from the start.** LoRA's $A$ is random at first, and $\Delta W = s B A$ can only read
# what $A$'s rows read. If $A$ hardly turns, the row space of $\Delta W$ tells which start an adapter
# had, whatever it was trained on. Here is the control: random labels once more, from the *known*
# adapter's start.

# %%
same_start = mv.read_peft(adapt("labels, known start", lora, random_labels(seed=15), seed=0))
for name, updates in {**controls, "labels, known start": same_start}.items():
    if name != "task, known":
        angles = mv.compare(adapter, updates)[["mean_row_angle", "mean_column_angle"]].mean()
        print(
            f"{name:20} mean angle to the known one: row spaces {angles.mean_row_angle:3.0f}°, "
            f"column spaces {angles.mean_column_angle:3.0f}°"
        )

# %% [markdown]
# The smallest angle between row spaces belongs to the two adapters with one start and two tasks. So a
# likeness of subspaces is evidence of a shared task only if the starts differ. The cosine above
# compared different starts.
#
# **$\alpha$ is not cosmetic.** The folder holds $A$, $B$, and in its configuration $\alpha$. The
# update is $\frac{\alpha}{r} B A$. Whoever reads the tensors and forgets $\alpha$ has another adapter.

# %%
module = table.module[table.relative_norm.idxmax()]
left, right = adapter[module].factors()  # left already has α/r in it
for alpha in (8, 64):
    delta = (alpha / 8) * left @ right
    values = mv.spectrum(delta)
    print(
        f"{module.removeprefix('model.')}: α = {alpha:2d}: norm {torch.linalg.norm(delta):6.2f}, "
        f"stable rank {(values**2).sum() / values[0] ** 2:.2f}"
    )

# %% [markdown]
# The norm is eight times as large, and the stable rank the same: a factor cancels in
# $\sum \sigma_n^2 / \sigma_1^2$. Nothing that is relative to $\Delta W$ itself can see $\alpha$.
#
# **$B A$ is not PiSSA's update.** PiSSA starts at $W_0$'s principal part. The folder holds the trained
# $A$ and $B$; the update is what *changed*, $\Delta W = s (B A - B_0 A_0)$, and for $B_0 A_0$ one needs
# $W_0$.

# %%
print("without base:", *mv.read_peft(pissa).warnings)
tensors = load_file(pissa / "adapter_model.safetensors")
A, B = (tensors[f"base_model.model.{module}.lora_{name}.weight"].double() for name in "AB")
changed = mv.read_peft(pissa, base)[module].delta()
for label, matrix in (("B A", B @ A), ("ΔW", changed)):
    values = mv.spectrum(matrix)
    rank = int((values > 1e-5 * values[0]).sum())
    print(f"{label:4} norm {torch.linalg.norm(matrix):5.2f}, rank {rank}")

# %% [markdown]
# **MiSS has a mark that no training can remove**: its shards are copies, so the mean cosine between
# them is 1. (A MiSS folder does not say how wide its layers are. The base does.)

# %%
for name, folder in (("LoRA", known), ("MiSS", miss)):
    rows = mv.inspect_adapter(mv.read_peft(folder, base))
    print(
        f"{name}: shard cosine {rows.shard_cosine.mean():.3f}, "
        f"stable rank {rows.stable_rank.mean():.1f}, relative norm {rows.relative_norm.mean():.2f}"
    )

# %% [markdown]
# *You can stop here: what an adapter's numbers say, and what only looks as if they did.*
#
# ## Check
#
# Four LoRA folders without names. One is `"task, again"`. One has the same tensors, and $\alpha = 64$
# in its configuration (`"scaled"`). One was trained on random labels, and one was never trained: it is
# random, with the known adapter's norms. Which is which?

# %%
key = check.anonymous_folders(FOLDER, task=again, labels=labels, noise=random_like(adapter, seed=1))
for name in "WXYZ":
    updates = mv.read_peft(FOLDER / name)
    rows = mv.inspect_adapter(updates, base)
    print(
        f"{name}: relative norm {rows.relative_norm.mean():5.2f}   "
        f"stable rank {rows.stable_rank.mean():.1f}   "
        f"cosine to the known one {mv.compare(adapter, updates).cosine.mean():+.2f}"
    )

# %% [markdown]
# `names` says what each folder is: `"task"`, `"scaled"`, `"labels"` or `"noise"`. `evidence` says which
# measure tells it from `"task"`: `"norm"`, `"stable rank"` or `"cosine"`. Replace the dots.

# %%
names = {"W": ..., "X": ..., "Y": ..., "Z": ...}
evidence = {"scaled": ..., "labels": ..., "noise": ...}
check.anonymous_adapters(names, evidence, key)

# %% [markdown]
# ## What holds
#
# * Low stable rank marks what was trained, not what was learnt: random labels have it too.
# * Two adapters for one task point partly the same way, also from different starts. Their row spaces
#   say more about their starts.
# * $\Delta W$ is what changed. $\alpha$ belongs to it; PiSSA's $B A$ is not it.
# * One small model, one task, one rank. What a mark means in yours, its own controls must say. In a
#   terminal: `missviz inspect FOLDER --base PATH --html page.html`.
