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
# # 08 · Cost and front: what does it cost, and is "on the front" praise?
#
# Methods are sold with a picture: cost to the right, accuracy upwards, and "ours is on the front". In
# this lesson you take such a picture, published by Hugging Face PEFT, and find out what it can carry:
# which cost, how sure, and whether the front is praise at all. Then you count and time the costs.
#
# *About 35 minutes; under a minute of computing. Runs on a CPU. You need lessons 00 and 01. Papers:
# MiSS (arXiv 2409.15371v12) Eq. 7, Tables 2, 3 and 8; figures: huggingface/peft, folder
# `method_comparison`.*
#
# | word | meaning |
# |---|---|
# | *front* | of cost and accuracy: a method is on it if no other is as cheap and as accurate, and better in one of the two |
# | *P(on the front)* | share of repetitions of the whole comparison in which the method is on it, if the published accuracies were the true ones |
# | *rerun noise* | how far the accuracy of one configuration moves when it is trained again |
# | *binomial noise* | how far the share of right answers moves when other questions are asked |
# | *kept bytes* | what the forward pass keeps for the backward pass, beyond the frozen layer's |
# | *multiply-add* | one product and one sum: the unit in which products of matrices are counted |

# %%
import statistics
import time

import torch

import missviz as mv
from missviz import check, published
from missviz.analysis.cost import cost
from missviz.explore.pareto import QUESTIONS, rerun_spread
from missviz.machine import one_thread
from missviz.testing import random_linear

benchmark = published.table("peft_benchmark")
dates = f"{benchmark.date.min()} to {benchmark.date.max()}"
print(f"{len(benchmark)} configurations, {dates}; {QUESTIONS} questions")
benchmark.dropna(subset="method")[
    ["method", "accuracy", "forgetting", "num_parameters", "memory_bytes", "train_seconds"]
]

# %% [markdown]
# The benchmark fine-tunes Llama-3.2-3B on mathematics (MetaMathQA, 5000 steps) and asks the 1319
# questions of GSM8K's test set. *Forgetting* is by how much the loss on other text (FineWiki) rose.
# Each configuration ran **once**.
#
# ## Predict
#
# The cost can be trained numbers, size of the saved file, memory, time, or forgetting.

# %%
guess = mv.predict(
    "Suppose all 63 were trained again, many times. On which of these fronts would MiSS r=64 be?",
    [
        "on all of them, each time",
        "on none of them",
        "on some always, on the others never",
        "on some always, on some hardly ever, on one about half the time",
    ],
)
guess

# %% [markdown]
# ## Run
#
# On the left each configuration; grey ones have no name here. On the right P(on the front). The grey
# band is where the front runs in 90 % of the repetitions, and halos are the larger, the surer their
# method is on it. Accuracies below 0.29 stand as triangles at the lower edge.

# %%
panel = mv.explore.pareto(cost="memory", noise="reruns", reveal=False)
panel

# %%
panel.reveal()
print(f"{'P(on the front), %':18}" + "".join(f"{name:>18}" for name in panel.choices["cost"]))
chances = {}
for price in panel.choices["cost"]:
    shown = panel.set(cost=price, noise="reruns").drawn()
    chances[price] = dict(zip(shown.names, shown.front.probability, strict=True))
for name in [name for name in chances["memory"] if name]:
    print(f"{name:18}" + "".join(f"{100 * chances[price][name]:18.1f}" for price in chances))
miss = {price: f"{chance['MiSS r=64']:.0%}" for price, chance in chances.items()}
for experiment in ("c3a-default", benchmark.experiment[benchmark.num_parameters.idxmin()]):
    row = benchmark.set_index("experiment").loc[experiment]
    print(
        f"{experiment}: {row.num_parameters:,} numbers, a file of {row.file_bytes / 1e6:.1f} MB, "
        f"{row.accuracy * QUESTIONS:.0f} right answers"
    )
guess.reveal(", ".join(f"{price} {chance}" for price, chance in miss.items()))

# %%
panel.set(cost="file size")

# %% [markdown]
# ## Notice
#
# 1. **Membership depends on the axis.** MiSS r=64 is always on the fronts of memory and of time, and
#    hardly ever (below 1 %) on those of trained numbers and of forgetting. It is one method,
#    and one accuracy.
# 2. **Membership is a probability.** The table puts MiSS off the front of file size, since C3A's file
#    is smaller and C3A has one right answer more, 643 against 642. Trained again, MiSS is on that front
#    47 % of the time. rsLoRA is on the memory front, and stays there 62 % of the time.
# 3. **On the front is not accurate.** MiSS mini is always on the memory front, at an accuracy of 0.38.
#    Whoever is cheapest is on a front without any merit: set `cost` to trained numbers, and see who
#    stands at the far left (the last line above).
#
# ## Explain: where the noise comes from
#
# **Reruns.** Several configurations ran more than once, with the same seed. We fit
# accuracy = configuration + period + noise. *Period* is the software of the day, which moves all
# methods together and so is no noise between methods of one period.

# %%
reruns = published.table("peft_reruns")
noise = rerun_spread()
binomial = (0.48 * 0.52 / QUESTIONS) ** 0.5
now = benchmark.set_index("experiment").accuracy
for name, experiment in (("MiSS r=64", "miss-default"), ("LoRA r=32", "lora-rank32")):
    earlier = reruns[reruns.experiment == experiment].accuracy
    print(
        f"{name}:",
        *(f"{value:.4f}" for value in earlier),
        f"and {now[experiment]:.4f} in July 2026",
    )
for period, shift in noise.shifts.items():
    print(f"{period}: all accuracies {100 * shift:+.1f} points against July 2026")
print(f"binomial deviation at accuracy 0.48: {100 * binomial:.2f} points")
print(
    f"rerun deviation: {noise.ratio:.2f} of it, {100 * noise.ratio * binomial:.2f} points "
    f"({noise.freedom} degrees of freedom)"
)
table_8 = reruns[reruns.source.str.contains("Table 8")]
both = table_8.merge(benchmark, on="experiment", suffixes=("", "_2026"))
for column in ("memory_bytes", "train_seconds"):
    ratio = both[f"{column}_2026"] / both[column]
    print(
        f"{column}, 2026 against 2025: {ratio.median():.3f} ({ratio.min():.2f} to {ratio.max():.2f})"
    )

# %% [markdown]
# The paper's Table 8 (2025) and PEFT's table of 2026 differ by nearly two points on average: a
# figure from one must not be set beside a figure from the other. What is left varies by half of the
# binomial deviation. It is less than that since reruns answer the same questions, most of which are
# right, or wrong, every time.
#
# **Two noises, and they do not simply add.** Reruns say what another training would give on these
# questions; the binomial says what other questions would give. `both` counts the chance in each answer
# twice. And as all methods answered the same questions, `questions` is too much for a *difference*
# between two methods.
#
# **Costs are taken as exact.** Memory repeats to a tenth of a percent in the median; one
# configuration, LoRA-FA, moved by 10 % (below). Times fell once, by much, when the benchmark's script
# stopped collecting garbage after each step (PEFT #2894); since then, with newer software too, they
# repeat to a few percent (the ledger's `benchmark-got-faster`). The time fronts are as sure as the
# picture says only if times repeat: rsLoRA r=64 is more accurate than MiSS r=64, and took but 8 %
# longer.
# How much *forgetting* varies between runs is **not known**: its definition was mended in July 2026
# (PEFT #2925, #3419), and we know of no run repeated since. Its fronts are as sure as the picture says
# only if it does not vary.
#
# **MiSS and LoRA.** All configurations in PEFT's folders `lora` (DoRA and LoRA-FA are there too) and
# `miss`:

# %%
families = {
    family: benchmark[benchmark.experiment.str.startswith(start)]
    for family, start in (("LoRA", "lora-"), ("MiSS", "miss-"))
}
for family, rows in families.items():
    for column in ("accuracy", "forgetting"):
        ends = f"{rows[column].min():.3f} to {rows[column].max():.3f}"
        print(f"{family}, {len(rows)} configurations: {column} {ends}")
value = benchmark.set_index("method").accuracy
gap = value["MiSS r=64"] - value["LoRA r=32"]
ahead = statistics.NormalDist().cdf(gap / (2**0.5 * noise.ratio * binomial))
print(f"MiSS r=64 − LoRA r=32: {gap:+.4f}, {gap * QUESTIONS:.0f} questions")
print(f"from this pair alone: trained again, MiSS r=64 would be ahead {ahead:.0%} of the time")
of_2025 = reruns[reruns.period == "2025"].groupby("experiment").accuracy.mean()
print(f"means of 2025: {of_2025['miss-default'] - of_2025['lora-rank32']:+.4f}")

# %% [markdown]
# The accuracies of the two families overlap, though MiSS r=64 is probably ahead of LoRA r=32: the runs
# of 2025 say so too. The forgetting does not overlap: in these eleven runs each MiSS forgot more than
# each LoRA did. More the data do not say: one run each, and eleven configurations that somebody chose.
# Nor do they say why. A guess is the size of the steps. All eleven have the learning rate 0.0001
# (PEFT's configurations), and what $D$ or $B$ multiplies differs: the rows of MiSS's $T$ have length
# $\sqrt{k/r} = 6.9$, those of $sA$ at first $s/\sqrt{3}$. That is 1.2 for the LoRA of rank 64 with
# $s = 2$, which forgot 0.059, and 4.6 for the one with $s = 8$ (rsLoRA, $s = \alpha/\sqrt{r}$), which
# forgot 0.111. Lesson 04 is about steps that a factor makes larger.
#
# *You can stop here: you know what a front says, and how sure it is. Below you make costs yourself.*
#
# ## What the axes count
#
# One layer, $d = k = 1024$, $r = 64$, 256 tokens. Counted while one training step runs: numbers
# trained, multiply-adds per token beyond the frozen layer's, and bytes kept per token. Beside it the
# paper's Table 2.

# %%
d = k = 1024
r, tokens = 64, 256
methods = [
    mv.FullFineTuning(),
    mv.LoRA(r),
    mv.LoRA(r, freeze_a=True),
    mv.AdaLoRA(r),
    mv.LoHa(r),
    mv.VeRA(r),
    mv.MiSS(r),
    mv.MiSS(r, mini=r),
]
counted = cost(methods, d, k, tokens)[1:]
print(
    f"{'':18}{'numbers':>10}{'Table 2':>11}   {'forward':>8}{'Table 2':>11}{'backward':>11}   kept/token"
)
for row in counted.itertuples():
    forward, backward = (
        flops / (2 * tokens) for flops in (row.extra_forward_flops, row.extra_backward_flops)
    )
    paper = row.published_flops / (2 * tokens)
    print(
        f"{row.method:18}{row.num_parameters:10,}{row.published_parameters:11,.0f}   "
        f"{forward:8,.0f}{paper:11,.0f}{backward:11,.0f}{row.kept_bytes / tokens:13,.0f}"
    )
more = cost([mv.LoHa(r)], d, k, 4 * tokens).iloc[1]
print(
    f"LoHa with {4 * tokens} tokens: forward {more.extra_forward_flops / (8 * tokens):,.0f} per token"
)

# %% [markdown]
# Where the count and Table 2 differ:
#
# * **Full fine-tuning.** The table gives it $dk$, beside LoRA's $(d+k)r$: that looks dear. But $dk$ is
#   the product $W x$, which *every* method makes too. Beyond it full fine-tuning has nothing to do in
#   the forward pass, and adapters have. What it does pay is the gradient of $W$, in the backward pass,
#   which the table leaves out.
# * **AdaLoRA** trains $r(d+k) + r$ numbers, the table says $+\,r^2$: its middle matrix is diagonal.
# * **LoHa** is no $2r(d+k)$ per token. An elementwise product of $\Delta W$'s cannot be pushed through
#   to $x$, so $\Delta W$ is built, at a cost that does not depend on the tokens: with four times as
#   many, each bears a quarter.
# * **LoRA-FA** has LoRA's forward count, as in the table. It saves in the backward pass, and above all
#   in what is kept. (In the published table of 2026 it needs as much memory as LoRA; in that of 2025 it
#   needed 2 GB less. Between the two the benchmark began to leave the adapter once while it trains,
#   PEFT #3419, and PEFT then takes the frozen A for trained: the ledger's `lora-fa-memory` shows it on
#   a small model. That this explains the published figure is an inference.)
# * **MiSS** has $dr$, the table $k + dr$: the counter sees products alone, and $k$ are the additions of
#   the block sums (Eq. 7). Table 3's $BL(k + rd)$ (batch times length) against LoRA's $BL(kr + rd)$ is
#   thus right as a count.
#   Is it time saved? See below. The table's space, $dr$, is $D$ alone: the block sums that are kept
#   come with every token.
#
# **Fewer numbers is not less memory.** VeRA trains 1,088 numbers here, MiSS 65,536. For the backward
# pass VeRA keeps nine times as many bytes of each token. A trained number costs 12 bytes
# once (its gradient and Adam's two averages, float32), kept bytes come with every token:

# %%
bytes_of = counted.set_index("method")
for count in (64, 3072):
    total = 12 * bytes_of.num_parameters + bytes_of.kept_bytes / tokens * count
    shown = {
        name: total[name] for name in ("VeRA r=64", "MiSS mini 64×64", "MiSS r=64", "LoRA r=64")
    }
    print(
        f"{count:5} tokens: " + ", ".join(f"{n} {size / 1e6:.2f} MB" for n, size in shown.items())
    )
memory = benchmark.set_index("method").memory_bytes / 1e9
compared = ("VeRA r=256", "MiSS mini 64×64", "MiSS r=64", "LoRA r=32")
print("  published: " + ", ".join(f"{name} {memory[name]:.2f} GB" for name in compared))
inputs = 28 * 2 * 3072 * 3072 * 4 / 1e9
print(f"inputs that LoRA keeps: {inputs:.2f} GB")

# %% [markdown]
# With 64 tokens VeRA needs a fifth of what MiSS r=64 needs, with 3072 more than four times as much.
# The benchmark has batches of 4 texts of up to 768 tokens, which is 3072. There VeRA, with 57 times
# fewer numbers than MiSS, took more memory, as the count says. And LoRA? Of each token it keeps the
# input $x$, MiSS the block sums $S$. The model has 28 layers, two adapted modules in each, and
# $k = 3072$; PEFT's LoRA keeps $x$ in float32: the last line. The published gap between LoRA r=32 and
# MiSS is 2.02 GB. (We did not measure what else is in those peaks.)
#
# ## Counts are not seconds
#
# The same methods, timed: forward, backward, Adam, in turns, on one thread. Each line is relative to
# the frozen layer's own step in the same turn: median, and the middle half of the turns.


# %%
def in_turns(steps, turns):
    """Seconds of each step in each turn; the order turns too, and two turns are a warm-up."""
    seconds = {name: [] for name in steps}
    for turn in range(turns + 2):
        for name in list(steps)[:: 1 if turn % 2 else -1]:
            started = time.perf_counter()
            steps[name]()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def training_step(layer, x):
    x = x.clone().requires_grad_(True)
    trained = [p for p in layer.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(trained, fused=True) if trained else None

    def step():
        y = layer(x)
        y.backward(torch.ones_like(y))
        x.grad = None
        if optimiser:
            optimiser.step()
            optimiser.zero_grad()

    return step


layer = random_linear(d, k, torch.float32, bias=False).requires_grad_(False)
x = torch.randn(tokens, k, generator=torch.Generator().manual_seed(0))
steps = {"frozen": training_step(layer, x)}
steps |= {method.name: training_step(method.on(layer), x) for method in [*methods, mv.Bat(r)]}
with one_thread():
    seconds = in_turns(steps, turns=9)
print(f"the frozen layer's own step: {1000 * statistics.median(seconds['frozen']):.1f} ms")
for name in list(steps)[1:]:
    ratios = [a / b for a, b in zip(seconds[name], seconds["frozen"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"{name:18}{middle:6.2f}   ({low:.2f} to {high:.2f})")

# %% [markdown]
# MiSS does half of LoRA's extra multiply-adds. Compare the two lines, and how far they stray: since
# both extras are small beside the layer's own products, half of them is little of the whole. (Below 1
# is noise: something else ran in the frozen layer's turn.)
#
# **Is the efficient form always the cheaper one?** With many tokens it may pay to build $W_0 + \Delta W$
# once, and make one product for all of them. For MiSS, building copies $D$ and adds $dk$ cells; the
# efficient form takes $k + dr$ operations per token. LoRA builds with a product, $B A$; from how many
# tokens on that pays by counting, you work out in the second exercise. The table has the fastest of
# nine turns: what else runs on the machine can only slow a turn down.


# %%
def forward(layer, x, build=False):
    def step():
        with torch.no_grad():
            torch.nn.functional.linear(x, layer.weight) if build else layer(x)

    return step


print(f"counted, MiSS: build from n = {d * k / (k + d * r):.0f}")
print("ms             forward only                            with the backward pass")
print("    n   LoRA   built    MiSS   built                  MiSS   built")
lora, fast, slow = (m.on(layer) for m in (mv.LoRA(r), mv.MiSS(r), mv.MiSS(r, form="expand")))
for n in (8, 32, 128, 512, 2048):
    x = torch.randn(n, k, generator=torch.Generator().manual_seed(0))
    steps = {
        "LoRA": forward(lora, x),
        "LoRA built": forward(lora, x, build=True),
        "MiSS": forward(fast, x),
        "MiSS built": forward(slow, x),
        "MiSS trains": training_step(fast, x),
        "MiSS built trains": training_step(slow, x),
    }
    with one_thread():
        fastest = {name: 1000 * min(taken) for name, taken in in_turns(steps, 9).items()}
    columns = [f"{fastest[name]:8.2f}" for name in steps]
    print(f"{n:5}" + "".join(columns[:4]) + " " * 14 + "".join(columns[4:]))

# %% [markdown]
# * **Forward only, there is a crossover**: where n is small the efficient form wins, and where it is
#   large, building. (For an adapter that never changes again, `merge` builds once and for all.)
# * **The count puts MiSS's crossover far too early.** Copying and adding cells is no product: the time
#   goes into moving them to and from memory, and a count of operations does not see that. For LoRA,
#   whose building *is* a product, counting is a fair guide.
# * **In training** a built $\Delta W$ is usually dearer at every n (the last two columns), if your machine
#   is like ours. Its gradient is a full $d \times k$ product, as in full fine-tuning: $dk$ per token
#   against $2dr$.
#
# **Before the first step.** PiSSA starts at the singular directions of $W_0$, and has to find them.

# %%
large = random_linear(1024, 1024, torch.float32)
starts = [mv.LoRA(r), mv.MiSS(r), mv.PiSSA(r, niter=4), mv.PiSSA(r)]
with one_thread():
    for method in starts:
        found = in_turns({"on": lambda method=method: method.on(large)}, turns=1)["on"]
        print(f"{method.name:20}{1000 * found[0]:8.1f} ms for one 1024 × 1024 layer")

# %% [markdown]
# LoRA draws $A$, MiSS fills $D$ with zeros; an exact SVD takes far longer, a randomised one (`niter`)
# lies between. It is paid once per layer, before training. (No PiSSA is in the benchmark.)
#
# ## Check
#
# **First exercise.** Which sentences survive? Say `True` where the data carry the sentence: it follows,
# and would hold in 95 of 100 repetitions.
#
# * **A** C3A is more accurate than MiSS r=64.
# * **B** VeRA trains fewer numbers than MiSS r=64, so it needs less memory.
# * **C** MiSS mini is on the memory front, so it is among the more accurate methods.
# * **D** MiSS r=64 is not on the file-size front.
# * **E** MiSS r=64 is on the memory front.

# %%
survives = {"A": ..., "B": ..., "C": ..., "D": ..., "E": ...}
check.survives_the_noise(survives)

# %% [markdown]
# **Second exercise.** LoRA on a $d \times k$ layer. From how many tokens on does building $W_0 + BA$
# take fewer multiply-adds than the efficient form, beyond $W_0 x$? Leave the $dk$ additions of
# $W_0 + BA$ out. Return the number as it comes out, not rounded.


# %%
def crossover(d, k, r):
    return ...


check.crossover(crossover)

# %% [markdown]
# ## What holds
#
# What this lesson touched, from missviz's ledger (`mv.claims.table()` has all of it):

# %%
mv.claims.verdicts(
    "on-the-front",
    "more-accurate-than-lora",
    "carries-over",
    "cheaper-than-lora",
    "lora-fa-memory",
    "benchmark-got-faster",
)

# %% [markdown]
# * A front is relative to one cost. Where many are close, membership is a probability; a table of
#   single runs gives it as 0 or 1. Being on a front says that nobody as cheap did better. It does not
#   say: good.
# * Numbers, multiply-adds, bytes and seconds are four costs. None stands in for another.
# * One model, one task, one run each, at the learning rate that each configuration came with.
