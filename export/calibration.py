"""`python -m export.calibration FACES`: from BlazeFace's detections to the box of the 98 points.

Labelled faces are put into pictures of 640×480 px, at many sizes and angles, and looked at by both models. What is
fitted is the crop that a followed face would get: centre and side of the points' box in the face's own upright frame.
"""

from __future__ import annotations

import io
import math
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from tabrt.detection import onnx
from tabrt.detection.views import Calibration, Detection, calibrated, view_of
from tabrt.geometry import Crop
from tabrt.topology import WFLW98

FACES = {"human": 1000, "facemask": 300, "allage": 300, "cfp": 500}  # of each zip
SIZE = (640, 480)  # px, width and height of a picture
SIDES = (50, 420)  # px of a face's box
UPRIGHT_SHARE, UPRIGHT, TURNED = 0.5, 10.0, 60.0  # of the faces; degrees: a standard deviation, and a limit
LEAST = {"full range": 60, "short range": 100}  # px: smaller faces are not fitted
ROUNDS = 20  # of reweighting by 1/distance: the median's fit


def samples(folder: Path) -> Iterator[tuple[np.ndarray, Crop]]:
    """Pictures uint8 (H, W, 3) BGR with one face each, and the crop without margin that it should get."""
    random = np.random.default_rng(0)
    for name, count in FACES.items():
        with zipfile.ZipFile(folder / f"{name}.zip") as archive:
            labels = np.load(io.BytesIO(archive.read("labels.npz")))
            whole = np.flatnonzero(np.isfinite(labels["points98"]).all(axis=(1, 2)))
            for i in random.choice(whole, min(count, len(whole)), replace=False):
                data = np.frombuffer(archive.read(f"images/{labels['image'][i]}"), np.uint8)
                photo = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
                yield _placed(photo, labels["points98"][i].astype(float), random)


def _placed(photo: np.ndarray, points: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, Crop]:
    side = math.exp(random.uniform(*np.log(SIDES)))
    turn = random.normal(0, UPRIGHT) if random.random() < UPRIGHT_SHARE else random.uniform(-TURNED, TURNED)
    box = Crop.following(points, WFLW98.roll(points), 1.0)
    matrix = np.asarray(cv2.getRotationMatrix2D(box.centre, -turn, side / box.side), float)
    reach = min(0.35 * SIZE[1], max(SIZE[1] / 2 - 0.4 * side, 0))
    matrix[:, 2] += np.array(SIZE) / 2 + random.uniform(-reach, reach, 2) - box.centre
    smooth = cv2.GaussianBlur(photo, (0, 0), max(0.4 * box.side / side, 0.1))
    picture = cv2.warpAffine(smooth, matrix, SIZE, borderMode=cv2.BORDER_CONSTANT, borderValue=(90, 90, 90))
    there = points @ matrix[:, :2].T + matrix[:, 2]
    return picture, Crop.following(there, WFLW98.roll(there), 1.0)


def fit(found: list[tuple[Detection, float, Crop]]) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the centre (5,) and of the side (3,), by least absolute distance."""
    anchors, centres, lengths = [], [], []
    for detection, scale, crop in found:
        points = detection.keypoints / scale - 0.5
        eyes, nose, mouth, ears = (points[0] + points[1]) / 2, points[2], points[3], (points[4] + points[5]) / 2
        anchors.append(np.stack([eyes, nose, mouth, ears, detection.centre / scale - 0.5]) / crop.side)
        centres.append(np.array(crop.centre) / crop.side)
        ear_to_ear = np.linalg.norm(points[5] - points[4])
        lengths.append(np.array([detection.width / scale, np.linalg.norm(mouth - eyes), ear_to_ear]) / crop.side)
    places = np.stack(anchors)  # (N, 5, 2)
    # The last weight is what is missing to 1: differences to the last anchor are fitted.
    free = _robust((places[:, :4] - places[:, 4:]).transpose(0, 2, 1), np.stack(centres) - places[:, 4])
    side = _robust(np.stack(lengths)[:, None, :], np.ones((len(lengths), 1)))
    return np.append(free, 1 - free.sum()), side


def _robust(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Weights w (K,) for which inputs (N, D, K) @ w lies nearest to targets (N, D): least sum of distances."""
    weights = np.ones(len(inputs))
    for _ in range(ROUNDS):
        root = np.sqrt(weights)[:, None]
        solution = np.linalg.lstsq(
            (inputs * root[..., None]).reshape(-1, inputs.shape[-1]), (targets * root).ravel(), rcond=None
        )[0]
        weights = 1 / np.maximum(np.linalg.norm(inputs @ solution - targets, axis=1), 1e-3)
    return solution


def main(folder: Path) -> None:
    """Print the two calibrations and how well they fit faces that were not fitted."""
    kinds = {"full range": onnx.FULL_RANGE, "short range": onnx.SHORT_RANGE}
    models = {name: onnx.BlazeFace(*kind, 0.4) for name, kind in kinds.items()}
    found: dict[str, list[tuple[Detection, float, Crop]]] = {name: [] for name in models}
    for picture, crop in samples(folder):
        view, scale = view_of(picture, (0, 0, *SIZE))
        for name, model in models.items():
            near = [face for face in model(view) if np.linalg.norm(face.centre / scale - crop.centre) < crop.side / 2]
            if near and crop.side >= LEAST[name]:
                found[name].append((near[0], scale, crop))
    for name, faces in found.items():
        fitted = fit(faces[::2])
        print(f"{name}: centre={np.round(fitted[0], 3).tolist()} side={np.round(fitted[1], 3).tolist()}")
        _judge(faces[1::2], fitted)


def _judge(faces: list[tuple[Detection, float, Crop]], fitted: tuple[np.ndarray, np.ndarray]) -> None:
    calibration = Calibration(tuple(fitted[0]), tuple(fitted[1]))
    upright = np.array([abs(math.degrees(crop.roll)) <= 30 for _, _, crop in faces])
    boxes = [calibrated(face, calibration, scale, np.array([-0.5, -0.5])) for face, scale, _ in faces]
    pairs = list(zip(boxes, (crop for _, _, crop in faces), strict=True))
    off = np.array([np.linalg.norm(np.subtract(box.centre, crop.centre)) / crop.side for box, crop in pairs])
    size = np.array([abs(box.width / crop.side - 1) for box, crop in pairs])
    for words, chosen in (("upright", upright), ("rolled by 30…60°", ~upright)):
        errors = (100 * np.median(values[chosen]) for values in (off, size))
        told = "  {}: {} faces; median error of centre {:.1f} %, of side {:.1f} % of the side"
        print(told.format(words, chosen.sum(), *errors))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
