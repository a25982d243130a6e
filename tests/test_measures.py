"""What points mean: poses of known turns, gaze, expressions and blinks, on made faces and on a real one."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import CLIP, SHARED
from made_faces import AHEAD, LENS, LOWER_LIDS, SURE, UPPER_LIDS, calm, changed, looking, mirrored, seen, shut_eye

from tabrt.errors import TabrtError
from tabrt.measures import SHAPES, BlinkFinder, Calibration, Lens, Person, find_blinks, head_pose, rotation_of
from tabrt.measures.expression import FEATURES, NEUTRAL, eye_heights, facing, features
from tabrt.measures.head import EYE_DISTANCE, HEAD
from tabrt.measures.pose import angles_of, quaternion_of
from tabrt.topology import WFLW98
from tabrt.tracking import Tracker


def read(points: np.ndarray, person: Person | None = None, time: float = 0.0):
    person = person or calm()
    return person.read(points, SURE, person.pose(points, SURE, LENS, time), time)


# Pose


@pytest.mark.parametrize("yaw", [-90, -60, -20, 0, 35, 75, 90])
@pytest.mark.parametrize(("pitch", "roll"), [(0, 0), (25, -30), (-40, 60), (10, 170)])
def test_the_turn_of_a_mean_head_is_found(yaw: float, pitch: float, roll: float):
    pose = head_pose(seen(yaw, pitch, roll), SURE, LENS)
    assert np.allclose(pose.rotation, rotation_of(yaw, pitch, roll), atol=1e-3)
    assert np.allclose(pose.translation, AHEAD, atol=1e-3)
    assert pose.misfit < 1e-3
    assert np.allclose(rotation_of(*pose.angles), pose.rotation)


@pytest.mark.parametrize("distance", [0.25, 3, 30, 300])
def test_near_and_far_faces_have_a_pose(distance: float):
    pose = head_pose(seen(20, -10, 5, (0.1 * distance, 0, distance)), SURE, Lens(LENS.focal, LENS.centre))
    assert np.allclose(angles_of(pose.camera_rotation), (20, -10, 5), atol=0.1)
    assert pose.translation[2] == pytest.approx(distance, rel=0.01)


def test_the_signs_of_the_angles():
    nose, eyes = 54, [60, 72]
    face = seen(yaw=20)
    assert face[nose, 0] < face[eyes, 0].mean()  # the nose to the picture's left, where the person's right is
    assert head_pose(face, SURE, LENS).yaw == pytest.approx(20, abs=0.1)
    face = seen(pitch=20)
    assert face[nose, 1] - face[eyes, 1].mean() > seen()[nose, 1] - seen()[eyes, 1].mean()  # down
    assert head_pose(face, SURE, LENS).pitch == pytest.approx(20, abs=0.1)
    face = seen(roll=20)
    assert face[72, 1] > face[60, 1]  # clockwise
    assert head_pose(face, SURE, LENS).roll == pytest.approx(20, abs=0.1)
    assert WFLW98.roll(face) == pytest.approx(math.radians(20), abs=0.02)  # the sign of all rolls of this package


def test_a_face_that_looks_into_the_lens_has_no_turn_wherever_it_is():
    at = np.array([0.25, -0.15, 0.6])
    sight = at / np.linalg.norm(at)
    axis = np.cross([0, 0, 1], sight)
    angle = math.asin(np.linalg.norm(axis))
    turned = cv2.Rodrigues(axis / np.linalg.norm(axis) * angle)[0]
    placed = HEAD @ turned.T + at
    face = placed[:, :2] / placed[:, 2:] * LENS.focal + LENS.centre
    for factor in (0.7, 1.0, 2.0):
        wrong = Lens(LENS.focal * factor, LENS.centre)
        pose = head_pose(face, SURE, wrong)
        assert np.allclose(pose.angles, 0, atol=0.2 if factor == 1 else 3)
        assert pose.translation[2] == pytest.approx(0.6 * factor, rel=0.1)
    right = head_pose(face, SURE, Lens(LENS.focal, LENS.centre))
    assert np.allclose(right.camera_rotation, turned, atol=1e-3)
    assert np.allclose(right.project(HEAD), face, atol=0.05)


def test_the_camera_s_own_axes_are_told_only_of_a_lens_that_is_known():
    assert Lens.usual(640, 480).guessed
    assert head_pose(seen(), SURE, Lens.usual(640, 480)).camera_rotation is None
    known = Lens.seeing(60, 640, 480)
    assert not known.guessed
    assert head_pose(seen(), SURE, known).camera_rotation is not None


def test_quaternions_and_angles_come_from_the_same_rotation():
    for angles in [(0, 0, 0), (179, 5, 3), (-90, 0, 90), (40, -70, 120), (0, 0, 180)]:
        rotation = rotation_of(*angles)
        x, y, z, w = quaternion_of(rotation)
        assert w >= 0
        again = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
        assert np.allclose(again, rotation)
        assert np.allclose(rotation_of(*angles_of(rotation)), rotation)


def test_covered_points_do_not_pull_the_pose_away():
    face = seen(10, -5, 3)
    sure = SURE.copy()
    hidden = [*range(17, 33), 55, 56, 72]
    face[hidden] += 25
    sure[hidden] = 0.1
    pose = head_pose(face, sure, LENS)
    assert np.abs(np.subtract(pose.angles, (10, -5, 3))).max() < 2


def test_small_noisy_faces_do_not_flip():
    rng = np.random.default_rng(0)
    for _ in range(60):
        yaw, pitch = rng.uniform(-60, 60), rng.uniform(-25, 25)
        face = seen(yaw, pitch, 0, (0.1, 0, 2.5)) + rng.normal(0, 0.6, (98, 2))  # about 20 px between the eyes
        pose = head_pose(face, SURE, LENS)
        assert abs(pose.yaw - yaw) < 20 and abs(pose.pitch - pitch) < 25


def test_the_last_pose_is_a_start_and_no_more():
    last = head_pose(seen(-50, 20, 0), SURE, LENS)
    for turn in [(48, -10, 5), (-49, 20, 1)]:
        assert np.allclose(head_pose(seen(*turn), SURE, LENS, last).angles, turn, atol=0.1)


@pytest.mark.parametrize("before", [-90, 90])
@pytest.mark.parametrize("yaw", [-15, 0, 15])
def test_a_head_that_was_last_seen_from_the_side_is_found_from_the_front(before: float, yaw: float):
    last = head_pose(seen(before, 5), SURE, LENS)
    assert head_pose(seen(yaw, 5), SURE, LENS, last).yaw == pytest.approx(yaw, abs=0.5)  # 85° told of some


def test_what_is_no_face_has_no_pose():
    assert head_pose(np.full((98, 2), np.nan), SURE, LENS) is None
    assert head_pose(np.full((98, 2), 100.0), SURE, LENS) is None
    face = seen()
    face[60] = np.inf
    assert head_pose(face, SURE, LENS) is None


def test_points_can_be_brought_to_face_the_camera():
    for turn in [(0, 0, 0), (35, -15, 20), (-50, 20, -80)]:
        face = seen(*turn, at=(0.1, -0.1, 0.8))
        faced = facing(face, head_pose(face, SURE, LENS))
        assert np.allclose(faced, HEAD[:, :2] / EYE_DISTANCE, atol=2e-3)


# Lenses


@pytest.mark.parametrize("size", [(640, 480), (1080, 1920)])
def test_a_field_of_view_is_that_across_the_picture(size: tuple[int, int]):
    lens = Lens.seeing(70, *size)
    assert 2 * math.degrees(math.atan(size[0] / 2 / lens.focal)) == pytest.approx(70)
    for wrong in (0, 180, math.nan):
        with pytest.raises(TabrtError, match="field of view"):
            Lens.seeing(wrong, *size)


def test_a_calibration_holds_for_any_size_of_the_picture(tmp_path: Path):
    path = tmp_path / "camera.yml"
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    storage.write("image_width", 1280)
    storage.write("image_height", 720)
    storage.write("camera_matrix", np.array([[1000.0, 0, 650], [0, 1000, 350], [0, 0, 1]]))
    storage.release()
    lens = Calibration.read(path).lens(640, 360)
    assert lens.focal == pytest.approx(500) and not lens.guessed
    assert lens.centre == pytest.approx((324.75, 174.75), abs=0.5)


@pytest.mark.parametrize("text", ["", "{", "%YAML:1.0\n---\nimage_width: 640\n", "camera_matrix: 3", "\x00\x01", "[]"])
def test_a_file_that_is_no_calibration_is_named(tmp_path: Path, text: str):
    path = tmp_path / "camera.yml"
    path.write_text(text)
    with pytest.raises(TabrtError, match="calibration"):
        Calibration.read(path)
    with pytest.raises(TabrtError, match="cannot read"):
        Calibration.read(tmp_path / "missing.yml")


# Expression


def test_a_neutral_face_does_nothing():
    for turn in [(0, 0, 0), (25, 10, -20), (-25, -15, 30)]:
        _, measures = read(seen(*turn))
        assert max(measures.values()) < 0.12
        assert measures.left_eye > 0.9 and measures.right_eye > 0.9


def test_the_mean_of_people_is_neutral_to_one_who_was_never_seen():
    faced = NEUTRAL
    assert np.allclose(Person().neutral.features, faced)
    assert len(faced) == len(FEATURES)


LIPS = ((93, 94, 95, 84, 85, 86), (0, 0.2))
JAW = (tuple(range(8, 25)), (0, 0.15))
EXPRESSIONS = {
    "jawOpen": changed(LIPS, JAW),
    "jawLeft": changed((tuple(range(12, 21)), (0.11, 0))),
    "mouthLeft": changed((tuple(range(76, 96)), (0.12, 0))),
    "mouthSmileLeft": changed(((82,), (0.06, -0.08))),
    "mouthFrownLeft": changed(((82,), (0, 0.06))),
    "mouthStretchLeft": changed(((82,), (0.09, 0.02))),
    "mouthPucker": changed(((76,), (0.07, 0)), ((82,), (-0.07, 0))),
    "browDownLeft": changed((tuple(range(42, 51)), (0, 0.06))),
    "browOuterUpLeft": changed(((45, 46, 47), (0, -0.09))),
    "browInnerUp": changed(((36, 37, 38, 42, 43, 50), (0, -0.08))),
    "mouthRollLower": changed(((84, 85, 86), (0, -0.06))),
    "eyeBlinkLeft": shut_eye(right=False),
    "eyeWideLeft": changed(((69, 70, 71), (0, -0.035))),
}


@pytest.mark.parametrize("name", EXPRESSIONS)
@pytest.mark.parametrize("turn", [(0, 0, 0), (15, -10, 25)])
def test_a_shape_is_told_of_the_side_that_it_is_on(name: str, turn: tuple[float, float, float]):
    face = seen(*turn, head=EXPRESSIONS[name])
    _, measures = read(face)
    assert measures[name] > 0.5
    if name.endswith("Left"):
        assert measures[name.removesuffix("Left") + "Right"] < 0.2


def test_an_opening_mouth_opens_more_and_more():
    opened = [read(seen(head=changed((LIPS[0], (0, gap)))))[1]["jawOpen"] for gap in np.linspace(0, 0.3, 8)]
    assert np.all(np.diff(opened) >= 0) and opened[0] < 0.05 and opened[-1] > 0.9


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_a_mirrored_picture_swaps_left_and_right(name: str):
    face = seen(12, 8, -10, at=(0.1, 0.05, 0.7), head=EXPRESSIONS[name])
    person, other = calm(), calm()
    gaze, measures = read(face, person)
    gaze_mirrored, measures_mirrored = read(mirrored(face), other)
    for shape, value in measures.items():
        swapped = shape.replace("Left", "?").replace("Right", "Left").replace("?", "Right")
        assert measures_mirrored[swapped] == pytest.approx(value, abs=0.02), shape
    pose, pose_mirrored = head_pose(face, SURE, LENS), head_pose(mirrored(face), SURE, LENS)
    assert np.allclose(pose_mirrored.angles, np.multiply(pose.angles, (-1, 1, -1)), atol=0.1)
    if gaze.left and gaze_mirrored.right:
        assert gaze_mirrored.right.yaw == pytest.approx(-gaze.left.yaw, abs=0.5)


def test_distance_and_tilt_change_nothing():
    for name, head in EXPRESSIONS.items():
        near, far = (read(seen(0, 0, roll, at, head))[1][name] for roll, at in ((0, AHEAD), (70, (0.2, 0.1, 1.8))))
        assert far == pytest.approx(near, abs=0.2 if name.startswith("jaw") else 0.05), (
            name
        )  # the pose rests on the jaw


def test_the_other_shapes_are_absent():
    _, measures = read(seen())
    assert set(measures) == set(SHAPES)
    assert "cheekPuff" not in measures and "tongueOut" not in measures
    with pytest.raises(KeyError):
        measures["cheekPuff"]


def test_a_winking_eye_is_told_from_the_other():
    _, measures = read(seen(head=shut_eye(right=True)))
    assert measures["eyeBlinkRight"] > 0.8 and measures["eyeBlinkLeft"] < 0.2
    assert measures.right_eye == pytest.approx(1 - measures["eyeBlinkRight"])


# What is learnt of a person


def watched(heads: list[tuple[np.ndarray, float]], person: Person, start: float = 0.0):
    """The last measures of a person who shows each head for some seconds at 30 fps."""
    time, measures = start, None
    for head, seconds in heads:
        face = seen(head=head)
        for _ in range(round(seconds * 30)):
            time += 1 / 30
            _, measures = read(face, person, time)
    return measures


def with_lids(share: float) -> np.ndarray:
    """The mean head with the height of both eyes multiplied."""
    head = HEAD.copy()
    for lids in (np.array([UPPER_LIDS, LOWER_LIDS]), WFLW98.mirror[np.array([UPPER_LIDS, LOWER_LIDS])]):
        middle = head[lids, 1].mean(axis=0)
        head[lids, 1] = middle + (head[lids, 1] - middle) * share
    return head


USUAL = 0.3 / eye_heights(HEAD[:, :2] / EYE_DISTANCE)[0]  # share at which an eye of the mean head is of mean height


def blinking(openness: float) -> np.ndarray:
    """The mean head with eyes open so far, and their corners where lids draw them in the films of ../shared/blinks."""
    head = with_lids(0.45 + 0.55 * openness)
    for corners, down in (((60, 72), 0.026), ((64, 68), 0.009)):
        head[list(corners), 1] += (1 - openness) * down * EYE_DISTANCE
    return head


def poses_of_a_blink(speed: tuple[float, float], shut: float = 0.1, fps: int = 30) -> np.ndarray:
    """(N, 3) degrees that yaw, pitch and roll are off from half a second before a blink to as long after.

    The head turns by `speed`, degrees of yaw and pitch a second, and the eyes stay shut for `shut` seconds."""
    person, off = Person(), []
    for index in range(round((1.1 + shut) * fps)):
        time = index / fps
        openness = min(max(abs(time - 0.55 - shut / 2) - shut / 2, 0.0) / 0.1, 1.0)
        turn = speed[0] * (time - 0.5), speed[1] * (time - 0.5), 0.0
        pose = person.pose(seen(*turn, head=blinking(openness)), SURE, LENS, time)
        off.append(np.subtract(pose.angles, turn))
    return np.array(off)


@pytest.mark.parametrize("speed", [(0, 0), (40, 0), (0, -25), (-30, 20)])
def test_a_blink_does_not_nod_the_head(speed: tuple[float, float]):
    off = poses_of_a_blink(speed)
    assert np.abs(off[:, 1]).max() < 0.7  # 1.6° where the corners are believed
    assert np.abs(off[:, [0, 2]]).max() < 0.3


def test_a_head_that_turns_with_shut_eyes_is_followed():
    off = poses_of_a_blink((10, 5), shut=4)
    assert np.abs(off).max() < 3 and np.abs(off[-6:]).max() < 0.3


def test_corners_of_an_eye_are_believed_again_after_a_face_was_lost():
    person = Person()
    for index in range(10):
        person.pose(seen(), SURE, LENS, index / 30)
    assert person.pose(np.full((98, 2), np.nan), SURE, LENS, 10 / 30) is None
    for index in range(11, 14):
        pose = person.pose(seen(30, 10, 5, head=blinking(0.0)), SURE, LENS, index / 30)
    assert np.allclose(pose.angles, head_pose(seen(30, 10, 5, head=blinking(0.0)), SURE, LENS).angles, atol=0.2)


@pytest.mark.parametrize("share", [0.78, 1.0, 1.25])
def test_narrow_and_wide_eyes_are_both_open(share: float):
    measures = watched([(with_lids(USUAL * share), 4)], Person())
    assert measures.left_eye > 0.85 and measures["eyeWideLeft"] < 0.1


def test_a_person_who_is_first_seen_with_shut_eyes_is_not_learnt_as_such():
    person = Person()
    shut = watched([(with_lids(USUAL * 0.55), 4)], person)
    assert shut.left_eye < 0.15
    opened = watched([(with_lids(USUAL), 1)], person, 4.0)
    assert opened.left_eye > 0.9


def test_a_smile_does_not_become_the_neutral_face_at_once():
    person = Person()
    watched([(HEAD, 6)], person)
    smiling = watched([(EXPRESSIONS["mouthSmileLeft"], 3)], person, 6.0)
    assert smiling["mouthSmileLeft"] > 0.6
    assert watched([(HEAD, 0.2)], person, 9.0)["mouthFrownLeft"] < 0.1


def test_a_neutral_face_can_be_set_by_hand():
    person = Person()
    head = EXPRESSIONS["mouthFrownLeft"]
    watched([(head, 1)], person)
    person.be_neutral()
    assert watched([(head, 0.2)], person, 1.0)["mouthFrownLeft"] < 0.05
    assert watched([(HEAD, 10)], person, 2.0)["mouthFrownLeft"] == 0


def test_a_frame_that_was_read_before_teaches_nothing():
    person = Person()
    watched([(HEAD, 1)], person)
    before = person.neutral.features.copy(), person.neutral.opened
    for _ in range(50):
        read(seen(head=EXPRESSIONS["jawOpen"]), person, 0.5)
    assert np.array_equal(person.neutral.features, before[0]) and person.neutral.opened == before[1]


# Gaze


@pytest.mark.parametrize("turn", [(0, 0, 0), (20, -10, 15)])
def test_pupils_that_move_look_that_way(turn: tuple[float, float, float]):
    gaze, measures = read(seen(*turn, head=looking(6, 0)))  # to the person's left
    assert gaze.left.yaw == pytest.approx(-30, abs=1.5) and gaze.right.yaw == pytest.approx(-30, abs=1.5)
    assert measures["eyeLookOutLeft"] > 0.7 and measures["eyeLookInRight"] > 0.7
    assert measures["eyeLookInLeft"] == measures["eyeLookOutRight"] == 0
    gaze, measures = read(seen(*turn, head=looking(0, -4)))  # up
    assert gaze.both.pitch == pytest.approx(-19.5, abs=1.5)
    assert measures["eyeLookUpLeft"] > 0.6 and measures["eyeLookDownLeft"] == 0


def test_eyes_turn_as_one_or_towards_each_other():
    apart = looking(2, -1) - HEAD  # mm, to the person's left and up
    apart[96] = -apart[97]  # the right eye the other way
    gaze, measures = read(seen(head=HEAD + apart))
    assert (gaze.left.yaw, gaze.left.pitch) == pytest.approx((gaze.right.yaw, gaze.right.pitch))
    assert abs(gaze.left.yaw) < 2 and abs(gaze.left.pitch) < 2
    assert measures["eyeLookOutLeft"] < 0.1 and measures["eyeLookOutRight"] < 0.1
    crossed = looking(3, 0) - HEAD
    crossed[97] = -crossed[97]  # each to the nose, by 14°
    gaze, measures = read(seen(head=HEAD + crossed))
    assert gaze.left.yaw == pytest.approx(-gaze.right.yaw, abs=2) and gaze.left.yaw == pytest.approx(10, abs=2)
    assert measures["eyeLookInLeft"] > 0.2 and measures["eyeLookInRight"] > 0.2


def test_an_eye_on_the_far_side_does_not_cross_the_other():
    """Where it looks is a guess there."""
    guessed = looking(0, 0) - HEAD
    guessed[96] = looking(7, 0)[96] - HEAD[96]  # the right eye to the nose, by 36°
    gaze, _ = read(seen(yaw=58, head=HEAD + guessed))
    assert gaze.right.confidence < 0.1 and abs(gaze.left.yaw) < 6
    gaze, _ = read(seen(head=HEAD + guessed))
    assert gaze.left.yaw - gaze.right.yaw > 20  # of a face that looks ahead both are believed


def test_the_direction_of_gaze_adds_the_head_s():
    gaze, _ = read(seen())
    assert np.allclose(gaze.both.direction, (0, 0, -1), atol=0.02)
    gaze, _ = read(seen(yaw=20))
    assert np.allclose(gaze.both.direction, (-math.sin(math.radians(20)), 0, -math.cos(math.radians(20))), atol=0.03)
    gaze, _ = read(seen(yaw=20, head=looking(12 * math.sin(math.radians(20)), 0)))  # the eyes stay on the lens
    assert np.allclose(gaze.both.direction, (0, 0, -1), atol=0.05)


def test_the_eye_on_the_far_side_of_the_head_is_trusted_less():
    to_their_right, _ = read(seen(yaw=35))  # the right eye goes round the head
    assert to_their_right.right.confidence < to_their_right.left.confidence - 0.1
    to_their_left, _ = read(seen(yaw=-35))
    assert to_their_left.left.confidence < to_their_left.right.confidence - 0.1


def test_a_shut_eye_looks_nowhere():
    gaze, measures = read(seen(head=shut_eye(right=True)))
    assert gaze.right is None and gaze.left is not None
    assert "eyeLookInRight" not in measures and "eyeLookInLeft" in measures
    assert gaze.both is gaze.left


# Blinks

TIMES = np.arange(150) / 30


def heights(*blinks: tuple[float, float, float]) -> np.ndarray:
    """Heights of eyes at TIMES; blinks of (time of the lowest, half width in s, lowest height)."""
    line = np.full(len(TIMES), 0.3)
    for time, width, lowest in blinks:
        dip = np.clip(1.5 - np.abs(TIMES - time) / width, 0, 1)
        line = np.minimum(line, 0.3 - (0.3 - lowest) * dip)
    return line


def test_blinks_have_a_time_a_length_and_a_depth():
    found = find_blinks(zip(TIMES, heights((1.0, 0.1, 0.18), (3.0, 0.2, 0.24)), strict=True))
    assert [blink.lowest_time for blink in found] == pytest.approx([1.0, 3.0], abs=0.1)
    assert [blink.time for blink in found] == pytest.approx([0.87, 2.73], abs=0.08)
    assert found[0].depth == pytest.approx(1) and found[1].depth == pytest.approx(0.5, abs=0.02)
    assert found[0].seconds < found[1].seconds < 0.7


def test_drift_noise_and_long_closing_are_no_blinks():
    rng = np.random.default_rng(0)
    drifting = np.linspace(0.35, 0.22, len(TIMES)) + rng.normal(0, 0.004, len(TIMES))
    assert find_blinks(zip(TIMES, drifting, strict=True)) == []
    shut = np.where((TIMES > 1) & (TIMES < 4), 0.17, 0.3)
    assert find_blinks(zip(TIMES, shut, strict=True)) == []
    assert find_blinks(zip(TIMES, np.full(len(TIMES), math.nan), strict=True)) == []


def test_frames_that_are_lost_do_not_lose_the_blink():
    kept = np.random.default_rng(1).random(len(TIMES)) > 0.3
    line = heights((1.0, 0.12, 0.17), (2.5, 0.12, 0.17), (4.0, 0.12, 0.17))
    assert len(find_blinks(zip(TIMES[kept], line[kept], strict=True))) == 3


def test_the_finder_works_as_heights_come():
    finder = BlinkFinder()
    told = [time for time, height in zip(TIMES, heights((1.0, 0.1, 0.18)), strict=True) if finder(time, height)]
    assert len(told) == 1 and 1.0 < told[0] < 1.3


# A real face


@pytest.fixture(scope="module")
def scenes():
    from tabrt.film.reading import open_film

    with Tracker() as tracker, open_film(CLIP) as film:
        return [tracker(frame) for frame in film if 5.95 < frame.time < 6.9]


def test_a_real_face_blinks_once_looks_ahead_and_hardly_turns(scenes):
    faces = [scene.faces[0] for scene in scenes]
    blinks = [face.measures.blink for face in faces if face.measures.blink]
    assert [blink.lowest_time for blink in blinks] == pytest.approx([6.42], abs=0.1)
    assert 0.5 < blinks[0].depth <= 1 and 0.1 < blinks[0].seconds < 0.4
    assert max(abs(face.pose.yaw) for face in faces) < 15
    assert 0.2 < faces[0].pose.translation[2] < 2 and faces[0].pose.guessed


def test_people_who_blink_do_not_nod():
    folder = SHARED / "blinks"
    if not folder.is_dir():
        pytest.skip("needs ../shared/blinks")
    name = "zju_23.mp4"
    marked = json.loads((folder / "blinks.json").read_text("utf-8"))[name]["blinks"]
    with Tracker(faces=1) as tracker:
        pitch = np.array([scene.faces[0].pose.pitch for scene in tracker.track(folder / name)])
    nods = [nod(pitch, *blink) for blink in marked if blink[0] > 8]
    assert len(nods) > 2 and np.mean(nods) < 1  # 1.4° where the corners of shut eyes are believed


def nod(pitch: np.ndarray, first: int, last: int) -> float:
    """Degrees of pitch by which frames first … last stand out of those around them, at most."""
    before, after = np.median(pitch[first - 8 : first - 2]), np.median(pitch[last + 3 : last + 9])
    within = pitch[first - 1 : last + 2]
    return float(np.abs(within - np.linspace(before, after, len(within))).max())


def test_what_is_asked_for_is_worked_out_once(scenes):
    face = scenes[0].faces[0]
    assert face.pose is face.pose and face.measures is face.measures and face.gaze is face.gaze


def test_a_face_of_which_nothing_more_is_known_has_no_pose(scenes):
    face = replace(scenes[0].faces[0], sight=None)
    assert face.pose is None and face.gaze is None and face.measures is None


def test_features_are_read_off_facing_points():
    values = dict(zip(FEATURES, features(HEAD[:, :2] / EYE_DISTANCE), strict=True))
    assert values["corner left x"] == pytest.approx(-values["corner right x"])
    assert values["gap"] > 0 and values["width"] > 0.4
