"""Pictures of the results. One look for all."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

INK = {"tabrt": "#0a7a5c", "One-Euro": "#c2571a", "no filter": "#7a7a7a", "mediapipe": "#3465a4",
       "mediapipe-refined": "#75507b", "dlib": "#a40000"}  # fmt: skip


def figure(columns: int, width: float = 5.2, height: float = 4.2, rows: int = 1):
    """An empty figure with its axes as a flat list."""
    fig, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained"
    )
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, linewidth=0.6)
        ax.set_axisbelow(True)
    return fig, list(axes.flat)


def save(fig, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=130)
    plt.close(fig)


def ink(name: str) -> str:
    """The colour of a method; its own name first, then what it is called after."""
    found = [key for key in INK if name.startswith(key)]
    return INK[max(found, key=len)] if found else "#333333"


def bars(ax, groups: list[str], series: dict[str, list[float | None]], unit: str) -> None:
    """Bars of several methods side by side in named groups; a value of None leaves a gap."""
    width = 0.8 / len(series)
    at = np.arange(len(groups))
    for index, (name, values) in enumerate(series.items()):
        heights = [np.nan if value is None else value for value in values]
        ax.bar(at + (index - (len(series) - 1) / 2) * width, heights, width * 0.92, label=name, color=ink(name))
    ax.set_xticks(at, groups)
    ax.set_ylabel(unit)
    ax.grid(axis="x", visible=False)
