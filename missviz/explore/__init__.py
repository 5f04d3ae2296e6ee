"""Interactive panels over displays, and a guess before the outcome."""

from missviz.explore.gallery import gallery
from missviz.explore.panel import Panel
from missviz.explore.predict import Prediction, predict
from missviz.explore.update import update

__all__ = ["Panel", "Prediction", "gallery", "predict", "update"]
