"""Heatmaps: what is drawn is read back, and boundaries are distances to lines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import environment
from synthetic_faces import drawn_points

from tabrt.geometry import STRIDE
from tabrt.heatmaps import decode, from_cells, render, render_boundaries, render_logits, to_cells
from tabrt.topology import WFLW98


def some_points(count: int = 400, low: float = 20, high: float = 235) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, (2, count, 2))


@pytest.mark.parametrize("offset", [1.5, 0.0])
@pytest.mark.parametrize(("draw", "decoding"), [(render, "gaussian"), (render_logits, "softmax")])
def test_decoding_gives_back_the_points_to_a_twentieth_of_a_cell(draw, decoding, offset):
    points = some_points()
    found, confidence = decode(draw(points, offset=offset), decoding, offset)
    assert found.shape == (2, 400, 2) and found.dtype == np.float32
    assert np.abs(found - points).max() < 0.05 * STRIDE
    assert confidence.min() > 0.85 and confidence.max() <= 1


def test_noise_moves_a_point_little():
    points, rng = some_points(50), np.random.default_rng(1)
    maps = render_logits(points) * 0.7 + rng.normal(0, 0.2, (2, 50, 64, 64)).astype(np.float32)
    found, _ = decode(maps)
    assert np.abs(found - points).max() < 0.6 * STRIDE


def test_a_peak_that_moves_a_cell_hardly_moves_the_point_of_a_doubtful_map():
    points = np.full((1, 1, 2), from_cells(np.array(30.5)))  # midway between cells: one of them is the peak by a hair
    wide = render_logits(points) / 4  # twice as wide as a sure one
    found = []
    for column in (30, 31):
        maps = wide.copy()
        maps[..., column] += 1e-3
        found.append(decode(maps)[0])
    assert np.abs(found[0] - found[1]).max() < 0.05 * STRIDE


def test_doubt_lowers_the_confidence():
    points = some_points(4, 60, 140)
    sure = render_logits(points)
    two = np.logaddexp(sure, np.roll(sure, 20, axis=3))  # as likely 20 cells away
    flat = np.zeros_like(sure)
    (_, one), (_, half), (_, none) = (decode(maps) for maps in (sure, two, flat))
    np.testing.assert_allclose(half, one / 2, rtol=0.1)
    assert none.max() < 0.01


def test_points_at_the_edge_stay_in_the_map():
    corners = np.array([[[1.5, 1.5], [253.5, 253.5], [1.5, 253.5]]])
    for draw, decoding in ((render, "gaussian"), (render_logits, "softmax")):
        found, _ = decode(draw(corners), decoding)
        assert np.isfinite(found).all() and np.abs(found - corners).max() < STRIDE


@pytest.mark.parametrize("decoding", ["gaussian", "softmax"])
def test_maps_of_any_content_decode_to_finite_points(decoding):
    rng = np.random.default_rng(0)
    maps = np.stack([np.zeros((3, 64, 64)), rng.normal(0, 1e4, (3, 64, 64)), np.full((3, 64, 64), -50.0)])
    points, confidence = decode(maps.astype(np.float32), decoding)
    assert np.isfinite(points).all() and (confidence >= 0).all() and (confidence <= 1).all()


def test_no_faces_give_empty_arrays():
    points, confidence = decode(np.zeros((0, 98, 64, 64), np.float32))
    assert points.shape == (0, 98, 2) and confidence.shape == (0, 98)
    with pytest.raises(ValueError, match="softmax, gaussian"):
        decode(np.zeros((1, 1, 64, 64), np.float32), "mean")


def test_a_gaussian_by_hand():
    maps = render(np.array([[from_cells(np.array(10.0)), from_cells(np.array(20.0))]]))
    assert maps.shape == (1, 64, 64) and maps[0, 20, 10] == 1
    assert maps[0, 20, 13] == pytest.approx(np.exp(-9 / (2 * 1.5**2)))
    np.testing.assert_allclose(to_cells(from_cells(np.arange(5.0))), np.arange(5))


def test_boundaries_are_distances_to_their_polylines():
    """Against OpenCV's distance transform of the line drawn eight times as large."""
    points = drawn_points() * 0.8
    maps = render_boundaries(points, WFLW98.boundary_lines)
    assert maps.shape == (16, 64, 64) and maps.dtype == np.float32
    for channel, line in enumerate(WFLW98.boundary_lines):
        large = np.full((512, 512), 255, np.uint8)
        corners = np.round((to_cells(points[list(line)]) * 8 + 3.5) * 16).astype(np.int32)
        cv2.polylines(large, [corners], False, 0, 1, shift=4)
        distances = cv2.distanceTransform(large, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        centres = distances.reshape(64, 8, 64, 8)[:, 3:5, :, 3:5].mean(axis=(1, 3)) / 8
        expected = np.where(centres < 5, np.exp(-(centres**2) / (2 * 1.5**2)), 0)
        np.testing.assert_allclose(maps[channel], expected, atol=0.06)
    np.testing.assert_array_equal(maps[15], maps[:15].max(axis=0))


def test_unlabelled_and_far_boundaries_are_empty():
    points = drawn_points() * 0.8
    points[52], points[:33] = np.nan, points[:33] + 5000
    maps = render_boundaries(points, (*WFLW98.boundary_lines[:14], None))
    assert not maps[5].any() and not maps[0].any() and not maps[14].any() and maps[1].any()
    assert not render_boundaries(np.full((98, 2), np.nan), WFLW98.boundary_lines).any()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts how often threads woke in Linux' /proc")
def test_decoding_many_faces_wakes_no_thread():
    """A product that is large enough for BLAS's threads leaves them spinning on the cores that the network needs."""
    program = """
import os, time
from pathlib import Path
import numpy as np
from tabrt.heatmaps import decode

def wakes_of(task):
    lines = (task / "status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)

def wakes_of_others():
    time.sleep(0.3)  # until whoever was woken sleeps again
    return sum(wakes_of(task) for task in Path("/proc/self/task").iterdir() if task.name != str(os.getpid()))

maps = np.random.default_rng(0).normal(size=(16, 98, 64, 64)).astype(np.float32)
before = wakes_of_others()
decode(maps)
after = wakes_of_others()
np.ones((16 * 98, 225), np.float32) @ np.ones((225, 4), np.float32)
print(after - before, wakes_of_others() - after)
"""
    two = environment(OPENBLAS_NUM_THREADS="2", OMP_NUM_THREADS="2")
    spent = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=two).stdout
    decoding, one_product = map(int, spent.split())
    if not one_product:
        pytest.skip("numpy's BLAS starts no threads here")
    assert decoding == 0


@pytest.mark.parametrize("size", [16, 48, 128])
@pytest.mark.parametrize(("draw", "decoding"), [(render_logits, "softmax"), (render, "gaussian")])
def test_maps_of_any_size_give_back_the_points(size: int, draw, decoding: str):
    points = np.random.default_rng(0).uniform(20, 4 * size - 20, (2, 98, 2))  # whole in the map
    found, confidence = decode(draw(points, size=size), decoding)
    assert np.abs(found - points).max() < 0.2
    assert confidence.min() > 0.7


def test_a_peak_in_the_corner_counts_what_lies_in_the_map_alone():
    """Its window is moved inwards: what that takes in beyond seven cells must not pull at the point."""
    maps = np.full((1, 2, 64, 64), -np.inf, np.float32)
    maps[0, 0, 1, 2] = maps[0, 0, 8, 9] = 0  # seven cells away: the mean lies between them
    maps[0, 1, 1, 2], maps[0, 1, 9, 10] = 0.1, 0  # eight cells away
    found, confidence = decode(maps)
    np.testing.assert_allclose(to_cells(found[0, 0]), [5.5, 4.5], atol=1e-4)
    np.testing.assert_allclose(to_cells(found[0, 1]), [2, 1], atol=1e-4)
    assert confidence[0, 0] < 0.6 < 0.9 < confidence[0, 1]
