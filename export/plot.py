"""The picture of PARITY.md."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

from export.rows import FASTEST, Row

MARKERS = {"fp32": "o", "fp16": "s", "int8": "^"}


def draw(rows: list[Row], path: Path) -> None:
    """Milliseconds against worst shift and, where it is known, NME; the size of a mark is the size of the file."""
    judged = [row for row in rows if row.nme is not None]
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for axis, shown, value, label in (
        (axes[0], rows, lambda row: max(row.worst, 1e-5), "worst shift of a point, px of 256"),
        (axes[1], judged, lambda row: 100 * row.nme, "NME, % of the eyes' distance"),
    ):
        for colour, key in enumerate(dict.fromkeys((row.name, row.engine) for row in rows)):
            own = [row for row in shown if (row.name, row.engine) == key]
            for row in own:
                axis.scatter(
                    row.milliseconds[FASTEST],
                    value(row),
                    s=20 + 12 * row.megabytes,
                    marker=MARKERS[row.precision],
                    color=f"C{colour}",
                    alpha=0.8,
                    label=f"{row.name} {row.engine} {row.precision}",
                )
        axis.set_xlabel("ms a face, 2 threads")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
