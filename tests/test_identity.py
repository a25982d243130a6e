"""Ids of real faces that cross, hide, leave and come back, through the shipped detector and network."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import CLIP
from non_faces import NON_FACES

from tabrt.faces import Frame, Scene
from tabrt.film.reading import open_film
from tabrt.geometry import Box, Crop
from tabrt.topology import WFLW98
from tabrt.tracking.cuts import Change
from tabrt.tracking.identities import Identities, Track
from tabrt.tracking.looking import Look
from tabrt.tracking.smoothing import Smoother
from tabrt.tracking.tracker import Tracker

PORTRAIT = Path(__file__).parent / "data" / "astronaut.png"
SIZE = (640, 360)  # px, width and height of the stage
SIDE = 150  # px of a sprite, of which the face is about half
RATE = 30  # frames a second

Place = tuple[str, float, float]  # what stands where: its name and its centre in px; later ones stand before earlier


@pytest.fixture(scope="module")
def sprites() -> dict[str, np.ndarray]:
    """Two real heads, and a grey board to hide behind."""
    portrait = cv2.imread(str(PORTRAIT))
    with open_film(CLIP) as film:
        still = next(iter(film)).image
    heads = {}
    with Tracker(faces=1) as tracker:
        for index, (name, image) in enumerate({"woman": portrait, "other": still}.items()):
            tracker.reset()
            box = tracker(Frame(image, index, index / RATE)).faces[0].box
            x, y = box.centre
            scale = SIDE / (1.9 * max(box.width, box.height))
            map_to = np.array([[scale, 0, SIDE / 2 - scale * x], [0, scale, SIDE / 2 - scale * y]])
            heads[name] = cv2.warpAffine(
                image, map_to, (SIDE, SIDE), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE
            )
    return {**heads, "board": np.full((int(1.3 * SIDE), int(1.3 * SIDE), 3), 120, np.uint8)}


def picture(sprites: dict[str, np.ndarray], places: list[Place]) -> np.ndarray:
    image = np.full((SIZE[1], SIZE[0], 3), (90, 110, 100), np.uint8)
    image += np.random.default_rng(0).integers(0, 12, image.shape, np.uint8)
    return put(image, sprites, places)


def room(number: int, shift: int = 0) -> np.ndarray:
    """A background with large and small shapes, another for each number, `shift` px further to the left."""
    coarse, fine = (np.random.default_rng(number).integers(0, 120, (size, 3 * size, 3), np.uint8) for size in (5, 40))
    wide = (3 * SIZE[0], SIZE[1])
    image = sum(cv2.resize(grid, wide, interpolation=cv2.INTER_CUBIC) for grid in (coarse, fine))
    return np.ascontiguousarray(image[:, shift : shift + SIZE[0]])


def put(image: np.ndarray, sprites: dict[str, np.ndarray], places: list[Place]) -> np.ndarray:
    for name, x, y in places:
        sprite = sprites[name]
        height, width = sprite.shape[:2]
        shift = np.array([[1, 0, x - width / 2], [0, 1, y - height / 2]])
        cv2.warpAffine(sprite, shift, SIZE, dst=image, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT)
    return image


@pytest.fixture
def show() -> Iterator[Callable[[np.ndarray], Scene]]:
    """The scenes of pictures, one after the other."""
    count = itertools.count()
    with Tracker(faces=4) as tracker:
        yield lambda image: tracker(Frame(image, index := next(count), index / RATE))


@pytest.fixture
def play(sprites, show) -> Callable[[float, Callable[[float], list[Place]]], list[Scene]]:
    """Go on for some seconds with what stands where at each time from 0 … 1 of them; the scenes that come of it."""

    def go_on(seconds: float, stage: Callable[[float], list[Place]]) -> list[Scene]:
        count = round(seconds * RATE)
        return [show(picture(sprites, stage(index / count))) for index in range(count)]

    return go_on


def ids(scene: Scene) -> set[int]:
    return {face.id for face in scene.faces}


def id_at(scene: Scene, x: float) -> int | None:
    """The id of the face within half a sprite of x."""
    near = [face.id for face in scene.faces if abs(face.box.centre[0] - x) < SIDE / 2]
    return near[0] if len(near) == 1 else None


@pytest.mark.parametrize("front", ["woman", "other"])
@pytest.mark.parametrize("seconds", [1.5, pytest.param(4.0, marks=pytest.mark.slow)])
def test_two_faces_that_cross_keep_their_ids(play, front, seconds):
    def stage(t: float) -> list[Place]:
        places = [("woman", 120 + 400 * t, 180), ("other", 520 - 400 * t, 180)]
        return places if front == "other" else places[::-1]

    before = play(1, lambda t: stage(0))[-1]
    crossing = play(seconds, stage)
    after = play(1, lambda t: stage(1))[-1]
    woman, other = id_at(before, 120), id_at(before, 520)
    assert None not in (woman, other)
    assert (id_at(after, 520), id_at(after, 120)) == (woman, other)
    for index, scene in enumerate(crossing):
        t = index / len(crossing)
        if abs(t - 0.5) > 0.25:  # well apart
            assert id_at(scene, 120 + 400 * t) in (woman, None)
            assert id_at(scene, 520 - 400 * t) in (other, None)
    assert set.union(*map(ids, crossing)) == {woman, other}


def test_a_face_hidden_for_a_second_keeps_its_id_and_leaves_no_ghost(play):
    before = play(0.7, lambda t: [("woman", 200, 180), ("other", 480, 180)])[-1]
    hidden = play(1, lambda t: [("woman", 200, 180), ("other", 480, 180), ("board", 200, 180)])
    after = play(0.7, lambda t: [("woman", 200, 180), ("other", 480, 180)])[-1]
    woman, other = id_at(before, 200), id_at(before, 480)
    assert all(ids(scene) == {other} for scene in hidden)
    assert (id_at(after, 200), id_at(after, 480)) == (woman, other)


def test_a_face_that_walks_behind_a_pillar_keeps_its_id(play):
    def stage(t: float) -> list[Place]:
        return [("woman", 100 + 440 * t, 180), ("board", 320, 180)]

    scenes = play(2.5, stage)
    assert id_at(scenes[3], 100 + 440 * 3 / len(scenes)) == id_at(scenes[-1], 540) == 1
    middle = scenes[len(scenes) // 2]
    assert middle.faces == ()  # right behind it


def test_a_face_that_is_gone_is_dropped_at_once_and_one_that_comes_late_is_new(play):
    assert ids(play(0.5, lambda t: [("woman", 320, 180)])[-1]) == {1}
    assert not any(scene.faces for scene in play(3, lambda t: []))
    assert ids(play(0.7, lambda t: [("woman", 320, 180)])[-1]) == {2}


def test_a_face_that_appears_elsewhere_is_another(play):
    play(0.5, lambda t: [("woman", 120, 180)])
    play(0.3, lambda t: [])
    assert ids(play(0.7, lambda t: [("other", 520, 180)])[-1]) == {2}


def test_who_stays_keeps_the_id_when_others_come_and_go(play):
    play(0.7, lambda t: [("woman", 140, 180)])
    both = play(1.2, lambda t: [("woman", 140, 180), ("other", 480, 180)])
    left = play(1.5, lambda t: [("other", 480, 180), ("woman", 140 - 330 * t, 180)])  # walks out of the picture
    back = play(1.0, lambda t: [("other", 480, 180)])
    assert (id_at(both[-1], 140), id_at(both[-1], 480)) == (1, 2)
    assert all(2 in ids(scene) for scene in left)
    assert ids(back[-1]) == {2}


def test_after_a_cut_another_face_in_the_same_place_has_another_id(sprites, show):
    before = [show(put(room(1), sprites, [("woman", 320, 180)])) for _ in range(8)]
    after = [show(put(room(2), sprites, [("other", 330, 185)])) for _ in range(8)]
    assert ids(before[-1]) == {1}
    assert all(ids(scene) == {2} for scene in after)


@pytest.mark.parametrize("between", [0, 255], ids=["black", "white"])
def test_a_moment_of_nothing_is_no_cut_unless_what_follows_is_new(sprites, show, between: int):
    nothing = np.full((SIZE[1], SIZE[0], 3), between, np.uint8)
    for number, name, expected in ((1, "woman", {1}), (1, "woman", {1}), (2, "other", {2})):
        scenes = [show(put(room(number), sprites, [(name, 320, 180)])) for _ in range(8)]
        assert ids(scenes[-1]) == expected
        assert show(nothing).faces == ()


def test_another_light_and_a_turning_camera_are_no_cuts(sprites, show):
    for light in (1.0, 0.5, 1.2, 0.6):
        image = cv2.convertScaleAbs(put(room(1), sprites, [("woman", 320, 180)]), alpha=light)
        assert all(ids(show(image)) == {1} for _ in range(4))
    for shift in range(0, 600, 25):  # follows her: the background runs away
        assert ids(show(put(room(1, shift), sprites, [("woman", 320, 180)]))) == {1}


def test_half_a_picture_that_goes_black_and_comes_back_ends_no_other_id(sprites, show):
    """A video call: two cameras side by side, and one of them is switched off for a while."""
    whole = room(1)
    whole[:, SIZE[0] // 2 :] = room(2)[:, SIZE[0] // 2 :] // 2 + 120
    both = put(whole, sprites, [("woman", 160, 180), ("other", 480, 180)])
    half = both.copy()
    half[:, SIZE[0] // 2 :] = 0
    scenes = [show(both) for _ in range(10)]
    woman, other = id_at(scenes[-1], 160), id_at(scenes[-1], 480)
    for picture_, seconds in ((half, 3.0), (both, 0.7), (half, 0.5), (both, 0.7)):
        scenes += [show(picture_) for _ in range(round(seconds * RATE))]
        assert id_at(scenes[-1], 160) == woman
    assert all(id_at(scene, 160) == woman for scene in scenes)
    assert None not in (woman, other)


def test_a_cut_back_and_forth_is_told_by_what_the_faces_show(sprites, show):
    one, two = put(room(1), sprites, [("woman", 320, 180)]), put(room(2), sprites, [("other", 320, 180)])
    found = [ids(show(image)) for image in (one, two, one, two) for _ in range(8)]
    assert all(found)
    assert not found[7] & found[15]  # two people are never one


@pytest.mark.parametrize("name", NON_FACES)
def test_what_is_drawn_like_a_face_is_none(name: str):
    with Tracker() as tracker:
        scenes = [tracker(Frame(NON_FACES[name](index), index, index / RATE)) for index in range(24)]
    assert not any(scene.faces for scene in scenes[4:])  # the first frames may be a still, and are doubtful


def test_a_doubtful_face_is_drawn_once_network_and_detector_agree(sprites):
    """A blurred, dim head: found, but not sure."""
    portrait = cv2.resize(cv2.imread(str(PORTRAIT)), None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    dim = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
    dim[20 : 20 + portrait.shape[0], 150 : 150 + portrait.shape[1]] = portrait[:340]
    dim = cv2.GaussianBlur(dim, (0, 0), 3.25) // 4  # sums of 0.79 to 0.84, between the two limits
    with Tracker() as tracker:
        empty = [tracker(Frame(picture(sprites, []), index, index / RATE)) for index in range(20)]
        scenes = [tracker(Frame(dim, index, index / RATE)) for index in range(20, 50)]
    assert not any(scene.faces for scene in empty)
    first = next(index for index, scene in enumerate(scenes) if scene.faces)
    assert 3 <= first < 20
    assert all(ids(scene) == {1} for scene in scenes[first:])


@pytest.mark.parametrize("degrees", [60, 90, 120, 150, 180, 210, 240, 270, 300])
def test_a_still_is_read_all_round(degrees: int):
    portrait = cv2.imread(str(PORTRAIT))
    centre, (height, width) = (222.0, 130.0), portrait.shape[:2]
    matrix = cv2.getRotationMatrix2D(centre, degrees, 1.0)
    matrix[:, 2] += np.array([width, height]) / 2 - centre
    turned = cv2.warpAffine(portrait, matrix, (width, height), borderValue=(90, 90, 90))
    with Tracker(engine="onnxruntime", threads=1) as tracker:
        (face,) = tracker.still(portrait).faces
        (there,) = tracker.still(turned).faces
    expected = face.raw @ matrix[:, :2].T + matrix[:, 2]
    error = np.linalg.norm(there.raw - expected, axis=1).mean() / face.box.width
    assert error < 0.03


@pytest.mark.parametrize("margin", [1.6, 1.7])  # of the picture's side over the face's
@pytest.mark.parametrize("size", [96, 160])
def test_a_still_that_a_face_fills_is_read_upside_down(margin: float, size: int):
    """A detector sees another face there: the same eyes, and a mouth on the forehead."""
    image = cv2.imread(str(PORTRAIT.parent / "face.webp"))
    with Tracker(engine="onnxruntime", threads=1) as tracker:
        (face,) = tracker.still(image).faces
        (x, y), scale = face.box.centre, size / (margin * max(face.box.width, face.box.height))
        matrix = np.array([[-scale, 0, size / 2 + scale * x], [0, -scale, size / 2 + scale * y]])
        (there,) = tracker.still(cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_AREA)).faces
    expected = face.raw @ matrix[:, :2].T + matrix[:, 2]
    error = np.linalg.norm(there.raw - expected, axis=1).mean() / (scale * face.box.width)
    assert error < 0.05


def test_all_of_a_group_that_hangs_upside_down_are_found(sprites: dict[str, np.ndarray]):
    """Some the detector sees as they are, others only in the picture turned."""
    group = picture(sprites, [("woman", 180, 180), ("other", 460, 180)])[::-1, ::-1]
    boxes = [Box(x - 40, 140, x + 40, 220, 0.9, np.pi) for x in (180, 460)]

    class SeesOneAsItIs:
        def __call__(self, image: np.ndarray, limit: int, thorough: bool = True) -> list[Box]:
            return boxes[:1]

        def turned(self, image: np.ndarray, limit: int, thorough: bool = True) -> list[Box]:
            return boxes

    with Tracker(detector=SeesOneAsItIs()) as tracker:
        assert len(tracker.still(group).faces) == 2


def test_a_film_that_hangs_upside_down_has_right_points_or_none():
    """From the first frame in which there are points."""
    with open_film(CLIP) as film, Tracker() as tracker:
        frames = [frame.image for frame in itertools.islice(film, 12)]
        upright = [tracker(Frame(image, index, index / RATE)).faces[0].raw for index, image in enumerate(frames)]
        tracker.reset()
        scenes = [tracker(Frame(image[::-1, ::-1], index, index / RATE)) for index, image in enumerate(frames)]
    last = np.array(frames[0].shape[1::-1]) - 1
    assert scenes[-1].faces
    for points, scene in zip(upright, scenes, strict=True):
        for face in scene.faces:
            error = np.linalg.norm(last - face.raw - points, axis=1).mean() / face.box.width
            assert error < 0.05


@pytest.mark.parametrize("surer", [0, 1])
@pytest.mark.parametrize("apart, faces", [(0.0, 1), (0.5, 2)])  # the same eyes; two heads, forehead to forehead
def test_of_two_readings_of_one_face_the_one_upside_down_goes(surer: int, apart: float, faces: int):
    with Tracker() as tracker:
        (face,) = tracker.still(cv2.imread(str(PORTRAIT))).faces
    eyes = face.raw[60:76].mean(axis=0) - (0, apart * face.box.height)
    points = face.raw, 2 * eyes - face.raw
    identities = Identities()
    for number, (each, roll) in enumerate(zip(points, (0.0, np.pi), strict=True)):
        confidence = np.full(98, 0.7 if number == surer else 0.6, np.float32)
        crop = Crop(tuple(each.mean(axis=0)), 1.5 * face.box.width, roll)
        look = Look(crop, each, confidence, roll, np.zeros((32, 32, 3), np.uint8))
        track = Track(look, 0.0, Smoother(0.7, WFLW98))
        identities.believe(track)
        identities.tracks.append(track)
    identities.follow([track.look for track in identities.tracks], Change.NONE, 1 / RATE)
    assert len(identities.believed) == faces
    assert surer + 1 in {track.id for track in identities.believed}
