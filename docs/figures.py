"""Makes the pictures of the documentation that come from the code: `python docs/figures.py [rooms]`.

points.png shows the 98 points with their numbers, axes.png the signs of a head's angles; the rooms, in README.md, are
text, drawn from the contract that pyproject.toml holds the imports to.
"""

from __future__ import annotations

import re
import sys
import tomllib
from itertools import islice
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
POINTS = ROOT / "docs" / "points.png"
AXES = ROOT / "docs" / "axes.png"
README = ROOT / "README.md"
MARKS = "<!-- rooms -->\n```text\n", "```\n<!-- end of rooms -->"
WIDTH = 90  # characters of the picture of the rooms

PARTS = {  # name, first and last point, colour
    "jaw": (0, 32, "#4c78a8"),
    "left brow": (33, 41, "#b279a2"),
    "right brow": (42, 50, "#b279a2"),
    "nose": (51, 59, "#59a14f"),
    "left eye": (60, 67, "#e45756"),
    "right eye": (68, 75, "#e45756"),
    "outer lips": (76, 87, "#f28e2b"),
    "inner lips": (88, 95, "#b8860b"),
    "pupils": (96, 97, "#222222"),
}
# Where a number stands beside its point, where that is not simply outwards: x to the right, y down.
AWAY = {
    **dict.fromkeys((39, 40, 41, 47, 48, 49), (0, 1)),
    **dict.fromkeys((51, 52, 53, 54), (1, 0)),
    **{88: (-0.2, 1), 92: (0.2, 1), 96: (1, 0), 97: (1, 0)},
}


def rooms() -> str:
    """The rooms of `tabrt/`, storey by storey, as the contract has them: each imports only from those below it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    lines = []
    for layer in layers:
        names = [name.strip().removeprefix("tabrt.") for name in layer.split("|")]
        inside = WIDTH - 2
        cells = [inside // len(names) + (i < inside % len(names)) for i in range(len(names))]
        lines += [f"├{'─' * inside}┤", "│" + "".join(f"{n:^{w}}" for n, w in zip(names, cells, strict=True)) + "│"]
    lines[0] = f"┌{'─' * (WIDTH - 2)}┐"
    return "\n".join([*lines, f"└{'─' * (WIDTH - 2)}┘"]) + "\n"


def readme_with_rooms() -> str:
    """The README with the picture of the rooms between its marks."""
    text = README.read_text("utf-8")
    start, end = map(re.escape, MARKS)
    return re.sub(f"(?s)({start}).*?({end})", lambda found: found[1] + rooms() + found[2], text)


def mean_face(frames: int = 200) -> np.ndarray:
    """(98, 2) crop px: the mean of the face in the demo film, upright, and made even on both sides."""
    from tabrt import Tracker, open_film
    from tabrt.commands.demo import DEMO_FILM
    from tabrt.geometry import CROP_SIZE, Box, Crop
    from tabrt.topology import WFLW98

    shapes = []
    with Tracker(faces=1) as tracker, open_film(DEMO_FILM) as film:
        for scene in map(tracker, islice(film, frames)):
            for face in scene.faces:
                crop = Crop.around(Box.of(face.points))
                crop = Crop(crop.centre, crop.side, WFLW98.roll(face.points))
                points = crop.to_crop(face.points)
                mirrored = points[WFLW98.mirror] * (-1, 1) + (CROP_SIZE - 1, 0)
                shapes += [points, mirrored]
    return np.mean(shapes, axis=0)


def draw_points(path: Path = POINTS) -> None:
    """Draw the face with its numbers, eyes and lips once more in large, and the ranges."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    points = mean_face()
    fig = pyplot.figure(figsize=(12, 8.6), facecolor="white")
    face = fig.add_axes((0.0, 0.0, 0.56, 1.0))
    left = fig.add_axes((0.575, 0.74, 0.2, 0.2))
    right = fig.add_axes((0.785, 0.74, 0.2, 0.2))
    mouth = fig.add_axes((0.575, 0.38, 0.41, 0.29))
    _draw(face, points, range(98), labelled=range(60), size=8.5)
    _draw(left, points, [*range(60, 68), 96], size=10)
    _draw(right, points, [*range(68, 76), 97], size=10)
    _draw(mouth, points, range(76, 96), size=10)
    for ax, title in ((left, "left eye"), (right, "right eye"), (mouth, "lips")):
        ax.set_title(title, fontsize=11, color="#444444", y=1.05 if ax is mouth else 1.45)
    legend = fig.add_axes((0.575, 0.03, 0.41, 0.3))
    legend.axis("off")
    for row, (name, (first, last, colour)) in enumerate(PARTS.items()):
        x, y = (0.02, 0.52)[row >= 5], 0.86 - 0.14 * (row % 5)
        legend.text(x, y, f"{first}–{last}", color=colour, fontsize=13, weight="bold", family="monospace")
        legend.text(x + 0.16, y, name, color="#222222", fontsize=13)
    words = "Left and right are those of the picture:\nthe person's left eye is the right one here, 68–75."
    legend.text(0.02, 0.0, words, fontsize=11, color="#444444")
    fig.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(fig)


def _draw(ax, points: np.ndarray, shown, labelled=range(98), size: float = 8.0) -> None:
    from tabrt.topology import WFLW98

    shown = list(shown)
    for line in WFLW98.boundaries.values():
        if set(line) <= set(shown):
            ax.plot(*points[list(line)].T, color="#cccccc", linewidth=1.2, zorder=1)
    for first, last, colour in PARTS.values():
        part = [index for index in range(first, last + 1) if index in shown]
        if not part:
            continue
        ax.scatter(*points[part].T, s=22, color=colour, zorder=2)
        centre = points[first : last + 1].mean(axis=0)
        for index in part:
            if index in labelled:
                away = np.array(AWAY.get(index, points[index] - centre), float)
                away = away / max(1e-6, float(np.hypot(*away))) * (size + 2.5)
                ax.annotate(
                    str(index),
                    points[index],
                    xytext=(away[0], -away[1]),
                    textcoords="offset points",
                    **{"fontsize": size, "color": colour, "ha": "center", "va": "center"},
                )
    ax.set_aspect("equal")
    ax.margins(0.12, 0.25 if len(shown) < 10 else 0.09)
    ax.invert_yaxis()
    ax.axis("off")


def draw_axes(path: Path = AXES) -> None:
    """Draw the mean head as a camera sees it, ahead and turned by each of the three angles."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from tabrt.measures import rotation_of
    from tabrt.measures.head import HEAD
    from tabrt.topology import WFLW98

    turns = {"looks into the camera": (0, 0, 0), "yaw +25": (25, 0, 0), "pitch +25": (0, 25, 0), "roll +25": (0, 0, 25)}
    fig, panels = pyplot.subplots(1, 4, figsize=(12, 3.6), facecolor="white")
    for ax, (title, turn) in zip(panels, turns.items(), strict=True):
        head = HEAD @ rotation_of(*turn).T + (0, 0, 0.5)
        points = head[:, :2] / head[:, 2:]
        for line in WFLW98.boundaries.values():
            ax.plot(*points[list(line)].T, color="#555555", linewidth=1.4)
        nose = HEAD[54]
        for name, axis, colour in (
            ("x", (0.06, 0, 0), "#d62728"),
            ("y", (0, 0.06, 0), "#2ca02c"),
            ("z", (0, 0, 0.06), "#1f77b4"),
        ):
            ends = np.array([nose, nose + axis]) @ rotation_of(*turn).T + (0, 0, 0.5)
            (x, y), (far_x, far_y) = ends[:, :2] / ends[:, 2:]
            ax.annotate("", (far_x, far_y), (x, y), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2.2})
            ax.text(far_x, far_y, f" {name}", color=colour, fontsize=12, weight="bold")
        ax.set(
            title=title + ("°" if title[-1].isdigit() else ""), xlim=(-0.24, 0.24), ylim=(0.3, -0.16), aspect="equal"
        )
        ax.axis("off")
    fig.tight_layout()
    fig.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(fig)


if __name__ == "__main__":
    if "rooms" not in sys.argv[1:]:
        draw_points()
        draw_axes()
    README.write_text(readme_with_rooms(), "utf-8")
