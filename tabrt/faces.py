"""What flows through tabrt: a frame comes in, is looked at once, and leaves as a scene."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tabrt.geometry import Box, Crop
from tabrt.measures import Gaze, Measures, Pose, Sight


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a film or camera."""

    image: np.ndarray  # uint8 (H, W, 3) BGR
    index: int = 0
    time: float = 0.0  # seconds: presentation time of a film, monotonic clock of a camera
    pixel_aspect: float = 1.0  # width of a pixel over its height, as the picture is to be shown

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        return f"Frame({self.index} at {self.time:.3f} s, {width}×{height})"


@dataclass(frozen=True, eq=False)
class Face:
    """One face in one frame. The id stays with the face from frame to frame."""

    id: int
    points: np.ndarray  # (L, 2) frame px, smoothed
    raw: np.ndarray  # (L, 2) frame px, as the network gave them
    confidence: np.ndarray  # (L,) 0…1
    box: Box  # upright box of the points; its score is the face's
    crop: Crop | None = None  # the square the network looked at
    boundaries: np.ndarray | None = None  # (16, 64, 64) boundary heatmaps in the crop, when asked for
    sight: Sight | None = None  # what pose, gaze and measures are worked out from, when first asked for

    def __repr__(self) -> str:
        x, y = self.box.centre
        return f"Face({self.id}, score {self.box.score:.2f}, {len(self.points)} points around {x:.0f}, {y:.0f} px)"

    @cached_property
    def pose(self) -> Pose | None:
        """How the head is turned, and where it is; None for schemes other than wflw98."""
        if self.sight is None:
            return None
        return self.sight.person.pose(self.square_points, self.confidence, self.sight.lens, self.sight.clock)

    @property
    def square_points(self) -> np.ndarray:
        """The points (L, 2) in square pixels, as the lens saw them."""
        scale = (1.0, 1.0) if self.sight is None else self.sight.scale
        return self.points if scale == (1.0, 1.0) else (self.points + 0.5) * scale - 0.5

    @property
    def gaze(self) -> Gaze | None:
        """Where the eyes look; None where there is no pose."""
        return self._read[0]

    @property
    def measures(self) -> Measures | None:
        """What the face does: 0…1 by ARKit's names; None where there is no pose."""
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[Gaze | None, Measures | None]:
        if self.sight is None:
            return None, None
        sight = self.sight
        later = sight.time - sight.clock if math.isfinite(sight.time) else 0.0
        return sight.person.read(self.square_points, self.confidence, self.pose, sight.clock, later)


Layer = Callable[[np.ndarray, "Scene"], object]  # draws what a scene shows on an image, uint8 (H, W, 3) BGR, in place


@dataclass(frozen=True, eq=False)
class Scene:
    """A frame and the faces in it, in the order of their ids."""

    frame: Frame
    faces: tuple[Face, ...] = ()
    layers: tuple[Layer, ...] = ()  # of its picture, the lowest first

    def __repr__(self) -> str:
        return f"Scene({self.frame}, {list(self.faces)})"

    @cached_property
    def picture(self) -> np.ndarray:
        """The frame with its layers drawn, uint8 (H, W, 3) BGR: made when first looked at, and not to be changed."""
        if not self.layers:
            return self.frame.image
        image = self.frame.image.copy()
        for layer in self.layers:
            layer(image, self)
        return image
