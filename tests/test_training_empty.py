"""Pictures without a face: how the set is made, and what a batch says of them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tabrt.errors import TabrtError
from tabrt.topology import WFLW98
from tests.non_faces import NON_FACES
from tests.synthetic_faces import Pictures, drawn_faces
from training import empty
from training.augment import HARD
from training.batches import Crops
from training.empty import make_empty
from training.sets import FaceSet, drawn_pictures, empty_pictures, held_out


@pytest.fixture
def faces(monkeypatch) -> dict[str, FaceSet]:
    """Some drawn faces for each of the sets, of 352 px."""
    some = drawn_faces(6)
    images = np.stack([cv2.resize(some.read(i), (352, 352)) for i in range(6)])
    points = some.points * (352 / some.read(0).shape[0])
    sets = {
        name: FaceSet(name, WFLW98, np.array([f"{name}_{i:05}" for i in range(6)]), points, Pictures(images))
        for name in empty.SHARED_SETS
    }
    monkeypatch.setattr(empty, "load_zip", lambda path, cache: (sets[path.stem], None))
    return sets


def folder_of_pictures(folder: Path) -> Path:
    folder.mkdir()
    for number, draw in enumerate(NON_FACES.values()):
        cv2.imwrite(str(folder / f"{number}.png"), draw(number))
    cutout = np.dstack([NON_FACES["table"](0), np.zeros((360, 640), np.uint8)])
    cv2.imwrite(str(folder / "cutout.png"), cutout)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8no picture")
    return folder


def test_the_set_is_made_of_pictures_and_of_what_lies_beside_faces(faces, tmp_path):
    folder = folder_of_pictures(tmp_path / "pictures")
    told: list[str] = []
    path = make_empty(tmp_path, tmp_path / "cache", [folder], 30, say=told.append)
    made = empty_pictures(path.parent)
    assert 20 <= len(made) <= 40 and len(told) == 2
    assert np.isnan(made.points).all() and made.read(0).shape == (352, 352, 3)
    again = make_empty(tmp_path, tmp_path / "other", [folder], 30, say=str)
    assert again.read_bytes() != b"" and (empty_pictures(again.parent).names == made.names).all()
    assert held_out(made.names).shape == (len(made),)


def test_no_face_that_is_held_out_goes_in(faces, tmp_path, monkeypatch):
    looked: set[str] = set()
    beside = empty._beside

    def watched(some, index, rng):
        looked.add(str(some.names[index]))
        return beside(some, index, rng)

    monkeypatch.setattr(empty, "_PIECES", (watched,))
    make_empty(tmp_path, tmp_path / "cache", [], 60, say=str)
    kept = [str(name) for some in faces.values() for name in some.names[held_out(some.names)]]
    assert looked and kept and not looked & set(kept)


def test_a_folder_without_pictures_is_named(faces, tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(TabrtError, match=r"nothing: no picture in it; give folders of pictures that show no people"):
        make_empty(tmp_path, tmp_path / "cache", [tmp_path / "nothing"], 20, say=str)


def test_a_batch_says_that_such_a_picture_has_no_boundaries(faces, tmp_path):
    made = empty_pictures(make_empty(tmp_path, tmp_path / "cache", [], 20, say=str).parent)
    crops = Crops({"empty": made}, HARD)
    for seed in range(40):  # any of the effects
        pixels, points, maps, known = crops[("empty", seed % len(made), seed)]
        assert pixels.shape == (256, 256, 3) and np.isnan(points).all()
        assert not maps.any() and known.all()


def test_drawn_faces_are_always_the_same_all_different_and_without_a_point():
    drawn = drawn_pictures()
    one, again, other = drawn.read(3), drawn_pictures().read(3), drawn.read(4)
    assert one.shape == (352, 352, 3) and one.dtype == np.uint8
    assert (one == again).all() and (one != other).any()
    assert np.isnan(drawn.points).all()
    assert 0.05 < held_out(drawn.names).mean() < 0.15
    assert all(drawn.read(i).std() > 10 for i in range(60))
    *_, maps, known = Crops({"drawn": drawn}, HARD)[("drawn", 3, 0)]
    assert not maps.any() and known.all()
