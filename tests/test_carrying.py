"""Heads are carried along by what they show, to pictures in which nobody saw them; never past a cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tabrt.film import read_image
from tabrt.hiding.carrying import Carrying, Glance, carried
from tabrt.hiding.regions import Region
from tabrt.hiding.sightings import REACH, Heads, Moment

PORTRAIT = read_image(Path(__file__).parent / "data" / "astronaut.png")
HEAD = Region((220.0, 120.0), (70.0, 90.0))
STEP = 3  # px to the right, a frame


def picture(number: int) -> np.ndarray:
    """The portrait, moved on; another picture altogether below 0."""
    if number < 0:
        return np.random.default_rng(1).integers(0, 256, PORTRAIT.shape, np.uint8)
    return np.ascontiguousarray(np.roll(PORTRAIT, STEP * number, axis=1))


def moments(count: int, cut: int | None = None) -> list[Moment]:
    return [Moment(i, i / 25, shot=int(cut is not None and i >= cut)) for i in range(count)]


def carry(when: list[Moment], seen: int, shown: dict[int, int] | None = None) -> dict[int, Region]:
    """Where the head is carried that one frame saw. shown: other pictures than the moving portrait, by frame."""
    heads, carrying = Heads(), Carrying(REACH)
    for moment in when:
        if moment.number == seen:
            heads.tracked(1, moment, HEAD.moved(np.array([STEP * seen, 0])))
        carrying(picture((shown or {}).get(moment.number, moment.number)), moment, heads)
    return {number: region for head in heads for number, region in head.carried.items()}


def test_a_head_is_where_its_picture_moved_to():
    here, there = (Glance.at(picture(number), Moment(number, number / 25)) for number in (0, 2))
    region = carried(HEAD, here, there)
    assert region is not None
    assert region.centre == pytest.approx((HEAD.centre[0] + 2 * STEP, HEAD.centre[1]), abs=0.5)
    assert region.half == pytest.approx(HEAD.half, rel=0.02)
    assert carried(HEAD, here, Glance.at(picture(-1), Moment(1, 0.04))) is None


def test_it_is_carried_both_ways_from_where_it_was_seen():
    found = carry(moments(7), seen=3)
    assert sorted(found) == [0, 1, 2, 4, 5, 6]
    for number, region in found.items():
        assert region.centre[0] == pytest.approx(HEAD.centre[0] + STEP * number, abs=1.5)


def test_it_is_not_carried_past_a_cut():
    assert sorted(carry(moments(7, cut=3), seen=3)) == [4, 5, 6]
    assert sorted(carry(moments(7, cut=4), seen=3)) == [0, 1, 2]


def test_it_is_carried_only_as_long_as_what_it_showed_is_found_again():
    assert sorted(carry(moments(7), seen=3, shown={1: -1, 5: -1})) == [2, 4]
