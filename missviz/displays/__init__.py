"""One public figure per file: `from_*` computes, `.plot()` draws and keeps its artists."""

from missviz.displays.adapter import AdapterDisplay
from missviz.displays.colinearity import ColinearityDisplay
from missviz.displays.contest import ContestDisplay
from missviz.displays.gradient_norms import GradientNormDisplay
from missviz.displays.landscape import LandscapeDisplay
from missviz.displays.lunch import LunchDisplay
from missviz.displays.pareto import ParetoDisplay
from missviz.displays.published_gradients import PublishedGradientsDisplay
from missviz.displays.race import RaceDisplay
from missviz.displays.reach import ReachDisplay
from missviz.displays.shards import ShardDisplay
from missviz.displays.sharing import SharingDisplay
from missviz.displays.spectrum import SpectrumDisplay
from missviz.displays.targets import TargetsDisplay
from missviz.displays.update import UpdateDisplay

__all__ = [
    "AdapterDisplay",
    "ColinearityDisplay",
    "ContestDisplay",
    "GradientNormDisplay",
    "LandscapeDisplay",
    "LunchDisplay",
    "ParetoDisplay",
    "PublishedGradientsDisplay",
    "RaceDisplay",
    "ReachDisplay",
    "ShardDisplay",
    "SharingDisplay",
    "SpectrumDisplay",
    "TargetsDisplay",
    "UpdateDisplay",
]
