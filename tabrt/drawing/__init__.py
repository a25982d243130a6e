"""Layers on a frame: what a picture shows, drawn when it is first looked at."""

from tabrt.drawing.drawing import Drawing
from tabrt.drawing.expression import Expression
from tabrt.drawing.overlay import PALETTE, draw, face_layers

__all__ = ["PALETTE", "Drawing", "Expression", "draw", "face_layers"]
