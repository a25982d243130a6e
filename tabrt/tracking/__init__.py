"""Faces that keep their ids."""

from tabrt.tracking.cuts import Change, Cuts, alike, correlation, glimpse
from tabrt.tracking.pixels import as_shown
from tabrt.tracking.smoothing import DEFAULT_STRENGTH, Smoother
from tabrt.tracking.tracker import Tracker

__all__ = ["DEFAULT_STRENGTH", "Change", "Cuts", "Smoother", "Tracker", "alike", "as_shown", "correlation", "glimpse"]
