"""Outputs checked before work, pictures, contact sheets, progress."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import CLIP

from tabrt.commands.demo import contact_sheet, demo
from tabrt.commands.image import image
from tabrt.commands.options import DemoOptions, ImageOptions
from tabrt.commands.progress import Progress, Stopwatch, totals, where_time_went
from tabrt.errors import TabrtError
from tabrt.faces import Face, Frame, Scene
from tabrt.files import check_outputs
from tabrt.film.reading import open_film
from tabrt.geometry import Box
from tabrt.live.devices import Camera
from tabrt.live.devices.video4linux import cameras
from tabrt.sinks import landmark_lines, write_image


def small(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (60, 30), interpolation=cv2.INTER_AREA).astype(int)


def face_picture() -> np.ndarray:
    with open_film(CLIP) as film:
        return next(iter(film)).image


# ----------------------------------------------------------------------------------------------------------- outputs


def test_an_output_that_is_an_input_is_refused_by_any_of_its_names(tmp_path: Path):
    film = tmp_path / "in.mp4"
    film.write_bytes(b"film")
    os.link(film, tmp_path / "hard.mp4")
    (tmp_path / "soft.mp4").symlink_to(film)
    for name in ("in.mp4", "hard.mp4", "soft.mp4", "../" + tmp_path.name + "/in.mp4"):
        with pytest.raises(TabrtError, match="already"):
            check_outputs([film], tmp_path / name)


def test_two_outputs_of_one_name_are_refused(tmp_path: Path):
    with pytest.raises(TabrtError, match="already"):
        check_outputs(["in.mp4"], tmp_path / "a.csv", tmp_path / "a.csv")


def test_standard_output_and_new_files_pass(tmp_path: Path):
    check_outputs(["-"], None, "-", tmp_path / "a.mp4", tmp_path / "b.csv")


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(TabrtError, match=r"no folder .*nowhere"):
        check_outputs([], tmp_path / "nowhere" / "a.mp4")


def test_what_a_run_had_done_is_said_with_its_problem():
    def scenes():
        yield Scene(Frame(np.zeros((2, 2, 3), np.uint8)))
        raise TabrtError("the disk is full; free some")

    progress = Progress()
    with pytest.raises(TabrtError, match=r"the disk is full; free some .*after 1 frame"), progress.stated():
        for scene in scenes():
            progress(scene)


# ---------------------------------------------------------------------------------------------------------- pictures


def test_an_upright_face_is_found_in_a_photo_lying_on_its_side(tmp_path: Path):
    upright = face_picture()
    cv2.imwrite(str(tmp_path / "upright.jpg"), upright)
    lying = cv2.imencode(".jpg", cv2.rotate(upright, cv2.ROTATE_90_COUNTERCLOCKWISE))[1].tobytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6: turn clockwise
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    (tmp_path / "lying.jpg").write_bytes(lying[:2] + segment + lying[2:])
    names = [str(tmp_path / name) for name in ("upright.jpg", "lying.jpg")]
    image(ImageOptions(sources=names, out=str(tmp_path / "out"), landmarks=str(tmp_path / "points.jsonl")))
    first, second = (
        np.array(line["faces"][0]["points"]) for line in list(landmark_lines(tmp_path / "points.jsonl"))[1:]
    )
    assert np.linalg.norm(first - second, axis=1).mean() < 3
    assert cv2.imread(str(tmp_path / "out" / "lying.jpg")).shape == upright.shape


def test_a_face_that_the_network_does_not_believe_is_told_of(tmp_path: Path):
    smiley = np.full((360, 360, 3), 255, np.uint8)
    cv2.circle(smiley, (180, 180), 120, (80, 200, 255), -1)
    for x in (140, 220):
        cv2.circle(smiley, (x, 150), 14, (0, 0, 0), -1)
    cv2.ellipse(smiley, (180, 210), (60, 40), 0, 10, 170, (0, 0, 0), 8)
    names = [str(tmp_path / name) for name in ("smiley.png", "grey.png", "face.png")]
    for name, picture in zip(names, (smiley, np.full_like(smiley, 90), face_picture()), strict=True):
        cv2.imwrite(name, picture)
    summary, problem = image(ImageOptions(sources=names, landmarks=str(tmp_path / "points.csv")))
    assert (summary.faces, problem) == (1, None)
    told = [line for line in summary.lines if "does not take for one" in line]
    assert len(told) == 1 and names[0] in told[0] and names[1] not in told[0]


def test_every_picture_that_cannot_be_read_is_named_and_the_others_are_done(tmp_path: Path):
    for name in ("text.jpg", "empty.png"):
        (tmp_path / name).write_text("no picture" * (name == "text.jpg"))
    cv2.imwrite(str(tmp_path / "face.png"), face_picture())
    summary, told = image(ImageOptions(sources=[str(tmp_path)], landmarks=str(tmp_path / "points.jsonl")))
    assert summary.frames == 1 and told is not None
    assert told.startswith("2 of 3 pictures could not be read") and "text.jpg" in told and "empty.png" in told
    assert [line["picture"] for line in list(landmark_lines(tmp_path / "points.jsonl"))[1:]] == [
        str(tmp_path / "face.png")
    ]
    assert "the others are done" in told
    (tmp_path / "face.png").unlink()
    with pytest.raises(TabrtError, match="2 of 2 pictures could not be read.*; the first") as none:
        image(ImageOptions(sources=[str(tmp_path)], landmarks=str(tmp_path / "none.jsonl")))
    assert "others" not in str(none.value)


def test_what_is_the_matter_with_pictures_is_told_of_each_beside_those_that_cannot_be_read(run, tmp_path: Path):
    folder = tmp_path / "photos"
    folder.mkdir()
    data = cv2.imencode(".jpg", face_picture())[1].tobytes()
    for name, share in (("whole.jpg", 1.0), ("half.jpg", 0.5), ("third.jpg", 0.34)):
        (folder / name).write_bytes(data[: int(share * len(data))])
    (folder / "text.jpg").write_text("no picture")
    done = run("image", "photos", "--out", "out")
    lines = done.stderr.splitlines()
    assert lines[0] == "photos/half.jpg, photos/third.jpg: cut short: a part of the picture is missing; copy it again"
    assert lines[-1].startswith("tabrt: 1 of 4 pictures could not be read") and done.returncode == 1
    assert len(list((tmp_path / "out").iterdir())) == 3


@pytest.mark.parametrize("words", ["image face.png --out new/drawn/ --crops faces", "demo --out new/demo"])
def test_a_refused_model_leaves_no_folders(run, tmp_path: Path, words: str):
    cv2.imwrite(str(tmp_path / "face.png"), face_picture())
    for model in ("missing.onnx", "face.png"):
        assert run(*words.split(), "--model", model).returncode == 1
    assert [path.name for path in tmp_path.iterdir()] == ["face.png"]


def test_pictures_of_one_name_are_refused_rather_than_lost(tmp_path: Path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "face.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(TabrtError, match=r"face\.png"):
        image(ImageOptions(sources=[str(tmp_path / "a"), str(tmp_path / "b")], out=str(tmp_path / "out")))


def test_several_pictures_do_not_go_into_one_file(tmp_path: Path):
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(TabrtError, match="folder"):
        image(ImageOptions(sources=[str(tmp_path)], out=str(tmp_path / "out.png")))


def test_a_picture_format_that_does_not_exist_is_named(tmp_path: Path):
    with pytest.raises(TabrtError, match=r"\.png or \.jpg"):
        write_image(tmp_path / "a.doc", np.zeros((4, 4, 3), np.uint8))


# -------------------------------------------------------------------------------------------------------- the demo


def test_the_demo_leaves_a_film_landmarks_and_a_contact_sheet(tmp_path: Path, clip: Path):
    summary, files = demo(DemoOptions(out=tmp_path / "new" / "demo"), clip)
    assert [file.suffix for file in files] == [".mp4", ".jsonl", ".png"]
    assert summary.frames == len(list(landmark_lines(files[1]))) - 1 == 16
    assert summary.faces == 1


def test_a_contact_sheet_shows_frames_from_all_of_the_film(tmp_path: Path):
    contact_sheet(CLIP, tmp_path / "sheet.png")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape == (3 * 270, 4 * 480, 3)
    tiles = [sheet[y : y + 240, x : x + 480] for y in range(0, 810, 270) for x in range(0, 1920, 480)]
    with open_film(CLIP) as film:
        frames = [small(cv2.resize(frame.image, (480, 270))[:240]) for frame in film if frame.index % 8 == 0]
    nearest = [int(np.argmin([np.abs(small(tile) - frame).mean() for frame in frames])) * 8 for tile in tiles]
    assert nearest == sorted(nearest)
    assert nearest[0] < 60 and nearest[-1] > 410


# --------------------------------------------------------------------------------------------------------- progress


def scene_with(*ids: int) -> Scene:
    points = np.zeros((98, 2))
    faces = tuple(Face(number, points, points, np.ones(98), Box(0, 0, 1, 1)) for number in ids)
    return Scene(Frame(np.zeros((2, 2, 3), np.uint8)), faces)


def test_progress_counts_frames_and_faces():
    progress = Progress(total=4)
    for scene in (scene_with(), scene_with(1), scene_with(1, 2), scene_with(3)):
        progress(scene)
    assert "4 frames in" in totals(progress)
    assert "faces 3, in 3 of the frames, at most 2 at once" in totals(progress)
    empty = Progress()
    empty(scene_with())
    assert "no face found" in totals(empty)


def test_without_a_terminal_progress_is_a_line_now_and_then(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr("tabrt.commands.progress.SECONDS_BETWEEN_LINES", -1.0)
    with Progress(total=10) as progress:
        progress(scene_with(1))
    line = sys.stderr.getvalue()
    assert line.startswith("frame 1 of 10, ") and "frames/s, faces 1" in line and line.endswith("s left\n")


def test_on_a_terminal_progress_is_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress(total=2) as progress:
        progress(scene_with(1))
        progress(scene_with(1))
    assert "2 frames" in sys.stderr.getvalue()


def test_a_stopwatch_adds_up_by_stage():
    watch = Stopwatch()
    assert list(watch.each("decode", [1, 2, 3])) == [1, 2, 3]
    with pytest.raises(RuntimeError), watch.stage("draw"):
        raise RuntimeError
    assert watch.seconds.keys() == {"decode", "draw"}
    assert where_time_went({"decode": 0.5, "draw": 0.1}, 100) == "ms a frame, stages overlap: decode 5.0, draw 1.0"


# ---------------------------------------------------------------------------------------------------------- cameras


def test_cameras_are_listed_with_their_names_and_stable_paths(tmp_path: Path):
    for node, name, index in (("video10", "Far", "0"), ("video2", "Near", "0"), ("video3", "Near", "1")):
        (tmp_path / "sys" / node).mkdir(parents=True)
        (tmp_path / "sys" / node / "name").write_text(f"{name}\n")
        (tmp_path / "sys" / node / "index").write_text(f"{index}\n")
    (tmp_path / "dev").mkdir()
    (tmp_path / "by-id").mkdir()
    (tmp_path / "by-id" / "usb-Near").symlink_to("../dev/video2")
    assert cameras(tmp_path / "sys", tmp_path / "by-id") == [
        Camera("/dev/video2", "Near", str(tmp_path / "by-id" / "usb-Near")),
        Camera("/dev/video10", "Far"),
    ]
    assert cameras(tmp_path / "nothing", tmp_path / "nothing") == []
