"""The picture of PARITY.md."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.lines import Line2D

from export.rows import FASTEST, Row

MARKERS = {"onnxruntime": "o", "openvino": "s", "torch": "D", "tensorrt": "^"}
FILLS: dict[str, Literal["full", "left", "none"]] = {"fp32": "full", "fp16": "left", "int8": "none"}


def draw(rows: list[Row], path: Path) -> None:
    """Milliseconds against worst shift and, where it is known, NME: a colour for each model, a shape for each engine, a
    filling for each precision."""
    judged = [row for row in rows if row.nme is not None]
    colours = {name: f"C{number}" for number, name in enumerate(dict.fromkeys(row.name for row in rows))}
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for axis, shown, value, label in (
        (axes[0], rows, lambda row: max(row.worst, 1e-5), "worst shift of a point, px of 256"),
        (axes[1], judged, lambda row: 100 * row.nme, "NME, % of the eyes' distance"),
    ):
        for row in shown:
            axis.add_line(_mark(colours[row.name], row.engine, row.precision, row.milliseconds[FASTEST], value(row)))
        axis.autoscale_view()
        axis.set_xlim(left=0)
        axis.set_xlabel("ms a face, 2 threads")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    engines, precisions = (dict.fromkeys(getattr(row, part) for row in rows) for part in ("engine", "precision"))
    key = {name: _mark(colour, "onnxruntime", "fp32") for name, colour in colours.items()}
    key |= {engine: _mark("grey", engine, "fp32") for engine in engines}
    key |= {precision: _mark("grey", "onnxruntime", precision) for precision in precisions}
    figure.legend(key.values(), key.keys(), loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _mark(colour: str, engine: str, precision: str, x: float = 0.0, y: float = 0.0) -> Line2D:
    return Line2D(
        [x], [y], linestyle="", marker=MARKERS[engine], fillstyle=FILLS[precision], color=colour, markersize=8,
        markerfacecoloralt="white",
    )  # fmt: skip
