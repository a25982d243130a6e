"""What spoils a face: each effect does what its name says, and the same twice."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from synthetic_faces import draw, drawn_faces, drawn_points

from tabrt.geometry import CROP_SIZE, Crop
from tabrt.topology import WFLW98
from training import effects
from training.augment import HARD, Augmentation, training_crop
from training.batches import Crops

CROP = Crop((160.0, 170.0), 300.0)
PIXELS, POINTS = CROP.cut(draw(drawn_points())), CROP.to_crop(drawn_points())
OTHER = np.full((320, 320, 3), (255, 0, 0), np.uint8)  # blue
EFFECTS = {
    "single hue": effects._single_hue,
    "posterised": effects._posterised,
    "stage": effects._stage,
    "dim": effects._dim,
    "noise": effects.noisy,
    "distance": effects.far_away,
    "motion": effects.moving,
    "hand": lambda pixels, rng: effects.hand(pixels, POINTS, rng),
    "stranger": lambda pixels, rng: effects.stranger(pixels, OTHER, rng),
    "sunglasses": lambda pixels, rng: effects.sunglasses(pixels, POINTS, WFLW98, rng),
}


@pytest.mark.parametrize("name", EFFECTS)
def test_an_effect_changes_the_picture_the_same_way_twice(name):
    for seed in range(8):
        before = PIXELS.copy()
        out, again = (EFFECTS[name](PIXELS, np.random.default_rng(seed)) for _ in range(2))
        assert out.shape == PIXELS.shape and out.dtype == np.uint8
        np.testing.assert_array_equal(out, again)
        np.testing.assert_array_equal(PIXELS, before)
        assert (out != PIXELS).any()


def detail(pixels: np.ndarray) -> float:
    return float(cv2.Laplacian(pixels, cv2.CV_32F).std())


def test_light_noise_and_distance_do_what_they_say():
    rng = np.random.default_rng(0)
    posterised = [effects._posterised(PIXELS, rng) for _ in range(5)]
    assert all(len(np.unique(p.reshape(-1, 3)[:, 0])) <= 8 for p in posterised)
    assert effects._dim(PIXELS, rng).mean() < 0.5 * PIXELS.mean()
    hue = cv2.cvtColor(effects._single_hue(PIXELS, rng), cv2.COLOR_RGB2HSV)[..., 1]
    assert np.median(hue) > 80
    assert np.abs(effects.noisy(PIXELS, rng).astype(int) - PIXELS).mean() > 4
    # The median, for some are enlarged into squares with sharp edges.
    assert np.median([detail(effects.far_away(PIXELS, rng)) for _ in range(9)]) < 0.6 * detail(PIXELS)
    assert all(detail(effects.moving(PIXELS, rng)) < 0.8 * detail(PIXELS) for _ in range(5))


def test_a_sheet_covers_about_half_of_the_face():
    shares = []
    for seed in range(40):
        out = effects.sheet(PIXELS, POINTS, np.random.default_rng(seed))
        x, y = np.round(POINTS).astype(int).clip(0, CROP_SIZE - 1).T
        shares.append((out[y, x] != PIXELS[y, x]).any(axis=1).mean())
    assert 0.3 < np.mean(shares) < 0.65 and min(shares) < max(shares)
    assert effects.sheet(PIXELS, np.full_like(POINTS, np.nan), np.random.default_rng(0)).shape == PIXELS.shape


def test_sunglasses_darken_the_eyes_alone_and_need_both():
    out = effects.sunglasses(PIXELS, POINTS, WFLW98, np.random.default_rng(1))
    for point in (60, 64, 68, 72):
        x, y = np.round(POINTS[point]).astype(int)
        assert (out[y, x] != PIXELS[y, x]).any()
    mouth = np.round(POINTS[76:88]).astype(int)
    np.testing.assert_array_equal(out[mouth[:, 1], mouth[:, 0]], PIXELS[mouth[:, 1], mouth[:, 0]])
    half = POINTS.copy()
    half[68:76] = np.nan
    assert effects.sunglasses(PIXELS, half, WFLW98, np.random.default_rng(1)) is PIXELS


def test_the_hard_preset_turns_heads_upside_down_and_bears_missing_points():
    face = drawn_faces(1)
    points = face.points[0].copy()
    points[:16], points[60:68] = np.nan, np.nan
    down = 0
    for seed in range(60):
        pixels, moved = training_crop(face.read(0), points, WFLW98, HARD, np.random.default_rng(seed))
        assert pixels.shape == (CROP_SIZE, CROP_SIZE, 3) and np.isnan(moved).any(axis=1).sum() == 24
        down += moved[16, 1] < moved[72, 1]
    assert 1 <= down <= 15


def test_a_stranger_covers_only_where_it_is_asked_for():
    faces = drawn_faces(4)
    still = Augmentation(flip=0, rotate=0, scale=0, cover=0, brightness=0)
    plain, covered = (
        Crops({"a": faces}, dataclasses.replace(still, strangers=share))["a", 0, 5][0] for share in (0.0, 1.0)
    )
    assert 0.05 < (plain != covered).any(axis=2).mean() < 0.7
