"""What CONTRIBUTING.md shows runs."""

import re
from pathlib import Path

import missviz as mv
from missviz.adapters.base import Method

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_method_that_it_shows_keeps_the_contract() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    there: dict[str, object] = {}
    exec(compile(code, "CONTRIBUTING.md", "exec", dont_inherit=True), there)
    kind = there["FirstColumns"]
    assert isinstance(kind, type)
    assert issubclass(kind, Method)
    mv.testing.check_method(kind(3), shapes=[(8, 6)])
    written = [line for line in code.splitlines() if line.strip()]
    assert len(written) <= 32
