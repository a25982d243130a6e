"""What the network sees where it is pointed."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from tabrt.engines import Engine
from tabrt.geometry import Box, Crop
from tabrt.heatmaps import decode
from tabrt.topology import Topology
from tabrt.tracking.cuts import glimpse

FIRST_MARGIN = 1.2  # of a new face's first crop over that of a followed one: a detector's box may lie beside the face
SPREAD = (0.3, 1.3)  # of a face's points in their crop, in its sides


@dataclass(frozen=True, eq=False)
class Look:
    """What the network saw in one crop."""

    crop: Crop
    points: np.ndarray  # (L, 2) frame px
    confidence: np.ndarray  # (L,)
    roll: float  # of the points in the frame
    glimpse: np.ndarray  # uint8 (32, 32, 3) of the crop
    boundaries: np.ndarray | None = None  # (16, 64, 64)

    @cached_property
    def score(self) -> float:
        """The mean of the points' confidence."""
        return float(self.confidence.mean())

    @cached_property
    def box(self) -> Box:
        """The upright box of the points."""
        return Box.of(self.points, self.score)

    def is_sound(self, shape: tuple[int, ...]) -> bool:
        """Whether points are finite, centred in the picture, spread as a face's are in its crop, and upright there."""
        x, y = self.box.centre
        if not (math.isfinite(x) and math.isfinite(y)):
            return False
        spread = max(self.box.width, self.box.height) / self.crop.side
        inside = 0 <= x < shape[1] and 0 <= y < shape[0] and self.crop.side < 4 * max(shape)
        return inside and SPREAD[0] < spread < SPREAD[1] and math.cos(self.roll - self.crop.roll) > 0


class Looking:
    """Points the network: `looking(image, crops)`. stage: takes the time of each stage of it, by name."""

    def __init__(
        self, engine: Engine, topology: Topology, boundaries: bool, stage: Callable[[str], AbstractContextManager[None]]
    ):
        self._engine, self._topology, self._boundaries, self._stage = engine, topology, boundaries, stage

    def __call__(self, image: np.ndarray, crops: list[Crop]) -> list[Look]:
        """Run the network on all crops of an image at once."""
        if not crops:
            return []
        cuts = self._cut(image, crops)
        return self._looks(crops, cuts, *self._read(cuts))

    def both_ways(self, image: np.ndarray, crops: list[Crop]) -> list[Look]:
        """Run it on the crops and on their mirror images: the means of both, weighed by confidence."""
        if not crops:
            return []
        cuts = self._cut(image, crops)
        points, confidence, boundaries = self._read(np.concatenate([cuts, cuts[:, :, ::-1]]))
        with self._stage("maps"):
            straight, turned = np.split(points, 2)
            turned = turned[:, self._topology.mirror] * (-1, 1) + (self._engine.card.crop_size - 1, 0)
            sure, as_sure = np.split(confidence, 2)
            as_sure = as_sure[:, self._topology.mirror]
            share = (as_sure / np.maximum(sure + as_sure, 1e-6))[..., None]
            mean = (straight + share * (turned - straight)).astype(points.dtype)
        drawn = None if boundaries is None else boundaries[: len(crops)]
        return self._looks(crops, cuts, mean, (sure + as_sure) / 2, drawn)

    def _cut(self, image: np.ndarray, crops: list[Crop]) -> np.ndarray:
        with self._stage("crop"):
            size = self._engine.card.crop_size
            cuts = np.empty((len(crops), size, size, 3), np.uint8)
            for crop, cut in zip(crops, cuts, strict=True):
                crop.cut(image, cut)
            return cuts

    def _looks(
        self,
        crops: list[Crop],
        cuts: np.ndarray,
        points: np.ndarray,
        confidence: np.ndarray,
        boundaries: np.ndarray | None,
    ) -> list[Look]:
        with self._stage("maps"):
            placed = [crop.to_frame(each) for crop, each in zip(crops, points, strict=True)]
            rolls = map(self._topology.roll, placed)
            drawn = [None] * len(crops) if boundaries is None else list(boundaries)
            each = zip(crops, placed, confidence, rolls, map(glimpse, cuts), drawn, strict=True)
            return [Look(*parts) for parts in each]

    def _read(self, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Points in crop px, their confidence, and boundary maps where they are wanted."""
        read = None if self._boundaries else getattr(self._engine, "read", None)
        if read is not None:  # the maps stay on the GPU
            with self._stage("network"):
                return *read(cuts), None
        with self._stage("network"):
            maps, boundaries = self._engine.both(cuts) if self._boundaries else (self._engine(cuts), None)
        with self._stage("maps"):
            return *decode(maps, self._engine.card.decoding, self._engine.card.offset), boundaries

    def around(self, box: Box) -> Crop:
        """Where to look first for a face that a detector found."""
        card = self._engine.card
        return Crop.around(box, FIRST_MARGIN * card.crop_margin, card.crop_size)

    def after(self, look: Look) -> Crop:
        """Where to look next for a face that was seen."""
        card = self._engine.card
        return Crop.following(look.points, look.roll, card.crop_margin, card.crop_size)

    def upside_down(self, look: Look) -> Crop:
        """The crop of a look, turned by 180° about the eyes, and as wide as for a new face.

        A face that is read the wrong way round has its eyes where they are, and its mouth on the forehead.
        """
        eyes = look.points[[*self._topology.left_eye, *self._topology.right_eye]].mean(axis=0)
        x, y = (2 * eyes - look.box.centre).tolist()
        return replace(look.crop, centre=(x, y), roll=look.crop.roll + math.pi, side=FIRST_MARGIN * look.crop.side)
