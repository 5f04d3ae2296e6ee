"""First gradients, their variance and Bat's cosines per layer, against definitions and by hand."""

import doctest
import inspect
import math

import pytest
import torch
from helpers import raises_one_sentence, random
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_transformer import Transformer, some_words
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import missviz as mv
from missviz.adapters.base import Method
from missviz.adapters.linear import linear_with
from missviz.analysis import bat_cosines, gradient_variance, layer_gradients
from missviz.analysis.gradient_laws import bat_law
from missviz.analysis.network_laws import first_gradient_law
from missviz.analysis.shards import mean_cosine, shard_cosines
from missviz.randomness import generator_for, normal
from missviz.testing import random_linear

WORDS = some_words(6, 5)


def loss_on(model, words: Tensor = WORDS) -> Tensor:
    return cross_entropy(model(words[:, :-1]).flatten(0, 1), words[:, 1:].flatten())


@pytest.mark.parametrize("name", mv.analysis.__all__)
def test_the_examples_run(name: str) -> None:
    function = getattr(mv.analysis, name)
    found = doctest.DocTestFinder(recurse=False).find(function, name, inspect.getmodule(function))
    outcome = doctest.DocTestRunner().run(found[0])
    assert outcome.attempted > 1
    assert outcome.failed == 0


# --- Laws -------------------------------------------------------------------------------------


def ratios(method: Method, weight: Tensor, gradient: Tensor, seeds: int = 1) -> tuple[float, float]:
    """Root mean square over seeds of ‖∂L/∂θ‖/‖G‖ for L = ⟨W, G⟩, whose ∂L/∂W is G; and the law."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False).double()
    layer.weight.data = weight
    table = layer_gradients(layer, lambda m: (m.weight * gradient).sum(), [method], seeds)
    rows = table[table["module"] == ""]
    return float((rows["ratio"] ** 2).mean() ** 0.5), float(rows["law"].iloc[0])


@pytest.mark.parametrize(
    "method",
    [
        mv.LoRA(4),
        mv.LoRA(4, alpha=10.0),
        mv.LoRA(4, alpha=10.0, rslora=True),
        mv.LoRA(4, init="gaussian"),
        mv.LoRA(4, freeze_a=True),
        mv.LoRAPlus(4),
        mv.DoRA(4),
        mv.DoRA(4, alpha=10.0),
        mv.DoRA(4, norm_gradient=True),
        mv.DoRA(4, norm="columns"),
        mv.FixedFactor(4, "orthogonal"),
        mv.FixedFactor(4, "orthogonal", gain=3.0),
        mv.FixedFactor(4, "gaussian"),
    ],
    ids=str,
)
def test_laws_over_random_starts_hold_for_every_gradient(method: Method) -> None:
    weight = random(20, 24, seed=1)
    # A part along W₀'s rows and columns, which is what DoRA's lengths see.
    measured, law = ratios(method, weight, random(20, 24, seed=2) + 0.5 * weight, 200)
    assert measured == pytest.approx(law, rel=0.03)


@pytest.mark.parametrize("norm", ["rows", "columns"])
@pytest.mark.parametrize("moving", [False, True])
def test_dora_s_two_gradients_tell_lengths_from_directions(norm: str, moving: bool) -> None:
    """With G along W₀ only lengths have a gradient where ‖V‖ moves, and A's part stays elsewhere."""
    weight = random(20, 24, seed=1)
    method = mv.DoRA(4, norm=norm, norm_gradient=moving)
    dim = -1 if norm == "rows" else -2
    measured, law = ratios(
        method, weight, weight / torch.linalg.norm(weight, dim=dim, keepdim=True), 200
    )
    assert measured == pytest.approx(law, rel=0.02)
    assert law == pytest.approx(1.0 if moving else math.sqrt(1 + 4 / 72), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        *(mv.MiSS(4), mv.MiSS(4, layout="block")),
        *(mv.MiSS(4, share="rows"), mv.MiSS(4, share="rows", layout="tiled")),
        *(mv.FixedFactor(4, "tiled"), mv.FixedFactor(4, "block", gain=1.5)),
        *(mv.Bat(4), mv.Bat(4, index="input"), mv.Bat(4, side="left"), mv.PiSSA(4, alpha=8.0)),
        *(mv.FrozenFineTuning(), mv.FullFineTuning()),
    ],
    ids=str,
)
@pytest.mark.parametrize("shared", [0.0, 0.6])
def test_laws_over_gradients_hold_on_average(method: Method, shared: float) -> None:
    """G has independent entries, and one number added to all of them: its columns and its rows
    correlate."""
    squares, laws = 0.0, 0.0
    for seed in range(150):
        gradient = random(20, 24, seed=seed) + shared
        weight = 0.5 * random(20, 24, seed=1000 + seed)
        adapter = method.on(linear_with(weight))
        trained = [p for p in adapter.parameters() if p.requires_grad]
        found = torch.autograd.grad((adapter.weight * gradient).sum(), trained)
        squares += sum(float(g.square().sum()) for g in found) / float(gradient.square().sum())
        laws += first_gradient_law(method, weight, gradient) ** 2
    assert math.sqrt(squares / laws) == pytest.approx(1, rel=0.02)


def test_bat_s_law_is_miss_s_without_a_weight() -> None:
    gradient = random(20, 24) + 0.5
    _, law = ratios(mv.Bat(4), torch.zeros(20, 24).double(), gradient)
    assert law == ratios(mv.MiSS(4), torch.zeros(20, 24).double(), gradient)[1]
    assert bat_law(4, 24, 0.0, 0.5) == pytest.approx(math.sqrt(1 + 0.25 * 4))


@pytest.mark.parametrize(
    "method", [mv.VeRA(4), mv.MiSS(4, mini=2), mv.FullFineTuning(bias=True), mv.LoHa(2)], ids=str
)
def test_where_no_law_is_known_there_is_none(method: Method) -> None:
    assert math.isnan(first_gradient_law(method, random(4, 4), random(4, 4)))


def test_a_reader_s_method_brings_its_law() -> None:
    class Mine(mv.LoRA):
        pass

    @first_gradient_law.register
    def _(method: Mine, weight: Tensor, gradient: Tensor) -> float:
        return 7.0

    assert ratios(Mine(2), random(4, 4), random(4, 4))[1] == 7.0


def test_layers_of_a_transformer() -> None:
    model = Transformer().double()
    methods = [mv.LoRA(2), mv.MiSS(2), mv.FrozenFineTuning(), mv.VeRA(2)]
    table = layer_gradients(model, loss_on, methods, 2, targets=["query", "up"])
    norms = mv.initial_gradient_norms(model, loss_on, methods, None, 2, targets=["query", "up"])
    assert table["norm"].tolist() == norms["norm"].tolist()
    names = ["blocks.0.query", "blocks.0.up", "blocks.1.query", "blocks.1.up"]
    weights = [model.get_submodule(name).weight for name in names]
    for name, G in zip(names, torch.autograd.grad(loss_on(model), weights), strict=True):
        rows = table[table["module"] == name]
        assert rows["full"].tolist() == pytest.approx([float(torch.linalg.norm(G))] * len(rows))
    frozen = table[table["method"] == "frozen fine-tuning"]
    assert frozen["ratio"].tolist() == pytest.approx([1.0] * 10)
    assert frozen["law"].tolist() == pytest.approx([1.0] * 10)
    lora = table[(table["method"] == "LoRA r=2") & (table["module"] == "*")]
    assert lora["law"].tolist() == pytest.approx([math.sqrt(2 / (3 * 8))] * 2)
    assert table[table["method"] == "VeRA r=2"]["law"].isna().all()


def test_a_layer_that_the_loss_does_not_see_has_no_ratio() -> None:
    model = nn.Sequential(random_linear(4, 4, torch.float64), random_linear(4, 4, torch.float64))
    table = layer_gradients(model, lambda m: m[0](random(3, 4)).sum(), [mv.MiSS(2)])
    rows = table.set_index("module")
    assert math.isnan(rows["ratio"]["1"])
    assert math.isnan(rows["law"]["1"])
    assert rows["law"]["*"] == rows["law"]["0"]


def test_one_method_is_no_list_here_either() -> None:
    raises_one_sentence(
        lambda: layer_gradients(Transformer(), loss_on, mv.MiSS(2)), TypeError, "is one method"
    )


# --- Variance of minibatch gradients ----------------------------------------------------------


def test_variance_by_hand() -> None:
    """L = b w has ∂L/∂w = b: of batches 1 and 3 the mean is 2, and each is 1 off."""
    layer = nn.Linear(1, 1, bias=False).double()
    table = gradient_variance(
        layer, lambda m, b: (b * m.weight).sum(), [1.0, 3.0], [mv.FrozenFineTuning()]
    )
    row = table.set_index("module").loc[""]
    assert (row["mean_square"], row["variance"], row["ratio"]) == (4, 1, 0.25)
    assert (row["num_parameters"], row["batches"]) == (1, 2)


@settings(max_examples=4)
@given(count=st.integers(2, 6), seed=st.integers(0, 1000))
def test_variance_from_all_gradients_at_once(count: int, seed: int) -> None:
    model = Transformer().double()
    batches = [some_words(2, 4, seed=seed + index) for index in range(count)]
    methods = [mv.LoRA(2), mv.PiSSA(2), mv.Bat(2)]
    table = gradient_variance(model, loss_on, batches, methods, [5], targets=["value", "down"])
    rows = table.set_index(["method", "module"])
    for method in methods:
        attached = mv.attach(model, method, ["value", "down"], seed=5)
        trained = {n: p for n, p in attached.named_parameters() if p.requires_grad}
        found = [torch.autograd.grad(loss_on(attached, b), [*trained.values()]) for b in batches]
        for module in ("blocks.0.value", "blocks.1.down", "*"):
            own = [n.startswith(f"{module}.") or module == "*" for n in trained]
            each = torch.stack(
                [
                    torch.cat([g.reshape(-1) for g, is_own in zip(gs, own, strict=True) if is_own])
                    for gs in found
                ]
            )
            mean = each.mean(0)
            row = rows.loc[method.name, module]
            assert row["mean_square"] == pytest.approx(float(mean.square().sum()), rel=1e-9)
            spread = (each - mean).square().sum(1).mean()
            assert row["variance"] == pytest.approx(float(spread), rel=1e-9)
            assert row["ratio"] == pytest.approx(float(spread / mean.square().sum()), rel=1e-9)


def test_batches_of_four_times_the_points_vary_a_fourth() -> None:
    layer, x = random_linear(6, 8, torch.float64), random(6400, 8) + 0.2

    def loss(model, points: Tensor) -> Tensor:
        return model(points).square().sum(-1).mean()

    ratio = {
        size: gradient_variance(layer, loss, x.split(size), [mv.MiSS(4)])["ratio"].iloc[0]
        for size in (8, 32)
    }
    assert ratio[8] / ratio[32] == pytest.approx(4, rel=0.15)


def test_a_gradient_of_zero_has_no_ratio() -> None:
    layer = nn.Linear(2, 2).double()
    table = gradient_variance(
        layer, lambda m, b: b * m(torch.ones(1, 2).double()).sum(), [1, -1], [mv.MiSS(2)]
    )
    assert table["ratio"].isna().all()
    assert (table["variance"] > 0).all()


def test_a_method_that_starts_from_a_gradient_gets_one() -> None:
    batches = [some_words(2, 4, seed=seed) for seed in range(3)]
    table = gradient_variance(Transformer(), loss_on, batches, [mv.LoRAGA(2)], targets="query")
    assert table["ratio"].gt(0).all()


def test_one_batch_has_no_variance() -> None:
    raises_one_sentence(
        lambda: gradient_variance(Transformer(), loss_on, [WORDS], [mv.MiSS(2)]),
        ValueError,
        "batches has 1; a variance takes two or more",
    )


# --- Bat's cosines ----------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("omega", [0.1, 0.5, 2.0])
def test_bat_s_cosine_follows_its_law_on_random_weights(side: str, omega: float) -> None:
    layer = nn.Linear(128, 128, bias=False).double()
    layer.weight.data = omega * random(128, 128)
    table = bat_cosines(layer, mv.Bat(8, side=side), 5)
    assert table["law"].tolist() == pytest.approx([1 / (1 + omega**2 * 8)] * 5, rel=0.02)
    assert table["cosine"].mean() == pytest.approx(table["law"].mean(), rel=0.06)


def test_cosines_per_layer_are_those_of_all_pairs() -> None:
    model = Transformer().double()
    table = bat_cosines(model, mv.Bat(2), [7], targets=["query", "down"])
    assert table["module"].tolist() == [
        f"blocks.{block}.{name}" for block in (0, 1) for name in ("query", "down")
    ]
    for row in table.itertuples():
        adapter = mv.Bat(2).on(model.get_submodule(row.module))
        shape = tuple(adapter.D.shape)
        adapter.D.data = normal(shape, 1.0, generator_for("bat_cosines", 7, row.module))
        wanted = mean_cosine(shard_cosines(adapter.delta(), 2))
        assert row.cosine == pytest.approx(wanted, rel=1e-9)
        weight = model.get_submodule(row.module).weight.detach()
        assert row.omega == pytest.approx(float(weight.square().mean().sqrt()))
    again = bat_cosines(model, mv.Bat(2), [3, 7], targets=["query"])
    assert again["cosine"].iloc[2] == table["cosine"].iloc[0]


def test_a_weight_with_structure_leaves_the_law() -> None:
    """Where all blocks of W₀ are equal, so are all shards of ΔW, however large W₀ is."""
    layer = nn.Linear(32, 32, bias=False).double()
    layer.weight.data = random(4, 4).repeat(8, 8)
    table = bat_cosines(layer, mv.Bat(4))
    assert table["cosine"].item() == pytest.approx(1)
    assert table["law"].item() < 0.4


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        (mv.MiSS(4), TypeError, "is no Bat"),
        (mv.Bat(4, index="input"), ValueError, "do not share D"),
        (mv.Bat(3), ValueError, "blocks.0.query: block_size=3 does not divide"),
    ],
)
def test_bad_input(method: Method, error: type[Exception], message: str) -> None:
    raises_one_sentence(lambda: bat_cosines(Transformer(), method, targets="query"), error, message)
