"""Identities, by a scripted detector and a scripted engine; and the shipped model on a real film."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import CLIP, TIMES, environment, posix

import tabrt
from tabrt.card import ModelCard
from tabrt.commands.options import LiveOptions
from tabrt.engines.engine import FakeEngine
from tabrt.errors import TabrtError
from tabrt.faces import Frame
from tabrt.film.reading import open_film
from tabrt.geometry import Box
from tabrt.topology import WFLW98
from tabrt.tracking.schedule import Schedule
from tabrt.tracking.tracker import Tracker

PORTRAIT = Path(__file__).parent / "data" / "astronaut.png"


class Detector:
    """Finds what it is told to, in the order told."""

    def __init__(self) -> None:
        self.boxes: list[Box] = []
        self.calls = 0

    def __call__(self, image: np.ndarray, limit: int, thorough: bool = True) -> list[Box]:
        self.calls += 1
        return self.boxes[:limit]

    def close(self) -> None:
        self.calls = -1


def upright_face() -> np.ndarray:
    """Points (98, 2) in crop px that fill a crop as a face does: eyes level and above the mouth."""
    points = np.random.default_rng(0).uniform(60, 196, (98, 2))
    points[:2] = (26, 26), (230, 230)  # the box of the points is the crop's middle
    points[60:68] = (90, 100)
    points[68:76] = (166, 100)
    points[76:96] = (128, 180)
    return points


def box_at(x: float, y: float, side: float = 80) -> Box:
    return Box(x - side / 2, y - side / 2, x + side / 2, y + side / 2, 0.9)


@pytest.fixture
def tracking():
    """A tracker whose faces stay where the detector found them; the detector; and a way to show it frames."""
    detector = Detector()
    tracker = Tracker(engine=FakeEngine(upright_face()), detector=detector, faces=4)
    image = np.zeros((480, 640, 3), np.uint8)
    frames = (Frame(image, index, index / 30) for index in range(10_000))
    with tracker:
        yield tracker, detector, lambda count: [tracker(next(frames)) for _ in range(count)]


def test_ids_stay_with_faces_that_stand_still(tracking):
    _, detector, show = tracking
    detector.boxes = [box_at(150, 200), box_at(450, 200)]
    scenes = show(40)
    assert [face.id for face in scenes[-1].faces] == [1, 2]
    left = [min(scene.faces, key=lambda face: face.box.centre[0]).id for scene in scenes[2:]]
    assert set(left) == {1}


def test_one_face_seen_twice_is_one_face(tracking):
    _, detector, show = tracking
    detector.boxes = [box_at(300, 200), box_at(304, 202)]
    assert all(len(scene.faces) == 1 for scene in show(30)[1:])


def test_an_empty_scene_is_searched_less_and_less(tracking):
    _, detector, show = tracking
    assert all(scene.faces == () for scene in show(90))
    assert 3 <= detector.calls < 20


def test_reset_counts_ids_anew(tracking):
    tracker, detector, show = tracking
    detector.boxes = [box_at(300, 200)]
    show(3)
    tracker.reset()
    assert [face.id for face in show(2)[-1].faces] == [1]


def test_at_most_so_many_faces_are_followed():
    detector = Detector()
    detector.boxes = [box_at(100 + 100 * i, 200, 60) for i in range(5)]
    with Tracker(engine=FakeEngine(upright_face()), detector=detector, faces=2) as tracker:
        scenes = [tracker(Frame(np.zeros((480, 640, 3), np.uint8), i, i / 30)) for i in range(20)]
    assert max(len(scene.faces) for scene in scenes) == 2


def test_a_model_of_smaller_crops_gives_the_same_face():
    """Its card says how large a crop it takes; in frame pixels nothing changes."""
    places = []
    for size in (256, 192):
        points = (upright_face() + 0.5) * (size / 256) - 0.5
        engine = FakeEngine(points, ModelCard(name="fake", crop_size=size))
        detector = Detector()
        detector.boxes = [box_at(300, 200, 90)]
        with Tracker(engine=engine, detector=detector, smoothing=0) as tracker:
            scenes = [tracker(Frame(np.zeros((480, 640, 3), np.uint8), i, i / 30)) for i in range(3)]
        assert scenes[-1].faces[0].crop.size == size
        places.append(scenes[-1].faces[0].points)
    np.testing.assert_allclose(places[1], places[0], atol=0.2)


class Counted:
    """An engine that keeps the sizes of its batches."""

    def __init__(self) -> None:
        self.engine = FakeEngine(upright_face())
        self.card, self.name, self.batches = self.engine.card, self.engine.name, []

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        self.batches.append(len(crops))
        return self.engine(crops)

    def close(self) -> None:
        self.engine.close()


def test_fifty_faces_are_one_batch_a_frame_and_keep_their_ids():
    detector, engine = Detector(), Counted()
    detector.boxes = [box_at(60 + 90 * (i % 10), 60 + 90 * (i // 10), 60) for i in range(50)]
    with Tracker(engine=engine, detector=detector, faces=50) as tracker:
        scenes = [tracker(Frame(np.zeros((540, 960, 3), np.uint8), i, i / 30)) for i in range(5)]
    places = [[face.box.centre for face in scene.faces] for scene in scenes]
    assert [face.id for face in scenes[-1].faces] == list(range(1, 51))
    np.testing.assert_allclose(places, [places[0]] * 5, atol=20)  # px: less than half way to the next face
    assert engine.batches == [50, 50, 50, 50, 50, 50]  # twice as they are found, then once a frame
    assert detector.calls == 1


def test_no_faces_cost_no_network_and_few_searches():
    detector, engine = Detector(), Counted()
    with Tracker(engine=engine, detector=detector, faces=50) as tracker:
        for i in range(300):
            assert tracker(Frame(np.zeros((480, 640, 3), np.uint8), i, i / 30)).faces == ()
    assert engine.batches == []
    assert detector.calls < 30


@pytest.mark.parametrize("faces", [0, -1, 1.5])
def test_a_wrong_number_of_faces_is_said(faces):
    with pytest.raises(TabrtError, match="faces"):
        Tracker(engine=FakeEngine(upright_face()), detector=Detector(), faces=faces)


def test_a_real_face_is_followed_with_one_id():
    with Tracker(faces=1, threads=1) as tracker, open_film(CLIP) as film:
        scenes = [tracker(frame) for frame in islice(film, 40)]
    assert {face.id for scene in scenes for face in scene.faces} == {1}
    assert all(len(scene.faces) == 1 for scene in scenes)
    points = scenes[-1].faces[0].points
    assert points[60:76, 1].mean() < points[51:60, 1].mean() < points[76:96, 1].mean()  # eyes, nose, mouth
    assert scenes[-1].faces[0].confidence.mean() > 0.6


def test_without_smoothing_points_are_raw():
    with Tracker(faces=1, smoothing=0, threads=1) as tracker, open_film(CLIP) as film:
        for frame in islice(film, 5):
            for face in tracker(frame).faces:
                np.testing.assert_array_equal(face.points, face.raw)


def test_the_loop_of_the_readme(clip):
    with tabrt.Tracker(faces=1, threads=1) as tracker:
        scenes = list(tracker.track(str(clip)))
        again = next(tracker.track(iter([scenes[0].frame])))
    assert [scene.frame.index for scene in scenes] == list(range(len(TIMES)))
    assert [round(scene.frame.time, 3) for scene in scenes] == [time / 1000 for time in TIMES]
    for scene in (*scenes, again):
        (face,) = scene.faces
        assert (face.id, face.points.shape, face.raw.shape, face.confidence.shape) == (1, (98, 2), (98, 2), (98,))
        assert face.box.left < face.points[:, 0].mean() < face.box.right


@posix
def test_a_film_that_is_left_in_the_middle_is_closed(clip):
    with tabrt.Tracker(engine=FakeEngine(upright_face()), detector=Detector()) as tracker:
        scenes = tracker.track(clip)
        next(scenes)
        scenes.close()
        assert not any(str(clip) in os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.exists())


def test_what_a_tracker_was_lent_stays_open():
    detector, engine = Detector(), Counted()
    with Tracker(engine=engine, detector=detector) as tracker:
        tracker(Frame(np.zeros((480, 640, 3), np.uint8)))
    assert detector.calls == 1
    with Tracker(engine=engine, detector=detector) as tracker:
        detector.boxes = [box_at(300, 200)]
        assert len(tracker(Frame(np.zeros((480, 640, 3), np.uint8))).faces) == 1


def test_what_a_tracker_loaded_is_closed():
    with Tracker(threads=1) as tracker:
        engine, detector = tracker.engine, tracker._detector
    for used in (
        lambda: engine(np.zeros((1, 256, 256, 3), np.uint8)),
        lambda: detector(np.zeros((64, 64, 3), "u1"), 1),
    ):
        with pytest.raises(TabrtError, match="closed"):
            used()


def test_each_film_begins_afresh(tracking):
    tracker, detector, _ = tracking
    detector.boxes = [box_at(150, 200)]
    for start in (100.0, 0.0):
        image = np.zeros((480, 640, 3), np.uint8)
        scenes = list(tracker.track(Frame(image, i, start + i / 30) for i in range(6)))
        assert [[face.id for face in scene.faces] for scene in scenes] == [[1]] * 6
        detector.boxes = [box_at(450, 300)]


def test_waiting_between_searches_is_bounded():
    schedule = Schedule()
    for step in (1e-4, 1.0):  # s: of frames that come too fast for the time between searches, and then slowly
        frames = [schedule.is_due(now * step, True, False, False) and schedule.searched(now * step, False) is None
                  for now in range(2000)]  # fmt: skip
        gaps = np.diff(np.flatnonzero(frames))
        assert gaps.max() <= 60


FORKED = """
import os, signal, sys
import cv2, tabrt
image = cv2.imread(sys.argv[1])
with tabrt.Tracker(threads=2, **eval(sys.argv[2])) as tracker:
    tracker(tabrt.Frame(image, 0, 0.0))
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a child that hangs ends with a signal
        try:
            scenes = [tracker(tabrt.Frame(image, i, i / 30)) for i in range(1, 8)]
            os._exit(len(scenes[-1].faces))
        except tabrt.TabrtError as problem:
            print(problem, flush=True)
            os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("runtime", ["onnxruntime", "mediapipe"])
def test_a_tracker_made_before_a_fork_works_or_says_that_it_does_not(runtime: str):
    if runtime == "mediapipe":
        pytest.importorskip("mediapipe", reason="the extra mediapipe is not installed here")
    words = [sys.executable, "-c", FORKED, str(PORTRAIT), repr({"detector": runtime})]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=120)
    if runtime == "onnxruntime":
        assert done.stdout.splitlines() == ["1"]
    else:
        assert "make the tracker in the process that uses it" in done.stdout
        assert done.stdout.splitlines()[-1] == "7"


def test_threads_may_share_a_tracker_and_have_their_own():
    """Calls wait for each other: each frame gives its scene, and what the process says still goes where it did."""
    stderr = os.fstat(2)
    image = cv2.imread(str(PORTRAIT))

    def watch(tracker: Tracker) -> list[int]:
        return [len(tracker(Frame(image, index, index / 30)).faces) for index in range(8)]

    def watch_alone(_: int) -> list[int]:
        with Tracker(faces=1, threads=1) as tracker:
            return watch(tracker)

    with ThreadPoolExecutor(4) as pool, Tracker(faces=1, threads=1) as shared:
        assert all(counts == [1] * 8 for counts in pool.map(watch, [shared] * 4))
        assert all(counts == [1] * 8 for counts in pool.map(watch_alone, range(4)))
    assert os.path.samestat(stderr, os.fstat(2))


def test_bare_images_are_frames_at_nominal_times(tracking):
    tracker, detector, _ = tracking
    detector.boxes = [box_at(300, 200)]
    images = [np.zeros((480, 640, 3), np.uint8)] * 3
    scenes = [tracker(image) for image in images]
    assert [scene.frame.index for scene in scenes] == [0, 1, 2]
    assert [scene.frame.time for scene in scenes] == pytest.approx([0, 1 / 30, 2 / 30])
    for source in (images, np.stack(images), iter(images), [Frame(image, None, None) for image in images]):
        again = list(tracker.track(source))
        assert [scene.frame.time for scene in again] == pytest.approx([0, 1 / 30, 2 / 30])
        assert [face.id for face in again[-1].faces] == [1]
    assert len(list(tracker.track(images[0]))) == 1


def test_a_capture_is_read_at_its_own_times(tracking, clip):
    tracker, _, _ = tracking
    capture = cv2.VideoCapture(str(clip))
    scenes = list(tracker.track(capture))
    capture.release()
    assert len(scenes) == len(TIMES)
    assert scenes[-1].frame.time > 0.5
    with pytest.raises(TabrtError, match="not open"):
        next(tracker.track(capture))


@pytest.mark.parametrize(
    ("give", "named"),
    [
        (lambda tracker: tracker("in.mp4"), "tabrt.Frame"),
        (lambda tracker: tracker(None), "tabrt.Frame"),
        (lambda tracker: tracker(Frame(None)), "uint8"),
        (lambda tracker: tracker(np.zeros((9, 9, 3))), "uint8"),
        (lambda tracker: tracker(Frame(np.zeros((9, 9, 3), np.uint8), 0, "now")), "seconds"),
        (lambda tracker: next(tracker.track(None)), "a film's path"),
        (lambda tracker: next(tracker.track(3.5)), "a film's path"),
        (lambda tracker: next(tracker.track(987)), "tabrt doctor"),
        (lambda tracker: next(tracker.track([1, 2])), "tabrt.Frame"),
    ],
)
def test_what_cannot_be_meant_is_said(tracking, give, named: str):
    with pytest.raises(TabrtError, match=named):
        give(tracking[0])


@pytest.mark.parametrize(("side", "right", "down"), [(0.45, 0, 0.45), (0.55, -0.15, 0.45), (0.45, 0.45, -0.3)])
def test_a_detector_that_sees_half_of_a_face_beside_it_is_enough(side: float, right: float, down: float):
    """As one that knows portraits alone may do of a profile: its box lies behind the eyes, half as wide as the face."""
    image = cv2.imread(str(PORTRAIT))
    (x, y), whole = (222, 130), 102  # of the portrait's face: middle and side, px
    detector = Detector()
    detector.boxes = [box_at(x + right * whole, y + down * whole, side * whole)]
    with Tracker(detector=detector) as tracker:
        scenes = [tracker(Frame(image, index, index / 30)) for index in range(6)]
    (face,) = scenes[-1].faces
    assert np.linalg.norm(np.subtract(face.box.centre, (x, y))) < 0.2 * whole and face.box.score > 0.7


def test_an_unsure_face_of_a_still_is_seen_as_closely_as_one_that_is_followed():
    """The network is surest where its crop is too wide, and its points are less exact there."""
    image = cv2.GaussianBlur(cv2.imread(str(PORTRAIT)), (0, 0), 6)
    with Tracker() as tracker:
        (face,) = tracker.still(image).faces
        assert face.box.score < 0.8
        assert face.crop.side == pytest.approx(tracker(image).faces[0].crop.side, rel=0.04)


class Sure(FakeEngine):
    """As sure of its points as it is told to be."""

    sure = 0.9

    def read(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count = len(crops), len(self.points)
        return np.broadcast_to(self.points, (*count, 2)), np.full(count, self.sure, np.float32)


@pytest.mark.parametrize("sure, certain, there", [(0.5, 0.0, False), (0.63, 0.3, False), (0.5, 0.8, True)])
def test_an_unsure_face_is_a_lost_one_only_if_the_detector_sees_it_too(sure: float, certain: float, there: bool):
    """Else whatever looks a little like a face, about where one was lost, would have its id."""
    detector, engine = Detector(), Sure(upright_face())
    detector.certainty = lambda image, points, roll: certain  # type: ignore[attr-defined]
    with Tracker(engine=engine, detector=detector) as tracker:
        frames = (Frame(np.zeros((480, 640, 3), np.uint8), index, index / 30) for index in range(100))

        def show(boxes: list[Box], sure: float) -> list[tabrt.Scene]:
            detector.boxes, engine.sure = boxes, sure
            return [tracker(next(frames)) for _ in range(10)]

        assert show([box_at(300, 200)], 0.9)[-1].faces
        assert not show([], 0.2)[-1].faces
        found = show([box_at(300, 200)], sure)
    assert {face.id for scene in found for face in scene.faces} == ({1} if there else set())


def test_a_lost_face_that_comes_back_half_hidden_has_its_id_once_it_is_seen_well():
    """However long something is before it, within the time that an id is kept."""
    detector, engine = Detector(), Sure(upright_face())
    detector.certainty = lambda image, points, roll: 0.3  # type: ignore[attr-defined]
    with Tracker(engine=engine, detector=detector) as tracker:
        frames = (Frame(np.zeros((480, 640, 3), np.uint8), index, index / 30) for index in range(100))
        for sure, shown in ((0.9, {1}), (0.2, set()), (0.6, set()), (0.9, {1})):
            detector.boxes, engine.sure = ([box_at(300, 200)] if sure > 0.5 else []), sure
            scenes = [tracker(next(frames)) for _ in range(10)]
            assert {face.id for face in scenes[-1].faces} == shown


def test_numbers_of_any_type_are_taken_and_others_named():
    engine = FakeEngine(upright_face())
    Tracker(engine=engine, detector=Detector(), faces=np.int64(4), smoothing="0.7", min_score=np.float32(0.5))
    for wrong in ({"smoothing": "much"}, {"smoothing": None}, {"smoothing": float("nan")}, {"faces": "all"}):
        with pytest.raises(TabrtError, match=f"{next(iter(wrong))} is"):
            Tracker(engine=engine, detector=Detector(), **wrong)
    with pytest.raises(TabrtError, match="min_score is"):
        Tracker(engine=engine, detector=Detector(), min_score=40)


def test_times_in_milliseconds_are_noticed_once(tracking, caplog: pytest.LogCaptureFixture):
    tracker, _, _ = tracking
    image = np.zeros((48, 64, 3), np.uint8)
    for index in range(12):
        tracker(Frame(image, index, index / 30))
    assert not caplog.records
    tracker.reset()
    for index in range(12):
        tracker(Frame(image, index, 1000 * index / 30))
    assert len(caplog.records) == 1 and "divide them by 1000" in caplog.text


def test_a_command_whose_source_stalls_gives_no_advice_on_times(caplog: pytest.LogCaptureFixture):
    image = np.zeros((48, 64, 3), np.uint8)
    with LiveOptions(model="tab1-nano").tracker() as tracker:
        for _ in range(2):
            for index in range(6):
                tracker(Frame(image, index, 6.0 * index))
            tracker.reset()
    assert len(caplog.records) == 2 and "6 s apart" in caplog.text and "1000" not in caplog.text


def test_a_still_and_its_mirror_image_agree_better_than_frames_do():
    portrait = cv2.imread(str(PORTRAIT))

    def disagreement(look) -> float:
        (one,), (other,) = (look(np.ascontiguousarray(image)).faces for image in (portrait, portrait[:, ::-1]))
        mirrored = other.raw[WFLW98.mirror] * (-1, 1) + (portrait.shape[1] - 1, 0)
        return float(np.linalg.norm(one.raw - mirrored, axis=1).mean() / one.box.width)

    with Tracker(boundaries=True) as tracker:
        (face,) = tracker.still(portrait).faces
        assert face.boundaries is not None and face.boundaries.shape == (16, 64, 64)
        still = disagreement(tracker.still)
        frame = disagreement(lambda image: next(tracker.track([image])))
    assert still < 0.5 * frame
