"""Films as people have them: tracks, pixels, sizes, clocks and colours that are not the usual ones."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from films import SIZE, close_to, make_film, packets_of, picture, rewrite, times_of

from tabrt.errors import TabrtError
from tabrt.film.colours import HLG, PQ
from tabrt.film.pictures import fit
from tabrt.film.reading import open_film, read_image
from tabrt.film.writing import FilmWriter

DATA = Path(__file__).parent / "data"
CLIP = Path(__file__).parents[1] / "tabrt" / "demo" / "pexels_face.mp4"
CASES = Path(__file__).parents[2] / "shared" / "cases"
with_cases = pytest.mark.skipif(not CASES.exists(), reason="the shared cases are not beside this checkout")


def frames_of(path: Path, **part) -> list:
    with open_film(path, **part) as film:
        return list(film)


def encode(container: av.container.OutputContainer, stream: av.VideoStream, images: list[np.ndarray]) -> None:
    for number, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format=stream.pix_fmt)
        frame.pts, frame.time_base = number, Fraction(1, 30)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


# -- which track


def tracks_film(path: Path, *tracks: tuple[str, int, int, int]) -> Path:
    """A film with a track of pictures for each codec, width, frames and disposition."""
    with av.open(str(path), "w") as container:
        streams = []
        for codec, width, _, disposition in tracks:
            stream = container.add_stream(codec, rate=30)
            stream.width, stream.height = width, width * 9 // 16 // 2 * 2
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.codec_context.time_base = Fraction(1, 30)
            stream.disposition = disposition
            streams.append(stream)
        for stream, (_, width, frames, _) in zip(streams, tracks, strict=True):
            encode(container, stream, [picture(i, (width, stream.height)) for i in range(frames)])
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize(
    "tracks, chosen, noted",
    [
        ([("mjpeg", 32, 1, 0), ("libx264", 96, 12, 1)], 96, True),  # a thumbnail stands before the film
        ([("libx264", 48, 12, 0), ("libx264", 96, 12, 1)], 96, True),  # the second is the default
        ([("libx264", 96, 12, 1), ("libx264", 48, 12, 0)], 96, True),
        ([("mjpeg", 64, 1, 1024), ("libx264", 96, 12, 1)], 96, False),  # a cover
    ],
)
def test_the_track_is_the_film_not_its_thumbnail(tmp_path, suffix, tracks, chosen, noted):
    source = tracks_film(tmp_path / f"a{suffix}", *tracks)
    with open_film(source) as film:
        assert (film.width, len(list(film))) == (chosen, 12)
        if noted or suffix != ".mkv":  # which has no place to mark a cover
            assert any("--track" in note for note in film.notes) == noted
    if noted:
        widths = [frames_of(source, track=number)[0].image.shape[1] for number in (1, 2)]
        assert widths == [track[1] for track in tracks]
        with pytest.raises(TabrtError, match=r"no picture track 3; it has 1 \("):
            open_film(source, track=3)


# -- pixels that are not square


@pytest.mark.parametrize("aspect", [Fraction(64, 45), Fraction(2), Fraction(8, 3), Fraction(8, 9), Fraction(1, 2)])
@pytest.mark.parametrize("rotation", [None, 90])
def test_frames_say_how_wide_their_pixels_are(tmp_path, aspect, rotation):
    source = tmp_path / "a.mp4"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        encode(container, stream, [picture(0)])
    shown = 1 / aspect if rotation else aspect
    with open_film(source) as film:
        frame = next(iter(film))
        assert frame.pixel_aspect == pytest.approx(float(shown))
        assert film.pixel_aspect == shown
        assert frame.image.shape[:2] == (film.height, film.width) == ((96, 64) if rotation else (64, 96))
    rewrite(source, tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == shown
        assert container.streams.video[0].width == frame.image.shape[1]


@pytest.mark.parametrize("aspect", [2.0, 64 / 45, 0.5])
def test_faces_are_told_in_pixels_of_the_film(aspect):
    """The network sees the same picture, however it is stored; points come back in what is stored."""
    from tabrt.tracking.tracker import Tracker

    with open_film(CLIP) as film:
        frame = next(iter(film))
    height, width = frame.image.shape[:2]
    width, height = (round(width / aspect), height) if aspect > 1 else (width, round(height * aspect))
    stored = cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_AREA)
    with Tracker(smoothing=0) as tracker:
        straight = tracker(frame).faces[0]
        tracker.reset()
        scene = tracker(replace(frame, image=stored, pixel_aspect=aspect))
    face = scene.faces[0]
    scale = np.array([width, height]) / frame.image.shape[1::-1]
    expected = (straight.points + 0.5) * scale - 0.5
    assert scene.frame.image is stored
    eyes = np.linalg.norm(straight.points[60] - straight.points[72])
    assert (np.linalg.norm((face.points - expected) / scale, axis=1) / eyes).mean() < 0.02
    assert face.box.left == pytest.approx(face.points[:, 0].min())
    inside = face.crop.to_crop(face.points)
    assert inside.min() > 0 and inside.max() < 256
    assert face.crop.to_frame(inside) == pytest.approx(face.points, abs=1e-3)
    assert face.pose is not None and abs(face.pose.yaw - straight.pose.yaw) < 2


# -- another size in mid-film


@with_cases
def test_a_film_that_changes_size_is_fitted_with_bars(tmp_path):
    source = CASES / "size_change.webm"
    with open_film(source) as film:
        frames = list(film)
        (note,) = film.notes
        assert (film.width, film.height) == (640, 360)
    assert "1.502 s" in note and "640x360" in note
    assert {frame.image.shape for frame in frames} == {(360, 640, 3)}
    upright = frames[50].image
    assert upright[:, :200].max() < 8 and upright[:, 440:].max() < 8, "bars at both sides"
    assert upright[:, 230:410].mean() > 20
    rewrite(source, tmp_path / "b.mp4")
    assert len(times_of(tmp_path / "b.mp4")) == len(frames)


def test_fitting_keeps_the_shape_that_is_shown():
    image = np.full((100, 200, 3), 255, np.uint8)
    for width, height, stretch, bright in ((200, 200, 1, 100), (100, 100, 2, 100), (400, 100, 0.5, 100)):
        fitted = fit(image, width, height, stretch)
        rows = (fitted.max(axis=(1, 2)) > 128).sum()
        columns = (fitted.max(axis=(0, 2)) > 128).sum()
        assert fitted.shape == (height, width, 3)
        assert columns * stretch / rows == pytest.approx(2, abs=0.1)
        assert rows == bright or columns in (width, bright)


# -- clocks


def segment(path: Path, start: float, sound: str = "aac") -> Path:
    """A piece of a longer film, that keeps that film's times: sound from start on, pictures 0.1 s later."""
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as container:
        programme = path.suffix == ".mpg"
        stream = container.add_stream("mpeg2video" if programme else "libx264", rate=30, options={"g": "6"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30) if programme else Fraction(1, 1000)
        track = container.add_stream(sound, rate=48000, layout="mono")
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(picture(number), format="bgr24").reformat(format="yuv420p")
            frame.pts, frame.time_base = round((start + 0.1) * 1000) + number * 33, Fraction(1, 1000)
            if programme:
                frame.pts, frame.time_base = round((start + 0.1) * 30) + number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        tone = (np.sin(np.arange(48000) / 9) * 9000).astype(np.int16)[None]
        samples = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        samples.sample_rate, samples.pts, samples.time_base = 48000, round(start * 48000), Fraction(1, 48000)
        container.mux(track.encode(samples))
        container.mux(track.encode(None))
    return path


def spans(path: Path) -> dict[str, tuple[float, float]]:
    """First and last time of the packets of each kind of track."""
    times: dict[str, list[float]] = {}
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.pts is not None:
                times.setdefault(packet.stream.type, []).append(float(packet.pts * packet.time_base))
    return {kind: (min(each), max(each)) for kind, each in times.items()}


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".ts"])
@pytest.mark.parametrize("start", [1.5, 12.0, 4000.0])
def test_a_piece_of_a_longer_film_starts_at_nought(tmp_path, suffix, start):
    source = segment(tmp_path / f"a{suffix}", start)
    with open_film(source) as film:
        times = [frame.time for frame in film]
        if suffix != ".ts":
            assert film.duration == pytest.approx(1.1, abs=0.15)
    assert times[0] == pytest.approx(0.1, abs=0.03)
    assert len(times) == 30
    writer = rewrite(source, tmp_path / "b.mp4")
    assert writer.notes == []
    there = spans(tmp_path / "b.mp4")
    assert there["video"][0] == pytest.approx(times[0], abs=0.001), "sound and pictures as far apart as they were"
    assert there["audio"] == pytest.approx((0, 0.98), abs=0.06)


def test_sound_that_starts_before_nought_is_kept_beside_its_pictures(tmp_path):
    source = segment(tmp_path / "a.mkv", -0.05, "pcm_s16le")
    assert times_of(source)[0] == pytest.approx(0.05, abs=0.002)
    rewrite(source, tmp_path / "b.mkv")
    before, after = spans(source), spans(tmp_path / "b.mkv")
    assert after["video"][0] - after["audio"][0] == pytest.approx(before["video"][0] - before["audio"][0], abs=0.002)
    assert packets_of(tmp_path / "b.mkv") == packets_of(source)


@pytest.mark.parametrize("suffix", [".ts", ".mpg"])
@pytest.mark.parametrize("starts", [(1.5, 1.5), (100.0, 3.0), (1.5, 3000.0), (1.5, 1.5, 1.5), (5.0, 4.0), (1.5, 2.0)])
def test_joined_pieces_run_on_with_their_sound(tmp_path, suffix, starts):
    sound = "mp2" if suffix == ".mpg" else "aac"
    pieces = [segment(tmp_path / f"{number}{suffix}", start, sound) for number, start in enumerate(starts)]
    source = tmp_path / f"joined{suffix}"
    source.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    count = len(starts)
    with open_film(source) as film:
        times = [frame.time for frame in film]
        assert any("joined" in note for note in film.notes)
    assert len(times) >= 30 * count - 1
    steps = np.diff(times)
    assert steps.min() > 0 and steps.max() < 0.35
    assert times[-1] == pytest.approx(1.1 * count, abs=0.25 * count)
    writer = rewrite(source, tmp_path / "b.mkv")
    there = spans(tmp_path / "b.mkv")
    assert there["audio"][1] == pytest.approx(there["video"][1], abs=0.3)
    kept = sum(map(len, packets_of(tmp_path / "b.mkv"))) / sum(map(len, packets_of(source)))
    assert kept > 0.9, writer.notes


def test_a_damaged_time_is_no_join(tmp_path):
    """One packet half an hour ahead: the rest stays where it is."""
    source = make_film(tmp_path / "a.ts", "mpeg2video", frames=60)
    whole = times_of(source)
    data = bytearray(source.read_bytes())
    heads = [at for at in range(0, len(data), 188) if data[at + 1] & 0x40]
    pes = [data.find(b"\0\0\1\xe0", at, at + 188) for at in heads]
    pes = [at for at in pes if at >= 0]
    data[pes[len(pes) // 2] + 10] ^= 0x40
    source.write_bytes(data)
    times = times_of(source)
    assert len(times) >= len(whole) - 1
    assert max(np.diff(times)) < 0.5
    assert times[-1] == pytest.approx(whole[-1], abs=0.2)


def test_lost_sound_is_told(tmp_path, monkeypatch):
    """Sound whose times run backwards fits in no container."""
    source = make_film(tmp_path / "a.mp4", frames=30, sound=("aac",))
    with open_film(source) as film, FilmWriter(tmp_path / "b.mkv", *SIZE, 30, film=film) as writer:
        put = film.soundtrack().put

        def put_early(packet: av.Packet, horizon: float) -> None:
            packet.pts = packet.dts = 0
            put(packet, horizon)

        monkeypatch.setattr(film.soundtrack(), "put", put_early)
        for frame in film:
            writer.write(frame.image, frame.time)
    (note,) = writer.notes
    assert "sound track 1" in note and "s are lost" in note


# -- colours


def hdr_film(path: Path, transfer: int, values: np.ndarray) -> Path:
    """Grey patches of these coded values (0…1), in 10 bits of BT.2020."""
    image = np.repeat(np.tile(np.repeat(values, 16), (64, 1))[..., None], 3, axis=2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=30, options={"crf": "5", "x265-params": "log-level=error"})
        stream.width, stream.height, stream.pix_fmt = image.shape[1], image.shape[0], "yuv420p10le"
        stream.color_range, stream.colorspace, stream.color_primaries, stream.color_trc = 1, 9, 9, transfer
        for number in range(3):
            frame = av.VideoFrame.from_ndarray((image * 65535).astype(np.uint16), format="rgb48le")
            frame = frame.reformat(format="yuv420p10le", dst_colorspace="BT2020", dst_color_range=1)
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    "transfer, coded",
    [  # of 203 cd/m² (white), a tenth of it, black, and 1000 cd/m²
        (PQ, [0.5807, 0.3556, 0.0, 0.7518]),
        (HLG, [0.75, 0.3413, 0.0, 1.0]),
    ],
)
def test_hdr_looks_as_it_should(tmp_path, transfer, coded):
    source = hdr_film(tmp_path / "a.mp4", transfer, np.array(coded))
    rewrite(source, tmp_path / "b.mp4")
    for path, tolerance in ((source, 4), (tmp_path / "b.mp4", 8)):
        with open_film(path) as film:
            image = list(film)[1].image
            assert any("HDR" in note for note in film.notes) == (path == source)
        notes: list[str] = []
        read_image(path, notes)
        assert any("HDR" in note for note in notes) == (path == source), "said of pictures, too"
        patches = image[32, 8::16].astype(int)
        tenth = round(255 * (1.055 * 0.1 ** (1 / 2.4) - 0.055))
        for patch, grey in zip(patches, (253, tenth, 0, 255), strict=True):
            assert np.abs(patch - grey).max() <= tolerance, (path.name, patches.tolist())
    with av.open(str(tmp_path / "b.mp4")) as container:
        frame = next(container.decode(video=0))
        assert (frame.color_trc, frame.color_primaries, frame.colorspace) == (1, 1, 1), "and says what it is"


def test_skin_in_hdr_is_not_grey():
    with open_film(DATA / "hdr_pq.mov") as film:
        image = next(iter(film)).image
    face = image[150:200, 480:520].reshape(-1, 3).mean(axis=0)
    assert face[2] > face[0] + 20 and face.mean() > 100, "red over blue, and bright"


def test_deep_grey_films_keep_one_range(tmp_path):
    """A bright patch that comes and goes makes nothing else flicker."""
    source = tmp_path / "a.mkv"
    base = np.tile(np.linspace(7000, 9000, 320), (256, 1))
    with av.open(str(source), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = 320, 256, "gray16le"
        for number in range(40):
            image = base.copy()
            if number % 2:
                image[:64, :64] = 11000
            frame = av.VideoFrame.from_ndarray(image.astype(np.uint16), format="gray16le")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames = frames_of(source)
    beside = [frame.image[128:].mean() for frame in frames]
    assert np.abs(np.diff(beside)).max() < 2
    assert np.ptp(frames[0].image) > 250


@with_cases
def test_interlaced_pictures_are_made_whole(tmp_path):
    source = CASES / "interlaced.mpg"

    def combs(image: np.ndarray) -> float:
        """How much neighbouring rows differ more than those two apart."""
        grey = image.mean(axis=2)
        return float(np.abs(np.diff(grey, axis=0)).mean() / (np.abs(grey[2:] - grey[:-2]).mean() + 1e-6))

    with av.open(str(source)) as container:
        raw = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    with open_film(source) as film:
        frames = list(film)
        assert any("deinterlaced" in note for note in film.notes)
    assert len(frames) == len(raw)
    assert np.diff([frame.time for frame in frames]) == pytest.approx(0.04, abs=0.001)
    before, after = (np.mean([combs(image) for image in images]) for images in (raw, [f.image for f in frames]))
    assert after < 0.8 * before
    rewrite(source, tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert not any(frame.interlaced_frame for frame in container.decode(video=0))


def test_progressive_films_are_left_alone(tmp_path):
    with open_film(make_film(tmp_path / "a.mkv", "ffv1", "bgr0")) as film:
        frames = list(film)
        assert film.notes == []
    assert all(np.array_equal(frame.image, picture(frame.index)) for frame in frames)


def test_a_film_with_a_see_through_track_shows_white(tmp_path):
    source = tmp_path / "a.mov"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("qtrle", rate=30)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "argb"
        image = np.dstack([picture(0), np.zeros((64, 96), np.uint8)])
        image[:, 48:, 3] = 255
        frame = av.VideoFrame.from_ndarray(image, format="bgra").reformat(format="argb")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (frame,) = frames_of(source)
    assert (frame.image[:, :47] == 255).all()
    assert close_to(frame.image, 0.9, 0.1, (0, 0, 255))


def test_high_films_that_say_nothing_of_their_colours_are_in_bt709(tmp_path):
    """As players take them; small ones are in BT.601."""
    colour = np.full((64, 64, 3), (30, 40, 200), np.uint8)
    for side, matrix in ((64, "ITU601"), (720, "ITU709")):
        source = tmp_path / f"{side}.mkv"
        with av.open(str(source), "w") as container:
            stream = container.add_stream("ffv1", rate=30)
            stream.width, stream.height, stream.pix_fmt = side, side, "yuv444p"
            stream.codec_context.colorspace = 2
            frame = av.VideoFrame.from_ndarray(cv2.resize(colour, (side, side)), format="bgr24")
            frame = frame.reformat(format="yuv444p", dst_colorspace=matrix)
            frame.colorspace = 2
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        (frame,) = frames_of(source)
        assert np.abs(frame.image[9, 9].astype(int) - colour[9, 9]).max() <= 3, side


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_what_webm_hides_stays_hidden(tmp_path, codec):
    source = tmp_path / "a.webm"
    with av.open(str(source), "w") as container:
        stream = container.add_stream(codec, rate=30, options={"auto-alt-ref": "0"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuva420p"
        stream.metadata["alpha_mode"] = "1"
        image = np.dstack([picture(0), np.zeros((64, 96), np.uint8)])
        image[:, 48:, 3] = 255
        for number in range(6):
            frame = av.VideoFrame.from_ndarray(image, format="bgra").reformat(format="yuva420p")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames = frames_of(source)
    assert len(frames) == 6
    for frame in frames:
        assert frame.image[:, :30].min() > 240
        assert frame.image[40:, 60:].mean() < 140
    assert [frame.index for frame in frames_of(source, start=0.1)] == [3, 4, 5]


def test_sound_that_an_edit_cut_off_is_not_copied(tmp_path):
    """A player starts where the edit list says; what lies before, of pictures and of sound, was cut off by somebody."""
    whole = segment(tmp_path / "a.mkv", 0.0)
    cut = tmp_path / "cut.mp4"
    with av.open(str(whole)) as source, av.open(str(cut), "w") as target:
        streams = [target.add_stream_from_template(stream) for stream in source.streams]
        for packet in source.demux():
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts - 600, packet.dts - 600
                packet.stream = streams[packet.stream_index]
                target.mux(packet)
    times = times_of(cut)
    assert len(times) < 20 and times[0] >= 0
    for suffix in (".mp4", ".mkv"):
        rewrite(cut, tmp_path / f"b{suffix}")
        assert sum(map(len, packets_of(tmp_path / f"b{suffix}"))) < 0.65 * sum(map(len, packets_of(whole)))


def test_a_pipe_of_the_file_system_is_read_once(tmp_path):
    """Nothing looks into it before it is read, and no part of it is sought."""
    source = make_film(tmp_path / "a.mkv", frames=30)
    pipe = tmp_path / "pipe.mkv"
    os.mkfifo(pipe)
    for part, expected in (({}, 30), ({"start": 0.5}, 15)):
        feeder = threading.Thread(target=lambda: pipe.write_bytes(source.read_bytes()), daemon=True)
        feeder.start()
        assert len(frames_of(pipe, **part)) == expected
        feeder.join(5)


def test_an_empty_name_is_no_folder():
    with pytest.raises(TabrtError, match="name of the film is empty"):
        open_film("")


def test_avi_with_pictures_out_of_order_is_steady(tmp_path):
    """AVI has no times of presentation: those that FFmpeg makes up run backwards."""
    source = make_film(tmp_path / "a.avi", frames=40, options={"bf": "3", "g": "20"})
    times = times_of(source)
    assert len(times) == 40
    assert np.diff(times) == pytest.approx(1 / 30, abs=1e-4)


def test_sound_that_changes_its_kind_at_a_join_is_kept(tmp_path):
    """Two channels at 48 kHz, then one at 32: encoded again, it is one track."""
    source = tmp_path / "a.mpg"
    for rate, layout in ((48000, "stereo"), (32000, "mono")):
        piece = tmp_path / "piece.mpg"
        with av.open(str(piece), "w") as container:
            stream = container.add_stream("mpeg2video", rate=30)
            stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
            track = container.add_stream("mp2", rate=rate, layout=layout)
            tone = (np.sin(np.arange(rate) / 9) * 9000).astype(np.int16)
            samples = tone[None] if layout == "mono" else np.repeat(tone, 2)[None]
            sound = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
            sound.sample_rate, sound.pts, sound.time_base = rate, 0, Fraction(1, rate)
            encode(container, stream, [picture(number) for number in range(30)])
            container.mux(track.encode(sound))
            container.mux(track.encode(None))
        source.write_bytes((source.read_bytes() if source.exists() else b"") + piece.read_bytes())
    rewrite(source, tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as container:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        rate = container.streams.audio[0].rate
    assert heard.size / rate == pytest.approx(2, abs=0.3)
    parts = np.array_split(heard, 8)
    assert min(part.std() for part in parts[:3] + parts[5:7]) > 0.1


@pytest.mark.parametrize("whole", [True, False])
def test_a_transport_stream_that_broke_off_is_told(tmp_path, whole):
    """It says no length, but all of its packets have one size."""
    path = make_film(tmp_path / "a.ts", frames=60, options={"g": "15"})
    data = path.read_bytes()
    path.write_bytes(data if whole else data[: 188 * (len(data) // 376) + 100])
    with open_film(path) as film:
        assert len(list(film)) > 20
        assert any("inside a packet: was it cut off?" in note for note in film.notes) is not whole


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_film_that_broke_off_is_told(tmp_path, suffix):
    """A download that stopped in the middle plays to there; that something is missing is said."""
    whole = make_film(tmp_path / "whole.mkv", frames=150, options={"g": "15"})
    rewrite(whole, tmp_path / f"a{suffix}")
    data = (tmp_path / f"a{suffix}").read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: len(data) // 2])
    with open_film(cut) as film:
        last = list(film)[-1].time
        assert 0.5 < last < 4
        assert any("was it cut off?" in note and "5 s" in note for note in film.notes)
    for part in ({}, {"end": 2.0}, {"start": 4.0}):
        with open_film(tmp_path / f"a{suffix}", **part) as film:
            list(film)
            assert film.notes == []
