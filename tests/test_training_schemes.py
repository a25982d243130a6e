"""Labels of 68, 29 and 19 points as teachers of 98."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from synthetic_faces import drawn_faces, drawn_points

from tabrt.card import ModelCard
from tabrt.heatmaps import render_logits
from tabrt.topology import AFLW19, COFW29, IBUG68, WFLW98, to_68
from training.augment import truth_crop
from training.relabel import _views
from training.schemes import SCHEMES, exact_points, nearest_on, smooth, taught, teaches


def by_68(count: int = 2):
    faces = drawn_faces(count)
    return dataclasses.replace(faces, topology=IBUG68, points=to_68(faces.points)), faces.points


class Off:
    """A network that says the true 98 points, shifted, of faces seen one after another; of some it is unsure."""

    def __init__(self, faces, truth, shift, unsure=()):
        self.card, self.faces, self.truth, self.next = ModelCard(name="off"), faces, truth + np.asarray(shift), 0
        self.unsure = list(unsure)

    def __call__(self, crops):
        i, self.next = self.next, self.next + 1
        views = [crop.to_crop(self.truth[i]) for crop in _views(truth_crop(self.faces.points[i]))]
        mirrored = [view[WFLW98.mirror] * (-1, 1) + (255, 0) for view in views]
        maps = render_logits(np.stack(views + mirrored))
        both = [*self.unsure, *WFLW98.mirror[self.unsure].tolist()]
        maps[:, both] /= 60
        return maps


@pytest.mark.parametrize("topology", SCHEMES)
def test_exact_points_are_a_mirror_image_of_themselves(topology):
    """Each correspondence has its mirror image, so that a flip teaches the same."""
    exact = SCHEMES[topology].exact
    assert {int(WFLW98.mirror[a]): int(topology.mirror[b]) for a, b in exact.items()} == exact


def test_68_points_teach_98():
    faces, truth = by_68()
    assert teaches(faces, WFLW98) and not teaches(drawn_faces(1), IBUG68)
    out = taught(faces, Off(faces, truth, (3.0, 1.0), unsure=[96]), say=str).points
    exact = SCHEMES[IBUG68].exact
    np.testing.assert_array_equal(out[:, list(exact)], faces.points[:, list(exact.values())])
    assert np.isnan(out[:, [96, 97]]).all()  # of which the network was not sure, nor of its mirror image
    np.testing.assert_allclose(out[:, 40], truth[:, 40] + (3, 1), atol=0.3)  # not marked: the network's
    # On a curve: slid along it at most, whatever the network says; between its neighbours on the jaw.
    away = np.linalg.norm(out[:, 1:32:2] - truth[:, 1:32:2], axis=2)
    off = np.array([[np.linalg.norm(nearest_on(smooth(f[:17]), p) - p) for p in o[1:32:2]]
                    for f, o in zip(faces.points, out, strict=True)])  # fmt: skip
    assert off.max() < 1.0 and away.max() < 4.5
    lids = [61, 62, 63, 69, 70, 71]
    assert np.abs(out[:, lids, 1] - truth[:, lids, 1]).max() < 3


def test_without_a_network_only_what_is_marked_is_known():
    faces, _ = by_68()
    out = taught(faces)
    assert out.topology is WFLW98
    np.testing.assert_array_equal(
        np.isfinite(out.points).all(axis=(0, 2)), np.isin(np.arange(98), list(SCHEMES[IBUG68].exact))
    )


def test_29_and_19_points_keep_their_names():
    for topology in (COFW29, AFLW19):
        faces = drawn_faces(1)
        points = np.full((1, topology.points, 2), np.nan, np.float32)
        exact = SCHEMES[topology].exact
        points[:, list(exact.values())] = faces.points[:, list(exact)]
        out = exact_points(dataclasses.replace(faces, topology=topology, points=points))
        np.testing.assert_array_equal(out.points[:, list(exact)], faces.points[:, list(exact)])
    # Where they lie in the picture: eyes, corners of the mouth, chin.
    corner, chin = drawn_points()[82], drawn_points()[16]
    assert corner[0] > 180 and chin[1] > 250 and SCHEMES[COFW29].exact[82] == 23 and SCHEMES[AFLW19].exact[16] == 18


def test_a_curve_and_its_nearest_place():
    angles = np.linspace(0, np.pi, 7)
    arc = 100 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    curve = smooth(arc)
    assert np.abs(np.linalg.norm(curve, axis=1) - 100).max() < 1.5  # the polyline would be 3.4 off
    found = nearest_on(curve, np.array([30.0, 40.0]))
    assert abs(np.linalg.norm(found) - 100) < 1 and found @ [3, 4] / 500 == pytest.approx(1, abs=0.01)
    assert np.isnan(nearest_on(curve * np.nan, np.array([0.0, 0.0]))).all()
