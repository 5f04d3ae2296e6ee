"""Every method keeps the contract, on random shapes, dtypes and batch dimensions."""

import copy
import pickle
from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from methods_under_test import IDS, VARIANTS, methods_and_shapes
from torch import nn

import missviz as mv
from missviz.adapters.base import Adapter, Method
from missviz.adapters.started import StartedProduct
from missviz.testing import TOLERANCES, bound, check_method, random_linear, randomise

DTYPES = [torch.float64, torch.float32, torch.bfloat16]


@pytest.mark.parametrize("method", VARIANTS, ids=IDS)
def test_every_variant_keeps_the_contract(method: Method) -> None:
    check_method(method)


@pytest.mark.slow
@given(case=methods_and_shapes(), dtype=st.sampled_from(DTYPES))
def test_contract_on_random_settings(case: tuple[Method, int, int], dtype: torch.dtype) -> None:
    method, out_features, in_features = case
    check_method(method, [(out_features, in_features)], [dtype])


@given(
    case=methods_and_shapes(),
    dtype=st.sampled_from(DTYPES),
    batch=st.lists(st.integers(1, 3), max_size=3),
    seed=st.integers(0, 5),
)
def test_forward_minus_linear_is_x_times_delta(
    case: tuple[Method, int, int], dtype: torch.dtype, batch: list[int], seed: int
) -> None:
    method, out_features, in_features = case
    linear = random_linear(out_features, in_features, dtype)
    adapter = method.on(linear, generator=torch.Generator().manual_seed(seed))
    randomise(adapter, seed)
    x = torch.randn(*batch, in_features, generator=torch.Generator().manual_seed(seed)).to(dtype)
    with torch.no_grad():
        y = adapter(x)
        moved = y.double() - linear(x).double()
        wanted = x.double() @ adapter.delta().double().mT
        if getattr(method, "bias", False):
            wanted = wanted + (adapter.bias - linear.bias).double()
    assert moved.shape == (*batch, out_features)
    scale = max(1.0, float(y.abs().max()))
    assert float((moved - wanted).abs().max()) <= TOLERANCES[dtype] * scale


@given(case=methods_and_shapes())
def test_spectrum_equals_singular_values_of_delta(case: tuple[Method, int, int]) -> None:
    method, out_features, in_features = case
    adapter = method.on(random_linear(out_features, in_features, torch.float64))
    randomise(adapter)
    values, dense = mv.spectrum(adapter), torch.linalg.svdvals(adapter.delta().detach())
    assert values.shape == dense.shape
    assert values.dtype == torch.float64
    assert float((values - dense).abs().max()) <= 1e-12 * max(1.0, float(dense[0]))


def test_names_are_unique() -> None:
    assert len({method.name for method in VARIANTS}) == len(VARIANTS)


def test_methods_are_values() -> None:
    assert mv.MiSS(4) == mv.MiSS(4, layout="tiled")
    assert mv.MiSS(4, form="expand") == mv.MiSS(4)
    assert hash(mv.MiSS(4, form="expand")) == hash(mv.MiSS(4))
    assert mv.MiSS(4, form="expand").name == mv.MiSS(4).name
    assert mv.MiSS(4) != mv.MiSS(4, layout="block")
    assert mv.LoRA(4) != mv.PiSSA(4)
    assert str(mv.MiSS(4, mini=2)) == "MiSS mini 4×2"
    with pytest.raises(AttributeError):
        mv.MiSS(4).rank = 5  # type: ignore[misc]


@pytest.mark.parametrize("method", VARIANTS, ids=IDS)
def test_pickle_keeps_method_and_adapter(method: Method) -> None:
    assert pickle.loads(pickle.dumps(method)) == method
    adapter = bound(method, random_linear(8, 12, torch.float64))
    randomise(adapter)
    x = torch.ones(12, dtype=torch.float64)
    assert torch.equal(pickle.loads(pickle.dumps(adapter))(x), adapter(x))


@pytest.mark.slow
@pytest.mark.parametrize("method", VARIANTS, ids=IDS)
def test_compiles_without_graph_breaks(method: Method) -> None:
    torch.compiler.reset()
    adapter = bound(method, random_linear(8, 12, torch.float64))
    randomise(adapter)
    compiled = torch.compile(adapter, backend="aot_eager", fullgraph=True)
    x = torch.ones(2, 3, 12, dtype=torch.float64)
    eager = adapter(x)
    assert torch.allclose(compiled(x), eager, atol=1e-12)
    trained = [parameter for parameter in adapter.parameters() if parameter.requires_grad]
    slow = torch.autograd.grad(eager.square().sum(), trained)
    fast = torch.autograd.grad(compiled(x).square().sum(), trained)
    for left, right in zip(slow, fast, strict=True):
        assert torch.allclose(left, right, atol=1e-10)


@pytest.mark.parametrize("method", VARIANTS, ids=IDS)
def test_moves_to_another_dtype(method: Method) -> None:
    adapter = bound(method, random_linear(8, 12, torch.float32))
    randomise(adapter)
    x = torch.ones(2, 12)
    wide = copy.deepcopy(adapter).double()
    assert wide(x.double()).dtype == torch.float64
    assert torch.allclose(wide(x.double()).float(), adapter(x), atol=1e-5)


@pytest.mark.parametrize("method", VARIANTS, ids=IDS)
def test_trains_inside_autocast(method: Method) -> None:
    adapter = bound(method, random_linear(8, 12, torch.float32))
    randomise(adapter)
    x = torch.linspace(-1, 1, 2 * 3 * 12).view(2, 3, 12).requires_grad_(True)
    wanted = [x, *(parameter for parameter in adapter.parameters() if parameter.requires_grad)]
    exact = adapter(x)
    with torch.autocast("cpu", torch.bfloat16):
        rough = adapter(x)
    assert torch.allclose(rough.float(), exact, atol=0.1)
    slow = torch.autograd.grad(exact.square().sum(), wanted)
    fast = torch.autograd.grad(rough.float().square().sum(), wanted)
    for left, right in zip(slow, fast, strict=True):
        assert right.dtype == torch.float32
        assert (left - right).norm() <= 0.1 * left.norm()


@pytest.mark.cuda
@pytest.mark.parametrize("method", VARIANTS, ids=IDS)
def test_cuda_equals_cpu(method: Method) -> None:
    linear = random_linear(8, 12, torch.float64)
    here, there = bound(method, linear), bound(method, copy.deepcopy(linear).cuda())
    randomise(here)
    randomise(there)
    x = torch.ones(2, 3, 12, dtype=torch.float64)
    assert there.weight.is_cuda
    # The signs of an SVD or QR may differ between devices, and with them the random step.
    if not isinstance(method, StartedProduct):
        assert torch.allclose(there(x.cuda()).cpu(), here(x), atol=1e-10)
    assert torch.allclose(there(x.cuda()), x.cuda() @ there.weight.mT + there.bias, atol=1e-10)


# --- The checker itself can fail ----------------------------------------------------------------


@dataclass(frozen=True)
class Tenth(Method):
    """The reader's own method: ΔW = c · W₀, one number. Variants below break one rule each."""

    fault: str = ""

    @property
    def name(self) -> str:
        return f"tenth {self.fault}"

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return 2 if self.fault == "count" else 1

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return 1 if self.fault == "rank" else min(out_features, in_features)

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> "TenthAdapter":
        return TenthAdapter(self, base)


class TenthAdapter(Adapter):
    def __init__(self, method: Tenth, base: nn.Linear) -> None:
        super().__init__(method, base)
        self.c = self.zeros(1)
        self.fault = method.fault
        if self.fault == "start":
            self.c.data += 1
        if self.fault == "global RNG":
            torch.rand(1)
        if self.fault == "changes the layer":
            base.weight.data += 1

    @property
    def stackable(self) -> bool:  # type: ignore[override]
        return self.fault == "stack"

    def delta(self) -> torch.Tensor:
        return self.c * self.base.weight

    def factors(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        if self.fault == "factors":
            return self.base.weight, torch.eye(self.in_features).to(self.base.weight)
        return None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fault == "view":
            x.view(-1)
        if self.fault == "changes what is kept":
            (y, z), _ = self.begun(x)
            return y.add_(self.correction(z)).reshape(*x.shape[:-1], self.out_features)
        if self.fault == "changes x" and self.memory is not None:
            return super().forward(x) + 0 * x.detach().mul_(2).sum()
        return super().forward(x)

    def frozen(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.fault == "a trained number in frozen":
            return self.base(x) + x @ self.base.weight.mT * self.c, 0 * x
        return super().frozen(x)

    def correction(self, x: torch.Tensor) -> torch.Tensor:
        c = self.c.detach() if self.fault == "gradient" else self.c
        y = x @ self.base.weight.mT * c
        if self.fault == "late RNG":
            y = y + 0 * torch.rand(1).item()
        if self.fault == "value branch" and self.c.abs().sum() > 9:
            y = y + 1
        if self.fault == "eval" and not self.training:
            y = 2 * y
        return y * 1.001 if self.fault == "forward" else y


def test_checker_passes_the_readers_own_method() -> None:
    check_method(Tenth())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("count", "num_parameters"),
        ("rank", "rank_bound"),
        ("start", "before training"),
        ("global RNG", "global RNG"),
        ("changes the layer", "own weight must not change"),
        ("factors", "left @ right"),
        ("gradient", "finite differences"),
        ("forward", "forward must be"),
        ("late RNG", "global RNG"),
        ("value branch", "raised RuntimeError"),
        ("view", "raised RuntimeError"),
        ("eval", "eval mode"),
        ("changes what is kept", "a second forward on the same x gives something else"),
        ("a trained number in frozen", "`frozen` gives must not depend on trained"),
        ("changes x", "must not change x"),
    ],
)
def test_checker_finds_each_fault(fault: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_method(Tenth(fault), dtypes=[torch.float64])


def test_checker_finds_a_false_stackable() -> None:
    with pytest.raises((AssertionError, RuntimeError)):
        check_method(Tenth("stack"), dtypes=[torch.float64])


def test_checker_refuses_other_things() -> None:
    with pytest.raises(TypeError, match="is not a missviz method"):
        check_method(nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing would be checked"):
        check_method(mv.MiSS(2), shapes=[])
    with pytest.raises(ValueError, match=r"dtypes has torch\.int8"):
        check_method(mv.MiSS(2), dtypes=[torch.int8])
