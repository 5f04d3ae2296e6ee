"""One public figure per file: `from_*` computes, `.plot()` draws and keeps its artists."""

from missviz.displays.lunch import LunchDisplay
from missviz.displays.race import RaceDisplay
from missviz.displays.targets import TargetsDisplay
from missviz.displays.update import UpdateDisplay

__all__ = ["LunchDisplay", "RaceDisplay", "TargetsDisplay", "UpdateDisplay"]
