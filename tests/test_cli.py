"""The installed command as a process, on real films: what it leaves, what it says, how it ends."""

from __future__ import annotations

import csv
import functools
import http.server
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import CLIP, TIMES, command, environment, posix

from tabrt import __version__
from tabrt.commands.options import DEFAULT_MIN_SCORE, DEFAULT_SMOOTHING, LiveOptions
from tabrt.engines.engine import MODELS
from tabrt.sinks.records import landmark_lines
from tabrt.tracking.smoothing import DEFAULT_STRENGTH
from tabrt.tracking.tracker import MIN_SCORE

Run = Callable[..., subprocess.CompletedProcess]


def picture_times(path: Path) -> list[float]:
    with av.open(str(path)) as film:
        return [round(float(frame.time), 3) for frame in film.decode(video=0)]


def sound_packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as film:
        return [bytes(packet) for packet in film.demux(audio=0) if packet.size]


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as film:
        return [frame.to_ndarray(format="bgr24") for frame in film.decode(video=0)]


def assert_one_line(done: subprocess.CompletedProcess, *words: str) -> None:
    """One stated problem: exit code 1, one line on stderr that says it, no traceback."""
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("tabrt: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


# ------------------------------------------------------------------------------------------------------ what it does


@pytest.fixture(scope="module")
def tracked(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.CompletedProcess]]:
    folder = tmp_path_factory.mktemp("tracked")
    words = [*command(), "video", str(clip), "--out", "out.mp4", "--landmarks", "out.jsonl"]
    done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    yield folder, done


def test_the_film_keeps_its_times_and_sound(tracked, clip: Path):
    folder, _ = tracked
    assert picture_times(folder / "out.mp4") == [time / 1000 for time in TIMES] == picture_times(clip)
    assert sound_packets(folder / "out.mp4") == sound_packets(clip)


def test_the_film_plays_everywhere(tracked):
    folder, _ = tracked
    with av.open(str(folder / "out.mp4")) as film:
        stream = film.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (320, 180)
    head = (folder / "out.mp4").read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")


def test_the_face_is_drawn_where_the_landmarks_are(tracked, clip: Path):
    folder, _ = tracked
    lines = list(landmark_lines(folder / "out.jsonl"))[1:]
    drawn, plain = frames_of(folder / "out.mp4")[-1], frames_of(clip)[-1]
    changed = np.abs(drawn.astype(int) - plain).max(axis=2) > 40
    left, top, right, bottom = lines[-1]["faces"][0]["box"]
    rows, columns = np.nonzero(changed)
    assert len(rows) > 200
    label = 0.8 * (bottom - top)  # the id stands above the face
    assert np.mean((columns > left - 8) & (columns < right + 8) & (rows > top - label) & (rows < bottom + 8)) > 0.95


def test_the_landmark_file_has_a_line_a_frame(tracked, clip: Path):
    folder, _ = tracked
    header, *lines = landmark_lines(folder / "out.jsonl")
    assert (header["format"], header["version"]) == ("tabrt-landmarks", 1)
    assert header["scheme"] == "wflw98" and header["model"] and header["engine"]
    assert (header["source"], header["width"], header["height"]) == (str(clip), 320, 180)
    assert [line["frame"] for line in lines] == list(range(len(TIMES)))
    assert [line["time"] for line in lines] == [time / 1000 for time in TIMES]
    assert [[face["id"] for face in line["faces"]] for line in lines] == [[1]] * len(TIMES)
    assert np.shape(lines[0]["faces"][0]["points"]) == (98, 2)
    assert np.shape(lines[0]["faces"][0]["confidence"]) == (98,)


def test_the_closing_lines_say_what_was_done_and_where_the_time_went(tracked):
    _, done = tracked
    assert f"{len(TIMES)} frames in" in done.stderr
    assert "faces 1" in done.stderr
    for stage in ("decode", "detect", "crop", "network", "maps", "smooth", "draw", "encode"):
        assert f"{stage} " in done.stderr
    assert done.stdout == ""


def test_the_landmark_file_says_how_it_was_made(tracked, clip: Path):
    header = next(landmark_lines(tracked[0] / "out.jsonl"))
    assert (header["model"], header["clock"], header["tabrt"]) == ("tab1-lite", "film", __version__)
    assert datetime.fromisoformat(header["written"]).tzinfo is not None
    assert (header["settings"]["faces"], header["settings"]["smoothing"]) == (4, DEFAULT_SMOOTHING)
    assert header["settings"]["precision"] in ("fp32", "int8")
    assert header["weights"]["name"] == "tab1-lite"


def test_a_model_of_ones_own_is_not_called_by_another_name(run: Run, clip: Path, tmp_path: Path):
    shutil.copy(MODELS["tab1-lite"], tmp_path / "mine.onnx")
    assert run("video", clip, "--landmarks", "out.jsonl", "--model", "mine.onnx").returncode == 0
    header = next(landmark_lines(tmp_path / "out.jsonl"))
    assert (header["model"], header["weights"]["name"], header["settings"]["precision"]) == (
        *("mine.onnx", "tab1-lite", "fp32"),
    )


def test_landmarks_alone_as_csv(run: Run, clip: Path, tmp_path: Path):
    done = run("video", clip, "--landmarks", "out.csv")
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["frame"]) for row in rows] == list(range(len(TIMES)))
    assert {"id", "score", "left", "x0", "y0", "c0", "x97", "y97", "c97"} <= rows[0].keys()
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_landmarks_to_standard_output(run: Run, clip: Path):
    done = run("video", clip, "--landmarks", "-")
    assert done.returncode == 0, done.stderr
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 1 + len(TIMES)


def test_landmarks_to_what_is_no_file_are_json(clip: Path, tmp_path: Path):
    """As the shell's >(…) and /dev/stdout are."""
    words = shlex.join([*command(), "video", str(clip), "--landmarks", "/dev/stdout"])
    done = subprocess.run(
        f"{words} | cat", shell=True, env=environment(), stdout=subprocess.PIPE, text=True, timeout=300
    )
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 1 + len(TIMES)


def test_no_overlay_leaves_the_pictures_alone(run: Run, clip: Path, tmp_path: Path):
    assert run("video", clip, "--out", "plain.mp4", "--no-overlay", "--crf", "10").returncode == 0
    for ours, theirs in zip(frames_of(tmp_path / "plain.mp4"), frames_of(clip), strict=True):
        assert np.abs(ours.astype(int) - theirs).mean() < 3


def test_boundaries_are_drawn(run: Run, clip: Path, tmp_path: Path, tracked):
    assert run("video", clip, "--out", "maps.mp4", "--draw", "boundaries").returncode == 0
    with_points = frames_of(tracked[0] / "out.mp4")[-1].astype(int)
    assert np.abs(frames_of(tmp_path / "maps.mp4")[-1] - with_points).max() > 40


def test_a_film_from_standard_input(run: Run, clip: Path, tmp_path: Path):
    with open(_as_mkv(clip, tmp_path / "in.mkv"), "rb") as film:
        done = run("video", "-", "--landmarks", "out.jsonl", stdin=film)
    assert done.returncode == 0, done.stderr
    assert len(list(landmark_lines(tmp_path / "out.jsonl"))) == 1 + len(TIMES)


def test_a_film_that_cannot_be_read_as_it_comes_is_one_line_with_the_remedy(run: Run, tmp_path: Path):
    """An mp4 with its index at the end, through a pipe."""
    with av.open(str(CLIP)) as film, av.open(str(tmp_path / "end.mp4"), "w") as out:  # no faststart
        stream = out.add_stream_from_template(film.streams.video[0])
        for packet in film.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    with subprocess.Popen(["cat", tmp_path / "end.mp4"], stdout=subprocess.PIPE) as pipe:
        done = run("video", "-", "--landmarks", "out.jsonl", stdin=pipe.stdout)
        pipe.stdout.close()
    assert_one_line(done, "name a file, or pipe mkv")


def _as_mkv(source: Path, path: Path) -> Path:
    with av.open(str(source)) as film, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(film.streams.video[0])
        for packet in film.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    return path


def test_pictures(run: Run, clip: Path, tmp_path: Path):
    frames = frames_of(clip)
    (tmp_path / "in").mkdir()
    for name, frame in (("b.png", frames[0]), ("a.jpg", frames[-1])):
        cv2.imwrite(str(tmp_path / "in" / name), frame)
    done = run("image", "in", "--out", "drawn", "--landmarks", "points.jsonl")
    assert done.returncode == 0, done.stderr
    header, *lines = landmark_lines(tmp_path / "points.jsonl")
    assert header["source"] == ["in/a.jpg", "in/b.png"]
    assert [len(line["faces"]) for line in lines] == [1, 1]
    for name in ("a.jpg", "b.png"):
        before, after = (cv2.imread(str(tmp_path / folder / name)) for folder in ("in", "drawn"))
        assert before.shape == after.shape
        assert np.abs(before.astype(int) - after).max() > 60


def test_each_line_of_pictures_says_which_one_it_is_of_and_all_faces_count(run: Run, clip: Path, tmp_path: Path):
    frame = frames_of(clip)[0]
    (tmp_path / "in").mkdir()
    for name, picture in (("a.png", frame), ("b.png", np.zeros_like(frame)), ("c.png", np.hstack([frame, frame]))):
        cv2.imwrite(str(tmp_path / "in" / name), picture)
    done = run("image", "in/*.png", "--landmarks", "points.csv")  # as no shell has expanded it
    assert done.returncode == 0, done.stderr
    assert "faces 3, in 2 of the pictures" in done.stderr
    with (tmp_path / "points.csv").open(newline="") as file:
        rows = [(row["picture"], row["id"], row["width"]) for row in csv.DictReader(file)]
    assert rows == [
        ("in/a.png", "1", "320"),
        ("in/b.png", "", "320"),
        ("in/c.png", "1", "640"),
        ("in/c.png", "2", "640"),
    ]
    assert run("image", "in", "--landmarks", "points.jsonl").returncode == 0
    header, *lines = landmark_lines(tmp_path / "points.jsonl")
    assert header["clock"] == "none"
    assert [(line["picture"], len(line["faces"])) for line in lines] == [
        ("in/a.png", 1),
        ("in/b.png", 0),
        ("in/c.png", 2),
    ]
    assert_one_line(run("image", "*.bmp", "--landmarks", "none.csv"), "nothing matches the pattern *.bmp")


def test_one_picture_to_one_file(run: Run, clip: Path, tmp_path: Path):
    cv2.imwrite(str(tmp_path / "face.png"), frames_of(clip)[0])
    assert run("image", "face.png", "--out", "drawn.png").returncode == 0
    assert cv2.imread(str(tmp_path / "drawn.png")).shape == (180, 320, 3)


def test_version_and_help(run: Run):
    assert run("--version").stdout == f"tabrt {__version__}\n"
    for name in ("live", "video", "draw", "plot", "image", "export", "bench", "models", "doctor", "demo"):
        assert name in run("--help").stdout
    assert "--landmarks" in run("video", "--help").stdout


def test_the_command_line_smooths_as_the_tracker_does():
    assert DEFAULT_SMOOTHING == DEFAULT_STRENGTH
    assert DEFAULT_MIN_SCORE == MIN_SCORE


def test_doctor_says_what_runs(run: Run):
    done = run("doctor")
    assert done.returncode == 0, done.stderr
    for word in (
        "Packages",
        "mediapipe",
        "Default",
        "Engines",
        "onnxruntime",
        "Detector",
        "Models",
        "tab1-lite",
        "Cameras",
    ):
        assert word in done.stdout
    engines = dict(line.split(maxsplit=1) for line in done.stdout.split("Engines\n")[1].split("\n\n")[0].splitlines())
    assert engines["onnxruntime"] == "runs"
    assert engines.keys() == {"onnxruntime", "openvino", "tensorrt", "torch"}


def test_models_shows_the_cards(run: Run):
    done = run("models")
    assert done.returncode == 0, done.stderr
    for word in ("tab1-lite", "wflw98", "licence", "trained on"):
        assert word in done.stdout


# ------------------------------------------------------------------------------------------------------ wrong usage


@pytest.mark.parametrize(
    "words",
    [
        ["video"],
        ["video", "in.mp4"],
        ["video", "in.mp4", "--out", "out.mp4", "--engine", "abacus"],
        ["video", "in.mp4", "--out", "out.mp4", "--faces", "0"],
        ["video", "in.mp4", "--out", "out.mp4", "--smoothing", "2"],
        ["video", "in.mp4", "--out", "out.mp4", "--model", "tab1-lite", "--hourglasses", "2"],
        ["video", "in.mp4", "--landmarks", "a.jsonl", "--landmarks", "b.jsonl"],
        ["video", "in.mp4", "--out", "out/", "--skip-finished"],
        ["video", "in.mp4", "--landmarks", "out/{name}.csv", "--skip-finished"],
        ["video", "in.mp4", "--landmarks", "out/", "--cluster", "tcp://127.0.0.1:9", "--jobs", "2"],
        ["video", "in.mp4", "--landmarks", "-", "--cluster", "tcp://127.0.0.1:9"],
        ["video", "-", "in.mp4", "--landmarks", "out/", "--jobs", "2"],
        ["video", "in.mp4", "--out", "out.mp4", "--fov", "70"],
        ["live", "--no-window"],
        ["live", "--size", "large"],
        ["image", "--out", "there"],
        ["export"],
        ["paint"],
        ["--paint"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_2(run: Run, words: list[str]):
    done = run(*words)
    assert done.returncode == 2
    assert "Usage: tabrt" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words, needed",
    [
        ("video in.mp4 --landmarks o.jsonl --crf 30", "--out"),
        ("video in.mp4 --landmarks o.jsonl --codec ffv1", "--out"),
        ("video in.mp4 --landmarks o.jsonl --no-overlay", "--out"),
        ("video in.mp4 --crops faces --draw boundaries", "--out"),
        ("video in.mp4 --out o.mp4 --no-overlay --draw boundaries", "--overlay"),
        ("video in.mp4 --crops faces --measures", "--landmarks"),
        ("video in.mp4 --out o.mp4 --hide blur --measures", "--landmarks"),
        ("video in.mp4 --out o.mp4 --crops faces --no-overlay --measures", "--overlay"),
        ("live --no-overlay --measures", "--overlay"),
        ("image in.jpg --out o.jpg --crop-margin 1", "--crops"),
        ("image in.jpg --crops faces --crop-align ffhq --crop-margin 1", "ffhq"),
        ("video - --landmarks o.jsonl --jobs 2", "several films"),
        ("live --host 0.0.0.0", "--serve"),
        ("live --no-window --landmarks o.jsonl --hide blur", "--out"),
    ],
)
def test_what_would_change_nothing_is_refused_with_what_it_needs(run: Run, tmp_path: Path, words: str, needed: str):
    done = run(*words.split())
    assert done.returncode == 2
    option = words.split()[-1 if words.split()[-1].startswith("--") else -2]
    said = " ".join(done.stderr.split())
    assert f"Invalid value: {option.replace('--no-', '--')} " in said and needed in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        {"serve": 0, "host": "0.0.0.0"},
        {"hide": "blur"},
        {"overlay": False},
        {"measures": True},
        {"measures": True, "overlay": False, "serve": 0},
        {"measures": True, "hide": "blur", "landmarks": "o.jsonl"},
    ],
)
def test_what_has_something_to_change_is_taken(words: dict):
    LiveOptions(**words)


# -------------------------------------------------------------------------------------------------------- bad input


def _nothing(_clip: Path, path: Path) -> None:
    pass


def _empty(_clip: Path, path: Path) -> None:
    path.touch()


def _text(_clip: Path, path: Path) -> None:
    path.write_text("a film, honestly\n" * 500)


def _sound_only(clip: Path, path: Path) -> None:
    with av.open(str(clip)) as film, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(film.streams.audio[0])
        for packet in film.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)


def _folder(_clip: Path, path: Path) -> None:
    path.mkdir()


def _no_index(clip: Path, path: Path) -> None:
    path.write_bytes(clip.read_bytes()[:400])


def _vast(_clip: Path, path: Path) -> None:
    """A PNG that promises 20000×20000 px in a few bytes."""
    picture = bytearray(cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1])
    picture[16:24] = (20000).to_bytes(4, "big") * 2
    path.write_bytes(picture)


BAD_FILMS = {
    "missing": (_nothing, "no file"),
    "empty": (_empty, "empty"),
    "text": (_text, "no film"),
    "sound only": (_sound_only, "sound only"),
    "empty folder": (_folder, "no pictures"),
    "cut in its head": (_no_index, "lacks its index"),
    "vast": (_vast, "in.mp4"),
}


@pytest.mark.parametrize("name", BAD_FILMS)
def test_a_bad_film_is_one_line(run: Run, clip: Path, tmp_path: Path, name: str):
    make, word = BAD_FILMS[name]
    make(clip, tmp_path / "in.mp4")
    assert_one_line(run("video", "in.mp4", "--out", "out.mp4", "--landmarks", "out.jsonl"), word)
    assert not (tmp_path / "out.mp4").exists()
    assert not (tmp_path / "out.jsonl").exists()


BAD_OPTIONS = {
    "output in no folder": (["--out", "nowhere/out.mp4"], "nowhere"),
    "output is the input": (["--out", "in.mp4"], "in.mp4"),
    "landmarks are the input": (["--landmarks", "in.mp4"], "in.mp4"),
    "output is a folder": (["--out", "."], "folder"),
    "no such format": (["--out", "out.doc"], "out.doc"),
    "no such landmark format": (["--landmarks", "out.xml"], ".jsonl"),
    "no such codec": (["--out", "out.mp4", "--codec", "papyrus"], "papyrus"),
    "no such model": (["--out", "out.mp4", "--model", "tab9"], "tab9"),
    "a model that is none": (["--out", "out.mp4", "--model", "text.onnx"], "text.onnx"),
    "no such build": (["--out", "out.mp4", "--hourglasses", "7"], "tab7-lite"),
    "an engine that cannot run": (["--out", "out.mp4", "--engine", "tensorrt"], ""),
    "a width that does not ship": (["--out", "out.mp4", "--width", "full"], "no weights ship for --width full"),
    "a name that is too long": (["--out", f"{'x' * 300}.mp4"], "File name too long"),
    "one file for all": (["--out", "same.csv", "--landmarks", "same.csv"], "same.csv"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_a_bad_option_is_one_line_and_touches_nothing(run: Run, clip: Path, tmp_path: Path, name: str):
    words, word = BAD_OPTIONS[name]
    (tmp_path / "in.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "text.onnx").write_text("a model, honestly")
    assert_one_line(run("video", "in.mp4", *words), word)
    assert (tmp_path / "in.mp4").read_bytes() == clip.read_bytes()


def test_what_is_there_is_replaced_only_when_told_to(run: Run, clip: Path, tmp_path: Path):
    (tmp_path / "out.jsonl").write_text("the work of a day\n")
    assert_one_line(run("video", clip, "--landmarks", "out.jsonl"), "out.jsonl is there already", "--overwrite")
    assert (tmp_path / "out.jsonl").read_text() == "the work of a day\n"
    assert run("video", clip, "--landmarks", "out.jsonl", "--overwrite").returncode == 0
    assert len(list(landmark_lines(tmp_path / "out.jsonl"))) == 1 + len(TIMES)
    (tmp_path / "made.jsonl").touch()  # as mktemp does
    assert run("video", clip, "--landmarks", "made.jsonl").returncode == 0


def test_names_that_are_no_text(run: Run, clip: Path, tmp_path: Path):
    name = os.fsdecode(b"caf\xe9")
    shutil.copy(clip, tmp_path / f"{name}.mp4")
    done = run("video", f"{name}.mp4", "--landmarks", f"{name}.jsonl")
    assert done.returncode == 0, done.stderr
    assert next(landmark_lines(tmp_path / f"{name}.jsonl"))["source"] == r"caf\xe9.mp4"
    assert_one_line(run("video", f"{name}.mkv", "--landmarks", "b.jsonl"), "no file")


def test_passwords_are_neither_printed_nor_written(run: Run, clip: Path, tmp_path: Path):
    class Films(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_words: object) -> None:
            pass

    handler = functools.partial(Films, directory=str(clip.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://me:geheim@127.0.0.1:{server.server_port}/{clip.name}?token=geheim"
        done = run("video", url, "--landmarks", "out.jsonl")
        server.shutdown()
    assert done.returncode == 0, done.stderr
    lost = run("video", url, "--landmarks", "lost.jsonl")
    assert_one_line(lost, "cannot open http://127.0.0.1:")
    assert "geheim" not in (tmp_path / "out.jsonl").read_text() + done.stderr + lost.stderr


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_change_nothing(clip: Path, tmp_path: Path, closed: str):
    """Nor does a film take the number of a closed one, where libraries would write into it."""
    words = shlex.join([*command(), "video", str(clip), "--out", "out.mp4", "--landmarks", "out.jsonl"])
    done = subprocess.run(f"{words} {closed}", shell=True, cwd=tmp_path, env=environment(), timeout=300)
    assert done.returncode == 0
    assert (
        len(picture_times(tmp_path / "out.mp4")) == len(list(landmark_lines(tmp_path / "out.jsonl"))) - 1 == len(TIMES)
    )


def test_landmarks_to_a_closed_standard_output_are_refused(clip: Path, tmp_path: Path):
    words = shlex.join([*command(), "video", str(clip), "--landmarks", "-"])
    done = subprocess.run(
        f"{words} >&-", shell=True, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True, timeout=300
    )
    assert_one_line(done, "standard output is closed")


@posix
def test_an_unwritable_folder_is_one_line(run: Run, clip: Path):
    assert_one_line(run("video", clip, "--out", "/proc/out.mp4"), "/proc/out.mp4")
    assert_one_line(run("video", clip, "--landmarks", "/proc/out.jsonl"), "/proc/out.jsonl")


@posix
def test_a_full_disk_keeps_what_was_written(run: Run, clip: Path, tmp_path: Path):
    import resource

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    assert_one_line(run("video", clip, "--landmarks", "out.jsonl", preexec_fn=limit), "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes().endswith(b"\n")
    assert len(list(landmark_lines(tmp_path / "out.jsonl"))) > 2
    assert_one_line(run("video", clip, "--landmarks", "/dev/full"), "/dev/full")


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000)], ids=str)
def test_odd_sizes_are_tracked_or_refused_in_one_line(run: Run, tmp_path: Path, size: tuple[int, int]):
    cv2.imwrite(str(tmp_path / "in.png"), np.full((*size, 3), 128, np.uint8))
    done = run("video", "in.png", "--out", "out.mp4", "--landmarks", "out.jsonl")
    if done.returncode:
        assert_one_line(done)
    else:
        assert len(list(landmark_lines(tmp_path / "out.jsonl"))) == 2
        assert len(picture_times(tmp_path / "out.mp4")) == 1


def test_a_damaged_film_is_tracked_beyond_the_damage(run: Run, tmp_path: Path):
    data = bytearray(CLIP.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(1).integers(0, 256, 3000, np.uint8).tobytes()
    (tmp_path / "in.mp4").write_bytes(data)
    done = run("video", "in.mp4", "--landmarks", "out.jsonl", timeout=300)
    assert done.returncode == 0, done.stderr
    lines = list(landmark_lines(tmp_path / "out.jsonl"))[1:]
    assert lines[-1]["time"] > 19
    assert len(lines) > 430


def test_a_picture_that_is_none_is_named_and_the_others_done(run: Run, clip: Path, tmp_path: Path):
    cv2.imwrite(str(tmp_path / "good.png"), frames_of(clip)[0])
    (tmp_path / "bad.jpg").write_text("a picture, honestly")
    assert_one_line(run("image", "bad.jpg", "good.png", "--out", "drawn"), "1 of 2", "bad.jpg")
    assert cv2.imread(str(tmp_path / "drawn" / "good.png")) is not None


def test_a_film_among_pictures_is_named(run: Run, clip: Path, tmp_path: Path):
    shutil.copy(clip, tmp_path / "film.mp4")
    assert_one_line(run("image", "film.mp4", "--landmarks", "a.csv"), "film.mp4 is a film", "tabrt video")


def test_pictures_are_never_written_over_their_originals(run: Run, clip: Path, tmp_path: Path):
    cv2.imwrite(str(tmp_path / "face.png"), frames_of(clip)[0])
    before = (tmp_path / "face.png").read_bytes()
    assert_one_line(run("image", "face.png", "--out", "."), "face.png")
    assert_one_line(run("image", "face.png", "--out", "face.png"), "face.png")
    assert (tmp_path / "face.png").read_bytes() == before


def test_a_bug_is_one_line_too(run: Run, clip: Path, tmp_path: Path):
    (tmp_path / "sitecustomize.py").write_text("import tabrt.errors, sys\nsys.modules['tabrt.commands.video'] = None\n")
    done = run("video", clip, "--landmarks", "out.jsonl", env=environment(PYTHONPATH=str(tmp_path)))
    assert_one_line(done, "please report")
    changes = {"PYTHONPATH": str(tmp_path), "TABRT_DEBUG": "1"}
    assert "Traceback" in run("video", clip, "--landmarks", "out.jsonl", env=environment(**changes)).stderr


# ----------------------------------------------------------------------------------------------------- being stopped


def _started(folder: Path) -> subprocess.Popen:
    """A run on the whole film that has written a few lines."""
    words = [*command(), "video", str(CLIP), "--out", "out.mp4", "--landmarks", "out.jsonl"]
    process = subprocess.Popen(words, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        landmarks = folder / "out.jsonl"
        if landmarks.exists() and landmarks.read_bytes().count(b"\n") > 60:
            return process
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"the run did not get going: {process.communicate()[1]}")


@posix
@pytest.mark.usefixtures("hangups_end")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_closes_the_files(tmp_path: Path, name: str, code: int):
    process = _started(tmp_path)
    process.send_signal(signal.Signals[name])
    _, said = process.communicate(timeout=120)
    assert process.returncode == code
    assert "Traceback" not in said
    times = picture_times(tmp_path / "out.mp4")
    kept = re.fullmatch(r"tabrt: stopped; (\d+) frames are kept; .*--resume.*\n", said)
    assert kept is not None and abs(int(kept[1]) - len(times)) <= 1, said
    lines = list(landmark_lines(tmp_path / "out.jsonl"))[1:]
    assert len(lines) - 1 <= len(times) <= len(lines) + 1
    assert len(times) > 50
    assert sound_packets(tmp_path / "out.mp4")


def test_after_kill_9_both_files_open(tmp_path: Path):
    process = _started(tmp_path)
    process.kill()
    process.communicate()
    data = (tmp_path / "out.jsonl").read_bytes()
    assert data.endswith(b"\n")
    assert [json.loads(line)["frame"] for line in data.splitlines()[1:]] == list(range(data.count(b"\n") - 1))
    assert len(picture_times(tmp_path / "out.mp4")) > 0


@posix
def test_a_stuck_standard_input_does_not_keep_it_from_quitting(tmp_path: Path):
    read_end, write_end = os.pipe()
    words = [*command(), "video", "-", "--landmarks", "out.jsonl"]
    process = subprocess.Popen(words, cwd=tmp_path, env=environment(), stdin=read_end, stderr=subprocess.PIPE)
    time.sleep(3)
    process.terminate()
    assert process.wait(timeout=120) == 143
    os.close(write_end)


def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path, clip: Path):
    words = [*command(), "video", str(CLIP), "--landmarks", "-"]
    process = subprocess.Popen(
        words, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert json.loads(process.stdout.readline())["format"] == "tabrt-landmarks"
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(timeout=120) == 1
    assert len(said.splitlines()) == 1 and "Traceback" not in said
