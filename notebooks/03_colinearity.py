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
# # 03 · Colinearity: are the shards copies, and what does Bat change?
#
# MiSS copies one small matrix all over $\Delta W$. Bat was made to break the copies up: it
# multiplies them with the frozen weight. You measure how far it does, and find what that depends on.
#
# *About 30 minutes. Runs on a CPU, in well under a minute. You need lesson 00.*
#
# **The two rules.** Cut the $k$ columns of $\Delta W$ into neighbouring slices of $b$ columns, the
# *shards*; counted from 0, shard $i$ has columns $ib, \dots, ib + b - 1$. In MiSS (arXiv
# 2409.15371v12, Eq. 4-7, with $r = b$) every shard is the same $D$. In Bat the rows are cut into
# slices of $b$ as well. The block of $\Delta W$ in slice $o$ of the rows and shard $i$ is made from
# the same block $W_{oi}$ of $W_0$:
#
# $$\Delta W_{oi} = W_{oi} D_o + D_o$$
#
# with one trained $b \times b$ matrix $D_o$ per slice of rows. This is what PEFT runs
# (`peft/tuners/miss/layer.py`, `init_weights="bat"`; PEFT writes $r$ for $b$). The MiSS paper, in
# the version cited, has no section on Bat. Both methods train $bd$ numbers.
#
# **The measures.** The *cosine* of two shards takes each as one long vector: 1 means copies (up to
# a positive factor, *colinear*), 0 means nothing in common. $\sigma$ is the root mean square of the
# entries of $W_0$, its *scale*. The *rank* of $\Delta W$ counts its singular values $s_1 \ge s_2
# \ge \dots$ that are not zero; the *stable rank*, $\sum_n s_n^2 / s_1^2$, counts them by their size.

# %%
import torch

import missviz as mv
from missviz import check
from missviz.analysis.shards import bat_cosine, mean_cosine, shard_cosines
from missviz.displays.colinearity import ColinearityDisplay
from missviz.testing import randomise

# %% [markdown]
# ## Predict
#
# The layer is 64 × 64, the first one of the small network of lesson 05. Its $W_0$ was trained on
# one task. Then a Bat with $b = 8$ was trained on another, 100 steps of Adam. So $\Delta W$ has 8
# shards. The picture has the first 16 rows of it, with a line
# between the shards.

# %%
panel = mv.explore.colinearity(method="Bat", reveal=False)
panel

# %%
guess = mv.predict(
    "What is the mean cosine of two different shards of this Bat?",
    [
        "1.0: they are copies, as in MiSS",
        "about 0.9: nearly copies",
        "about 0.5",
        "about 0: nothing in common",
    ],
)
guess

# %% [markdown]
# ## Run
#
# The next cell completes the picture above. The square in its middle has the cosine of every two shards. On the right their mean stands against
# the scale of $W_0$: there $W_0$ is multiplied by 1/8, 1/4, … 16, **and $D$ stays as it was
# trained**. (So this asks what the formula makes of a larger $W_0$, not what training would find
# there.) The dashed line is a law that is derived below.

# %%
bat = mv.experiments.adapter_snapshots(mv.Bat(8))[100]
views = ColinearityDisplay.over_scales(bat, width=8)
panel.reveal()
guess.reveal(f"{views[1].mean:.2f} at the scale that W₀ has, σ = {views[1].sigma:.2f}")

# %% [markdown]
# Move `scale`, then `method` and `steps`. `fixed orthogonal` is a control: $\Delta W = D F$ like
# MiSS, with random orthonormal rows for $F$ in place of the copies. All four train 512 numbers.

# %%
print("W₀ times     σ    mean cosine   1/(1+σ²b)   rank   stable rank")
for scale, view in views.items():
    law = bat_cosine(view.sigma, 8)
    print(
        f"{scale:8g} {view.sigma:7.3f} {view.mean:10.2f} {law:12.2f} {view.rank:9} "
        f"{view.stable_rank:10.1f}"
    )

# %%
for step in (0, 1, 10, 100):
    print(panel.set(method="Bat", scale=1, steps=step).summary)
for method in ("MiSS", "fixed orthogonal", "LoRA"):
    print(panel.set(method=method, scale=1, steps=100).summary)
panel.set(method="Bat").pin("W₀ as it is").set(scale=4).state

# %% [markdown]
# ## Notice
#
# 1. **Bat separates its shards only as far as $W_0$ is large.** With $W_0$ as it is the mean cosine
#    is 0.86: nearly copies. With $W_0$ times 4 it is 0.31. (The panel now has the first in grey.)
# 2. **Training does not do it.** The mean cosine is 0.86 after the first step and after the last.
# 3. **Full rank is no sign of it.** Bat has rank 64 at every scale. With $W_0$ as it is, its stable
#    rank is 5.7; MiSS, of rank 8, has 4.9.
#
# At large scales the points lie a little above the dashed line. Is the law wrong, or is it this one
# network? Ten networks, each with its own data, start and Bat:


# %%
def interval(values):
    """Mean and 95 % interval over ten values (Student's t)."""
    values = torch.tensor(values, dtype=torch.float64)
    half = 2.262 * values.std() / len(values) ** 0.5
    return f"{values.mean():.3f} [{values.mean() - half:.3f}, {values.mean() + half:.3f}]"


networks = [mv.experiments.adapter_snapshots(mv.Bat(8), [100], seed=s)[100] for s in range(43, 53)]
over_networks = [ColinearityDisplay.over_scales(network, width=8) for network in networks]
for scale in (1, 4, 16):
    at_scale = [displays[scale] for displays in over_networks]
    laws = [bat_cosine(view.sigma, 8) for view in at_scale]
    print(
        f"W₀ times {scale:<3} mean cosine {interval([view.mean for view in at_scale])}, "
        f"law {sum(laws) / len(laws):.3f}"
    )

# %% [markdown]
# The law lies inside all three intervals: one network is above it, another below.
#
# ## Explain
#
# Let $S_i$ be shard $i$: the blocks $W_{oi} D_o + D_o$ for all $o$, below each other. The shards $i$
# and $j$ share every $D_o$; each has products $W_{oi} D_o$ of its own. Write
# $\|D\|^2 = \sum_o \|D_o\|^2$ and multiply out:
#
# $$\langle S_i, S_j \rangle = \|D\|^2 + \sum_o \big( \langle W_{oi} D_o, D_o \rangle
# + \langle D_o, W_{oj} D_o \rangle + \langle W_{oi} D_o, W_{oj} D_o \rangle \big)$$
#
# Suppose that the entries of $W_0$ are independent of each other and of $D$, with mean 0 and mean
# square $\sigma^2$. Then each of the last three terms has mean 0: $\|D\|^2$ is left. For $i = j$ one
# term more survives, $\sum_o \|W_{oi} D_o\|^2$. An entry of $W_{oi} D_o$ is a sum of $b$ products, so
# the mean of this term is $\sigma^2 b\, \|D\|^2$. Divide:
#
# $$\cos(S_i, S_j) \approx \frac{\|D\|^2}{\|D\|^2 + \sigma^2 b\, \|D\|^2} = \frac{1}{1 + \sigma^2 b}$$
#
# $D$ has dropped out. That is why training does not move the cosine, and why only $W_0$ does. With
# random $W_0$ and $D$, ten layers of 256 × 256 per line:


# %%
def random_bat(method, sigma, seed, size=256):
    """A Bat with random D on a layer with entries of N(0, σ²)."""
    generator = torch.Generator().manual_seed(seed)
    linear = torch.nn.Linear(size, size, bias=False).double()
    torch.nn.init.normal_(linear.weight, 0, sigma, generator=generator)
    adapter = method.on(linear)
    randomise(adapter, seed)
    return adapter


print("    σ    b   <S_i, S_j>/|D|²   |S_i|²/|D|²   1+σ²b   mean cosine            1/(1+σ²b)")
for sigma, b in ((0.02, 64), (0.1, 16), (0.3, 16), (1.0, 8)):
    shared, whole, cosines = [], [], []
    for seed in range(10):
        adapter = random_bat(mv.Bat(b), sigma, seed)
        delta, D = adapter.delta().detach(), adapter.D.detach()
        shards = torch.stack([shard.flatten() for shard in delta.split(b, dim=1)])
        products = shards @ shards.mT / D.square().sum()
        count = len(products)
        whole.append(float(products.diagonal().mean()))
        shared.append(float((products.sum() - products.trace()) / (count * (count - 1))))
        cosines.append(mean_cosine(shard_cosines(delta, b)))
    print(
        f"{sigma:5} {b:4} {sum(shared) / 10:12.3f} {sum(whole) / 10:16.3f} "
        f"{1 + sigma**2 * b:11.3f}   {interval(cosines)}   {bat_cosine(sigma, b):.3f}"
    )

# %% [markdown]
# **At the scale of language models.** Hugging Face's configurations of GPT-2 and Llama draw $W_0$ from
# $N(0, 0.02^2)$ (`initializer_range`). PEFT's default is $b = 64$. The first line above is that case:
# there Bat starts with shards that are nearly copies. Trained weights have a scale of their own;
# give the panel yours. On your own weight nothing is trained, so $D$ is random; by the law that does
# not matter. Here it is a layer as PyTorch makes it, with entries of variance $1/(3k)$:

# %%
fresh = torch.nn.utils.skip_init(torch.nn.Linear, 1024, 768)
bound = 1024**-0.5
torch.nn.init.uniform_(fresh.weight, -bound, bound, generator=torch.Generator().manual_seed(0))
own = mv.explore.colinearity(weight=fresh.weight)
for b in (16, 64, 256):
    print(f"σ = 0.02, b = {b:3}: {bat_cosine(0.02, b):.3f}; half at σ = {b**-0.5:.3f}")
own

# %% [markdown]
# *You can stop here: you know what Bat's shards have in common, and why. Below are three ideas that
# sound right and are not.*
#
# ### "Colinear shards mean rank 1"
#
# Take a MiSS with $r = 4$ and random $D$. Give the same $D$ to the control, with rows of the same
# length, $\sqrt{g} = \sqrt{64/4} = 4$ (its *gain*).

# %%
layer = torch.nn.Linear(64, 64, bias=False).double()
miss = mv.MiSS(4).on(layer)
randomise(miss)
twin = mv.FixedFactor(4, "orthogonal", gain=4).on(layer)
twin.D.data = miss.D.data.clone()
for adapter in (miss, twin):
    values = mv.spectrum(adapter)
    cosine = mean_cosine(shard_cosines(adapter.delta(), 4))
    first = ", ".join(f"{value:.3f}" for value in values[:5])
    print(f"{adapter.method.name:28} singular values {first}, …; mean cosine {cosine:.2f}")

# %% [markdown]
# The same rank, 4, and the same singular values; all cosines 1 on one side, about 0 on the other.
# Colinear says that the shards are equal. Rank says how many directions the columns *inside* a shard
# have. Neither tells the other.
#
# ### "Full rank is rich"
#
# Rank 64 of 64 sounds like full fine-tuning. Ask instead what share of a random target $M$ a
# method can be (`mv.reach`, closed form; lesson 02). $W_0$ is the network's, with ten random
# targets per line. The target has 64 × 64 numbers, and the last column is trained numbers / 4096.

# %%
W0 = bat.base.weight.detach().double()
print(f"{'':10}trained   rank   stable rank   share of M              trained/4096")
for method in (mv.MiSS(1), mv.Bat(1), mv.MiSS(8), mv.Bat(8)):
    layer.weight.data = W0
    adapter = method.on(layer)
    randomise(adapter)
    view = ColinearityDisplay.from_adapter(adapter, width=8)
    targets = [
        torch.randn(64, 64, generator=torch.Generator().manual_seed(s)).double() for s in range(10)
    ]
    shares = interval([mv.reach(method, M, base=W0) for M in targets])
    count = method.num_parameters(64, 64)
    print(
        f"{method.name:10}{count:7}{view.rank:7}{view.stable_rank:14.2f}   {shares}"
        f"{count / 4096:14.4f}"
    )

# %% [markdown]
# Bat with $b = 1$ has full rank with 64 numbers: row $o$ is $D_o$ times $(W_o + 1)$. It reaches as
# much of a random target as those 64 numbers allow, which is as much as MiSS of rank 1 does. The
# count of free numbers is the limit here; the rank is not.
#
# ### "There is one Bat"
#
# There are three. Besides PEFT's, RWKV-PEFT runs $W_{oi} D_i + D_i$, with one $D_i$ per shard; and
# the authors' flashbat has $D_o W_{oi} + D_o$. Column shards as above; a *row shard* is a slice of
# $b$ neighbouring rows.

# %%
print("                          mean cosine of column shards   of row shards          1/(1+σ²b)")
for method in (mv.Bat(8), mv.Bat(8, side="left"), mv.Bat(8, index="input")):
    for sigma in (0.02, 0.3):
        deltas = [random_bat(method, sigma, s, size=64).delta().detach() for s in range(10)]
        columns = interval([mean_cosine(shard_cosines(delta, 8)) for delta in deltas])
        rows = interval([mean_cosine(shard_cosines(delta.mT, 8)) for delta in deltas])
        law = bat_cosine(sigma, 8)
        print(f"{method.name:14} σ = {sigma:<6} {columns:>27} {rows:>24} {law:8.3f}")

# %% [markdown]
# <details><summary>Which Bat obeys the law, and why</summary>
#
# The left one too: $\|D_o W_{oi}\|^2$ has the same mean as $\|W_{oi} D_o\|^2$. In the input-indexed
# one two column shards have a different $D_i$ each, so that they share nothing if their $D_i$ don't:
# no scale of $W_0$ makes them copies. There the row shards share their $D$'s, and the law holds for
# those. The word *nonlinear*, which one reads about Bat, fits none of the three if it is meant of
# $D$: that is the second exercise.
#
# </details>
#
# ## Check
#
# **First exercise.** $W_0$ has independent entries with $\sigma = 0.25$, and $b = 64$. Which mean
# cosine do you expect? Write the law from the derivation, as a function; or replace
# `mean_cosine_of_bat` in the last line by your number.


# %%
def mean_cosine_of_bat(sigma, b):
    return ...


check.mean_cosine(mean_cosine_of_bat)

# %% [markdown]
# **Second exercise.** Is Bat linear in $D$? Write one block of $\Delta W$. The check calls it as
# $f(D)$ with $W_{oi}$ held fixed, and compares $f(2A - 3B)$ with $2 f(A) - 3 f(B)$ for random $A$
# and $B$. Say beforehand what you expect.


# %%
def bat_block(W_oi, D_o):
    return ...


check.bat_is_linear(bat_block)

# %% [markdown]
# ## What holds
#
# * MiSS's shards are copies at every scale: mean cosine 1, with a rank up to $r$.
# * Bat's have mean cosine $1/(1 + \sigma^2 b)$ where $W_0$ has independent entries: measured on random
#   layers, and on ten trained networks within what the table after *Notice* shows. A matrix with
#   structure can lie above or below it.
# * It takes $\sigma \approx 1/\sqrt{b}$ to bring it down to a half. Training $D$ does not.
# * Rank, stable rank, cosine and the count of trained numbers are four different things.
# * Nothing here says that separated shards learn better. That is a question for a race.
