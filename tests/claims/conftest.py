"""What measures claims is run by `make claims`; the rules and the ledger itself by `make test` too."""

from pathlib import Path

import pytest

EVERYWHERE = ("test_rules.py", "test_ledger.py", "test_rendered.py")
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == HERE and item.path.name not in EVERYWHERE:
            item.add_marker(pytest.mark.ledger)
