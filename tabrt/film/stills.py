"""Pictures, and folders of them as films."""

from __future__ import annotations

import contextlib
import os
import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from tabrt.errors import TabrtError
from tabrt.faces import Frame
from tabrt.film.colours import Range, on_paper
from tabrt.film.decoding import CLOSE, Film
from tabrt.film.exif import BITS, COMPRESSION, HEIGHT, JPEGS, SAMPLES, TILE_WIDTH, WIDTH, orientation_of, tags
from tabrt.film.heif import is_tiled, read_heif
from tabrt.film.opening import check_file, check_size
from tabrt.film.pictures import upright
from tabrt.film.sound import Soundtrack
from tabrt.film.times import part_of
from tabrt.words import counted

PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".jp2"),
    *(".heic", ".heif", ".hif", ".avif", ".pgm", ".ppm"),
)
SEQUENCE_RATE = Fraction(25)  # frames a second of a folder of pictures
UNREADABLE = 1000  # pictures in a row at the start of a folder, before it is given up
MAX_BYTES = 2**30  # that OpenCV decodes: of a TIFF, and of a moving WebP, whose pictures are all in memory
WIDEST_SAMPLE = 64  # bits


def read_image(path: str | Path, notes: list[str] | None = None) -> np.ndarray:
    """Read a picture as uint8 (H, W, 3) BGR in sRGB, upright by its EXIF orientation, on white where transparent.

    Of a moving picture, the first. Grey and colours deeper than 8 bits are stretched where they use a small part of
    their range. notes: takes what was done to the picture, and what is wrong with it, one line each.
    Raises TabrtError for what is no picture, one above 16384 px a side or 134 million px, and a TIFF of above 1 GB.
    """
    name, notes = os.fspath(path), [] if notes is None else notes
    check_file(Path(name))
    if not os.path.isfile(name):  # a pipe can be read once only
        return _by_ffmpeg(name, notes)
    image = read_heif(name, notes)
    if image is not None:
        return image
    if _is_doubtful(name):
        image = _by_opencv(name)
        if image is None:
            what = "damaged, cut short, or of a kind that is not known here"
            raise TabrtError(f"{name} cannot be decoded: {what}; copy it again, or convert it")
        return image
    try:
        return _by_ffmpeg(name, notes)
    except TabrtError:
        image = _by_opencv(name)
        if image is None:
            raise
        return image


def _by_ffmpeg(name: str, notes: list[str]) -> np.ndarray:
    with Film(name) as film:
        film.orient(orientation_of)
        image = next(iter(film)).image
        notes += film.notes
        return image


def _is_doubtful(name: str) -> bool:
    """Whether a file is a TIFF of a kind that FFmpeg reads wrongly, without a word: JPEG inside, or tiles."""
    with open(name, "rb") as file, contextlib.suppress(struct.error):
        if file.read(4) in (b"II*\0", b"MM\0*"):
            found = tags(file)
            return found.get(COMPRESSION) in JPEGS or TILE_WIDTH in found
    return False


def _by_opencv(name: str) -> np.ndarray | None:
    """Pictures that FFmpeg does not decode: TIFF of real numbers, moving WebP. None for anything else."""
    with open(name, "rb") as file:
        head = file.read(64)
    if head[:4] in (b"II*\0", b"MM\0*"):
        size = _tiff_size(name)
        if size is not None:
            _check_tiff(name, *size)
    elif head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X":
        size = _webp_size(head)
    else:
        return None
    if size is None:
        return None
    check_size(*size, name)
    with quiet_opencv():
        image = cv2.imread(name, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        return None
    matrix = orientation_of(name)
    return eight_bits(image) if matrix is None else upright(eight_bits(image), matrix)


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """OpenCV's own warnings say less than ours, and would stand beside them."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def eight_bits(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) BGR of what OpenCV read: grey, BGR or BGRA of any kind of number."""
    alpha = None
    if image.ndim == 3 and image.shape[2] == 4:
        image, alpha = image[:, :, :3], image[:, :, 3]
    if image.dtype != np.uint8:
        full = 1.0 if image.dtype.kind == "f" else float(np.iinfo(image.dtype).max)
        stretch = Range(1.0)
        image = stretch.grey(image, full) if image.ndim == 2 else stretch.colour(image, full)
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return image if alpha is None or alpha.dtype != np.uint8 else on_paper(np.dstack([image, alpha]))


def _webp_size(head: bytes) -> tuple[int, int]:
    """Width and height of the canvas."""
    return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1


def _tiff_size(name: str) -> tuple[int, int] | None:
    """Width and height of the first picture; None where the file does not say."""
    with open(name, "rb") as file, contextlib.suppress(struct.error):
        found = tags(file)
        return (found[WIDTH], found[HEIGHT]) if {WIDTH, HEIGHT} <= found.keys() else None
    return None


def _check_tiff(name: str, width: int, height: int) -> None:
    """Raise TabrtError for a TIFF that takes more memory than a picture may, as one of real numbers can."""
    with open(name, "rb") as file:
        found = tags(file)
    size = width * height * found.get(SAMPLES, 1) * found.get(BITS, WIDEST_SAMPLE) // 8
    if size > MAX_BYTES:
        raise TabrtError(
            f"{name} is {width}x{height} of {size / 2**30:.1f} GB, above the limit of {MAX_BYTES // 2**30}; "
            "scale it down, or convert it to 8 bits"
        )


# ------------------------------------------------------------------------------------------------ pictures as films


class PictureFilm(Film):
    """Pictures of one size as a film: files of 25 a second, or what is in memory, each from its own time."""

    def __init__(
        self,
        source: str,
        pictures: list[Path] | Animation,
        start: float | str | None = None,
        end: float | str | None = None,
        every: int = 1,
    ):
        self.source, self._closed, self.damaged = source, False, 0
        self._stills, self._times = _stills_and_times(pictures)
        length = self._times[-1]
        self.part = part = part_of(start, end, every, length, self.name)
        wanted = [i for i, time in enumerate(self._times[:-1]) if part.start - CLOSE <= time < part.end - CLOSE]
        self._wanted = wanted[::every]
        if not self._wanted:
            raise TabrtError(f"{self.name} has no picture in that part; choose another")
        self._sound = Soundtrack([], part)
        self._said = left_out(source)
        self._told: Counter[str] = Counter()  # what was done to how many pictures
        self.pixel_aspect = None
        self.rate = Fraction(len(self._stills) / length).limit_denominator(1000) / every
        self.time_base = 1 / SEQUENCE_RATE if isinstance(pictures, list) else Fraction(1, 1000)
        self.frames, self.duration = len(self._wanted), min(part.end, length) - part.start
        self.height, self.width = self._first_readable().shape[:2]
        self._given = self._load()

    @property
    def notes(self) -> list[str]:
        damage = [f"{self.name}: pictures passed over that cannot be read: {self.damaged}"] if self.damaged else []
        told = [f"{note} ({counted(count, 'picture')})" for note, count in self._told.items()]
        return [*self._said, *told, *damage]

    def metadata(self) -> dict[str, str]:
        return {}

    def chapters(self) -> list:
        return []

    def close(self) -> None:
        self._closed = True

    def _next(self) -> Frame | None:
        return None if self._closed else next(self._given, None)

    def _first_readable(self) -> np.ndarray:
        for index in self._wanted[:UNREADABLE]:
            with contextlib.suppress(TabrtError):
                return _image_of(self._stills[index], [])
        raise TabrtError(f"no picture in {self.name} can be read; check that they are {', '.join(PICTURE_SUFFIXES)}")

    def _load(self) -> Iterator[Frame]:
        for index in self._wanted:
            still = self._stills[index]
            notes: list[str] = []
            try:
                image = _image_of(still, notes)
            except TabrtError:
                self.damaged += 1
                continue
            if image.shape != (self.height, self.width, 3):
                size = f"{image.shape[1]}x{image.shape[0]}"
                raise TabrtError(
                    f"{still} is {size} in a sequence of {self.width}x{self.height}; "
                    "give pictures of one size, or use `tabrt image`"
                )
            self._told.update(notes)
            yield Frame(image, index, self._times[index])
        self._sound.end = min(self._times[self._wanted[-1] + 1], self.part.end)


@dataclass(frozen=True)
class Animation:
    """Pictures uint8 (H, W, 4) BGRA or (H, W, 3) BGR, and seconds for which each is shown."""

    images: list[np.ndarray]
    durations: list[float]


def _stills_and_times(pictures: list[Path] | Animation) -> tuple[list[Path] | list[np.ndarray], list[float]]:
    """The stills, and when each begins and the last ends, in seconds."""
    if isinstance(pictures, list):
        return pictures, [float(index / SEQUENCE_RATE) for index in range(len(pictures) + 1)]
    return pictures.images, [0.0, *np.cumsum(pictures.durations).tolist()]


def _image_of(still: Path | np.ndarray, notes: list[str]) -> np.ndarray:
    return read_image(still, notes) if isinstance(still, Path) else eight_bits(still)


def pictures_in(folder: str | Path) -> list[Path]:
    """The pictures of a folder, in the order of their names. Raises TabrtError for a folder that cannot be read."""
    return sorted(path for path in _entries(folder) if path.suffix.lower() in PICTURE_SUFFIXES)


def left_out(folder: str | Path) -> list[str]:
    """One line that counts, by suffix, the files of a folder that are not read; none where all are, or no folder is."""
    if not os.path.isdir(folder):
        return []
    others = [path for path in _entries(folder) if path.suffix.lower() not in PICTURE_SUFFIXES]
    kinds = Counter(
        path.suffix.lower() or "without a suffix"
        for path in others
        if not path.name.startswith(".") and os.path.isfile(path)
    )
    if not kinds:
        return []
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda kind: (-kind[1], kind)))
    return [f"left out of {folder}, as of no kind that is read: {counted}"]


def _entries(folder: str | Path) -> list[Path]:
    try:
        return list(Path(folder).iterdir())
    except OSError as problem:
        raise TabrtError(f"cannot read {folder} ({problem.strerror}); check its rights") from None


def sequence_of(source: str) -> list[Path] | None:
    """The pictures of a folder or a printf pattern, by number; None for what is neither."""
    path = Path(source)
    if os.path.isdir(path):
        found = pictures_in(path)
        more, remedy = " and no films", "name a film, or give --recursive for films in the folders below"
    elif re.search(r"%0?\d*d", path.name) and not os.path.exists(path):
        pattern = re.compile(re.sub(r"%0?\d*d", r"\\d+", re.escape(path.name)))
        found = [entry for entry in path.parent.glob("*") if pattern.fullmatch(entry.name)]
        more, remedy = "", "check the pattern"
    else:
        return None
    if not found:
        raise TabrtError(f"{path} holds no pictures{more}; {remedy}")
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key by which shot_2 comes before shot_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def still_of(source: str) -> list[Path] | Animation | None:
    """What FFmpeg would not read as the film it is: a picture in tiles, a moving WebP; None for anything else."""
    if not os.path.isfile(source):
        return None
    try:
        with open(source, "rb") as file:
            head = file.read(64)
    except OSError:
        return None  # what is the matter is found out, and said, when it is opened as a film
    if is_tiled(source):
        return [Path(source)]
    moving = head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and head[20] & 2
    return _animation(source, head) if moving else None


def _animation(source: str, head: bytes) -> Animation:
    width, height = _webp_size(head)
    check_size(width, height, source)
    with quiet_opencv():
        count = cv2.imcount(source)
    if count * width * height * 4 > MAX_BYTES:
        raise TabrtError(f"{source} is a moving WebP of {count} pictures, too many for memory; convert it to a film")
    with quiet_opencv():
        came, animation = cv2.imreadanimation(source)
    if not came or not len(animation.frames):
        raise TabrtError(f"{source} is a moving WebP that is damaged; check it, or convert it with ffmpeg")
    durations = [max(int(each), 10) / 1000 for each in animation.durations]  # ms, as browsers take 0
    return Animation(list(animation.frames), durations)
