"""How open each mouth is, from a landmark file: python examples/mouths.py points.jsonl

tabrt video IN.mp4 --landmarks points.jsonl makes one.
"""

import sys

import numpy as np

import tabrt

if len(sys.argv) != 2:
    sys.exit(__doc__)
try:
    film = tabrt.read_landmarks(sys.argv[1])
except tabrt.TabrtError as problem:
    sys.exit(str(problem))
points = film.points  # (frames, ids, 98, 2) px; NaN where a face is not seen
gap = np.linalg.norm(points[..., 90, :] - points[..., 94, :], axis=-1)
eyes = np.linalg.norm(points[..., 60, :] - points[..., 72, :], axis=-1)
openness = gap / eyes  # (frames, ids)
for time, row in zip(film.times, openness, strict=True):
    for number, value in zip(film.ids, row, strict=True):
        if np.isfinite(value):
            print(f"{time:8.3f} s  face {number}  {value:.2f} {'#' * round(60 * value)}")
