"""Pictures of every kind that people have: each comes whole, upright, as it looks elsewhere, or is told apart."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import zlib
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import posix
from films import close_to, picture

from tabrt.errors import TabrtError
from tabrt.film.cut import is_cut_short
from tabrt.film.exif import MAX_PARTS, orientation_of
from tabrt.film.heif import MAX_BOXES, is_tiled
from tabrt.film.reading import left_out, open_film, pictures_in, read_image

DATA = Path(__file__).parent / "data"


def encoded(codec: str, pixels: str, image: np.ndarray, **options: object) -> bytes:
    """One picture by an encoder of FFmpeg, without a container."""
    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = image.shape[1], image.shape[0], pixels
    context.time_base = Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(image, format="bgra" if image.shape[2] == 4 else "bgr24")
    return b"".join(map(bytes, [*context.encode(frame.reformat(format=pixels)), *context.encode(None)]))


def with_chunk(png: bytes, name: bytes, data: bytes) -> bytes:
    """A PNG with one more chunk after its head."""
    chunk = len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4)
    return png[:33] + chunk + png[33:]


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def jpg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, 95))[1].tobytes()


def jpeg_with(image: np.ndarray, marker: int, data: bytes) -> bytes:
    plain = jpg(image)
    return plain[:2] + bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2) + data + plain[2:]


PROFILE = bytes(range(256)) * 2  # no true one: nothing here reads it


def moving_png(path: Path) -> bytes:
    with av.open(str(path), "w", format="apng") as out:
        stream = out.add_stream("apng", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "rgb24"
        for number in range(2):
            frame = av.VideoFrame.from_ndarray(picture(number), format="bgr24").reformat(format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["png", "apng", "jpg"])
def test_a_colour_profile_never_ends_the_process(tmp_path, kind):
    """Reading what lies beside such a picture ends Python itself, so another process looks at it, several times."""
    path = tmp_path / f"a.{kind}"
    if kind == "jpg":
        data = jpeg_with(picture(0), 0xE2, b"ICC_PROFILE\0\1\1" + PROFILE)
    else:
        plain = png(picture(0)) if kind == "png" else moving_png(path)
        data = with_chunk(plain, b"iCCP", b"display\0\0" + zlib.compress(PROFILE))
    path.write_bytes(data)
    program = (
        "import sys; from tabrt.film.reading import open_film, read_image\n"
        "for _ in range(3): read_image(sys.argv[1]); frames = len(list(open_film(sys.argv[1])))\n"
        "print(read_image(sys.argv[1]).shape, frames)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60)
    frames = 2 if kind == "apng" else 1
    assert (done.returncode, done.stdout.strip()) == (0, f"(64, 96, 3) {frames}"), done.stderr


def tiff_head(orientation: int, order: str) -> bytes:
    mark = b"MM" if order == ">" else b"II"
    return mark + struct.pack(order + "HIHHHIHHI", 42, 8, 1, 0x112, 3, 1, orientation, 0, 0)


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """The image as EXIF's number says it is to be shown."""
    if orientation >= 5:
        image = cv2.transpose(image)
    flips = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}
    return cv2.flip(image, flips[orientation]) if orientation in flips else image


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_every_orientation_is_obeyed(tmp_path, kind, orientation, order):
    exif = tiff_head(orientation, order)
    marked = (
        jpeg_with(picture(0), 0xE1, b"Exif\0\0" + exif) if kind == "jpg" else with_chunk(png(picture(0)), b"eXIf", exif)
    )
    (tmp_path / f"a.{kind}").write_bytes(marked)
    image, plain = read_image(tmp_path / f"a.{kind}"), cv2.imdecode(np.frombuffer(marked, np.uint8), 129)
    expected = turned(plain, orientation)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("name", ["a.png", "la.png", "a.webp", "a.tiff", "a.gif"])
def test_what_lies_under_transparency_does_not_show(tmp_path, name):
    image = np.dstack([picture(0), np.full((64, 96), 255, np.uint8)])
    image[:, :48, 3] = 0
    path = tmp_path / name
    if name == "a.gif":
        image[:, :48, :3] = 0, 0, 255
        came, _ = cv2.imwriteanimation(str(path), _one(image)), None
        assert came
    elif name == "la.png":
        path.write_bytes(encoded("png", "ya8", image))
    else:
        assert cv2.imwrite(str(path), image)
    shown = read_image(path)
    assert np.abs(shown[:, :46].astype(int) - 255).max() <= 2, "white"
    if name not in ("la.png", "a.gif"):
        assert close_to(shown, 0.9, 0.1, (0, 0, 255)), "the rest as it was"
    with open_film(path) as film:
        assert np.array_equal(next(iter(film)).image, shown)


def _one(image: np.ndarray) -> cv2.Animation:
    animation = cv2.Animation()
    animation.frames, animation.durations = [image], np.array([40])
    return animation


def test_half_transparent_is_half_white(tmp_path):
    image = np.zeros((8, 8, 4), np.uint8)
    image[..., 3] = 128
    cv2.imwrite(str(tmp_path / "a.png"), image)
    assert np.abs(read_image(tmp_path / "a.png").astype(int) - 127).max() <= 1


def grey(low: float, high: float) -> np.ndarray:
    """A ramp from left to right, with a dead pixel at either end of what 16 bits hold."""
    ramp = np.tile(np.linspace(low, high, 320), (256, 1))
    return ramp


@pytest.mark.parametrize("low, high", [(7000, 9000), (0, 4095), (100, 16383), (30000, 31000), (0, 65535)])
def test_deep_grey_uses_its_own_range(tmp_path, low, high):
    ramp = grey(low, high).astype(np.uint16)
    ramp[3, 3], ramp[5, 5] = 0, 65535  # dead pixels
    cv2.imwrite(str(tmp_path / "a.png"), ramp)
    image = read_image(tmp_path / "a.png")
    assert image.shape == (256, 320, 3)
    assert np.percentile(image, 1) < 8 and np.percentile(image, 99) > 247
    assert np.abs(image[100, :, 0].astype(int) - np.linspace(0, 255, 320)).max() < 6


@pytest.mark.parametrize("bits", [12, 14])
def test_deep_colours_of_few_bits_are_not_black(tmp_path, bits):
    cv2.imwrite(str(tmp_path / "a.png"), picture(0).astype(np.uint16) << (bits - 8))
    assert np.abs(read_image(tmp_path / "a.png").astype(int) - picture(0)).mean() < 4
    cv2.imwrite(str(tmp_path / "b.png"), picture(0).astype(np.uint16) * 257)
    assert np.abs(read_image(tmp_path / "b.png").astype(int) - picture(0)).max() <= 1


@pytest.mark.parametrize("peak", [1.0, 255.0, 0.001])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiff_of_real_numbers(tmp_path, channels, peak):
    image = picture(0, (320, 256)).astype(np.float32) / 255 * peak
    image[0, 0] = np.nan
    cv2.imwrite(str(tmp_path / "a.tiff"), image if channels == 3 else image[:, :, 1])
    shown = read_image(tmp_path / "a.tiff")
    assert shown.shape == (256, 320, 3)
    assert shown.max() > 240 and close_to(shown, 0.1, 0.1, (255, 255, 255))


@pytest.mark.parametrize(
    ("samples", "bits", "refused"), [(3, 64, True), (1, 64, False), (3, 16, False), (40, 32, True)]
)
def test_a_tiff_that_takes_too_much_memory_is_refused_before_it_is_decoded(
    tmp_path, monkeypatch, samples, bits, refused
):
    width, height, behind = 16000, 8000, 8 + 2 + 12 * 7 + 4
    entries = [(0x100, 4, 1, width), (0x101, 4, 1, height), (0x102, 3, samples, behind if samples > 2 else bits)]
    entries += [(0x103, 3, 1, 1), (0x115, 3, 1, samples), (0x142, 3, 1, 256), (0x153, 3, 1, 3)]
    head = b"II*\0" + struct.pack("<IH", 8, 7) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    (tmp_path / "a.tiff").write_bytes(head + bytes(4) + struct.pack("<H", bits) * samples)
    decoded: list[str] = []
    monkeypatch.setattr(cv2, "imread", lambda name, _: decoded.append(name))
    with pytest.raises(TabrtError, match=r"GB, above the limit of 1; scale it down" if refused else "a.tiff"):
        read_image(tmp_path / "a.tiff")
    assert bool(decoded) is not refused


def test_jpeg_in_tiff_has_its_colours(tmp_path):
    if not cv2.imwrite(str(tmp_path / "a.tiff"), picture(0, (320, 256)), (cv2.IMWRITE_TIFF_COMPRESSION, 7)):
        pytest.skip("this OpenCV writes no JPEG into TIFF")
    assert np.abs(read_image(tmp_path / "a.tiff").astype(int) - picture(0, (320, 256))).mean() < 6


def test_of_a_broken_picture_nobody_but_tabrt_says_anything(tmp_path, capfd):
    tiff = cv2.imencode(".tiff", picture(0, (320, 256)), (cv2.IMWRITE_TIFF_COMPRESSION, 7))[1].tobytes()
    (tmp_path / "a.tiff").write_bytes(tiff[:300] + bytes(2700) + tiff[3000:])  # JPEG, which FFmpeg would read wrongly
    (tmp_path / "a.webp").write_bytes((DATA / "face.webp").read_bytes()[:3000])
    for name, read in (("a.tiff", read_image), ("a.webp", read_image), ("a.webp", open_film)):
        with pytest.raises(TabrtError, match=name):
            read(tmp_path / name)
    assert capfd.readouterr().err == ""


@posix
def test_a_pipe_is_read_once(tmp_path):
    pipe = tmp_path / "a.png"
    os.mkfifo(pipe)
    feeder = threading.Thread(target=lambda: pipe.write_bytes(png(picture(0))), daemon=True)
    feeder.start()
    assert np.array_equal(read_image(pipe), picture(0))
    feeder.join(5)


def test_a_moving_webp_is_a_picture_and_a_film(tmp_path):
    assert read_image(DATA / "face.webp").shape == (225, 400, 3)
    with open_film(DATA / "face.webp") as film:
        frames = list(film)
    assert len(frames) == film.frames == 24
    assert film.duration == pytest.approx(2, abs=0.1)
    assert np.diff([frame.time for frame in frames]) == pytest.approx(1 / 12, abs=0.002)
    assert np.array_equal(frames[0].image, read_image(DATA / "face.webp"))
    (tmp_path / "a.webp").write_bytes((DATA / "face.webp").read_bytes()[:3000])
    with pytest.raises(TabrtError, match=r"a\.webp"):
        list(open_film(tmp_path / "a.webp"))


def test_a_picture_in_tiles_is_read_whole():
    image = read_image(DATA / "face_tiles.heic")
    assert image.shape == (720, 1280, 3)
    for seam in (512, 1024):  # neighbours across a seam are as alike as elsewhere
        across = np.abs(image[:, seam].astype(int) - image[:, seam - 1]).mean()
        beside = np.abs(image[:, seam - 8].astype(int) - image[:, seam - 9]).mean()
        assert across < 3 * beside + 1
    with open_film(DATA / "face_tiles.heic") as film:
        assert (film.width, film.height, len(list(film))) == (1280, 720, 1)


def test_no_more_of_a_file_is_looked_through_than_a_picture_has(tmp_path):
    """A file of a gigabyte may be made of boxes of eight bytes."""
    exif, empty = tiff_head(6, "<"), (0).to_bytes(4) + b"tEXt" + zlib.crc32(b"tEXt").to_bytes(4)
    for count, found in ((MAX_PARTS - 9, True), (MAX_PARTS, False)):
        marked = with_chunk(png(picture(0)), b"eXIf", exif)
        (tmp_path / "a.png").write_bytes(marked[:33] + empty * count + marked[33:])
        assert (orientation_of(str(tmp_path / "a.png")) is not None) == found
    data, free = (DATA / "face_tiles.heic").read_bytes(), (8).to_bytes(4) + b"free"
    head = int.from_bytes(data[:4])
    for count, found in ((9, True), (MAX_BOXES, False)):
        (tmp_path / "a.heic").write_bytes(data[:head] + free * count + data[head:])
        assert is_tiled(str(tmp_path / "a.heic")) == found


def test_damage_of_a_picture_in_tiles_is_told(tmp_path):
    data = (DATA / "face_tiles.heic").read_bytes()
    seen = set()
    for cut in (20, 300, 720, 5000, len(data) // 2, len(data) - 100):
        (tmp_path / "a.heic").write_bytes(data[:cut])
        try:
            seen.add(read_image(tmp_path / "a.heic").shape)
        except TabrtError as problem:
            assert "\n" not in str(problem)
    dice = np.random.default_rng(0)
    for _ in range(40):  # of the boxes that say how it is put together
        damaged = bytearray(data)
        damaged[dice.integers(0, 730)] ^= 1 << dice.integers(8)
        (tmp_path / "a.heic").write_bytes(damaged)
        try:
            assert max(read_image(tmp_path / "a.heic").shape) <= 16384
        except TabrtError as problem:
            assert "\n" not in str(problem)


JPEGS = {
    "plain": (),
    "progressive": (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "with restarts": (cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
}

BEHIND = {
    "nothing": b"",
    "zeros": bytes(9),
    "half a marker": b"\xff",
    "half a picture": jpg(picture(1))[:-500],
    "a film": b"\0\0\0\x18ftypmp42" + b"\xff\xda" * 99,
}


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_cut_short_is_read_and_told(tmp_path, kind):
    data = cv2.imencode(".jpg", read_image(DATA / "astronaut.png"), JPEGS[kind])[1].tobytes()
    thumbnail = b"Exif\0\0" + jpg(picture(0))  # which has an end of its own
    data = data[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2) + thumbnail + data[2:]
    for share in (0.4, 0.66, 0.99):
        (tmp_path / "a.jpg").write_bytes(data[: int(share * len(data))])
        notes: list[str] = []
        assert read_image(tmp_path / "a.jpg", notes).shape == (512, 512, 3)
        assert [note.split(":")[0] for note in notes] == ["cut short"], share
        with open_film(tmp_path / "a.jpg") as film:
            assert len(list(film)) == 1
            assert film.notes == notes


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("behind", BEHIND)
def test_a_whole_jpeg_is_whole_whatever_phones_put_behind_it(tmp_path, kind, behind):
    (tmp_path / "a.jpg").write_bytes(cv2.imencode(".jpg", picture(0), JPEGS[kind])[1].tobytes() + BEHIND[behind])
    notes: list[str] = []
    read_image(tmp_path / "a.jpg", notes)
    assert notes == []


def gif(pictures: int, path: Path) -> bytes:
    """A GIF of as many pictures, each with its own colours."""
    with av.open(str(path), "w", format="gif") as out:
        stream = out.add_stream("gif", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "rgb8"
        for number in range(pictures):
            frame = av.VideoFrame.from_ndarray(picture(number), format="bgr24").reformat(format="rgb8")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize("pictures", [1, 4])
def test_a_gif_cut_short_is_read_and_told(tmp_path, pictures):
    path = tmp_path / "a.gif"
    data = gif(pictures, path)
    for share in (0.8, 0.99):
        path.write_bytes(data[: int(share * len(data))])
        notes: list[str] = []
        assert read_image(path, notes).shape == (64, 96, 3)
        assert [note.split(":")[0] for note in notes] == ["cut short"], share
        with open_film(path) as film:
            assert len(list(film)) in (pictures, pictures - 1)
            assert film.notes == notes


@pytest.mark.parametrize("pictures", [1, 4])
@pytest.mark.parametrize("behind", [*BEHIND, "no trailer"])
def test_a_whole_gif_is_whole_whatever_is_behind_it(tmp_path, pictures, behind):
    path = tmp_path / "a.gif"
    data = gif(pictures, path)
    path.write_bytes(data[:-1] if behind == "no trailer" else data + BEHIND[behind])
    notes: list[str] = []
    read_image(path, notes)
    assert notes == []


@pytest.mark.parametrize("data", [b"GIF89a", b"GIF89a" + bytes(2**16), b"GIF89a" + bytes(7) + b"!\xf9" + b"\1" * 2**22])
def test_a_hostile_gif_takes_no_time(tmp_path, data):
    path = tmp_path / "a.gif"
    path.write_bytes(data)
    assert is_cut_short(str(path)) is (len(data) < 13)


def test_pictures_cut_short_in_a_folder_are_counted(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(jpg(picture(number))[: -100 if number else None])
    with open_film(tmp_path) as film:
        assert len(list(film)) == 3
        assert [note.startswith("cut short") and note.endswith("(2 pictures)") for note in film.notes] == [True]


def test_what_a_folder_holds_beside_pictures_is_counted(tmp_path):
    for name in ("b.JPG", "a.png", "c.gif"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in pictures_in(tmp_path)] == ["a.png", "b.JPG", "c.gif"]
    assert left_out(tmp_path) == []
    for name in ("d.jxl", "e.jxl", "notes.txt", "README", ".DS_Store"):
        (tmp_path / name).write_bytes(b"x")
    (note,) = left_out(tmp_path)
    assert "2 .jxl, 1 .txt, 1 without a suffix" in note
    assert left_out(tmp_path / "a.png") == []
