"""Films whose faces were tracked before: drawn from their landmark files, and gone on with."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import typer
from conftest import CLIP, full_disk, posix

from tabrt import Tracker, open_film, read_landmarks
from tabrt.commands.draw import draw
from tabrt.commands.films import planned
from tabrt.commands.options import DrawOptions, VideoOptions, VideosOptions
from tabrt.commands.recorded import Recording
from tabrt.commands.summary import Stopwatch, drawing_of
from tabrt.commands.video import _going_on, video
from tabrt.errors import TabrtError
from tabrt.film.times import clock_time
from tabrt.signals import Ending


@pytest.fixture(scope="module")
def tracker() -> Iterator[Tracker]:
    with Tracker() as tracker:
        yield tracker


@pytest.fixture(scope="module")
def whole(clip: Path, tracker: Tracker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run without a stop leaves: points.jsonl and drawn.mp4."""
    folder = tmp_path_factory.mktemp("whole")
    tracker.reset()
    video(
        VideoOptions(source=str(clip), out=str(folder / "drawn.mp4"), landmarks=str(folder / "points.jsonl")), tracker
    )
    return folder


def pictures(path: Path) -> list[tuple[float, np.ndarray]]:
    with open_film(path) as film:
        return [(frame.time, frame.image) for frame in film]


def packets(path: Path, kind: str) -> list[tuple[object, bytes]]:
    with av.open(str(path)) as film:
        return [(packet.pts, bytes(packet)) for packet in film.demux(**{kind: 0}) if packet.pts is not None]


# ------------------------------------------------------------------------------------------------------------ drawing


@pytest.mark.parametrize("measures", [False, True])
def test_a_scene_of_the_file_looks_like_the_tracked_one(clip: Path, tracker: Tracker, tmp_path: Path, measures: bool):
    path = tmp_path / "points.jsonl"
    options = VideoOptions(source=str(clip), landmarks=str(path), out="none.mp4", measures=measures)
    tracker.reset()
    video(replace(options, out=None), tracker)
    layers = drawing_of(options, tracker.topology, Stopwatch())
    tracker.reset()
    recording = Recording(path)
    drawn = 0
    with open_film(clip) as film:
        for frame in film:
            tracked, read = layers(tracker(frame)).picture, layers(recording(frame)).picture
            differences = np.abs(tracked.astype(int) - read.astype(int))
            assert np.percentile(differences, 99.5) <= 2 and differences.mean() < 0.2  # a bar may end a pixel sooner
            drawn += (np.abs(tracked.astype(int) - frame.image.astype(int)) > 40).any(axis=2).sum()
    assert drawn > 16 * 200, "something is drawn at all"


def test_a_film_is_drawn_from_its_file_without_the_network(clip: Path, whole: Path, tmp_path: Path, monkeypatch):
    def no_network(*_: object) -> None:
        raise AssertionError("the network is not needed")

    monkeypatch.setattr("tabrt.tracking.tracker.load_engine", no_network)
    again = tmp_path / "again.mp4"
    summary = draw(DrawOptions(source=str(clip), landmarks=str(whole / "points.jsonl"), out=str(again)))
    assert (summary.frames, summary.faces) == (16, 1)
    then, now = pictures(whole / "drawn.mp4"), pictures(again)
    assert [time for time, _ in now] == [time for time, _ in then]
    for (_, one), (_, other), (_, bare) in zip(then, now, pictures(clip), strict=True):
        was_drawn = np.abs(one.astype(int) - bare).max(axis=2) > 60
        assert was_drawn.sum() > 100
        assert (np.abs(other.astype(int) - bare).max(axis=2)[was_drawn] > 30).mean() > 0.95
    assert packets(again, "audio") == packets(whole / "drawn.mp4", "audio")


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_film_is_drawn_from_a_table_too(clip: Path, whole: Path, tracker: Tracker, tmp_path: Path, suffix: str):
    path, out = tmp_path / f"points{suffix}", tmp_path / "again.mp4"
    tracker.reset()
    video(VideoOptions(source=str(clip), landmarks=str(path)), tracker)
    summary = draw(DrawOptions(source=str(clip), landmarks=str(path), out=str(out)))
    assert (summary.frames, summary.faces) == (16, 1)
    assert any("does not say how it was made" in note for note in summary.notes) == (suffix == ".csv")
    lines = tmp_path / "lines.mp4"
    draw(DrawOptions(source=str(clip), landmarks=str(whole / "points.jsonl"), out=str(lines)))
    for (_, one), (_, other) in zip(pictures(lines), pictures(out), strict=True):
        assert np.abs(one.astype(int) - other).mean() < 0.1


def test_what_a_table_lacks_is_said_in_one_line(run, clip: Path, tmp_path: Path):
    columns = "frame,time,id,score,left,top,right,bottom"
    few = [f"{axis}{index}" for index in range(68) for axis in "xyc"]
    (tmp_path / "few.csv").write_text(",".join([columns, *few, "width,height"]) + "\n")
    all98 = [f"{axis}{index}" for index in range(98) for axis in "xyc"]
    (tmp_path / "empty.csv").write_text(",".join([columns, *all98, "width,height"]) + "\n")
    (tmp_path / "odd.csv").write_text((tmp_path / "empty.csv").read_text() + "zero,0,1" + ",1" * 299 + ",320,180\n")
    (tmp_path / "no.parquet").write_bytes(b"PAR1 of a run that was killed")
    for name, said in {
        "few.csv": "has 68 points a face, and .csv names no scheme",
        "empty.csv": "does not say how large the film is",
        "odd.csv": "without the fields of a landmark file",
        "no.parquet": "it was not finished",
    }.items():
        done = run("draw", clip, name, "--out", "x.mp4", "--overwrite")
        assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_part_is_drawn_as_the_part_that_was_tracked(clip: Path, tracker: Tracker, tmp_path: Path):
    path, out = tmp_path / "part.jsonl", tmp_path / "part.mp4"
    tracker.reset()
    video(VideoOptions(source=str(clip), start="0.2", end="0.5", every=2, landmarks=str(path)), tracker)
    draw(DrawOptions(source=str(clip), landmarks=str(path), out=str(out)))
    assert len(pictures(out)) == len(read_landmarks(path).frames) > 2


def test_frames_that_the_file_does_not_have_are_told(clip: Path, whole: Path, tmp_path: Path):
    header, *lines = (whole / "points.jsonl").read_text().splitlines(keepends=True)
    path = tmp_path / "part.jsonl"

    def told(*kept: str) -> list[str]:
        path.write_text("".join([header, *kept]))
        drawn = draw(DrawOptions(source=str(clip), landmarks=str(path), out=str(tmp_path / "x.mp4"), overwrite=True))
        return [note for note in drawn.notes if "part.jsonl" in note]

    times = [json.loads(line)["time"] for line in lines[:16]]
    where = f"{clock_time(times[5])} to {clock_time(times[15])}"
    assert told(*lines[:5]) == [f"11 frames are not in {path} ({where}): no faces are known there"]
    assert told(*lines[1:]) == [f"1 frame is not in {path} (0 s): no faces are known there"]
    assert told(*lines) == []


@pytest.mark.parametrize("more", [{}, {"measures": ["jawOpen"]}], ids=["points", "measures"])
def test_faces_that_were_hidden_are_hidden_again(clip: Path, whole: Path, tmp_path: Path, more: dict):
    header, *lines = (whole / "points.jsonl").read_text().splitlines(keepends=True)
    path = tmp_path / "hidden.jsonl"
    path.write_text(json.dumps(json.loads(header) | {"options": {"hide": "black"}} | more) + "\n" + "".join(lines))
    draw(DrawOptions(source=str(clip), landmarks=str(path), out=str(tmp_path / "hidden.mp4")))
    face = read_landmarks(path).points[0, 0]
    x, y = face[54].astype(int)
    cover = pictures(tmp_path / "hidden.mp4")[0][1][y - 5 : y + 5, x - 5 : x + 5]
    assert np.median(cover) < 30  # a stripe may cross it


def test_the_landmark_file_of_another_film_is_refused(whole: Path, clip: Path, tmp_path: Path):
    with pytest.raises(TabrtError, match=r"points.jsonl is of another film \(.*clip.mp4\), not of .*pexels_face.mp4"):
        draw(DrawOptions(source=str(CLIP), landmarks=str(whole / "points.jsonl"), out=str(tmp_path / "x.mp4")))
    assert not (tmp_path / "x.mp4").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda line: line | {"time": line["time"] + 0.01}, "at 0.01 s, the film at 0 s; name the film"),
        (lambda line: {"frame": 0, "time": 0.0}, "without the fields"),
        (lambda line: line | {"faces": [line["faces"][0] | {"points": [[1, 2]]}]}, "without the fields"),
        (lambda line: line | {"faces": 3}, "without the fields"),
        (lambda line: line | {"frame": "zero"}, "without the fields"),
        (lambda line: line | {"faces": [line["faces"][0] | {"points": [[1e30, 2]] * 98}]}, "without the fields"),
    ],
)
def test_a_file_that_was_edited_is_said(clip: Path, whole: Path, tmp_path: Path, change, said: str):
    header, first, *rest = (whole / "points.jsonl").read_text().splitlines(keepends=True)
    path = tmp_path / "edited.jsonl"
    path.write_text(header + json.dumps(change(json.loads(first))) + "\n" + "".join(rest))
    with pytest.raises(TabrtError, match=said):
        draw(DrawOptions(source=str(clip), landmarks=str(path), out=str(tmp_path / "x.mp4")))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hide": "pixel"}, "names options that cannot be"),
        ({"hide": "blur", "margin": 1e308}, "names options that cannot be"),
        ({"start": "-1e99"}, "names options that cannot be"),
        ({"start": 3}, "names options that cannot be"),
        ({"every": "x"}, "names options that cannot be"),
        ({"hide": "blur", "hide_all_but": [1]}, "names options that cannot be"),
        ({"hide": "blur", "hide_all_but": "me"}, "names options that cannot be"),
        ({"fov": "/dev/zero"}, "/dev/zero is no file"),
    ],
)
def test_options_of_a_header_that_cannot_be_are_one_line(run, clip: Path, whole: Path, tmp_path: Path, options, said):
    header, *lines = (whole / "points.jsonl").read_text().splitlines(keepends=True)
    changed = {"options": options} | ({"measures": True} if "fov" in options else {})  # without them it changed nothing
    (tmp_path / "p.jsonl").write_text(json.dumps(json.loads(header) | changed) + "\n" + "".join(lines))
    done = run("draw", clip, "p.jsonl", "--out", "x.mp4")
    assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "x.mp4").exists()


# ----------------------------------------------------------------------------------------------------------- going on


def broken_off(whole: Path, to: Path, lines: int, more: int = 0) -> Path:
    """A landmark file cut after so many lines, and some bytes of the next."""
    kept = (whole / "points.jsonl").read_bytes().splitlines(keepends=True)
    to.write_bytes(b"".join(kept[:lines]) + kept[lines][:more])
    return to


def frames_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


@pytest.mark.parametrize(("lines", "more"), [(1, 0), (1, 40), (2, 7), (9, 1000), (16, 1), (17, 5)])
def test_it_goes_on_as_if_there_had_been_no_stop(
    clip: Path, whole: Path, tracker: Tracker, tmp_path: Path, lines: int, more: int
):
    path = broken_off(whole, tmp_path / "points.jsonl", lines, more)
    before = path.read_bytes()[: len(b"".join((whole / "points.jsonl").read_bytes().splitlines(True)[:lines]))]
    tracker.reset()
    options = VideoOptions(source=str(clip), landmarks=str(path), out=str(tmp_path / "drawn.mp4"), resume=True)
    summary = video(options, tracker)
    assert any(note.startswith(f"went on after {lines - 1} frames") for note in summary.notes)
    assert path.read_bytes().startswith(before)
    assert frames_of(path)[-1] == {"end": {"frames": 16}}
    now, then = read_landmarks(path), read_landmarks(whole / "points.jsonl")
    assert now.frames.tolist() == then.frames.tolist() and now.ids.tolist() == then.ids.tolist() == [1]
    assert np.abs(now.points - then.points).max() < 0.5
    drawn = pictures(tmp_path / "drawn.mp4")
    assert [time for time, _ in drawn] == [time for time, _ in pictures(whole / "drawn.mp4")]
    assert packets(tmp_path / "drawn.mp4", "audio") == packets(whole / "drawn.mp4", "audio")


class Doing:
    """A tracker that is like another one, and does something before its frame of this index."""

    def __init__(self, tracker: Tracker, index: int, what: Callable[[], None]):
        self._tracker, self._index, self._what = tracker, index, what

    def __getattr__(self, name: str):
        return getattr(self._tracker, name)

    def __call__(self, frame):
        if frame.index == self._index:
            self._what()
        return self._tracker(frame)


@posix
@pytest.mark.parametrize("resume", [False, True])
def test_what_another_run_is_writing_is_not_gone_on_with(
    clip: Path, whole: Path, tracker: Tracker, tmp_path: Path, resume: bool
):
    path = broken_off(whole, tmp_path / "points.jsonl", 9)
    options = VideoOptions(
        **{"source": str(clip), "landmarks": str(path), "out": str(tmp_path / "drawn.mp4"), "overwrite": not resume},
        resume=resume,
    )
    refused: list[str] = []

    def again() -> None:
        with pytest.raises(TabrtError) as problem:
            video(replace(options, resume=True), tracker)
        refused.append(str(problem.value))

    tracker.reset()
    video(options, Doing(tracker, 12, again))
    assert refused == [f"{path} is being written by another run; wait for its end, or stop it"]
    assert read_landmarks(path).frames.tolist() == list(range(16)) and frames_of(path)[-1] == {"end": {"frames": 16}}
    assert len(pictures(tmp_path / "drawn.mp4")) == 16


def test_a_face_keeps_the_id_that_the_file_has_for_it(clip: Path, whole: Path, tracker: Tracker, tmp_path: Path):
    path = broken_off(whole, tmp_path / "points.jsonl", 9)
    path.write_text(path.read_text().replace('"id":1,', '"id":7,'))
    tracker.reset()
    video(VideoOptions(source=str(clip), landmarks=str(path), resume=True), tracker)
    assert [face["id"] for line in frames_of(path)[:-1] for face in line["faces"]] == [7] * 16


def test_a_face_that_was_not_there_gets_an_id_that_nobody_had(clip: Path, whole: Path, tracker: Tracker, tmp_path):
    path = broken_off(whole, tmp_path / "points.jsonl", 9)
    header, *lines = path.read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:  # elsewhere
        row["faces"][0]["points"] = [[x + 400, y] for x, y in row["faces"][0]["points"]]
    path.write_text("\n".join([header, *map(json.dumps, rows)]) + "\n")
    tracker.reset()
    video(VideoOptions(source=str(clip), landmarks=str(path), resume=True), tracker)
    assert [face["id"] for line in frames_of(path)[8:-1] for face in line["faces"]] == [2] * 8


def test_without_a_file_it_begins_at_the_start(clip: Path, whole: Path, tracker: Tracker, tmp_path: Path):
    path = tmp_path / "new.jsonl"
    tracker.reset()
    video(VideoOptions(source=str(clip), landmarks=str(path), resume=True), tracker)
    assert frames_of(path) == frames_of(whole / "points.jsonl")


@pytest.mark.parametrize(
    ("source", "other", "said"),
    [
        (CLIP, {}, r"is of another film \(.*clip.mp4\); name the same film"),
        (None, {"smoothing": 0.2, "every": 2}, r"of a run with other settings \(every, smoothing\)"),
        (None, {"model": "tab2-lite"}, r"of another network \(tab1-lite\)"),
    ],
)
def test_what_is_not_the_same_run_is_not_gone_on_with(clip, whole: Path, tmp_path: Path, source, other, said: str):
    path = broken_off(whole, tmp_path / "points.jsonl", 9)
    before = path.read_bytes()
    with pytest.raises(TabrtError, match=said):
        video(VideoOptions(source=str(source or clip), landmarks=str(path), resume=True, **other))
    assert path.read_bytes() == before


def test_a_file_of_something_else_is_left_alone(clip: Path, tmp_path: Path):
    path = tmp_path / "notes.jsonl"
    path.write_text("my notes\n")
    with pytest.raises(TabrtError, match="no landmark file to go on with"):
        video(VideoOptions(source=str(clip), landmarks=str(path), resume=True))
    assert path.read_text() == "my notes\n"


def test_the_command_passes_over_what_came_to_its_end(run, clip: Path, whole: Path, tmp_path: Path):
    (tmp_path / "points.jsonl").write_bytes((whole / "points.jsonl").read_bytes())
    done = run("video", clip, "--landmarks", "points.jsonl", "--resume")
    assert done.returncode == 0 and done.stderr == f"{clip.name} was finished before\n"
    wrong = run("video", CLIP, "--landmarks", "points.jsonl", "--resume")
    assert wrong.returncode == 1 and wrong.stderr.count("\n") == 1 and "of another film" in wrong.stderr
    assert (tmp_path / "points.jsonl").read_bytes() == (whole / "points.jsonl").read_bytes()


def test_of_a_run_that_came_to_its_end_but_for_the_film_it_says_how_to_draw_it(run, clip: Path, whole: Path, tmp_path):
    (tmp_path / "points.jsonl").write_bytes((whole / "points.jsonl").read_bytes())
    done = run("video", clip, "--landmarks", "points.jsonl", "--out", "a film.mp4", "--resume")
    command = f"tabrt draw {clip} points.jsonl --out 'a film.mp4'"
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and done.stderr.rstrip().endswith(command)
    assert run("draw", clip, "points.jsonl", "--out", "a film.mp4").returncode == 0
    again = run("video", clip, "--landmarks", "points.jsonl", "--out", "a film.mp4", "--resume")
    assert again.returncode == 0 and "was finished before" in again.stderr


def test_a_film_that_an_earlier_run_broke_off_is_not_finished(run, clip: Path, whole: Path, tmp_path: Path):
    """The landmarks may have been gone on with alone since."""
    (tmp_path / "points.jsonl").write_bytes((whole / "points.jsonl").read_bytes())
    assert run("video", clip, "--to", "0.2", "--out", "drawn.mp4").returncode == 0
    told = run("video", clip, "--landmarks", "points.jsonl", "--out", "drawn.mp4", "--resume")
    command = f"drawn.mp4 was broken off; draw it: tabrt draw {clip} points.jsonl --out drawn.mp4 --overwrite"
    assert told.returncode == 1 and told.stderr.count("\n") == 1 and told.stderr.rstrip().endswith(command)
    assert run("draw", clip, "points.jsonl", "--out", "drawn.mp4", "--overwrite").returncode == 0
    again = run("video", clip, "--landmarks", "points.jsonl", "--out", "drawn.mp4", "--resume")
    assert again.returncode == 0 and "was finished before" in again.stderr


@pytest.mark.parametrize("first", [True, False])
def test_crops_are_gone_on_with_only_where_they_were_begun(clip: Path, whole: Path, tmp_path: Path, first: bool):
    path = broken_off(whole, tmp_path / "points.jsonl", 9)
    if first:
        header, rest = path.read_text().split("\n", 1)
        path.write_text(json.dumps(json.loads(header) | {"crops": {"align": "plain"}}) + "\n" + rest)
    before, crops = path.read_bytes(), None if first else str(tmp_path / "crops")
    said = "of a run with crops; give --crops as then" if first else "of a run without crops; leave --crops out"
    with pytest.raises(TabrtError, match=said):
        video(VideoOptions(source=str(clip), landmarks=str(path), crops=crops, resume=True))
    assert path.read_bytes() == before and not (tmp_path / "crops").exists()


@posix
@pytest.mark.parametrize("hide", [None, "black"])
def test_who_stops_a_run_hears_what_is_kept(clip: Path, tmp_path: Path, tracker: Tracker, monkeypatch, hide):
    tracker.reset()
    out, points = tmp_path / "drawn.mp4", tmp_path / "points.jsonl"
    options = VideoOptions(source=str(clip), out=str(out), landmarks=str(points), hide=hide)
    monkeypatch.setattr("tabrt.commands.video.DEPTH", 1)
    interrupt = partial(signal.pthread_kill, threading.main_thread().ident, signal.SIGINT)
    before = signal.signal(signal.SIGINT, Ending(3.0))
    try:
        with pytest.raises(SystemExit) as stopped:
            video(options, Doing(tracker, 12, interrupt))
    finally:
        signal.signal(signal.SIGINT, before)
    if hide is not None:  # which looks a second ahead: no frame is written yet
        assert not out.exists() and stopped.value.__notes__ == ["nothing was written yet"]
        return
    kept, remedy = stopped.value.__notes__
    assert re.fullmatch(r"\d+ frames are kept", kept) and "--resume" in remedy
    count = len(read_landmarks(points).frames)
    assert 5 < count < 16 and abs(int(kept.split()[0]) - count) <= 1


def test_how_to_go_on_is_told_only_where_one_can(clip: Path):
    def told(**options: object) -> str | None:
        return _going_on(VideoOptions(source=str(clip), **options))

    assert "--resume" in told(landmarks="a.jsonl")
    assert told(out="a.mp4") is told(landmarks="a.csv") is told(landmarks="-") is told(landmarks="a.parquet") is None
    assert told(landmarks="a.jsonl", called="s3://there/a.mp4") is None
    assert told(landmarks="a.jsonl", out="a.mp4", draw="boundaries") is None


def test_a_landmark_file_with_a_field_of_view_that_told_nothing_is_drawn(clip: Path, whole: Path, tmp_path: Path):
    head, *lines = (whole / "points.jsonl").read_text().splitlines(keepends=True)
    told = json.loads(head)
    told["options"]["fov"] = "70"
    (tmp_path / "points.jsonl").write_text("".join([json.dumps(told) + "\n", *lines]))
    draw(DrawOptions(source=str(clip), landmarks=str(tmp_path / "points.jsonl"), out=str(tmp_path / "a.mp4")))
    assert (tmp_path / "a.mp4").stat().st_size > 0


@pytest.mark.parametrize("length", [0, 1, 12, 60])
def test_a_run_that_was_stopped_within_the_first_line_is_begun_again(
    clip: Path, whole: Path, tmp_path: Path, length: int
):
    path = tmp_path / "points.jsonl"
    path.write_bytes((whole / "points.jsonl").read_bytes()[:length])
    jobs, finished = planned(VideosOptions(sources=[str(clip)], landmarks=str(path), resume=True))
    assert len(jobs) == 1 and not finished


def test_notes_without_a_line_end_are_not_replaced(clip: Path, tmp_path: Path):
    path = tmp_path / "notes.jsonl"
    path.write_text("my notes")
    with pytest.raises(TabrtError, match="is there already"):
        planned(VideosOptions(sources=[str(clip)], landmarks=str(path), resume=True))


def test_whom_to_show_is_not_gone_on_with():
    with pytest.raises(typer.BadParameter, match="whom --hide-all-but shows"):
        VideoOptions(source="a.mp4", landmarks="a.jsonl", out="b.mp4", hide="blur", hide_all_but="1", resume=True)


@posix
def test_a_full_disk_while_going_on_leaves_whole_lines(clip: Path, whole: Path, tracker: Tracker, tmp_path: Path):
    path = broken_off(whole, tmp_path / "points.jsonl", 9)
    tracker.reset()
    with full_disk(path.stat().st_size + 6000), pytest.raises(TabrtError, match="free some space"):
        video(VideoOptions(source=str(clip), landmarks=str(path), resume=True), tracker)
    count = len(frames_of(path))
    assert 9 <= count < 16 and [line["frame"] for line in frames_of(path)] == list(range(count))
    tracker.reset()
    video(VideoOptions(source=str(clip), landmarks=str(path), resume=True), tracker)
    assert len(frames_of(path)) == 17
