"""Interactive panels over displays, and a guess before the outcome."""

from missviz.explore.adapter import adapter
from missviz.explore.colinearity import colinearity
from missviz.explore.expansion import expansion
from missviz.explore.gallery import gallery
from missviz.explore.gradient_norms import gradient_norms
from missviz.explore.landscape import landscape
from missviz.explore.linking import Pair, link
from missviz.explore.lunch import lunch
from missviz.explore.panel import Panel
from missviz.explore.pareto import pareto
from missviz.explore.predict import Prediction, predict
from missviz.explore.race import race
from missviz.explore.rank import rank
from missviz.explore.reach import reach
from missviz.explore.sharing import sharing
from missviz.explore.side_by_side import side_by_side
from missviz.explore.update import update

# The function takes the place of the module `panel`, which is loaded by now.
from missviz.explore.own import panel  # isort: skip

__all__ = [
    "Pair",
    "Panel",
    "Prediction",
    "adapter",
    "colinearity",
    "expansion",
    "gallery",
    "gradient_norms",
    "landscape",
    "link",
    "lunch",
    "panel",
    "pareto",
    "predict",
    "race",
    "rank",
    "reach",
    "sharing",
    "side_by_side",
    "update",
]
