"""Write the ledger's tables into the README, between their marks.

python tools/ledger.py           what the kept evidence says
python tools/ledger.py --check   exit with 1 where the README says something else
"""

import re
import sys
from pathlib import Path

from missviz.claims.showing import markdown

README = Path(__file__).resolve().parents[1] / "README.md"
MARKED = re.compile(r"(<!-- ledger:(?P<ids>[^>]*)-->\n).*?(<!-- /ledger -->)", re.DOTALL)
"""`<!-- ledger: low-rank, efficient-form -->` … `<!-- /ledger -->`; no ids stands for all."""


def rendered(text: str) -> str:
    """`text` with each marked table written anew."""

    def table(found: re.Match[str]) -> str:
        ids = [name.strip() for name in found["ids"].split(",") if name.strip()]
        return f"{found[1]}{markdown(ids or None)}\n{found[3]}"

    return MARKED.sub(table, text)


def main(arguments: list[str]) -> int:
    before = README.read_text(encoding="utf-8")
    after = rendered(before)
    if "--check" in arguments:
        return int(before != after)
    README.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
