"""The figure that a checkpoint is chosen by, and pictures of what the network says by then."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from tabrt.card import ModelCard
from tabrt.geometry import CROP_SIZE, Crop
from tabrt.heatmaps import render_boundaries
from tabrt.network import Tab
from tabrt.network.tab import normalise
from tabrt.topology import topology_named
from training.augment import truth_crop
from training.batches import known_boundaries
from training.evaluate import judge
from training.plots import save_sheet, write_sheet
from training.sets import FaceSet

_BATCH = 16
_SHOWN = 16  # faces in a picture of samples


class NetworkEngine:
    """A network in memory as an engine: crops uint8 (N, 256, 256, 3) RGB to maps float32 (N, L, 64, 64)."""

    name = "torch"

    def __init__(self, model: Tab, card: ModelCard):
        self.model, self.card = model.eval(), card

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        return self.both(crops)[0]

    def boundaries(self, crops: np.ndarray) -> np.ndarray:
        return self.both(crops)[1]

    @torch.no_grad()
    def both(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        device = next(self.model.parameters()).device
        landmarks, boundaries = [], []
        for first in range(0, len(crops), _BATCH):
            x = normalise(torch.from_numpy(crops[first : first + _BATCH]).to(device))
            output = self.model(x.contiguous(memory_format=torch.channels_last))
            landmarks.append(output.landmarks.contiguous().cpu().numpy())
            boundaries.append(output.boundaries[-1].contiguous().cpu().numpy())
        return np.concatenate(landmarks), np.concatenate(boundaries)

    def close(self) -> None:
        pass


def validate(model: Tab, card: ModelCard, faces: FaceSet, part: str, picture: Path) -> tuple[float, str]:
    """The error of a network on a set, in true boxes, and the words for it; writes a picture of some of its faces.

    NME; for the boundary estimator alone, the mean squared error of its last maps.
    """
    picture.parent.mkdir(parents=True, exist_ok=True)
    engine = NetworkEngine(model, card)
    some = np.unique(np.linspace(0, len(faces) - 1, _SHOWN).astype(int))
    if part == "scbe":
        error = _boundary_error(engine, faces)
        write_sheet([_boundary_cell(engine, faces, int(i)) for i in some], picture)
        return error, f"boundary MSE {error:.6f}"
    result = judge(faces, engine)
    save_sheet(result, some, picture)
    error = float(result.errors.mean())
    return error, f"NME {100 * error:.3f} %"


def _boundary_error(engine: NetworkEngine, faces: FaceSet) -> float:
    own = faces.topology is topology_named(engine.card.topology)
    total = count = 0.0
    for first in range(0, len(faces), _BATCH):
        batch = range(first, min(first + _BATCH, len(faces)))
        crops = [_crop(faces, i) for i in batch]
        maps = engine.boundaries(np.stack([crop.cut(faces.read(i)) for i, crop in zip(batch, crops, strict=True)]))
        for i, crop, found in zip(batch, crops, maps, strict=True):
            points = crop.to_crop(faces.points[i]).astype(np.float32)
            known = known_boundaries(points, faces.topology, absent=own)
            errors = ((found - render_boundaries(points, faces.topology.boundary_lines)) ** 2).mean(axis=(1, 2))
            total, count = total + float((errors * known).sum()), count + float(known.sum())
    return total / max(count, 1)


def _crop(faces: FaceSet, i: int) -> Crop:
    return truth_crop(faces.points[i], box=None if faces.boxes is None else faces.boxes[i])


def _boundary_cell(engine: NetworkEngine, faces: FaceSet, i: int) -> np.ndarray:
    pixels = _crop(faces, i).cut(faces.read(i))
    union = np.clip(engine.boundaries(pixels[None])[0, -1], 0, 1)
    glow = cv2.resize(union, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_LINEAR)[..., None]
    return (pixels[..., ::-1] * (1 - 0.8 * glow) + 255 * 0.8 * glow).astype(np.uint8)
