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
# # 04 · Initial gradients: is a larger first gradient better?
#
# Before the first step of training, the loss already has a gradient with respect to the numbers
# that a method trains. How large is it? The MiSS paper (arXiv 2409.15371v12, §1 and Figure 1)
# compares this norm over methods. It finds LoRA's small and MiSS's large, sees fast early training
# along with large norms, and takes that as support for training one matrix instead of two.
# Here you take the size of the first gradient apart.
#
# *About 25 minutes; half a minute of computing. Runs on a CPU. You need lesson 00, and the chain rule.*
#
# | symbol | meaning |
# |---|---|
# | $G$ | $\partial L/\partial W$ at the start, $d \times k$: what full fine-tuning would see |
# | first gradient | the gradient with respect to a method's own numbers, before step 1; its norm is the root of the sum of its squares |
# | $s$ | LoRA's scaling $\alpha/r$: $\Delta W = s\,B A$ |
# | $c$ | a gain: a number that multiplies a frozen factor; for LoRA with $A$ frozen it is $s$ |
# | $\rho$ | how alike the columns of $G$ are: the mean inner product of two columns, over their mean squared length |
#
# "Rate" is the learning rate. SGD steps by rate × gradient. Adam divides each entry of the gradient
# by an average of that entry's own past size first, plus a tiny $\varepsilon$.

# %%
import math

import torch
from torch import nn

import missviz as mv
from missviz import check, published
from missviz.analysis.gradient_laws import column_correlation, lora_law, miss_law, pissa_law
from missviz.experiments.gain_and_rate import gain_runs, linear_task

torch.set_num_threads(1)  # the matrices are small; a second core would mostly wait for the first

# %% [markdown]
# ## Predict

# %%
guess = mv.predict(
    "LoRA with A frozen: one run with s = 1, another with s = 8, whose first gradient is 8 times as "
    "large. You may choose the second run's rate. Can its loss equal the first run's at every step?",
    [
        "No: the larger gradient learns faster at any rate",
        "Only roughly",
        "Yes with SGD, no with Adam",
        "Yes, with SGD and with Adam",
    ],
)
guess

# %% [markdown]
# ## Run
#
# First the published norms, as far as they can be read: an earlier version of the paper (DiSHA,
# v6) has the figure for Llama2-7B. One number stands in its text, 12.64 for "BigLoRA", which is LoRA
# at rank 1024. The others were read off the figure (±0.1). "Frozen fine-tuning" trains a full matrix
# $M$ beside a frozen $W_0$.

# %%
mv.displays.PublishedGradientsDisplay.from_published().plot()

# %%
reported = published.table("initial_gradients")
for row in reported[reported.method.isin(["LoRA", "BigLoRA"])].itertuples():
    constant = row.norm / math.sqrt(row.rank)
    print(f"{row.method:8} r = {row.rank:4g}: norm {row.norm:5.2f}, norm / √r = {constant:.3f}")

# %% [markdown]
# LoRA's points lie on $0.39\,\sqrt r$, and so does BigLoRA's, which had no part in drawing the line.
# It needs no explanation of its own: at the start $B = 0$, so
#
# $$\frac{\partial L}{\partial B} = s\,G A^\top, \qquad \frac{\partial L}{\partial A} = s\,B^\top G = 0.$$
#
# $A$ has entries uniform in $\pm 1/\sqrt k$, of variance $1/(3k)$. The mean square of
# $\lVert G A^\top\rVert$ over draws of $A$ is therefore $\lVert G\rVert^2\, r/(3k)$, for every $G$. So
# 12.64 is the $\sqrt r$ law at $r = 1024$, and shows no defect of LoRA at high rank. (One assumption:
# $s$ is the same at all ranks. The paper does not say which $\alpha$ it used.)
#
# The other methods have such laws too. Here is a network of our own, on inputs of mean 0.2, and
# the first gradient of its first layer, over $\lVert G \rVert$. `law` is computed without the method,
# from $G$ and $W_0$ alone.

# %%
d, k = 96, 64
generator = torch.Generator().manual_seed(0)
network = nn.Sequential(nn.Linear(k, d), nn.ReLU(), nn.Linear(d, 8))
with torch.no_grad():
    for parameter in network.parameters():
        parameter.normal_(0, k**-0.5, generator=generator)
x = 0.2 + torch.randn(200, k, generator=generator)
y = torch.randn(200, 8, generator=generator)


def loss(model):
    return (model(x) - y).square().mean()


(G,) = torch.autograd.grad(loss(network), network[0].weight)
rho = column_correlation(G)
sigma = torch.linalg.svdvals(network[0].weight.detach())
laws = {
    "LoRA": lambda r: lora_law(r, k),
    "MiSS": lambda r: miss_law(r, k, rho),
    "PiSSA": lambda r: pissa_law(sigma, r, d, k),
}
whole = mv.initial_gradient_norms(
    network, loss, [mv.FullFineTuning(), mv.FrozenFineTuning()], targets="0"
)
print("full and frozen fine-tuning:", *whole.norm[whole.module == "*"], " ρ of G:", round(rho, 3))
norms = mv.initial_gradient_norms(
    network, loss, [mv.LoRA(4), mv.MiSS(4), mv.PiSSA(4)], ranks=[4, 16, 64], seeds=10, targets="0"
)
norms = norms[norms.module == "*"].assign(measured=norms.norm / whole.norm.iloc[0])
norms["family"] = norms.family.str.split().str[0]
table = norms.groupby(["family", "rank"]).measured.agg(["mean", "min", "max"])  # over seeds
table["law"] = [laws[family](rank) for family, rank in table.index]
table.round(3)

# %% [markdown]
# Frozen fine-tuning has full fine-tuning's gradient exactly: $\partial L/\partial M = G$. On
# average over draws of $A$, LoRA follows its law on every network. MiSS's gradient is $\partial L/\partial D = G\,T^\top$, each column
# a sum of $g = k/r$ columns of $G$. Independent columns ($\rho = 0$) give $\lVert G\rVert$; like ones
# add up, and the norm grows towards $\sqrt g\,\lVert G\rVert$: $\sqrt{1 + (g-1)\rho}$. Inputs whose
# mean is not zero are enough to make columns alike. PiSSA's law supposes that $G$ has nothing to do
# with $W_0$'s singular directions. Here it has: the law is off by up to a fifth.
#
# Now train. The panel's left side has LoRA's and MiSS's first gradients on a linear layer 64 → 64
# (inputs of mean $\mu$, `input mean`; ten seeds with 95 % intervals). The right side trains LoRA with
# $A$ frozen (r = 8): at gain 1, and at gain $c$. Its loss is drawn above the least that is possible,
# and starts at 1. The thin line is gain 1; the runs at gain $c$ are still hidden.

# %%
panel = mv.explore.gradient_norms(gain=8.0, input_mean=0.3, reveal=False)
panel

# %%
panel.reveal()
for optimiser in ("Adam", "SGD"):
    print(panel.set(optimiser=optimiser, gain=8.0).summary)

# %%
apart = {}
for optimiser in ("SGD", "Adam"):
    runs = gain_runs([1.0, 8.0], optimiser, input_mean=0.3)  # the runs of the picture
    curves = runs[runs.compensated].pivot(index="step", columns="gain", values="loss")
    apart[optimiser] = (curves[8.0] / curves[1.0] - 1).abs().max()
guess.reveal(
    f"yes, with both: at rate/c² with SGD the losses differ by at most {apart['SGD']:.0e} of themselves, "
    f"at rate/c with Adam by {apart['Adam']:.0e} (that is Adam's ε)"
)

# %% [markdown]
# ## Notice
#
# Scroll back to the panel; move `gain` (the arrow keys work too) and watch the rings.

# %%
runs = gain_runs([0.25, 1.0, 4.0, 8.0], "SGD", input_mean=0.3)
final = runs[runs.step == runs.step.max()].set_index(["gain", "compensated"]).loss
for gain in (0.25, 1.0, 4.0, 8.0):
    print(
        f"gain {gain:4g}: first gradient {lora_law(8, 64, gain):.2f} of full fine-tuning's (by the law); "
        f"loss after 60 steps: same rate {final[gain, False]:.1e}, rate/c² {final[gain, True]:.1e}"
    )

# %% [markdown]
# 1. The first gradient went from a twentieth of full fine-tuning's to more than it, and the rings did
#    not move. **The size of the first gradient is a unit.** With the rate in the matching unit,
#    nothing changes.
# 2. At one shared rate the gain decides everything: slow, fast, and at gain 8 divergence. Who compares
#    methods at one rate compares their units.
# 3. Adam does not "profit" from a large gradient either. It divides the size away, and what is left
#    of $c$ is that $\Delta W = B\,(cA)$ moves $c$ times as far.
#
# *You can stop here.*
#
# ## Explain
#
# Write $\Delta W = B\,(cF)$ with $F$ frozen. The gradient of $B$ is $c\,G F^\top$. SGD's step of $B$ is
# rate · $c\,GF^\top$, and its step of $\Delta W$ is that times $cF$: rate · $c^2 \dots$ So rate$/c^2$
# gives the same $\Delta W$, and by induction the same at every step, for any loss. Adam's step of $B$
# does not depend on $c$ (but for $\varepsilon$), so its step of $\Delta W$ has $c$ once: rate$/c$.
#
# If $A$ is trained too, $c$ also scales the gradient of $A$, whose steps should stay as they were.
# Below are torch's own optimisers. The numbers say how far the loss at $c = 3$ ever is from the loss
# at $c = 1$ over 60 steps, as a share of it. "Two rates" leaves $A$'s rate as it was and gives $B$ the
# compensated one.


# %%
task = linear_task()


def losses(c, optimiser, rate, rate_of_A=None, freeze_a=True):
    adapter = mv.LoRA(8, alpha=8 * c, freeze_a=freeze_a).on(task.linear)
    groups = [{"params": [adapter.B], "lr": rate}]
    if not freeze_a:
        groups.append({"params": [adapter.A], "lr": rate if rate_of_A is None else rate_of_A})
    stepper = optimiser(groups)
    found = []
    for _ in range(61):
        stepper.zero_grad()
        value = task.loss(adapter)
        value.backward()
        stepper.step()
        found.append(value.detach())
    return torch.stack(found)


c = 3.0
print(f"{'largest difference at':24}{'rate':>10}{'rate/c':>10}{'rate/c²':>10}{'two rates':>12}")
for name, optimiser, rate, power in (
    ("SGD", torch.optim.SGD, 3.0, 2),
    ("Adam", torch.optim.Adam, 4e-3, 1),
):
    for freeze_a in (True, False):
        reference = losses(1.0, optimiser, rate, freeze_a=freeze_a)
        runs = [losses(c, optimiser, rate / c**p, freeze_a=freeze_a) for p in (0, 1, 2)]
        if not freeze_a:
            runs.append(losses(c, optimiser, rate / c**power, rate, freeze_a=False))
        far = "".join(f"{(run / reference - 1).abs().max().item():10.0e}" for run in runs)
        print(f"{name:5} A {'frozen' if freeze_a else 'trained':16}{far}")

# %% [markdown]
# With $A$ frozen each optimiser has its power of $c$, and the match is exact up to rounding or
# $\varepsilon$. With $A$ trained no single rate does it. Two rates do: $B$'s compensated, $A$'s left
# alone. (A method that gives $A$ and $B$ rates of their own is LoRA+.) So $\alpha$ is not cosmetic in
# LoRA: at one rate for both, it sets how fast $B$ moves compared with $A$.
#
# MiSS has no $\alpha$. Its $T$ has a gain all the same, $\sqrt g$ (the length of a row of $T$). The
# first Adam step shows what that does: every trained number moves by the rate, whatever its gradient.

# %%
rate = 1e-3
contenders = [
    mv.LoRA(4),
    mv.LoRA(4, alpha=4 * math.sqrt(3 * 64 / 4)),
    mv.MiSS(4),
    mv.FixedFactor(4, "orthogonal", gain=4.0),
    mv.FixedFactor(4, "orthogonal"),
]
shifted = linear_task(input_mean=0.3)
G = torch.linalg.norm(shifted.gradient()).item()
print(f"{'':28}first gradient / ‖G‖   ‖ΔW‖ after one Adam step, over rate · √(dk)")
for method in contenders:
    adapter = method.on(shifted.linear)
    trained = [p for p in adapter.parameters() if p.requires_grad]
    stepper = torch.optim.Adam(trained, lr=rate)
    shifted.loss(adapter).backward()
    size = math.sqrt(sum(p.grad.square().sum().item() for p in trained)) / G
    stepper.step()
    moved = torch.linalg.norm(adapter.delta()).item() / (rate * 64)
    print(f"{method.name:28}{size:20.2f}{moved:26.2f}")

# %% [markdown]
# MiSS's first Adam step is long because of its gain, and not because of its gradient: the frozen
# orthogonal factor of gain $\sqrt g = 4$ and LoRA with $s = \sqrt{3k/r}$ step about as far, and their
# first gradients are smaller. In lesson 05 that control, which copies nothing, draws MiSS's training
# curve.
#
# **A $G$ of the same norm can give MiSS a large first gradient, or none.** $\partial L/\partial D$ is
# the sum of the $g$ slices of $G$, $r$ columns each. How alike they are decides its size.

# %%
r, g = 4, 16
one = torch.randn(64, r, generator=generator)
signs = torch.tensor([1.0, -1.0]).repeat(g // 2)
slices = {
    "all slices equal": one.repeat(1, g),
    "independent": torch.randn(64, r * g, generator=generator),
    "alternating +, −": torch.cat([sign * one for sign in signs], dim=1),
}
for label, gradient in slices.items():
    summed = gradient.reshape(64, g, r).sum(dim=1)
    ratio = torch.linalg.norm(summed) / torch.linalg.norm(gradient)
    print(f"{label:18} ‖∂L/∂D‖ / ‖G‖ = {ratio.item():.2f}   (at most √g = {math.sqrt(g):.0f})")

# %% [markdown]
# ## Where does LoRA start?
#
# Is $B = 0$ a saddle? That is a point where the gradient is zero and the loss falls in some directions
# and rises in others. Take one weight
# $w = w_0 + b\,a$ that should become $w_0 + 1$, with loss $\frac12(1 - ba)^2$. In the picture dark is
# low, dashed lines are the minima $ba = 1$, and × is the saddle. The ring is the start.

# %%
landscape = mv.explore.landscape()
landscape

# %%
for start in (0.0, 0.25, 2.0):
    print(landscape.set(start=start, training="both trained", steps=20).summary)
print(landscape.set(start=0.5, training="a frozen").summary)

# %% [markdown]
# The saddle is at $a = b = 0$. LoRA starts at $b = 0$ with $a \neq 0$, where the gradient is not zero.
# (Start at 0 exactly, and nothing ever moves.) A small $a$ starts near the saddle and slowly.
#
# With $a$ frozen the loss along $b$ is a parabola, and its curvature $a^2$ is the $c^2$ from above: $a$
# *is* the gain. For a matrix the same holds with any loss that is convex in $W$: in
# $\Delta W = D F$ it is convex in $D$. But the loss of a *network* is convex in $D$ only if it is
# convex in that layer's output. After a ReLU and another layer it need not be, whatever the method.
# That one matrix is simpler to train than two, the paper's hypothesis, is shown here for the product
# $B A$, and for nothing beyond it.
#
# <details><summary>Two smaller things in the published figure</summary>
#
# Frozen fine-tuning is drawn at 23.7 and full fine-tuning at 24.9. On the same weights the two
# gradients are equal, exactly (the table above). A gap can only come from numbers outside the
# replaced matrices that one of them also counted. That is our inference; the paper does not say.
#
# MiSS is above full fine-tuning at small rank (27.1 at r = 32) and falls towards frozen fine-tuning
# (24.3 at r = 256). That is the shape of $\sqrt{1 + (g-1)\rho}$ with a small positive $\rho$: at r = k
# MiSS *is* frozen fine-tuning. The cell below solves for $\rho$. It is small and positive at all
# four ranks, but differs: within ±0.1 on each norm no single $\rho$ fits. Nor need it. $\rho$ is a
# mean over all pairs of columns; MiSS adds those that are $r$, $2r$, … apart.
#
# </details>
#
# The $\rho$ that the published norms of MiSS would need, over those of frozen fine-tuning:

# %%
frozen = reported[reported.method == "frozen fine-tuning"].norm.item()
for row in reported[reported.method == "MiSS"].itertuples():
    g = 4096 / row.rank  # most of Llama2-7B's linear layers have 4096 inputs
    low, high = (((row.norm + e) ** 2 / (frozen - e) ** 2 - 1) / (g - 1) for e in (-0.1, 0.1))
    print(f"MiSS r = {row.rank:3g}: norm {row.norm}, so ρ is between {low:.4f} and {high:.4f}")

# %% [markdown]
#
# ## Check
#
# Three parts; the check speaks of the first that is missing. Replace the dots.
#
# 1. `my_gain(r, k)`: the gain $c = s$ with which LoRA's first gradient is as large as full
#    fine-tuning's.
# 2. `my_rates(c, rate)`: with gain $c$, the rate for SGD and the rate for Adam that train exactly as
#    `rate` does with gain 1.
# 3. `exact_for`: where these rates are exact: `"A frozen"`, `"A trained"` or `"both"`.


# %%
def my_gain(r, k):
    return ...


def my_rates(c, rate):
    return ..., ...  # SGD, Adam


exact_for = ...
check.gain_and_rate(my_gain, my_rates, exact_for)

# %% [markdown]
# ## What holds
#
# * That MiSS's first gradient is larger than LoRA's, and PiSSA's in between, is so in the published
#   figure. The laws say why, from the start alone: $s\sqrt{r/3k}$ and $\sqrt{1 + (g-1)\rho}$.
# * That a larger first gradient is *better* does not hold as an argument: for a frozen factor it can be
#   set to anything without changing training, if the rate follows. What remains at one shared rate is
#   a longer step.
# * BigLoRA's 12.64 lies on LoRA's own curve. LoRA's start is no saddle.
# * Not shown here: that no method trains faster than another for *other* reasons. For that the rate
#   has to be chosen for each method, as in the second half of lesson 05.
