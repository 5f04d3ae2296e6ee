"""The ledger for people: words, a picture for each claim, a panel, and one page with all."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from missviz.adapters import validation
from missviz.claims.claim import kind_of
from missviz.claims.ledger import COMMAND, Judgement, kept
from missviz.displays.claim import ClaimDisplay, interval
from missviz.explore.own import panel
from missviz.explore.panel import Panel
from missviz.files import write_whole

MOST_LINES = 6
"""Of what else was seen; the rest stands in the evidence itself."""


def display(judged: Judgement) -> ClaimDisplay:
    """The picture of a judgement: interval against band, and what else was seen."""
    claim = judged.claim
    return ClaimDisplay(
        claim=claim.claim,
        verdict=judged.verdict,
        intervals={
            place: (part.effect, part.low, part.high) for place, part in judged.parts.items()
        },
        band=claim.rule.band,
        unit=claim.unit,
        said=claim.said,
        lines=[f"{claim.test}. {claim.rule.words.capitalize()}: {claim.because}.", *seen(judged)],
    )


def seen(judged: Judgement) -> list[str]:
    """What else was seen, a line each."""
    lines = [
        f"{place}{', ' * bool(place)}{name.replace('_', ' ')}: {_said(value)}"
        for place, part in judged.parts.items()
        for name, value in part.seen.items()
    ]
    if len(lines) > MOST_LINES:
        lines = [*lines[:MOST_LINES], f"and {len(lines) - MOST_LINES} more in the evidence"]
    if judged.more_seeds is not None:
        lines.append(f"About {judged.more_seeds} seeds would decide.")
    again = judged.made.get("again")
    if again is not None:
        lines.append(f"Other seeds, {again['date']}: {again['verdict']}.")
    if judged.is_stale:
        lines.append(f"Stale: the code has changed since commit {judged.made.get('commit')}.")
    return lines


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_said(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return f"[{', '.join(_said(part) for part in value)}]"
    return str(value)


def words(judged: Judgement) -> str:
    """All that the ledger knows of a claim, as text."""
    claim, made = judged.claim, judged.made
    lines = [
        f"{claim.id}: {judged.verdict}",
        claim.claim,
        f"Said: {claim.said}.",
        f"Test: {claim.test}. Effect in {claim.unit}.",
        f"Rule: {claim.rule.words} ({claim.because}).",
    ]
    for place, part in judged.parts.items():
        interval = "" if part.low == part.high else f" [{part.low:.4g}, {part.high:.4g}]"
        where = f"{place}: " if place else ""
        lines.append(f"  {where}{part.effect:.4g}{interval}, n = {part.n}")
    lines += [f"  {line}" for line in seen(judged)]
    if made:
        lines.append(
            f"Measured {made['date']} at commit {made['commit']} in {made['seconds']} s on "
            f"{made['machine']}."
        )
    lines.append(f"Again: {COMMAND} {claim.id}" if claim.measure else f"Takes: {claim.lacking}")
    return "\n".join(lines)


def markdown(ids: Sequence[str] | None = None) -> str:
    """A table of these claims, or of all, for a text: what is said, by whom, and what holds."""
    judged = kept()
    lines = ["| claim | who says it | verdict | effect, 95 % |", "|---|---|---|---|"]
    for name in judged if ids is None else ids:
        one = judged[validation.one_of("ids", name, tuple(judged))]
        found = "; ".join(
            f"{place}{': ' * bool(place)}{interval((part.effect, part.low, part.high))}"
            for place, part in one.parts.items()
        )
        effect = f"{found} {one.claim.unit}" if found else ""
        cells = (one.claim.claim, one.claim.said, f"**{one.verdict}**", effect)
        lines.append(f"| {' | '.join(cell.replace('|', '∣') for cell in cells)} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Verdicts:
    """Some claims and their verdicts, as a table in a notebook, or a line each."""

    ids: tuple[str, ...]

    def _repr_markdown_(self) -> str:
        return markdown(self.ids)

    def __repr__(self) -> str:
        judged = kept()
        return "\n".join(f"{judged[id].claim.claim} {judged[id].verdict}." for id in self.ids)


def verdicts(*ids: str) -> Verdicts:
    """What the ledger says of these claims, as the last line of a notebook's cell.

    Raises ValueError where there is no such claim, or none is named.
    """
    if not ids:
        raise ValueError("name at least one claim; mv.claims.table() has all")
    known = tuple(kept())
    for id in ids:
        validation.one_of("id", id, known)
    return Verdicts(ids)


def show(id: str | None = None) -> Panel:
    """A panel over the ledger, with a menu of its claims: the evidence's picture for each.

    Args:
        id: the claim that is shown first; None means the first.

    Raises ValueError where there is no such claim.
    """
    judged = kept()
    names = list(judged)
    if id is not None:
        validation.one_of("id", id, tuple(names))
        names = [id, *(name for name in names if name != id)]
    return panel(lambda claim: display(judged[claim]), claim=names)


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>What holds</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 1000px; margin: 1em auto; padding: 0 1em; }}
img {{ max-width: 100%; }}
table {{ border-collapse: collapse; }}
td, th {{ text-align: left; vertical-align: top; padding: 0.2em 0.8em 0.2em 0; }}
pre {{ white-space: pre-wrap; color: #555; font-size: 13px; }}
</style>
<h1>What holds</h1>
<p>{count}</p>
<table>{rows}</table>
{sections}
</html>
"""


def write_page(path: str | Path, evidence: Path | None = None) -> None:
    """One page with a line and a picture for each claim; needs nothing but itself."""
    judged = kept(evidence)
    rows, sections = [], []
    for name, one in judged.items():
        claim, verdict = html.escape(one.claim.claim), html.escape(one.verdict)
        rows.append(f'<tr><td><a href="#{name}">{claim}</a></td><td>{verdict}</td></tr>')
        drawn, picture = display(one).plot(), io.BytesIO()
        drawn.figure_.savefig(picture, format="png", dpi=120)
        data = base64.b64encode(picture.getvalue()).decode()
        sections.append(
            f'<h2 id="{name}">{name}</h2>'
            f'<img alt="{html.escape(drawn.summary())}" src="data:image/png;base64,{data}">'
            f"<pre>{html.escape(words(one))}</pre>"
        )
    page = PAGE.format(
        count=html.escape(count(judged)), rows="".join(rows), sections="".join(sections)
    )
    write_whole(Path(path), page)


def count(judged: dict[str, Judgement]) -> str:
    """ "30 claims; holds here: 12, …"."""
    verdicts = [kind_of(one.verdict) for one in judged.values()]
    parts = [f"{kind}: {verdicts.count(kind)}" for kind in dict.fromkeys(verdicts)]
    return f"{len(verdicts)} claims; {', '.join(parts)}"
