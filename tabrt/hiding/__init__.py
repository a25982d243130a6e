"""Faces that nobody may see: where they are at every moment, and what is laid over them."""

from tabrt.hiding.covering import MODES, Mode, cover
from tabrt.hiding.hiding import MARGIN, Hiding
from tabrt.hiding.regions import Region

__all__ = ["MARGIN", "MODES", "Hiding", "Mode", "Region", "cover"]
