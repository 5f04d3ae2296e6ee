"""A linear probe: what can be read off features by logistic regression."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
"""Weights of half the squared coefficients beside the mean loss in nats, on standardised features;
chosen on the validation split."""
MOST_STEPS = 200
"""Of L-BFGS. It mostly ends before, where no coefficient's gradient exceeds 1e-5."""


def probed(
    features: dict[str, Float[Tensor, "n features"]],
    targets: dict[str, Int64[Tensor, " n"]],
    outputs: int,
) -> tuple[float, float]:
    """Loss and accuracy on "test" of the ridge logistic regression that was fitted on "train", with
    the ridge of least loss on "valid". NaN and 0 where features are not finite.

    Args:
        features, targets: by split, "train", "valid" and "test".
        outputs: classes.
    """
    if not all(bool(part.isfinite().all()) for part in features.values()):
        return float("nan"), 0.0
    mean = features["train"].double().mean(dim=0)
    # A feature that never changes says nothing: it is 0 then.
    spread = features["train"].double().std(dim=0).clamp(min=1e-12)
    standard = {name: (part.double() - mean) / spread for name, part in features.items()}
    probes = [fitted(standard["train"], targets["train"], outputs, ridge) for ridge in RIDGES]

    def scores(probe: Float[Tensor, "classes features1"], split: str) -> Tensor:
        return standard[split] @ probe[:, :-1].T + probe[:, -1]

    probe = min(
        probes, key=lambda probe: float(cross_entropy(scores(probe, "valid"), targets["valid"]))
    )
    found = scores(probe, "test")
    right = (found.argmax(dim=1) == targets["test"]).double().mean()
    return float(cross_entropy(found, targets["test"])), float(right)


def fitted(
    x: Float[Tensor, "n features"], targets: Int64[Tensor, " n"], outputs: int, ridge: float
) -> Float[Tensor, "classes features1"]:
    """The coefficients, and as the last column the constants, which no ridge holds back, of least
    mean loss + ½ ridge ‖coefficients‖²."""
    probe = torch.zeros(outputs, x.shape[1] + 1, dtype=x.dtype, device=x.device).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [probe], max_iter=MOST_STEPS, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = cross_entropy(x @ probe[:, :-1].T + probe[:, -1], targets)
        value = value + 0.5 * ridge * probe[:, :-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    return probe.detach()
