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
# # 00 · Start here: what is an update?
#
# Fine-tuning takes a trained weight matrix $W_0$ and ends at another, $W_0 + \Delta W$.
# A *method* (LoRA, MiSS, Bat, …) is nothing but a rule that builds $\Delta W$ from a few numbers.
# In this lesson you look at such matrices, cell by cell.
#
# *About 15 minutes. Runs on a CPU. You need matrices and a little PyTorch; nothing about
# fine-tuning. Papers: LoRA Eq. 3, MiSS (arXiv 2409.15371v12) Eq. 1 and 4. Run one cell at a time
# (Shift-Enter), and choose an answer before you go on.*
#
# | symbol | meaning |
# |---|---|
# | $W_0$ | the frozen weight of a linear layer, $d \times k$: `out_features` × `in_features` |
# | $\Delta W$ | the update, $d \times k$; the layer computes $y = (W_0 + \Delta W)\,x$ + bias |
# | $d$, $k$ | `out_features`, `in_features` |
# | $r$ | the rank, or the number of different columns in MiSS |
# | $A$, $B$ | LoRA's two factors, $r \times k$ and $d \times r$ |
# | $D$ | the small trained matrix of MiSS ($d \times r$) and Bat |
# | $T$ | the fixed 0/1 matrix ($r \times k$) that copies columns of $D$ |
# | $F$ | any fixed right factor, $r \times k$; $T$ is one |
# | $S$ | sums of slices of $x$, one per column of $D$ |
# | $g$ | $k/r$, how often a column of $D$ is copied |
# | $b$ | Bat's block size |

# %%
import torch

import missviz as mv
from missviz import check

generator = torch.Generator().manual_seed(0)
layer = torch.nn.Linear(8, 8)
with torch.no_grad():
    layer.weight.normal_(0, 0.35, generator=generator)
    layer.bias.zero_()

# %% [markdown]
# ## Predict
#
# A LoRA of rank 1 on this 8 × 8 layer trains one column $B$ and one row $A$: 16 numbers.
# Its update $\Delta W = BA$ has 64 cells.

# %%
guess = mv.predict(
    "Look at one row of LoRA's ΔW at rank 1. How does it relate to the other rows?",
    [
        "They have nothing in common",
        "Every row is a multiple of every other",
        "All rows are equal",
        "Most rows are zero",
    ],
)
guess

# %% [markdown]
# ## Run
#
# A method has no numbers of its own until it is put on a layer: `method.on(layer)` is an
# *adapter*. Every method here starts with $\Delta W = 0$, so nothing would be seen. We give the
# trained numbers random values, larger than training would, so that one sees them.


# %%
def trained_a_bit(method):
    """An adapter on our layer whose trainable numbers were moved off their start."""
    adapter = method.on(layer, generator=torch.Generator().manual_seed(1))
    mv.testing.randomise(adapter, std=0.9)
    return adapter


lora = trained_a_bit(mv.LoRA(rank=1))
mv.displays.UpdateDisplay.from_adapter(lora, limit=2.0).plot()

# %%
rows = lora.delta().detach()
multiples = rows[:, :1] / rows[0, 0]
error = (rows - multiples * rows[0]).abs().max().item()
guess.reveal(
    "every row is a multiple of the first: "
    + ", ".join(f"{multiple:+.2f}" for multiple in multiples.flatten().tolist())
    + f" (error {error:.0e})"
)

# %% [markdown]
# ## Notice
#
# Other rules, on a layer of the same size. Move the controls (the arrow keys work too), and look
# for what repeats. Try MiSS at rank 3, which does not divide 8, and Bat at rank 3.

# %%
panel = mv.explore.update(method="MiSS", rank=2)
panel

# %%
for rule in ("LoRA", "MiSS", "columns", "Bat"):
    print(panel.set(method=rule, rank=2).summary)
panel.set(method="MiSS", rank=2).state  # the line of code that opens this view again

# %%
print(f"{'method':22}{'trained numbers':>16}{'different values in ΔW':>25}{'rank of ΔW':>13}")
for method in [
    mv.LoRA(1),
    mv.MiSS(2),
    mv.FixedFactor(2, "columns"),
    mv.Bat(2),
    mv.FullFineTuning(),
]:
    delta = trained_a_bit(method).delta().detach()
    values = len(delta.mul(1e5).round().unique())
    rank = int(torch.linalg.matrix_rank(delta, rtol=1e-5))
    print(f"{method.name:22}{method.num_parameters(8, 8):16}{values:25}{rank:13}")

# %% [markdown]
# * MiSS (Eq. 4) copies the columns of a small $D$: counted from 0, column $j$ of $\Delta W$ is
#   column $j \bmod r$ of $D$. The panel shows it, and the table agrees: as many different values as trained numbers.
# * "Columns" trains two columns and leaves the others at zero (16 values and the zero make 17). It
#   has MiSS's budget, MiSS's rank and MiSS's form $D F$, with another $F$.
# * Bat makes each $b \times b$ block of $\Delta W$ from the same block of $W_0$: block · $D$ + $D$.
#   Nothing repeats, and its rank is the highest of the four small ones, with the same 16 numbers.
#   More rank, no more freedom: lesson 02 is about that difference.
#
# *You can stop here. What follows shows that an adapter is not an extra network.*
#
# ## Explain
#
# While training, the layer computes $W_0 x$ + bias and adds $\Delta W x$, by whatever way is
# cheapest. That looks like a second network beside the first. It is not one: $W_0 + \Delta W$ is a
# matrix of the old shape, and `merge` puts it there.

# %%
model = torch.nn.Sequential(layer, torch.nn.ReLU(), torch.nn.Linear(8, 4))
attached = mv.attach(model, mv.MiSS(rank=2), targets="0")
mv.testing.randomise(attached, std=0.6)
merged = mv.merge(attached)
x = torch.randn(5, 8, generator=generator)
print("with adapter, a", type(attached[0]).__name__, "· merged, a", type(merged[0]).__name__)
print(f"largest difference in output: {(attached(x) - merged(x)).abs().max().item():.0e}")
print(
    "taken off again, W₀ is bit for bit:", torch.equal(mv.detach(attached)[0].weight, layer.weight)
)

# %% [markdown]
# <details><summary>Where do the names come from?</summary>
#
# MiSS was called Bone, then DiSHA; and "Bone" once meant today's Bat. The table of dates is in
# `help(mv.Bone)`. What this course calls a *shard* is a slice of $W$; a *copy* of $D$ is a copy.
#
# </details>
#
# ## Check
#
# Write LoRA's update in one line. $A$ is $r \times k$, $B$ is $d \times r$, and `alpha` is the
# $\alpha$ of the scaling $s = \alpha / r$. Replace the three dots.


# %%
def lora_delta(A, B, alpha):
    return ...


check.lora_delta(lora_delta)

# %% [markdown]
# ## Before lesson 05: your bet
#
# The MiSS paper lets methods race: a small network that knows $\sin 2\pi x$ is adapted to
# $\sin 2\pi x + 0.3 \cos 3\pi x$, each method with the same learning rate. PiSSA is a LoRA whose
# $A$ and $B$ start at the largest singular directions of $W_0$; they are taken off $W_0$, so that
# $\Delta W = 0$ at first all the same. The race is run in the next cell, and its curves stay hidden
# until lesson 05.

# %%
runs = mv.experiments.no_free_lunch([mv.LoRA(2), mv.PiSSA(2), mv.MiSS(4)], "published", seeds=10)
mv.displays.RaceDisplay.from_runs(runs, "train").plot(reveal=False)

# %%
bet = mv.predict(
    "Which ends with the lowest training loss, and does it also have the lowest validation loss?",
    [
        "LoRA, and yes",
        "LoRA, but no",
        "PiSSA, and yes",
        "PiSSA, but no",
        "MiSS, and yes",
        "MiSS, but no",
    ],
)
bet
