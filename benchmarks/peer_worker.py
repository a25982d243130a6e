"""Runs inside a peer's own environment, and imports nothing of tabrt: reads pictures, answers points and seconds.

python peer_worker.py PEER CORES. Each request is a line of JSON {"shape": [H, W], "time": seconds of a film's frame or
null for a picture, "box": [l, t, r, b] or null} and the picture's bytes, uint8 BGR. Each answer is a line {"points":
[[x, y], …] or null, "box": … or null, "seconds": s}; points in px, pixel centres at whole numbers.
{"reset": true} begins a new film.
"""

import importlib.util
import json
import os
import sys
import time
from pathlib import Path


def face_landmarker():
    """MediaPipe's Face Landmarker of one face: VIDEO mode with its own smoothing for films, IMAGE mode for pictures."""
    import cv2
    import mediapipe
    from face_landmarker import task  # type: ignore[import-not-found]
    from mediapipe.tasks.python import BaseOptions, vision

    asset, open_ = task(), {}

    def landmarker(mode):
        if mode not in open_:
            base = BaseOptions(model_asset_buffer=asset)
            options = vision.FaceLandmarkerOptions(base_options=base, running_mode=mode, num_faces=1)
            open_[mode] = vision.FaceLandmarker.create_from_options(options)
        return open_[mode]

    def run(image, time, box):
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        picture = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=rgb)
        if time is None:
            found = landmarker(vision.RunningMode.IMAGE).detect(picture)
        else:
            found = landmarker(vision.RunningMode.VIDEO).detect_for_video(picture, round(1e3 * time))
        # The last ten points only fill up: see face_landmarker.
        return (_in_pixels(found.face_landmarks[0][:468], image) if found.face_landmarks else None), None

    def reset():
        if vision.RunningMode.VIDEO in open_:
            open_.pop(vision.RunningMode.VIDEO).close()
        landmarker(vision.RunningMode.VIDEO)  # made here, so that the first frame does not pay for it

    return run, reset


def refined_mesh():
    """MediaPipe's face mesh with attention: tracking for films, detection in every picture for pictures."""
    import cv2
    import mediapipe

    meshes = {
        film: mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=not film, max_num_faces=1, refine_landmarks=True)
        for film in (True, False)
    }

    def run(image, time, box):
        result = meshes[time is not None].process(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        found = result.multi_face_landmarks
        return (_in_pixels(found[0].landmark, image) if found else None), None

    def reset():
        meshes[True].reset()

    return run, reset


def _in_pixels(landmarks, image):
    """MediaPipe counts in shares of the picture, from the corner of the first pixel."""
    height, width = image.shape[:2]
    return [(point.x * width - 0.5, point.y * height - 0.5) for point in landmarks]


def dlib_68():
    """dlib's frontal detector in every frame, then its 68 points; in the given box where there is one."""
    import cv2
    import dlib

    package = Path(importlib.util.find_spec("face_recognition_models").origin).parent
    predictor = dlib.shape_predictor(str(package / "models" / "shape_predictor_68_face_landmarks.dat"))
    detector = dlib.get_frontal_face_detector()

    def run(image, time, box):
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        if box is not None:
            rectangle = dlib.rectangle(*(round(value) for value in box))
        else:
            # A second look at twice the size finds the small faces that the first one misses.
            found = detector(rgb, 0) or detector(rgb, 1)
            if not found:
                return None, None
            rectangle = max(found, key=lambda box: box.width())
        shape = predictor(rgb, rectangle)
        sides = rectangle.left(), rectangle.top(), rectangle.right(), rectangle.bottom()
        return [(point.x, point.y) for point in shape.parts()], sides

    return run, lambda: None


PEERS = {
    "mediapipe": face_landmarker,
    "mediapipe-refined": refined_mesh,
    "dlib": dlib_68,
}


def main(peer: str, cores: int) -> None:
    if hasattr(os, "sched_setaffinity"):  # before any library starts its threads
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    import numpy

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    run, reset = PEERS[peer]()
    print(json.dumps({"ready": peer}), file=answers, flush=True)
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        if request.get("reset"):
            reset()
            print(json.dumps({"ready": peer}), file=answers, flush=True)
            continue
        height, width = request["shape"]
        data = sys.stdin.buffer.read(height * width * 3)
        image = numpy.frombuffer(data, numpy.uint8).reshape(height, width, 3)
        start = time.perf_counter()
        points, box = run(image, request["time"], request["box"])
        seconds = time.perf_counter() - start
        print(json.dumps({"points": points, "box": box, "seconds": seconds}), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
