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
# # 02 · Rank and reach: which updates can a method reach?
#
# Suppose that you knew the update $M$ that solves your task. Some methods can be exactly $M$. Others
# cannot come near it, however long they are trained. In this lesson you find out which, before any
# network is trained, and see that the *rank* of a method does not tell.
#
# *About 30 minutes; a few seconds of computing. Runs on a CPU. You need lesson 00 and its table of
# symbols. Papers: LoRA Eq. 3, MiSS (arXiv 2409.15371v12) Eq. 4–7, PiSSA §3.*
#
# | word | meaning |
# |---|---|
# | *singular values* | $\sigma_1 \ge \sigma_2 \ge \dots$, how much a matrix stretches along its directions |
# | *rank* | how many of them are not zero |
# | *energy* | $\lVert M \rVert^2$, the sum of all squared entries; it equals $\sum \sigma_n^2$ |
# | *stable rank* | $\sum \sigma_n^2 / \sigma_1^2$: near 1 if one direction has nearly all energy |
# | *reach* | the largest share of $M$'s energy that $\Delta W$ can be: $\max\, 1 - \lVert M - \Delta W \rVert^2 / \lVert M \rVert^2$ |

# %%
import torch

import missviz as mv
from missviz import check

generator = torch.Generator().manual_seed(0)


def random(*shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


W0 = random(24, 24) / 24**0.5
layer = torch.nn.Linear(24, 24, bias=False).double()
layer.weight.data = W0

# %% [markdown]
# ## Predict
#
# $M = u v^\top$ is one column times one row: rank 1. MiSS with $r = 4$ trains 96 numbers on this
# 24 × 24 layer, and its $\Delta W$ can have rank 4.

# %%
guess = mv.predict(
    "How much of the energy of a rank-1 M can MiSS r=4 be, at best?",
    [
        "All of it: rank 4 is more than rank 1",
        "About 4/24 of it, whatever M is",
        "Nothing",
        "Anything from nothing to all; it depends on M",
    ],
)
guess

# %% [markdown]
# ## Run
#
# On the left a target $M$. In the middle its reach against the number of trained numbers, one line
# per method, with a marker at the present rank; dotted is numbers / 576 cells. On the right the reach
# of each method at that rank. ("Columns" and "orthogonal" are $\Delta W = D F$ with another fixed
# $F$. For Bat the rank is its block size.) At equal rank LoRA and PiSSA train twice as many numbers as
# the others. All is computed in closed form by `mv.reach`. Look at $M$, guess the bars, then run the
# next cell.

# %%
panel = mv.explore.reach(target="rank one", rank=4, reveal=False)
panel

# %%
panel.reveal()
for target in ("rank one", "invisible to MiSS", "periodic"):
    print(panel.set(target=target).summary)

# %%
miss = mv.MiSS(4)
chance = torch.tensor([mv.reach(miss, torch.outer(random(24), random(24))) for _ in range(200)])
signs = torch.tensor([1.0, 1, 1, 1, -1, -1, -1, -1], dtype=torch.float64).repeat(3)
invisible = torch.outer(random(24), signs)
repeating = torch.outer(random(24), random(4).repeat(6))
guess.reveal(
    f"it depends on M. 200 random ones: {chance.min():.1%} to {chance.max():.1%}, mean "
    f"{chance.mean():.1%}. One whose row changes sign every 4 columns: "
    f"{mv.reach(miss, invisible):.0%}. One whose row repeats every 4: {mv.reach(miss, repeating):.0%}"
)

# %% [markdown]
# Move the target and the rank in the panel above. Then hold the methods side by side.
# `directions` counts in how many independent ways a small step of the trained numbers can change
# $\Delta W$. The last column is the mean reach of 40 random $M$, entries independent and normal,
# with a 95 % interval. Every $M$ has half the norm of $W_0$.


# %%
def with_norm(M):
    return M * (0.5 * W0.norm() / M.norm())


def directions(adapter):
    """Rank of the derivative of all 576 cells of ΔW with respect to the trained numbers."""
    trained = {name: p for name, p in adapter.named_parameters() if p.requires_grad}
    cells = torch.func.jacrev(
        lambda state: torch.func.functional_call(adapter, state, torch.eye(24).double())
    )(trained)
    return int(torch.linalg.matrix_rank(torch.cat([c.reshape(576, -1) for c in cells.values()], 1)))


periodic = with_norm(random(24, 4).repeat(1, 6))
dense = [with_norm(random(24, 24)) for _ in range(40)]
methods = [mv.LoRA(2), mv.PiSSA(2), mv.MiSS(4), mv.FixedFactor(4, "orthogonal"), mv.Bat(4)]
methods += [mv.LoRA(4), mv.PiSSA(4)]
of_dense = {m.name: torch.tensor([mv.reach(m, M, W0) for M in dense]) for m in methods}
print("                     trained  direc-  rank (stable)   reach of M")
print("                     numbers  tions   of ΔW           invisible  periodic  random")
for method in methods:
    adapter = method.on(layer)
    mv.testing.randomise(adapter)  # stands in for training
    sigma = mv.spectrum(adapter)
    rank = int((sigma > 1e-10 * sigma[0]).sum())
    shares = of_dense[method.name]
    print(
        f"{method.name:21}{method.num_parameters(24, 24):7}{directions(adapter):8}{rank:6}"
        f" ({sigma.square().sum() / sigma[0] ** 2:.1f})"
        f"{mv.reach(method, with_norm(invisible), W0):13.0%}{mv.reach(method, periodic, W0):11.0%}"
        f"{shares.mean():9.1%} ± {2.02 * shares.std() / 40**0.5:.1%}"
    )
print(f"96 numbers of 576 cells: {96 / 576:.1%}")

# %%
print("reach of the periodic M (its columns repeat every 4), by the rank of MiSS:")
for r in (1, 2, 3, 4, 5, 6, 8, 12):
    print(f"   r={r:<3}{24 * r:4} trained numbers  {mv.reach(mv.MiSS(r), periodic):7.1%}")

# %% [markdown]
# ## Notice
#
# 1. **Rank is not reach.** With the same 96 numbers, MiSS r=4 gets 0 % of a target of rank 1 and
#    100 % of one of rank 4. LoRA r=2 gets 100 % of the first, and misses nearly a third of the
#    second.
# 2. **Full rank is not capacity.** Bat's $\Delta W$ has rank 24 of 24. Of a random $M$ it gets what
#    MiSS gets, and what a frozen random factor gets: about 96/576, a sixth. It has 96 numbers, so its
#    updates form a space of 96 dimensions out of 576.
# 3. **More numbers may reach less.** From r=4 to r=5 MiSS falls from 100 % to less than a third. The
#    updates of r=5 do not contain those of r=4: its columns repeat every 5.
#
# LoRA does better on random targets than its number of directions says. It is no fixed space: it may
# choose its directions after seeing $M$, and takes the largest singular values.
#
# ## Explain
#
# Tiled MiSS is $\Delta W = D\,T$, where $T$ (4 × 24) copies: columns $j, j+4, j+8, \dots$ of
# $\Delta W$ are equal. The best that equal columns can do is the mean of the columns that they stand
# for. That is $D = M T^\top / g$, and $\Delta W = M P$ with $P = T^\top T / g$, a projection. So for
# $M = u v^\top$ the reach is $\lVert P v \rVert^2 / \lVert v \rVert^2$: only the *group sums* of $v$
# count (the $S$ of Eq. 5–7, with $v$ for $x$). A random $v$ keeps 4/24 on average. (In the panel, put
# "invisible to MiSS" at rank 8, then at 12. Why all, then nothing? Look at the row's period.) Does
# training find more than the formula?

# %%
T = torch.eye(4, dtype=torch.float64).repeat(1, 6)
for name, M in (("random", dense[0]), ("periodic", periodic), ("invisible", invisible)):
    by_formula = 1 - (M - M @ T.T @ T / 6).square().sum() / M.square().sum()
    adapter = miss.on(layer)
    for _ in range(200):
        missed = (M - adapter.delta()).square().sum()
        (gradient,) = torch.autograd.grad(missed, adapter.D)
        adapter.D.data -= 0.05 * gradient
    trained = 1 - missed.item() / M.square().sum()
    print(f"{name:10} formula {by_formula:7.2%}   trained {trained:7.2%}")
print("group sums of the row of the invisible M:", (T @ signs).tolist())

# %% [markdown]
# *You can stop here. What follows looks at the singular values of updates that were trained.*
#
# ## Does copying add rank? And does PiSSA's 2r?
#
# A copy of $D$ is 4 columns wide and stands 16 times in a 64 × 64 layer. Guess before you run: is the
# rank of $\Delta W$ then 4, or 64? The panel shows a real run, the published race of lesson 05 at one
# seed. Left: singular values of $W_0$, of $\Delta W$, of $W_0 + \Delta W$, and of $D$ alone. Right:
# what share of the energy the first $n$ of them have. What lies in the grey band is zero, up to
# rounding. Move the steps, then the method.

# %%
spectra = mv.explore.rank(method="MiSS", rank=4, steps=0)
spectra

# %%
for method, steps in (("MiSS", 0), ("MiSS", 1), ("MiSS", 100), ("PiSSA", 100), ("Bat", 100)):
    print(spectra.set(method=method, steps=steps).summary)

# %%
for k in (64, 10):
    adapter = mv.MiSS(4).on(torch.nn.Linear(k, 20).double())
    mv.testing.randomise(adapter)
    copies = torch.bincount(torch.arange(k) % 4)  # of each column of D
    ratio = (mv.spectrum(adapter)[:4] / mv.spectrum(adapter.D)).tolist()
    exact = mv.spectrum(adapter.D * copies.double().sqrt())
    print(f"k={k}: copies {copies.tolist()}, σ(ΔW)/σ(D) =", ", ".join(f"{q:.3f}" for q in ratio))
    error = (mv.spectrum(adapter)[:4] - exact).abs().max()
    print(f"      σ(ΔW) against σ(D √copies): largest difference {error:.0e}")

# %%
gap = of_dense["LoRA r=4"] - of_dense["PiSSA r=4"]
print(f"40 random M: LoRA r=4 minus PiSSA r=4, {gap.mean():.1%} [{gap.min():.1%}, {gap.max():.1%}]")
for size in (0.01, 0.1, 0.5, 2, 10):
    share = sum(mv.reach(mv.PiSSA(4), M * size / 0.5, W0) for M in dense) / 40
    print(f"‖M‖ = {size:<4} ‖W₀‖: PiSSA r=4 reaches {share:.1%}")
print(f"its directions over all cells: {176 / 576:.1%}")
mv.explore.reach(target="one of PiSSA's", rank=4)

# %% [markdown]
# * **Copying adds no rank.** $\Delta W$ has the rank of $D$. What copying adds is gain:
#   $\sigma(\Delta W) = \sqrt{g}\,\sigma(D)$, here $\sqrt{16} = 4$ at every step and for every $n$. Where $r$
#   does not divide $k$, some columns are copied once more, and $D$'s columns are weighted by
#   $\sqrt{\text{copies}}$ first.
# * **Rank $2r$ is not twice as much.** PiSSA's $\Delta W = s(BA - B_0 A_0)$ has rank 8 at $r = 4$,
#   with the numbers and the directions of LoRA r=4. But half of that rank is $-B_0 A_0$, which is given.
#   The smaller $M$ is beside $W_0$, the less of it PiSSA reaches: what is left is its number of
#   directions. Of the panel's nine targets it is ahead of LoRA on one: an update of its own, shown here.
# * **Bat's rank is thin.** All 64 singular values are above zero, and its stable rank is 3: look at the
#   jump after the fourth. The tail is what $W_0$ adds to a tiled update.
#
# <details><summary>Is reach what counts in training, then?</summary>
#
# Reach is an upper bound. A method may fail to find what it could be (a wrong learning rate), and the
# loss may care about few of $M$'s directions only: inputs that never occur need no right answer. And
# nobody knows $M$ beforehand. What reach gives is a reason for who wins on targets of a known kind;
# lesson 05 trains on such targets.
#
# </details>
#
# <details><summary>Your own weight</summary>
#
# `mv.explore.rank(weight=model.lm_head.weight)` shows the same for a weight of yours, also from a
# `.npy` or `.safetensors` file. Nothing is trained there: random numbers stand in.
#
# </details>
#
# ## Check
#
# Build a matrix $M$, 64 × 64 and of rank 1, that `MiSS(4)` cannot touch: its reach is zero. There are
# many. Replace the dots, and keep $u$.

# %%
u = random(64)
M = ...

check.target_miss_cannot_touch(M)

# %% [markdown]
# ## What holds
#
# * Reach can be computed before training, from the structure of $\Delta W$ alone.
# * For methods that are linear in their trained numbers (MiSS, Bat, every $D F$ with $F$ fixed), the
#   reach of a random target is the number of directions over the number of cells, on average. Rank
#   plays no part in it.
# * Which target is reached beyond that depends on the structure: periodic columns for tiled MiSS, few
#   columns for "columns", few singular directions for LoRA. On real layers nobody knows
#   beforehand which of them $M$ is like.
