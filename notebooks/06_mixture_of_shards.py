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
# # 06 · Mixture of shards: when should layers share?
#
# A model has many layers of the same shape. LoRA gives each of them numbers of its own. Could the
# layers train one common stock of numbers instead, and get more out of it? MoS (mixture of shards)
# does that, with several ways to keep the layers different. In this lesson you find out when that
# pays, and which of the ways pays.
#
# *About 30 minutes; under a minute of computing. Runs on a CPU. You need lessons 00 and 02. Paper:
# MoS (arXiv 2410.00938) §3; code: `modules/Tied_LoRA.py` in Forence1999/MoS.*
#
# | symbol | meaning |
# |---|---|
# | $L$ | number of layers of one shape $d \times k$; here 6, and 24 × 24 |
# | $e$ | budget: so many pairs of vectors per layer are trained. LoRA with $r = e$ has the same |
# | *pools* $P_A$, $P_B$ | what is trained: $e L$ vectors of length $k$, and $e L$ of length $d$ |
# | *pool shard* | a piece of a vector in a pool: each vector is cut into $l$ of them |
# | $I_A$, $I_B$ | each layer's list of the pool shards that it takes: $r$ vectors of $l$ shards |
# | $M_t$ | the update that layer $t$ wants; its *energy* is $\lVert M_t \rVert^2$ |
# | *share in reach* | the part of $\sum_t \lVert M_t \rVert^2$ that $\Delta W_1 \dots \Delta W_L$ can be at best |

# %%
import torch

import missviz as mv
from missviz import check
from missviz.analysis.sharing import Wiring, layer_targets, shared_reach, sharing_table, wired_reach
from missviz.analysis.sharing import curves_of
from missviz.randomness import generator_for
from missviz.testing import random_linear

# %% [markdown]
# ## Predict
#
# Six layers. Layer $t$ wants $M_t = \sqrt{c}\;\text{common} + \sqrt{1-c}\;\text{own}_t$: all parts are
# random, of rank 4 and energy 1. So $c$ says how alike the wanted updates are. At $c = 0$ two layers
# have nothing in common, at $c = 1$ all want the same. Everyone trains 576 numbers ($e = 2$):
#
# * **LoRA**: $r = 2$ on each layer;
# * **pure sharing**: all 12 pairs of the pool make one $\Delta W$ of rank 12, which all layers get;
# * **MoS**: each layer takes pieces from the pool, and has rank 4.

# %%
guess = mv.predict(
    "Which of the three has the largest share in reach?",
    [
        "LoRA at every c: a layer knows best what it wants",
        "pure sharing at every c: rank 12 against 2",
        "MoS at every c: it shares, and the layers still differ",
        "no one: it depends on c",
    ],
)
guess

# %% [markdown]
# ## Run
#
# On the left what the six layers want. In the middle the share in reach against $c$, on the right the
# same at one $c$. Between pure sharing and MoS there are three methods on the way: each line of the
# list adds one switch to the line before. Nothing is trained here. LoRA and pure sharing have a
# closed form. For the others the best numbers are searched for by least squares: the pool $P_B$ for
# a fixed $P_A$, then $P_A$ for this $P_B$, and so on. A search can miss the best, so those shares are
# **lower bounds**. Each is a mean over ten problems.

# %%
panel = mv.explore.sharing(alike=0.5, reveal=False)
panel

# %%
panel.reveal()
for c in (0, 0.5, 1):
    print(panel.set(alike=c).summary)

# %% [markdown]
# The picture is a stored run. The next cell computes it anew for five $c$, with other problems and
# other draws of $I_A$, $I_B$. (It searches from two starts, the stored run from four.)

# %%
e = 2
methods = {
    "LoRA": mv.LoRA(e),
    "pure sharing": mv.MoS(None, e, dissociate=False),
    "subset": mv.MoS(4, e, dissociate=False),
    "+ pairs apart": mv.MoS(4, e),
    "+ vectors cut": mv.MoS(4, e, shards_per_vector=2),
    "full MoS": mv.MoS(4, e, shards_per_vector=2, private=1),
}
seeds, alikes = range(10), [0, 0.2, 0.5, 0.8, 1]
table = sharing_table(methods, alikes, rank=4, seeds=seeds, starts=2)


def interval(values):
    """Mean and 95 % interval over ten values (Student's t), in percent."""
    values = 100 * torch.tensor(list(values), dtype=torch.float64)
    return f"{values.mean():5.1f} ± {2.262 * values.std() / len(values) ** 0.5:3.1f}"


def shares(name, c):
    return table[(table["method"] == name) & (table["alike"] == c)]["share"].to_numpy()


print("share in reach, %   " + "".join(f"c = {c:<10}" for c in alikes))
for name in methods:
    print(f"{name:18}" + "".join(f"{interval(shares(name, c)):>14}" for c in alikes))

# %%
means = curves_of(table).set_index(["alike", "method"])["mean"]
best = {c: means[c].idxmax() for c in alikes}
three = ["LoRA", "pure sharing", "full MoS"]
best_of_three = {c: means[c][three].idxmax() for c in alikes}
print("best of the six:", best)
guess.reveal(", ".join(f"c = {c:g}: {name}" for c, name in best_of_three.items()))

# %% [markdown]
# ## Notice
#
# 1. **Sharing is a bet that layers want the same.** With the same 576 numbers pure sharing reaches all
#    at $c = 1$, where LoRA reaches 50 %; at $c = 0$ it is 16 % against 50 %.
# 2. **MoS is a hedge, and a hedge has a price.** It is ahead of LoRA at both ends, by 2 points at
#    $c = 0$ and by 17 at $c = 1$, and about level at $c = 0.2$. It is 36 points ahead of pure sharing
#    at $c = 0$ and 33 behind at $c = 1$. From $c = 0.5$ on something simpler is better.
# 3. **Making layers differ does not always help.** Down the list from pure sharing the layers differ
#    more and more. At $c = 0$ that takes the share from 16 % to 52 %; at $c = 1$, from 100 % to 67 %,
#    and nearly all of it goes at one line: "+ vectors cut".
#
# ## Explain: what a layer takes
#
# Two layers, 4 × 4. Budget $e = 1$: two pairs in the pool. Each vector is cut into $l = 2$ shards, so
# there are four in each pool, of two numbers. To see which is which, shard $n$ of $P_A$ is filled with
# the digit $n$; in $P_B$ they are 1, 2, 3, 4 as well. Each layer takes one vector of two shards.


# %%
def model(layers, size):
    return torch.nn.ModuleList(random_linear(size, size, torch.float64) for _ in range(layers))


small = mv.attach(model(2, 4), mv.MoS(1, 1, shards_per_vector=2), seed=0)
digits = torch.arange(1.0, 5).double()[:, None].expand(4, 2)
small[0].P_A.data, small[0].P_B.data = digits.clone(), digits.clone()
print(
    "P_A =", small[0].P_A.tolist(), "  the same pool in both layers:", small[0].P_A is small[1].P_A
)
for t, adapter in enumerate(small):
    B, A = adapter.factors()
    print(
        f"\nlayer {t} takes shards {(adapter.I_A + 1).tolist()[0]} of P_A and {(adapter.I_B + 1).tolist()[0]} of P_B"
    )
    print(f"A = {A.int().tolist()[0]}, Bᵀ = {B.mT.int().tolist()[0]}, ΔW = B A =")
    print(adapter.delta().int().numpy())

# %% [markdown]
# Shard 4 of $P_A$ is in both layers. If layer 0 trains it, layer 1 changes too. Below, one step of SGD
# follows a loss that sees layer 0 alone. LoRA beside it.


# %%
def step_through_layer_0(method):
    """Which layers one gradient step through layer 0 moves, and what training may change."""
    layers = mv.attach(model(2, 24), method, seed=0)
    mv.testing.randomise(layers, std=0.1)
    before = [adapter.delta().detach().clone() for adapter in layers]
    wanted = layer_targets(0.5, layers=2, generator=generator_for(0))
    optimiser = torch.optim.SGD(layers.parameters(), lr=1.0)
    (wanted[0] - layers[0].delta()).square().sum().backward()
    optimiser.step()
    after = [adapter.delta().detach() for adapter in layers]
    return layers, [float((new - old).norm()) for new, old in zip(after, before, strict=True)]


for method in (mv.LoRA(2), mv.MoS(3, 2), mv.MoS(3, 2, private=1), mv.MoS(2, 2, private=2)):
    layers, moved = step_through_layer_0(method)
    trained = sum(p.numel() for p in layers.parameters() if p.requires_grad)
    print(
        f"{method.name:16} trained numbers {trained}; ‖change of ΔW‖ {moved[0]:.4f} and {moved[1]:.4f}"
    )

# %% [markdown]
# **Nothing learns where to route.** "Mixture" sounds like a mixture of experts, with a router that
# sends each input somewhere. Here $I_A$ and $I_B$ are drawn once, before training, and are the same for
# every input: a layer is one matrix $\Delta W$, as with LoRA. What is trained, and what is not:

# %%
layers, _ = step_through_layer_0(mv.MoS(3, 2))
drawn = Wiring.of(mv.MoS(3, 2), 2, 24, 24, seed=0)
print("trained:", [name for name, p in layers[0].named_parameters() if p.requires_grad])
print("fixed:  ", [name for name, _ in layers[0].named_buffers()], layers[0].I_A.dtype)
print("indices after the step as drawn:", torch.equal(layers[0].I_A, drawn.I_A[0]))

# %% [markdown]
# *You can stop here: you know what MoS is, and what its bet is. Below: why the lines run as they do,
# and which of the switches earns its place.*
#
# ## Why
#
# **Pure sharing.** One $\Delta W$ for all layers can at best be the mean of the $M_t$. The mean keeps
# the common part, and of the own parts $1/L$ of their energy (six random directions cancel, mostly).
# So it reaches $c + (1-c)/L$, as long as its rank $eL$ is enough.

# %%
print("   c   pure sharing, %   c + (1−c)/L       LoRA, %   r/4")
for c in alikes:
    print(
        f"{c:4}   {interval(shares('pure sharing', c))}{100 * (c + (1 - c) / 6):14.1f}"
        f"{interval(shares('LoRA', c)):>20}   {100 * 2 / 4:.0f}"
    )

# %% [markdown]
# **LoRA** gets 2 of 4 equal singular values where $M_t$ has rank 4, at both ends. In between $M_t$ is a
# sum of two parts and has rank 8: less of it fits into rank 2.
#
# **Which switch helps where?** The same problems and seeds, so the differences are paired: a method
# minus the line above it.

# %%
steps = ["subset", "+ pairs apart", "+ vectors cut", "full MoS"]
print("gain in points       " + "".join(f"c = {c:<10}" for c in alikes))
for before, after in zip(["pure sharing", *steps], steps, strict=False):
    gains = [interval(shares(after, c) - shares(before, c)) for c in alikes]
    print(f"{after:18}" + "".join(f"{gain:>14}" for gain in gains))

# %% [markdown]
# * **Subset** and **pairs apart** help where layers differ. Where they agree the first costs a few
#   points. The second, as far as can be told, costs nothing: its interval contains zero from
#   $c = 0.2$ on.
# * **Cutting vectors** gains nothing that can be told from zero at $c = 0$, and costs a third of
#   everything at $c = 1$.
# * **Private shards** help by about 4 points at every $c$, even at $c = 1$.
#
# **Why does cutting cost?** A guess: a pool shard has no place of its own. One layer takes it as
# the first half of a vector, another as the second half. If all layers want the same, each half of
# the vectors should serve one half of $M$, and a shard in both places serves neither. If the guess is
# right, part of the loss must come back when half of the shards are kept for first places and half for
# second ones. The numbers trained stay as many.


# %%
def with_places(seed):
    """As for MoS(4, 2, shards_per_vector=2), but half of the 24 shards serve first places only."""
    generator = generator_for("places", seed)

    def draw():
        order = [torch.randperm(12, generator=generator)[:4] + 12 * place for place in (0, 1)]
        return torch.stack(order, dim=-1)

    I_A, I_B = (torch.stack([draw() for _ in range(6)]) for _ in range(2))
    return Wiring(I_A, I_B, shards=24)


cut = mv.MoS(4, e, shards_per_vector=2)
free = [Wiring.of(cut, 6, 24, 24, seed=seed) for seed in seeds]
placed = [with_places(seed) for seed in seeds]
for c in (0, 0.5, 1):
    wanted = torch.stack([layer_targets(c, generator=generator_for("layers", n)) for n in seeds])
    found = [wired_reach(wanted, wirings, starts=2) for wirings in (free, placed)]
    print(
        f"c = {c:<4} cut: {interval(found[0])}   cut, each shard with a place: {interval(found[1])}"
        f"   not cut: {interval(shares('+ pairs apart', c))}"
    )

# %% [markdown]
# At $c = 1$ about half of the loss comes back. So the guess holds, and is not all of it. It suggests
# another mixture: keep private shards, which help everywhere, and cut nothing.

# %%
hedges = {
    "private, cut (MoS)": methods["full MoS"],
    "private, not cut": mv.MoS(4, e, private=1),
    "private, not cut, pairs kept": mv.MoS(4, e, private=1, dissociate=False),
}
print("share in reach, %              c = 0         c = 0.5       c = 1        numbers")
for name, method in hedges.items():
    found = []
    for c in (0, 0.5, 1):
        wanted = torch.stack(
            [layer_targets(c, generator=generator_for("layers", n)) for n in seeds]
        )
        found.append(shared_reach(method, wanted, seeds=seeds, starts=2))
    print(
        f"{name:30}" + "".join(f"{interval(f):14}" for f in found),
        6 * method.num_parameters(24, 24),
    )

# %% [markdown]
# Without the cuts, the same numbers are better at $c = 0.5$ and at $c = 1$ by far more than the
# intervals, and about as good at $c = 0$. This says what such pools *can* be. What training finds, and
# on real layers, is another question: the paper's case for cutting vectors is made there.
#
# **Does that hold for other targets?** Not all of it. Let the layers want more than they can have:
# rank 8 in place of 4, with the same budget.

# %%
chain = {name: methods[name] for name in ("subset", "+ pairs apart", "+ vectors cut")}
richer = sharing_table(chain, [0, 0.5], rank=8, seeds=seeds, starts=2)
richer = richer.set_index(["method", "alike"])["share"]
print("gain in points       c = 0         c = 0.5          (the layers want rank 8)")
for before, after in zip(chain, list(chain)[1:], strict=False):
    gains = [richer[after, c].to_numpy() - richer[before, c].to_numpy() for c in (0, 0.5)]
    print(f"{after:18}" + "".join(f"{interval(gain):>14}" for gain in gains))

# %% [markdown]
# Now both switches gain where layers differ, and both cost where they agree half: pair dissociation
# too, of which the table above could not tell. Move `budget` and `wanted` in the panel: which method
# is best changes with both.
#
# <details><summary>How good is the search?</summary>
#
# For LoRA and for pure sharing it finds the closed forms: tests hold it to that. For the others it
# ends in different places from different starts. Give `shared_reach` more `starts` and `steps`, and
# see by how much the shares rise. Only upwards: they are lower bounds.
#
# </details>
#
# ## Check
#
# **First exercise.** How many numbers does MoS train on $L$ layers of $d \times k$ all together, with
# budget $e$, rank $r$ and `pieces` $= l$ shards per vector?


# %%
def pool_size(e, L, r, pieces, d, k):
    return ...


check.pool_size(pool_size)

# %% [markdown]
# **Second exercise.** You have LoRA adapters on $L$ layers and know what share of the wanted updates
# they reach. From which $c$ on does pure sharing reach as much? Its rank is no limit here.


# %%
def break_even(share, L):
    return ...


check.break_even(break_even)

# %% [markdown]
# ## What holds
#
# * With equal numbers, one update for all layers reaches $c + (1-c)/L$ of what they want, as long as
#   its rank is enough. LoRA's share depends little on $c$. So there is a $c$ from which on sharing
#   wins, and below it sharing loses.
# * MoS hedges. Its layers have rank $r > e$, from pools of LoRA's size, with indices that are drawn
#   once. Nothing routes.
# * What makes layers differ gains where they differ, or nothing, and costs where they agree, or
#   nothing: subset selection, pair dissociation and, by far the dearest here, cutting vectors. Private
#   shards alone gained at every $c$ that was measured.
# * All of this is reach, by search, for random targets with equal singular values on six small layers.
#   It does not say how alike the updates of real layers are. Nor does it say how MoS does in training.
