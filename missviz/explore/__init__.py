"""Widgets: a guess before the outcome."""

from missviz.explore.predict import Prediction, predict

__all__ = ["Prediction", "predict"]
