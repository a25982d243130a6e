"""Parts of films, and what goes along with them: sound, subtitles, chapters, and what a film says of itself."""

from __future__ import annotations

import json
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from films import SIZE, make_film, picture, rewrite, times_of

from tabrt.errors import TabrtError
from tabrt.film.reading import open_film
from tabrt.film.times import clock_time, seconds


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> dict[str, Path]:
    """90 frames at 30 a second, a key frame every 12, with a tone, in several containers."""
    folder = tmp_path_factory.mktemp("films")
    options = {"g": "12", "bf": "2"}
    made = {}
    for suffix, codec, sound in (
        (".mp4", "libx264", "aac"),
        (".mkv", "libx264", "pcm_s16le"),
        (".ts", "libx264", "aac"),
        (".webm", "libvpx-vp9", "libopus"),
        (".avi", "mpeg4", "mp2"),
    ):
        made[suffix] = path = folder / f"a{suffix}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=30, options=options if codec == "libx264" else {"g": "12"})
            stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
            stream.codec_context.time_base = Fraction(1, 30)
            track = container.add_stream(sound, rate=48000, layout="mono")
            tone = (np.sin(np.arange(3 * 48000) / 9) * 9000).astype(np.int16)[None]
            for number in range(90):
                frame = av.VideoFrame.from_ndarray(picture(number), format="bgr24").reformat(format="yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, 30)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            for at in range(0, tone.shape[1], 960):
                samples = av.AudioFrame.from_ndarray(tone[:, at : at + 960], format="s16", layout="mono")
                samples.sample_rate, samples.pts, samples.time_base = 48000, at, Fraction(1, 48000)
                container.mux(track.encode(samples))
            container.mux(track.encode(None))
    return made


def bar(image: np.ndarray) -> int:
    """Where the bar of `picture` stands: 3 px a frame."""
    return int(np.argmax(image[40:, :, 0].astype(int).sum(axis=0) - image[40:, :, 2].astype(int).sum(axis=0)))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".webm", ".avi"])
@pytest.mark.parametrize("start, end", [(0.5, 1.0), (1.0, None), (None, 0.7), ("0:01.1", "-1"), (-0.5, None)])
def test_a_part_has_the_times_and_pictures_of_the_film(films, suffix, start, end):
    with open_film(films[suffix]) as film:
        whole, duration = list(film), film.duration
    first = 0 if start is None else seconds(start)
    last = 1e9 if end is None else seconds(end)
    first, last = (each + duration if each < 0 else each for each in (first, last))
    expected = [frame for frame in whole if first - 1e-6 <= frame.time < last - 1e-6]
    with open_film(films[suffix], start, end) as film:
        part = list(film)
        assert film.frames == pytest.approx(len(expected), abs=2)
    assert [frame.time for frame in part] == [frame.time for frame in expected]
    assert [frame.index for frame in part] == [frame.index for frame in expected]
    for one, other in zip(part, expected, strict=True):
        assert np.array_equal(one.image, other.image)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_sound_is_cut_with_its_part(films, tmp_path, suffix):
    rewrite(films[suffix], tmp_path / "b.mkv", part={"start": 1.0, "end": 2.0})
    times = times_of(tmp_path / "b.mkv")
    assert (times[0], len(times)) == (0, 30)
    assert times[-1] == pytest.approx(29 / 30, abs=0.002)
    with av.open(str(tmp_path / "b.mkv")) as container:
        heard = [packet for packet in container.demux(audio=0) if packet.pts is not None]
        first, last = (float(packet.pts * packet.time_base) for packet in (heard[0], heard[-1]))
    assert first < 0.05 and 0.94 < last < 1.0
    with av.open(str(films[suffix])) as container:  # the very samples of that second
        source = [bytes(p) for p in container.demux(audio=0) if p.pts is not None]
    assert source.index(bytes(heard[5])) - source.index(bytes(heard[0])) == 5 if suffix != ".ts" else True


def test_every_so_many_frames(films):
    with open_film(films[".mp4"], 0.5, 2.5, every=7) as film:
        assert (film.rate, film.frames) == (Fraction(30, 7), 9)
        frames = list(film)
    assert [frame.index for frame in frames] == list(range(15, 75, 7))
    assert [frame.time for frame in frames] == pytest.approx([index / 30 for index in range(15, 75, 7)])


def test_a_film_of_every_third_frame_lasts_as_long(films, tmp_path):
    rewrite(films[".mp4"], tmp_path / "b.mp4", part={"every": 3})
    with open_film(tmp_path / "b.mp4") as film:
        assert film.duration == pytest.approx(3, abs=0.05)
        assert [frame.time for frame in film] == pytest.approx([index / 10 for index in range(30)], abs=1e-3)


def test_the_start_of_a_part_is_sought(tmp_path):
    """From the end of a film, a part comes at once: what lies before is not decoded."""
    source = make_film(tmp_path / "a.mp4", frames=1500, options={"g": "30", "preset": "ultrafast"}, size=(320, 240))
    with open_film(source) as film:
        began = time.process_time()
        list(film)
        whole = time.process_time() - began
    began = time.process_time()
    with open_film(source, -0.5) as film:
        assert len(list(film)) == 15
    assert time.process_time() - began < whole / 3


def test_parts_of_a_pipe_and_of_pictures(films, tmp_path):
    for number in range(10):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(number))
    with open_film(tmp_path, 0.1, "-0.08", every=2) as film:
        assert [(frame.index, frame.time) for frame in film] == [(3, 0.12), (5, 0.2), (7, 0.28)]
        assert film.frames == 3


@pytest.mark.parametrize(
    "part, message",
    [
        ({"start": 99}, "nothing is there from 1:39"),
        ({"start": 2, "end": 1}, "not after its start"),
        ({"start": "x"}, "is no time"),
        ({"end": "1:2:3:4"}, "is no time"),
        ({"end": float("nan")}, "is no time"),
        ({"end": 0}, "not after its start"),
        ({"every": 0}, "every is 0"),
        ({"every": 1.5}, "every is 1.5"),
        ({"track": 2}, "no picture track 2"),
    ],
)
def test_bad_parts_are_told_in_one_line(films, part, message):
    for suffix in (".mp4", ".webm"):
        with pytest.raises(TabrtError, match=message) as problem:
            open_film(films[suffix], **part)
        assert ("\n" not in str(problem.value) and ";" in str(problem.value)) or "part of" in str(problem.value)


@pytest.mark.parametrize(
    "text, value",
    [("90", 90), ("1:30", 90), ("1:02:03.5", 3723.5), ("-10", -10), ("-0:10", -10), (".5", 0.5), ("2 s", 2), (3, 3)],
)
def test_times_are_read_as_people_write_them(text, value):
    assert seconds(text) == value


def test_times_are_told_as_people_write_them():
    assert [clock_time(each) for each in (0, 1.5, 75.25, 3723, float("inf"))] == [
        "0 s",
        "1.5 s",
        "1:15.2",
        "1:02:03",
        "its end",
    ]


# -- what goes along


ASS_HEAD = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, Alignment
Style: Default,Arial,16,&Hffffff,2

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


def film_with_words(path: Path, codec: str = "subrip") -> Path:
    """A film with a title, a place, two chapters and a track of subtitles in German."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30)
        words = container.add_stream(codec)
        words.codec_context.subtitle_header = ASS_HEAD
        words.codec_context.time_base = Fraction(1, 1000)
        words.metadata["language"] = "ger"
        container.metadata.update(title="A walk", artist="Somebody", comment="with a zebra")
        container.set_chapters(
            [
                {"id": 1, "start": 0, "end": 1000, "time_base": Fraction(1, 1000), "metadata": {"title": "Out"}},
                {"id": 2, "start": 1000, "end": 2000, "time_base": Fraction(1, 1000), "metadata": {"title": "Home"}},
            ]
        )
        container.start_encoding()
        spoken = [(200, 500, b"Guten Tag"), (1200, 600, b"Auf Wiedersehen")]
        for number in range(60):
            frame = av.VideoFrame.from_ndarray(picture(number), format="bgr24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
            while spoken and spoken[0][0] <= number * 1000 / 30:
                start, length, text = spoken.pop(0)
                said = av.subtitles.subtitle.SubtitleSet.create(b"0,0,Default,,0,0,0,," + text, 0, length, start)
                packet = words.codec_context.encode_subtitle(said)
                packet.pts = packet.dts = start
                packet.duration, packet.time_base, packet.stream = length, Fraction(1, 1000), words
                container.mux(packet)
        container.mux(stream.encode(None))
    return path


def told(path: Path) -> dict:
    with av.open(str(path)) as container:
        words, language = [], None
        for stream in container.streams.subtitles:
            language = stream.metadata.get("language")
            for packet in container.demux(stream):
                for each in packet.decode() if packet.size > 2 else ():
                    start = float(packet.pts * packet.time_base)
                    words.append((round(start, 2), each.dialogue.decode()))
        chapters = [
            (float(c["start"] * c["time_base"]), float(c["end"] * c["time_base"]), c["metadata"].get("title"))
            for c in container.chapters()
        ]
        return {"title": container.metadata.get("title"), "words": words, "language": language, "chapters": chapters}


@pytest.mark.parametrize("codec", ["subrip", "ass"])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_subtitles_chapters_and_title_are_kept(tmp_path, suffix, codec):
    source = film_with_words(tmp_path / "a.mkv", codec)
    writer = rewrite(source, tmp_path / f"b{suffix}")
    assert writer.notes == []
    kept = told(tmp_path / f"b{suffix}")
    assert kept["title"] == "A walk"
    assert kept["words"] == [(0.2, "Guten Tag"), (1.2, "Auf Wiedersehen")]
    assert kept["language"] == "ger"
    assert kept["chapters"] == [(0, 1, "Out"), (1, 2, "Home")]
    assert times_of(tmp_path / f"b{suffix}") == pytest.approx(times_of(source), abs=0.001)
    back = rewrite(tmp_path / f"b{suffix}", tmp_path / "c.mkv")
    assert told(tmp_path / "c.mkv") == kept and back.notes == []


def test_subtitles_and_chapters_are_cut_with_their_part(tmp_path):
    source = film_with_words(tmp_path / "a.mkv")
    rewrite(source, tmp_path / "b.mkv", part={"start": 0.5, "end": 1.5})
    kept = told(tmp_path / "b.mkv")
    assert kept["words"] == [(0.7, "Auf Wiedersehen")]
    assert kept["chapters"] == [(0, 0.5, "Out"), (0.5, 1, "Home")]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_an_anonymous_film_says_nothing_of_its_source(tmp_path, suffix):
    source = film_with_words(tmp_path / "a.mkv")
    rewrite(source, tmp_path / f"b{suffix}", anonymous=True)
    kept = told(tmp_path / f"b{suffix}")
    assert kept == {"title": None, "words": [], "language": None, "chapters": []}
    data = (tmp_path / f"b{suffix}").read_bytes()
    assert not any(word in data for word in (b"A walk", b"Somebody", b"zebra", b"Guten", b"Home"))


def test_words_that_are_no_text_do_no_harm(tmp_path):
    """A title in the letters of an old system: the film opens, and is copied."""
    source = film_with_words(tmp_path / "a.mkv")
    source.write_bytes(source.read_bytes().replace(b"A walk", b"A w\xe9lk"))
    rewrite(source, tmp_path / "b.mp4")
    assert told(tmp_path / "b.mp4")["title"] == "A w\ufffdlk"


@pytest.mark.parametrize("start, end", [(0.3, 0.8), (1.2, 1.9), (1.7, None)])
def test_parts_of_joined_pieces_have_the_times_of_the_whole(tmp_path, start, end):
    """Both pieces tell the same times: a place in the second cannot be sought by them."""
    piece = make_film(tmp_path / "a.ts", frames=30, sound=("aac",), options={"g": "10", "bf": "2"})
    joined = tmp_path / "joined.ts"
    joined.write_bytes(piece.read_bytes() * 2)
    with open_film(joined) as film:
        whole = [(frame.index, round(frame.time, 4), bar(frame.image)) for frame in film]
    assert len(whole) == 60
    with open_film(joined, start, end) as film:
        part = [(frame.index, round(frame.time, 4), bar(frame.image)) for frame in film]
    assert part == [each for each in whole if start <= each[1] < (end or 99)]
    with open_film(joined, -0.5) as film:
        assert [frame.index for frame in film] == list(range(45, 60))


def test_the_command_line_takes_a_part(films, run, tmp_path):
    """Times as people write them; the numbers keep the film's times, the film out starts at nought."""
    done = run("video", films[".mkv"], "--from", "0:01", "--to", "-1", "--every", 5, "--track", 1,
               "--out", "b.mp4", "--landmarks", "b.jsonl")  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()[1:]]
    assert [line["frame"] for line in lines if "frame" in line] == list(range(30, 60, 5))
    assert lines[0]["time"] == pytest.approx(1, abs=0.001)
    assert times_of(tmp_path / "b.mp4") == pytest.approx([index / 6 for index in range(6)], abs=0.002)
    done = run("video", films[".mkv"], "--from", "soon", "--landmarks", "c.jsonl")
    assert done.returncode == 2 and "--from: 'soon' is no time" in " ".join(done.stderr.split())
