"""Boxes and crops: pixels and points move together, and nothing is rounded."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tabrt.geometry import CROP_SIZE, Box, Crop

CROPS = [
    Crop((160.0, 120.0), 256.0),
    Crop((150.3, 121.7), 143.2, 0.4),
    Crop((170.9, 99.1), 611.5, -2.1),
    Crop((160.2, 130.8), 1400.0, 0.9),
]


@pytest.mark.parametrize("crop", CROPS)
def test_points_come_back_from_the_crop(crop):
    points = np.random.default_rng(0).uniform(-50, 400, (98, 2))
    np.testing.assert_allclose(crop.to_frame(crop.to_crop(points)), points, atol=1e-9)


def test_a_crop_of_its_own_size_is_the_picture_itself():
    image = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    crop = Crop((9 + 127.5, 20 + 127.5), 256.0)
    np.testing.assert_array_equal(crop.cut(image), image[20:276, 9:265, ::-1])
    np.testing.assert_allclose(crop.to_crop(np.array([[9.0, 20.0]])), [[0, 0]], atol=1e-9)


@pytest.mark.parametrize("crop", CROPS)
def test_pixels_land_where_points_say(crop):
    """A soft spot in a big picture is found again at its point in the crop, to a tenth of a pixel."""
    image = np.zeros((1500, 1500, 3), np.uint8)
    spot = crop.to_frame(np.array([[90.0, 160.0]]))[0] + 500
    reach = 4 * max(1.0, crop.side / CROP_SIZE)
    ys, xs = np.mgrid[:1500, :1500]
    image[:] = (255 * np.exp(-((xs - spot[0]) ** 2 + (ys - spot[1]) ** 2) / (2 * reach**2)))[..., None]
    moved = Crop((crop.centre[0] + 500, crop.centre[1] + 500), crop.side, crop.roll)
    cut = moved.cut(image)[..., 0].astype(float)
    cut[cut < 20] = 0
    ys, xs = np.mgrid[:CROP_SIZE, :CROP_SIZE]
    found = np.array([(cut * xs).sum(), (cut * ys).sum()]) / cut.sum()
    np.testing.assert_allclose(found, [90, 160], atol=0.1)


def test_large_faces_are_averaged_not_skipped():
    stripes = np.zeros((1024, 1024, 3), np.uint8)
    stripes[:, ::2] = 255
    cut = Crop((511.5, 511.5), 1024.0).cut(stripes)
    assert cut.min() > 120 and cut.max() < 135


def test_outside_the_frame_is_black():
    cut = Crop((0.0, 0.0), 256.0).cut(np.full((100, 100, 3), 200, np.uint8))
    assert not cut[:120].any() and (cut[130:220, 130:220] == 200).all()
    assert not Crop((-5000.0, 0.0), 900.0).cut(np.full((100, 100, 3), 200, np.uint8)).any()


def test_following_keeps_the_size_of_a_rolled_face():
    points = np.array([[0, 0], [100, 0], [0, 60], [100, 60]], float)
    turn = cv2.getRotationMatrix2D((0, 0), -30, 1)[:, :2]  # clockwise on the screen: positive
    upright, rolled = Crop.following(points), Crop.following(points @ turn.T, np.deg2rad(30))
    assert rolled.side == pytest.approx(upright.side) == 125
    np.testing.assert_allclose(rolled.to_crop(points @ turn.T), upright.to_crop(points), atol=1e-9)


def test_around_takes_the_longer_side_and_the_roll():
    crop = Crop.around(Box(10, 20, 50, 120, roll=0.3), 1.5)
    assert (crop.centre, crop.side, crop.roll) == ((30, 70), 150, 0.3)


def test_overlap_by_hand():
    box = Box(0, 0, 10, 10)
    assert box.overlap(Box(5, 0, 15, 10)) == pytest.approx(50 / 150)
    assert box.overlap(box) == 1 and box.overlap(Box(10, 0, 20, 10)) == 0 and box.overlap(Box(30, 30, 40, 40)) == 0
    assert Box.of(np.array([[3, 4], [1, 9], [2, 2]])) == Box(1, 2, 3, 9)


@pytest.mark.parametrize("size", [64, 192, 512])
def test_a_crop_of_another_size_shows_the_same_part(size: int):
    crop = Crop((210.5, 180.25), 160.0, 0.3, size=size)
    corners = np.array([[-0.5, -0.5], [size - 0.5, -0.5], [size - 0.5, size - 0.5]])
    usual = Crop((210.5, 180.25), 160.0, 0.3).to_frame(np.array([[-0.5, -0.5], [255.5, -0.5], [255.5, 255.5]]))
    np.testing.assert_allclose(crop.to_frame(corners), usual, atol=1e-9)
    np.testing.assert_allclose(crop.to_crop(crop.to_frame(corners)), corners, atol=1e-9)
    image = np.zeros((360, 420, 3), np.uint8)
    cv2.circle(image, (230, 170), 6, (255, 255, 255), -1)
    picture = crop.cut(image)
    assert picture.shape == (size, size, 3)
    found = np.argwhere(picture[..., 0] > 127).mean(axis=0)[::-1]
    np.testing.assert_allclose(found, crop.to_crop(np.array([230.0, 170.0])), atol=0.4)


@pytest.mark.parametrize("border", [cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE])
@pytest.mark.parametrize("centre", [(160.0, 120.0), (3.2, 236.7), (318.0, -4.0), (-90.0, -90.0)])
@pytest.mark.parametrize("roll", [0.0, 0.3, -2.4])
def test_a_crop_is_a_warp_of_the_whole_picture(centre: tuple[float, float], roll: float, border: int):
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    crop = Crop(centre, 150.0, roll, size=128)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    whole = cv2.warpAffine(image, crop._inverse, (128, 128), flags=flags, borderMode=border)
    assert (crop.cut(image, border=border) == whole[..., ::-1]).all()
    out = np.empty((2, 128, 128, 3), np.uint8)
    crop.cut(image, out[1], border)
    assert (out[1] == whole[..., ::-1]).all()
