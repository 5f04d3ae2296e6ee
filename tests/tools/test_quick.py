"""The thinned suite still touches every method, figure, panel and lesson."""

from pathlib import Path

import pytest
from methods_under_test import VARIANTS
from tiers import thinned

import missviz as mv
from missviz.explore.gallery import PANELS

ROOT = Path(__file__).parents[2]


def values(items: list[pytest.Item], test: str, parameter: str) -> list[object]:
    """What a test is run with."""
    return [item.callspec.params[parameter] for item in items if f"::{test}[" in item.nodeid]


@pytest.fixture
def kept(request: pytest.FixtureRequest) -> list[pytest.Item]:
    items = thinned(request.session.items)
    if len({item.path for item in request.session.items}) < 50:
        pytest.skip("needs the whole suite: pytest without a path")
    return items


def test_every_method_class_keeps_the_contract(kept: list[pytest.Item]) -> None:
    methods = values(kept, "test_every_variant_keeps_the_contract", "method")
    assert {type(method) for method in methods} == {type(method) for method in VARIANTS}
    assert len(methods) < len(VARIANTS)


def test_every_panel_is_driven(kept: list[pytest.Item]) -> None:
    of_every_panel = [item for item in kept if item.path.name == "test_every_panel.py"]
    driven = values(of_every_panel, "test_slider_driven_equals_directly_drawn", "panel")
    assert driven == list(PANELS)


def test_every_lessons_text_is_read(kept: list[pytest.Item]) -> None:
    read = {source.stem for source in values(kept, "test_pair_says_the_same", "source")}
    assert read == {path.stem for path in (ROOT / "notebooks").glob("*.py")}


def test_every_display_is_drawn(kept: list[pytest.Item]) -> None:
    sources = {item.path for item in kept if item.path.parent.name in ("displays", "explore")}
    text = "".join(source.read_text(encoding="utf-8") for source in sources)
    displays = [name for name in mv.displays.__all__ if name.endswith("Display")]
    assert len(displays) > 8
    assert [name for name in displays if name not in text] == []


def test_nothing_slow_is_kept(kept: list[pytest.Item]) -> None:
    assert not [item for item in kept if item.get_closest_marker("slow")]
