"""What is told of heads that are turned far: on made faces, on profiles of real people, and in a film."""

from __future__ import annotations

import io
import zipfile

import cv2
import numpy as np
import pytest
from conftest import SHARED
from made_faces import LENS, SURE, calm, changed, seen, shut_eye

from tabrt.faces import Frame
from tabrt.film.reading import open_film
from tabrt.measures import Measures, Person
from tabrt.measures.expression import eye_heights, facing
from tabrt.measures.head import HEAD
from tabrt.tracking import Tracker

FULL = 0.9  # of a shape
FAR = (40, 55, 65, 75, 85, 95, -60, -80)
HEADS = {
    "at rest": HEAD,
    "open mouth": changed(((93, 94, 95, 84, 85, 86), (0, 0.25))),
    "smile": changed(((76,), (-0.06, -0.08)), ((82,), (0.06, -0.08))),
    "left brow": changed(((45, 46, 47), (0, -0.09))),
    "shut left eye": shut_eye(right=False),
    "pucker": changed(((76,), (0.07, 0)), ((82,), (-0.07, 0))),
}


def read(points: np.ndarray, person: Person, time: float = 0.0):
    return person.read(points, SURE, person.pose(points, SURE, LENS, time), time)


def looked_at(yaw: float, head: np.ndarray = HEAD) -> Measures:
    return read(seen(yaw, 5, 3, head=head), calm())[1]


def full(measures: Measures) -> int:
    """How many shapes are at their strongest; of lids and gaze apart, for eyes may well be shut."""
    return sum(value > FULL for name, value in measures.items() if not name.startswith(("eyeLook", "eyeBlink")))


@pytest.mark.parametrize("yaw", FAR)
def test_a_head_at_rest_is_at_rest_from_every_side(yaw: float):
    measures = looked_at(yaw)
    assert max(measures.values()) < 0.15
    assert min(measures.left_eye, measures.right_eye) > 0.85


def test_eyes_wider_than_usual_are_no_longer_told_from_the_side():
    wide = changed(((61, 62, 63, 69, 70, 71), (0, -0.05)))
    ahead, aside = (read(seen(yaw, head=wide), calm())[1] for yaw in (0, 70))
    assert min(ahead["eyeWideLeft"], ahead["eyeWideRight"]) > 0.3
    assert max(aside["eyeWideLeft"], aside["eyeWideRight"]) < 0.1


@pytest.mark.parametrize("yaw", FAR)
def test_points_that_are_off_by_a_little_are_no_expression(yaw: float):
    rng = np.random.default_rng(0)
    size = np.ptp(seen(yaw), axis=0).max()
    told = [read(seen(yaw) + rng.normal(0, 0.008 * size, (98, 2)), calm())[1] for _ in range(20)]
    assert np.mean([full(one) for one in told]) < 0.3
    assert np.median([min(one.left_eye, one.right_eye) for one in told]) > 0.7


@pytest.mark.parametrize("yaw", [50, 65, 80, 89])
def test_a_turn_hardly_changes_how_high_the_near_eye_is(yaw: float):
    points = seen(yaw, 5)
    pose = calm().pose(points, SURE, LENS, 0.0)
    _, near = eye_heights(facing(points, pose), hidden=1.0)  # a fifth of it at 85°, where lines of sight were cut short
    assert near == pytest.approx(eye_heights(facing(seen(), calm().pose(seen(), SURE, LENS, 0.0)))[1], rel=0.1)


@pytest.mark.parametrize("yaw", [50, 60, 70])
def test_the_near_eye_is_told_for_both(yaw: float):
    near, far = looked_at(yaw, shut_eye(right=False)), looked_at(yaw, shut_eye(right=True))
    assert near["eyeBlinkLeft"] > 0.7 and near["eyeBlinkRight"] > 0.6
    assert far["eyeBlinkLeft"] < 0.3 and far["eyeBlinkRight"] < 0.5


def test_what_is_seen_from_the_side_is_told():
    assert looked_at(80, HEADS["open mouth"])["jawOpen"] > 0.5
    assert looked_at(55, HEADS["smile"])["mouthSmileLeft"] > 0.3
    near, far = looked_at(60, HEADS["left brow"]), looked_at(-60, HEADS["left brow"])
    assert near["browOuterUpLeft"] > 0.2 and near["browOuterUpRight"] == pytest.approx(near["browOuterUpLeft"], abs=0.1)
    assert max(far["browOuterUpLeft"], far["browOuterUpRight"]) < 0.1  # it cannot be seen
    assert looked_at(65, HEADS["pucker"])["mouthPucker"] == 0


@pytest.mark.parametrize("name", HEADS)
def test_nothing_jumps_as_a_head_turns(name: str):
    person, last = calm(), None
    for index, yaw in enumerate(np.arange(0, 96, 0.5)):
        gaze, measures = read(seen(yaw, 5, 3, head=HEADS[name]), person, index / 30)
        shapes = {shape: value for shape, value in measures.items() if not shape.startswith("eyeLook")}
        sure = [0.0 if eye is None else eye.confidence for eye in (gaze.left, gaze.right)]
        told = np.array([*shapes.values(), measures.left_eye, measures.right_eye, *sure])
        assert last is None or np.abs(told - last).max() < 0.06, yaw
        last = told
    assert measures.blink is None and max(shapes.values()) < (0.9 if name == "open mouth" else 0.2)


def test_gaze_is_told_less_surely_the_farther_a_head_turns():
    sure = [read(seen(yaw), calm())[0].both.confidence for yaw in (0, 40, 60, 75, 88)]
    assert sure[1] == pytest.approx(sure[0]) and np.all(np.diff(sure[1:]) < -0.1) and sure[-1] < 0.1
    noise = np.random.default_rng(0).normal(0, 2, (98, 2))
    gaze, _ = read(seen(88) + noise, calm())
    assert abs(gaze.left.yaw) < 5 and abs(gaze.left.pitch) < 5


def blinks(yaws: np.ndarray, shut: range) -> int:
    """How many are told of a head at these yaws, frame by frame, whose eyes are shut in some frames."""
    both = shut_eye(right=False)
    both[60:68] = shut_eye(right=True)[60:68]
    person, rng = calm(), np.random.default_rng(2)
    found = 0
    for index, yaw in enumerate(yaws):
        points = seen(yaw, 5, head=both if index in shut else HEAD)
        found += read(points + rng.normal(0, 0.15, (98, 2)), person, index / 30)[1].blink is not None
    return found


def test_blinks_are_told_as_long_as_they_are_seen():
    assert blinks(np.full(60, 45.0), range(20, 24)) == 1
    assert blinks(np.full(60, 80.0), range(20, 24)) == 0
    assert blinks(45 + 45 * np.sin(np.arange(120) / 5), range(0)) == 0  # a head that swings from 0 to 90°


def test_a_face_at_rest_may_be_set_from_the_side():
    person = calm()
    read(seen(80, 5), person, 0.1)
    person.be_neutral()
    assert max(read(seen(), person, 1.0)[1].values()) < 0.15


def test_the_near_eyes_of_profiles_are_open():
    path = SHARED / "faces" / "cfp.zip"
    if not path.is_file():
        pytest.skip("needs ../shared/faces/cfp.zip")
    with zipfile.ZipFile(path) as archive, Tracker(faces=1) as tracker:
        with np.load(io.BytesIO(archive.read("labels.npz"))) as labels:
            names = [str(name) for name in labels["image"] if "profile" in str(name)]
        told = []
        for name in names[:: len(names) // 60]:
            member = next(member for member in archive.namelist() if member.endswith(name))
            image = cv2.imdecode(np.frombuffer(archive.read(member), np.uint8), cv2.IMREAD_COLOR)
            told += [face for face in tracker.still(Frame(image)).faces if face.pose and abs(face.pose.yaw) > 60]
    near = [face.measures.left_eye if face.pose.yaw > 0 else face.measures.right_eye for face in told]
    assert len(told) > 15
    assert np.median(near) > 0.6
    assert np.mean([full(face.measures) for face in told]) < 1  # 3.7, when shapes did not fade


@pytest.mark.slow
def test_profiles_in_a_film_do_not_grimace():
    path = SHARED / "videos" / "face_recognition__short_hamilton_clip.mp4"
    if not path.is_file():
        pytest.skip("needs ../shared/videos")
    with Tracker() as tracker, open_film(path, start=8.6) as film:
        faces = [face for frame in film for face in tracker(frame).faces]
    turned = [face for face in faces if abs(face.pose.yaw) > 60]
    assert len(turned) > 30
    assert np.mean([full(face.measures) for face in turned]) < 0.5  # 7.2, when shapes did not fade
    assert not any(face.measures.blink for face in faces)
