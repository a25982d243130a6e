"""`tabrt plot`: tracks over time."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_records import HEADER, face, scene, write

from tabrt import read_landmarks
from tabrt.commands.plot import _speed_of, _Track, plot
from tabrt.errors import TabrtError
from tabrt.sinks import LandmarkWriter
from tabrt.topology import WFLW98


def seen_in(path: Path) -> Path:
    """Face 1 in frames 0…9 and 20…29, face 9 in 5…24."""
    scenes = [
        scene(index, *[face(number, number) for number in (1, 9) if index in where[number]])
        for where in [{1: {*range(10), *range(20, 30)}, 9: set(range(5, 25))}]
        for index in range(30)
    ]
    return write(path, *scenes)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_figure_lies_beside_the_file(tmp_path: Path, suffix: str):
    out = plot(seen_in(tmp_path / f"points{suffix}"))
    assert out == tmp_path / "points.png"
    picture = cv2.imread(str(out))
    assert picture.shape[1] > 1200 and picture.std() > 10


def test_who_is_seen_when(tmp_path: Path):
    seen = read_landmarks(seen_in(tmp_path / "points.jsonl"))
    first, other = _Track(seen, 1), _Track(seen, 9)
    assert np.allclose(first.pieces(), [(0, 10 / 30), (20 / 30, 10 / 30)], atol=1e-5)
    assert np.allclose(other.pieces(), [(5 / 30, 20 / 30)], atol=1e-5)
    assert np.isnan(first.line(first.confidence)[1]).sum() == 1, "no line across the gap"


def test_speed_is_in_face_sizes_a_second():
    times = np.arange(50) / 25
    centres = np.stack([40 * times, 30 * times], axis=1)  # 50 px/s
    speed = _speed_of(centres, np.full(50, 100.0), times, np.array([], int))
    assert np.allclose(speed, 0.5)


def test_no_face_no_figure(tmp_path: Path):
    write(tmp_path / "empty.jsonl", scene(0))
    with pytest.raises(TabrtError, match="no face in it; there is nothing to plot"):
        plot(tmp_path / "empty.jsonl")


def test_a_film_in_place_of_its_landmark_file_is_told_how_to_make_one(run, tmp_path: Path):
    (tmp_path / "in.mp4").write_bytes(b"film")
    (tmp_path / "in.png").write_bytes(b"a still of it, not to be asked about")
    for words in (["plot", "in.mp4"], ["draw", "in.mp4", "in.mp4", "--out", "out.mp4"]):
        done = run(*words)
        assert done.returncode == 1 and "in.mp4 is no landmark file" in done.stderr
        assert "tabrt video FILM --landmarks points.jsonl makes one" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "in.png"]


@pytest.mark.parametrize("path", ["photo.png", ".", "./", ""])
def test_a_picture_or_a_folder_in_place_of_a_landmark_file_is_told_how_to_make_one(run, tmp_path: Path, path: str):
    (tmp_path / "photo.png").write_bytes(b"picture")
    done = run("plot", path)
    assert done.returncode == 1 and f"{path} is no landmark file" in done.stderr
    assert "of pictures tabrt image" in done.stderr and "report it" not in done.stderr


def test_a_figure_is_not_replaced_and_has_a_kind(tmp_path: Path):
    path = seen_in(tmp_path / "points.jsonl")
    (tmp_path / "points.png").write_bytes(b"mine")
    with pytest.raises(TabrtError, match="is there already"):
        plot(path)
    assert (tmp_path / "points.png").read_bytes() == b"mine"
    with pytest.raises(TabrtError, match=r"figures are written as \.png, \.pdf, \.svg"):
        plot(path, tmp_path / "points.bmp")


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    path = seen_in(tmp_path / "points.jsonl")
    with pytest.raises(TabrtError, match=r"\[plot\]"):
        plot(path)


def test_the_file_is_read_with_header_alone(tmp_path: Path):
    LandmarkWriter(tmp_path / "none.jsonl", HEADER, WFLW98).close()
    with pytest.raises(TabrtError, match="nothing to plot"):
        plot(tmp_path / "none.jsonl")
