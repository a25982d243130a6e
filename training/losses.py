"""Targets and losses. Points are in crop px and may be NaN where unlabelled: those are masked.

A crop of which every boundary is known and no point is labelled shows no face: its maps are to be flat.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tabrt.geometry import STRIDE
from tabrt.heatmaps import CELL_OFFSET, GAUSSIAN_SIGMA, SOFTMAX_SIGMA
from tabrt.network import Tab
from tabrt.network.tab import normalise
from training.recipes import Recipe

MSE_REACH = 12.0  # px beyond the crop's edge at which a gaussian still shows in its map


def _profiles(points: Tensor, sigma: float, size: int) -> tuple[Tensor, Tensor]:
    """Gaussian profiles along x and y (B, L, size) of points (B, L, 2)."""
    cells = (points - CELL_OFFSET) / STRIDE
    grid = torch.arange(size, device=points.device, dtype=points.dtype)
    along = torch.exp(-((grid - cells[..., None]) ** 2) / (2 * sigma**2))
    return along[..., 0, :], along[..., 1, :]


def labelled(points: Tensor, size: int, reach: float = 0.0) -> Tensor:
    """(B, L) bool: points that have a label and lie inside the crop, give or take `reach` px. size: of its maps."""
    inside = (points > -0.5 - reach) & (points < size * STRIDE - 0.5 + reach)
    return (inside & torch.isfinite(points)).all(dim=-1)


def faceless(points: Tensor, known: Tensor) -> Tensor:
    """(B,) bool: crops in which nothing is a face, from points (B, L, 2) and known boundaries (B, 16)."""
    return known.bool().all(dim=1) & ~torch.isfinite(points).any(dim=2).any(dim=1)


def landmark_mse(maps: Tensor, points: Tensor, empty: Tensor) -> Tensor:
    """The paper's loss: mean squared error to gaussians of peak 1 (§4.3); where empty (B,), to nothing."""
    size = maps.shape[-1]
    mask = labelled(points, size, MSE_REACH)
    along_x, along_y = _profiles(torch.where(mask[..., None], points, 0.0), GAUSSIAN_SIGMA, size)
    target = along_y[..., :, None] * along_x[..., None, :] * ~empty[:, None, None, None]
    errors = ((maps.float() - target) ** 2).mean(dim=(2, 3))
    mask = mask | empty[:, None]
    return (errors * mask).sum() / mask.sum().clamp(min=1)


class _SoftTargetCrossEntropy(torch.autograd.Function):
    """Cross-entropy of each map's softmax to a target, plus `weight` (B,) times the distance of its mean to the point.

    Written out because at this size of network autograd's intermediates over (B, L, 4096) would cost as much time as
    the network. The gradient is made on the way forward, on a CPU face by face: the maps of one face fit its cache.
    """

    @staticmethod
    def forward(ctx, maps, along_x, along_y, cells, mask, weight):
        count = mask.sum().clamp(min=1)
        slope = torch.empty_like(maps)
        together = 1 if maps.device.type == "cpu" else len(maps)
        losses = []
        for first in range(0, len(maps), together):
            part = slice(first, first + together)
            loss, gradient = _entropy(maps[part], along_x[part], along_y[part], cells[part], weight[part])
            share = mask[part] / count
            losses.append((loss * share).sum())
            slope[part] = gradient.mul_(share[..., None, None])
        ctx.save_for_backward(slope)
        return torch.stack(losses).sum()

    @staticmethod
    def backward(ctx, gradient):
        (slope,) = ctx.saved_tensors
        return slope * gradient.to(slope.dtype), None, None, None, None, None


def _entropy(maps: Tensor, along_x: Tensor, along_y: Tensor, cells: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of every map (B, L), and its slope (B, L, 64, 64). The target is along_y × along_x, and sums to 1."""
    flat = maps.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    # −Σ target · log share: the target is separable, and never made as a map here.
    score = ((along_y[..., None, :] @ flat)[..., 0, :] * along_x).sum(dim=-1)
    highest = flat.amax(dim=(2, 3), keepdim=True)
    shares = flat.sub_(highest).exp_()
    total = shares.sum(dim=(2, 3), keepdim=True)
    shares.div_(total)
    entropy = highest[..., 0, 0] + total[..., 0, 0].log() - score
    grid = torch.arange(maps.shape[-1], device=maps.device, dtype=torch.float32)
    mean = torch.stack([shares.sum(dim=2) @ grid, shares.sum(dim=3) @ grid], dim=-1)  # (B, L, 2)
    offset = mean - cells
    distance = (offset.square().sum(dim=-1) + 0.01).sqrt()
    # d entropy = share − target; d mean = share · (grid − mean).
    towards = weight[:, None, None] * offset / distance[..., None]
    pull = towards[..., None] * (grid - mean[..., None])  # (B, L, 2, 64)
    shares.mul_((1 + pull[..., 1, :])[..., :, None] + pull[..., 0, None, :])
    shares.addcmul_(along_y[..., :, None], along_x[..., None, :], value=-1)
    return entropy + weight[:, None] * distance, shares


def landmark_cross_entropy(maps: Tensor, points: Tensor, empty: Tensor, weight: float = 0.0) -> Tensor:
    """Soft-target cross-entropy over each whole map, plus `weight` × distance of the map's mean to the point, cells.

    Where empty (B,) the target is the same share in every cell, so that no point is sure of any place.
    """
    size = maps.shape[-1]
    mask = labelled(points, size)
    safe = torch.where(mask[..., None], points, 0.0)
    flat = empty[:, None, None]
    along_x, along_y = (
        torch.where(flat, 1 / size, along / along.sum(dim=-1, keepdim=True))
        for along in _profiles(safe, SOFTMAX_SIGMA, size)
    )
    cells = (safe - CELL_OFFSET) / STRIDE
    mask = (mask | empty[:, None]).float()
    return _SoftTargetCrossEntropy.apply(maps, along_x, along_y, cells, mask, weight * ~empty)


def boundary_mse(stacks: list[Tensor], target: Tensor, known: Tensor) -> Tensor:
    """Mean squared error of every stack's boundary maps (B, 16, 64, 64): intermediate supervision (§3.1), summed.

    known (B, 16): 1 for the maps whose target is known; the mean is over those.
    """
    count = known.sum().clamp(min=1)
    errors = [(((maps.float() - target) ** 2).mean(dim=(2, 3)) * known).sum() / count for maps in stacks]
    return torch.stack(errors).sum()


class Objective(nn.Module):
    """A network and the loss of one part of it, as one module: what Fabric wraps, and gradients flow through.

    part: all | scbe (the boundary estimator alone) | balt (the estimator frozen, its batch normalisation too).
    total: sums a tensor over all processes; None where there is one. half: the network computes in bf16 where that is
    safe; the loss never does.
    """

    def __init__(
        self, model: Tab, recipe: Recipe, part: str, total: Callable[[Tensor], Tensor] | None = None,
        half: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.model, self.recipe, self.part, self.total, self.in_half = model, recipe, part, total, half
        model.scbe.requires_grad_(part != "balt")
        model.balt.requires_grad_(part != "scbe")

    def train(self, mode: bool = True) -> Objective:
        super().train(mode)
        if self.part == "balt":
            self.model.scbe.eval()  # else the statistics of the frozen part would go on moving
        return self

    def forward(self, crops: Tensor, points: Tensor, boundaries: Tensor, known: Tensor) -> tuple[Tensor, ...]:
        """crops uint8 (B, 256, 256, 3), points (B, L, 2) crop px. Returns the loss, and its two parts on their own."""
        x = normalise(crops)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.in_half):
            with torch.set_grad_enabled(self.part != "balt" and torch.is_grad_enabled()):
                stacks, feature, levels = self.model.scbe(x)
            maps = None if self.part == "scbe" else self.model.balt(stacks[-1], feature, levels)
        return self.loss(maps, stacks, points, boundaries, known)

    def loss(
        self, maps: Tensor | None, stacks: list[Tensor], points: Tensor, boundaries: Tensor, known: Tensor
    ) -> tuple[Tensor, ...]:
        """The loss of maps that are there already, and its two parts on their own."""
        edge = land = torch.zeros((), device=points.device)
        if self.part != "balt":
            edge = boundary_mse(stacks, boundaries, known) * self._share(known.sum())
        empty = faceless(points, known)
        if maps is not None and self.recipe.loss == "mse":
            count = labelled(points, maps.shape[-1], MSE_REACH) | empty[:, None]
            land = landmark_mse(maps, points, empty) * self._share(count.sum())
        elif maps is not None:
            count = labelled(points, maps.shape[-1]) | empty[:, None]
            weight = self.recipe.distance_weight
            land = landmark_cross_entropy(maps, points, empty, weight) * self._share(count.sum())
        return land + self.recipe.boundary_weight * edge, land.detach(), edge.detach()

    def _share(self, count: Tensor) -> Tensor | float:
        """What the mean over this process' labels weighs, so that the mean over processes is that over all labels."""
        if self.total is None:
            return 1.0
        together = self.total(torch.stack([count.float(), torch.ones_like(count, dtype=torch.float32)]))
        return count * together[1] / together[0].clamp(min=1)
