"""What `tabrt demo` does: the main job on the film that ships with tabrt."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from tabrt.commands.options import DemoOptions, VideoOptions
from tabrt.commands.summary import Summary
from tabrt.commands.video import video
from tabrt.faces import Frame
from tabrt.files import folders_for
from tabrt.film import open_film
from tabrt.sinks import write_image

DEMO_FILM = Path(__file__).parents[1] / "demo" / "pexels_face.mp4"
SHEET_COLUMNS, SHEET_ROWS, SHEET_WIDTH = 4, 3, 480  # of a contact sheet; px of one picture


def demo(options: DemoOptions, film: Path = DEMO_FILM) -> tuple[Summary, list[Path]]:
    """Track a film into the folder `out`. Returns what was done, and the files: film, landmarks, contact sheet."""
    files = [options.out / name for name in ("demo.mp4", "demo.jsonl", "demo.png")]
    outputs = {"out": str(files[0]), "landmarks": str(files[1]), "overwrite": True}
    with folders_for(files):
        summary = video(VideoOptions(source=str(film), **asdict(options) | outputs))
        contact_sheet(files[0], files[2])
    return summary, files


def contact_sheet(source: str | Path, out: str | Path) -> None:
    """Write one picture with twelve frames of a film, evenly spread, each with its time."""
    with open_film(source) as film:
        count = SHEET_COLUMNS * SHEET_ROWS
        size = SHEET_WIDTH, max(1, round(SHEET_WIDTH * film.height / film.width))
        step = max(1, math.floor((film.frames or count) / count))
        chosen = (frame for frame in film if frame.index % step == step // 2)
        tiles = [_tile(frame, size) for _, frame in zip(range(count), chosen, strict=False)]
    blank = np.zeros((size[1], size[0], 3), np.uint8)
    tiles += [blank] * (count - len(tiles))
    rows = [np.hstack(tiles[i : i + SHEET_COLUMNS]) for i in range(0, count, SHEET_COLUMNS)]
    write_image(out, np.vstack(rows))


def _tile(frame: Frame, size: tuple[int, int]) -> np.ndarray:
    tile = cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA)
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        text = f"{frame.time:.2f} s"
        cv2.putText(tile, text, (8, size[1] - 10), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thickness, cv2.LINE_AA)
    return tile
