"""Claims that algebra decides: what an update is, which rank it has, and what copying does to it.

Each is tried on random matrices in float64, one draw per seed, on square and oblong layers.
"""

import tempfile
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from missviz.adapters.attach import attach
from missviz.adapters.base import Adapter, Method
from missviz.adapters.fixed_factor import make_factor
from missviz.adapters.full import FrozenFineTuning, FullFineTuning
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.adapters.pissa import PiSSA
from missviz.analysis.products import numerical_rank
from missviz.analysis.spectra import effective_rank, spectrum
from missviz.claims.claim import Claim, Evidence, Exact, Larger, Same
from missviz.peft_folder import read_peft, write_peft
from missviz.published import table as published_table
from missviz.randomness import generator_for, normal

SHAPES = ((64, 64), (96, 48), (40, 72))
"""out × in."""
RANK = 4


def layer(shape: tuple[int, int], seed: int) -> nn.Linear:
    """A layer of N(0, 1/in) weights, in float64."""
    linear = nn.Linear(shape[1], shape[0], bias=False, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(drawn(shape, seed, "weight") / shape[1] ** 0.5)
    return linear


def drawn(shape: tuple[int, ...], seed: int, name: str) -> Tensor:
    return normal(shape, 1.0, generator_for(seed, "claims", name))


def trained(method: Method, shape: tuple[int, int], seed: int) -> Adapter:
    """The method on such a layer, with random numbers for all that it trains."""
    adapter = method.on(layer(shape, seed), generator=generator_for(seed, "claims", "start"))
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(drawn(tuple(parameter.shape), seed, name))
    return adapter


def delta(adapter: Adapter) -> Tensor:
    """ΔW, as numbers."""
    return adapter.delta().detach()


def cases(method: Method, seeds: Sequence[int]) -> Iterator[Adapter]:
    for shape in SHAPES:
        for seed in seeds:
            yield trained(method, shape, seed)


def relative(one: Tensor, another: Tensor) -> float:
    """How far one matrix is from another, as a share of the other's norm."""
    return float(torch.linalg.norm(one - another) / torch.linalg.norm(another))


def entries(adapter: nn.Module) -> Tensor:
    """D, as numbers."""
    return adapter.get_parameter("D").detach()


def as_lists(matrix: Tensor) -> list[list[float]]:
    rows: list[list[float]] = matrix.round(decimals=3).tolist()
    return rows


# --- What MiSS's equations say ----------------------------------------------------------------


def efficient_form(seeds: Sequence[int], device: str) -> Evidence:
    """The nearest that the summing form comes to an update by Eq. 3: its best D is the mean over
    the columns that share an entry."""
    far = []
    for rows in cases(MiSS(RANK, share="rows"), seeds):
        wanted = delta(rows)
        T = make_factor("tiled", RANK, wanted.shape[1], generator_for(0)).to(wanted)
        best = wanted @ torch.linalg.pinv(T) @ T
        far.append(relative(best, wanted))
    small = trained(MiSS(2, share="rows"), (4, 4), 0)
    d, k = SHAPES[1]
    return Evidence.exact(
        max(far),
        len(far),
        nearest=min(far),
        example={"D": as_lists(entries(small)), "expanded by Eq. 3": as_lists(delta(small))},
        numbers={
            f"Eq. 3 on {d} × {k}": MiSS(RANK, share="rows").num_parameters(d, k),
            f"Eq. 4-7 on {d} × {k}": MiSS(RANK).num_parameters(d, k),
        },
    )


def one_layout(seeds: Sequence[int], device: str) -> Evidence:
    far, spectra = [], []
    for tiled, block in zip(
        cases(MiSS(RANK), seeds), cases(MiSS(RANK, layout="block"), seeds), strict=True
    ):
        far.append(relative(delta(block), delta(tiled)))
        spectra.append(relative(spectrum(block), spectrum(tiled)))
    D = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    example = {}
    for method in (MiSS(3), MiSS(3, layout="block")):
        adapter = trained(method, (1, 6), 0)
        entries(adapter).copy_(D)
        example[str(method.layout)] = as_lists(delta(adapter))
    return Evidence.exact(max(far), len(far), example=example, spectra_apart=max(spectra))


def figure_3_runs(seeds: Sequence[int], device: str) -> Evidence:
    """Figure 3 declares D (r × out) and calls `.expand(in // r, 1)` on it."""
    raised, apart, said = 0, 0.0, ""
    for adapter in cases(MiSS(RANK), seeds):
        D, copies = entries(adapter).mT, adapter.in_features // RANK
        try:
            D.expand(copies, 1)
        except RuntimeError as error:
            raised, said = raised + 1, str(error).splitlines()[0]
        apart = max(apart, relative(D.repeat(copies, 1).mT, delta(adapter)))
    n = len(SHAPES) * len(seeds)
    return Evidence.exact(raised / n, n, error=said, repeat_instead_is_tiled_to=apart)


def low_rank(seeds: Sequence[int], device: str) -> Evidence:
    """The (r + 1)-th singular value of a dense SVD beside the first."""
    variants = [MiSS(RANK), MiSS(RANK, layout="block"), MiSS(RANK, share="rows")]
    beyond = []
    for method in variants:
        for adapter in cases(method, seeds):
            values = torch.linalg.svdvals(delta(adapter))
            beyond.append(float(values[RANK] / values[0]))
    return Evidence.exact(max(beyond), len(beyond))


def copying_enriches(seeds: Sequence[int], device: str) -> Evidence:
    """Rank and effective rank of ΔW beside those of D."""
    gained, effective = [], []
    for adapter in cases(MiSS(RANK), seeds):
        both = [torch.linalg.svdvals(matrix) for matrix in (entries(adapter), delta(adapter))]
        small, whole = (numerical_rank(values) for values in both)
        gained.append(whole - small)
        less, more = (float(effective_rank(values)) for values in both)
        effective.append(more / less - 1)
    square = trained(MiSS(RANK), SHAPES[0], seeds[0])
    ratio = torch.linalg.svdvals(delta(square))[:RANK] / torch.linalg.svdvals(entries(square))
    return Evidence.of(
        gained,
        effective_rank_gained=[min(effective), max(effective)],
        singular_values_times=float(ratio.mean()),
        root_of_copies=(SHAPES[0][1] / RANK) ** 0.5,
    )


def mini_default(seeds: Sequence[int], device: str) -> Evidence:
    ranks = [
        numerical_rank(torch.linalg.svdvals(delta(adapter))) / RANK
        for adapter in cases(MiSS(RANK, mini=1), seeds)
    ]
    return Evidence.of(ranks, rank_asked_for=RANK)


def miss_converts(seeds: Sequence[int], device: str) -> Evidence:
    """Through files: written as a LoRA, read as one. float64 weights, float64 files."""
    apart = []
    for adapter in cases(MiSS(RANK), seeds):
        model = attach(nn.Sequential(adapter.base), MiSS(RANK), "0")
        entries(model[0]).copy_(entries(adapter))
        with tempfile.TemporaryDirectory() as folder:
            write_peft(model, folder, as_lora=True)
            (update,) = read_peft(folder).values()
            apart.append(relative(update.delta().double(), delta(adapter)))
    return Evidence.exact(max(apart), len(apart))


# --- What others' starts are ------------------------------------------------------------------


def pissa_rank(seeds: Sequence[int], device: str) -> Evidence:
    """ΔW = W − W₀ after training: its rank as a multiple of r."""
    ranks = []
    for adapter in cases(PiSSA(RANK), seeds):
        ranks.append(numerical_rank(torch.linalg.svdvals(delta(adapter))) / RANK)
    return Evidence.of([rank - 1 for rank in ranks], ranks=sorted(set(ranks)))


def biglora_defect(seeds: Sequence[int], device: str) -> Evidence:
    """LoRA's published norms c √r, fitted at its four ranks and held against rank 1024."""
    norms = published_table("initial_gradients").set_index("method")
    small = norms.loc["LoRA"]
    slopes = (small["norm"] / small["rank"] ** 0.5).to_numpy()
    big = norms.loc["BigLoRA"]
    predicted = slopes * float(big["rank"]) ** 0.5
    found = Evidence.of(1 - float(big["norm"]) / predicted)
    seen = {"published": float(big["norm"]), "by the √r line": float(predicted.mean())}
    return Evidence(found.effect, found.low, found.high, found.n, seen)


def frozen_smaller(seeds: Sequence[int], device: str) -> Evidence:
    """First gradients of both on the same weights and inputs."""
    less = []
    for shape in SHAPES:
        for seed in seeds:
            norms = []
            for method in (FullFineTuning(), FrozenFineTuning()):
                adapter = method.on(layer(shape, seed))
                x, y = drawn((16, shape[1]), seed, "x"), drawn((16, shape[0]), seed, "y")
                loss = (adapter(x) - y).square().mean()
                (matrix,) = [part for part in adapter.parameters() if part.requires_grad]
                (gradient,) = torch.autograd.grad(loss, [matrix])
                norms.append(float(gradient.norm()))
            less.append(1 - norms[1] / norms[0])
    norms_there = published_table("initial_gradients").set_index("method")["norm"]
    names = ("full fine-tuning", "frozen fine-tuning")
    return Evidence.of(less, published={name: float(norms_there[name]) for name in names})


def zero_start_saddle(seeds: Sequence[int], device: str) -> Evidence:
    """The gradient where LoRA starts (A random, B = 0), and where a saddle is (A = B = 0)."""
    at_start, at_zero = [], []
    for shape in SHAPES:
        for seed in seeds:
            adapter = LoRA(RANK).on(layer(shape, seed), generator=generator_for(seed, "A"))
            x, y = drawn((16, shape[1]), seed, "x"), drawn((16, shape[0]), seed, "y")
            at_start.append(_gradient(adapter, x, y))
            adapter.get_parameter("A").data.zero_()
            at_zero.append(_gradient(adapter, x, y))
    return Evidence.exact(max(at_start), len(at_start), at_A_and_B_zero=max(at_zero))


def _gradient(adapter: Adapter, x: Tensor, y: Tensor) -> float:
    """Norm of all first gradients, beside that of W's."""
    weight = adapter.base.weight.detach().clone().requires_grad_()
    (whole,) = torch.autograd.grad((x @ weight.mT - y).square().mean(), [weight])
    trained_ones = [p for p in adapter.parameters() if p.requires_grad]
    parts = torch.autograd.grad((adapter(x) - y).square().mean(), trained_ones)
    return float(torch.cat([part.flatten() for part in parts]).norm() / whole.norm())


ROUNDING = "float64 rounds at 1e-16; products of these sizes stay below 1e-12"
CLAIMS = (
    Claim(
        id="efficient-form",
        claim="The summing form (Eq. 4-7) computes the expansion of Eq. 2-3, only faster.",
        said="MiSS v12 §3, Eq. 2-7",
        test="how near the summing form's best D comes to an update by Eq. 3",
        unit="share of ‖ΔW‖ that is missed",
        rule=Exact(1e-9),
        because=ROUNDING,
        seconds=1,
        measure=efficient_form,
    ),
    Claim(
        id="one-layout",
        claim="Eq. 4 and the sentences around it describe one layout of the copies.",
        said="MiSS v12 §3, Eq. 4 and the sentence after Eq. 7",
        test="tiled (the equation) beside block (the sentence), the same D",
        unit="‖difference‖ / ‖ΔW‖",
        rule=Exact(1e-9),
        because=ROUNDING,
        seconds=1,
        measure=one_layout,
    ),
    Claim(
        id="figure-3-runs",
        claim="The code of Figure 3 runs.",
        said="MiSS v12 Figure 3",
        test="its expand on D (r × out), as torch has it; repeat in its place",
        unit="share of shapes on which it raises",
        rule=Exact(0.0),
        because="code runs or it does not",
        seconds=1,
        measure=figure_3_runs,
    ),
    Claim(
        id="low-rank",
        claim="MiSS's update has rank at most r.",
        said="MiSS v12 §3; README of PEFT's MiSS",
        test="the (r + 1)-th singular value of ΔW, columns and rows, tiled and block",
        unit="σ_{r+1} / σ₁",
        rule=Exact(1e-9),
        because=ROUNDING,
        seconds=1,
        measure=low_rank,
    ),
    Claim(
        id="copying-enriches",
        claim="Expanding D by copying makes the update richer than D.",
        said="MiSS v12, the prose of §3",
        test="rank of ΔW minus rank of D; effective ranks; singular values",
        unit="ranks",
        rule=Larger(0.5),
        because="a rank is a whole number",
        seconds=1,
        measure=copying_enriches,
    ),
    Claim(
        id="mini-default",
        claim="MiSS mini works as it comes, with mini_r = 1.",
        said="README of PEFT's MiSS",
        test="rank of ΔW at mini_r = 1, as a share of the r that was asked for",
        unit="rank / r",
        rule=Larger(0.5),
        because="half of the rank that was asked for is the least that one would call working",
        seconds=1,
        measure=mini_default,
    ),
    Claim(
        id="miss-converts",
        claim="A MiSS adapter is a LoRA with a fixed A, and converts to one exactly.",
        said="peft#3194",
        test="written as a LoRA folder, read again, ΔW compared",
        unit="‖difference‖ / ‖ΔW‖",
        rule=Exact(1e-6),
        because="files hold float32",
        seconds=3,
        measure=miss_converts,
    ),
    Claim(
        id="pissa-is-lora-start",
        claim="PiSSA trains an update of rank r, as LoRA does, from a better start.",
        said="PiSSA §3",
        test="rank of W − W₀ after training, as a multiple of r, less 1",
        unit="multiples of r",
        rule=Same(0.25),
        because="a quarter of r would be one direction at r = 4",
        seconds=1,
        measure=pissa_rank,
    ),
    Claim(
        id="biglora-defect",
        claim="A first gradient of 12.64 at rank 1024 shows a structural defect of LoRA.",
        said="DiSHA v6 §9.1",
        test="how far 12.64 lies below c √r, fitted to the same figure's LoRA at ranks 32 to 256",
        unit="share of the fitted value",
        rule=Larger(0.1),
        because="the figure can be read to about 3 %",
        seconds=1,
        measure=biglora_defect,
        seeds=1,
    ),
    Claim(
        id="frozen-smaller",
        claim="The first gradient of a frozen W₀ + M is slightly smaller than that of W.",
        said="DiSHA v6 Figure 1",
        test="both on the same weights and inputs",
        unit="share by which it is smaller",
        rule=Larger(0.01),
        because="published are 23.7 and 24.9, 5 % apart",
        seconds=1,
        measure=frozen_smaller,
    ),
    Claim(
        id="zero-start-saddle",
        claim="LoRA starts at a saddle, where the gradient is zero.",
        said="folklore",
        test="the gradient at B = 0 with A as drawn, beside W's",
        unit="norm / norm of W's gradient",
        rule=Exact(1e-9),
        because=ROUNDING,
        seconds=1,
        measure=zero_start_saddle,
    ),
)
