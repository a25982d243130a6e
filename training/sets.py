"""Labelled faces: pictures, points, and which of them are for validation."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from tabrt.errors import TabrtError
from tabrt.files import claim
from tabrt.topology import IBUG68, WFLW98, Topology
from training.drawn import SIDE, draw_face
from training.metrics import box_size, eye_distance

SHARED_SETS = ("human", "allage", "utkface", "facemask", "video")
LATER_SETS = ("cfp", "fgnet", "wider")  # taken where they lie beside the others
TURNED = "turned.zip"  # in the cache, where `python -m training turn` has made it
ZIPS = {name: name for name in (*SHARED_SETS, "fgnet", "wider", "turned")}  # of each set with points, the zip
ZIPS |= {"infants": "human", "frontal": "cfp", "profiles": "cfp"}
EMPTY = "empty.zip"  # likewise, by `python -m training empty`: pictures without a face
CROP_SIDE = SIDE  # px of the pictures in the zips
DRAWN = 2000  # drawn faces
_WHOLE = (36, 36, 316, 316)  # the box whose crop is nearly all of such a picture
_MAX_LABEL_BYTES = 2**28
_QUALITY = 90  # of the WebP that is written
_MAX_PICTURE_BYTES = 2**24


@dataclass(frozen=True, eq=False)
class FaceSet:
    """Labelled faces. `read(i)` gives picture i as uint8 (H, W, 3) BGR; points are its px, NaN where unlabelled.

    A picture without any point shows no face: the network is to be sure of nothing there.
    """

    name: str
    topology: Topology
    names: np.ndarray  # (N,) str, the same for all faces of one photo
    points: np.ndarray  # (N, L, 2) float32
    read: Callable[[int], np.ndarray]
    boxes: np.ndarray | None = None  # (N, 4) left, top, right, bottom, where they are not those of the points
    boxed: str = "the list's boxes"  # what those are
    scales: np.ndarray | None = None  # (N,) px, what an error is divided by, where it is not the distance of the eyes
    normaliser: str = "inter-ocular"  # what that length is called
    subsets: dict[str, np.ndarray] = field(default_factory=dict)  # name -> (N,) bool
    note: str = ""  # what whoever judges on it must know

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, keep: np.ndarray, name: str | None = None) -> FaceSet:
        """The faces of a boolean mask or of indices, in order."""
        index = np.arange(len(self))[keep]
        return replace(
            self,
            name=name or self.name,
            names=self.names[index],
            points=self.points[index],
            read=_Renumbered(self.read, index),
            boxes=None if self.boxes is None else self.boxes[index],
            scales=None if self.scales is None else self.scales[index],
            subsets={key: mask[index] for key, mask in self.subsets.items()},
        )

    def lengths(self) -> np.ndarray:
        """(N,) px: what the error of each face is divided by."""
        return eye_distance(self.points, self.topology) if self.scales is None else self.scales

    def by_longer_side(self) -> FaceSet:
        """The same faces, judged by the longer side of their points' box: the eyes of a profile fall together."""
        sides = np.nanmax(self.points, axis=1) - np.nanmin(self.points, axis=1)
        return replace(self, scales=sides.max(axis=1), normaliser="the longer side of the points' box")

    def evenly(self, count: int | None) -> FaceSet:
        """At most this many of the faces, evenly chosen; None: all."""
        if count is None or count >= len(self):
            return self
        return self.subset(np.linspace(0, len(self) - 1, count).astype(int))

    def by_box_size(self) -> FaceSet:
        """The same faces, judged by √(width · height) of their points' box."""
        return replace(self, scales=box_size(self.points), normaliser="√(width · height) of the points' box")


@dataclass(frozen=True, eq=False)
class _Renumbered:
    read: Callable[[int], np.ndarray]
    index: np.ndarray

    def __call__(self, i: int) -> np.ndarray:
        return self.read(int(self.index[i]))


@dataclass(frozen=True, eq=False)
class _Rows:
    """Reads picture i from a memory-mapped array: shared by all worker processes."""

    path: str

    def __call__(self, i: int) -> np.ndarray:
        return np.load(self.path, mmap_mode="r")[i]


def shared_faces(root: Path, cache: Path) -> tuple[dict[str, FaceSet], FaceSet]:
    """The zips of SHARED_SETS under root: sets to train on, and the held-out part of `human`.

    The infants of `human` are a set of their own: few, and the hardest, so a recipe may draw them more often.
    """
    missing = [name for name in SHARED_SETS if not (root / f"{name}.zip").is_file()]
    if missing:
        raise TabrtError(f"{root}: no {missing[0]}.zip; give the folder that holds {', '.join(SHARED_SETS)} (.zip)")
    sets = {name: load_zip(root / f"{name}.zip", cache)[0] for name in SHARED_SETS}
    sets |= _to_train_on(sets["human"])
    for name in LATER_SETS:
        if (root / f"{name}.zip").is_file():
            sets |= _to_train_on(load_zip(root / f"{name}.zip", cache)[0])
    if (cache / TURNED).is_file():
        sets |= _to_train_on(load_zip(cache / TURNED, cache)[0])
    if (cache / EMPTY).is_file():
        empty = empty_pictures(cache)
        sets["empty"] = empty.subset(~held_out(empty.names))
        drawn = drawn_pictures()
        sets["drawn"] = drawn.subset(~held_out(drawn.names))
    return {name: faces for name, faces in sets.items() if len(faces)}, shared_validation(root, cache)


def sets_named(names: Iterable[str], root: Path, cache: Path) -> dict[str, FaceSet]:
    """Of the sets of `shared_faces` some that have points, from their zips alone. Raises TabrtError."""
    found = {}
    for name in names:
        if name not in ZIPS:
            raise TabrtError(f"there is no set called {name!r}; there are {', '.join(ZIPS)}")
        folder = cache if name == "turned" else root
        path = folder / f"{ZIPS[name]}.zip"
        if not path.is_file():
            raise TabrtError(f"{folder}: no {path.name}, which holds the set {name}; give the folder that holds it")
        found[name] = _to_train_on(load_zip(path, cache)[0])[name]
    return found


def empty_pictures(cache: Path) -> FaceSet:
    """All that `python -m training empty` has made; the whole of each picture is looked at."""
    empty = load_zip(cache / EMPTY, cache)[0]
    return _seen_whole(empty)


def drawn_pictures() -> FaceSet:
    """Drawn faces, without a point, made anew each time they are read: the same ones always."""
    names = np.array([f"drawn_{number:05}" for number in range(DRAWN)])
    return _seen_whole(FaceSet("drawn", WFLW98, names, np.full((DRAWN, 98, 2), np.nan, np.float32), draw_face))


def _seen_whole(faces: FaceSet) -> FaceSet:
    return replace(faces, boxes=np.tile(np.array(_WHOLE, np.float32), (len(faces), 1)), boxed="whole pictures")


def turned_from_held_out(names: np.ndarray) -> np.ndarray:
    return held_out(names) & np.char.startswith(names, "turned_human_")


def _to_train_on(faces: FaceSet) -> dict[str, FaceSet]:
    """What of a zip is trained on, in sets: photos, or people, kept for validation are left out."""
    if faces.name == "turned":
        return {"turned": faces.subset(~turned_from_held_out(faces.names))}
    if faces.name in SHARED_SETS and faces.name != "human":
        return {faces.name: faces}
    known = faces.subset(~held_out(faces.names) & ~np.isin(faces.names, MISLABELLED))
    if faces.name == "human":
        infants = np.char.startswith(known.names, "infanface")
        return {"human": known.subset(~infants), "infants": known.subset(infants, "infants")}
    if faces.name == "cfp":
        profiles = np.char.startswith(known.names, "profile")
        return {"frontal": known.subset(~profiles, "frontal"), "profiles": known.subset(profiles, "profiles")}
    return {faces.name: known}


def shared_validation(root: Path, cache: Path) -> FaceSet:
    """The held-out part of human.zip, judged on its 68 human points; boxes are those of the 98 points."""
    if not (root / "human.zip").is_file():
        raise TabrtError(f"{root}: no human.zip; give the folder that holds it")
    faces, human = load_zip(root / "human.zip", cache)
    boxes = np.concatenate([faces.points.min(axis=1), faces.points.max(axis=1)], axis=1)
    judged = replace(
        faces, name="shared-validation", topology=IBUG68, points=human, boxes=boxes, boxed="boxes of the 98 points"
    )
    return judged.subset(held_out(faces.names))


def load_zip(path: Path, cache: Path) -> tuple[FaceSet, np.ndarray]:
    """One zip of face crops (labels.npz and images/), and its human points (N, 68, 2), NaN where it has none.

    Its pictures are decoded once into `cache`. Raises TabrtError naming the file and what was expected.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            labels = _labels(archive)
            names, points = labels["image"].astype(str), labels["points98"].astype(np.float32)
            human = labels["points68"].astype(np.float32)
            if points.shape != (len(names), 98, 2) or human.shape != (len(names), 68, 2):
                raise ValueError("labels.npz must hold points98 (N, 98, 2) and points68 (N, 68, 2)")
            rows = cache / f"{path.stem}.npy"
            if not _complete(rows, len(names)):
                _decode(archive, names, rows)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise TabrtError(f"{path}: not a zip of labelled faces ({error}); expected labels.npz and images/") from None
    return FaceSet(path.stem, WFLW98, names, points, _Rows(str(rows))), human


def write_zip(path: Path, faces: Iterable[tuple[str, bytes, np.ndarray]]) -> None:
    """Write a zip that `load_zip` reads, whole or not at all: name, coded picture and points (98, 2) of each face."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    names, points = [], []
    with zipfile.ZipFile(partial, "w") as archive:
        for name, picture, marks in faces:
            archive.writestr(f"images/{name}", picture)
            names.append(name)
            points.append(marks)
        memory = io.BytesIO()
        none = np.full((len(names), 68, 2), np.nan, np.float32)
        np.savez_compressed(memory, image=np.array(names), points98=np.array(points), points68=none)
        archive.writestr("labels.npz", memory.getvalue())
    partial.replace(path)
    path.with_suffix(".npy").unlink(missing_ok=True)  # the pictures of an earlier one


def coded(picture: np.ndarray) -> bytes:
    """A picture (H, W, 3) BGR as WebP, as the zips hold them."""
    return cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])[1].tobytes()


def marked_by_people(path: Path) -> np.ndarray:
    """(N, 98) bool: which points of a later zip come from people; the others are a network's."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _labels(archive)["human98"].astype(bool)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise TabrtError(f"{path}: labels.npz does not say who made its points ({error}); fetch it again") from None


def _labels(archive: zipfile.ZipFile):
    return np.load(io.BytesIO(_entry(archive, "labels.npz", _MAX_LABEL_BYTES)), allow_pickle=False)


def _entry(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    size = archive.getinfo(name).file_size
    if size > limit:
        raise ValueError(f"{name} unpacks to {size:,} bytes, more than {limit:,}")
    return archive.read(name)


def _complete(rows: Path, count: int) -> bool:
    if not rows.is_file():
        return False
    return np.load(rows, mmap_mode="r").shape == (count, CROP_SIDE, CROP_SIDE, 3)


def _decode(archive: zipfile.ZipFile, names: np.ndarray, rows: Path) -> None:
    rows.parent.mkdir(parents=True, exist_ok=True)
    partial = rows.with_suffix(".partial.npy")
    with partial.open("ab") as file:
        claim(file, partial, wait=True)
        if _complete(rows, len(names)):  # another run has done it meanwhile
            partial.unlink(missing_ok=True)
        else:
            _decode_into(archive, names, partial)
            partial.replace(rows)


def _decode_into(archive: zipfile.ZipFile, names: np.ndarray, rows: Path) -> None:
    shape = (len(names), CROP_SIDE, CROP_SIDE, 3)
    out = np.lib.format.open_memmap(rows, "w+", np.uint8, shape)
    blobs = (_entry(archive, f"images/{name}", _MAX_PICTURE_BYTES) for name in names)
    with ThreadPoolExecutor(2) as pool:
        for i, image in enumerate(pool.map(_decode_one, blobs)):
            if image is None or image.shape != shape[1:]:
                raise ValueError(f"images/{names[i]} is not a {CROP_SIDE}×{CROP_SIDE} picture")
            out[i] = image
    out.flush()


def _decode_one(blob: bytes) -> np.ndarray | None:
    return cv2.imdecode(np.frombuffer(blob, np.uint8), cv2.IMREAD_COLOR)


# Their points lie beside the face.
MISLABELLED = ("infanface_010.webp", "infanface_053.webp")

# One photo under two names, found by comparing thumbnails of all faces: they count as the photo on the right.
_TWINS = {
    "lfpw_image_0691": "lfpw_image_0692",
    "lfpw_image_0003": "lfpw_image_0052",
    "lfpw_image_0053": "lfpw_image_0035",
    "lfpw_image_0617": "lfpw_image_0647",
    "lfpw_image_0686": "lfpw_image_0727",
    "lfpw_image_0188": "lfpw_image_0190",
    "lfpw_image_0163": "lfpw_image_0192",
    "lfpw_image_0445": "lfpw_image_0458",
    "lfpw_image_0155": "lfpw_image_0134",
    "lfpw_image_0843": "lfpw_image_0827",
    "helen_afw_2140556694": "helen_afw_2139767101",
}


def photo_of(name: str) -> str:
    """What must not be split between training and validation: a photo, or, where names tell them, a person.

    Several faces of one photo are numbered `_1`, `_2` after a long number.
    """
    stem = re.sub(r"^turned_[a-z]+_", "", Path(name).stem)
    person = re.match(r"(?:frontal|profile)_(\d+)_|(fgnet_\d{3})", stem)
    if person:
        return person[1] or person[2]
    photo = re.sub(r"(\d{5,})_\d+$", r"\1", stem)
    return _TWINS.get(photo, photo)


def held_out(names: np.ndarray, share: int = 10) -> np.ndarray:
    """(N,) bool: the faces kept for validation, one photo in `share`, by a fixed hash of the photo's name."""
    return np.array([_digest(name) % share == 0 for name in names], bool)


def held_out_of_few(names: np.ndarray, share: int = 10) -> np.ndarray:
    """(N,) bool: one photo in `share`, and one at least, where the hash might give none."""
    photos = sorted({photo_of(name) for name in names}, key=_digest)
    return np.isin([photo_of(name) for name in names], photos[: max(1, len(photos) // share)])


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.sha256(photo_of(name).encode()).digest()[:8], "big")
