"""From which sum on a face is believed: what is asked about pictures, and what parts faces from none."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from synthetic_faces import drawn_faces
from typer.testing import CliRunner

from tabrt.engines import load_engine
from tabrt.errors import TabrtError
from training import believing
from training.believing import Kind, _Asked, ask, ask_all, table
from training.commands import app

PORTRAIT = Path(__file__).parent / "data" / "astronaut.png"


@pytest.fixture
def portrait() -> np.ndarray:
    return cv2.imread(str(PORTRAIT))


def test_a_portrait_is_found_and_a_wall_is_not(portrait):
    tracker = _Asked(load_engine("tab1-lite"))
    wall = np.random.default_rng(0).integers(90, 110, (320, 320, 3), np.uint8)
    kind = ask("both", [("portrait", portrait), ("wall", wall)], tracker)
    assert kind.found == ["portrait"]
    sums = kind.sums(0.4)
    assert sums[0] == math.inf or sums[0] > 1
    assert sums[1] < 0.5


def test_each_share_has_its_own_lowest_and_highest():
    faces = Kind("faces", [[(0.9, 0.1)], [(0.5, 0.8), (0.7, 0.1)], []], ["a", "b"])
    assert faces.sums(0.5).tolist() == pytest.approx([math.inf, 0.9, 0.0])
    rows = table([faces], Kind("none", [[(0.4, 0.5)]], [])).splitlines()
    assert [row for row in rows if row.startswith("| 0.5")] == ["| 0.5 | 0.000 0.900 inf | 0.650 |"]


def test_what_is_taken_for_a_face_is_named(monkeypatch, tmp_path, portrait):
    for name in ("profiles", "children"):
        monkeypatch.setattr(believing, name, lambda root, cache: drawn_faces(2))
    cv2.imwrite(str(tmp_path / "somebody.png"), portrait)
    (tmp_path / "notes.txt").write_text("no picture")
    told: list[str] = []
    kinds, none = ask_all(load_engine("tab1-lite"), tmp_path, tmp_path, [tmp_path], told.append)
    assert [kind.name for kind in kinds] == ["profiles", "children"]
    assert none.found == ["somebody.png"] and "somebody.png" in told[-1] and "in 1 of 1" in told[-1]


def test_a_folder_that_is_not_there_is_told_before_anything_is_asked(tmp_path):
    result = CliRunner().invoke(app, ["believe", "--without", str(tmp_path / "none"), "--model", "tab1-nano"])
    assert isinstance(result.exception, TabrtError) and "is no folder" in str(result.exception)
