"""BlazeFace in MediaPipe's own runtime: the same two models, for whoever wants that very runtime."""

from __future__ import annotations

import numpy as np

from tabrt.detection.views import Detection
from tabrt.errors import TabrtError, missing_library, missing_package
from tabrt.files import MODEL_FOLDER, read_bounded

FULL_RANGE = "face_detection_full_range_sparse.tflite"
SHORT_RANGE = "face_detection_short_range.tflite"


class BlazeFace:
    """See `tabrt.detection.onnx.BlazeFace`. Boxes come cut to whole px and to the view; a fork is not survived."""

    def __init__(self, name: str, min_score: float):
        path = MODEL_FOLDER / name
        if not path.is_file():
            raise TabrtError(f"the face detector's model {name} is not installed; install tabrt again")
        try:
            from mediapipe.tasks.python.core.base_options import BaseOptions
            from mediapipe.tasks.python.vision.core.image import Image, ImageFormat
            from mediapipe.tasks.python.vision.face_detector import FaceDetector, FaceDetectorOptions

            base = BaseOptions(model_asset_buffer=read_bounded(path))
            self._model = FaceDetector.create_from_options(
                FaceDetectorOptions(base_options=base, min_detection_confidence=min_score)
            )
        except ModuleNotFoundError as error:
            raise missing_package(error, "mediapipe") from error
        except (ImportError, RuntimeError, ValueError, OSError) as error:
            problem = missing_library(error) or f"({error}); install tabrt and mediapipe again"
            raise TabrtError(f"MediaPipe's face detector cannot start: {problem}") from error
        self._image = lambda view: Image(ImageFormat.SRGB, view)

    def __call__(self, view: np.ndarray) -> list[Detection]:
        """The faces of a view uint8 (192, 192, 3) RGB, best first."""
        height, width = view.shape[:2]
        found = []
        for face in self._model.detect(self._image(view)).detections:
            keypoints = np.array([(point.x * width, point.y * height) for point in face.keypoints])
            box = face.bounding_box
            centre = np.array([box.origin_x + box.width / 2, box.origin_y + box.height / 2])
            found.append(Detection(keypoints, centre, box.width, float(face.categories[0].score)))
        return found

    def close(self) -> None:
        self._model.close()
