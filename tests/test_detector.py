"""The face detector on real faces, small and large, upright and rolled, and on pictures without any."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import SHARED, environment

from tabrt.detection import Detector, intersection_over_minimum, onnx
from tabrt.detection.choosing import FULL_RANGE, SHORT_RANGE
from tabrt.detection.views import MAX_TILES, Calibration, Detection, calibrated, tiles, view_of
from tabrt.errors import TabrtError
from tabrt.files import MODEL_FOLDER
from tabrt.geometry import Box, Crop
from training.sets import held_out

PORTRAIT = Path(__file__).parent / "data" / "astronaut.png"
CLIP = Path(__file__).parents[1] / "tabrt" / "demo" / "pexels_face.mp4"
FACE = (222.0, 130.0)  # of the portrait, centre of the landmarks' box
SIDE = 102.0  # px


@pytest.fixture(scope="module")
def detect() -> Iterator[Detector]:
    detector = Detector()
    yield detector
    detector.close()


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    return cv2.imread(str(PORTRAIT))


def placed(portrait: np.ndarray, side: float, centre: tuple[float, float], size: tuple[int, int], roll: float = 0.0):
    """A picture of size (width, height) in which the portrait's face has this side, centre and roll."""
    to_crop = Crop(FACE, SIDE).matrix  # face side -> 256 px
    to_picture = np.linalg.inv(np.vstack([Crop(centre, side, roll).matrix, [0, 0, 1]]))
    small = cv2.GaussianBlur(portrait, (0, 0), max(0.4 * SIDE / side, 0.1))
    return cv2.warpAffine(small, (to_picture @ np.vstack([to_crop, [0, 0, 1]]))[:2], size, borderValue=(90, 90, 90))


def assert_near(box: Box, side: float, centre: tuple[float, float]) -> None:
    assert np.linalg.norm(np.subtract(box.centre, centre)) < 0.12 * side
    assert box.width == pytest.approx(side, rel=0.3)


def test_a_portrait(detect: Detector, portrait: np.ndarray):
    (box,) = detect(portrait, 4)
    assert_near(box, SIDE, FACE)
    assert abs(box.roll) < 0.2
    assert box.score > 0.8


@pytest.mark.parametrize("degrees", [-40, -20, 20, 40])
def test_roll_is_that_of_the_face(detect: Detector, portrait: np.ndarray, degrees: int):
    roll = np.deg2rad(degrees)
    (box,) = detect(placed(portrait, 120, (320, 240), (640, 480), roll), 1)
    assert_near(box, 120, (320, 240))
    assert box.roll == pytest.approx(roll, abs=0.25)


@pytest.mark.parametrize("side", [50, 80, 150, 250, 350, 440])
def test_small_and_large_faces(detect: Detector, portrait: np.ndarray, side: int):
    (box,) = detect(placed(portrait, side, (330, 250), (640, 480)), 1)
    assert_near(box, side, (330, 250))


def test_a_small_face_in_a_large_picture_is_found_by_looking_at_tiles(detect: Detector, portrait: np.ndarray):
    picture = placed(portrait, 60, (1500, 800), (1920, 1080))
    (box,) = detect(picture, 1)
    assert_near(box, 60, (1500, 800))
    cut = tiles(1920, 1080)
    turns = [detect(picture, 1, thorough=False)[:1] for _ in cut]  # one tile a call, and in time all of them
    near = [box for boxes in turns for box in boxes if np.linalg.norm(np.subtract(box.centre, (1500, 800))) < 8]
    assert 1 <= len(near) < len(cut)


def test_a_clip_has_one_face_throughout(detect: Detector):
    film = cv2.VideoCapture(str(CLIP))
    sides = []
    for index in range(0, 400, 80):
        film.set(cv2.CAP_PROP_POS_FRAMES, index)
        boxes = detect(film.read()[1], 4)
        assert len(boxes) == 1
        sides.append(boxes[0].width)
    film.release()
    assert max(sides) < 1.5 * min(sides)


def test_fifty_faces(detect: Detector, portrait: np.ndarray):
    tile = placed(portrait, 68, (64, 66), (128, 128))
    mosaic = np.tile(tile, (5, 10, 1))
    boxes = detect(mosaic, 60)
    assert 45 <= len(boxes) <= 50
    assert all(intersection_over_minimum(a, b) < 0.5 for i, a in enumerate(boxes) for b in boxes[:i])
    assert [box.score for box in boxes] == sorted((box.score for box in boxes), reverse=True)
    assert len(detect(mosaic, 7)) == 7
    assert detect(mosaic, 0) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (15, 15), (17, 9000), (200, 3000)])
def test_pictures_of_any_shape_without_a_face(detect: Detector, size: tuple[int, int]):
    assert detect(np.full((*size, 3), 128, np.uint8), 4) == []


def test_a_face_in_a_panorama(detect: Detector, portrait: np.ndarray):
    (box,) = detect(placed(portrait, 90, (2500, 110), (3200, 220)), 2)
    assert_near(box, 90, (2500, 110))


def test_a_picture_that_is_not_contiguous(detect: Detector, portrait: np.ndarray):
    (box,) = detect(portrait[:, ::-1], 1)
    assert_near(box, SIDE, (portrait.shape[1] - 1 - FACE[0], FACE[1]))


@pytest.mark.parametrize("size", [(640, 480), (641, 10), (1280, 720), (1, 5000), (3840, 2160), (20000, 20000)])
def test_tiles_cover_a_large_picture_and_are_few(size: tuple[int, int]):
    width, height = size
    cut = tiles(width, height)
    assert len(cut) <= MAX_TILES
    assert (max(size) > 640) == bool(cut)
    if cut:
        for axis, length in ((0, width), (1, height)):
            spans = sorted({(tile[axis], tile[axis + 2]) for tile in cut})
            assert spans[0][0] == 0
            assert spans[-1][1] == length
            assert all(end > start for (_, end), (start, _) in pairwise(spans))


def test_a_missing_model_names_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(onnx, "MODEL_FOLDER", tmp_path)
    with pytest.raises(TabrtError, match="install tabrt again"):
        Detector()


def test_the_detector_says_nothing_on_its_own():
    code = "import numpy as np; from tabrt.detection import Detector; d = Detector(); d(np.zeros((99, 99, 3), 'u1'), 1)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert done.returncode == 0
    assert done.stdout + done.stderr == ""


@pytest.fixture
def in_mediapipe() -> Iterator[Detector]:
    pytest.importorskip("mediapipe", reason="the extra mediapipe is not installed here")
    detector = Detector("mediapipe")
    yield detector
    detector.close()


def test_mediapipes_own_runtime_finds_the_same_boxes(detect: Detector, in_mediapipe: Detector, portrait: np.ndarray):
    """Upright and rolled, by either model; its boxes are cut to whole px of the view, and to the view."""
    pictures = [placed(portrait, side, (330, 250), (640, 480), roll) for side in (60, 150, 300) for roll in (0.0, 0.5)]
    pictures.append(placed(portrait, 130, (320, 240), (640, 480), 1.4))  # on its side: short range alone
    film = cv2.VideoCapture(str(CLIP))
    pictures += [film.read()[1] for _ in range(3)]
    film.release()
    for picture in pictures:
        ours, theirs = detect(picture, 4), in_mediapipe(picture, 4)
        assert len(ours) == len(theirs) >= 1
        pixel = max(picture.shape[:2]) / 192
        for one, other in zip(ours, theirs, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-4)
            assert one.roll == pytest.approx(other.roll, abs=1e-4)
            assert np.linalg.norm(np.subtract(one.centre, other.centre)) < pixel
            assert one.width == pytest.approx(other.width, abs=pixel)


def test_both_runtimes_give_the_same_keypoints(portrait: np.ndarray):
    pytest.importorskip("mediapipe", reason="the extra mediapipe is not installed here")
    from tabrt.detection import mediapipe

    view = view_of(portrait, (0, 0, portrait.shape[1], portrait.shape[0]))[0]
    for kind, name in ((onnx.FULL_RANGE, mediapipe.FULL_RANGE), (onnx.SHORT_RANGE, mediapipe.SHORT_RANGE)):
        with closing(onnx.BlazeFace(*kind, 0.4)) as ours, closing(mediapipe.BlazeFace(name, 0.4)) as theirs:
            for one, other in zip(ours(view), theirs(view), strict=True):
                np.testing.assert_allclose(one.keypoints, other.keypoints, atol=1e-3)


def test_the_shipped_models_are_what_the_workshop_makes_of_mediapipes(tmp_path: Path):
    for package in ("tflite", "onnx"):
        pytest.importorskip(package, reason=f"{package} is not installed here")
    from export.blazeface import convert_all

    for path in convert_all(MODEL_FOLDER, tmp_path):
        assert path.read_bytes() == (MODEL_FOLDER / path.name).read_bytes()


def test_a_runtime_that_is_not_there_is_said():
    with pytest.raises(TabrtError, match="onnxruntime or mediapipe"):
        Detector("dlib")


def test_without_the_extra_it_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "mediapipe"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(TabrtError, match=r"pip install '\.\[mediapipe\]'"):
        Detector("mediapipe")


def test_it_writes_nowhere_and_takes_a_closed_stderr(tmp_path: Path):
    """As in a container that is read-only, /tmp included, and with `2>&-`."""
    code = (
        "import tempfile; tempfile.tempdir = '/nowhere'; import numpy as np; from tabrt.detection import Detector; "
        "Detector()(np.zeros((99, 99, 3), 'u1'), 1)"
    )
    script = f'exec "{sys.executable}" -c "{code}" 2>&-'
    where = {**environment(), "TMPDIR": "/nowhere"}
    assert subprocess.run(["sh", "-c", script], env=where, cwd=tmp_path, timeout=120).returncode == 0


# x, y and depth of BlazeFace's six points on a head, in widths of its box: eyes, nose, mouth, ears.
HEAD = np.array(
    [(-0.2, -0.2, 0.4), (0.2, -0.2, 0.4), (0, 0, 0.55), (0, 0.23, 0.42), (-0.42, -0.1, -0.1), (0.42, -0.1, -0.1)]
)


def detected(turn: float) -> Detection:
    """A head of 100 px that is turned by so many degrees, as a model sees it."""
    sin, cos = np.sin(np.radians(turn)), np.cos(np.radians(turn))
    across = HEAD[:, 0] * cos + HEAD[:, 2] * sin
    return Detection(100 * np.stack([across, HEAD[:, 1]], axis=1), np.array([30 * sin, 0]), 100, 0.9)


@pytest.mark.parametrize("calibration", [FULL_RANGE, SHORT_RANGE])
def test_a_head_that_turns_keeps_the_size_of_its_box(calibration: Calibration):
    """Its ears come to lie one behind the other, and its face reaches as far from them as it was wide."""
    sides = np.array([calibrated(detected(turn), calibration, 1.0, np.zeros(2)).width for turn in range(-90, 91)])
    assert sides == pytest.approx(sides[::-1])
    assert sides == pytest.approx(sides[90], rel=0.25)
    assert np.abs(np.diff(sides)).max() < 0.01 * sides[90]


def test_boxes_of_real_profiles_are_as_large_as_their_faces(detect: Detector):
    path = SHARED / "faces" / "cfp.zip"
    if not path.is_file():
        pytest.skip("needs ../shared/faces/cfp.zip")
    sizes = []
    with zipfile.ZipFile(path) as archive:
        labels = np.load(io.BytesIO(archive.read("labels.npz")))
        names = labels["image"].astype(str)
        for i in np.flatnonzero(np.char.startswith(names, "profile") & held_out(names))[:60]:
            photo = cv2.imdecode(np.frombuffer(archive.read(f"images/{names[i]}"), np.uint8), cv2.IMREAD_COLOR)
            points = labels["points98"][i]
            true = Box.of(points[np.isfinite(points).all(axis=1)])
            sizes += [box.width / max(true.width, true.height) for box in detect(np.asarray(photo), 1)]
    assert len(sizes) > 50
    assert np.median(sizes) == pytest.approx(1, abs=0.06)
    assert np.quantile(sizes, 0.1) > 0.8
