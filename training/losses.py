"""Targets and losses. Points are in crop px and may be NaN where unlabelled: those are masked."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tabrt.geometry import HEATMAP_SIZE, STRIDE
from tabrt.heatmaps import CELL_OFFSET, GAUSSIAN_SIGMA, SOFTMAX_SIGMA


def _profiles(points: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Gaussian profiles along x and y (B, L, 64) of points (B, L, 2)."""
    cells = (points - CELL_OFFSET) / STRIDE
    grid = torch.arange(HEATMAP_SIZE, device=points.device, dtype=points.dtype)
    along = torch.exp(-((grid - cells[..., None]) ** 2) / (2 * sigma**2))
    return along[..., 0, :], along[..., 1, :]


def labelled(points: Tensor, reach: float = 0.0) -> Tensor:
    """(B, L) bool: points that have a label and lie inside the crop, give or take `reach` px."""
    inside = (points > -0.5 - reach) & (points < HEATMAP_SIZE * STRIDE - 0.5 + reach)
    return (inside & torch.isfinite(points)).all(dim=-1)


def landmark_mse(maps: Tensor, points: Tensor) -> Tensor:
    """The paper's loss: mean squared error to gaussians of peak 1 (§4.3)."""
    mask = labelled(points, reach=12)
    along_x, along_y = _profiles(torch.where(mask[..., None], points, 0.0), GAUSSIAN_SIGMA)
    target = along_y[..., :, None] * along_x[..., None, :]
    errors = ((maps.float() - target) ** 2).mean(dim=(2, 3))
    return (errors * mask).sum() / mask.sum().clamp(min=1)


class _SoftTargetCrossEntropy(torch.autograd.Function):
    """Cross-entropy of each map's softmax to a gaussian, plus `weight` times the distance of its mean to the point.

    Written out because at this size of network autograd's intermediates over (B, L, 4096) would cost as much time as
    the network: forward and backward keep the softmax alone.
    """

    @staticmethod
    def forward(ctx, maps, along_x, along_y, cells, mask, weight):
        flat = maps.contiguous().float()
        highest = flat.amax(dim=(2, 3), keepdim=True)
        shares = torch.exp(flat - highest)
        total = shares.sum(dim=(2, 3), keepdim=True)
        shares /= total
        # −Σ target · log share; the target sums to 1 and is separable.
        score = torch.einsum("blyx,bly,blx->bl", flat, along_y, along_x)
        entropy = highest[..., 0, 0] + total[..., 0, 0].log() - score
        grid = torch.arange(HEATMAP_SIZE, device=maps.device, dtype=torch.float32)
        mean = torch.stack([shares.sum(dim=2) @ grid, shares.sum(dim=3) @ grid], dim=-1)  # (B, L, 2)
        offset = mean - cells
        distance = (offset.square().sum(dim=-1) + 0.01).sqrt()
        count = mask.sum().clamp(min=1)
        ctx.save_for_backward(shares, along_x, along_y, mean, offset / distance[..., None], mask / count)
        ctx.weight = weight
        return ((entropy + weight * distance) * mask).sum() / count

    @staticmethod
    def backward(ctx, gradient):
        shares, along_x, along_y, mean, direction, mask = ctx.saved_tensors
        grid = torch.arange(HEATMAP_SIZE, device=shares.device, dtype=torch.float32)
        # d entropy = share − target; d mean = share · (grid − mean).
        pull = ctx.weight * direction[..., None] * (grid - mean[..., None])  # (B, L, 2, 64)
        rows = 1 + pull[..., 1, :]
        out = shares * (rows[..., :, None] + pull[..., 0, None, :])
        out -= along_y[..., :, None] * along_x[..., None, :]
        out *= (mask * gradient)[..., None, None]
        return out, None, None, None, None, None


def landmark_cross_entropy(maps: Tensor, points: Tensor, weight: float = 0.0) -> Tensor:
    """Soft-target cross-entropy over each whole map, plus `weight` × distance of the map's mean to the point, cells."""
    mask = labelled(points)
    safe = torch.where(mask[..., None], points, 0.0)
    along_x, along_y = (along / along.sum(dim=-1, keepdim=True) for along in _profiles(safe, SOFTMAX_SIGMA))
    cells = (safe - CELL_OFFSET) / STRIDE
    return _SoftTargetCrossEntropy.apply(maps, along_x, along_y, cells, mask.float(), weight)


def boundary_mse(stacks: list[Tensor], target: Tensor) -> Tensor:
    """Mean squared error of every stack's boundary maps: intermediate supervision (§3.1), summed over the stacks."""
    return sum(functional.mse_loss(maps.float(), target) for maps in stacks)
