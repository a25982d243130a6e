"""Heatmaps read where they lie, by torch: as `tabrt.heatmaps.decode` reads them, on a GPU and inside its CUDA graphs.

Nothing here waits for the device, or depends on what the maps hold.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tabrt import heatmaps
from tabrt.geometry import STRIDE


def decode(maps: Tensor, decoding: str, offset: float) -> Tensor:
    """Maps (N, L, S, S), float16 or float32, to x and y in crop px and confidence: float32 (N, L, 3)."""
    read = _softmax if decoding == "softmax" else _gaussian
    cells, confidence = read(maps.reshape(-1, *maps.shape[2:]))
    values = torch.cat([cells * STRIDE + offset, confidence.clamp(0, 1)[:, None]], dim=1)
    return values.reshape(*maps.shape[:2], 3)


def _softmax(grids: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (M, S, S) to cells (M, 2) and confidences (M,)."""
    flat = grids.flatten(1)
    highest, peak = flat.max(dim=1)
    highest = highest.float()[:, None]
    coarse = grids[:, ::2, ::2].reshape(len(flat), -1).float()
    total = 4 * torch.exp(coarse - highest).sum(dim=1)
    values, inside, middle, around = _window(grids, peak, heatmaps.REFINE)
    weights = torch.exp(values - highest) * inside
    mass = weights.sum(dim=1)
    mean = middle + (weights[:, :, None] * around).sum(dim=1) / mass[:, None]
    near = (around.abs().amax(dim=1) <= heatmaps.NEAR).float()
    return mean, weights @ near / torch.maximum(total, mass) / heatmaps.FULL_MASS


def _gaussian(grids: Tensor) -> tuple[Tensor, Tensor]:
    highest, peak = grids.flatten(1).max(dim=1)
    values, inside, middle, _ = _window(grids, peak, 1)
    logs = torch.log((values * inside).clamp_min(1e-6))
    shift = torch.stack([_vertex(logs[:, 3:6]), _vertex(logs[:, 1::3])], dim=1)
    return middle + shift, highest.float()


def _vertex(triple: Tensor) -> Tensor:
    left, middle, right = triple.unbind(dim=1)
    bend = left - 2 * middle + right
    top = (left - right) / (2 * bend.clamp_max(-1e-9))
    return torch.where(bend < 0, top, torch.zeros_like(top)).clamp(-0.5, 0.5)


def _window(grids: Tensor, peak: Tensor, reach: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The cells within reach of each peak, row by row: values (M, k·k) and whether they are in the map, as 1 and 0; the
    peaks' own cells (M, 2); and where the cells lie from there (k·k, 2)."""
    flat, size = grids.flatten(1), grids.shape[-1]
    side = torch.arange(-reach, reach + 1, device=flat.device)
    around = torch.stack([side.repeat(len(side)), side.repeat_interleave(len(side))], dim=1)  # x, y
    middle = torch.stack([peak % size, torch.div(peak, size, rounding_mode="floor")], dim=1)
    cells = middle[:, None] + around  # (M, k·k, 2)
    kept = cells.clamp(0, size - 1)
    values = flat.gather(1, kept[..., 1] * size + kept[..., 0]).float()
    return values, (kept == cells).all(dim=2).float(), middle.float(), around.float()
