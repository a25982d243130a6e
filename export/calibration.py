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
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tabrt.detection import onnx
from tabrt.detection.choosing import FULL_RANGE, MIN_SCORE, SHORT_RANGE
from tabrt.detection.views import Calibration, Detection, calibrated, measured, view_of
from tabrt.engines import Engine, load_engine
from tabrt.geometry import Box, Crop
from tabrt.heatmaps import decode
from tabrt.topology import WFLW98
from training.sets import held_out

# Of each zip, those whose names begin so: how many are fitted, and at most as many that networks are judged on.
FACES = {
    ("human", ""): 1000,
    ("facemask", ""): 300,
    ("allage", ""): 300,
    ("cfp", "frontal"): 500,
    ("cfp", "profile"): 300,
}
SIZE = (640, 480)  # px, width and height of a picture
SIDES = (50, 420)  # px of a face's box
UPRIGHT_SHARE, UPRIGHT, TURNED = 0.5, 10.0, 60.0  # of the faces; degrees: a standard deviation, and a limit
LEAST = {"full range": 60, "short range": 100}  # px: smaller faces are not fitted
REACH = 0.75  # of a face's side: how far from its centre a detection may lie that is still of it
CORNER = np.array([-0.5, -0.5])  # of a picture's first pixel, where its view begins
ROUNDS = 20  # of reweighting by 1/distance: the median's fit


@dataclass(frozen=True, eq=False)
class Sample:
    """A face as a model finds it in a view of this scale, and the crop without margin that it should get."""

    detection: Detection
    scale: float
    crop: Crop
    kind: str
    judged: bool  # on, not fitted


def pictures(folder: Path) -> Iterator[tuple[str, bool, np.ndarray, Crop]]:
    """Kinds of faces, whether they are judged on, pictures uint8 (H, W, 3) BGR of one each, and the crops to be had."""
    random = np.random.default_rng(0)
    engine = load_engine("tab1-lite")
    for (name, kind), count in FACES.items():
        with zipfile.ZipFile(folder / f"{name}.zip") as archive:
            labels = np.load(io.BytesIO(archive.read("labels.npz")))
            names = labels["image"].astype(str)
            for judged in (False, True):
                these = np.flatnonzero(np.char.startswith(names, kind) & (held_out(names) == judged))
                for i in random.choice(these, min(count, len(these)), replace=False):
                    data = np.frombuffer(archive.read(f"images/{names[i]}"), np.uint8)
                    photo = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
                    points = _whole(labels["points98"][i].astype(float), photo, engine)
                    yield kind or name, judged, *_placed(photo, points, random)
    engine.close()


def _whole(points: np.ndarray, photo: np.ndarray, engine: Engine) -> np.ndarray:
    """The points of a face: the network's where people marked no more than the half that is seen."""
    known = np.isfinite(points).all(axis=1)
    if known.all():
        return points
    card = engine.card
    crop = Crop.around(Box.of(points[known]), card.crop_margin, card.crop_size)
    found, _ = decode(engine(crop.cut(photo)[None]), card.decoding, card.offset)
    return crop.to_frame(found[0])


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


def fit(samples: list[Sample]) -> Calibration:
    """The weights of the centre and of the side, by least absolute distance."""
    anchors, lengths, centres = [], [], []
    for sample in samples:
        places, sizes, _ = measured(sample.detection, sample.scale, CORNER)
        anchors.append(places / sample.crop.side)
        lengths.append(sizes / sample.crop.side)
        centres.append(np.array(sample.crop.centre) / sample.crop.side)
    places = np.stack(anchors)  # (N, 5, 2)
    # The last weight is what is missing to 1: differences to the last anchor are fitted.
    free = _robust((places[:, :4] - places[:, 4:]).transpose(0, 2, 1), np.stack(centres) - places[:, 4])
    side = _robust(np.stack(lengths)[:, None, :], np.ones((len(lengths), 1)))
    eyes, nose, mouth, ears = free.round(3).tolist()
    width, down, across, back = side.round(3).tolist()
    rest = round(1 - eyes - nose - mouth - ears, 3)
    return Calibration((eyes, nose, mouth, ears, rest), (width, down, across, back))


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
    """Print the two calibrations, and how well they and the shipped ones fit faces that were not fitted."""
    kinds = {"full range": (onnx.FULL_RANGE, FULL_RANGE), "short range": (onnx.SHORT_RANGE, SHORT_RANGE)}
    models = {name: onnx.BlazeFace(*model, MIN_SCORE) for name, (model, _) in kinds.items()}
    found: dict[str, list[Sample]] = {name: [] for name in models}
    for kind, judged, picture, crop in pictures(folder):
        view, scale = view_of(picture, (0, 0, *SIZE))
        for name, model in models.items():
            near = [
                face for face in model(view) if np.linalg.norm(face.centre / scale - crop.centre) < REACH * crop.side
            ]
            if near and crop.side >= LEAST[name]:
                found[name].append(Sample(near[0], scale, crop, kind, judged))
    for name, samples in found.items():
        fitted = fit([sample for sample in samples if not sample.judged])
        for words, calibration in ((f"{name}, shipped", kinds[name][1]), (f"{name}, fitted", fitted)):
            print(f"{words}: centre={calibration.centre} side={calibration.side}")
            _judge([sample for sample in samples if sample.judged], calibration)


def _judge(samples: list[Sample], calibration: Calibration) -> None:
    """Print the errors in each kind of face, and of all that are rolled, in % of the side."""
    upright = np.array([abs(math.degrees(sample.crop.roll)) <= 30 for sample in samples])
    kinds = np.array([sample.kind for sample in samples])
    boxes = [calibrated(sample.detection, calibration, sample.scale, CORNER) for sample in samples]
    pairs = [(box, sample.crop) for box, sample in zip(boxes, samples, strict=True)]
    off = np.array([100 * np.linalg.norm(np.subtract(box.centre, crop.centre)) / crop.side for box, crop in pairs])
    size = np.array([100 * (box.width / crop.side - 1) for box, crop in pairs])
    chosen = {kind: (kinds == kind) & upright for kind in dict.fromkeys(kinds.tolist())}
    for words, mask in (chosen | {"all that are rolled by 30…60°": ~upright}).items():
        centre, side = np.median(off[mask]), np.median(abs(size[mask]))
        low, middle, high = np.quantile(size[mask], [0.1, 0.5, 0.9])
        told = f"median error of centre {centre:.1f} %, of side {side:.1f} %: {middle:+.1f} ({low:+.0f}…{high:+.0f}) %"
        print(f"  {words}: {mask.sum()} faces; {told}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
