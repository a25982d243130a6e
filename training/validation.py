"""The figures that a checkpoint is chosen by, and pictures of what the network says by then."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from tabrt.card import ModelCard
from tabrt.geometry import Crop
from tabrt.heatmaps import render_boundaries
from tabrt.network import Tab
from tabrt.network.tab import normalise
from tabrt.topology import topology_named
from training.augment import truth_crop
from training.batches import known_boundaries
from training.evaluate import judge
from training.plots import face_cell, write_sheet
from training.sets import FaceSet
from training.weaknesses import Trial

_BATCH = 16
_SHOWN, _ROW = 16, 8  # faces in a picture of samples: of the only trial, of each of several


class NetworkEngine:
    """A network in memory as an engine: crops uint8 (N, 256, 256, 3) RGB to maps float32 (N, L, 64, 64)."""

    name = "torch"
    device = "torch's own"

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
            output = self.model(x)
            landmarks.append(output.landmarks.contiguous().cpu().numpy())
            boundaries.append(output.boundaries[-1].contiguous().cpu().numpy())
        return np.concatenate(landmarks), np.concatenate(boundaries)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Validation:
    """The error of each trial by name, their mean, and what they are errors of.

    The mean is the geometric one: a tenth off any of them counts the same, however large it is.
    """

    errors: dict[str, float]
    what: str

    @property
    def mean(self) -> float:
        return float(np.exp(np.mean(np.log(list(self.errors.values())))))

    def __str__(self) -> str:
        scale, digits, unit = (100, 3, " %") if self.what == "nme" else (1, 6, "")
        each = "  ".join(f"{name} {scale * error:.{digits}f}" for name, error in self.errors.items())
        mean = f"{'NME' if self.what == 'nme' else 'boundary MSE'} {scale * self.mean:.{digits}f}{unit}"
        return mean if len(self.errors) == 1 else f"{mean} ({each})"


def validate(model: Tab, card: ModelCard, trials: list[Trial], part: str, picture: Path) -> Validation:
    """The error of a network in each trial, in true boxes; writes a picture of some faces of each.

    NME; for the boundary estimator alone, the mean squared error of its last maps, on faces as they are.
    """
    picture.parent.mkdir(parents=True, exist_ok=True)
    engine = NetworkEngine(model, card)
    errors, cells = {}, []
    if part == "scbe":
        trials = [trial for trial in trials if trial.perturbation is None]
    for trial in trials:
        shown = _SHOWN if len(trials) == 1 else _ROW
        some = np.unique(np.linspace(0, len(trial.faces) - 1, shown).astype(int)).tolist()
        if part == "scbe":
            errors[trial.name] = _boundary_error(engine, trial.faces)
            cells += [_boundary_cell(engine, trial.faces, i) for i in some]
        else:
            result = judge(trial.faces, engine, perturbation=trial.perturbation)
            errors[trial.name] = float(result.errors.mean())
            cells += [face_cell(result, i) for i in some]
    write_sheet(cells, picture, _ROW)
    return Validation(errors, "boundary_mse" if part == "scbe" else "nme")


def _boundary_error(engine: NetworkEngine, faces: FaceSet) -> float:
    own = faces.topology is topology_named(engine.card.topology)
    total = count = 0.0
    for first in range(0, len(faces), _BATCH):
        batch = range(first, min(first + _BATCH, len(faces)))
        crops = [_crop(faces, i, engine.card.crop_size) for i in batch]
        maps = engine.boundaries(np.stack([crop.cut(faces.read(i)) for i, crop in zip(batch, crops, strict=True)]))
        for i, crop, found in zip(batch, crops, maps, strict=True):
            points = crop.to_crop(faces.points[i]).astype(np.float32)
            known = known_boundaries(points, faces.topology, absent=own)
            lines = faces.topology.boundary_lines
            errors = ((found - render_boundaries(points, lines, size=found.shape[-1])) ** 2).mean(axis=(1, 2))
            total, count = total + float((errors * known).sum()), count + float(known.sum())
    return total / max(count, 1)


def _crop(faces: FaceSet, i: int, size: int) -> Crop:
    return replace(truth_crop(faces.points[i], box=None if faces.boxes is None else faces.boxes[i]), size=size)


def _boundary_cell(engine: NetworkEngine, faces: FaceSet, i: int) -> np.ndarray:
    size = engine.card.crop_size
    pixels = _crop(faces, i, size).cut(faces.read(i))
    union = np.clip(engine.boundaries(pixels[None])[0, -1], 0, 1)
    glow = cv2.resize(union, (size, size), interpolation=cv2.INTER_LINEAR)[..., None]
    return (pixels[..., ::-1] * (1 - 0.8 * glow) + 255 * 0.8 * glow).astype(np.uint8)
