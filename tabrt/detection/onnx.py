"""BlazeFace in ONNX Runtime: MediaPipe's two face detectors without its runtime."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import onnxruntime

from tabrt.detection.views import VIEW_SIZE, Detection
from tabrt.errors import TabrtError
from tabrt.files import MODEL_FOLDER, read_bounded

onnxruntime.disable_telemetry_events()  # which its builds for Windows write into the system's log, and that may send
SILENT = 4  # ONNX Runtime's log: what it has to say comes as an exception
SAME_DETECTION = 0.3  # intersection over union from which detections are of one face: MediaPipe's default
LIMIT = 100.0  # of a logit, as in MediaPipe


@dataclass(frozen=True)
class Anchors:
    """Where a model's predictions stand: for each layer its cells along a side, and how many predictions a cell."""

    size: int  # px of the model's input
    layers: tuple[tuple[int, int], ...]

    def centres(self) -> np.ndarray:
        """(A, 2): x, y in shares of the input, row by row."""
        each = []
        for cells, count in self.layers:
            y, x = (np.mgrid[:cells, :cells] + 0.5) / cells
            each.append(np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), count, axis=0))
        return np.concatenate(each).astype(np.float32)


FULL_RANGE = "face_detection_full_range.onnx", Anchors(192, ((48, 1),))
SHORT_RANGE = "face_detection_short_range.onnx", Anchors(128, ((16, 2), (8, 6)))


class BlazeFace:
    """One of the two models. It may be called from several threads at once, and after a fork."""

    def __init__(self, name: str, anchors: Anchors, min_score: float):
        self._session: onnxruntime.InferenceSession | None = _session(name)
        self._size = anchors.size
        self._centres = anchors.centres()
        self._min_score = min_score

    def __call__(self, view: np.ndarray) -> list[Detection]:
        """The faces of a view uint8 (192, 192, 3) RGB, best first."""
        if self._session is None:
            raise TabrtError("the face detector is closed; make another")
        regressors, logits = self._session.run(None, {"image": self._resized(view)[None]})
        scores = 1 / (1 + np.exp(-np.clip(logits[0, :, 0].astype(np.float64), -LIMIT, LIMIT)))
        likely = np.flatnonzero(scores >= self._min_score)
        if len(likely) == 0:
            return []
        # Box centre, box size, six keypoints: in shares of the input, all but the size from the anchor's centre.
        values = regressors[0, likely].reshape(-1, 8, 2) / self._size
        values[:, [0, *range(2, 8)]] += self._centres[likely, None]
        return _weighted_suppression(values * VIEW_SIZE, scores[likely])

    def _resized(self, view: np.ndarray) -> np.ndarray:
        """The view in the model's size, sampled as MediaPipe does it: corner on corner, bilinear."""
        if self._size == VIEW_SIZE:
            return view
        scale = self._size / VIEW_SIZE
        return cv2.warpPerspective(view, np.diag([scale, scale, 1.0]), (self._size, self._size))

    def close(self) -> None:
        self._session = None


def _session(name: str) -> onnxruntime.InferenceSession:
    path = MODEL_FOLDER / name
    if not path.is_file():
        raise TabrtError(f"the face detector's model {name} is not installed; install tabrt again")
    options = onnxruntime.SessionOptions()
    # One thread: the models are small, and a child that is forked has no other.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = SILENT
    try:
        return onnxruntime.InferenceSession(read_bounded(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        problem = str(error).strip().split("\n")[0][:200]
        raise TabrtError(f"the face detector's model {name} cannot be read: {problem}; install tabrt again") from error


def _weighted_suppression(values: np.ndarray, scores: np.ndarray) -> list[Detection]:
    """Blend predictions (N, 8, 2) of one face, weighted by their scores (N,) (Bazarevsky et al. 2019, BlazeFace §4)."""
    order = np.argsort(-scores, kind="stable")
    values, scores = values[order], scores[order]
    low, high = values[:, 0] - values[:, 1] / 2, values[:, 0] + values[:, 1] / 2
    areas = values[:, 1].prod(axis=1)
    found, left = [], np.ones(len(scores), bool)
    while left.any():
        best = int(left.argmax())
        sides = np.minimum(high[best], high) - np.maximum(low[best], low)
        both = np.where((sides > 0).all(axis=1), sides.prod(axis=1), 0)
        group = left & (both > SAME_DETECTION * (areas[best] + areas - both))
        group[best] = True
        blend = (scores[group] @ values[group].reshape(-1, 16) / scores[group].sum()).reshape(8, 2)
        found.append(Detection(blend[2:], blend[0], float(blend[1, 0]), float(scores[best])))
        left &= ~group
    return found
