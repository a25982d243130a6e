"""Faces turned by a mesh, on a drawn face with a mesh that bulges as a head does."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from synthetic_faces import Pictures, draw, drawn_points

from tabrt.errors import TabrtError
from tabrt.topology import WFLW98
from training import turned
from training.sets import FaceSet, load_zip, photo_of, turned_from_held_out
from training.turned import load_meshes, make_turned, plan_turns
from training.turning import Shape, turn, yaw_of

CENTRE, RADII = np.array([160.0, 165.0]), np.array([100.0, 110.0])


def bulging_mesh() -> tuple[np.ndarray, Shape]:
    """478 vertices on 13 rings around the middle of the face, nearest there; the outermost is the oval."""
    angles = np.arange(36) * np.pi / 18
    rings = np.concatenate([np.full(36, (r + 0.5) / 12.5) for r in range(13)])
    around = np.tile(angles, 13)
    x, y = (CENTRE[:, None] + RADII[:, None] * rings * [np.cos(around), np.sin(around)])[:2]
    z = -70 * np.sqrt(np.maximum(1 - rings**2, 0))
    mesh = np.concatenate([np.stack([x, y, z], axis=1), np.tile([*CENTRE, -70], (10, 1))])
    inner = np.arange(12)[:, None] * 36 + np.arange(36)
    ahead = np.arange(12)[:, None] * 36 + (np.arange(36) + 1) % 36
    triangles = np.concatenate(
        [np.stack([inner, inner + 36, ahead + 36], axis=-1), np.stack([inner, ahead + 36, ahead], axis=-1)]
    ).reshape(-1, 3)
    middle = np.stack([np.full(36, 470), np.arange(36), (np.arange(36) + 1) % 36], axis=1)
    order = np.arange(478)
    for place, wanted in ((234, 432 + 18), (454, 432)):  # the vertices at the ears
        order[[np.flatnonzero(order == wanted)[0], place]] = order[place], wanted
    named = np.argsort(order)
    triangles = named[np.concatenate([triangles, middle])]
    return mesh[order], Shape(triangles, len(triangles), named[432 + np.arange(36)])


MESH, SHAPE = bulging_mesh()
POINTS = drawn_points()


def test_a_face_turned_to_where_it_looks_stays_as_it_is():
    image = draw(POINTS)
    picture, points = turn(image, MESH, POINTS, SHAPE, yaw_of(MESH), 0.0)
    np.testing.assert_allclose(points, POINTS, atol=0.01)
    assert np.abs(picture.astype(int) - image).mean() < 1


@pytest.mark.parametrize("yaw", [35.0, 60.0, -75.0])
def test_a_point_that_stays_in_sight_lies_where_its_pixels_went(yaw):
    near = 60 if yaw > 0 else 72  # the outer corner of the near eye
    image = np.zeros((320, 320, 3), np.uint8)
    cv2.circle(image, np.round(POINTS[near]).astype(int).tolist(), 4, (255, 255, 255), -1)
    picture, points = turn(image, MESH, POINTS, SHAPE, yaw, 5.0)
    y, x = np.nonzero(picture[..., 0] > 100)
    assert np.hypot(x.mean() - points[near, 0], y.mean() - points[near, 1]) < 2
    assert np.hypot(*(points[near] - POINTS[near])) > 10


def test_in_a_profile_the_far_jaw_is_a_line_to_the_far_eye_and_the_far_eye_lies_at_the_outline():
    white = np.full((320, 320, 3), 255, np.uint8)
    _, points = turn(white, MESH, POINTS, SHAPE, 80.0, 0.0)
    chin, corner = points[16], points[72]
    np.testing.assert_allclose(points[32], corner, atol=1e-3)
    across = np.cross(np.append(corner - chin, 0), np.column_stack([points[17:32] - chin, np.zeros(15)]))[:, 2]
    assert np.abs(across).max() / np.hypot(*(corner - chin)) < 0.1
    assert (np.diff(points[16:33, 1]) < 0).all()  # it climbs
    near, far = np.ptp(points[60:68, 0]), np.ptp(points[68:76, 0])
    assert far < near / 2
    assert points[72, 0] > points[51:55, 0].max() - 12  # in front, not behind the head


def test_a_half_profiles_far_jaw_is_no_such_line():
    _, points = turn(draw(POINTS), MESH, POINTS, SHAPE, 40.0, 0.0)
    line = points[16] + np.linspace(0, 1, 17)[:, None] * (points[32] - points[16])
    assert np.abs(points[24] - line[8]).max() > 8


def test_turns_to_the_left_and_to_the_right_are_mirror_images():
    mesh = MESH * (-1, 1, 1) + (319, 0, 0)
    mesh[[234, 454]] = mesh[[454, 234]]
    triangles, oval = SHAPE.triangles.copy(), SHAPE.oval.copy()
    for indices in (triangles, oval):
        a, b = indices == 234, indices == 454
        indices[a], indices[b] = 454, 234
    points = POINTS[WFLW98.mirror] * (-1, 1) + (319, 0)
    _, right = turn(draw(POINTS), MESH, POINTS, SHAPE, 62.0, 4.0)
    _, left = turn(draw(points), mesh, points, Shape(triangles, SHAPE.surface, oval), -62.0, 4.0)
    np.testing.assert_allclose(left[WFLW98.mirror] * (-1, 1) + (319, 0), right, atol=1.6)


# The set


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Thirty faces of each set, of 352 px, and their meshes."""
    side = np.pad(draw(POINTS), ((16, 16), (16, 16), (0, 0)))
    sets = {}
    for name in turned._MESHED:
        names = np.array([f"{name}_image_{i:04}.webp" for i in range(30)])
        points = np.tile(POINTS + 16, (30, 1, 1)).astype(np.float32)
        sets[name] = FaceSet(name, WFLW98, names, points, Pictures(np.broadcast_to(side, (30, 352, 352, 3))))
    meshes = {name: np.tile(MESH + np.array([16, 16, 0]), (30, 1, 1)) for name in sets}
    meshes["human"][3] = np.nan
    monkeypatch.setattr(turned, "fits", lambda mesh, points: np.isfinite(mesh).all(axis=(1, 2)))
    monkeypatch.setattr(turned, "load_zip", lambda path, cache: (sets[path.stem], None))
    monkeypatch.setattr(turned, "load_meshes", lambda path: (meshes, SHAPE))
    monkeypatch.setattr(turned, "_BLOCK", 6)
    return sets, meshes


def test_a_stopped_run_goes_on_and_gives_the_set_of_one_that_was_not(small, tmp_path, monkeypatch):
    write, made = turned._write_part, []

    def counted(path, *rest):
        if len(made) == 2:
            made.append("stopped")
            raise KeyboardInterrupt
        made.append(path.name)
        write(path, *rest)

    whole = load_zip(make_turned(tmp_path, tmp_path / "whole", 20, say=str), tmp_path / "whole")[0]
    monkeypatch.setattr(turned, "_write_part", counted)
    with pytest.raises(KeyboardInterrupt):
        make_turned(tmp_path, tmp_path / "halves", 20, say=str)
    told = []
    path = make_turned(tmp_path, tmp_path / "halves", 20, say=told.append)
    assert len(set(made)) == len(made)  # nothing was made twice
    assert told[-1] == "turned: 20 of 20" and [p.name for p in path.parent.iterdir()] == ["turned.zip"]
    again = load_zip(path, tmp_path / "halves")[0]
    np.testing.assert_array_equal(again.names, whole.names)
    np.testing.assert_array_equal(again.points, whole.points)
    np.testing.assert_array_equal(again.read(7), whole.read(7))


def test_faces_are_turned_far_and_those_without_a_mesh_are_left_out(small):
    sets, meshes = small
    turns = plan_turns(sets, meshes, 60, 0)
    assert not any(item.set == "human" and item.index == 3 for item in turns)
    yaws = np.array([item.yaw for item in turns])
    assert (np.abs(yaws) > 50).mean() > 0.5 and np.abs(yaws).max() <= 80 and 0.2 < (yaws > 0).mean() < 0.8
    assert np.abs([item.pitch for item in turns]).max() <= 20


def test_a_turned_face_counts_as_its_photo():
    names = np.array([f"lfpw_image_{i:04}.webp" for i in range(200)])
    from training.sets import held_out

    views = np.char.add("turned_human_", names)
    assert [photo_of(name) for name in views] == [photo_of(name) for name in names]
    np.testing.assert_array_equal(turned_from_held_out(views), held_out(names))
    assert not turned_from_held_out(np.char.add("turned_allage_", names)).any()


def test_meshes_that_are_none_are_named(tmp_path):
    (tmp_path / "meshes.npz").write_bytes(b"PK no")
    with pytest.raises(TabrtError, match=r"meshes\.npz: not the meshes"):
        load_meshes(tmp_path / "meshes.npz")
