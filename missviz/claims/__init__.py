"""WHAT HOLDS: every claim of the papers on trial, with its evidence and its verdict.

    mv.claims.table()          all of them
    mv.claims.show("low-rank") one, with its picture
    mv.claims.verdicts("low-rank", "one-layout")
    mv.claims.judge(claim)     one of your own, measured now

`missviz claims` prints the table, `missviz claims run` measures anew.
"""

from missviz.claims.claim import (
    Claim,
    Evidence,
    Exact,
    Larger,
    Order,
    Probable,
    Same,
    order_of,
)
from missviz.claims.ledger import Judgement, claims, judge, kept, run, table
from missviz.claims.showing import show, verdicts, write_page

__all__ = [
    "Claim",
    "Evidence",
    "Exact",
    "Judgement",
    "Larger",
    "Order",
    "Probable",
    "Same",
    "claims",
    "judge",
    "kept",
    "order_of",
    "run",
    "show",
    "table",
    "verdicts",
    "write_page",
]
