"""One weight's landscape: the saddle, the parabola, and the descent that is drawn."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import missviz as mv
from missviz.analysis.one_weight import RATE, gradient, loss
from missviz.displays import LandscapeDisplay

numbers = st.floats(-3, 3)


@given(b=numbers, a=numbers)
def test_gradient_is_that_of_the_loss(b: float, a: float) -> None:
    point = torch.tensor([b, a], dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad(loss(point[0], point[1]), point)[0]
    np.testing.assert_allclose(gradient(b, a), found.tolist(), rtol=1e-9, atol=1e-12)


def test_only_the_origin_is_a_saddle() -> None:
    assert gradient(0.0, 0.0) == (0, 0)
    hessian = torch.autograd.functional.hessian(
        lambda p: loss(p[0], p[1]), torch.zeros(2, dtype=torch.float64)
    )
    values = torch.linalg.eigvalsh(hessian)
    assert values[0] < 0 < values[1]
    for start in (-2.0, 0.25, 1.0):  # LoRA's starts: b = 0, a ≠ 0
        assert gradient(0.0, start) == (-start, 0)


@given(a=numbers)
def test_a_frozen_is_a_parabola_of_curvature_a_squared(a: float) -> None:
    b = np.array([-1.0, 0.0, 1.0, 2.0])
    values = loss(b, a)
    second = np.diff(values, 2)
    np.testing.assert_allclose(second, a**2, atol=1e-12)


@pytest.mark.parametrize("training", ["both trained", "a frozen"])
def test_path_is_gradient_descent_of_a_real_adapter(training: str) -> None:
    """LoRA of rank 1 on a 1 × 1 layer that should move by 1, with torch's SGD."""
    linear = torch.nn.Linear(1, 1, bias=False).double()
    method = mv.LoRA(1, freeze_a=training == "a frozen")
    adapter = method.on(linear)
    with torch.no_grad():
        adapter.A.fill_(0.5)
    stepper = torch.optim.SGD([p for p in adapter.parameters() if p.requires_grad], lr=RATE)
    path = [(adapter.B.item(), adapter.A.item())]
    for _ in range(12):
        stepper.zero_grad()
        ((adapter.delta() - 1).square().sum() / 2).backward()
        stepper.step()
        path.append((adapter.B.item(), adapter.A.item()))
    display = LandscapeDisplay.from_start(0.5, training, 12).plot()
    np.testing.assert_allclose(display.path, path, rtol=1e-12)
    np.testing.assert_array_equal(display.path_.get_xydata(), display.path)
    np.testing.assert_allclose(display.dots_.get_ydata(), loss(*display.path.T))
    side, values = display.slice_.get_data()
    np.testing.assert_allclose(values, (1 - 0.5 * side) ** 2 / 2)


def test_frozen_descent_has_a_closed_form() -> None:
    """b after n steps is (1 − (1 − rate · a²)ⁿ) / a."""
    display = LandscapeDisplay.from_start(2.0, "a frozen", 5, rate=0.1)
    n = np.arange(6)
    np.testing.assert_allclose(display.path[:, 0], (1 - (1 - 0.1 * 4) ** n) / 2)
    assert set(display.path[:, 1]) == {2.0}


def test_from_the_saddle_nothing_moves() -> None:
    for training in ("both trained", "a frozen"):
        display = LandscapeDisplay.from_start(0.0, training, 40)
        assert not display.path.any()
        assert "the saddle, where descent stays" in display.summary()
    assert "no critical point" in LandscapeDisplay.from_start(0.5).summary()


def test_arrows_go_downhill_and_along_b_alone_where_a_is_frozen() -> None:
    display = LandscapeDisplay.from_start(0.5).plot()
    b, a = display.arrows_.XY.T
    along_b, along_a = gradient(b, a)
    assert (display.arrows_.U * along_b + display.arrows_.V * along_a <= 1e-12).all()
    assert np.abs(display.arrows_.V).max() > 0.1
    display.update(LandscapeDisplay.from_start(0.5, "a frozen"))
    assert not display.arrows_.V.any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LandscapeDisplay.from_start(0.5, "b frozen"), "training='b frozen' is unknown"),
        (lambda: LandscapeDisplay.from_start(0.5, steps=-1), "steps=-1 is not a whole number"),
        (lambda: LandscapeDisplay.from_start(0.5, rate=0.0), "rate=0.0 is not a positive"),
        (
            lambda: LandscapeDisplay(path=np.ones(3), training="a frozen"),
            r"path of shape \(3,\)",
        ),
        (
            lambda: LandscapeDisplay(path=np.array([[0, np.nan]]), training="a frozen"),
            "path has values that are NaN",
        ),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
