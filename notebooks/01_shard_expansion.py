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
# # 01 · Shard expansion: what does copying D do?
#
# MiSS trains a small matrix $D$ and copies it until it has the shape of $W_0$:
# $\Delta W = \mathrm{expand}(D)$ (Eq. 2 of the paper, arXiv 2409.15371v12). That looks like a waste
# of cells. This lesson shows what the copies do to $y = \Delta W x$, and why nobody has to make them.
#
# *About 25 minutes. Runs on a CPU, in seconds. You need lesson 00, and its table of symbols: $d$ and
# $k$ are `out_features` and `in_features`, $r$ is the number of columns of $D$, $g = k/r$.
# Paper: Eq. 2-7, Figure 3.*

# %%
import time

import torch

import missviz as mv
from missviz import check


def trained_a_bit(method, out_features, in_features):
    """An adapter in float64 whose D was moved off its start, which is 0."""
    layer = torch.nn.Linear(in_features, out_features, bias=False, dtype=torch.float64)
    adapter = method.on(layer)
    mv.testing.randomise(adapter, std=0.5)
    return adapter


# %% [markdown]
# ## Predict
#
# A layer with 8 inputs and 8 outputs, and MiSS with $r = 2$. $D$ has two columns, $D_0$ and $D_1$
# (we count from 0). $\Delta W$ is $D$ next to itself, four times: its columns are
# $D_0\, D_1\, D_0\, D_1\, D_0\, D_1\, D_0\, D_1$. In the picture each place of $x$ has the colour of
# the column of $D$ that it meets. $S$ (see below), $\Delta W$ and $y$ are hidden.

# %%
panel = mv.explore.expansion(size=8, rank=2, layout="tiled", trace=0, reveal=False)
panel

# %%
guess = mv.predict(
    "All 64 cells of ΔW take part in y = ΔW x. Somebody swaps x₀ and x₂. What happens to y?",
    [
        "Nothing",
        "Two numbers of y swap places",
        "Every number of y changes",
        "It depends on D",
    ],
)
guess

# %% [markdown]
# ## Run
#
# The next cell shows what was hidden in the picture above, and swaps.

# %%
panel.reveal()
adapter = trained_a_bit(mv.MiSS(rank=2), 8, 8)
x = torch.tensor([1, 2, -2, 1, -2, -3, 1, 3], dtype=torch.float64)
y = adapter.delta() @ x


def change_of_y(order):
    """The largest change in y when x is put into another order."""
    return (adapter.delta() @ x[order] - y).abs().max().item()


swapped = change_of_y([2, 1, 0, 3, 4, 5, 6, 7])
neighbours = change_of_y([1, 0, 2, 3, 4, 5, 6, 7])
blocks = change_of_y([6, 7, 0, 1, 4, 5, 2, 3])
print(guess.reveal(f"nothing: y changes by {swapped:.0e} (rounding)"))
print(f"swap x₀ and x₁ instead:               y changes by {neighbours:.1f}")
print(f"put the four pairs in another order:  y changes by {blocks:.0e}")

# %% [markdown]
# $x_0$ and $x_2$ meet the same column, so $y = D_0 x_0 + D_1 x_1 + D_0 x_2 + \dots =
# D_0 (x_0 + x_2 + x_4 + x_6) + D_1 (x_1 + x_3 + x_5 + x_7)$. The two sums in brackets are all that
# $y$ ever sees of $x$. They are called $S$, the *shard sums* (Eq. 5):
#
# $$S = \sum_{i=1}^{g} x_{[(i-1)r\,:\,ir]}, \qquad \Delta W x = D\,S \qquad \text{(Eq. 6-7)}$$
#
# On the left of the picture is that short way: $S$ above $D$, and $D S$ beside it. On the right is the
# long way. The two columns of $y$ are the same numbers.
#
# ## Notice
#
# Move the controls of the panel (the arrow keys work too). `trace` picks a column of $\Delta W$: its
# copies are outlined, and with them what is summed. Find a rank that does not divide 8. Then
# compare the layouts. "tiled" is the one above; "block" puts all copies of a column side by side;
# "rows" copies rows of $D$ instead. Here are four settings in words.

# %%
for rank, layout in ((2, "tiled"), (3, "tiled"), (2, "block"), (2, "rows")):
    print(panel.set(rank=rank, layout=layout, trace=5).summary)
panel.set(rank=2, layout="tiled", trace=5).state  # the line of code that opens this view again

# %%
methods = {
    "tiled, r = 2": mv.MiSS(2),
    "tiled, r = 3": mv.MiSS(3),
    "block, r = 2": mv.MiSS(2, layout="block"),
    "rows,  N = 2": mv.MiSS(2, share="rows"),
}
print(f"{'':14}{'copies of each column of D':>28}{'different numbers in y':>25}{'y[0]':>8}")
for label, method in methods.items():
    one = trained_a_bit(method, 8, 8)
    copies = one.owners()[1].bincount().tolist()  # owners: which column of D each column of ΔW is
    y = one.delta().detach() @ x
    print(f"{label:14}{copies!s:>28}{len(y.round(decimals=9).unique()):25}{y[0].item():8.2f}")

# %% [markdown]
# * **y sees r numbers of x.** With $r = 2$ eight inputs become two sums: column 1 of $D$ gets
#   `x[1] + x[3] + x[5] + x[7] = 3`, and nothing else.
# * **r need not divide k.** With $r = 3$ the columns have 3, 3 and 2 copies:
#   $D_0 D_1 D_2 D_0 D_1 D_2 D_0 D_1$. The last copy of $D$ is cut off; no input is dropped. PEFT fills
#   $x$ up with zeros for that; missviz adds the two sums that are left.
# * **The layouts are different functions.** Tiled and block have the same $D$ and the same number of
#   copies, but other sums, so another $y$ (see `y[0]`). With shared rows nothing of $x$ is summed;
#   instead $y$ has only 2 different numbers.
#
# *You can stop here. What follows: is the short way exact, and which equation is it the short way of?*
#
# ## Explain: "efficient" is not approximate
#
# The paper calls $D S$ the efficient form. It replaces $dk$ multiplications by $k$ additions and $dr$
# multiplications (its Table 3), and $\Delta W$ is never in memory. Is something lost? An
# approximation would keep its error however many digits we compute with. Rounding gets smaller
# with more digits.


# %%
def milliseconds(function):
    """The fastest of five calls."""
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        function()
        taken.append(1000 * (time.perf_counter() - start))
    return min(taken)


short = trained_a_bit(mv.MiSS(rank=64), 4096, 4096)
long = mv.MiSS(rank=64, form="expand").on(short.base)  # the same function: builds ΔW
long.load_state_dict(short.state_dict())
batch = torch.randn(8, 4096, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    exact = long(batch)
    size = exact.norm()
    print(f"float64: short way minus long way  {((short(batch) - exact).norm() / size).item():.0e}")
    short, long, batch = short.float(), long.float(), batch.float()
    print(f"float32: long way minus float64    {((long(batch) - exact).norm() / size).item():.0e}")
    print(f"float32: short way minus float64   {((short(batch) - exact).norm() / size).item():.0e}")
    print(f"numbers to keep: ΔW {short.delta().numel():,}, D {short.D.numel():,}")
    print(
        f"time for 8 inputs, here and now: long way {milliseconds(lambda: long(batch)):.1f} ms, "
        f"short way {milliseconds(lambda: short(batch)):.1f} ms (W₀x in both)"
    )

# %% [markdown]
# ## Explain: tiled is not block
#
# Eq. 4 cuts $x$ into $g$ slices of length $r$: tiled. The sentences before Eq. 4 and after Eq. 7
# speak of $r$ blocks of length $g$: block. PEFT's code is tiled, and so is `mv.MiSS(r)` (our tests
# compare the two). Here the tiled picture is pinned, and its layout changed: grey lines are where
# the bars of $y$ ended. Then the same, in numbers, on a larger layer.

# %%
compared = mv.explore.expansion(rank=2, layout="tiled").pin("tiled")
compared.set(layout="block")

# %%
tiled = trained_a_bit(mv.MiSS(4), 12, 12)
block = trained_a_bit(mv.MiSS(4, layout="block"), 12, 12)
same_d = torch.equal(tiled.D, block.D)
shuffle = [(j % 3) * 4 + j // 3 for j in range(12)]  # g = 3, r = 4
print("same D:", same_d, "· block is tiled with its columns in the order", shuffle)
print("    exactly:", torch.equal(block.delta(), tiled.delta()[:, shuffle]))
print("singular values, tiled:", [round(value, 3) for value in mv.spectrum(tiled)[:4].tolist()])
print("singular values, block:", [round(value, 3) for value in mv.spectrum(block)[:4].tolist()])
inputs = torch.randn(1000, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
right, other = inputs @ tiled.delta().T, inputs @ block.delta().T
print(f"a tiled D read as block: y is off by {((other - right).norm() / right.norm()).item():.0%}")

# %% [markdown]
# As many trained numbers, and the same singular values: no spectrum tells them apart. They are the
# same method for somebody who may shuffle the input features, and different functions for a given
# layer. An adapter file that is read in the wrong layout raises no error and gives wrong outputs.
#
# ## Explain: Eq. 4-7 is not the fast form of Eq. 3
#
# Eq. 3 copies *rows*: $D$ is $N \times k$, and each row of $D$ fills one block of rows of $\Delta W$
# ("rows" in the panel). The paper then calls Eq. 4-7, with $D$ of $d \times r$, its efficient form.
# If that were so, each $\Delta W$ of one kind would be one of the other. `mv.reach(method, M)` is the
# largest share of a matrix $M$ (of its squared norm) that a method's $\Delta W$ can be; 100 % means
# all of $M$.

# %%
kinds = [mv.MiSS(16), mv.MiSS(16, layout="block"), mv.MiSS(16, share="rows")]
wanted = {kind.name: trained_a_bit(kind, 64, 64).delta().detach() for kind in kinds}
print(f"{'share of M, where M is:':>34}" + "".join(f"{name:>17}" for name in wanted))
for kind in kinds:
    shares = "".join(f"{mv.reach(kind, M):17.0%}" for M in wanted.values())
    print(f"{kind.name + ' can be':>34}{shares}")
for d, k in ((4096, 4096), (11008, 4096), (4096, 11008)):
    columns = mv.MiSS(64).num_parameters(d, k)
    rows = mv.MiSS(64, share="rows").num_parameters(d, k)
    print(
        f"d = {d:5}, k = {k:5}: columns (Eq. 4-7) {columns:9,} trained numbers, rows (Eq. 3) {rows:9,}"
    )

# %%
rows = trained_a_bit(mv.MiSS(3, share="rows"), 6, 9)
columns_of_transpose = trained_a_bit(mv.MiSS(3, layout="block"), 9, 6)
with torch.no_grad():
    columns_of_transpose.D.copy_(rows.D.T)
print(
    "rows on W are block columns on Wᵀ:", torch.equal(rows.delta(), columns_of_transpose.delta().T)
)

# %% [markdown]
# Neither is a form of the other. What one can be of the other is about $r/k$ = 25 %, which is what it
# can be of any random matrix; and where $d \ne k$ they train another number of parameters. What does
# hold is the last line: sharing rows is sharing columns of the transpose, in blocks. (Eq. 3 has a short way of its own: compute $D x$, then copy the $N$ results.)
#
# ## Explain: MiSS is a LoRA whose A is frozen
#
# Write the copying as a matrix: $T$ ($r \times k$) has a 1 at $(i, j)$ where column $j$ of $\Delta W$
# is column $i$ of $D$, else 0. Then $\Delta W = D\,T$ and $S = T x$. That is LoRA's $B A$ with $B = D$
# and $A = T$, except that $T$ is never trained.

# %%
miss = trained_a_bit(mv.MiSS(3), 8, 8)
T = miss.factors()[1]
print(T.int())
lora = mv.LoRA(rank=3, alpha=3).on(torch.nn.Linear(8, 8, bias=False, dtype=torch.float64))
with torch.no_grad():
    lora.A.copy_(T)
    lora.B.copy_(miss.D)
print("the same ΔW:", torch.equal(lora.delta(), miss.delta()))
print("trained numbers:", miss.method.num_parameters(8, 8), "and", lora.method.num_parameters(8, 8))

# %% [markdown]
# <details><summary>Figure 3 of the paper: does its code do this?</summary>
#
# The pseudocode stores $D^\top$ ($r \times d$, as PEFT does) and makes the copies by
# `.expand(in // r, 1)`. PyTorch's `expand` only stretches dimensions of size 1, so that raises for
# $r > 1$; the next cell runs it. `repeat` does what is meant, in the tiled layout. But it builds all
# of $\Delta W$: it is the long way.
#
# </details>

# %%
stored = adapter.D.detach().T  # r × out
try:
    stored.expand(8 // 2, 1)
except RuntimeError as error:
    print("expand raises:", error)
built = stored.repeat(8 // 2, 1)
print("repeat is ΔWᵀ:", torch.equal(built.T, adapter.delta()), "· numbers built:", built.numel())

# %% [markdown]
# ## Check
#
# **First.** Write $\Delta W x$ for tiled MiSS, without making $\Delta W$. `x` has shape `(..., k)`, `D`
# is $d \times r$; return shape `(..., d)`. It must work for $k = 10$, $r = 4$ too. Replace the dots.


# %%
def my_miss(x, D):
    return ...


check.my_miss(my_miss)

# %% [markdown]
# **Second.** Ten numbers, not all zero, that tiled MiSS with $r = 4$ cannot see: $\Delta W x = 0$ for
# every $D$. Put a list in place of the dots.

# %%
invisible = ...
check.invisible_input(invisible)

# %% [markdown]
# ## What holds
#
# * $y = \Delta W x$ sees $x$ only through $r$ sums. So nobody need build the copies, and the short way
#   differs from the long one by rounding only.
# * Tiled (Eq. 4, PEFT) and block (the prose around it) have the same singular values for the same
#   $D$, and are different functions.
# * The paper's "efficient form" of Eq. 3 is not one: Eq. 3 and Eq. 4-7 are two kinds of matrix.
# * MiSS is LoRA with a frozen $A = T$. What a fixed factor can reach, and what it cannot, is lesson 02.
