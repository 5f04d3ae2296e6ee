"""What `--quick` keeps."""

import pytest


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
