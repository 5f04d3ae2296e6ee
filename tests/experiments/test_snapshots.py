"""A run stopped at a few steps is the run of the experiment."""

import numpy as np
import pytest
import torch

import missviz as mv
from missviz.experiments import adapter_snapshots
from missviz.experiments.ensemble import Adam
from missviz.experiments.no_free_lunch import make_task
from missviz.experiments.tasks import PROTOCOLS, base_models


@pytest.mark.slow
@pytest.mark.parametrize("method", [mv.MiSS(4), mv.LoRA(2), mv.Bat(4)], ids=str)
def test_snapshots_are_those_of_the_run(method: mv.Method) -> None:
    taken = adapter_snapshots(method, (100, 0, 7), seed=45)
    assert list(taken) == [100, 0, 7]
    assert not taken[0].delta().any()
    runs = mv.experiments.no_free_lunch([method], seeds=[45]).to_frame()
    (base,) = base_models((45,), torch.float32, torch.device("cpu"))
    assert torch.equal(taken[0].base.weight, base.fc1.weight)
    # The loss at step 7 depends on the second layer too, so step 0 is compared exactly, and how
    # far the adapter went with a run of torch's own optimiser.
    x, y = make_task(PROTOCOLS["published"], "published", None, base, 45)["train"]
    start = (base(x.float()) - y.float()).square().mean()
    table = runs[(runs["split"] == "train") & (runs["step"] == 0)]
    assert np.isclose(table["loss"].iloc[0], start.item(), rtol=1e-6)
    model = mv.attach(base, method, "fc1", seed=45, trainable="fc2")
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(7):
        optimiser.zero_grad()
        (model(x.float()) - y.float()).square().mean().backward()
        optimiser.step()
    assert torch.allclose(model.fc1.delta(), taken[7].delta(), atol=1e-5)


def test_adam_is_torchs_with_a_rate_per_member() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 4, 5, generator=generator)
    rates = [1e-3, 1e-3, 1e-1]
    stacked = torch.nn.Parameter(start.clone())
    ours = Adam([stacked], rates)
    singles = [torch.nn.Parameter(member.clone()) for member in start]
    theirs = [torch.optim.Adam([p], lr=rate) for p, rate in zip(singles, rates, strict=True)]
    for _ in range(5):
        gradient = torch.randn(3, 5, 4, generator=generator).mT  # not contiguous
        ours.step([gradient])
        for parameter, optimiser, part in zip(singles, theirs, gradient, strict=True):
            parameter.grad = part.contiguous()
            optimiser.step()
    for member, alone in zip(stacked, singles, strict=True):
        assert torch.allclose(member, alone, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "MiSS"}, TypeError, "method='MiSS' is not a missviz method"),
        ({"steps": ()}, ValueError, r"steps=\(\) is not a list of whole numbers"),
        ({"steps": [1.5]}, ValueError, r"steps=\[1.5\] is not"),
        ({"steps": [-1]}, ValueError, r"steps=\[-1\] is not"),
        ({"learning_rate": 0}, ValueError, "learning_rate=0 is not a positive"),
        ({"method": mv.MiSS(65)}, ValueError, "rank=65 exceeds in_features=64"),
    ],
)
def test_bad_input(options, error, message) -> None:
    with pytest.raises(error, match=message):
        adapter_snapshots(**{"method": mv.MiSS(4), **options})
