"""Faces that keep their ids."""

from tabrt.tracking.pixels import as_shown
from tabrt.tracking.smoothing import DEFAULT_STRENGTH, Smoother
from tabrt.tracking.tracker import Tracker

__all__ = ["DEFAULT_STRENGTH", "Smoother", "Tracker", "as_shown"]
