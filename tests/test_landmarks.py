"""Landmark files read back as arrays."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from test_records import HEADER, face, scene

import tabrt
from tabrt.errors import TabrtError
from tabrt.sinks import LandmarkWriter, landmarks, read_landmarks
from tabrt.topology import WFLW98


@pytest.fixture(params=[".jsonl", ".csv"])
def path(request, tmp_path: Path) -> Path:
    """Four frames: none, faces 1 and 7, none, face 7, which has a point that is no number."""
    path = tmp_path / f"seen{request.param}"
    broken = face(7, 3)
    broken.points[5] = math.nan
    with LandmarkWriter(path, HEADER, WFLW98) as writer:
        for index, faces in enumerate([(), (face(1, 1), face(7, 2)), (), (broken,)]):
            writer(scene(index, *faces))
    return path


def test_arrays_by_frame_and_id(path: Path):
    seen = tabrt.read_landmarks(path)
    assert (seen.header["width"], seen.header["height"]) == ((640, 360) if path.suffix == ".jsonl" else (4, 4))
    assert seen.frames.tolist() == [0, 1, 2, 3]
    assert seen.times == pytest.approx([0, 1 / 30, 2 / 30, 3 / 30], abs=1e-6)
    assert seen.ids.tolist() == [1, 7]
    assert seen.points.shape == (4, 2, 98, 2)
    assert np.allclose(seen.points[1, 0], face(1, 1).points, atol=6e-4)
    assert np.allclose(seen.points[1, 1], face(7, 2).points, atol=6e-4)
    assert np.allclose(seen.confidence[1, 1], face(7, 2).confidence, atol=6e-4)
    there = ~np.isnan(seen.scores)
    assert there.tolist() == [[False, False], [True, True], [False, False], [False, True]]
    assert (np.isnan(seen.points).all(axis=(2, 3)) == ~there).all()
    assert np.isnan(seen.points[3, 1]).all(axis=1).nonzero()[0].tolist() == [5]
    assert seen.boxes[1, 0] == pytest.approx([*face(1, 1).points.min(axis=0), *face(1, 1).points.max(axis=0)], abs=1e-3)


def test_a_table_for_pandas(path: Path):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    table = read_landmarks(path).to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert table[["frame", "id"]].to_numpy().tolist() == [[1, 1], [1, 7], [3, 7]]
    assert table["x97"][1] == pytest.approx(float(face(7, 2).points[97, 0]), abs=6e-4)
    assert list(table.columns[:11]) == [
        *("frame", "time", "id", "score", "left", "top", "right", "bottom", "x0", "y0", "c0"),
    ]


def test_without_pandas_it_says_what_to_install(path: Path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(TabrtError, match="pip install pandas"):
        read_landmarks(path).to_pandas()


def test_names_of_any_letters_stay_in_their_cell(tmp_path: Path):
    tags = {"picture": lambda scene: f'{scene.frame.index}\r"a,\nb"\r\n.png'}
    with LandmarkWriter(tmp_path / "a.csv", HEADER, WFLW98, tags) as writer:
        for index in range(3):
            writer(scene(index, face(1, index)))
    seen = read_landmarks(tmp_path / "a.csv")
    assert seen.frames.tolist() == [0, 1, 2]
    assert np.isfinite(seen.points).all()


def test_a_line_that_never_ends_is_not_read_whole(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(landmarks, "MAX_LINE", 8192)
    (tmp_path / "a.csv").write_bytes(b"frame,time,id,score,left,top,right,bottom,x0,y0,c0\n" + b"0," * 8192)
    with pytest.raises(TabrtError, match="is no landmark file"):
        read_landmarks(tmp_path / "a.csv")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_film_without_faces(tmp_path: Path, suffix: str):
    path = tmp_path / f"empty{suffix}"
    with LandmarkWriter(path, HEADER, WFLW98) as writer:
        writer(scene(0))
    seen = read_landmarks(path)
    assert (len(seen.frames), len(seen.ids)) == (1, 0)
    assert seen.points.shape[:2] == (1, 0)
    with LandmarkWriter(path, HEADER, WFLW98):
        pass
    assert len(read_landmarks(path).frames) == 0


def test_a_line_that_was_cut_off_is_left_out(path: Path):
    data = path.read_bytes()
    path.write_bytes(data[:-40])
    assert read_landmarks(path).frames.tolist() == [0, 1, 2]


def test_arrays_that_would_fill_the_memory_are_refused_and_the_table_is_not(path: Path, monkeypatch):
    monkeypatch.setattr(landmarks, "LARGEST", 1000)
    seen = read_landmarks(path)
    with pytest.raises(TabrtError, match="4 frames with 2 ids are too many"):
        _ = seen.points


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"one,two\n1,2\n"),
        ("a.csv", b""),
        ("a.csv", b"\xff\xfe\n"),
        ("a.csv", b"frame,time,id,score,left,top,right,bottom,x0,y0,c0,width,height\nx,0,1,1,1,1,1,1,1,1,1,4,4\n"),
        ("a.csv", b"frame,time,id,score,left,top,right,bottom,x0,y0,c0,width,height\n0,0,1,1,1,1\n"),
        ("a.jsonl", b'{"format":"tabrt-landmarks","version":1}\n{"frame":0}\n'),
        ("a.jsonl", b'{"format":"tabrt-landmarks","version":1}\n{"frame":0,"time":0,"faces":[{"id":"x"}]}\n'),
        ("a.txt", b"hello\n"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TabrtError) as problem:
        read_landmarks(tmp_path / name)
    assert "\n" not in str(problem.value)
    with pytest.raises(TabrtError, match="cannot read"):
        read_landmarks(tmp_path / f"none{Path(name).suffix}" if name != "a.txt" else tmp_path / "none.csv")
