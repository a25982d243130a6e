"""How far predicted points lie from the true ones: NME, failure rate, and the area under the error curve."""

from __future__ import annotations

import numpy as np

from tabrt.topology import Topology


def point_errors(predicted: np.ndarray, true: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(N, L): distance of each point in units of `scale` (N,), a length of each face. NaN where a true point is."""
    return np.linalg.norm(predicted - true, axis=-1) / scale[:, None]


def nme(predicted: np.ndarray, true: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(N,): each face's normalised mean error (paper equation 6), over its labelled points, as a fraction."""
    return np.nanmean(point_errors(predicted, true, scale), axis=1)


def eye_distance(points: np.ndarray, topology: Topology) -> np.ndarray:
    """(N,): the length that scales the NME of points (N, L, 2): outer eye corners, or pupils for cofw29.

    Raises ValueError for a scheme that is normalised by the face box.
    """
    if topology.normaliser is None:
        raise ValueError(f"{topology.name} is normalised by the face box, not by the eyes")
    left, right = (points[:, list(group)].mean(axis=1) for group in topology.normaliser)
    return np.linalg.norm(left - right, axis=-1)


def pupil_distance(points: np.ndarray, topology: Topology) -> np.ndarray:
    """(N,): distance between the mean points of the two eyes (300W's inter-pupil normaliser)."""
    left, right = (points[:, list(eye)].mean(axis=1) for eye in (topology.left_eye, topology.right_eye))
    return np.linalg.norm(left - right, axis=-1)


def box_size(points: np.ndarray) -> np.ndarray:
    """(N,): √(width · height) of the box of points (N, L, 2)."""
    extent = np.nanmax(points, axis=1) - np.nanmin(points, axis=1)
    return np.sqrt(extent[:, 0] * extent[:, 1])


def failure_rate(errors: np.ndarray, threshold: float) -> float:
    """The share of faces whose NME (N,) lies above the threshold. A missed face is passed as inf."""
    return float(np.mean(~(errors <= threshold)))


def area_under_curve(errors: np.ndarray, threshold: float, step: float = 1e-4) -> float:
    """Area under the cumulative error curve of NMEs (N,) from 0 to the threshold, over the threshold.

    By Simpson's rule on steps of 1e-4, as the published figures are.
    """
    intervals = 2 * round(threshold / step / 2)
    at = np.linspace(0, threshold, intervals + 1)
    curve = np.searchsorted(np.sort(errors), at, side="right") / len(errors)
    weights = np.ones(intervals + 1)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return float((curve * weights).sum() / (3 * intervals))
