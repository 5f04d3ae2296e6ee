"""What `--quick` keeps."""

import pytest


def thinned(items: list[pytest.Item]) -> list[pytest.Item]:
    """Without those marked slow; of a test's cases that differ in `method` one per class, of those
    that differ in `dark` the first."""
    first: dict[tuple[object, ...], tuple[object, ...]] = {}
    kept = []
    for item in items:
        cases = dict(item.callspec.params) if hasattr(item, "callspec") else {}
        # By their texts: a tensor among a method's settings answers no `==`.
        chosen = type(cases.get("method")), repr(cases.pop("method", 0)), repr(cases.pop("dark", 0))
        kind = item.nodeid.partition("[")[0], chosen[0], *map(repr, cases.values())
        if not item.get_closest_marker("slow") and first.setdefault(kind, chosen) == chosen:
            kept.append(item)
    return kept
