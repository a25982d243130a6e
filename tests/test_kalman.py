"""filterpy's own filter, without the rest of filterpy."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import files
from pathlib import Path

import numpy as np
from conftest import environment

from tabrt.tracking.kalman import BlockFilter, KalmanFilter

PROGRAM = """
import sys
from tabrt.tracking.kalman import KalmanFilter
print(KalmanFilter.update.__code__.co_filename)
assert not any(name.split(".")[0] in ("scipy", "filterpy") for name in sys.modules)
import filterpy.kalman
assert filterpy.kalman.UnscentedKalmanFilter and filterpy.stats.logpdf
assert filterpy.kalman.KalmanFilter.update.__code__ == KalmanFilter.update.__code__
"""


def test_it_is_filterpys_file_alone_and_the_package_can_be_had_later():
    words = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) in {Path(file.locate()) for file in files("filterpy")}


def test_it_follows_a_ramp_and_knows_its_likelihood():
    kalman = KalmanFilter(dim_x=2, dim_z=1)
    kalman.F, kalman.H, kalman.Q = np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 0.0]]), np.eye(2) * 1e-4
    for time in range(1, 60):
        kalman.predict()
        kalman.update(3.0 * time)
    np.testing.assert_allclose(kalman.x.ravel(), (3 * 59, 3), rtol=1e-3)
    assert np.isfinite(kalman.log_likelihood)


def test_blocks_give_what_the_dense_filter_gives():
    """filterpy's own step with the whole matrices, zeros and all: the same numbers, whatever the steps and noises."""
    rng, count = np.random.default_rng(0), 5
    blocks = rng.permutation(np.repeat(np.arange(count), (1, 2, 3, 7, 9)))
    start, variances = rng.normal(size=len(blocks)) + 1j * rng.normal(size=len(blocks)), rng.uniform(0.1, 1, count)
    ours = BlockFilter(start, blocks, variances)
    dense = KalmanFilter(dim_x=2 * count, dim_z=count)
    columns = np.array([np.sum(blocks[:number] == block) for number, block in enumerate(blocks)])
    dense.x = np.zeros((2 * count, 9), complex)
    dense.x[blocks, columns] = start
    dense.P, dense.H = np.diag(np.tile(variances, 2)), np.eye(count, 2 * count)
    at, velocity = np.arange(count), np.arange(count) + count
    for _ in range(60):
        step, kept, drift = rng.uniform(0, 0.1), rng.uniform(0.2, 1, count), rng.uniform(0, 2, count)
        forward, wander = np.eye(2 * count), np.zeros((2 * count, 2 * count))
        forward[at, velocity], forward[velocity, velocity] = step * kept, kept
        wander[at, at], wander[velocity, velocity] = drift * step**3 / 3, drift * step
        wander[at, velocity] = wander[velocity, at] = drift * step**2 / 2
        dense.predict(F=forward, Q=wander)
        ours.predict(step, kept, drift)
        seen, noise = start + rng.normal(size=len(blocks)), rng.uniform(0.01, 1, count)
        measured = np.zeros((count, 9), complex)
        measured[blocks, columns] = seen
        dense.update(measured, R=np.diag(noise), H=dense.H)
        ours.update(seen - ours.x[0], noise)
        both = dense.x[blocks, columns], dense.x[velocity[blocks], columns]
        np.testing.assert_allclose(ours.x, both, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(ours.P[0], dense.P[at, at], rtol=1e-9)
        np.testing.assert_allclose(ours.P[1], dense.P[at, velocity], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(ours.P[2], dense.P[velocity, velocity], rtol=1e-9)
