"""The same code on another device: a stand-in that demands what a GPU demands, and on CUDA itself."""

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from methods_under_test import IDS, VARIANTS
from stand_in_device import StandIn
from torch import Tensor, nn

import missviz as mv
from missviz.adapters.base import Method
from missviz.adapters.loraga import LoRAGA
from missviz.testing import bound, random_linear, randomise

FEW: list[Method] = [
    mv.LoRA(2),
    mv.PiSSA(2),
    mv.DoRA(2),
    mv.VeRA(4),
    mv.AdaLoRA(2, target_rank=1, total_steps=5),
    mv.MoS(2, 3, shards_per_vector=2),
    mv.FixedFactor(4, "orthogonal"),
    mv.S2FT(2),
    mv.MiSS(4),
    mv.Bat(4),
]


@pytest.fixture(params=["stand-in", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "cuda":
        yield "cuda"
        return
    # Autocast exists for real devices alone.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    with StandIn():
        yield "meta"


def workers(device: str) -> Executor:
    """Threads in which the device is there too."""
    return ThreadPoolExecutor(1, initializer=StandIn().__enter__ if device == "meta" else None)


def model() -> nn.Module:
    layers = [random_linear(12, 8, torch.float64), nn.ReLU(), random_linear(8, 12, torch.float64)]
    return nn.Sequential(*layers)


def same(device: str, work: Callable[[nn.Module], Tensor]) -> None:
    """`work` gives there what it gives here, and leaves it there."""
    here, there = work(model()), work(model().to(device))
    assert there.device.type == torch.device(device).type
    assert torch.allclose(there.cpu(), here, atol=1e-9)


def attached(base: nn.Module, method: Method) -> nn.Module:
    adapted = mv.attach(base, method)
    randomise(adapted)
    return adapted


def inputs(like: nn.Module) -> Tensor:
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x.to(next(like.parameters()).device)


def test_the_stand_in_can_fail(device: str) -> None:
    x, far = torch.ones(3), torch.ones(3, device=device)
    for mistake in (
        lambda: far + x,
        lambda: far.numpy(),
        lambda: torch.rand(3, device=device, generator=torch.Generator()),
        lambda: torch.stack([far, x]),
    ):
        with pytest.raises((RuntimeError, TypeError)):
            mistake()
    assert (far + torch.tensor(1.0)).cpu().tolist() == [2.0, 2.0, 2.0]
    assert float(far.sum()) == 3.0


@pytest.mark.parametrize("method", VARIANTS, ids=IDS)
def test_an_adapter(method: Method, device: str) -> None:
    linear = random_linear(8, 12, torch.float64)
    here, there = bound(method, linear), bound(method, copy.deepcopy(linear).to(device))
    for adapter in (here, there):
        randomise(adapter)
    x = torch.ones(2, 3, 12, dtype=torch.float64)
    y = there(x.to(device))
    y.square().sum().backward()
    assert there.spectrum().device.type == torch.device(device).type
    assert torch.allclose(y, x.to(device) @ there.weight.mT + there.bias, atol=1e-10)
    # LoRA-GA's start depends on the signs of an SVD; on a GPU so do all that start from one.
    if not isinstance(method, LoRAGA) and device == "meta":
        assert torch.allclose(y.cpu(), here(x), atol=1e-10)


@pytest.mark.parametrize("method", FEW, ids=str)
def test_attach_train_and_merge(method: Method, device: str) -> None:
    def work(base: nn.Module) -> Tensor:
        adapted, x = attached(base, method), inputs(base)
        optimiser = torch.optim.SGD(mv.param_groups(adapted, 1e-2))
        for step in (1, 2):
            optimiser.zero_grad()
            (adapted(x).square().mean() + mv.penalty(adapted)).backward()
            optimiser.step()
            mv.after_step(adapted, step)
        return mv.merge(adapted)(x).detach()

    same(device, work)


@pytest.mark.parametrize("method", FEW, ids=str)
def test_spectra_and_inspection(method: Method, device: str) -> None:
    same(
        device,
        lambda base: torch.cat([one.values for one in mv.spectra(attached(base, method)).values()]),
    )
    here, there = (
        mv.inspect_adapter(attached(base, method)).select_dtypes("number")
        for base in (model(), model().to(device))
    )
    np.testing.assert_allclose(there, here, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", FEW, ids=str)
def test_curvature_gradients_and_directions(method: Method, device: str) -> None:
    def loss(network: nn.Module) -> Tensor:
        return network(inputs(network)).square().mean()

    def on(network: nn.Module, rows: slice) -> Tensor:
        return network(inputs(network)[rows]).square().mean()

    def tables(base: nn.Module) -> list[pd.DataFrame]:
        halves = [slice(0, 2), slice(2, 4)]
        return [
            mv.analysis.layer_gradients(base, loss, [method]),
            mv.analysis.gradient_variance(base, on, halves, [method]),
            mv.analysis.bat_cosines(base, mv.Bat(2)),
            mv.analysis.directions(attached(base, method), 2),
        ]

    here, there = attached(model(), method), attached(model().to(device), method)
    wanted = mv.analysis.curvature(here, loss)
    assert mv.analysis.curvature(there, loss) == pytest.approx(wanted, rel=1e-6)
    for one, other in zip(tables(model()), tables(model().to(device)), strict=True):
        pd.testing.assert_frame_equal(other, one, rtol=1e-6, atol=1e-9)
    for one, other in zip(
        mv.analysis.weight_spectra(there).values(),
        mv.analysis.weight_spectra(here).values(),
        strict=True,
    ):
        assert all(torch.allclose(a.cpu(), b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("method", [mv.LoRA(2), mv.MiSS(4), mv.S2FT(2)], ids=str)
def test_reach_of_a_target(method: Method, device: str) -> None:
    M = random_linear(8, 12, torch.float64).weight.detach()
    assert float(mv.reach(method, M.to(device))) == pytest.approx(float(mv.reach(method, M)))


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["published", "controlled", "teacher"])
def test_no_free_lunch(protocol: str, device: str) -> None:
    methods = FEW if protocol == "published" else [mv.LoRA(2), mv.MiSS(4)]

    def losses(place: str) -> np.ndarray:
        with workers(device) as executor:
            runs = mv.experiments.no_free_lunch(
                methods, protocol, seeds=2, steps=3, device=place, executor=executor
            )
        return runs.losses["loss"].to_numpy()

    np.testing.assert_allclose(losses(device), losses("cpu"), atol=1e-3)
