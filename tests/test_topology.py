"""Landmark schemes: mirrors are involutions, boundaries mirror onto boundaries, conversions agree with them."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_faces import drawn_points, real_faces

from tabrt.errors import TabrtError
from tabrt.topology import (
    BOUNDARIES,
    BOUNDARY_CHANNELS,
    BOUNDARY_MIRROR,
    IBUG68,
    INNER_51,
    TOPOLOGIES,
    WFLW98,
    to_68,
    topology_named,
)
from training.metrics import eye_distance, nme

COUNTS = {"wflw98": (98, 15), "300w68": (68, 13), "cofw29": (29, 13), "aflw19": (19, 5)}
every_scheme = pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)


@every_scheme
def test_counts(topology):
    assert (topology.points, len(topology.boundaries)) == COUNTS[topology.name]
    assert topology_named(topology.name) is topology
    assert all(0 <= i < topology.points for line in topology.boundaries.values() for i in line)


@every_scheme
def test_mirroring_twice_changes_nothing(topology):
    np.testing.assert_array_equal(topology.mirror[topology.mirror], np.arange(topology.points))
    flat = [i for pair in topology.mirror_pairs for i in pair]
    assert len(flat) == len(set(flat)) and all(a != b for a, b in topology.mirror_pairs)
    np.testing.assert_array_equal(BOUNDARY_MIRROR[BOUNDARY_MIRROR], np.arange(BOUNDARY_CHANNELS))


@every_scheme
def test_boundaries_mirror_onto_the_boundaries_of_the_table(topology):
    for name, line in topology.boundaries.items():
        other = topology.boundaries[BOUNDARIES[BOUNDARY_MIRROR[BOUNDARIES.index(name)]]]
        image = [int(topology.mirror[i]) for i in line]
        assert image in (list(other), list(other)[::-1]), name


@every_scheme
def test_eyes_and_mouth_mirror_onto_each_other(topology):
    assert {int(topology.mirror[i]) for i in topology.left_eye} == set(topology.right_eye)
    assert {int(topology.mirror[i]) for i in topology.mouth} == set(topology.mouth)


def test_the_conversion_takes_mirror_images_to_mirror_images():
    points = drawn_points() + np.random.default_rng(0).normal(0, 3, (98, 2))
    mirrored = points[WFLW98.mirror] * (-1, 1)
    np.testing.assert_allclose(to_68(mirrored), to_68(points)[IBUG68.mirror] * (-1, 1), atol=1e-6)


def test_the_conversion_by_hand():
    points = np.random.default_rng(0).uniform(0, 100, (3, 98, 2))
    found = to_68(points)
    assert found.shape == (3, 68, 2)
    np.testing.assert_array_equal(found[:, :17], points[:, 0:33:2])
    np.testing.assert_array_equal(found[:, 27:36], points[:, 51:60])
    np.testing.assert_array_equal(found[:, 48:], points[:, 76:96])
    np.testing.assert_array_equal(found[:, [36, 39, 42, 45]], points[:, [60, 64, 68, 72]])
    assert len(INNER_51) == 51 and INNER_51[0] == 17


def test_lid_points_lie_at_thirds_of_an_even_lid():
    points = np.zeros((98, 2))
    points[60:65] = np.stack([np.linspace(0, 12, 5), np.zeros(5)], axis=1)
    np.testing.assert_allclose(to_68(points)[36:40], [[0, 0], [4, 0], [8, 0], [12, 0]], atol=0.05)


def test_the_conversion_moves_and_scales_with_the_face():
    points = drawn_points()
    turn = np.array([[0.8, -0.6], [0.6, 0.8]]) * 3
    np.testing.assert_allclose(to_68(points @ turn.T + 50), to_68(points) @ turn.T + 50, atol=0.05)


def test_the_conversion_fits_human_labels(tmp_path):
    """On faces labelled with 68 points by hand and spread to 98, converting back gives the hand's points."""
    from training.sets import load_zip

    faces = real_faces(tmp_path)
    _, human = load_zip(tmp_path / "few.zip", tmp_path)
    assert nme(to_68(faces.points), human, eye_distance(human, IBUG68)).mean() < 0.01


def test_roll_is_the_angle_of_a_turned_face():
    points = drawn_points()
    plain = WFLW98.roll(points)
    for angle in (0.5, -1.2, 3.0):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turned = WFLW98.roll(points @ turn.T) - plain - angle
        assert abs((turned + np.pi) % (2 * np.pi) - np.pi) < 1e-6
    assert abs(plain) < 0.05


def test_an_unknown_scheme_is_named_with_those_there_are():
    with pytest.raises(TabrtError, match="wflw98, 300w68, cofw29, aflw19"):
        topology_named("wflw")
