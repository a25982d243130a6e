"""The public data sets, read in the layouts they are distributed in, and HRNet's csv lists.

Every problem is one line that names the file, and the line in it, and what was expected there. Files made by Matlab,
and 300-W's .pts, count pixels from 1: 1 is subtracted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from tabrt.engines import Engine
from tabrt.errors import TabrtError
from tabrt.topology import AFLW19, COFW29, IBUG68, WFLW98, Topology
from tabrt.words import counted
from training.matlab import load_matlab, read_matlab_picture
from training.schemes import exact_points, taught, teaches
from training.sets import FaceSet, held_out, held_out_of_few, shared_faces, shared_validation
from training.weaknesses import Trial, children, profiles, shared_trials, turned

_SUFFIXES = (".jpg", ".png", ".jpeg", ".bmp")
_WFLW_SUBSETS = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")
_WFLW_CSV_SUBSETS = ("largepose", "expression", "illumination", "makeup", "occlusion", "blur")
_AFLW_TRAINING = 20_000  # the first of the order that AFLWinfo_release.mat gives; the rest are for testing
_NO_PARTS = "the folder has no parts: all of it is judged, and what a model was trained on is no test of it"
_BOX_SIZE = "√(width · height) of the face box"


@dataclass(frozen=True, eq=False)
class _Files:
    """Reads picture i from its file."""

    paths: tuple[str, ...]

    def __call__(self, i: int) -> np.ndarray:
        # The points were marked on the pixels as stored, whatever a camera noted of their orientation.
        image = cv2.imread(self.paths[i], cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:
            raise TabrtError(f"{self.paths[i]} cannot be read as a picture; fetch the data set again")
        return image


@dataclass(frozen=True, eq=False)
class _MatlabPictures:
    """Reads picture i from a list of pictures in a .mat file."""

    path: Path
    key: str

    def __call__(self, i: int) -> np.ndarray:
        return read_matlab_picture(self.path, self.key, i)


def load_dataset(name: str, root: Path, part: str, cache: Path) -> FaceSet:
    """The `train` or `test` part of a data set of DATASETS. Raises TabrtError for anything missing or wrong."""
    if not root.is_dir():
        raise TabrtError(f"there is no folder {root}; give the folder of {name}")
    if name in SHARED_DATASETS:
        return SHARED_DATASETS[name](root, cache)
    faces = DATASETS[name](root, part)
    if len(faces) == 0:
        raise TabrtError(f"{root} holds no faces of the {part} part of {name}; check the folder")
    _require_extent(faces, root)
    return faces


def _require_extent(faces: FaceSet, root: Path) -> None:
    """Two points apart at least, or there is no face to cut out."""
    labelled = np.isfinite(faces.points).all(axis=2)
    low, high = (reduce(faces.points, axis=1) for reduce in (np.fmin.reduce, np.fmax.reduce))
    flat = (labelled.sum(axis=1) < 2) | ~((high - low).max(axis=1) > 1)
    if flat.any():
        name = faces.names[int(flat.argmax())]
        raise TabrtError(f"{root}: face {name} has fewer than two labelled points apart; mend or remove its line")


# WFLW


def wflw(root: Path, part: str) -> FaceSet:
    """WFLW: HRNet's face_landmarks_wflw_*.csv where it lies in root, else WFLW_annotations; and WFLW_images."""
    images = _folder(root, ("WFLW_images", "images"), "the pictures of WFLW")
    csv = root / f"face_landmarks_wflw_{part}.csv"
    if csv.is_file():
        faces, lines = _csv("wflw", WFLW98, csv, images)
        return replace(faces, subsets=_wflw_csv_subsets(root, lines) if part == "test" else {})
    folder = "WFLW_annotations/list_98pt_rect_attr_train_test"
    path = _file(root, (f"{folder}/list_98pt_rect_attr_{part}.txt", f"list_98pt_rect_attr_{part}.txt"))
    rows, names = [], []
    for where, words in _lines(path):
        if len(words) != 207:
            raise TabrtError(f"{where}: {len(words)} words; expected 196 coordinates, 4 of a box, 6 flags and a name")
        rows.append(_numbers(words[:206], where))
        names.append(words[206])
    table = np.array(rows).reshape(-1, 206)
    flags = table[:, 200:].astype(bool)
    subsets = {name: flags[:, i] for i, name in enumerate(_WFLW_SUBSETS)} if part == "test" else {}
    points = table[:, :196].reshape(-1, 98, 2).astype(np.float32)
    # The list's own boxes are a detector's, and loose: the crop is that of the points, as in HRNet's lists.
    return FaceSet("wflw", WFLW98, np.array(names), points, _files(images, names, path), subsets=subsets)


def _wflw_csv_subsets(root: Path, lines: list[str]) -> dict[str, np.ndarray]:
    subsets = {}
    for name, file in zip(_WFLW_SUBSETS, _WFLW_CSV_SUBSETS, strict=True):
        path = root / f"face_landmarks_wflw_test_{file}.csv"
        if path.is_file():
            members = set(path.read_text(errors="replace").splitlines())
            subsets[name] = np.array([line in members for line in lines])
    return subsets


# 300-W


def w300(root: Path, part: str) -> FaceSet:
    """300-W: HRNet's csv lists, or any tree of pictures with .pts beside them.

    train: afw, helen/trainset, lfpw/trainset. test: helen/testset and lfpw/testset (common), ibug (challenging). Both
    are the whole tree where it has none of these folders.
    """
    listed = root / ("face_landmarks_300w_train.csv" if part == "train" else "face_landmarks_300w_valid.csv")
    if listed.is_file():
        faces = _from_one(_csv("300w", IBUG68, listed, _folder(root, ("images", "."), "the pictures of 300-W"))[0])
    else:
        faces = _pts_tree("300w", root)
    common = _within(faces.names, ("helen/testset", "lfpw/testset"))
    challenging = _within(faces.names, ("ibug",))
    training = _within(faces.names, ("afw", "helen/trainset", "lfpw/trainset"))
    if not (common | challenging | training).any():  # a folder of one's own
        return faces if part == "train" else replace(faces, note=_NO_PARTS)
    if part == "train":
        return faces.subset(training)
    if not (common | challenging).any():
        return replace(faces, note=f"{root} holds 300-W's training pictures alone: this is no test")
    return replace(faces, subsets={"common": common, "challenging": challenging}).subset(common | challenging)


def w300_private(root: Path, part: str) -> FaceSet:
    """300-W's own test set: 01_Indoor and 02_Outdoor with .pts, or HRNet's face_landmarks_300w_test.csv."""
    _test_only("300w-private", part)
    listed = root / "face_landmarks_300w_test.csv"
    if listed.is_file():
        faces = _from_one(_csv("300w-private", IBUG68, listed, _folder(root, ("images", "."), "the pictures"))[0])
    else:
        faces = _pts_tree("300w-private", root)
    places = {
        name: _within(faces.names, (folder,)) for name, folder in (("indoor", "01_indoor"), ("outdoor", "02_outdoor"))
    }
    return replace(faces, subsets={name: mask for name, mask in places.items() if mask.any()})


def _from_one(faces: FaceSet) -> FaceSet:
    boxes = None if faces.boxes is None else faces.boxes - 1
    return replace(faces, points=faces.points - 1, boxes=boxes)


def _within(names: np.ndarray, folders: tuple[str, ...]) -> np.ndarray:
    paths = [f"/{name.lower()}" for name in names]
    return np.array([any(f"/{folder}/" in path for folder in folders) for path in paths], bool)


def _pts_tree(name: str, root: Path) -> FaceSet:
    labels = sorted(root.rglob("*.pts"))
    if not labels:
        raise TabrtError(f"{root}: no .pts file in it; expected pictures with .pts beside them")
    paths = [_picture_beside(path) for path in labels]
    points = np.stack([read_pts(path, 68) for path in labels])
    names = np.array([path.relative_to(root).as_posix() for path in paths])
    return FaceSet(name, IBUG68, names, points, _Files(tuple(map(str, paths))))


def _picture_beside(path: Path) -> Path:
    for suffix in (*_SUFFIXES, *map(str.upper, _SUFFIXES)):
        if path.with_suffix(suffix).is_file():
            return path.with_suffix(suffix)
    raise TabrtError(f"{path}: no picture beside it; expected {path.stem} with {', '.join(_SUFFIXES)}")


def read_pts(path: Path, count: int) -> np.ndarray:
    """The points (count, 2) of a .pts file, counted from 0. Raises TabrtError naming the line that is wrong."""
    rows: list[np.ndarray] = []
    inside = False
    for where, words in _lines(path):
        if words in (["{"], ["}"]):
            inside = words == ["{"]
        elif inside:
            if len(words) != 2:
                raise TabrtError(f"{where}: {' '.join(words)[:40]!r}; expected x and y")
            rows.append(_numbers(words, where))
    if len(rows) != count:
        raise TabrtError(f"{path}: {len(rows)} points between braces; expected {count}")
    return np.array(rows, np.float32) - 1


# Sets with a .mat file


def w300_lp(root: Path, part: str) -> FaceSet:
    """300W-LP: AFW, HELEN, IBUG, LFPW with landmarks/*/*_pts.mat. Augmentation makes what the *_Flip folders hold."""
    if part != "train":
        raise TabrtError("300w-lp is for training only; judge on aflw2000-3d")
    pictures = [path for folder in ("AFW", "HELEN", "IBUG", "LFPW") for path in sorted((root / folder).glob("*.jpg"))]
    labels = [root / "landmarks" / path.parent.name / f"{path.stem}_pts.mat" for path in pictures]
    points = [_points_in(label, "pts_3d", (68, 2)) for label in labels]
    # Pictures of one photo are numbered by their pose at the end.
    names = [f"{path.parent.name}/{re.sub(r'_[0-9]+$', '', path.stem)}" for path in pictures]
    return _faces("300w-lp", IBUG68, names, points, _Files(tuple(map(str, pictures)))).by_box_size()


def aflw2000_3d(root: Path, part: str) -> FaceSet:
    """AFLW2000-3D: pictures with a .mat beside each; three subsets by yaw."""
    _test_only("aflw2000-3d", part)
    pictures = sorted(root.glob("*.jpg")) or sorted(root.glob("AFLW2000/*.jpg"))
    labels = [path.with_suffix(".mat") for path in pictures]
    points = [_points_in(label, "pt3d_68", (3, 68))[:2].T for label in labels]
    yaws = np.array([abs(np.degrees(float(_array_in(label, "Pose_Para", (1, 7))[0, 1]))) for label in labels])
    bounds = {"yaw 0–30°": (0, 30), "yaw 30–60°": (30, 60), "yaw 60–90°": (60, 91)}
    subsets = {name: (low <= yaws) & (yaws < high) for name, (low, high) in bounds.items()}
    faces = _faces("aflw2000-3d", IBUG68, [p.name for p in pictures], points, _Files(tuple(map(str, pictures))))
    return replace(faces.by_box_size(), subsets=subsets)


def _array_in(path: Path, key: str, shape: tuple[int, ...]) -> np.ndarray:
    values = load_matlab(path, key)
    if values.shape != shape:
        raise TabrtError(f"{path}: {key} is {values.shape}; expected {shape}")
    return np.asarray(values, np.float64)


def _points_in(path: Path, key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Points of a Matlab file, counted from 0."""
    return _array_in(path, key, shape) - 1


def aflw(root: Path, part: str) -> FaceSet:
    """AFLW, 19 points: HRNet's csv lists, or AFLWinfo_release.mat; pictures in data/flickr, flickr or images."""
    images = _folder(root, ("data/flickr", "flickr", "aflw/data/flickr", "images"), "the pictures of AFLW")
    listed = root / f"face_landmarks_aflw_{part}.csv"
    if listed.is_file():
        faces, lines = _csv("aflw", AFLW19, listed, images, sized=True)
        frontal = root / "face_landmarks_aflw_test_frontal.csv"
        if part == "test" and frontal.is_file():
            members = set(frontal.read_text(errors="replace").splitlines())
            faces = replace(faces, subsets={"frontal": np.array([line in members for line in lines])})
        return faces
    path = _file(root, ("AFLWinfo_release.mat",))
    data, boxes, visible, order, listed_names = (
        load_matlab(path, key) for key in ("data", "bbox", "mask_new", "ra", "nameList")
    )
    count = len(data)
    _require_shapes(
        path, {"data": (data, (count, 38)), "bbox": (boxes, (count, 4)), "mask_new": (visible, (count, 19))}
    )
    order = np.asarray(order, np.int64).ravel() - 1
    names = np.array([_text(name) for name in listed_names.ravel()])
    if len(names) != count or sorted(order) != list(range(count)):
        raise TabrtError(f"{path}: nameList and ra must have {count} entries, ra every number from 1 once")
    of = order[:_AFLW_TRAINING] if part == "train" else order[_AFLW_TRAINING:]
    left, right, top, bottom = np.asarray(boxes, np.float64)[of].T
    points = np.asarray(data, np.float32)[of].reshape(-1, 2, 19).transpose(0, 2, 1)
    facing = np.asarray(np.asarray(visible)[of].all(axis=1))
    subsets = {"frontal": facing} if part == "test" else {}
    return FaceSet(
        "aflw", AFLW19, names[of], points, _files(images, names[of].tolist(), path),
        boxes=np.stack([left, top, right, bottom], axis=1), scales=np.sqrt((right - left) * (bottom - top)),
        normaliser=_BOX_SIZE, subsets=subsets,
    )  # fmt: skip


def cofw(root: Path, part: str) -> FaceSet:
    """COFW, 29 points: COFW_train_color.mat and COFW_test_color.mat, which hold the pictures too."""
    path = _file(root, (f"COFW_{part}_color.mat", f"COFW_color/COFW_{part}_color.mat"))
    ending = "Tr" if part == "train" else "T"
    table = np.asarray(load_matlab(path, f"phis{ending}"), np.float32)
    if table.ndim != 2 or table.shape[1] != 87:
        raise TabrtError(f"{path}: phis{ending} is {table.shape}; expected (N, 87): 29 x, 29 y, 29 flags")
    points = table[:, :58].reshape(-1, 2, 29).transpose(0, 2, 1) - 1
    names = np.array([f"{path.name}/{i + 1}" for i in range(len(points))])
    reader = _MatlabPictures(path, f"Is{ending}")
    return FaceSet("cofw", COFW29, names, points, reader, normaliser="inter-pupil")


def cofw_68(root: Path, part: str) -> FaceSet:
    """COFW-68: the pictures of COFW_test_color.mat with COFW68_Data/test_annotations/N_points.mat."""
    _test_only("cofw-68", part)
    pictures = _file(root, ("COFW_test_color.mat", "COFW_color/COFW_test_color.mat"))
    folders = ("COFW68_Data", "cofw68-benchmark/COFW68_Data", "cofw68-benchmark-master/COFW68_Data")
    labels = _folder(root, tuple(f"{folder}/test_annotations" for folder in folders), "the points of COFW-68")
    count = len(list(labels.glob("*_points.mat")))
    points = [_points_in(labels / f"{i + 1}_points.mat", "Points", (68, 2)) for i in range(count)]
    names = [f"{pictures.name}/{i + 1}" for i in range(count)]
    return _faces("cofw-68", IBUG68, names, points, _MatlabPictures(pictures, "IsT")).by_box_size()


# What they share


def _faces(name: str, topology: Topology, names: list[str], points: list[np.ndarray], read: Callable) -> FaceSet:
    shape = (-1, topology.points, 2)
    return FaceSet(name, topology, np.array(names, str), np.array(points, np.float32).reshape(shape), read)


def _csv(name: str, topology: Topology, path: Path, images: Path, sized: bool = False) -> tuple[FaceSet, list[str]]:
    """HRNet's lists: picture, scale (box side / 200), [box size,] centre, points. Returns its lines too."""
    extra = 4 if sized else 3
    expected = 1 + extra + 2 * topology.points
    rows: list[np.ndarray] = []
    names, lines = [], []
    for where, words in _lines(path, ","):
        if not rows and words[0].lower() == "image_name":
            continue
        if len(words) != expected:
            raise TabrtError(f"{where}: {len(words)} fields; expected {expected}: a name, {extra} of the box, points")
        rows.append(_numbers(words[1:], where))
        names.append(words[0])
        lines.append(",".join(words))
    table = np.array(rows).reshape(-1, expected - 1)
    side, centre = table[:, :1] * 200, table[:, extra - 2 : extra]
    faces = FaceSet(
        name, topology, np.array(names, str), table[:, extra:].reshape(-1, topology.points, 2).astype(np.float32),
        _files(images, names, path), boxes=np.concatenate([centre - side / 2, centre + side / 2], axis=1),
    )  # fmt: skip
    return (replace(faces, scales=table[:, 1], normaliser="the list's box size") if sized else faces), lines


def _lines(path: Path, separator: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """(file and line number, words) of each line that is not empty."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise TabrtError(f"{path}: cannot be read as text ({error}); fetch it again") from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield f"{path}, line {number}", [word.strip() for word in line.strip().split(separator)]


def _numbers(words: list[str], where: str) -> np.ndarray:
    """Words as numbers; `nan` stands for no label."""
    try:
        values = np.array(words, np.float64)
    except ValueError:
        wrong = next(i for i, word in enumerate(words) if not _is_number(word))
        raise TabrtError(f"{where}: {words[wrong][:40]!r} is no number") from None
    if np.isinf(values).any():
        raise TabrtError(f"{where}: a number is infinite; expected pixels")
    return values


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _files(folder: Path, names: list[str], source: Path) -> _Files:
    """A reader of these pictures. Raises TabrtError for one that is missing, or lies outside the folder."""
    base = folder.resolve()
    paths = [folder / name for name in names]
    for number, path in enumerate(paths, 1):
        if not path.resolve().is_relative_to(base) or not path.is_file():
            raise TabrtError(f"{source}, face {number}: the picture {path} is not there; fetch the pictures again")
    return _Files(tuple(map(str, paths)))


def _file(root: Path, candidates: tuple[str, ...]) -> Path:
    for candidate in candidates:
        if (root / candidate).is_file():
            return root / candidate
    raise TabrtError(f"{root}: no {candidates[0]} in it; give the folder that the data set was unpacked in")


def _folder(root: Path, candidates: tuple[str, ...], what: str) -> Path:
    for candidate in candidates:
        if (root / candidate).is_dir():
            return root / candidate
    raise TabrtError(f"{root}: no folder {candidates[0]} in it; expected {what} there")


def _require_shapes(path: Path, arrays: dict[str, tuple[np.ndarray, tuple[int, ...]]]) -> None:
    for key, (values, shape) in arrays.items():
        if values.shape != shape:
            raise TabrtError(f"{path}: {key} is {values.shape}; expected {shape}")


def _text(cell: object) -> str:
    while isinstance(cell, np.ndarray) and cell.size:
        cell = cell.ravel()[0]
    return str(cell)


def _test_only(name: str, part: str) -> None:
    if part != "test":
        raise TabrtError(f"{name} is a test set: nothing is trained on it; use another set")


DATASETS: dict[str, Callable[[Path, str], FaceSet]] = {
    "wflw": wflw,
    "300w": w300,
    "300w-private": w300_private,
    "300w-lp": w300_lp,
    "aflw2000-3d": aflw2000_3d,
    "aflw": aflw,
    "cofw": cofw,
    "cofw-68": cofw_68,
}


SHARED_DATASETS: dict[str, Callable[[Path, Path], FaceSet]] = {
    "shared-validation": shared_validation,
    "shared-profiles": profiles,
    "shared-turned": turned,
    "shared-children": children,
}


# Mixtures for training


@dataclass(frozen=True)
class Source:
    """One NAME:FOLDER[@WEIGHT] of --data."""

    name: str
    root: Path
    weight: float | None


def parse_sources(text: str) -> list[Source]:
    """`shared:DIR@0.5,wflw:DIR@0.5` as sources: all with weights, or none. Raises TabrtError."""
    sources = []
    for item in text.split(","):
        found = re.fullmatch(r"([^:]+):(.+?)(?:@([0-9.]+))?", item.strip())
        if found is None or found[1] not in ("shared", *DATASETS):
            raise TabrtError(
                f"--data {item!r}: expected NAME:FOLDER[@WEIGHT], NAME one of shared, {', '.join(DATASETS)}"
            )
        weight = None if found[3] is None else float(_numbers([found[3]], f"--data {item!r}")[0])
        if weight == 0:
            raise TabrtError(f"--data {item!r}: a weight must be above 0")
        sources.append(Source(found[1], Path(found[2]), weight))
    if len({source.weight is None for source in sources}) > 1:
        raise TabrtError(f"--data {text!r}: give every source a weight, or none")
    return sources


def training_sets(
    sources: list[Source],
    topology: Topology,
    mixture: dict[str, float],
    cache: Path,
    engine: Engine | None = None,
    say: Callable[[str], None] = print,
) -> tuple[dict[str, FaceSet], dict[str, float], list[Trial]]:
    """Sets to train on, the share of each in a batch, and what is validated on: what the first source holds out.

    Of `shared` that is a trial for each weakness; of any other source a tenth of its faces. mixture: shares within
    `shared`. engine: the network that training starts from, which fills what a set's scheme does not mark. A test set
    is never used to choose a checkpoint. Raises TabrtError for a set in a scheme that cannot teach one of topology.
    """
    sets: dict[str, FaceSet] = {}
    shares: dict[str, float] = {}
    trials: list[Trial] = []
    for source in sources:
        parts, held = _split(source, cache)
        within = {name: mixture.get(name, 0.0) if source.name == "shared" else 0.0 for name in parts}
        if not any(within.values()):
            within = {name: float(len(faces)) for name, faces in parts.items()}
        weight = sum(map(len, parts.values())) if source.weight is None else source.weight
        shares |= {name: weight * share / sum(within.values()) for name, share in within.items()}
        sets |= parts
        trials = trials or held
    for name, faces in sets.items():
        if not teaches(faces, topology):
            raise TabrtError(
                f"{faces.name} has {faces.topology.name} points; train it with --topology {faces.topology.name}"
            )
        if faces.topology is not topology:
            sets[name] = taught(faces, engine, say)
    return sets, shares, [_judged(trial, topology) for trial in trials]


def _judged(trial: Trial, topology: Topology) -> Trial:
    """A trial that a network of topology can be judged on."""
    if trial.faces.topology in (topology, IBUG68):  # wflw98 points are converted to 68
        return trial
    return replace(trial, faces=exact_points(trial.faces).by_longer_side())


def _split(source: Source, cache: Path) -> tuple[dict[str, FaceSet], list[Trial]]:
    if source.name == "shared":
        return shared_faces(source.root, cache)[0], shared_trials(source.root, cache)
    faces = load_dataset(source.name, source.root, "train", cache)
    out = held_out(faces.names)
    if not out.any() or out.all():  # by chance, of few
        out = held_out_of_few(faces.names)
    if out.all():
        raise TabrtError(
            f"{source.root}: {counted(len(faces), 'face is', 'faces are')} too few to hold some out for validation"
        )
    return {source.name: faces.subset(~out)}, [Trial(source.name, faces.subset(out, f"{source.name}-validation"))]
