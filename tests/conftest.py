"""The suite's options. `--quick` keeps one case of each kind; xdist's workers get a core each."""

import os

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile(
    "missviz", deadline=None, max_examples=60, derandomize=True, print_blob=True
)
hypothesis.settings.register_profile(
    "quick", hypothesis.settings.get_profile("missviz"), max_examples=5
)
CORES = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2
torch.set_num_threads(min(CORES, torch.get_num_threads()))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick", action="store_true", help="no slow tests, one case per kind, five examples"
    )


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.load_profile("quick" if config.getoption("quick") else "missviz")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("quick"):
        kept = thinned(items)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept
    missing = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(missing)
        item.add_marker(pytest.mark.xdist_group(company(item)))


def thinned(items: list[pytest.Item]) -> list[pytest.Item]:
    """Without those marked slow; of a test's cases that differ in `method` one per class, of those
    that differ in `dark` the first."""
    first: dict[tuple[object, ...], tuple[object, ...]] = {}
    kept = []
    for item in items:
        cases = dict(item.callspec.params) if hasattr(item, "callspec") else {}
        chosen = cases.pop("method", None), cases.pop("dark", None)
        kind = item.nodeid.partition("[")[0], type(chosen[0]), *map(repr, cases.values())
        if not item.get_closest_marker("slow") and first.setdefault(kind, chosen) == chosen:
            kept.append(item)
    return kept


def company(item: pytest.Item) -> str:
    """Tests of one company run in one process, in turn: those of a module, whose fixtures they
    share; where these are a panel or a lesson each, those of that panel or lesson."""
    cases = item.callspec.params if hasattr(item, "callspec") else {}
    own = [str(cases[name]) for name in ("panel", "name", "source") if name in cases]
    return " ".join([item.nodeid.partition("::")[0], *own])
