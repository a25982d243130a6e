"""What a camera does to directions: the focal length, known or guessed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tabrt.errors import TabrtError

USUAL_FOV = 60.0  # degrees along the picture's longer side, of most webcams and telephones
NARROWEST, WIDEST = 1.0, 170.0  # degrees
MAX_BYTES = 2**16  # of a calibration


@dataclass(frozen=True)
class Lens:
    """A pinhole: focal length and principal point, in px of the frame."""

    focal: float
    centre: tuple[float, float]
    guessed: bool = False

    @classmethod
    def usual(cls, width: int, height: int) -> Lens:
        """That of an unknown camera whose pictures have this size."""
        return cls(max(width, height) / 2 / math.tan(math.radians(USUAL_FOV / 2)), _middle(width, height), True)

    @classmethod
    def seeing(cls, fov: float, width: int, height: int) -> Lens:
        """That of a camera which sees `fov` degrees horizontally. Raises TabrtError for an angle no pinhole has."""
        if not NARROWEST <= fov <= WIDEST:
            raise TabrtError(f"a field of view of {fov:g}° cannot be; give {NARROWEST:g} to {WIDEST:g} degrees")
        return cls(width / 2 / math.tan(math.radians(fov / 2)), _middle(width, height))


@dataclass(frozen=True)
class Calibration:
    """A camera that was measured, as shares of its picture's width: it holds for every size of the same shape."""

    focal: float  # widths
    centre: tuple[float, float]  # widths, from the middle of the picture

    @classmethod
    def read(cls, path: str | Path) -> Calibration:
        """What OpenCV's calibration wrote (.yml, .xml or .json): camera_matrix, image_width, image_height.

        Raises TabrtError.
        """
        wanted = "give degrees, or a file of OpenCV's calibration, with camera_matrix, image_width and image_height"
        try:
            if Path(path).exists() and not Path(path).is_file():  # a device has no end
                raise TabrtError(f"{path} is no file; {wanted}")
            if Path(path).stat().st_size > MAX_BYTES:
                raise TabrtError(f"{path} is too large for a calibration; {wanted}")
            text = Path(path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as problem:
            raise TabrtError(f"cannot read {path} ({getattr(problem, 'strerror', 'no text')}); {wanted}") from None
        try:
            storage = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
            matrix = storage.getNode("camera_matrix").mat()
            width, height = (storage.getNode(f"image_{side}").real() for side in ("width", "height"))
            storage.release()
        except (cv2.error, SystemError, ValueError):
            matrix = None
        if matrix is None or matrix.shape != (3, 3) or not np.isfinite(matrix).all() or min(width, height) < 1:
            raise TabrtError(f"{path} is no calibration; {wanted}")
        focal = float(matrix[0, 0] + matrix[1, 1]) / 2 / width
        if not math.tan(math.radians(NARROWEST / 2)) <= 0.5 / max(focal, 1e-9) <= math.tan(math.radians(WIDEST / 2)):
            raise TabrtError(f"{path} gives a focal length of {matrix[0, 0]:g} px, which cannot be; {wanted}")
        middle = _middle(width, height)
        return cls(focal, ((matrix[0, 2] - middle[0]) / width, (matrix[1, 2] - middle[1]) / width))

    def lens(self, width: int, height: int) -> Lens:
        x, y = _middle(width, height)
        return Lens(self.focal * width, (x + self.centre[0] * width, y + self.centre[1] * width))


def _middle(width: float, height: float) -> tuple[float, float]:
    return (width - 1) / 2, (height - 1) / 2
