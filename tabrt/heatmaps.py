"""Heatmaps, drawn and read: rendering and decoding side by side, so that they cannot disagree.

A cell (column, row) of a map lies at crop px 4·cell + offset. tabrt's own networks use offset 1.5, the centre of
the 4×4 px that a cell covers; the paper's authors train with offset 0.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from tabrt.geometry import HEATMAP_SIZE, STRIDE

CELL_OFFSET = (STRIDE - 1) / 2  # crop px of the centre of cell 0
DECODINGS = ("softmax", "gaussian")
SOFTMAX_SIGMA = 1.3  # cells: width of the target distribution of tabrt's own networks
GAUSSIAN_SIGMA = 1.5  # cells: width of the paper's heatmaps
REACH = 3.7  # of those widths, beyond which boundary maps are empty
# Cells: reach of the weighted mean around the peak. A shorter one cuts off the foot of a doubtful point's wide map, and
# the mean then jumps with the peak from cell to cell.
REFINE = 7
NEAR = 2  # cells: reach of the mass that counts as confidence
# Maps summed at once: for a larger product numpy's BLAS would start threads, which go on spinning for 20 ms and take
# the cores from the network: with 8 faces it took three times as long.
_ROWS = 128
# The share of a perfect map's mass within NEAR cells of its peak: what a confidence of 1 stands for.
FULL_MASS = math.erf((NEAR + 0.5) / (SOFTMAX_SIGMA * math.sqrt(2))) ** 2


_SIDE = 2 * REFINE + 1  # cells: of the window around a peak


def _moments() -> np.ndarray:
    """(k·k, 4): what the weights of a window are summed with: 1, x, y, and 1 where its middle is near."""
    y, x = np.mgrid[:_SIDE, :_SIDE]
    near = np.maximum(abs(x - REFINE), abs(y - REFINE)) <= NEAR
    return np.stack([np.ones_like(x), x, y, near], axis=-1).reshape(-1, 4).astype(np.float32)


def _within(reach: int) -> np.ndarray:
    """(k, k) of 0 and 1: which cells along a window are within reach of a peak, by the peak's place in the window."""
    cells = np.arange(_SIDE)
    return (np.abs(cells[:, None] - cells) <= reach).astype(np.float32)


_MOMENTS, _REFINED, _NEARBY = _moments(), _within(REFINE), _within(NEAR)


def to_cells(points: np.ndarray, offset: float = CELL_OFFSET) -> np.ndarray:
    """Points in crop px to cells of a heatmap."""
    return (points - offset) / STRIDE


def from_cells(cells: np.ndarray, offset: float = CELL_OFFSET) -> np.ndarray:
    """Cells of a heatmap to crop px."""
    return cells * STRIDE + offset


def render(
    points: np.ndarray, sigma: float = GAUSSIAN_SIGMA, offset: float = CELL_OFFSET, size: int = HEATMAP_SIZE
) -> np.ndarray:
    """Gaussian heatmaps with peak 1 of points (..., L, 2) in crop px: float32 (..., L, size, size) (paper §4.3)."""
    cells = to_cells(np.asarray(points, np.float64), offset)[..., None]  # (..., L, 2, 1)
    along = np.exp(-((np.arange(size) - cells) ** 2) / (2 * sigma**2))  # (..., L, 2, size)
    return (along[..., 1, :, None] * along[..., 0, None, :]).astype(np.float32)


def render_logits(points: np.ndarray, offset: float = CELL_OFFSET, size: int = HEATMAP_SIZE) -> np.ndarray:
    """Maps whose softmax is the target distribution of tabrt's own networks: float32 (..., L, size, size)."""
    cells = to_cells(np.asarray(points, np.float64), offset)[..., None]
    along = -((np.arange(size) - cells) ** 2) / (2 * SOFTMAX_SIGMA**2)
    return (along[..., 1, :, None] + along[..., 0, None, :]).astype(np.float32)


def decode(maps: np.ndarray, decoding: str = "softmax", offset: float = CELL_OFFSET) -> tuple[np.ndarray, np.ndarray]:
    """Read heatmaps (N, L, S, S) to sub-pixel points (N, L, 2) in crop px and confidences (N, L) in 0…1.

    softmax: maps are log-probabilities up to a constant. The point is the mean of the 15×15 cells around the peak; the
    confidence is the probability that the point lies within 2.5 cells of the peak. A covered or doubtful point spreads
    its mass and scores lower.
    gaussian: maps are gaussians of peak 1, as in the paper. The point is the top of a parabola through the logarithms
    of the 3×3 cells around the peak; the confidence is the peak's height.
    """
    if decoding not in DECODINGS:
        raise ValueError(f"decoding is {decoding!r}; it must be one of {', '.join(DECODINGS)}")
    if maps.size == 0:
        return np.zeros((*maps.shape[:2], 2), np.float32), np.zeros(maps.shape[:2], np.float32)
    grids = np.ascontiguousarray(maps, np.float32).reshape(-1, *maps.shape[2:])
    cells, confidence = (_decode_softmax if decoding == "softmax" else _decode_gaussian)(grids)
    shape = maps.shape[:2]
    confidence = np.minimum(np.maximum(confidence, 0), 1)
    return from_cells(cells, offset).reshape(*shape, 2), confidence.reshape(shape)


def _decode_softmax(grids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps (M, S, S) to cells (M, 2) and confidences (M,).

    Between two runs of a network everything here is out of the CPU's caches, and each of numpy's calls costs more than
    what it computes: so there are few of them.
    """
    flat, size = grids.reshape(len(grids), -1), grids.shape[-1]
    maps, last = np.arange(len(flat)), size - _SIDE
    peak = flat.argmax(axis=1)
    highest = flat[maps, peak][:, None]
    # Every second cell of every second row: a map as smooth as its target sums to the same within 0.1 %, in a quarter
    # of the time.
    coarse = grids[:, ::2, ::2].reshape(len(flat), -1)  # a copy
    total = 4 * np.einsum("ij->i", _shares(coarse, highest))
    y, x = np.divmod(peak, size)
    top = np.minimum(np.maximum(y - REFINE, 0), last)  # of a window of 15×15 cells that ends where the map does
    left = np.minimum(np.maximum(x - REFINE, 0), last)
    weights = _shares(_windows(grids)[maps, top, left].reshape(len(flat), -1), highest)
    down, right = y - top, x - left  # where the peak lies in its window
    edge = np.flatnonzero((down != REFINE) | (right != REFINE))
    if len(edge):
        own, rows, columns = weights[edge].reshape(-1, _SIDE, _SIDE), down[edge], right[edge]
        own *= _REFINED[rows][:, :, None] * _REFINED[columns][:, None, :]
        weights[edge] = own.reshape(len(edge), -1)
    moments = _summed(weights)
    if len(edge):
        moments[edge, 3] = np.einsum("mij,mi,mj->m", own, _NEARBY[rows], _NEARBY[columns])
    mass = moments[:, 0]
    cells = np.stack([left + moments[:, 1] / mass, top + moments[:, 2] / mass], axis=1)
    return cells.astype(np.float32), moments[:, 3] / np.maximum(total, mass) / FULL_MASS


def _shares(values: np.ndarray, highest: np.ndarray) -> np.ndarray:
    """exp(values − highest) of (M, K) and (M, 1), in place. OpenCV's is three times as fast as numpy's."""
    return cv2.exp(np.subtract(values, highest, out=values), dst=values)


def _windows(grids: np.ndarray) -> np.ndarray:
    """Every window of 15×15 cells of maps (M, S, S), by its top left cell: a view (M, S − 14, S − 14, 15, 15)."""
    maps, row, cell = grids.strides
    first = grids.shape[-1] - _SIDE + 1
    return np.ndarray((len(grids), first, first, _SIDE, _SIDE), grids.dtype, grids, 0, (maps, row, cell, row, cell))


def _summed(weights: np.ndarray) -> np.ndarray:
    """Weights (M, k·k) of windows, summed with _MOMENTS: (M, 4)."""
    if len(weights) <= _ROWS:
        return weights @ _MOMENTS
    return np.concatenate([weights[i : i + _ROWS] @ _MOMENTS for i in range(0, len(weights), _ROWS)])


def _decode_gaussian(grids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    flat = grids.reshape(len(grids), -1)
    peak = flat.argmax(axis=1)
    values, middle = _window(flat, peak, grids.shape[-1], 1e-6)
    logs = np.log(np.maximum(values, 1e-6))
    shift = np.stack([_vertex(logs[:, 3:6]), _vertex(logs[:, 1::3])], axis=1)  # the middle row, the middle column
    return (middle + shift).astype(np.float32), flat[np.arange(len(flat)), peak]


def _window(flat: np.ndarray, peak: np.ndarray, size: int, outside: float) -> tuple[np.ndarray, np.ndarray]:
    """The 3×3 cells around each peak, row by row: values (M, 9), and the peaks' own cells (M, 2)."""
    around = np.arange(-1, 2)
    middle = np.stack([peak % size, peak // size], axis=1)  # x, y
    cells = middle[:, :, None] + around
    inside = np.clip(cells, 0, size - 1)
    start = np.arange(len(flat))[:, None] * flat.shape[1]
    index = (start + inside[:, 1] * size)[:, :, None] + inside[:, 0][:, None, :]
    values = flat.reshape(-1).take(index)
    beyond = inside != cells
    if beyond.any():
        values[beyond[:, 1][:, :, None] | beyond[:, 0][:, None, :]] = outside
    return values.reshape(len(flat), -1), middle.astype(np.float32)


def _vertex(triple: np.ndarray) -> np.ndarray:
    """Where the parabola through (M, 3) values peaks, in cells from the middle, at most one half."""
    left, middle, right = triple.T
    bend = left - 2 * middle + right
    return np.clip(np.where(bend < 0, (left - right) / (2 * np.minimum(bend, -1e-9)), 0), -0.5, 0.5)


def render_boundaries(
    points: np.ndarray,
    boundaries: tuple[tuple[int, ...] | None, ...],
    sigma: float = GAUSSIAN_SIGMA,
    size: int = HEATMAP_SIZE,
) -> np.ndarray:
    """Boundary heatmaps of one face's points (L, 2) in crop px: float32 (len(boundaries) + 1, size, size).

    Each is exp(−d²/2σ²) of the distance d, in cells, to the polyline through its points, and 0 beyond REACH σ; the last
    is that of the nearest boundary of all (paper §3.1). None or a boundary with an unlabelled (NaN) point gives an
    empty map.
    """
    cells = to_cells(np.asarray(points, np.float32))
    lines = [(channel, cells[list(line)]) for channel, line in enumerate(boundaries) if line is not None]
    lines = [(channel, line) for channel, line in lines if np.isfinite(line).all()]
    squares = np.full((len(boundaries) + 1, size, size), np.inf, np.float32)
    if lines:
        starts, ends = (np.concatenate([line[part] for _, line in lines]) for part in (slice(-1), slice(1, None)))
        channels = [channel for channel, line in lines for _ in line[1:]]
        _segment_distances(starts, ends, channels, REACH * sigma, squares)
    squares[-1] = squares[:-1].min(axis=0)
    return np.exp(squares / (-2 * sigma**2))


def _segment_distances(
    starts: np.ndarray, ends: np.ndarray, channels: list[int], reach: float, squares: np.ndarray
) -> None:
    """Lower squares (C, 64, 64) to the squared distance to segments (S, 2), exact within `reach` cells of each.

    Only a window around each segment is computed: 20 times faster than whole maps.
    """
    steps = ends - starts
    size = int(2 * (reach + np.abs(steps).max() / 2) + 2)
    corners = np.floor((starts + ends) / 2).astype(int) - size // 2  # (S, 2)
    grid = corners[..., None] + np.arange(size)  # (S, 2, k)
    dx, dy = (grid[:, axis] - starts[:, axis, None] for axis in (0, 1))  # (S, k)
    along = (dx * steps[:, :1])[:, None, :] + (dy * steps[:, 1:])[:, :, None]  # (S, k, k)
    share = np.clip(along / np.maximum((steps**2).sum(axis=1), 1e-12)[:, None, None], 0, 1)
    distances = (dx[:, None, :] - share * steps[:, 0, None, None]) ** 2
    distances += (dy[:, :, None] - share * steps[:, 1, None, None]) ** 2
    distances[distances > reach**2] = np.inf
    for (x, y), channel, window in zip(corners.tolist(), channels, distances, strict=True):
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + size, squares.shape[-1]), min(y + size, squares.shape[-1])
        if left < right and top < bottom:
            target = squares[channel, top:bottom, left:right]
            np.minimum(target, window[top - y : bottom - y, left - x : right - x], out=target)
