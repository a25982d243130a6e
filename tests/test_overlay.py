from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from tabrt.drawing.overlay import PALETTE, Boundaries, draw
from tabrt.faces import Face, Frame, Scene
from tabrt.geometry import Box, Crop
from tabrt.topology import COFW29, TOPOLOGIES, WFLW98


def grey(width: int = 400, height: int = 300, value: int = 90) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def face(
    centre: tuple[float, float] = (200, 160),
    size: float = 120,
    number: int = 1,
    confidence: float = 1.0,
    topology=WFLW98,
    maps: bool = False,
) -> Face:
    """A face whose points lie on ellipses, one inside the other."""
    angle = np.linspace(0.3, 2 * math.pi, topology.points)
    radius = size / 2 * np.where(np.arange(topology.points) < topology.points // 3, 1.0, 0.55)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius[:, None] + centre
    crop = Crop.following(points)
    boundaries = np.zeros((16, 64, 64), np.float32)
    boundaries[3, 30:34, 10:54] = 1
    sure = np.full(topology.points, confidence)
    return Face(number, points, points, sure, Box.of(points), crop, boundaries if maps else None)


def drawn(*faces: Face, image: np.ndarray | None = None, **options) -> tuple[np.ndarray, np.ndarray]:
    """The picture before and after."""
    before = grey() if image is None else image
    return before, draw(Scene(Frame(before), faces), options.pop("topology", WFLW98), **options)


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return np.abs(after.astype(int) - before).max(axis=2)


def test_the_frame_itself_is_left_alone():
    before, after = drawn(face())
    assert (before == 90).all()
    assert after.shape == before.shape and after.dtype == np.uint8
    assert not np.shares_memory(before, after)


def test_no_faces_no_change():
    before, after = drawn()
    assert np.array_equal(before, after)


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_every_point_is_marked_and_far_from_the_face_nothing(topology):
    one = face(topology=topology)
    before, after = drawn(one, topology=topology)
    difference = changed(before, after)
    for x, y in np.round(one.points).astype(int):
        assert difference[y - 1 : y + 2, x - 1 : x + 2].max() > 40
    assert difference[:, :100].max() == 0 and difference[:, 300:].max() == 0
    assert difference[260:].max() == 0


def test_boundaries_are_drawn_between_the_points():
    one = face(size=200)
    before, after = drawn(one)
    start, end = one.points[5], one.points[6]
    x, y = np.round((start + end) / 2).astype(int)
    assert changed(before, after)[y - 1 : y + 2, x - 1 : x + 2].max() > 40


def test_each_id_has_its_own_colour():
    pictures = [drawn(face(number=number))[1] for number in range(1, len(PALETTE) + 1)]
    for index, one in enumerate(pictures):
        for other in pictures[index + 1 :]:
            assert not np.array_equal(one, other)


def test_what_is_unsure_fades():
    strengths = [changed(*drawn(face(confidence=sure)))[100:].sum() for sure in (0.0, 0.4, 1.0)]
    assert 0 < strengths[0] < 0.6 * strengths[1] < 0.6 * strengths[2]


def test_lines_are_antialiased_and_move_with_a_fraction_of_a_pixel():
    _, after = drawn(face(), image=grey(value=0))
    assert len(np.unique(after[100:])) > 50
    _, moved = drawn(face(centre=(200.25, 160)), image=grey(value=0))
    assert not np.array_equal(after, moved)
    shift = [np.average(np.arange(400), weights=image[100:].sum(axis=(0, 2))) for image in (after, moved)]
    assert shift[1] - shift[0] == pytest.approx(0.25, abs=0.1)


def test_lines_grow_with_the_face():
    """The share of a face that ink covers stays about the same from 360p to 4K."""
    shares = []
    for scale in (1, 4):
        before, after = drawn(face((200 * scale, 160 * scale), 160 * scale), image=grey(400 * scale, 300 * scale))
        shares.append((changed(before, after)[70 * scale :] > 40).mean())
    assert shares[1] == pytest.approx(shares[0], rel=0.6)


@pytest.mark.parametrize("centre", [(0, 0), (400, 300), (-300, 150), (200, 1e7), (-1e9, -1e9)])
def test_faces_that_leave_the_frame(centre):
    _, after = drawn(face(centre=centre, maps=True), boundaries=True)
    assert after.shape == (300, 400, 3)
    drawn(face(centre=centre))


def test_points_that_are_no_numbers_are_left_out():
    broken = face()
    broken.points[3] = math.nan
    before, after = drawn(broken)
    assert np.array_equal(before, after)
    unsure = replace(face(), confidence=np.full(98, math.nan))
    assert changed(*drawn(unsure)).max() > 0


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (9, 9)])
def test_tiny_frames(size):
    image = grey(*size)
    _, after = drawn(face((size[0] / 2, size[1] / 2), 40, maps=True), image=image, boundaries=True)
    assert after.shape == image.shape


@pytest.mark.parametrize("size", [0.0, 1.0, 5000.0])
def test_faces_of_any_size(size):
    _, after = drawn(face(size=size, maps=True), boundaries=True)
    assert after.shape == (300, 400, 3)


def test_the_boundary_heatmaps_glow_where_the_network_saw_them():
    one = face(size=150, maps=True)
    before, plain = drawn(replace(one, boundaries=None), boundaries=True)
    _, glowing = drawn(one, boundaries=True)
    difference = changed(plain, glowing)
    on = one.crop.to_frame(np.array([32.0, 31.5]) * 4 + 1.5)
    off = one.crop.to_frame(np.array([32.0, 20.0]) * 4 + 1.5)
    x, y = np.round(on).astype(int)
    assert difference[y, x] > 60
    assert glowing[y, x, 2] > glowing[y, x, 0], "warm, not blue"
    x, y = np.round(off).astype(int)
    assert changed(before, glowing)[y, x] < 20


def test_the_glow_follows_a_rolled_crop():
    one = face(size=150, maps=True)
    turned = replace(one, crop=replace(one.crop, roll=math.pi / 2))
    before, after = drawn(turned, boundaries=True)
    along = turned.crop.to_frame(np.array([[12.0, 31.5], [50.0, 31.5]]) * 4 + 1.5)
    assert abs(along[0, 0] - along[1, 0]) < 1, "the band stands upright"
    for x, y in np.round(along).astype(int):
        assert changed(before, after)[y, x] > 40


def test_the_id_is_written_above_the_face():
    one = face(number=12)
    before, after = drawn(one)
    above = changed(before, after)[: int(one.points[:, 1].min()) - 8]
    columns = np.flatnonzero(above.max(axis=0))
    assert above.max() > 60
    assert abs(columns.mean() - 200) < 10


def test_many_faces_at_once():
    places = [(25 + 38 * column, 60 + 45 * row) for row in range(5) for column in range(10)]
    faces = [face(place, 30, number) for number, place in enumerate(places, start=1)]
    before, after = drawn(*faces)
    for x, y in places:
        assert changed(before, after)[y - 15 : y + 15, x - 15 : x + 15].max() > 60


def test_a_colour_picture_stays_a_colour_picture():
    image = cv2.applyColorMap(np.tile(np.arange(400, dtype=np.uint8), (300, 1)), cv2.COLORMAP_HSV)
    before, after = drawn(face(size=60, topology=COFW29), image=image, topology=COFW29)
    assert (changed(before, after) > 0).mean() < 0.1


def test_the_glow_lies_where_the_models_card_says_its_cells_are():
    """A model whose cell 0 lies at crop px 0 glows 1.5 crop px to the left and above."""
    seen = face(size=160, maps=True)
    scene = Scene(Frame(grey()), (seen,))
    shifted = {}
    for offset in (1.5, 0.0):
        image = grey()
        Boundaries(offset)(image, scene)
        weight = changed(grey(), image).astype(float)
        shifted[offset] = np.array(
            [(weight.sum(axis=axis) * np.arange(weight.shape[1 - axis])).sum() for axis in (0, 1)]
        )
        shifted[offset] /= weight.sum()
    scale = seen.crop.side / 256
    assert shifted[1.5] - shifted[0.0] == pytest.approx([1.5 * scale] * 2, abs=0.2 * scale)


def test_points_on_the_glow_have_a_dark_rim():
    one = face(size=150, maps=True)
    maps = np.ones_like(one.boundaries)
    _, after = drawn(replace(one, boundaries=maps), boundaries=True)
    x, y = np.round(one.points[8]).astype(int)
    around = after[y - 4 : y + 5, x - 4 : x + 5].max(axis=2)
    assert around.max() > 200 and around.min() < 100
