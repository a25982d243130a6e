from __future__ import annotations

import itertools
import math
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import environment, posix
from films import SIZE, close_to, make_film, packets_of, picture, rewrite, times_of

from tabrt.errors import TabrtError
from tabrt.film import sound as sound_module
from tabrt.film import writing
from tabrt.film.reading import open_film, read_image
from tabrt.film.writing import FilmWriter

CLIP = Path(__file__).parents[1] / "tabrt" / "demo" / "pexels_face.mp4"
SHARED = Path(__file__).parents[2] / "shared" / "videos"


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """The first five seconds of the demo clip, with their sound."""
    if not CLIP.exists():
        pytest.skip("the demo clip is not in this checkout")
    out = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with open_film(CLIP) as film, FilmWriter(out, film.width, film.height, film.rate, film=film) as writer:
        for frame in itertools.islice(film, 120):
            writer.write(frame.image, frame.time)
    return out


# -- reading


@pytest.mark.parametrize(
    "name, codec, pixels",
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mkv", "libx265", "yuv420p10le"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.avi", "mjpeg", "yuvj420p"),
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("a.mkv", "ffv1", "gray"),
        ("a.mkv", "ffv1", "bgra"),
        ("a.mov", "qtrle", "argb"),
        ("a.ts", "mpeg2video", "yuv420p"),
        ("a.mp4", "libx264", "yuv444p"),
        ("a.gif", "gif", "rgb8"),
    ],
)
def test_reads_what_encoders_write(tmp_path, name, codec, pixels):
    quiet = {"x265-params": "log-level=error"} if codec == "libx265" else None
    with open_film(make_film(tmp_path / name, codec, pixels, options=quiet)) as film:
        frames = list(film)
        assert (film.width, film.height) == SIZE
    assert len(frames) == 12
    assert [frame.index for frame in frames] == list(range(12))
    assert all(frame.image.shape == (64, 96, 3) and frame.image.dtype == np.uint8 for frame in frames)
    assert np.diff([frame.time for frame in frames]) == pytest.approx(1 / 30, abs=0.011)
    assert close_to(frames[0].image, 0.1, 0.1, (255, 255, 255))
    if pixels != "gray":
        assert close_to(frames[0].image, 0.9, 0.1, (0, 0, 255))


@pytest.mark.parametrize("size", [(97, 63), (1, 1), (1, 5000), (3, 2)])
def test_odd_and_thin_films_come_in_and_go_out(tmp_path, size):
    source = make_film(tmp_path / "a.mov", "png", "rgb24", frames=3, size=size)
    with open_film(source) as film:
        assert (film.width, film.height) == size
        assert next(iter(film)).image.shape == (size[1], size[0], 3)
    rewrite(source, tmp_path / "b.mp4")
    with open_film(tmp_path / "b.mp4") as film:
        assert (film.width, film.height) == tuple(side + side % 2 for side in size)
        assert len(list(film)) == 3


@pytest.mark.parametrize(
    "rotation, flips, white, red",
    [  # where the white and the red corner are on the screen
        (0, {}, (0.1, 0.1), (0.9, 0.1)),
        (90, {}, (0.1, 0.9), (0.1, 0.1)),
        (-90, {}, (0.9, 0.1), (0.9, 0.9)),
        (180, {}, (0.9, 0.9), (0.1, 0.9)),
        (0, {"hflip": True}, (0.9, 0.1), (0.1, 0.1)),
        (0, {"vflip": True}, (0.1, 0.9), (0.9, 0.9)),
    ],
)
def test_rotation_is_obeyed(tmp_path, rotation, flips, white, red):
    source = make_film(tmp_path / "a.mp4", rotation=rotation, **flips)
    with open_film(source) as film:
        image = next(iter(film)).image
        assert (film.width, film.height) == image.shape[1::-1]
    assert image.shape[:2] == ((96, 64) if abs(rotation) == 90 else (64, 96))
    assert close_to(image, *white, (255, 255, 255))
    assert close_to(image, *red, (0, 0, 255))
    rewrite(source, tmp_path / "b.mp4")
    with open_film(tmp_path / "b.mp4") as film:
        again = next(iter(film)).image
    assert close_to(again, *red, (0, 0, 255)), "the written film is upright without being turned twice"


def test_quarter_turn_matches_pyav_convention(tmp_path):
    """A matrix that is a quarter turn and a mirror at once moves each corner where the matrix says."""
    with open_film(make_film(tmp_path / "a.mp4", rotation=90, hflip=True)) as film:
        image = next(iter(film)).image
    assert close_to(image, 0.9, 0.9, (255, 255, 255))
    assert close_to(image, 0.9, 0.1, (0, 0, 255))


def test_a_film_that_is_read_twice_at_once_gives_the_same(tmp_path):
    source = make_film(tmp_path / "a.mp4")
    with open_film(source) as one, open_film(source) as other:
        for first, second in zip(one, other, strict=True):
            assert np.array_equal(first.image, second.image)


def test_transport_streams_start_at_zero(tmp_path):
    times = times_of(make_film(tmp_path / "a.ts", "mpeg2video"))
    assert times[0] == pytest.approx(0, abs=0.1)
    assert len(times) == 12


def test_reads_standard_input(tmp_path):
    source = make_film(tmp_path / "a.mkv")
    program = "from tabrt.film.reading import open_film\nprint(sum(1 for _ in open_film('-')))"
    with source.open("rb") as stdin:
        done = subprocess.run([sys.executable, "-c", program], stdin=stdin, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "12", done.stderr


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_reads_folders_and_patterns_of_pictures(tmp_path, suffix):
    for number in (0, 1, 2, 10):
        assert cv2.imwrite(str(tmp_path / f"shot_{number}{suffix}"), picture(number))
    (tmp_path / "notes.txt").write_text("not a picture")
    for source in (tmp_path, tmp_path / f"shot_%d{suffix}"):
        with open_film(source) as film:
            frames = list(film)
        assert [frame.time for frame in frames] == [0, 0.04, 0.08, 0.12]
        last = read_image(tmp_path / f"shot_10{suffix}")
        assert np.array_equal(frames[-1].image, last), "shot_10 comes after shot_2"
    rewrite(tmp_path, tmp_path / "out.mp4")
    assert times_of(tmp_path / "out.mp4") == pytest.approx([0, 0.04, 0.08, 0.12])


def test_a_damaged_picture_is_passed_over_and_another_size_refused(tmp_path):
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(number))
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with open_film(tmp_path) as film:
        assert [frame.index for frame in film] == [0, 2]
        assert film.damaged == 1
    cv2.imwrite(str(tmp_path / "3.png"), picture(0, (40, 40)))
    with open_film(tmp_path) as film, pytest.raises(TabrtError, match="of one size"):
        list(film)


EXIF = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00%c\x00\x00\x00\x00\x00\x00"


@pytest.mark.parametrize(
    "orientation, white, red",
    [
        (1, (0.1, 0.1), (0.9, 0.1)),
        (2, (0.9, 0.1), (0.1, 0.1)),
        (3, (0.9, 0.9), (0.1, 0.9)),
        (6, (0.9, 0.1), (0.9, 0.9)),
    ],
)
def test_exif_orientation_is_obeyed(tmp_path, orientation, white, red):
    plain = cv2.imencode(".jpg", picture(0))[1].tobytes()
    exif = EXIF % orientation
    marker = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    (tmp_path / "a.jpg").write_bytes(plain[:2] + marker + plain[2:])
    image = read_image(tmp_path / "a.jpg")
    assert close_to(image, *white, (255, 255, 255))
    assert close_to(image, *red, (0, 0, 255))


# -- writing


def test_h264_mp4_that_players_take(tmp_path):
    rewrite(make_film(tmp_path / "a.mkv", "ffv1", "bgr0"), tmp_path / "b.mp4")
    data = (tmp_path / "b.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat"), "the index lies in front"
    assert b"moof" not in data
    with av.open(str(tmp_path / "b.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.codec_tag, stream.pix_fmt) == (
            "h264",
            "avc1",
            "yuv420p",
        )
        frame = next(container.decode(video=0))
        assert frame.colorspace == 1, "BT.709, and it says so"
    with open_film(tmp_path / "b.mp4") as film:
        image = next(iter(film)).image
    assert np.abs(image.astype(int) - picture(0)).mean() < 6
    assert close_to(image, 0.9, 0.1, (0, 0, 255))
    assert not list(tmp_path.glob(".*")), "nothing else is left behind"


def test_colours_are_neither_darkened_nor_tinged(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    colours[:8] = np.arange(256, dtype=np.uint8).reshape(8, 32, 1)  # all greys
    with FilmWriter(tmp_path / "a.mp4", 32 * 16, 24 * 16, 25, crf=0) as writer:  # without loss
        writer.write(colours.repeat(16, axis=0).repeat(16, axis=1), 0.0)
    with av.open(str(tmp_path / "a.mp4")) as film:
        planes = np.split(next(film.decode(video=0)).to_ndarray().ravel(), (384 * 512, 384 * 512 * 5 // 4))
    light, blueness, redness = (
        plane.reshape(24, 16 // step, 32, 16 // step)[:, 1, :, 1] for plane, step in zip(planes, (1, 2, 2), strict=True)
    )
    blue, green, red = np.moveaxis(colours / 255, 2, 0)
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue  # BT.709
    for plane, exact in (
        (light, 16 + 219 * luma),
        (blueness, 128 + 224 * (blue - luma) / 1.8556),
        (redness, 128 + 224 * (red - luma) / 1.5748),
    ):
        assert np.abs(plane - exact).max() < 1 and abs((plane - exact).mean()) < 0.05
    assert (blueness[:8] == 128).all() and (redness[:8] == 128).all()


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_each_frame_keeps_its_own_time(tmp_path, suffix):
    ticks = [700, 701, 733, 1000, 1017, 4000, 4001, 9000, 9033, 9035]
    source = make_film(tmp_path / "a.mkv", "libx264", ticks=ticks, clock=Fraction(1, 1000))
    rewrite(source, tmp_path / f"b{suffix}")
    assert times_of(tmp_path / f"b{suffix}") == times_of(source) == pytest.approx([tick / 1000 for tick in ticks])


def test_the_film_lasts_as_long_as_its_source(tmp_path):
    source = make_film(tmp_path / "a.mp4", ticks=[0, 3000, 6000, 13000], clock=Fraction(1, 90000))
    rewrite(source, tmp_path / "b.mp4")
    with open_film(source) as film, open_film(tmp_path / "b.mp4") as again:
        assert again.duration == pytest.approx(film.duration, abs=0.002)


@pytest.mark.parametrize(
    "codec, suffix", [("aac", ".mp4"), ("flac", ".mp4"), ("libopus", ".webm"), ("pcm_s16le", ".mkv")]
)
def test_sound_is_copied_to_the_bit(tmp_path, codec, suffix):
    source = make_film(tmp_path / "a.mkv", frames=15, sound=(codec, codec))
    writer = rewrite(source, tmp_path / f"b{suffix}")
    assert writer.notes == []
    copied = packets_of(tmp_path / f"b{suffix}")
    assert len(copied) == 2
    assert copied == packets_of(source)


@pytest.mark.parametrize(
    "codec, suffix, new", [("pcm_s16le", ".mp4", "aac"), ("aac", ".webm", "opus"), ("mp2", ".mp4", "aac")]
)
def test_sound_that_players_do_not_take_is_encoded_again_and_said(tmp_path, codec, suffix, new):
    source = make_film(tmp_path / "a.mkv", frames=15, sound=(codec,))
    writer = rewrite(source, tmp_path / f"b{suffix}")
    assert len(writer.notes) == 1 and codec in writer.notes[0] and new in writer.notes[0]
    with av.open(str(tmp_path / f"b{suffix}")) as container:
        assert container.streams.audio[0].codec_context.name == new
        samples = np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)])
    assert samples.size == pytest.approx(24000, rel=0.15)
    assert samples.std() > 0.05


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_broadcast_aac_is_copied_without_its_packet_heads(tmp_path, suffix):
    source = make_film(tmp_path / "a.ts", frames=15, sound=("aac",))
    writer = rewrite(source, tmp_path / f"b{suffix}")
    assert writer.notes == []
    head = 7  # bytes of ADTS
    assert packets_of(tmp_path / f"b{suffix}") == [[packet[head:] for packet in packets_of(source)[0]]]


def test_one_frame(tmp_path):
    rewrite(make_film(tmp_path / "a.mp4", frames=1), tmp_path / "b.mp4")
    assert times_of(tmp_path / "b.mp4") == [0]
    with open_film(tmp_path / "b.mp4") as film:
        assert film.duration == pytest.approx(1 / 30, abs=0.001)


def test_sound_lies_beside_its_pictures(tmp_path):
    """Not all pictures first: a player of a stream, and the writer's memory, need them side by side."""
    source = make_film(tmp_path / "a.mkv", frames=15, sound=("pcm_s16le",))
    with open_film(source) as film, FilmWriter(tmp_path / "b.mkv", *SIZE, film.rate, film=film) as writer:
        sound = film.soundtrack()
        for frame in film:
            writer.write(frame.image, frame.time)
            assert all(float(packet.pts * packet.time_base) > frame.time for packet in sound.waiting)


def test_a_film_without_sound_wanted_holds_no_sound(tmp_path):
    with open_film(make_film(tmp_path / "a.mkv", frames=15, sound=("pcm_s16le",))) as film:
        for _ in film:
            assert len(film._sound.waiting) < 30


def test_sound_long_before_its_pictures_is_held_to_a_limit_and_told(tmp_path, monkeypatch):
    source = make_film(tmp_path / "a.mkv", sound=("aac",))
    monkeypatch.setattr(sound_module, "MOST_WAITING", 2000)
    with open_film(source) as film:
        sound = film.soundtrack()
        assert len(list(film)) == 12
        assert 0 < sum(packet.size for packet in sound.waiting) <= 2000
        assert float(sum(sound.lost.values())) > 0.2  # of half a second
        assert len(list(sound.take(math.inf))) > 1 and not sound.waiting


def test_stopping_early_leaves_pictures_and_sound_of_one_length(tmp_path):
    source = make_film(tmp_path / "a.mkv", frames=15, sound=("flac",))
    with open_film(source) as film, FilmWriter(tmp_path / "b.mp4", *SIZE, film.rate, film=film) as writer:
        for frame in itertools.islice(film, 5):
            writer.write(frame.image, frame.time)
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert container.duration / av.time_base == pytest.approx(5 / 30, abs=0.1)
        assert len(list(container.decode(video=0))) == 5


@pytest.mark.parametrize("suffix, codec", [(".mkv", "h264"), (".mov", "h264"), (".webm", "vp9"), (".m4v", "h264")])
def test_the_suffix_chooses_the_container(tmp_path, suffix, codec):
    rewrite(make_film(tmp_path / "a.mp4"), tmp_path / f"b{suffix}")
    with av.open(str(tmp_path / f"b{suffix}")) as container:
        assert container.streams.video[0].codec_context.name == codec
    assert len(times_of(tmp_path / f"b{suffix}")) == 12


@pytest.mark.parametrize("codec, name, tag", [("libx265", "hevc", "hvc1"), ("mpeg4", "mpeg4", "mp4v")])
def test_other_codecs(tmp_path, codec, name, tag):
    rewrite(make_film(tmp_path / "a.mp4"), tmp_path / "b.mp4", codec=codec)
    with av.open(str(tmp_path / "b.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.codec_tag) == (name, tag)


def test_crf_trades_size_for_quality(tmp_path):
    source = make_film(tmp_path / "a.mkv", "ffv1", "bgr0", frames=20, size=(320, 240))
    rewrite(source, tmp_path / "fine.mp4", crf=10)
    rewrite(source, tmp_path / "coarse.mp4", crf=45)
    assert (tmp_path / "fine.mp4").stat().st_size > 1.5 * (tmp_path / "coarse.mp4").stat().st_size


def test_camera_times_start_at_zero_and_never_run_backwards(tmp_path):
    with FilmWriter(tmp_path / "a.mp4", *SIZE, 30) as writer:
        for number, moment in enumerate([5000.0, 5000.04, 5000.04, 5000.01, 5000.2]):
            writer.write(picture(number), moment)
    times = times_of(tmp_path / "a.mp4")
    assert times[0] == 0 and times[-1] == pytest.approx(0.2, abs=0.001)
    assert len(times) == 5 and all(np.diff(times) > 0)


def test_anamorphic_pixels_stay_so(tmp_path):
    source = tmp_path / "a.mp4"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(16, 15)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(0), format="bgr24")))
        container.mux(stream.encode(None))
    rewrite(source, tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(16, 15)


def test_no_picture_leaves_no_film(tmp_path):
    FilmWriter(tmp_path / "a.mp4", *SIZE, 30).close()
    assert not (tmp_path / "a.mp4").exists()


def test_a_picture_of_another_size_is_refused(tmp_path):
    with FilmWriter(tmp_path / "a.mp4", *SIZE, 30) as writer:
        with pytest.raises(ValueError, match="the film takes"):
            writer.write(picture(0, (10, 10)), 0)
        writer.write(picture(0), 0)


def test_a_real_clip_comes_through(tmp_path, clip):
    rewrite(clip, tmp_path / "b.mp4")
    assert times_of(tmp_path / "b.mp4") == times_of(clip)
    assert packets_of(tmp_path / "b.mp4") == packets_of(clip) != [[]]
    with open_film(clip) as film, open_film(tmp_path / "b.mp4") as again:
        assert again.duration == pytest.approx(film.duration, abs=0.01)
        for one, other in itertools.islice(zip(film, again, strict=True), 0, 100, 25):
            assert np.abs(one.image.astype(int) - other.image).mean() < 3


@pytest.mark.skipif(not SHARED.exists(), reason="the shared clips are not beside this checkout")
@pytest.mark.parametrize("name", ["face_recognition__short_hamilton_clip.mp4", "sample-videos__walk.mkv"])
def test_more_real_clips_come_through(tmp_path, name):
    """The first starts its pictures at 0.85 s, after its sound; the second counts milliseconds."""
    rewrite(SHARED / name, tmp_path / "b.mp4")
    assert times_of(tmp_path / "b.mp4") == pytest.approx(times_of(SHARED / name), abs=1e-9)
    assert packets_of(tmp_path / "b.mp4") == packets_of(SHARED / name)


# -- what goes wrong

WRITER = """
import signal, sys, time
import numpy as np
from tabrt.film import sound as sound_module
from tabrt.film.writing import FilmWriter
signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background inherits that it is ignored
noise = np.random.default_rng(0).integers(0, 1 if "still" in sys.argv else 255, (240, 320, 3), np.uint8)
with FilmWriter(sys.argv[1], 320, 240, 30, index_first="live" not in sys.argv) as writer:
    for number in range(100_000):
        writer.write(np.roll(noise, number, axis=1), number / 30)
        if number == 200:
            print("ready", flush=True)
            time.sleep(60)
"""


@pytest.mark.parametrize(
    "suffix, kind",
    [(".mp4", "film"), (".mov", "film"), (".mkv", "film"), (".mp4", "live"), (".mkv", "still"), (".webm", "still")],
)
@posix
def test_a_killed_run_leaves_a_film_that_opens(tmp_path, suffix, kind):
    out = tmp_path / f"a{suffix}"
    run = subprocess.Popen([sys.executable, "-c", WRITER, str(out), kind], stdout=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "ready\n"
    run.send_signal(signal.SIGKILL)
    run.wait(timeout=30)
    run.stdout.close()
    assert len(times_of(out)) > 30


def test_an_interrupted_run_closes_the_film(tmp_path):
    out = tmp_path / "a.mp4"
    run = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(out)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert run.stdout.readline() == "ready\n"
    run.send_signal(signal.SIGINT)
    run.wait(timeout=60)
    run.stdout.close()
    assert len(times_of(out)) == 201
    assert b"moof" not in out.read_bytes()


@pytest.mark.parametrize("suffix, kind", [(".mp4", "film"), (".mkv", "film"), (".mp4", "live")])
@pytest.mark.parametrize("first_to_end", ["earlier", "later"])
@posix  # elsewhere a file that is open cannot make room
def test_of_two_writers_of_one_path_one_film_is_left_whole(tmp_path, suffix, kind, first_to_end):
    out = tmp_path / f"a{suffix}"
    earlier = FilmWriter(out, *SIZE, 30, index_first=kind == "film")
    for number in range(90):
        earlier.write(picture(number), number / 30)
    later = FilmWriter(out, *SIZE, 30, index_first=kind == "film")
    for number in range(70):
        later.write(picture(number), number / 30)
        earlier.write(picture(number), 3 + number / 30)
    if first_to_end == "later":
        later.close()
    with pytest.raises(TabrtError, match=r"a\.m.* was replaced"):
        earlier.close()
    later.close()
    assert len(times_of(out)) == 70
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@posix
def test_a_film_replaced_while_its_index_moves_stays(tmp_path, monkeypatch):
    out = tmp_path / "a.mp4"
    earlier = FilmWriter(out, *SIZE, 30)
    earlier.write(picture(0), 0)
    same_stream, later = writing._same_stream, []

    def taken_over(*given):
        later.append(FilmWriter(out, *SIZE, 30))
        return same_stream(*given)

    monkeypatch.setattr(writing, "_same_stream", taken_over)
    with pytest.raises(TabrtError, match="was replaced"):
        earlier.close()
    monkeypatch.undo()
    for number in range(5):
        later[0].write(picture(number), number / 30)
    later[0].close()
    assert len(times_of(out)) == 5


@posix
def test_a_writer_whose_film_went_to_another_leaves_that_alone(tmp_path):
    out = tmp_path / "a.mp4"
    earlier = FilmWriter(out, *SIZE, 30)  # which gets no picture
    rewrite(make_film(tmp_path / "b.mkv", "ffv1", "bgr0", frames=3), out)
    with pytest.raises(TabrtError, match="was replaced"):
        earlier.close()
    assert len(times_of(out)) == 3


@posix
def test_a_film_is_replaced_where_its_link_leads(tmp_path):
    (tmp_path / "a.mp4").symlink_to("real.mp4")
    for count in (2, 3):
        with FilmWriter(tmp_path / "a.mp4", *SIZE, 30) as writer:
            for number in range(count):
                writer.write(picture(number), number / 30)
        assert (tmp_path / "a.mp4").is_symlink() and len(times_of(tmp_path / "real.mp4")) == count


FULL = """
import resource, sys
import numpy as np
from tabrt.errors import TabrtError
from tabrt.film import sound as sound_module
from tabrt.film.writing import FilmWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
try:
    with FilmWriter(sys.argv[1], 320, 240, 30, crf=10) as writer:
        for number in range(3000):
            writer.write(np.roll(noise, number, axis=1), number / 30)
except TabrtError as problem:
    print(problem)
"""


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_full_disk_is_said_and_what_was_written_plays(tmp_path, suffix):
    """A limit on the size of files stands in for the disk."""
    out = tmp_path / f"a{suffix}"
    done = subprocess.run([sys.executable, "-c", FULL, str(out)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "no room left" in done.stdout and done.stdout.count("\n") == 1
    assert len(times_of(out)) > 5
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name]


def png_head(width: int, height: int) -> bytes:
    """A PNG that claims a size, with next to nothing behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        track = container.add_stream("aac", rate=48000, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), format="s16", layout="mono")
        samples.sample_rate = 48000
        container.mux(track.encode(samples))
        container.mux(track.encode(None))


BAD_SOURCES = {
    "no such file": ("nowhere.mp4", lambda path: None, "there is no file"),
    "zero bytes": ("a.mp4", lambda path: path.write_bytes(b""), "is empty"),
    "a folder with no pictures": ("folder", lambda path: path.mkdir(), "holds no pictures"),
    "text renamed": ("a.mp4", lambda path: path.write_text("this is no film\n" * 99), "is no film"),
    "text": ("a.txt", lambda path: path.write_text("this is no film\n" * 99), "no film|not a film"),
    "noise": ("a.mp4", lambda path: path.write_bytes(random.Random(0).randbytes(50_000)), "no film|no picture"),
    "sound only": ("a.m4a", sound_only, "sound only"),
    "a head alone": ("a.mp4", lambda path: path.write_bytes(make_film(path).read_bytes()[:40]), "lacks its index"),
    "a huge picture": ("a.png", lambda path: path.write_bytes(png_head(20_000, 20_000)), "above the limit"),
    "a long picture": ("a.png", lambda path: path.write_bytes(png_head(3, 20_000)), "3x20000"),
    "a playlist of the network": (
        "a.m3u8",
        lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"),
        "no film|no picture|no pictures",
    ),
    "a pattern that fits nothing": ("shot_%03d.png", lambda path: None, "holds no pictures"),
    "a name with a zero byte": ("a\0.mp4", lambda path: None, "cannot read"),
    "an address that nobody answers": ("http://127.0.0.1:9/a.mp4", lambda path: None, "cannot open"),
}


@pytest.mark.parametrize("case", BAD_SOURCES)
def test_bad_sources_are_told_in_one_line(tmp_path, case):
    name, prepare, message = BAD_SOURCES[case]
    source = name if "://" in name else tmp_path / name
    prepare(source)
    with pytest.raises(TabrtError, match=message) as problem:
        list(open_film(source))
    assert "\n" not in str(problem.value)
    assert ";" in str(problem.value), "a remedy follows the problem"


@pytest.mark.parametrize("case", ["zero bytes", "text renamed", "a huge picture", "no such file"])
def test_bad_pictures_are_told_in_one_line(tmp_path, case):
    name, prepare, _ = BAD_SOURCES[case]
    prepare(tmp_path / name)
    with pytest.raises(TabrtError) as problem:
        read_image(tmp_path / name)
    assert "\n" not in str(problem.value)


def test_bad_outputs_are_told_in_one_line(tmp_path):
    source = make_film(tmp_path / "a.mp4")
    (tmp_path / "folder.mp4").mkdir()
    os.symlink(source, tmp_path / "link.mp4")
    cases = {
        tmp_path / "a.mp4": ({}, "is the film being read"),
        tmp_path / "link.mp4": ({}, "is the film being read"),
        tmp_path / "folder.mp4": ({}, "is a folder"),
        tmp_path / "nowhere" / "b.mp4": ({}, "there is no folder"),
        tmp_path / "b.avi": ({}, "written as"),
        tmp_path / "b": ({}, "written as"),
        Path("/proc/b.mp4"): ({}, "cannot write"),
        tmp_path / "b.webm": ({"codec": "libx264"}, "cannot hold libx264"),
        tmp_path / "b.mp4": ({"codec": "nonsense"}, "no picture encoder"),
        tmp_path / "c.mp4": ({"codec": "aac"}, "no picture encoder"),
    }
    before = source.read_bytes()
    for out, (options, message) in cases.items():
        with open_film(source) as film, pytest.raises(TabrtError, match=message) as problem:
            FilmWriter(out, film.width, film.height, film.rate, film=film, **options)
        assert "\n" not in str(problem.value) and ";" in str(problem.value)
    assert source.read_bytes() == before


def count_or_refusal(path: Path) -> int:
    """Frames that can be read, 0 where the film is refused in one line; every other error fails the test."""
    try:
        with open_film(path) as film:
            times = [frame.time for frame in film]
    except TabrtError as problem:
        assert "\n" not in str(problem)
        return 0
    assert all(one < other for one, other in itertools.pairwise(times))
    return len(times)


FAULTY = {
    "mp4": ("a.mp4", {"sound": ("aac",)}),
    "mkv": ("a.mkv", {"sound": ("aac", "pcm_s16le")}),
    "ts": ("a.ts", {"codec": "mpeg2video"}),
    "webm": ("a.webm", {"codec": "libvpx-vp9"}),
    "avi": ("a.avi", {"codec": "mjpeg", "pixels": "yuvj420p"}),
}


@pytest.mark.parametrize("kind", FAULTY)
def test_cut_anywhere(tmp_path, kind):
    name, options = FAULTY[kind]
    whole = make_film(tmp_path / name, frames=30, **options).read_bytes()
    counts = []
    for share in np.linspace(0.01, 0.99, 15):
        (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
        counts.append(count_or_refusal(tmp_path / name))
    if kind != "mp4":  # its index lies at the end
        assert max(counts) > 10


@pytest.mark.parametrize("front", [False, True], ids=["index last", "index first"])
def test_an_mp4_that_breaks_off_before_the_end_of_its_index_is_said_to(tmp_path, clip, front):
    whole = clip.read_bytes() if front else make_film(tmp_path / "a.mp4", frames=30).read_bytes()
    end = whole.index(b"moov") - 4 + int.from_bytes(whole[whole.index(b"moov") - 4 :][:4])
    for size in np.linspace(16, end - 100 if front else whole.index(b"moov"), 9, dtype=int):
        (tmp_path / "a.mp4").write_bytes(whole[:size])
        with pytest.raises(TabrtError, match=r"a\.mp4 lacks its index .*; copy it again, or record it again"):
            open_film(tmp_path / "a.mp4")


@pytest.mark.parametrize("data", [b"\0\0\0\x10ftypisom\0\0\0\0\0\0\0\x07free", b"no film, honestly" * 9, b"ftyp"])
def test_what_is_no_film_is_not_said_to_lack_an_index(tmp_path, data):
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(TabrtError, match="no film, or damaged"):
        open_film(tmp_path / "a.mp4")


@pytest.mark.parametrize("kind", FAULTY)
def test_flipped_bits_end_in_frames_or_one_line(tmp_path, kind):
    name, options = FAULTY[kind]
    whole = make_film(tmp_path / name, frames=30, **options).read_bytes()
    dice = random.Random(20)
    deadline = time.monotonic() + 20
    read = 0
    for _ in range(20):
        damaged = bytearray(whole)
        for _ in range(dice.choice((1, 5, 50))):
            damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        (tmp_path / name).write_bytes(damaged)
        count = count_or_refusal(tmp_path / name)
        read += count > 0
        if count:
            rewrite(tmp_path / name, tmp_path / "b.mp4")
            assert len(times_of(tmp_path / "b.mp4")) == count
        if time.monotonic() > deadline:
            break
    assert read > 0


def test_reads_beyond_the_damage(tmp_path, clip):
    """A tenth of the film overwritten in the middle: the end is still there, at its own time."""
    data, whole = bytearray(clip.read_bytes()), times_of(clip)
    middle = len(data) // 2
    data[middle : middle + len(data) // 10] = random.Random(1).randbytes(len(data) // 10)
    (tmp_path / "a.mp4").write_bytes(data)
    with open_film(tmp_path / "a.mp4") as film:
        times = [frame.time for frame in film]
        assert film.damaged > 0
    assert len(times) > 0.7 * len(whole)
    assert times[-1] == pytest.approx(whole[-1], abs=0.5)
    rewrite(tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert len(times_of(tmp_path / "b.mp4")) == len(times)


def serve_then_fall_silent(pictures: int) -> tuple[str, threading.Event]:
    """The address of a camera that sends a few JPEG pictures over HTTP, then nothing; set the event to end it."""
    server, done = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def serve() -> None:
        with server, server.accept()[0] as client:
            client.recv(4096)
            client.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=next\r\n\r\n")
            for number in range(pictures):
                data = cv2.imencode(".jpg", picture(number))[1].tobytes()
                client.sendall(b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data))
                client.sendall(data + b"\r\n")
            done.wait(30)

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{server.getsockname()[1]}/", done


@pytest.mark.parametrize("pictures", [0, 400])
def test_a_network_source_that_falls_silent_is_given_up(monkeypatch, pictures):
    monkeypatch.setattr("tabrt.film.decoding.NETWORK_PATIENCE", 1.0)
    address, done = serve_then_fall_silent(pictures)
    taken = 0
    with pytest.raises(TabrtError, match="check the"), open_film(address) as film:
        for _ in film:
            taken += 1
    done.set()
    assert taken >= pictures - 10


def test_closing_while_a_thread_reads_is_safe(tmp_path):
    source = make_film(tmp_path / "a.mp4", frames=60)
    for _ in range(5):
        film = open_film(source)
        reader = threading.Thread(target=list, args=(film,))
        reader.start()
        film.close()
        reader.join(10)
        assert not reader.is_alive()


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the memory at its highest in Linux' /proc")
def test_memory_does_not_grow_with_the_film(tmp_path):
    """200 pictures of 0.9 MB go through, after 20, in a process of their own: they take next to nothing more."""
    films = [tmp_path / "short.mkv", tmp_path / "long.mkv"]
    for path, frames in zip(films, (20, 200), strict=True):
        make_film(path, "mjpeg", "yuvj420p", frames=frames, size=(640, 480), sound=("pcm_s16le",))
    program = """
import sys
from pathlib import Path
from tabrt.film.reading import open_film
from tabrt.film import sound as sound_module
from tabrt.film.writing import FilmWriter

for path in sys.argv[1:]:
    with open_film(path) as film, FilmWriter(path + ".mp4", film.width, film.height, film.rate, film=film) as writer:
        for frame in film:
            writer.write(frame.image, frame.time)
    highest = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(highest.split()[1])
"""
    words = [sys.executable, "-c", program, *map(str, films)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120, env=environment())
    short, long = map(int, done.stdout.split())
    assert long - short < 60_000  # KiB


def test_a_failed_start_leaves_the_earlier_film(tmp_path):
    out = make_film(tmp_path / "a.mp4")
    before = out.read_bytes()
    with pytest.raises(TabrtError):
        FilmWriter(out, *SIZE, 30, codec="nonsense")
    assert out.read_bytes() == before
