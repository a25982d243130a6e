"""Many films in one call: what names stand for, where outputs go, what becomes of the others when one fails."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import av
import pytest
import typer
from conftest import CLIP, TIMES, command, environment, posix

from tabrt.commands.films import Board, films, planned
from tabrt.commands.jobs import Outcome
from tabrt.commands.naming import Source, expanded, films_of, targets
from tabrt.commands.options import VideosOptions
from tabrt.commands.progress import Standing
from tabrt.commands.summary import Summary
from tabrt.errors import TabrtError
from tabrt.sinks import landmark_lines

by_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at processes where Linux shows them")
Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touched(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("a film, some day")


def plan(*names: str, **options) -> list[tuple[str, str | None, str | None]]:
    jobs, _ = planned(VideosOptions(sources=list(names), **options))
    return [(job.source, job.out, job.landmarks) for job in jobs]


# --------------------------------------------------------------------------------------------- what names stand for


def test_a_folder_stands_for_the_films_in_it_and_below_it_when_told_to(here: Path):
    touched("in/b.MP4", "in/a.mkv", "in/notes.txt", "in/.hidden.mp4", "in/x/c.mov", "in/.x/d.mp4")
    assert [film.path for film in films_of(["in"])] == ["in/a.mkv", "in/b.MP4"]
    deep = films_of(["in"], recursive=True)
    assert [(film.path, film.below) for film in deep] == [("in/a.mkv", ()), ("in/b.MP4", ()), ("in/x/c.mov", ("x",))]


def test_a_folder_without_films_is_a_film_of_its_pictures(here: Path):
    touched("shots/1.png")
    assert [film.path for film in films_of(["shots"])] == ["shots"]


def test_a_pattern_that_no_shell_expanded_is_expanded_and_a_name_with_brackets_is_a_name(here: Path):
    touched("b.mp4", "a.mp4", "a[1].mp4", "deep/er/c.mp4")
    assert list(expanded(["[ab].mp4"])) == ["a.mp4", "b.mp4"]
    assert list(expanded(["a[1].mp4"])) == ["a[1].mp4"]
    assert list(expanded(["**/c.mp4"])) == ["deep/er/c.mp4"]


def test_each_film_comes_once_however_often_it_is_named(here: Path):
    touched("in/a.mp4", "in/b.mp4")
    assert [film.path for film in films_of(["in/a.mp4", "in", "./in/*.mp4"])] == ["in/a.mp4", "in/b.mp4"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a/b.tar.mp4", "b.tar"),
        ("-", "stdin"),
        ("http://me:pw@host/films/talk.mp4?token=x", "talk"),
        ("shots/shot_%04d.png", "shot"),
    ],
)
def test_what_has_no_plain_name_has_one_too(source: str, name: str):
    assert Source(source).name == name


# ------------------------------------------------------------------------------------------------ where outputs go


def test_outputs_go_into_a_folder_by_their_films_names(here: Path):
    touched("a.mp4", "b.avi", "c.webm")
    assert plan("a.mp4", "b.avi", "c.webm", out="drawn/", landmarks="points") == [
        ("a.mp4", "drawn/a.mp4", "points/a.jsonl"),
        ("b.avi", "drawn/b.mp4", "points/b.jsonl"),
        ("c.webm", "drawn/c.webm", "points/c.jsonl"),
    ]
    assert not Path("drawn").exists() and not Path("points").exists()  # yet


def test_outputs_keep_the_folders_of_their_films(here: Path):
    touched("in/x/a.mp4", "in/y/a.mp4")
    outputs = plan("in", recursive=True, out="drawn", landmarks="points/{name}/raw_{name}.csv")
    assert outputs == [
        ("in/x/a.mp4", "drawn/x/a.mp4", "points/x/a/raw_a.csv"),
        ("in/y/a.mp4", "drawn/y/a.mp4", "points/y/a/raw_a.csv"),
    ]


def test_one_film_goes_to_the_file_that_is_named(here: Path):
    touched("in/a.mp4")
    assert plan("in", out="b.mp4", landmarks="-") == [("in/a.mp4", "b.mp4", "-")]


def test_what_a_run_has_made_is_no_film_for_the_next(here: Path):
    touched("in/a.mp4")
    touched(*(out for _, out, _ in plan("in", out="in/{name}_drawn.mp4")))
    assert plan("in", out="in/{name}_drawn.mp4", overwrite=True) == [("in/a.mp4", "in/a_drawn.mp4", None)]
    Path("in/a_drawn.mp4").unlink()
    touched(*(out for _, out, _ in plan("in", out="in/drawn")), "in/drawn/gone.mp4")
    assert plan("in", out="in/drawn", recursive=True, overwrite=True) == [("in/a.mp4", "in/drawn/a.mp4", None)]


BAD_PLANS = {
    "two of one name": (["x/a.mp4", "y/a.mp4"], {"out": "drawn"}, "several films are called a.mp4"),
    "all into one file": (["x/a.mp4", "b.mp4"], {"out": "all.mp4"}, "2 films cannot go into one file"),
    "all to standard output": (["x/a.mp4", "b.mp4"], {"landmarks": "-"}, "cannot go into standard output"),
    "over the films": (["x/a.mp4", "b.mp4"], {"out": "x/"}, "x/a.mp4 is read or written already"),
    "over what is there": (["x/a.mp4", "b.mp4"], {"landmarks": "old"}, "--overwrite"),
    "one to the place of another": (["b.mp4", "x/a.mp4"], {"out": "new", "landmarks": "new/{name}.mp4"}, "already"),
    "into what is no folder": (["b.mp4", "x/a.mp4"], {"out": "b.mp4/drawn/"}, "cannot write b.mp4/drawn/b.mp4"),
    "into a folder that nobody makes": (["b.mp4"], {"out": "nowhere/b.mp4"}, "there is no folder nowhere"),
}


@pytest.mark.parametrize("name", BAD_PLANS)
def test_outputs_that_cannot_be_are_refused_before_any_work(here: Path, name: str):
    touched("x/a.mp4", "y/a.mp4", "b.mp4", "old/b.jsonl")
    names, options, problem = BAD_PLANS[name]
    with pytest.raises(TabrtError, match=problem):
        plan(*names, **options)
    assert Path("x/a.mp4").read_text() == Path("old/b.jsonl").read_text() == "a film, some day"
    assert not Path("drawn").exists()


def test_a_file_may_go_into_the_folder_that_is_made_for_others(here: Path):
    touched("b.mp4")
    assert plan("b.mp4", out="new/", landmarks="new/points.csv") == [("b.mp4", "new/b.mp4", "new/points.csv")]


@pytest.mark.parametrize("what", ["--model missing.onnx", "--model broken.onnx", "--codec none", "--engine tensorrt"])
@pytest.mark.parametrize("film", ["in", "in/a.mp4"], ids=["folder", "film"])
def test_what_is_refused_leaves_no_folders(run: Run, here: Path, clip: Path, film: str, what: str):
    Path("in").mkdir()
    shutil.copy(clip, "in/a.mp4")
    shutil.copy(clip, "in/b.mp4")
    Path("broken.onnx").write_bytes(b"no model")
    Path("kept").mkdir()
    words = f"video {film} --out new/drawn/ --landmarks kept/points/{{name}}.jsonl --crops faces {what}"
    assert run(*words.split()).returncode == 1
    assert sorted(map(str, Path().iterdir())) == ["broken.onnx", "in", "kept"] and not list(Path("kept").iterdir())


def test_a_film_that_is_none_leaves_no_folder(run: Run, here: Path):
    touched("a.mp4")
    assert run(*["video", "a.mp4", "--out", "drawn/", "--landmarks", "points/", "--crops", "faces"]).returncode == 1
    assert [str(path) for path in Path().iterdir()] == ["a.mp4"]


def test_pictures_are_named_by_patterns_too(here: Path):
    assert targets("drawn/{name}_face.png", [Source("in/a.jpg")], "pictures", "--out", lambda source: "") == [
        "drawn/a_face.png"
    ]


# ---------------------------------------------------------------------------------------------------- what is done


def lines_in(path: Path) -> int:
    return len(list(landmark_lines(path))) - 1


def test_jobs_are_for_several_films_and_a_folder_may_hold_one(here: Path):
    touched("in/a.mp4")
    for name in ("in/a.mp4", "-", "https://a.example/film.mp4?key=b", "s3://bucket/film.mp4", "frames/%04d.png"):
        with pytest.raises(typer.BadParameter, match="--jobs is about several films"):
            plan(name, landmarks="a.jsonl", jobs=2)
    for names in (["in"], ["in/*.mp4"], ["in/a.mp4", "in/a.mp4"]):
        assert plan(*names, landmarks="points/", jobs=2) == [("in/a.mp4", None, "points/a.jsonl")]


def test_a_folder_of_one_film_is_done_and_told_that_jobs_change_nothing(run: Run, clip: Path, tmp_path: Path):
    (tmp_path / "in").mkdir()
    shutil.copy(clip, tmp_path / "in")
    done = run("video", "in", "--landmarks", "points/", "--jobs", 2)
    assert done.returncode == 0 and "one film alone, for which --jobs 2 changes nothing" in done.stderr


def test_a_model_that_is_not_there_is_told_once_before_anything_is_made(run: Run, clip: Path, tmp_path: Path):
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(clip, tmp_path / name)
    for words in (["--model", "tab9"], ["--width", "full"]):
        done = run("video", "a.mp4", "b.mp4", "--landmarks", "points/", *words)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and not (tmp_path / "points").exists()


def test_what_fails_all_films_alike_is_told_once(run: Run, clip: Path, tmp_path: Path):
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(clip, tmp_path / name)
    (tmp_path / "broken.onnx").write_text("a model, honestly")
    done = run("video", "a.mp4", "b.mp4", "--landmarks", "points/", "--model", "broken.onnx")
    told = [line for line in done.stderr.splitlines() if "broken.onnx" in line]
    assert done.returncode == 1 and len(told) == 1 and told[0].startswith("failed: a.mp4, b.mp4: ")


@pytest.mark.parametrize("jobs", [1, 2])
def test_films_are_done_and_the_one_that_fails_is_named(run: Run, clip: Path, tmp_path: Path, jobs: int):
    (tmp_path / "in").mkdir()
    for name in ("a.mp4", "c.mp4"):
        shutil.copy(clip, tmp_path / "in" / name)
    (tmp_path / "in" / "b.mp4").write_text("a film, honestly\n" * 500)
    done = run("video", "in", "missing.mp4", "--out", "drawn/", "--landmarks", "{name}.jsonl", "--jobs", jobs)
    assert done.returncode == 1
    for name in ("a", "c"):
        assert lines_in(tmp_path / f"{name}.jsonl") == len(TIMES)
        with av.open(str(tmp_path / "drawn" / f"{name}.mp4")) as film:
            assert sum(1 for _ in film.decode(video=0)) == len(TIMES)
    *_, lost, missing, last = done.stderr.splitlines()
    assert "in/b.mp4 is no film" in lost and "no file missing.mp4" in missing
    assert last == "tabrt: 2 of 4 films failed, the others are done; see above"
    table = [line.split() for line in done.stderr.partition("frames/s\n")[2].splitlines()]
    assert [row[:2] for row in table[:3]] == [["in/a.mp4", "16"], ["in/b.mp4", "failed"], ["in/c.mp4", "16"]]
    assert table[4][:5] == ["2", "of", "4", "32", "2"]
    assert not (tmp_path / "drawn" / "b.mp4").exists() and "Traceback" not in done.stderr


@posix
def test_a_film_that_is_not_given_the_room_it_needs_leaves_the_others_theirs(run: Run, clip: Path, tmp_path: Path):
    """A full disk in the middle of several films, as a limit of the size of files."""
    shutil.copy(CLIP, tmp_path / "b_long.mp4")
    for name in ("a.mp4", "c.mp4"):
        shutil.copy(clip, tmp_path / name)

    import resource

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    done = run("video", "*.mp4", "--landmarks", "points/", preexec_fn=limit)
    assert done.returncode == 1
    assert "points/b_long.jsonl (File too large)" in done.stderr.splitlines()[-2]
    assert [lines_in(tmp_path / "points" / f"{name}.jsonl") for name in ("a", "c")] == [len(TIMES)] * 2
    assert (tmp_path / "points" / "b_long.jsonl").read_bytes().endswith(b"\n")
    assert lines_in(tmp_path / "points" / "b_long.jsonl") > len(TIMES)


# ------------------------------------------------------------------------------------------------- what is shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO) -> str:
    """What a board shows of two films, of which one is done and one is begun again."""
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr("tabrt.commands.films.SECONDS_BETWEEN_LINES", 0.0)
    board = Board(["a.mp4", "[b].mp4"])
    board(0, None)
    board(1, None)
    time.sleep(0.01)
    board(0, Standing(5, 10, 1, 25.0))
    board(1, None)
    board.end(Outcome(0, 2.0, problem="it is no film"))
    board.end(Outcome(1, 3.0, Summary(10, 1, {}, (), ())))
    board.close()
    return stderr.getvalue()


def test_without_a_terminal_films_are_told_of_in_lines(monkeypatch: pytest.MonkeyPatch):
    assert shown(monkeypatch, io.StringIO()).splitlines() == [
        "[b].mp4: begun again, for its worker was lost",
        "1 of 2 films: a.mp4 failed",
        "2 of 2 films: [b].mp4 done in 3.0 s",
    ]


def test_on_a_terminal_there_is_a_bar_a_film_and_one_for_all(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = shown(monkeypatch, Terminal())
    for line in ("0 of 2 films", "a.mp4", "1 of 2 films: a.mp4 failed", "2 of 2 films: [b].mp4 done in 3.0 s"):
        assert line in text


# ------------------------------------------------------------------------------------------------- being stopped


@pytest.fixture
def under_way(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Two long films at once, with a few lines of each written, in a session of their own."""
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(CLIP, tmp_path / name)
    words = [*command(), "video", "a.mp4", "b.mp4", "--out", "drawn/", "--landmarks", "points/", "--jobs", "2"]
    options = {"cwd": tmp_path, "env": environment(), "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, start_new_session=True, **options) as process:
        wait_for(lambda: all(written(tmp_path / "points" / f"{name}.jsonl") > 20 for name in "ab"))
        yield process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(come: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not come():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def written(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def workers_of(parent: int) -> list[int]:
    """The processes that do the jobs of a run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            words = stat.read_text().rpartition(")")[2].split()
            if int(words[1]) == parent and words[0] != "Z" and b"spawn_main" in stat.with_name("cmdline").read_bytes():
                found.append(int(stat.parent.name))
    return found


def runs(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def pictures_in_film(path: Path) -> int:
    with av.open(str(path)) as film:
        return sum(1 for _ in film.decode(video=0))


@by_proc
@pytest.mark.parametrize("ending", ["Ctrl-C", "SIGTERM", "SIGKILL"])
def test_several_jobs_end_together_with_what_is_written_kept(under_way: subprocess.Popen, tmp_path: Path, ending: str):
    workers = workers_of(under_way.pid)
    assert len(workers) == 2
    if ending == "Ctrl-C":  # reaches all processes of a terminal
        os.killpg(under_way.pid, signal.SIGINT)
    else:
        under_way.send_signal(signal.Signals[ending])
    said = under_way.communicate(timeout=120)[1]
    assert under_way.returncode == {"Ctrl-C": 130, "SIGTERM": 143, "SIGKILL": -signal.SIGKILL}[ending]
    assert "Traceback" not in said
    wait_for(lambda: not any(map(runs, workers)), seconds=60)
    for name in "ab":
        lines = lines_in(tmp_path / "points" / f"{name}.jsonl")
        assert 20 <= lines < 480 and (tmp_path / "points" / f"{name}.jsonl").read_bytes().endswith(b"\n")
        assert abs(pictures_in_film(tmp_path / "drawn" / f"{name}.mp4") - lines) <= 1


@by_proc
def test_a_process_that_dies_fails_its_film_alone(run: Run, clip: Path, tmp_path: Path):
    shutil.copy(CLIP, tmp_path / "a.mp4")
    for name in ("b.mp4", "c.mp4"):
        shutil.copy(clip, tmp_path / name)
    words = [*command(), "video", "a.mp4", "b.mp4", "c.mp4", "--landmarks", "points/", "--jobs", "2"]
    options = {"cwd": tmp_path, "env": environment(), "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **options) as process:
        wait_for(lambda: written(tmp_path / "points" / "a.jsonl") > 2)
        for worker in workers_of(process.pid):
            if str(tmp_path / "points" / "a.jsonl") in map(os.path.realpath, Path(f"/proc/{worker}/fd").iterdir()):
                os.kill(worker, signal.SIGKILL)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert "a.mp4: the process that did it ended with signal SIGKILL" in said
    assert [lines_in(tmp_path / "points" / f"{name}.jsonl") for name in "bc"] == [len(TIMES)] * 2


# ------------------------------------------------------------------------------------------------- what is done before


def test_what_is_finished_is_passed_over_and_what_was_broken_off_is_done_again(run: Run, clip: Path, tmp_path: Path):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        shutil.copy(clip, tmp_path / name)
    words = ["video", "a.mp4", "b.mp4", "c.mp4", "--out", "drawn/", "--landmarks", "points/", "--skip-finished"]
    first = run(*words)
    assert first.returncode == 0, first.stderr
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}
    assert len(files) == 6
    again = run(*words)
    assert again.returncode == 0 and again.stderr == "3 of 3 films were finished before: a.mp4, b.mp4, c.mp4\n"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")} == files
    broken = tmp_path / "points" / "b.jsonl"
    broken.write_bytes(b"".join(broken.read_bytes().splitlines(keepends=True)[:-4]))  # as a killed run leaves it
    (tmp_path / "drawn" / "c.mp4").unlink()
    third = run(*words)
    assert third.returncode == 0 and "1 of 3 films was finished before: a.mp4" in third.stderr
    assert lines_in(broken) == len(TIMES) and (tmp_path / "drawn" / "c.mp4").exists()
    changed = {path.name for path, time in files.items() if path.stat().st_mtime_ns != time}
    assert changed == {"b.jsonl", "b.mp4", "c.jsonl", "c.mp4"}


@pytest.fixture(scope="module")
def finished(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a film and its landmark file."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copy(clip, folder / "a.mp4")
    films(VideosOptions(sources=[str(folder / "a.mp4")], landmarks=str(folder / "a.jsonl")))
    return folder


@pytest.mark.parametrize("films_of_ids", [False, True])
def test_crops_that_are_not_all_there_are_cut_again(clip: Path, tmp_path: Path, films_of_ids: bool):
    crops = tmp_path / "crops"
    places = {"landmarks": str(tmp_path / "a.jsonl"), "crops": str(crops)}
    wanted = VideosOptions(sources=[str(clip)], crop_films=films_of_ids, skip_finished=True, **places)
    films(wanted)
    assert [len(jobs) for jobs in planned(wanted)] == [0, 1]
    next(crops.glob("**/*.mp4" if films_of_ids else "**/*.png")).unlink()
    assert [len(jobs) for jobs in planned(wanted)] == [1, 0]
    films(wanted)
    assert [len(jobs) for jobs in planned(wanted)] == [0, 1]


def _another_film(folder: Path) -> None:
    data = bytearray((folder / "a.mp4").read_bytes())
    data[-1] ^= 1
    (folder / "a.mp4").write_bytes(data)


def _not_closed(folder: Path) -> None:
    data = (folder / "a.jsonl").read_bytes()
    (folder / "a.jsonl").write_bytes(data[: data.rindex(b"\n", 0, -1) + 1])


def _older_weights(folder: Path) -> None:
    data = (folder / "a.jsonl").read_bytes()
    (folder / "a.jsonl").write_bytes(re.sub(rb'"weights":{[^}]*}', b'"weights":{"name":"tab1-lite","version":0}', data))


def _no_landmark_file(folder: Path) -> None:
    (folder / "a.jsonl").write_text("a note on the film\n")


UNFINISHED = {
    "another film of that name": (_another_film, {}, "refused"),
    "other options": (None, {"start": "0.1"}, "refused"),
    "another smoothing": (None, {"smoothing": 0.2}, "refused"),
    "another network": (None, {"model": "tab2-lite"}, "refused"),
    "older weights": (_older_weights, {}, "refused"),
    "a file of somebody else": (_no_landmark_file, {}, "refused"),
    "broken off": (_not_closed, {}, "done"),
    "crops wanted, too": (None, {"crops": "crops"}, "done"),
    "nothing changed": (None, {}, "passed over"),
    "other threads": (None, {"threads": 1, "engine": "onnxruntime"}, "passed over"),
}


@pytest.mark.parametrize("name", UNFINISHED)
def test_a_film_is_finished_by_what_its_landmark_file_says(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    change, options, becomes = UNFINISHED[name]
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(finished, tmp_path / "in")
    if change:
        change(folder)
    wanted = VideosOptions(
        sources=[str(folder / "a.mp4")], landmarks=str(folder / "a.jsonl"), skip_finished=True, **options
    )
    if becomes == "refused":
        with pytest.raises(TabrtError, match="is there already"):
            planned(wanted)
        assert len(planned(replace(wanted, overwrite=True))[0]) == 1
    else:
        assert [len(jobs) for jobs in planned(wanted)] == ([1, 0] if becomes == "done" else [0, 1])
