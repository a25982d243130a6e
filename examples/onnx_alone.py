"""The network without tabrt, in 40 lines that carry over to any language: docs/onnx.md says the same in words.

python examples/onnx_alone.py tabrt/models/tab1-lite.onnx PICTURE LEFT TOP RIGHT BOTTOM
"""

import json
import os
import sys

import cv2
import numpy as np
import onnxruntime

if len(sys.argv) != 7:
    sys.exit(__doc__)
model, picture, *sides = sys.argv[1:]
left, top, right, bottom = map(float, sides)
image = cv2.imread(picture)
if image is None or not os.path.isfile(model):
    sys.exit(f"{picture if image is None else model} cannot be read; check the path")
session = onnxruntime.InferenceSession(model)
card = json.loads(session.get_modelmeta().custom_metadata_map["tabrt"])
size = card["crop_size"]  # px
middle = (size - 1) / 2


def look(image: np.ndarray, centre: np.ndarray, side: float, roll: float) -> np.ndarray:
    """Points (98, 2) px of image uint8 (H, W, 3) RGB, seen in a square that is turned by roll."""
    turn = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]]) * (size / side)
    matrix = np.column_stack([turn, middle - turn @ centre])  # frame px to crop px
    crop = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR)
    maps = session.run(["landmarks"], {"crops": crop[np.newaxis]})[0][0]  # (98, size / 4, size / 4)
    cells = np.array([mean_around_the_peak(one) for one in maps])
    in_crop = 4 * cells + card["offset"]
    return (in_crop - middle) @ np.linalg.inv(turn).T + centre


def mean_around_the_peak(one: np.ndarray) -> np.ndarray:
    """(x, y) in cells: the mean of the 15×15 cells around the highest, by probability."""
    row, column = np.unravel_index(one.argmax(), one.shape)
    rows, columns = np.mgrid[max(0, row - 7) : row + 8, max(0, column - 7) : column + 8]
    inside = (rows < len(one)) & (columns < len(one))
    rows, columns = rows[inside], columns[inside]
    weights = np.exp(one[rows, columns] - one.max())
    return np.array([np.average(columns, weights=weights), np.average(rows, weights=weights)])


centre, side = np.array([(left + right) / 2, (top + bottom) / 2]), max(right - left, bottom - top)
points = look(image[..., ::-1], centre, card["crop_margin"] * side, roll=0.0)
print(json.dumps(points.round(2).tolist()))
