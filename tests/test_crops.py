"""Faces cut out: they lie as other programs expect them, say where they came from, and can be put back."""

from __future__ import annotations

import csv
import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_faces import seen

import tabrt
from tabrt.commands.films import films
from tabrt.commands.image import image
from tabrt.commands.options import ImageOptions, VideoOptions, VideosOptions
from tabrt.commands.video import video
from tabrt.errors import TabrtError
from tabrt.faces import Face, Frame, Scene
from tabrt.film import FilmWriter, open_film, read_image
from tabrt.geometry import Box
from tabrt.sinks import Aligning, CropFilms, crops, read_landmarks
from tabrt.sinks.records import landmark_lines
from tabrt.topology import AFLW19, WFLW98, to_68

ASTRONAUT = Path(__file__).parent / "data" / "astronaut.png"
TURNED = [seen(roll=roll, yaw=yaw) for roll, yaw in ((0, 0), (40, 0), (-100, 20), (170, -30))]
# insightface/utils/face_align.py, arcface_dst
TEMPLATE = [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
Run = Callable[..., subprocess.CompletedProcess]


def five(points: np.ndarray) -> np.ndarray:
    """Eyes, nose tip and corners of the mouth, (5, 2)."""
    eyes = [points[60:68].mean(axis=0), points[68:76].mean(axis=0)]
    return np.stack([*eyes, points[54], points[76], points[82]])


@pytest.mark.parametrize("points", TURNED)
def test_a_plain_crop_shows_the_face_upright_and_whole(points: np.ndarray):
    crop = tabrt.align(points, size=200, margin=0.3)
    inside = crop.to_crop(points)
    assert abs(WFLW98.roll(inside)) < 1e-6
    low, high = inside.min(axis=0), inside.max(axis=0)
    assert (low + high) / 2 == pytest.approx([99.5, 99.5])
    assert (high - low).max() * 1.6 == pytest.approx(200)


@pytest.mark.parametrize("points", TURNED)
@pytest.mark.parametrize("size", [112, 224, 256])
def test_arcface_is_the_similarity_of_least_squares_to_the_published_template(points: np.ndarray, size: int):
    goal = np.array(TEMPLATE) * (size / 112) if size % 112 == 0 else np.array(TEMPLATE) * 2 + (16, 0)
    source = five(points)
    rows = [[(x, -y, 1, 0), (y, x, 0, 1)] for x, y in source]
    a, b, x, y = np.linalg.lstsq(np.array(rows).reshape(10, 4), goal.ravel(), rcond=None)[0]
    assert tabrt.align(points, "arcface", size).matrix == pytest.approx(np.array([[a, -b, x], [b, a, y]]), abs=1e-6)


def test_arcface_puts_a_face_that_is_the_template_exactly_there():
    points = np.zeros((98, 2))
    places = np.array(
        [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
    )
    points[60:68], points[68:76] = places[0], places[1]
    points[[54, 76, 82]] = places[2:]
    turn = 3 * np.array([[math.cos(1), -math.sin(1)], [math.sin(1), math.cos(1)]])
    crop = tabrt.align(points @ turn.T + (400, 90), "arcface")
    assert five(crop.to_crop(points @ turn.T + (400, 90))) == pytest.approx(places, abs=1e-6)


@pytest.mark.parametrize("points", TURNED)
def test_ffhq_cuts_the_square_of_the_published_preparation(points: np.ndarray):
    """The lines of `recreate_aligned_images` in NVlabs/ffhq-dataset, with its 68 points."""
    old = to_68(points)
    left, right = old[36:42].mean(axis=0), old[42:48].mean(axis=0)
    eyes, across = (left + right) * 0.5, right - left
    down = (old[48] + old[54]) * 0.5 - eyes
    x = across - np.flipud(down) * [-1, 1]
    x /= np.hypot(*x)
    x *= max(np.hypot(*across) * 2.0, np.hypot(*down) * 1.8)
    y = np.flipud(x) * [-1, 1]
    c = eyes + down * 0.1
    quad = np.stack([c - x - y, c - x + y, c + x + y, c + x - y])
    crop = tabrt.align(points, "ffhq", 512)
    corners = crop.to_frame(np.array([(-0.5, -0.5), (-0.5, 511.5), (511.5, 511.5), (511.5, -0.5)]))
    assert corners == pytest.approx(quad, abs=1e-6)


def test_where_pixels_are_not_square_faces_are_cut_as_they_are_shown():
    points = seen(roll=25)
    for alignment in ("plain", "ffhq", "arcface"):
        shown = tabrt.align(points, alignment)
        stored = tabrt.align(points / (1.5, 1), alignment, pixel_aspect=1.5)
        assert stored.to_crop(points / (1.5, 1)) == pytest.approx(shown.to_crop(points))


def test_a_crop_that_is_put_back_is_where_it_was():
    picture = read_image(ASTRONAUT)
    points = seen(roll=20) * 0.5 + (60, 0)
    for alignment in ("plain", "ffhq", "arcface"):
        crop = tabrt.align(points, alignment, 448)
        cut = crop.cut(picture)[:, :, ::-1]
        back = tabrt.put_back(picture, cut, crop.matrix)
        assert np.abs(back.astype(int) - picture).mean() < 1.0
        red = tabrt.put_back(picture, np.full_like(cut, (0, 0, 255)), crop.matrix)
        x, y = np.round(crop.centre).astype(int)
        assert red[y, x].tolist() == [0, 0, 255] and (red[-1, 0] == picture[-1, 0]).all()


@pytest.mark.parametrize(
    "how, problem",
    [
        ({"alignment": "arcface", "size": 200}, "multiple of 112 or 128"),
        ({"size": 5}, "16 to 4096"),
        ({"size": 100_000}, "16 to 4096"),
        ({"alignment": "round"}, "choose plain, ffhq, arcface"),
    ],
)
def test_crops_that_cannot_be_are_named(how: dict, problem: str):
    with pytest.raises(TabrtError, match=problem):
        tabrt.align(seen(), **how)
    with pytest.raises(TabrtError, match=problem):
        Aligning(WFLW98, **how)


def test_a_scheme_without_a_mouth_has_no_crops():
    with pytest.raises(TabrtError, match="aflw19"):
        Aligning(AFLW19)


# --------------------------------------------------------------------------------------------------------- commands


def test_a_film_gives_a_picture_for_each_face_and_a_landmark_file_that_tells_where_it_was(clip: Path, tmp_path: Path):
    points = tmp_path / "points.jsonl"
    options = VideoOptions(source=str(clip), landmarks=str(points), crops=str(tmp_path / "faces"), crop_align="ffhq")
    summary = video(options)
    lines = landmark_lines(points)
    header = next(lines)
    assert header["crops"] == {"alignment": "ffhq", "size": 512}
    written = sorted((tmp_path / "faces").rglob("*.png"))
    with open_film(clip) as film:
        for frame, line in zip(film, lines, strict=False):
            for face in line["faces"]:
                matrix = np.array(line["crops"][str(face["id"])])
                path = tmp_path / "faces" / f"id{face['id']}" / f"{line['frame']:06d}.png"
                written.remove(path)
                cut = cv2.imread(str(path))
                assert cut.shape == (512, 512, 3)
                eyes = np.array(face["points"])[60:76].mean(axis=0)
                x, y = matrix @ (*eyes, 1)
                assert abs(x - 256) < 12 and 190 < y < 256
                back = tabrt.put_back(frame.image, cut, matrix)
                assert np.abs(back.astype(int) - frame.image).mean() < 1.5
    assert not written and read_landmarks(points).points.shape[2] == 98
    assert any("faces cut out: " in line for line in summary.lines)


def test_each_id_can_be_a_film(clip: Path, tmp_path: Path):
    video(VideoOptions(source=str(clip), crops=str(tmp_path / "faces"), crop_films=True, crop_align="arcface"))
    assert [path.name for path in (tmp_path / "faces").iterdir()] == ["id1.mp4"]
    with open_film(clip) as source, open_film(tmp_path / "faces" / "id1.mp4") as film:
        times = [frame.time for frame in source]
        frames = list(film)
    assert frames[0].image.shape == (112, 112, 3)
    assert [frame.time for frame in frames] == pytest.approx([time - times[0] for time in times], abs=1e-3)


def test_the_film_of_an_id_that_is_gone_is_closed_at_once_and_another_goes_on(tmp_path: Path):
    def scene(index: int, *ids: int) -> Scene:
        points = seen() * 0.2
        faces = tuple(Face(number, points, points, np.ones(98), Box.of(points)) for number in ids)
        return Scene(Frame(np.full((96, 128, 3), 90, np.uint8), index, index * 0.5), faces)

    with CropFilms(tmp_path, Aligning(WFLW98, size=64), 2) as sink:
        for index in range(12):
            sink(scene(index, *([1, 2] if index < 3 else [2])))
        with open_film(tmp_path / "id1.mp4") as film:
            assert len(list(film)) == 3
    with open_film(tmp_path / "id2.mp4") as film:
        assert len(list(film)) == 12


def test_of_many_ids_only_so_many_films_are_open_and_nothing_is_lost(tmp_path: Path, monkeypatch):
    is_open: set[Path] = set()
    at_once: list[int] = []

    class Watched(FilmWriter):
        def __init__(self, path: Path, *how: object, **more: object):
            super().__init__(path, *how, **more)
            is_open.add(path)
            at_once.append(len(is_open))

        def close(self) -> None:
            super().close()
            is_open.discard(self.path)

    def scene(index: int, *ids: int) -> Scene:
        points = seen() * 0.2
        faces = tuple(Face(number, points, points, np.ones(98), Box.of(points)) for number in ids)
        return Scene(Frame(np.full((96, 128, 3), 90, np.uint8), index, index * 0.04), faces)

    monkeypatch.setattr(crops, "FilmWriter", Watched)
    monkeypatch.setattr(crops, "MOST_FILMS", 3)
    with CropFilms(tmp_path, Aligning(WFLW98, size=64), 25) as sink:
        for index in range(20):  # a cut in every other frame, and the first id comes back at the end
            sink(scene(index, *([1] if index == 19 else [index // 2 * 2 + 1, index // 2 * 2 + 2])))
    assert max(at_once) == 3 and not is_open
    lengths = {path.name: len(list(open_film(path))) for path in tmp_path.iterdir()}
    assert lengths == {f"id{number}.mp4": 2 for number in range(1, 19)} | {"id19.mp4": 1, "id20.mp4": 1, "id1-2.mp4": 1}
    assert sink.count == len(lengths) == crops.crops_in(tmp_path, films=True)


def test_pictures_give_crops_with_their_names(tmp_path: Path):
    for name in ("one.png", "two.png"):
        (tmp_path / name).write_bytes(ASTRONAUT.read_bytes())
    (tmp_path / "two.jpg").write_bytes(cv2.imencode(".jpg", read_image(ASTRONAUT))[1].tobytes())
    sources = [str(tmp_path / name) for name in ("one.png", "two.png", "two.jpg")]
    table = tmp_path / "points.csv"
    image(ImageOptions(sources=sources, crops=str(tmp_path / "faces"), landmarks=str(table), crop_size=96))
    found = {path.name: cv2.imread(str(path)) for path in (tmp_path / "faces").iterdir()}
    assert set(found) == {"one-1.png", "1-two.png-1.png", "2-two.jpg-1.png"}
    assert {each.shape for each in found.values()} == {(96, 96, 3)}
    with table.open(newline="") as file:
        row = next(csv.DictReader(file))
    points = np.array([(float(row[f"x{i}"]), float(row[f"y{i}"]), 1) for i in range(98)])
    inside = points @ np.array(json.loads(row["crops"])["1"]).T
    assert inside.min() > 0 and inside.max() < 95 and abs(WFLW98.roll(inside)) < 1e-3


def test_pictures_that_cannot_be_read_leave_no_folder(tmp_path: Path):
    (tmp_path / "broken.jpg").write_text("a picture, honestly")
    with pytest.raises(TabrtError):
        image(ImageOptions(sources=[str(tmp_path / "broken.jpg")], crops=str(tmp_path / "faces")))
    assert not (tmp_path / "faces").exists()


def test_several_films_have_a_folder_each(clip: Path, tmp_path: Path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(clip.read_bytes())
    sources = [str(tmp_path / name) for name in ("a.mp4", "b.mp4")]
    films(VideosOptions(sources=sources, crops=str(tmp_path / "faces"), end="0.2"))
    assert sorted(path.name for path in (tmp_path / "faces").iterdir()) == ["a", "b"]
    assert all((tmp_path / "faces" / name / "id1" / "000000.png").is_file() for name in "ab")


def test_of_hidden_faces_only_those_that_are_shown_are_cut_out(clip: Path, tmp_path: Path):
    shown = {"crops": str(tmp_path / "one"), "hide": "black", "hide_all_but": "1", "end": "0.2"}
    video(VideoOptions(source=str(clip), **shown))
    cut = cv2.imread(str(tmp_path / "one" / "id1" / "000000.png"))
    assert cut.std() > 20
    video(VideoOptions(source=str(clip), **shown | {"crops": str(tmp_path / "none"), "hide_all_but": "9"}))
    assert not list((tmp_path / "none").rglob("*.png"))


@pytest.mark.parametrize(
    "words, code, problem",
    [
        (["--crops", "in.mp4"], 1, "is a file"),
        (["--crops", "full"], 1, "--overwrite"),
        (["--crops", "new", "--crop-align", "arcface", "--crop-size", "100"], 1, "112 or 128"),
        (["--crops", "new", "--crop-size", "3"], 1, "it can be 16 to 4096"),
        (["--out", "o.mp4", "--crop-size", "100"], 2, "give --crops"),
        (["--out", "o.mp4", "--crop-films"], 2, "give --crops"),
        (["--crops", "new", "--crop-films", "--faces", "100"], 2, "give --faces 64"),
        (["--out", "o.mp4", "--crops", "new", "--hide", "blur"], 2, "two calls"),
    ],
)
def test_wrong_wishes_are_named(run: Run, clip: Path, tmp_path: Path, words: list[str], code: int, problem: str):
    (tmp_path / "in.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.png").write_bytes(b"kept")
    done = run("video", "in.mp4", *words)
    assert done.returncode == code and problem in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "full" / "kept.png").read_bytes() == b"kept"
    assert not (tmp_path / "new").exists()
