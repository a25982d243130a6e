"""filterpy's own filter, without the rest of filterpy."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import files
from pathlib import Path

import numpy as np
from conftest import environment

from tabrt.tracking.kalman import KalmanFilter

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
