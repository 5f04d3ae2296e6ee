"""Models stacked on one frozen base give what each gives alone: outputs, gradients, training."""

import copy
from collections.abc import Callable, Sequence

import hypothesis.strategies as st
import pytest
import torch
from helpers import close, raises_one_sentence, random
from hypothesis import given
from methods_under_test import IDS, VARIANTS, methods_and_shapes
from own_methods import OWN
from tiny_transformer import FEATURES, NAMES, Transformer, some_words
from torch import Tensor, nn

import missviz as mv
from missviz.adapters.base import Adapter, Method
from missviz.adapters.stacking import unstack
from missviz.testing import randomise

MEMBERS, BATCH, TOKENS = 3, 2, 5
WORDS = some_words(MEMBERS * BATCH, TOKENS)
TARGETS = some_words(MEMBERS * BATCH, TOKENS, seed=1)


def loss_of(scores: Tensor, targets: Tensor = TARGETS) -> Tensor:
    return nn.functional.cross_entropy(scores.flatten(0, -2), targets.flatten())


def members_of(
    base: nn.Module,
    method: Method,
    targets: Sequence[str] = NAMES,
    *,
    moved: bool = True,
    trainable: Sequence[str] = (),
) -> list[nn.Module]:
    """Adapted copies of `base`, each from another start and, if `moved`, off it."""
    calibration = None
    if method.needs_gradient:

        def calibration(model: nn.Module) -> Tensor:  # type: ignore[misc]
            return loss_of(model(WORDS))

    models = [
        mv.attach(base, method, targets, seed=seed, trainable=trainable, calibration=calibration)
        for seed in range(MEMBERS)
    ]
    for seed, model in enumerate(models):
        for name, part in model.named_modules():
            if moved and isinstance(part, Adapter):
                randomise(part, f"{name} {seed}", std=0.1)
    return models


def fits(method: Method) -> bool:
    try:
        for shape in ((FEATURES, FEATURES), (2 * FEATURES, FEATURES), (FEATURES, 2 * FEATURES)):
            method.check_shape(*shape)
    except ValueError:
        return False
    return True


def trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def parts(x: Tensor) -> Sequence[Tensor]:
    return x.unflatten(0, (MEMBERS, -1)).unbind()


def step_alike(models: Sequence[nn.Module], stacked: nn.Module, steps: int) -> None:
    """Train members alone and stacked, by the same rule."""

    def go_on(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> None:
        optimiser = torch.optim.SGD(trained(model).values(), lr=0.01, momentum=0.9)
        for step in range(1, steps + 1):
            optimiser.zero_grad()
            (loss(model) + mv.penalty(model).sum()).backward()
            optimiser.step()
            mv.after_step(model, step)

    for model, words, targets in zip(models, parts(WORDS), parts(TARGETS), strict=True):
        go_on(model, lambda model, words=words, targets=targets: loss_of(model(words), targets))

    def of_all(model: nn.Module) -> Tensor:
        scores = parts(model(WORDS))
        return torch.stack(
            [loss_of(*pair) for pair in zip(scores, parts(TARGETS), strict=True)]
        ).sum()

    go_on(stacked, of_all)


@pytest.mark.parametrize("method", VARIANTS, ids=IDS)
def test_a_stack_on_one_base_is_its_members(method: Method) -> None:
    if not fits(method):
        method = method.with_rank(2)
    base = Transformer().double()
    models = members_of(base, method, moved=not method.needs_gradient)
    stacked = mv.stack(models)
    adapters = [part for part in stacked.modules() if isinstance(part, Adapter)]
    assert len(adapters) == 2 * len(NAMES)
    frozen = {tensor.data_ptr() for tensor in base.parameters()}
    assert all(one.base.weight.dim() == 2 for one in adapters)
    assert all(one.base.weight.data_ptr() in frozen for one in adapters)
    y = stacked(WORDS)
    ys = [model(words) for model, words in zip(models, parts(WORDS), strict=True)]
    assert close(y, torch.cat(ys))
    pull = random(*y.shape, seed=4)
    found = torch.autograd.grad((y * pull).sum(), list(trained(stacked).values()))
    alone = [
        torch.autograd.grad((one * part).sum(), list(trained(model).values()))
        for one, part, model in zip(ys, parts(pull), models, strict=True)
    ]
    for together, single in zip(found, zip(*alone, strict=True), strict=True):
        assert close(together, torch.stack(single))


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        mv.LoRA(2),
        mv.LoRAPlus(2),
        mv.PiSSA(2),
        mv.MiSS(4),
        mv.Bat(4),
        mv.Bat(4, side="left"),
        mv.DoRA(2),
        mv.VeRA(5),
        mv.MoS(2, 2),
        mv.AdaLoRA(2, target_rank=1, total_steps=6),
        mv.FullFineTuning(),
        *OWN,
    ],
    ids=str,
)
@pytest.mark.parametrize("trainable", [(), ("head", "second", "embedding")], ids=["", "more"])
def test_trained_together_as_alone(method: Method, trainable: Sequence[str]) -> None:
    """With layers without an adapter trained as well: a linear one, norms, an embedding."""
    models = members_of(Transformer().double(), method, moved=False, trainable=trainable)
    for seed, model in enumerate(models):
        for part in model.modules():
            if isinstance(part, Adapter):
                randomise(part, seed, std=0.05)
    stacked = mv.stack(models)
    before = torch.cat([model(words) for model, words in zip(models, parts(WORDS), strict=True)])
    assert close(stacked(WORDS), before)
    step_alike(models, stacked, steps=6)
    after = [model(words) for model, words in zip(models, parts(WORDS), strict=True)]
    assert not close(torch.cat(after), before, 1e-6)
    assert close(stacked(WORDS), torch.cat(after))
    for index, (model, y) in enumerate(zip(models, after, strict=True)):
        single = unstack(stacked, index, models[0])
        assert close(single(parts(WORDS)[index]), y)
        for name, tensor in trained(single).items():
            assert close(tensor, model.get_parameter(name)), name


def test_the_models_and_their_base_stay_as_they_are() -> None:
    base = Transformer().double()
    models = members_of(base, mv.MiSS(4), trainable=["head"])
    before = [copy.deepcopy(model.state_dict()) for model in [base, *models]]
    stacked = mv.stack(models)
    with torch.no_grad():
        for parameter in trained(stacked).values():
            parameter.add_(1)
    for model, state in zip([base, *models], before, strict=True):
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, state[name])


@given(methods_and_shapes(), st.integers(1, 4), st.integers(0, 3), st.booleans())
def test_one_layer_of_any_shape(
    drawn: tuple[Method, int, int], members: int, rows: int, share: bool
) -> None:
    method, out_features, in_features = drawn
    linear = nn.Linear(in_features, out_features, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(random(out_features, in_features))
        linear.bias.copy_(random(out_features))
    x, models = random(members * rows, 2, in_features), []
    for seed in range(members):
        calibration = (
            (lambda model: model(x).square().sum() + model(x[:0]).sum())
            if method.needs_gradient
            else None
        )
        if method.needs_gradient and not rows:
            return
        models.append(mv.attach(linear, method, seed=seed, calibration=calibration))
        randomise(models[-1], seed)
    stacked = mv.stack(models, share=share)
    each = x.unflatten(0, (members, rows))
    alone = torch.cat([model(part) for model, part in zip(models, each, strict=True)])
    assert close(stacked(x), alone, 1e-11)
    assert stacked.base.weight.dim() == (2 if share else 3)


def test_members_of_different_bases_have_a_weight_each() -> None:
    models = [
        mv.attach(Transformer(seed=seed).double(), mv.MiSS(4), ["query"]) for seed in range(2)
    ]
    with pytest.raises(ValueError, match="embedding: the models have different frozen numbers"):
        mv.stack(models)
    linears = [mv.attach(nn.Linear(8, 4).double(), mv.MiSS(2), seed=seed) for seed in range(2)]
    x = random(6, 8)
    stacked = mv.stack(linears)
    assert stacked.base.weight.shape == (2, 4, 8)
    alone = torch.cat([linear(part) for linear, part in zip(linears, x.chunk(2), strict=True)])
    assert close(stacked(x), alone)


class Gate(nn.Module):
    """A number of its own beside a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.layer = nn.Parameter(torch.ones(4)), nn.Linear(4, 4)


def test_what_cannot_be_stacked_is_said() -> None:
    linear = nn.Linear(8, 4)
    one = mv.attach(linear, mv.MiSS(2))
    attention = mv.attach(nn.MultiheadAttention(8, 2), mv.MiSS(2), "out_proj")
    gated = mv.attach(Gate(), mv.MiSS(2), "layer", trainable=["gate"])
    own = mv.attach(linear, OWN[2])
    cases = [
        ([], ValueError, "models is empty"),
        ([one, 3], TypeError, "models has 3, which is not an nn.Module"),
        ([one, mv.attach(linear, mv.LoRA(2))], ValueError, "the models are not alike"),
        ([one, mv.attach(linear, mv.MiSS(4))], ValueError, "the models are not alike"),
        ([one, linear], ValueError, "the models are not alike"),
        ([attention, attention], ValueError, "out_proj: nn.MultiheadAttention reads the weight"),
        ([gated, gated], ValueError, "gate of a Gate cannot have members"),
    ]
    for models, error, message in cases:
        raises_one_sentence(lambda models=models: mv.stack(models), error, message)
    assert mv.stack([own, own])(torch.ones(2, 8)).shape == (2, 4)
    for pair in ([one, one], [own, own]):
        raises_one_sentence(
            lambda pair=pair: mv.stack(pair)(torch.ones(5, 8)),
            ValueError,
            "x of shape (5, 8) does not divide among 2 members",
        )


@pytest.mark.slow
@pytest.mark.parametrize("method", [mv.MiSS(4), mv.PiSSA(2), mv.Bat(4), mv.DoRA(2)], ids=str)
def test_a_stack_compiles(method: Method) -> None:
    stacked = mv.stack(members_of(Transformer().double(), method))
    assert close(torch.compile(stacked, backend="aot_eager")(WORDS), stacked(WORDS))


@pytest.mark.parametrize("method", [mv.MiSS(4), mv.PiSSA(2), mv.Bat(4), mv.DoRA(2)], ids=str)
def test_a_stack_in_bfloat16(method: Method) -> None:
    models = members_of(Transformer().bfloat16(), method)
    alone = torch.cat([model(words) for model, words in zip(models, parts(WORDS), strict=True)])
    assert close(mv.stack(models)(WORDS), alone, 5e-2)
