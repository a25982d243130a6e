"""Hidden faces: all of a head is covered in every mode, also where it was lost, and nothing of it finds its way out."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import CLIP
from made_faces import face, seen

from tabrt.commands.image import image
from tabrt.commands.options import ImageOptions, VideoOptions
from tabrt.commands.video import video
from tabrt.detection import Detector
from tabrt.errors import TabrtError
from tabrt.faces import Face, Frame, Scene
from tabrt.film import open_film, read_image
from tabrt.geometry import Crop
from tabrt.heatmaps import decode
from tabrt.hiding import MODES, Hiding, Region, cover
from tabrt.hiding.covering import PLATE_FEATHER, PLATES, STRONGEST
from tabrt.hiding.report import Report
from tabrt.sinks import read_landmarks
from tabrt.topology import WFLW98
from tabrt.tracking import Tracker
from tabrt.variants import SHIPPED

ASTRONAUT = Path(__file__).parent / "data" / "astronaut.png"
Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="module")
def tracker() -> Iterator[Tracker]:
    with Tracker() as tracker:
        yield tracker


@pytest.fixture(scope="module")
def pictures(tracker: Tracker) -> list[Scene]:
    """Real faces: a portrait, the same tilted, small and at the picture's edge, and frames of a film."""
    portrait = read_image(ASTRONAUT)
    size = portrait.shape[1::-1]
    tilted = cv2.warpAffine(portrait, cv2.getRotationMatrix2D((220, 120), 35, 1), size)
    small = cv2.resize(portrait, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
    edge = np.ascontiguousarray(portrait[:, 190:])
    with open_film(CLIP) as film:
        frames = [frame.image for frame in film if frame.index in (5, 25, 45)]
    scenes = [tracker.still(picture) for picture in (portrait, tilted, small, edge, *frames)]
    assert all(scene.faces for scene in scenes)
    return scenes


def region_of(one: Face, margin: float = 0.2) -> Region:
    return Region.of(one.points, WFLW98.roll(one.points), margin)


def grid(image: np.ndarray) -> np.ndarray:
    """(H·W, 2): the middle of every pixel."""
    return np.stack(np.meshgrid(*map(np.arange, image.shape[1::-1])), axis=-1).reshape(-1, 2)


# ----------------------------------------------------------------------------------------------------------- the cover


@pytest.mark.parametrize("mode", MODES)
def test_neither_network_nor_detector_finds_a_hidden_face(mode, tracker: Tracker, pictures: list[Scene]):
    with closing(Detector()) as detector, Hiding(mode, WFLW98) as hiding:
        for scene in pictures:
            image = scene.frame.image.copy()
            hiding.still(image, scene)
            card = tracker.engine.card
            for one in scene.faces:
                crop = Crop.following(one.points, WFLW98.roll(one.points), card.crop_margin, card.crop_size)
                _, confidence = decode(tracker.engine(crop.cut(image)[None]), card.decoding, card.offset)
                assert confidence.mean() < 0.45  # below which no face is ever taken for one
            assert not tracker.still(image).faces
            regions = [region_of(one) for one in scene.faces]
            boxes = detector(image, 10)
            assert not any(region.holds(box.centre) for box in boxes for region in regions)
    assert not hiding.report.left


@pytest.mark.parametrize("model", SHIPPED)
def test_no_model_takes_a_suit_below_a_hidden_face_for_one(model):
    small = cv2.resize(read_image(ASTRONAUT), None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
    with Tracker(model=model) as tracker, Hiding("black", WFLW98) as hiding:
        scene = tracker.still(small)
        assert len(scene.faces) == 1
        image = small.copy()
        hiding.still(image, scene)
        assert not tracker.still(image).faces


@pytest.mark.parametrize("mode", MODES)
def test_of_the_region_no_pixel_is_left_as_it_was(mode):
    noise = np.random.default_rng(1).integers(0, 256, (240, 320, 3), np.uint8)
    for region in (Region((150, 110), (50, 70), 0.6), Region((4, 230), (40, 45)), Region((160, 120), (12, 15), 2.0)):
        one, other = noise.copy(), 255 - noise
        other[::2] //= 2
        cover(one, region, mode)
        inside = region.radius(grid(one)) <= 1
        fine = (cv2.Laplacian(one, cv2.CV_32F).reshape(-1, 3)[inside]).std()
        assert fine < 0.4 * cv2.Laplacian(noise, cv2.CV_32F).std()
        assert (one.reshape(-1, 3)[inside] != noise.reshape(-1, 3)[inside]).any(axis=1).mean() > 0.95
        far = region.radius(grid(one)) > 1.4
        assert (one.reshape(-1, 3)[far] == noise.reshape(-1, 3)[far]).all()


def test_a_cover_keeps_a_handful_of_colours_only():
    """Two faces whose colours agree on average, and in nothing else, look the same when hidden."""
    rows, columns = np.mgrid[:240, :240]
    checks = (((rows + columns) % 2) * 255).astype(np.uint8)
    one, other = (np.repeat(each[..., None], 3, axis=2) for each in (checks, 255 - checks))
    for mode in MODES:
        covered = [each.copy() for each in (one, other)]
        for each in covered:
            cover(each, Region((120, 120), (60, 70)), mode)
        inside = Region((120, 120), (60, 70)).radius(grid(one)) <= 1
        difference = np.abs(covered[0].astype(int) - covered[1]).reshape(-1, 3)[inside]
        assert difference.max() <= 6


@pytest.mark.parametrize("mode", MODES)
def test_a_stronger_cover_shows_less_and_stays_with_the_head(mode):
    """However strong it is: of the region one or two colours are left, and what lies far from it is as it was."""
    noise = np.random.default_rng(1).integers(0, 256, (240, 320, 3), np.uint8)
    region = Region((150, 110), (40, 50), 0.6)
    radius = region.radius(grid(noise))
    for strength in range(1, STRONGEST + 1):
        covered = noise.copy()
        cover(covered, region, mode, strength)
        flat, before = covered.reshape(-1, 3), noise.reshape(-1, 3)
        _, counts = np.unique(flat[radius <= 1], axis=0, return_counts=True)
        assert np.sort(counts)[-2:].sum() > 0.95 * counts.sum()  # but for the line between the two
        changed = (flat != before).any(axis=1)
        assert changed.sum() < 2.6 * (radius <= 1).sum() and not changed[radius > 2].any()


@pytest.mark.parametrize(("roll", "scale"), [(0.0, 1), (0.5, 0.3), (-2.0, 4)])
def test_a_plate_is_whole_to_its_corners_and_has_a_soft_edge_outside(roll, scale):
    noise = np.random.default_rng(1).integers(0, 256, (round(240 * scale), round(320 * scale), 3), np.uint8)
    region = Region((150 * scale, 110 * scale), (32 * scale, 40 * scale), roll)
    axes = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    size = np.abs((grid(noise) - region.centre) @ axes / region.half).max(axis=1)  # 1 on the rectangle about the region
    for strength, plate in enumerate(PLATES, start=1):
        covered = noise.copy()
        cover(covered, region, "blur", strength)
        changed = np.abs(covered.astype(int) - noise).reshape(-1, 3)
        inside = size <= plate.size
        assert np.ptp(covered.reshape(-1, 3)[inside], axis=0).max() <= 2 * plate.shades
        rim = (size > plate.size) & (size < plate.size + PLATE_FEATHER)
        beyond = size > plate.size + PLATE_FEATHER + 3 / (32 * scale)
        assert 0 < changed[rim].mean() < changed[inside].mean() and not changed[beyond].any()


def test_a_large_cover_hides_to_the_edge_of_its_region_as_a_small_one_does():
    noise = np.random.default_rng(1).integers(0, 256, (1000, 1400, 3), np.uint8)
    region = Region((700, 520), (290, 370), 0.3)
    for mode in MODES:
        covered = noise.copy()
        cover(covered, region, mode)
        inside = region.radius(grid(noise)) <= 1
        fine = cv2.Laplacian(covered, cv2.CV_32F).reshape(-1, 3)[inside].std()
        assert fine < 0.1 * cv2.Laplacian(noise, cv2.CV_32F).std()


def test_the_region_holds_all_points_the_forehead_and_turns_with_the_face():
    for roll in (0, 30, -80):
        points = seen(roll=roll)
        region = Region.of(points, WFLW98.roll(points), 0.2)
        assert (region.radius(points) <= 1).all()
        brows, chin = points[[33, 46]].mean(axis=0), points[16]
        forehead = brows + 0.45 * (brows - chin)
        assert region.holds(tuple(forehead))
        ears = points[[0, 32]] + 0.1 * (points[[0, 32]] - points[[32, 0]])
        assert (region.radius(ears) <= 1).all()
    assert abs(region.roll - math.radians(-80)) < 0.1
    assert min(Region.of(points, 0.0, 0.6).half) > max(region.half)


def test_in_profile_ear_and_back_of_the_cheek_are_hidden():
    points = seen(yaw=75)
    region = Region.of(points, WFLW98.roll(points), 0.2)
    assert (region.radius(points) <= 1).all()
    assert region.half[0] >= 0.75 * region.half[1]


# --------------------------------------------------------------------------------------------------------- over time


class Blind:
    """A detector that sees nothing, so that places alone are tested."""

    def __call__(self, *_arguments: object, **_options: object) -> list:
        return []

    def close(self) -> None:
        pass


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tabrt.hiding.hiding.Detector", Blind)


def scenes_with(places: Iterable[tuple[float, float] | None], step: float = 0.04, number: int = 1) -> list[Scene]:
    """Scenes of a face at each place, or of none, on a picture without one; 0.04 s apart."""
    made = []
    for index, place in enumerate(places):
        faces = () if place is None else (face(seen() * 0.5 + place, number),)
        made.append(Scene(Frame(np.full((360, 640, 3), 128, np.uint8), index, index * step), faces))
    return made


def hidden_at(scene: Scene, place: tuple[float, float]) -> bool:
    """Whether a face at a place, whose points lie about (160, 120) from there, is covered from brows to chin."""
    points = np.round(seen() * 0.5 + place).astype(int)
    inside = ((points >= 0) & (points < (640, 360))).all(axis=1)
    return bool((scene.frame.image[points[inside][:, 1], points[inside][:, 0]] == 0).all())


def hidden(scenes: list[Scene], **options) -> list[Scene]:
    with Hiding("black", WFLW98, **options) as hiding:
        return list(hiding.film(iter(scenes)))


@pytest.mark.usefixtures("blind")
def test_a_face_that_is_lost_for_some_frames_is_hidden_on_its_way():
    way = [(4.0 * index, 20.0) for index in range(40)]
    out = hidden(scenes_with([place if not 10 <= index < 28 else None for index, place in enumerate(way)]))
    assert [scene.frame.index for scene in out] == list(range(40))
    assert all(hidden_at(scene, place) for scene, place in zip(out, way, strict=True))


@pytest.mark.usefixtures("blind")
def test_before_the_first_and_after_the_last_sighting_a_face_is_hidden_for_a_second_and_larger():
    way = [(3.0 * index, 20.0) for index in range(100)]
    out = hidden(scenes_with([place if 45 <= index < 55 else None for index, place in enumerate(way)]))
    covered = [hidden_at(scene, place) for scene, place in zip(out, way, strict=True)]
    assert all(covered[21:79])
    sizes = [int((scene.frame.image == 0).all(axis=2).sum()) for scene in out]
    assert sizes[30] > 1.2 * sizes[50] and sizes[70] > 1.2 * sizes[50]
    assert sizes[5] == sizes[95] == 0


@pytest.mark.usefixtures("blind")
def test_a_film_of_few_frames_a_second_is_hidden_between_two_of_them():
    out = hidden(scenes_with([(0, 20), None, (0, 20), (0, 20), None], step=2.0))
    assert all(hidden_at(scene, (0, 20)) for scene in out)


@pytest.mark.usefixtures("blind")
def test_live_a_lost_face_stays_hidden_and_grows():
    raw = scenes_with([(0, 20)] * 10 + [None] * 60)
    sizes = []
    with Hiding("black", WFLW98) as hiding:
        for scene in raw:
            image = scene.frame.image.copy()
            hiding(image, scene)
            sizes.append(int((image == 0).all(axis=2).sum()))
            assert scene.frame.index > 55 or hidden_at(replace(scene, frame=replace(scene.frame, image=image)), (0, 20))
    assert sizes[9] < sizes[30] < sizes[50]
    assert sizes[69] == 0


@pytest.mark.usefixtures("blind")
def test_after_a_cut_nothing_is_guessed():
    raw = scenes_with([(0, 20)] * 10 + [None] * 10)
    noise = np.random.default_rng(2)
    shots = [cv2.resize(noise.integers(0, 256, (6, 8, 3), np.uint8), (640, 360)) for _ in range(2)]
    raw = [replace(scene, frame=replace(scene.frame, image=shots[scene.frame.index >= 10])) for scene in raw]
    out = hidden(raw)
    assert all(hidden_at(scene, (0, 20)) for scene in out[:10])
    assert all((scene.frame.image == shots[1]).all() for scene in out[10:])


@pytest.mark.usefixtures("blind")
def test_all_but_one_are_hidden_and_ids_that_never_came_are_told():
    left, right = scenes_with([(-100, 20)] * 3), scenes_with([(160, 20)] * 3, number=2)
    both = [replace(one, faces=one.faces + other.faces) for one, other in zip(left, right, strict=True)]
    with Hiding("black", WFLW98, shown=(2, 7)) as hiding:
        out = list(hiding.film(iter(both)))
    assert all(hidden_at(scene, (-100, 20)) for scene in out)
    assert all((scene.frame.image[:, 350:] == 128).all() for scene in out)
    assert "no face had the id 7, which was to be shown" in hiding.notes


@pytest.mark.usefixtures("blind")
def test_what_came_before_a_problem_is_handed_on():
    def broken() -> Iterator[Scene]:
        yield from scenes_with([(0, 20)] * 5)
        raise TabrtError("the film broke off")

    out = []
    with Hiding("black", WFLW98) as hiding, pytest.raises(TabrtError):
        for scene in hiding.film(broken()):
            out.append(scene)
    assert len(out) == 5 and all(hidden_at(scene, (0, 20)) for scene in out)


def test_a_face_that_the_tracker_does_not_know_is_hidden_where_the_detector_sees_it():
    portrait = read_image(ASTRONAUT)
    scene = Scene(Frame(portrait, 0, 0.0))
    image = portrait.copy()
    with Hiding("black", WFLW98) as hiding, closing(Detector()) as detector:
        hiding.still(image, scene)
        assert detector(portrait, 5) and not detector(image, 5)
    assert not hiding.report.left


def test_the_body_below_a_hidden_head_is_not_hidden_as_a_larger_face():
    """A detector takes it for one, and looking closely finds the real face in it, which must not vouch for it."""
    portrait = read_image(ASTRONAUT)
    with closing(Detector()) as detector:
        one = detector(portrait, 1)[0]
        known = Region.around(one, 0.2)
        larger = [one.centre + np.array([(x, y)]) * one.width * 0.8 for x in (-1, 1) for y in (-0.7, 0.9)]
        corners = np.concatenate(larger)
        assert detector.certainty(portrait, corners, 0.0) > 0.5
        assert detector.certainty(portrait, corners, 0.0, known.is_of) < 0.2


def test_the_report_names_stretches_of_frames_and_their_times():
    report = Report()
    for index in range(20):
        picture = Frame(np.zeros((4, 4, 3), np.uint8), index, index / 10)
        report.add(picture, index in (3, 4, 5, 9), index == 12, False)
    lines = report.lines(())
    assert any("4 of 20 frames: 3-5 (0.30-0.50 s), 9 (0.90 s)" in line and "LOOK" in line for line in lines)
    assert any("1 of 20 frames: 12 (1.20 s)" in line for line in lines)


def test_the_report_of_pictures_names_them_and_no_times():
    picture = np.zeros((4, 4, 3), np.uint8)
    several, one = Report(["a.jpg", "b.jpg", "c.jpg"]), Report(["a.jpg"])
    for index in range(3):
        several.add(Frame(picture, index, 0.0), index != 1, index == 1, False)
    one.add(Frame(picture, 0, 0.0), True, True, False)
    assert [line.rpartition(" in ")[2] for line in several.lines(())] == [
        "2 of 3 pictures: a.jpg, c.jpg",
        "1 of 3 pictures: b.jpg",
    ]
    assert [line.rpartition(" in ")[2] for line in one.lines(())] == ["the picture", "the picture"]
    none = Report(["a.jpg", "b.jpg"], frames=2)
    assert "any of 2 pictures" in none.lines(())[0]


def test_live_no_picture_shows_the_face(run: Run, clip: Path, tmp_path: Path):
    words = ["--camera", clip, "--no-window", "--out", "live.mp4", "--hide", "black", "--stop-after", "3"]
    assert run("live", *words).returncode == 0
    with open_film(tmp_path / "live.mp4") as film, closing(Detector()) as detector:
        pictures = [frame.image for frame in film]
        scores = [box.score for each in pictures for box in detector(each, 5)]
        # The face itself has 0.71 and more, a plate now and then 0.47.
        assert pictures and max(scores, default=0.0) < 0.6, scores


# --------------------------------------------------------------------------------------------------------- commands


@pytest.fixture(scope="module")
def telling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of a face whose cover picture, title, chapters, subtitles and track titles could tell who it is."""
    path = tmp_path_factory.mktemp("telling") / "telling.mkv"
    with av.open(str(CLIP)) as film, av.open(str(path), "w") as out:
        out.metadata.update({"title": "Somebody", "comment": "at home"})
        picture = out.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        picture.width, picture.height, picture.pix_fmt = 320, 180, "yuv420p"
        picture.metadata["title"] = "Somebody's camera"
        sound = out.add_stream("aac", rate=44100, layout="mono")
        sound.metadata.update({"title": "Somebody speaks", "language": "eng"})
        times = {"id": 1, "start": 0, "end": 900, "time_base": Fraction(1, 1000)}
        out.set_chapters([times | {"metadata": {"title": "Somebody comes"}}])
        for index, frame in enumerate(film.decode(video=0)):
            if index == 20:
                break
            small = frame.reformat(320, 180, "yuv420p")
            small.pts = None
            out.mux(picture.encode(small))
        out.mux(picture.encode(None))
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 30000), np.float32), format="fltp", layout="mono")
        tone.sample_rate = 44100
        out.mux(sound.encode(tone))
        out.mux(sound.encode(None))
    return path


def test_a_film_is_hidden_and_tells_nothing_of_its_source(telling: Path, tmp_path: Path, tracker: Tracker):
    out = tmp_path / "out.mkv"
    options = VideoOptions(source=str(telling), out=str(out), landmarks=str(tmp_path / "points.jsonl"), hide="blur")
    summary = video(options)
    with open_film(out) as film, closing(Detector()) as detector:
        pictures = [frame.image for frame in film]
        assert len(pictures) == 20 and not any(detector(each, 5) for each in pictures)
        assert not any(tracker.still(each).faces for each in pictures[::6])
    assert b"omebody" in telling.read_bytes() and b"omebody" not in out.read_bytes()
    with av.open(str(out)) as film:
        assert [stream.type for stream in film.streams] == ["video", "audio"]
        assert film.streams.audio[0].metadata.get("language") == "eng" and not film.chapters()
    assert len(read_landmarks(options.landmarks).ids) == 1
    assert any("the detector finds no face in any of 20 frames" in line for line in summary.lines)
    assert "hide" in summary.seconds


def test_a_picture_is_hidden_with_its_thumbnail(tmp_path: Path):
    portrait = read_image(ASTRONAUT)
    _, data = cv2.imencode(".jpg", portrait)
    _, thumbnail = cv2.imencode(".jpg", cv2.resize(portrait, (160, 160)))
    inside = b"Exif\0\0" + thumbnail.tobytes()
    source = tmp_path / "in.jpg"
    marker = b"\xff\xe1" + (len(inside) + 2).to_bytes(2, "big")
    source.write_bytes(data[:2].tobytes() + marker + inside + data[2:].tobytes())
    summary, _ = image(ImageOptions(sources=[str(source)], out=str(tmp_path / "out.jpg"), hide="mosaic"))
    written = (tmp_path / "out.jpg").read_bytes()
    assert b"Exif" not in written and written.count(b"\xff\xd8\xff") == 1
    with closing(Detector()) as detector:
        assert detector(portrait, 5) and not detector(read_image(tmp_path / "out.jpg"), 5)
    assert any("finds no face in the picture" in line for line in summary.lines)


def test_pictures_in_which_a_face_may_be_left_are_told_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    add = Report.add
    monkeypatch.setattr(Report, "add", lambda self, frame, *_: add(self, frame, True, True, False))
    for name in ("one.png", "two.png"):
        cv2.imwrite(str(tmp_path / name), read_image(ASTRONAUT))
    summary, _ = image(ImageOptions(sources=[str(tmp_path)], out=str(tmp_path / "out"), hide="black"))
    told = [line.rpartition(" in ")[2] for line in summary.notes if "LOOK" in line or "worth" in line]
    assert told == [f"2 of 2 pictures: {tmp_path / 'one.png'}, {tmp_path / 'two.png'}"] * 2


def test_of_hidden_faces_nothing_is_drawn_unless_asked_for():
    assert not VideoOptions(source="a", out="b.mp4", hide="blur").drawn
    assert VideoOptions(source="a", out="b.mp4", hide="blur", overlay=True).drawn
    assert VideoOptions(source="a", out="b.mp4").drawn
    assert VideoOptions(source="a", out="b.mp4", hide="blur").most_faces > VideoOptions(source="a", out="b").most_faces


@pytest.mark.parametrize(
    "words, problem",
    [
        (["--hide", "pixelate"], "blur"),
        (["--hide-all-but", "1"], "give --hide blur"),
        (["--margin", "1"], "give --hide blur"),
        (["--hide", "blur", "--hide-all-but", "me"], "give ids like 1 or 1,4"),
        (["--hide", "blur", "--margin", "-1"], "--margin"),
    ],
)
def test_wrong_wishes_are_named(run: Run, clip: Path, words: list[str], problem: str):
    done = run("video", clip, "--out", "o.mp4", *words)
    assert done.returncode == 2 and problem in done.stderr and "Traceback" not in done.stderr


def test_hiding_without_pictures_is_refused(run: Run, clip: Path):
    done = run("video", clip, "--landmarks", "o.jsonl", "--hide", "blur")
    assert done.returncode == 2 and "give --out" in done.stderr
