from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import posix

from tabrt.errors import TabrtError
from tabrt.faces import Face, Frame, Scene
from tabrt.geometry import Box
from tabrt.sinks.landmarks import read_landmarks
from tabrt.sinks.records import LandmarkWriter, landmark_ends, landmark_lines
from tabrt.topology import WFLW98

HEADER = {"model": "tab1-lite", "engine": "onnxruntime", "source": "naïve.mp4", "width": 640, "height": 360}


def face(number: int, seed: int = 0) -> Face:
    random = np.random.default_rng(seed)
    points = random.uniform(-20, 640, (98, 2)).astype(np.float32)
    return Face(number, points, points, random.random(98, np.float32), Box.of(points, 0.9712345))


def scene(index: int, *faces: Face) -> Scene:
    return Scene(Frame(np.zeros((4, 4, 3), np.uint8), index, index / 30), faces)


def write(path: Path, *scenes: Scene) -> Path:
    with LandmarkWriter(path, HEADER, WFLW98) as writer:
        for each in scenes:
            writer(each)
    return path


def test_json_lines_say_what_they_are_then_one_line_a_frame(tmp_path):
    one, two = face(1, 1), face(7, 2)
    lines = write(tmp_path / "a.jsonl", scene(0), scene(1, one, two)).read_text("utf-8").splitlines()
    head, empty, full = map(json.loads, lines)
    assert head == {"format": "tabrt-landmarks", "version": 1, "scheme": "wflw98", **HEADER}
    assert empty == {"frame": 0, "time": 0.0, "faces": []}
    assert (full["frame"], full["time"]) == (1, round(1 / 30, 6))
    assert [each["id"] for each in full["faces"]] == [1, 7]
    record = full["faces"][1]
    assert list(record) == ["id", "score", "box", "points", "confidence"]
    assert record["score"] == 0.971
    assert record["box"] == pytest.approx([two.box.left, two.box.top, two.box.right, two.box.bottom], abs=6e-4)
    assert np.allclose(record["points"], two.points, rtol=0, atol=6e-4)
    assert np.allclose(record["confidence"], two.confidence, rtol=0, atol=6e-4)
    assert max(len(str(value)) for point in record["points"] for value in point) <= 8, "three decimals, no more"


def test_csv_has_a_row_a_face_and_one_for_a_frame_without(tmp_path):
    one, two = face(1, 1), face(7, 2)
    path = write(tmp_path / "a.csv", scene(0), scene(1, one, two), scene(2, one))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["frame"], row["id"]) for row in rows] == [("0", ""), ("1", "1"), ("1", "7"), ("2", "1")]
    columns = list(rows[0])
    assert columns[:8] == ["frame", "time", "id", "score", "left", "top", "right", "bottom"]
    assert columns[8:14] == ["x0", "y0", "c0", "x1", "y1", "c1"]
    assert columns[8 + 98 * 3 :] == ["width", "height"]
    assert float(rows[2]["x97"]) == pytest.approx(float(two.points[97, 0]), abs=6e-4)
    assert float(rows[2]["c5"]) == pytest.approx(float(two.confidence[5]), abs=6e-4)
    assert {(row["width"], row["height"]) for row in rows} == {("4", "4")}
    assert {value for name, value in rows[0].items() if name not in ("frame", "time", "width", "height")} == {""}


def test_frames_tell_what_they_are_tagged_with_and_their_size_where_the_header_does_not(tmp_path):
    tags = {"picture": lambda each: f"{each.frame.index}.png"}
    for suffix in (".jsonl", ".csv"):
        with LandmarkWriter(tmp_path / f"a{suffix}", {"width": None, "height": None}, WFLW98, tags) as writer:
            writer(scene(0))
            writer(scene(1, face(1)))
    _, *lines = landmark_lines(tmp_path / "a.jsonl")
    assert [(line["picture"], line["width"], line["height"]) for line in lines] == [("0.png", 4, 4), ("1.png", 4, 4)]
    with (tmp_path / "a.csv").open(newline="") as file:
        assert [row["picture"] for row in csv.DictReader(file)] == ["0.png", "1.png"]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_line_is_whole_on_disk_as_soon_as_it_is_written(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    writer = LandmarkWriter(path, HEADER, WFLW98)
    assert path.read_text().count("\n") == 1
    for number in range(3):
        writer(scene(number, face(1)))
        text = path.read_text()
        assert text.endswith("\n") and text.count("\n") == 2 + number
    writer.close()


def test_what_is_not_finite_stays_valid_json(tmp_path):
    broken = face(1)
    broken.points[3] = math.nan, math.inf
    broken.confidence[4] = math.nan
    broken = Face(1, broken.points, broken.raw, broken.confidence, Box(math.nan, 0, 1, 1))

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    text = write(tmp_path / "a.jsonl", scene(0, broken)).read_text().splitlines()[1]
    record = json.loads(text, parse_constant=refuse)["faces"][0]
    assert record["points"][3] == [None, None]
    assert record["confidence"][4] is None
    assert record["box"][0] is None
    assert "nan" not in write(tmp_path / "a.csv", scene(0, broken)).read_text().lower()


def test_lines_are_short(tmp_path):
    size = write(tmp_path / "a.jsonl", scene(0, face(1))).stat().st_size
    assert size < 98 * 3 * 10


def test_standard_output():
    program = (
        "import numpy as np\n"
        "from tabrt.faces import Frame, Scene\n"
        "from tabrt.sinks.records import LandmarkWriter\n"
        "from tabrt.topology import WFLW98\n"
        "with LandmarkWriter('-', {}, WFLW98) as writer:\n"
        "    writer(Scene(Frame(np.zeros((1, 1, 3), np.uint8))))\n"
        "print('still open')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert json.loads(lines[0])["format"] == "tabrt-landmarks"
    assert json.loads(lines[1])["faces"] == []
    assert lines[2] == "still open"


FULL = """
import resource, sys
import numpy as np
from tabrt.errors import TabrtError
from tabrt.faces import Face, Frame, Scene
from tabrt.geometry import Box
from tabrt.sinks.records import LandmarkWriter
from tabrt.topology import WFLW98
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
points = np.random.default_rng(0).uniform(0, 500, (98, 2))
scene = Scene(Frame(np.zeros((1, 1, 3), np.uint8)), (Face(1, points, points, np.ones(98), Box.of(points)),))
try:
    with LandmarkWriter(sys.argv[1], {}, WFLW98) as writer:
        for _ in range(100):
            writer(scene)
except TabrtError as problem:
    print(problem)
"""


@posix
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_full_disk_is_said_and_leaves_whole_lines(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, timeout=60)
    assert "cannot write landmarks" in done.stdout and done.stdout.count("\n") == 1, done.stderr
    assert path.read_text().endswith("\n")
    if suffix == ".jsonl":
        assert len(list(landmark_lines(path))) > 3


@pytest.mark.parametrize(
    "name, message",
    [("a.txt", "written as"), ("a", "written as"), ("nowhere/a.jsonl", "cannot write"), ("folder.csv", "cannot write")],
)
def test_bad_places_are_told_in_one_line(tmp_path, name, message):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(TabrtError, match=message) as problem:
        LandmarkWriter(tmp_path / name, HEADER, WFLW98)
    assert "\n" not in str(problem.value) and ";" in str(problem.value)


def test_points_of_another_scheme_are_refused(tmp_path):
    points = np.zeros((68, 2))
    other = Face(1, points, points, np.ones(68), Box.of(points))
    with LandmarkWriter(tmp_path / "a.csv", {}, WFLW98) as writer, pytest.raises(ValueError, match="98"):
        writer(scene(0, other))


def test_reads_back_what_was_written_and_passes_over_a_cut_line(tmp_path):
    path = write(tmp_path / "a.jsonl", scene(0), scene(1, face(3)))
    with path.open("ab") as file:
        file.write(b'{"frame": 2, "ti')
    head, *rows = landmark_lines(path)
    assert head["scheme"] == "wflw98"
    assert [row["frame"] for row in rows] == [0, 1]
    assert rows[1]["faces"][0]["id"] == 3


@pytest.mark.parametrize(
    "content",
    [b"", b"no json\n", b"[]\n", b'{"format": "other"}\n', b"[" * 100_000 + b"\n", b"\xff\xfe\n", b'{"format": "tabrt'],
)
def test_other_files_are_refused_in_one_line(tmp_path, content):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(TabrtError) as problem:
        list(landmark_lines(tmp_path / "a.jsonl"))
    assert "\n" not in str(problem.value)
    with pytest.raises(TabrtError, match="cannot read"):
        list(landmark_lines(tmp_path / "none.jsonl"))


def test_another_version_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"format": "tabrt-landmarks", "version": 2}\n')
    with pytest.raises(TabrtError, match="version 2"):
        list(landmark_lines(tmp_path / "a.jsonl"))


def test_a_finished_file_says_so_in_a_record_of_its_own(tmp_path):
    with LandmarkWriter(tmp_path / "a.jsonl", HEADER, WFLW98) as writer:
        writer(scene(0, face(1)))
        assert landmark_ends(tmp_path / "a.jsonl") == (next(landmark_lines(tmp_path / "a.jsonl")), None)
        writer.finish()
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[-1]) == {"end": {"frames": 1}}
    assert len(list(landmark_lines(tmp_path / "a.jsonl"))) == 2
    header, end = landmark_ends(tmp_path / "a.jsonl")
    assert end == {"frames": 1} and header["source"] == "naïve.mp4"


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_two_writers_of_one_path_leave_the_whole_file_of_the_later(tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    alone = write(tmp_path / f"alone{suffix}", *(scene(index, face(2, index)) for index in range(3)))
    path = tmp_path / f"both{suffix}"
    with LandmarkWriter(path, HEADER, WFLW98) as first, LandmarkWriter(path, HEADER, WFLW98) as second:
        for index in range(5):
            first(scene(index, face(1, index)))
            if index < 3:
                second(scene(index, face(2, index)))
        with pytest.raises(TabrtError, match=r"both.* was replaced or removed while it was written; write to another"):
            first.finish()
    assert path.read_bytes() == alone.read_bytes()


def test_a_file_behind_a_link_is_replaced_there(tmp_path):
    there, link = tmp_path / "there.jsonl", tmp_path / "link.jsonl"
    there.write_text("old")
    link.symlink_to(there)
    write(link, scene(0))
    assert link.is_symlink() and json.loads(there.read_text("utf-8").splitlines()[1])["frame"] == 0


def test_of_what_is_no_landmark_file_nothing_is_known(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "other.jsonl").write_text('{"end": {}}\n')
    for name in ("empty.jsonl", "other.jsonl", "missing.jsonl", "."):
        assert landmark_ends(tmp_path / name) == (None, None)
    write(tmp_path / "long.jsonl", *[scene(index, face(1), face(2)) for index in range(3)])
    with (tmp_path / "long.jsonl").open("ab") as file:
        file.write(b'{"end":{"fra')  # cut off
    assert landmark_ends(tmp_path / "long.jsonl")[1] is None


def parquet(path: Path, *scenes: Scene, tags=None) -> Path:
    pytest.importorskip("pyarrow", reason="needs pyarrow: the extra `parquet`")
    with LandmarkWriter(path, HEADER, WFLW98, tags) as writer:
        for each in scenes:
            writer(each)
        writer.finish()
    return path


def test_parquet_reads_as_json_lines_do(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow", reason="needs pyarrow: the extra `parquet`")
    monkeypatch.setattr("tabrt.sinks.parquet.ROW_GROUP", 3)  # several groups
    broken = face(1, 5)
    broken.points[3] = math.nan, math.inf
    scenes = [scene(0), scene(1, face(1, 1), face(7, 2)), scene(2, face(7, 3)), scene(5), scene(6, broken), scene(7)]
    table = read_landmarks(parquet(tmp_path / "a.parquet", *scenes))
    lines = read_landmarks(write(tmp_path / "a.jsonl", *scenes))
    assert table.header == lines.header
    for name in ("frames", "times", "ids", "points", "confidence", "scores", "boxes"):
        assert np.array_equal(getattr(table, name), getattr(lines, name), equal_nan=True), name


def test_parquet_has_the_rows_of_csv_and_its_tags(tmp_path):
    tags = {"picture": lambda each: f"{each.frame.index}.png"}
    path = parquet(tmp_path / "a.parquet", scene(0), scene(1, face(1, 1), face(7, 2)), tags=tags)
    rows = pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    with LandmarkWriter(tmp_path / "a.csv", HEADER, WFLW98, tags) as writer:
        for each in (scene(0), scene(1, face(1, 1), face(7, 2))):
            writer(each)
    with (tmp_path / "a.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert [list(row) for row in rows] == [list(row) for row in cells]
    assert [(row["id"], row["picture"], row["width"]) for row in rows] == [
        (None, "0.png", 4),
        (1, "1.png", 4),
        (7, "1.png", 4),
    ]
    assert rows[2]["x97"] == pytest.approx(float(cells[2]["x97"]), rel=1e-6)


def test_a_parquet_file_says_whether_the_run_came_to_its_end(tmp_path):
    header, end = landmark_ends(parquet(tmp_path / "a.parquet", scene(0)))
    assert end == {"frames": 1} and header["source"] == "naïve.mp4"
    assert landmark_ends(write(tmp_path / "stopped.parquet", scene(0, face(1))))[1] is None
    assert len(read_landmarks(tmp_path / "stopped.parquet").frames) == 1


def test_a_parquet_file_of_a_killed_run_is_refused_in_one_line(tmp_path):
    path = parquet(tmp_path / "a.parquet", scene(0, face(1)))
    whole = path.read_bytes()
    for content in (whole[:-9], whole[:4], b"", b"PAR1" + os.urandom(64) + b"PAR1"):
        path.write_bytes(content)
        assert landmark_ends(path) == (None, None)
        with pytest.raises(TabrtError, match="not finished.*jsonl") as problem:
            read_landmarks(path)
        assert "\n" not in str(problem.value)
    with pytest.raises(TabrtError, match="check the path"):
        read_landmarks(tmp_path / "none.parquet")


def test_a_parquet_file_of_others_is_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow: the extra `parquet`")
    pyarrow.write_table(pytest.importorskip("pyarrow").table({"frame": [1]}), tmp_path / "a.parquet")
    with pytest.raises(TabrtError, match="tabrt wrote"):
        read_landmarks(tmp_path / "a.parquet")


@posix
def test_a_full_disk_is_said_of_parquet(tmp_path):
    pytest.importorskip("pyarrow", reason="needs pyarrow: the extra `parquet`")
    program = [sys.executable, "-c", FULL.replace("range(100)", "range(5000)"), str(tmp_path / "a.parquet")]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert "cannot write landmarks" in done.stdout and done.stdout.count("\n") == 1, done.stderr
    assert not done.stderr


def test_without_pyarrow_the_extra_is_named_and_no_file_is_touched(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_text("before")
    for act in (lambda path: LandmarkWriter(path, HEADER, WFLW98), read_landmarks):
        with pytest.raises(TabrtError, match=r"\[parquet\]"):
            act(tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").read_text() == "before"
