"""Scenes as a film, or as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from tabrt.errors import TabrtError
from tabrt.faces import Scene
from tabrt.film import FilmWriter
from tabrt.sinks.sink import Sink


class FilmSink(Sink):
    """Writes the pictures of scenes to a film, each at its own time."""

    def __init__(self, writer: FilmWriter):
        self._writer = writer

    @property
    def notes(self) -> Sequence[str]:
        return self._writer.notes

    def __call__(self, scene: Scene) -> None:
        self._writer.write(scene.picture, scene.frame.time)

    def finish(self) -> None:
        self._writer.close()

    def close(self) -> None:
        self._writer.close()


class PictureSink(Sink):
    """Writes the picture of the scene with index i to the i-th path, in the format of its suffix."""

    def __init__(self, targets: Sequence[Path] | Mapping[int, Path]):
        self._targets = targets

    def __call__(self, scene: Scene) -> None:
        write_image(self._targets[scene.frame.index], scene.picture)


def write_image(path: str | Path, picture: np.ndarray) -> None:
    """Write picture uint8 (H, W, 3) BGR in the format of the suffix. Raises TabrtError where that cannot be done."""
    path = Path(path)
    try:
        fits, data = cv2.imencode(path.suffix, picture)
    except cv2.error:
        fits = False
    if not fits:
        raise TabrtError(f"cannot write {path}: no picture format for it; use .png or .jpg")
    try:
        path.write_bytes(data.tobytes())
    except OSError as problem:
        raise TabrtError(f"cannot write {path} ({problem.strerror}); free space, or choose another place") from None
