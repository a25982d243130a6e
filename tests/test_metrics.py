"""Metrics against values worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tabrt.topology import AFLW19, COFW29, IBUG68, WFLW98
from training.metrics import (
    area_under_curve,
    box_size,
    eye_distance,
    failure_rate,
    nme,
    point_errors,
    pupil_distance,
)


def test_nme_by_hand():
    true = np.zeros((2, 4, 2))
    predicted = np.array([[[3, 4], [0, 0], [0, 5], [0, 0]], [[1, 0]] * 4], float)
    np.testing.assert_allclose(nme(predicted, true, np.array([50, 100])), [10 / 4 / 50, 0.01])
    true[0, 0] = np.nan  # unlabelled: not counted
    np.testing.assert_allclose(nme(predicted, true, np.array([50, 100])), [5 / 3 / 50, 0.01])
    assert np.isnan(point_errors(predicted, true, np.array([50, 100]))[0, 0])


@pytest.mark.parametrize(("topology", "left", "right"), [(WFLW98, 60, 72), (IBUG68, 36, 45), (COFW29, 16, 17)])
def test_the_eye_distance_is_that_of_the_published_points(topology, left, right):
    points = np.random.default_rng(0).normal(size=(3, topology.points, 2))
    points[:, left], points[:, right] = (10, 20), (40, 60)
    np.testing.assert_allclose(eye_distance(points, topology), 50)


def test_other_normalisers():
    points = np.zeros((1, 68, 2))
    points[0, 36:42], points[0, 42:48] = (0, 0), (30, 40)
    points[0, 0], points[0, 1] = (0, -4), (36, 60)
    assert pupil_distance(points, IBUG68) == 50
    assert box_size(points) == 48  # √(36 · 64)
    with pytest.raises(ValueError, match="face box"):
        eye_distance(np.zeros((1, 19, 2)), AFLW19)


def test_failures_are_above_the_threshold_and_missed_faces_among_them():
    errors = np.array([0.02, 0.08, 0.0801, 0.2, np.inf])
    assert failure_rate(errors, 0.08) == pytest.approx(3 / 5)
    assert failure_rate(np.array([np.nan, 0.01]), 0.1) == 0.5


def test_the_area_under_the_curve_by_hand():
    assert area_under_curve(np.zeros(5), 0.1) == pytest.approx(1)
    assert area_under_curve(np.full(5, 0.5), 0.1) == 0
    # One face at 0.04: the curve is 0 up to there and 1 from there on.
    assert area_under_curve(np.array([0.04]), 0.1) == pytest.approx(0.6, abs=1e-3)
    # Errors spread evenly from 0 to 0.1: a straight line.
    assert area_under_curve(np.linspace(0, 0.1, 10_001), 0.1) == pytest.approx(0.5, abs=1e-3)
    assert area_under_curve(np.array([0.04, np.inf]), 0.1) == pytest.approx(0.3, abs=1e-3)


def test_simpson_agrees_with_scipy():
    integrate = pytest.importorskip("scipy.integrate")
    errors = np.random.default_rng(0).gamma(4, 0.01, 554)
    at = np.linspace(0, 0.08, 801)
    curve = np.searchsorted(np.sort(errors), at, side="right") / len(errors)
    assert area_under_curve(errors, 0.08) == pytest.approx(integrate.simpson(curve, x=at) / 0.08, abs=1e-9)
