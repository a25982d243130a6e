"""What goes into each batch: a pure function of seed and step, so that a resumed run sees what it would have seen."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tabrt.errors import TabrtError
from tabrt.geometry import CROP_SIZE, STRIDE
from tabrt.heatmaps import render_boundaries
from tabrt.topology import Topology
from training.augment import Augmentation, training_crop
from training.sets import FaceSet

Key = tuple[str, int, int]  # set, face, seed of its augmentation
_BLOCK = 1000  # faces within which each set gets its exact share


class Crops(Dataset):
    """Map-style over keys: a crop, its points, its boundary maps, and which of those are known."""

    def __init__(self, sets: dict[str, FaceSet], augmentation: Augmentation, size: int = CROP_SIZE):
        self.sets, self.augmentation, self.size = sets, augmentation, size

    def __getitem__(self, key: Key) -> tuple[np.ndarray, ...]:
        cv2.setNumThreads(0)  # its own threads would fight with the workers for cores
        pixels, moved = self.crop(key)
        topology = self.sets[key[0]].topology
        if self.size != CROP_SIZE:
            pixels, moved = scaled(pixels, moved, self.size)
        maps = render_boundaries(moved, topology.boundary_lines, size=self.size // STRIDE)
        return pixels, moved, maps, known_boundaries(moved, topology)

    def crop(self, key: Key) -> tuple[np.ndarray, np.ndarray]:
        """The crop of 256 px that a key stands for, and its points."""
        name, index, seed = key
        faces = self.sets[name]
        box = None if faces.boxes is None else faces.boxes[index]
        rng = np.random.default_rng(seed)
        image, points = faces.read(index), faces.points[index]
        covered = rng.random() < self.augmentation.strangers
        other = faces.read(int(rng.integers(len(faces)))) if covered else None
        return training_crop(image, points, faces.topology, self.augmentation, rng, box=box, other=other)


def scaled(pixels: np.ndarray, points: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A crop and its points (L, 2) as a crop of another size would have them."""
    factor = size / pixels.shape[0]
    kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(pixels, (size, size), interpolation=kind)
    return resized, ((points + 0.5) * factor - 0.5).astype(points.dtype)


def known_boundaries(points: np.ndarray, topology: Topology, absent: bool = True) -> np.ndarray:
    """(16,) float32: 1 for each boundary whose points (L, 2) are all labelled; the last for the union of all.

    absent: whether a boundary that the scheme lacks counts as known to be empty.
    """
    lines = topology.boundary_lines
    if not np.isfinite(points).any():  # no face: no boundary either
        return np.ones(len(lines) + 1, np.float32)
    known = [absent if line is None else bool(np.isfinite(points[list(line)]).all()) for line in lines]
    return np.array([*known, all(known)], np.float32)


class Plan:
    """A batch sampler: gives, for each step, the keys of this process' share of the batch.

    Each set is gone through in shuffled passes, so no face is left out.
    """

    def __init__(
        self,
        sizes: dict[str, int],
        shares: dict[str, float],
        batch: int,
        steps: range,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ):
        if batch % world:
            raise TabrtError(f"a batch of {batch} cannot be shared evenly by {world} processes; change --batch")
        self.names = [name for name in sizes if shares.get(name, 0) > 0]
        if not self.names:
            raise TabrtError(f"no set has a share of the batches; there are: {', '.join(sizes)}")
        self.sizes = [sizes[name] for name in self.names]
        self.quotas = _quotas(np.array([shares[name] for name in self.names]))
        self.batch, self.steps, self.seed, self.rank, self.world = batch, steps, seed, rank, world

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Key]]:
        for step in self.steps:
            yield self.keys(step)[self.rank :: self.world]

    def keys(self, step: int) -> list[Key]:
        """The whole batch of a step."""
        return [self._key(number) for number in range(step * self.batch, (step + 1) * self.batch)]

    def _key(self, number: int) -> Key:
        """The face that comes at this place of the whole run."""
        block, place = divmod(number, _BLOCK)
        order = _shuffled_sets(self.seed, block, tuple(self.quotas.tolist()))
        which = int(order[place])
        turn = block * int(self.quotas[which]) + int((order[:place] == which).sum())
        cycle, position = divmod(turn, self.sizes[which])
        index = _shuffled_faces(self.seed, which, cycle, self.sizes[which])[position]
        seed = int(np.random.SeedSequence((self.seed, number)).generate_state(1, np.uint64)[0])
        return self.names[which], int(index), seed


def _quotas(shares: np.ndarray) -> np.ndarray:
    """Whole numbers in proportion to the shares, at least 1, that add up to _BLOCK."""
    exact = shares / shares.sum() * _BLOCK
    quotas = np.maximum(1, np.floor(exact)).astype(int)
    order = np.argsort(quotas - exact, kind="stable")
    for i in range(_BLOCK - int(quotas.sum())):
        quotas[order[i % len(order)]] += 1
    return quotas


@lru_cache(maxsize=4)
def _shuffled_sets(seed: int, block: int, quotas: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng((seed, 0, block)).permutation(np.repeat(np.arange(len(quotas)), quotas))


@lru_cache(maxsize=32)
def _shuffled_faces(seed: int, which: int, cycle: int, size: int) -> np.ndarray:
    return np.random.default_rng((seed, 1, which, cycle)).permutation(size)


def loader(
    sets: dict[str, FaceSet], augmentation: Augmentation, plan: Plan, workers: int, size: int = CROP_SIZE
) -> DataLoader:
    """Batches (crops, points, boundary maps, known boundaries), made by worker processes."""
    ahead = 4 if workers else None
    crops = Crops(sets, augmentation, size)
    return DataLoader(crops, batch_sampler=plan, num_workers=workers, collate_fn=collate, prefetch_factor=ahead)


def collate(samples: list[tuple[np.ndarray, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(np.stack(part)) for part in zip(*samples, strict=True))
