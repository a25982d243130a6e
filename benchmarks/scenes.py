"""Films with a known truth: one portrait, moved as prescribed, seen by a plain camera.

The portrait is enlarged twofold into a 640×480 picture, so that a face is of the size a webcam sees. Each frame is one
affine warp of the portrait, then sensor noise, then JPEG compression. The true place of every point is the same
affine map, so errors, lags and jitter are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tabrt.errors import TabrtError
from tabrt.faces import Frame

PORTRAIT = Path(__file__).parents[1] / "tests" / "data" / "astronaut.png"
SIZE = (640, 480)  # px, width and height of the films
ENLARGED = 2.0
FACE = (222.0, 128.0)  # px in the portrait: where the face's middle is
EYE_DISTANCE = 61.0 * ENLARGED  # px in the films, between the outer eye corners: the scale of all errors
READ_NOISE, SHOT_NOISE = 2.0, 0.25  # standard deviation: √(READ² + SHOT · grey level): about 6 at middle grey
JPEG_QUALITY = 75  # what webcams send as MJPEG, about
PEAK = {"translation": 0.5 * EYE_DISTANCE, "roll": np.radians(15), "scale": 0.15}  # amplitude at 0.5 Hz
KINDS = tuple(PEAK)


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames to be, and the truth about them. `value(times)` is the motion of `kind`: px, radians, or log scale."""

    name: str
    times: np.ndarray  # (T,) s
    kind: str  # of KINDS
    value: Callable[[np.ndarray], np.ndarray]
    noisy: bool = True

    @property
    def matrices(self) -> np.ndarray:
        """(T, 2, 3): from the enlarged portrait in the middle of the picture, as in `still`, to each frame."""
        return np.array([_motion(self.kind, value) for value in self.value(self.times)])

    def true(self, still: np.ndarray) -> np.ndarray:
        """(T, L, 2): where points (L, 2) of the face at rest are in each frame."""
        return np.stack([still @ matrix[:, :2].T + matrix[:, 2] for matrix in self.matrices])

    def frames(self) -> Iterator[Frame]:
        """The film, the same at every call."""
        rng = np.random.default_rng(len(self.name) + len(self.times))
        portrait = _portrait()
        for index, (time, matrix) in enumerate(zip(self.times, self.matrices, strict=True)):
            image = cv2.warpAffine(
                portrait, _after_rest(matrix), SIZE, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
            )
            yield Frame(_camera(image, rng) if self.noisy else image, index, float(time))


def still(seconds: float, rate: float, noisy: bool = True) -> Clip:
    """The face at rest."""
    name = f"still {rate:g} fps{'' if noisy else ', no noise'}"
    return Clip(name, _times(seconds, rate), "translation", np.zeros_like, noisy)


def motion(kind: str, hertz: float, seconds: float, rate: float) -> Clip:
    """A sine of one kind. Its peak speed is the same at all frequencies, as that of a head about is."""
    peak = PEAK[kind] * 0.5 / hertz

    def value(times: np.ndarray) -> np.ndarray:
        return peak * np.sin(2 * np.pi * hertz * times)

    return Clip(f"{kind} {hertz:g} Hz {rate:g} fps", _times(seconds, rate), kind, value)


def step(height: float, seconds: float, rate: float) -> Clip:
    """A jump sideways in the middle of the film, by `height` px."""
    times = _times(seconds, rate)
    return Clip(
        f"step {height:.0f} px {rate:g} fps", times, "translation", lambda at: height * (at >= seconds / 2 - 1e-9)
    )


def _times(seconds: float, rate: float) -> np.ndarray:
    return np.arange(round(seconds * rate)) / rate


def _portrait() -> np.ndarray:
    image = cv2.imread(str(PORTRAIT), cv2.IMREAD_COLOR)
    if image is None:
        raise TabrtError(f"there is no portrait {PORTRAIT}; run the benchmarks from a whole checkout")
    return image


def _middle() -> np.ndarray:
    return (np.array(SIZE) - 1) / 2


def _motion(kind: str, value: float) -> np.ndarray:
    """(2, 3): a shift along x, or a turn or growth about the picture's middle, where the face is."""
    if kind == "translation":
        return np.array([[1.0, 0.0, value], [0.0, 1.0, 0.0]])
    turn, grow = (value, 1.0) if kind == "roll" else (0.0, np.exp(value))
    linear = grow * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.column_stack([linear, _middle() - linear @ _middle()])


def _after_rest(matrix: np.ndarray) -> np.ndarray:
    """From portrait px to frame px: enlarged, its face in the middle, then moved."""
    rest = np.array([[ENLARGED, 0, 0], [0, ENLARGED, 0], [0, 0, 1]])
    rest[:2, 2] = _middle() - ENLARGED * np.array(FACE)
    return matrix @ rest


def _camera(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    grey = image.astype(np.float32)
    noise = rng.standard_normal(image.shape, np.float32) * np.sqrt(READ_NOISE**2 + SHOT_NOISE * grey)
    noisy = np.clip(grey + noise, 0, 255).astype(np.uint8)
    _, data = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
