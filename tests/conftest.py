"""The suite's options. `--quick` keeps one case of each kind; xdist's workers get a core each."""

import os
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from tiers import thinned

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


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `--quick`, modules that are slow as a whole: what they import takes seconds."""
    if not config.getoption("quick") or collection_path.suffix != ".py":
        return None
    text = collection_path.read_text(encoding="utf-8")
    return True if "\npytestmark = pytest.mark.slow\n" in text else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("quick"):
        kept = thinned(items)
        names = {item.nodeid for item in kept}
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in names])
        items[:] = kept
    items.sort(key=begins)
    missing = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(missing)


def begins(item: pytest.Item) -> int:
    """What takes minutes in one piece comes first, so that no process is left with it at the end."""
    first = ("browser/test_panels.py", "test_lessons.py")
    return next((place for place, name in enumerate(first) if name in item.nodeid), len(first))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """What xdist sends to one process, in turn: a module, whose tests share fixtures; of those that
    take each panel or each lesson, what belongs to that panel or lesson."""
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False  # it puts what has most tests first, not what takes long

    class Companies(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            module, _, test = nodeid.partition("::")
            if not module.endswith(("test_every_panel.py", "test_lessons.py")):
                return module
            return f"{module} {test.partition('[')[2].rstrip(']').partition('-')[0]}"

    return Companies(config, log)
