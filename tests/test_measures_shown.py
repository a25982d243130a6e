"""Where pose and expression are told: landmark files, pictures, the page, the command line."""

from __future__ import annotations

import csv
import json
import math
import urllib.request
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from conftest import CLIP
from made_faces import calm, changed, face, scene, seen, shut_eye

from tabrt.commands.options import ImageOptions, LiveOptions, VideoOptions
from tabrt.commands.video import video
from tabrt.drawing import PALETTE, Drawing, Expression
from tabrt.drawing.expression import _placed
from tabrt.drawing.overlay import Points, label_places
from tabrt.errors import TabrtError
from tabrt.measures import SHAPES, Person
from tabrt.sinks import LandmarkWriter, landmark_lines, read_landmarks
from tabrt.sinks.records import MEASURES
from tabrt.topology import WFLW98

HEADER = {"model": "tab1-lite", "engine": "onnxruntime", "source": "0", "width": 640, "height": 480}
OPEN_MOUTH = changed(((93, 94, 95, 84, 85, 86), (0, 0.25)))


def blinking():
    """Scenes of a person who blinks once and then opens the mouth."""
    person = calm()
    both = shut_eye(right=False)
    both[60:68] = shut_eye(right=True)[60:68]
    heads = [None] * 12 + [both] * 4 + [None] * 4 + [OPEN_MOUTH]
    for index, head in enumerate(heads):
        points = seen(10, -5, 3) if head is None else seen(10, -5, 3, head=head)
        yield scene(face(points, 1, person, index / 30), index=index, time=index / 30)


def write(path: Path, scenes, measures: bool = True) -> Path:
    with LandmarkWriter(path, HEADER, WFLW98, measures=measures) as writer:
        for one in scenes:
            writer(one)
        writer(scene(index=99, time=9.9))
    return path


def test_json_lines_tell_pose_gaze_measures_and_blinks(tmp_path):
    header, *rows = landmark_lines(write(tmp_path / "a.jsonl", blinking()))
    assert header["version"] == 1 and header["measures"] == 1
    first, last = rows[0]["faces"][0], rows[-2]["faces"][0]
    assert [first["pose"][angle] for angle in ("yaw", "pitch", "roll")] == pytest.approx([10, -5, 3], abs=0.2)
    assert first["pose"]["translation"] == pytest.approx([0, 0, 0.6], abs=0.01) and first["pose"]["guessed"] is True
    assert np.linalg.norm(first["pose"]["quaternion"]) == pytest.approx(1, abs=1e-3)
    assert first["eyes"]["left"] > 0.9 and set(first["measures"]) == set(SHAPES)
    assert np.linalg.norm(first["gaze"]["left"]["direction"]) == pytest.approx(1, abs=1e-3)
    assert last["measures"]["jawOpen"] > 0.6
    shut = rows[14]["faces"][0]
    assert shut["gaze"] == {"left": None, "right": None} and "eyeLookInLeft" not in shut["measures"]
    blinks = [row["faces"][0]["blink"] for row in rows[:-1] if "blink" in row["faces"][0]]
    assert len(blinks) == 1 and blinks[0]["time"] == pytest.approx(11 / 30, abs=0.05) and blinks[0]["depth"] > 0.8
    assert rows[-1]["faces"] == []


def test_csv_has_the_same_in_its_last_columns(tmp_path):
    lines = [row["faces"] for row in landmark_lines(write(tmp_path / "a.jsonl", blinking())) if "faces" in row]
    rows = list(csv.DictReader(write(tmp_path / "a.csv", blinking()).open()))
    assert len(rows) == len(lines)
    for row, told in zip(rows[:-1], lines, strict=False):
        assert float(row["yaw"]) == told[0]["pose"]["yaw"] and float(row["head_z"]) == told[0]["pose"]["translation"][2]
        assert float(row["jawOpen"]) == told[0]["measures"]["jawOpen"]
        assert row["eyeLookInLeft"] == str(told[0]["measures"].get("eyeLookInLeft", ""))
        assert row["blink_time"] == str(told[0].get("blink", {}).get("time", ""))
    assert rows[-1]["yaw"] == "" and len(set(map(len, csv.reader((tmp_path / "a.csv").open())))) == 1


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_whoever_reads_version_1_reads_on(tmp_path, suffix):
    plain = read_landmarks(write(tmp_path / f"plain{suffix}", blinking(), measures=False))
    told = read_landmarks(write(tmp_path / f"told{suffix}", blinking()))
    assert np.array_equal(plain.points, told.points, equal_nan=True)
    assert np.array_equal(plain.times, told.times) and np.array_equal(plain.ids, told.ids)
    first = (tmp_path / f"plain{suffix}").read_text().splitlines()
    more = (tmp_path / f"told{suffix}").read_text().splitlines()
    if suffix == ".csv":
        assert all(after.startswith(before) for before, after in zip(first, more, strict=True))
    else:
        old, new = json.loads(first[1])["faces"][0], json.loads(more[1])["faces"][0]
        assert old.items() <= new.items() and not set(new) & {"frame", "time"}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_all_that_measures_tell_is_read_back(tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    rows = list(csv.DictReader(write(tmp_path / "a.csv", blinking()).open()))[:-1]
    read = read_landmarks(write(tmp_path / f"b{suffix}", blinking())).rows.measures
    assert read.shape == (len(rows), len(MEASURES))
    expected = [[float(row[name]) if row[name] else math.nan for name in MEASURES] for row in rows]
    assert np.allclose(read, expected, atol=1e-6, equal_nan=True)
    assert np.nanmax(read[:, MEASURES.index("jawOpen")]) > 0.6
    assert np.isfinite(read[:, MEASURES.index("blink_time")]).sum() == 1


def test_nothing_is_worked_out_that_nobody_asked_for(tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("asked for")

    monkeypatch.setattr("tabrt.measures.person.head_pose", never)
    write(tmp_path / "a.jsonl", [scene(face(seen(), 1, Person()))], measures=False)
    with pytest.raises(AssertionError, match="asked for"):
        write(tmp_path / "b.jsonl", [scene(face(seen(), 1, Person()))])


def test_the_picture_shows_axes_gaze_and_bars():
    plain = scene(face(seen(-25, 0, 0, (0, 0, 0.3), OPEN_MOUTH)))
    drawn = Drawing((Expression(),))(plain).picture.astype(int)
    nose = plain.faces[0].points[54]
    colours = {"x": (90, 90, 255), "y": (110, 225, 110), "out": (255, 170, 90)}
    where = {name: np.argwhere((np.abs(drawn - colour) < 12).all(axis=2))[:, ::-1] for name, colour in colours.items()}
    assert all(len(found) > 10 for found in where.values())
    assert where["x"][:, 0].max() > nose[0] + 20  # to the picture's right
    assert where["y"][:, 1].max() > nose[1] + 20  # down
    assert where["out"][:, 0].max() > nose[0] + 10  # the face is turned to the picture's right
    assert (np.abs(drawn - (90, 245, 255)) < 12).all(axis=2).sum() > 20  # lines of sight
    assert not plain.frame.image.any()


def test_eyes_that_look_the_same_way_have_lines_side_by_side():
    plain = scene(face(seen(-10, -20, 0, (0.1, 0, 0.4), OPEN_MOUTH)))
    drawn = Drawing((Expression(),))(plain).picture.astype(int)
    lines = (np.abs(drawn - (90, 245, 255)) < 12).all(axis=2).astype(np.uint8)
    boxes = cv2.connectedComponentsWithStats(lines)[2][1:]
    ends = []
    for x, y in plain.faces[0].points[96:98]:
        left, top, width, *_ = min(boxes, key=lambda box: abs(box[0] - x) + abs(box[1] + box[3] - y))
        ends.append((left + width - x, top - y))
    assert ends[0][0] > 8 and ends[0][1] < -15  # to the picture's right and up
    np.testing.assert_allclose(ends[0], ends[1], atol=2)


def drawn_at(*places: tuple[float, float, float]) -> tuple[np.ndarray, list]:
    """What is drawn, on white, of faces with open mouths at these places (m); and the faces."""
    plain = scene(*(face(seen(-10, 0, 0, at, OPEN_MOUTH), number) for number, at in enumerate(places, 1)))
    white = replace(plain, frame=replace(plain.frame, image=np.full_like(plain.frame.image, 255)))
    return Drawing((Expression(),))(white).picture, list(plain.faces)


def plates(picture: np.ndarray) -> np.ndarray:
    """Where panels darken a white picture (their background alone)."""
    return (np.abs(picture.astype(int) - 76) <= 1).all(axis=2)


@pytest.mark.parametrize("at", [(0, 0, 0.5), (0.2, 0, 0.5), (-0.2, 0.1, 0.5), (0, 0.15, 0.6)])
def test_the_panel_lies_beside_the_face_and_in_the_picture(at):
    picture, (one,) = drawn_at(at)
    plate = plates(picture)
    assert plate.sum() > 3000
    left, top, right, bottom = (round(side) for side in (one.box.left, one.box.top, one.box.right, one.box.bottom))
    assert plate[max(top, 0) : bottom, max(left, 0) : right].sum() < 0.1 * plate.sum()


def test_panels_of_two_faces_lie_apart():
    both, _ = drawn_at((-0.12, 0, 0.6), (0.12, 0, 0.6))
    alone = [plates(drawn_at(at)[0]).sum() for at in ((-0.12, 0, 0.6), (0.12, 0, 0.6))]
    assert plates(both).sum() > 0.5 * sum(alone)


@pytest.mark.parametrize("at", [(-0.1, 0, 0.2), (0, 0, 0.2), (0.1, 0, 0.2), (0.1, 0, 0.25)])
def test_the_panel_leaves_the_id_to_be_read(at):
    plain = scene(face(seen(-10, 0, 0, at, OPEN_MOUTH), 8))
    points, panel = Points(WFLW98), Expression()
    alone, both = (Drawing(layers)(plain).picture for layers in ((points,), (points, panel)))
    (label,) = label_places(plain.frame.image, plain.faces)
    part = np.s_[int(label.top) : int(label.bottom), int(label.left) : int(label.right)]
    assert alone[part].any() and np.array_equal(alone[part], both[part])


def test_a_panel_says_whose_it_is():
    at = [(-0.12, 0, 0.6), (0.12, 0, 0.6)]
    two = scene(*(face(seen(-10, 0, 0, place, OPEN_MOUTH), number) for number, place in ((2, at[0]), (5, at[1]))))
    drawn = Drawing((Expression(),))(two).picture
    for number in (2, 5):
        assert (drawn == PALETTE[number - 1]).all(axis=2).sum() > 100  # a stripe, beside which the number is


def test_a_panel_stays_while_its_face_trembles_turns_and_speaks():
    people = calm(), calm()
    drawing, rng, columns = Drawing((Expression(),)), np.random.default_rng(0), []
    for index in range(30):
        mouth = changed(((93, 94, 95, 84, 85, 86), (0, rng.uniform(0, 0.3))))
        points = [seen(*rng.normal(0, 4, 3), (x, 0, 0.6), mouth) + rng.normal(0, 1.5, 2) for x in (-0.12, 0.12)]
        faces = [face(points[who], who + 1, people[who], index / 30) for who in (0, 1)]
        drawn = drawing(scene(*faces, index=index, time=index / 30)).picture
        columns.append([np.argwhere((drawn == PALETTE[who]).all(axis=2)).min(axis=0).tolist() for who in (0, 1)])
    moves = np.abs(np.diff(columns, axis=0)).max(axis=2)
    assert (moves == 0).mean() > 0.8 and moves.max() <= 4


def test_a_panel_as_wide_as_a_narrow_picture_keeps_the_size_of_its_letters():
    """A face that comes nearer by a hair changed it in every frame."""
    widths, kept = set(), None
    for index in range(20):
        one = face(seen(0, 0, 0, (0, 0, 0.3 - 0.001 * index), OPEN_MOUTH))
        kept = _placed(np.zeros((300, 260, 3), np.uint8), one, [], kept)
        widths.add(kept.panel.width)
    assert len(widths) == 1 and widths.pop() <= 260


def test_a_panel_goes_along_with_its_face():
    person, drawing = calm(), Drawing((Expression(),))
    for index, x in enumerate(np.linspace(-0.25, 0.25, 60)):
        one = face(seen(-10, 0, 0, (x, 0, 0.8), OPEN_MOUTH), 1, person, index / 30)
        plain = scene(one, index=index, time=index / 30)
        white = replace(plain, frame=replace(plain.frame, image=np.full_like(plain.frame.image, 255)))
        drawn = drawing(white).picture
        plate = plates(drawn)
        top, bottom = round(one.box.top), round(one.box.bottom)
        left, right = round(one.box.left), round(one.box.right)
        assert plate[top:bottom, left:right].sum() < 0.1 * plate.sum()
        stripe = np.argwhere((drawn == PALETTE[0]).all(axis=2))[:, 1].min()
        assert index > 30 or 0 < stripe - one.box.left < 1.3 * one.box.width


def test_a_face_that_fills_the_picture_is_hardly_covered():
    picture, (one,) = drawn_at((0, 0, 0.2))
    assert one.box.height > 0.8 * picture.shape[0]
    assert 0 < plates(picture).sum() < 0.15 * picture[..., 0].size


def test_a_small_face_gets_its_axes_alone():
    picture, (one,) = drawn_at((0, 0, 1.6))
    assert one.box.height < 80
    assert plates(picture).sum() < 4  # a pixel of a soft edge may have that grey by chance, a panel has thousands
    assert not (np.abs(picture.astype(int) - (90, 245, 255)) < 12).all(axis=2).any()  # no lines of sight
    assert (picture.min(axis=2) < 100).any()  # but axes


def test_faces_without_a_pose_and_outside_the_picture_are_no_trouble():
    away = face(seen(at=(0.9, 0.5, 0.6)))
    strange = face(np.full((98, 2), np.nan))
    Drawing((Expression(),))(scene(away, strange)).picture  # noqa: B018


def test_the_page_tells_what_moves_and_the_view_is_the_picture_alone():
    pytest.importorskip("starlette", reason="the page needs the extra 'serve'")
    from live_sources import Opener, ScriptedCapture

    from tabrt.live import LiveCamera, Run
    from tabrt.live.page import Page, about, message

    run = Run(LiveCamera(Opener(ScriptedCapture([])), "desk"))
    data = message(scene(face(seen(12, 0, 0, head=OPEN_MOUTH))), run.status, measures=True)
    row = json.loads(data[4 : 4 + int.from_bytes(data[:4], "big")])
    assert row["faces"][0]["pose"][0] == 12 and row["faces"][0]["measures"]["jawOpen"] > 0.6
    data = message(scene(face(seen())), run.status)
    assert "pose" not in json.loads(data[4 : 4 + int.from_bytes(data[:4], "big")])["faces"][0]
    with closing(Page("127.0.0.1", 0, run, about("desk", "tab1-lite", "onnxruntime"))) as page:
        pages = {}
        for path in ("", "view"):
            with urllib.request.urlopen(page.url + path, timeout=60) as answer:
                pages[path] = answer.read().decode()
                assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert '<html lang="en" class="page">' in pages[""] and '<html lang="en" class="view">' in pages["view"]


def test_a_face_can_be_said_to_be_at_rest():
    from live_sources import Opener, ScriptedCapture

    from tabrt.live import LiveCamera, Resting, Run, Wish
    from tabrt.live.window import Corner, press

    run = Run(LiveCamera(Opener(ScriptedCapture([])), "desk"))
    person, resting = Person(), Resting(run)
    frown = changed(((76, 82), (0, 0.06)))
    frowning = [scene(face(seen(head=frown), 1, person, index / 30)) for index in range(3)]
    resting(frowning[0])
    assert frowning[0].faces[0].measures["mouthFrownLeft"] > 0.5
    press(ord("n"), run, Corner())
    assert run.refresh().neutrals == 1 and Wish("neutral").on is None
    resting(frowning[1])
    assert frowning[2].faces[0].measures["mouthFrownLeft"] < 0.05
    assert "at rest" in run.status.message


def test_a_film_with_measures(tmp_path):
    options = VideoOptions(
        source=str(CLIP), start="6.2", end="6.7", landmarks=str(tmp_path / "a.jsonl"), measures=True, fov="45"
    )
    video(options)
    header, *rows = landmark_lines(tmp_path / "a.jsonl")
    assert header["measures"] == 1
    assert rows[5]["faces"][0]["pose"]["guessed"] is False
    near = rows[5]["faces"][0]["pose"]["translation"][2]
    video(VideoOptions(source=str(CLIP), start="6.2", end="6.3", landmarks=str(tmp_path / "b.jsonl"), measures=True))
    _, other, *_ = landmark_lines(tmp_path / "b.jsonl")
    share = math.tan(math.radians(30)) / math.tan(math.radians(22.5))
    assert near / other["faces"][0]["pose"]["translation"][2] == pytest.approx(share, rel=0.05)


@pytest.mark.parametrize(
    ("fov", "message"), [("0", "field of view"), ("nan", "field of view"), ("none.yml", "cannot read none.yml")]
)
def test_a_field_of_view_that_cannot_be(fov, message):
    with pytest.raises(TabrtError, match=message):
        VideoOptions(source="a.mp4", landmarks="a.csv", measures=True, fov=fov).tracker()


@pytest.mark.parametrize(
    "options",
    [
        lambda **given: VideoOptions(source="a.mp4", landmarks="a.jsonl", **given),
        lambda **given: ImageOptions(sources=["a.jpg"], landmarks="a.jsonl", **given),
        lambda **given: LiveOptions(osc="127.0.0.1:9000", **given),
    ],
    ids=["video", "image", "live"],
)
def test_a_field_of_view_without_measures_is_wrong_usage(options):
    options(fov="60", measures=True)
    with pytest.raises(typer.BadParameter, match="--measures"):
        options(fov="60")


@pytest.mark.parametrize("sent", ["vmc", "openseeface", "ifacialmocap"])
def test_what_avatars_are_sent_needs_the_field_of_view(sent):
    assert LiveOptions(fov="60", **{sent: "127.0.0.1"}).field_of_view == 60


def test_the_head_by_vmc_needs_vmc():
    with pytest.raises(typer.BadParameter, match="--vmc-head"):
        LiveOptions(vmc_head=True)
    assert LiveOptions(window=False, openseeface="127.0.0.1").has_outputs
