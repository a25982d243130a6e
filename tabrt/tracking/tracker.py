"""Frames in, scenes out: faces are found once, then followed from frame to frame."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import TypeVar

import cv2
import numpy as np

from tabrt.detection import SAME_FACE, Detector, intersection_over_minimum
from tabrt.engines.engine import Engine, load_engine
from tabrt.errors import TabrtError
from tabrt.faces import Face, Frame, Scene
from tabrt.geometry import Box, Crop
from tabrt.heatmaps import decode
from tabrt.measures import Calibration, Lens, Person, Sight
from tabrt.topology import WFLW98, topology_named
from tabrt.tracking.pixels import as_shown, as_stored
from tabrt.tracking.smoothing import DEFAULT_STRENGTH, Smoother

# Confidence of a face: the mean of its points'. About 0.9 on a clear face, below 0.4 on anything else.
NEW_CONFIDENCE = 0.5  # from here on a found face is believed
KEPT_CONFIDENCE = 0.4  # below, a followed face is lost: lower than for new ones, so that a hand before it is no end
SURE_CONFIDENCE = 0.6  # a face below it must be found again by the detector now and then
MISSED_SEARCHES = 3  # searches that may pass over such a face before it counts as lost
LOST_SECONDS = 2.0  # how long a lost face keeps its id: an occlusion of a second, half hidden before and after it
RETURN_DISTANCE = 0.6  # face sides between where a lost face was expected and where it may come back …
RETURN_SPEED = 0.8  # … and how much farther for each second that it was lost
RETURN_GROWTH = 0.5  # largest change of the logarithm of its size
COLLAPSE = 0.25  # face sides, mean distance of points at which two faces are one
TIE = 0.1  # doubts closer than this do not tell which of two collapsed faces is the real one
STEADY = 0.25  # face sides that points may move across a suspected cut of one and the same face
CUT = 22.0  # grey levels of mean change of the thumbnail from which a cut is suspected …
STILL = 5.0  # … and below which there is none
FLAT = 4.0  # grey levels, standard deviation of a thumbnail that shows nothing
UNLIKE = 0.4  # correlation of the thumbnails below which it is certain: another light leaves it high, a fast pan above
THUMBNAIL = 32  # px
NOMINAL_STEP = 1 / 30  # s, where the frames' own times do not advance
SEARCH_SECONDS = 0.5  # between searches while fewer faces are followed than asked for …
CHECK_SECONDS = 2.0  # … and when all are
MAX_WAIT = 60  # frames between searches at most …
LOST_WAIT = 4  # … and while one is lost that may come back
SPEED_SECONDS = 0.1  # over which a face's speed is averaged
USUAL_SECONDS = 1.0  # in which a face's usual confidence follows one that is lower; a higher one it takes at once
WELL_SEEN = 0.93  # of the usual confidence: below it something is before the face, and its points are dragged along
LOST_BY_A_FORK = {"openvino", "tensorrt", "torch", "mediapipe"}  # engines and detectors whose threads a child lacks

T = TypeVar("T", bound=Engine | Detector)


@dataclass
class _Track:
    """A face that is followed, or was lost not long ago."""

    id: int
    crop: Crop  # where to look next
    points: np.ndarray  # raw, (L, 2) frame px
    confidence: np.ndarray  # (L,)
    smoother: Smoother
    seen: float  # clock of the last frame it was seen in
    box: Box  # of the points, with their mean confidence
    well_seen: float  # clock of the last frame in which nothing was before it
    well_box: Box
    speed: np.ndarray = field(default_factory=lambda: np.zeros(2))  # frame px/s, while well seen
    usual: float = 0.0  # confidence
    doubt: float = 0.0  # face sides from where it was expected, plus the confidence it lacks: large on another's face
    missed: int = 0  # searches in a row that passed it over
    boundaries: np.ndarray | None = None
    person: Person = field(default_factory=Person)  # what is remembered for pose and measures

    @property
    def side(self) -> float:
        return max(self.well_box.width, self.well_box.height, 1e-6)

    def expected(self, clock: float) -> np.ndarray:
        """Where its centre should be by now, if it moves on as it did."""
        return np.asarray(self.well_box.centre) + self.speed * (clock - self.well_seen)


@dataclass(frozen=True)
class _Look:
    """What the network saw in one crop."""

    crop: Crop
    points: np.ndarray  # (L, 2) frame px
    confidence: np.ndarray
    boundaries: np.ndarray | None

    @cached_property
    def score(self) -> float:
        return float(self.confidence.mean())

    @cached_property
    def box(self) -> Box:
        return Box.of(self.points, self.score)


class Tracker:
    """Follows faces through frames: `tracker(frame) -> Scene`, or `tracker.track(source)`.

    model: a name of tabrt.engines.engine.MODELS or a file. engine: a name of ENGINES, "auto", or one that is
    loaded. faces: most faces to follow at once. smoothing: 0 (off) … 1. threads, device: the engine's. boundaries: give
    each face its boundary heatmaps. detector: what finds faces: a name of RUNTIMES, or one that is loaded. fov: degrees
    that the camera sees horizontally, or its calibration; guessed for the heads' distance where not given. A context
    manager: it closes what it loaded, and nothing that it was lent. Raises TabrtError.

    One tracker is for one film or camera. Calls from several threads wait for each other. Made before a fork, it works
    in the child with ONNX Runtime, and says so with the other engines, which would hang.
    """

    def __init__(
        self,
        model: str | Path = "tab1-lite",
        engine: str | Engine = "auto",
        faces: int = 4,
        smoothing: float = DEFAULT_STRENGTH,
        threads: int | None = None,
        boundaries: bool = False,
        detector: str | Detector = "onnxruntime",
        fov: float | Calibration | None = None,
        device: str = "auto",
    ):
        if not isinstance(faces, int) or faces < 1:
            raise TabrtError(f"faces is {faces!r}; it must be a whole number from 1")
        if not 0 <= smoothing <= 1:
            raise TabrtError(f"smoothing is {smoothing!r}; it must be a number 0…1")
        self._owned: list[Engine | Detector] = []
        self.engine = self._own(load_engine(model, engine, threads, device)) if isinstance(engine, str) else engine
        self.topology = topology_named(self.engine.card.topology)
        self._faces = faces
        self._smoothing = smoothing
        self._boundaries = boundaries
        self._lens = _lenses(fov)
        self._detector = self._own(Detector(detector)) if isinstance(detector, str) else detector
        self._process, self._lock = os.getpid(), Lock()
        self.seconds = dict.fromkeys(("detect", "crop", "network", "maps", "smooth"), 0.0)
        self.reset()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the engine and the detector that it loaded; the tracker cannot be used afterwards."""
        for each in self._owned:
            each.close()

    def _own(self, loaded: T) -> T:
        self._owned.append(loaded)
        return loaded

    def reset(self) -> None:
        """Forget all faces: the next frame is the first, and ids count from 1."""
        self._next_id = 1
        self._clock = 0.0
        self._time: float | None = None
        self._thumbnail = np.empty(0)
        self._shape: tuple[int, ...] | None = None
        self._forget()

    def _forget(self) -> None:
        self._tracks: list[_Track] = []
        self._lost: list[_Track] = []
        self._first = True  # look thoroughly
        self._wake()

    def _wake(self) -> None:
        """Search again soon, and then less and less often."""
        self._wait, self._waited, self._searched = 1, MAX_WAIT, -math.inf

    def track(self, source: str | Path | Iterable[Frame]) -> Iterator[Scene]:
        """Scenes of a film, or of any frames, begun afresh: ids count from 1.

        Closes the film at its end, or when the iterator is closed.
        """
        self.reset()
        if not isinstance(source, str | Path):
            yield from map(self, source)
            return
        from tabrt.film.reading import open_film

        with open_film(source) as film, closing(iter(film)) as frames:
            yield from map(self, frames)

    def __call__(self, frame: Frame) -> Scene:
        """The faces of one frame, in the order of their ids. Raises TabrtError for an image of another kind."""
        if frame.pixel_aspect != 1:
            return as_stored(self(as_shown(frame)), frame)
        self._check_process()
        with self._lock:
            return self._scene(frame)

    def _check_process(self) -> None:
        """A fork leaves threads behind, and a lock that one of them may have held."""
        if self._process == os.getpid():
            return
        names = {self.engine.name, getattr(self._detector, "runtime", "")} & LOST_BY_A_FORK
        if names:
            raise TabrtError(f"this tracker was made in another process, and {names.pop()} does not survive a fork; "
                             "make the tracker in the process that uses it")  # fmt: skip
        self._process, self._lock = os.getpid(), Lock()

    def _scene(self, frame: Frame) -> Scene:
        image = as_bgr(frame.image)
        if image is not frame.image:
            frame = replace(frame, image=image)
        self._advance(frame.time)
        with self._stage("detect"):
            cut = self._is_cut(image)
        self._follow(image, cut)
        if self._search_is_due():
            self._search(image)
        self._lost = [track for track in self._lost if self._clock - track.seen <= LOST_SECONDS]
        with self._stage("smooth"):
            lens = self._lens(image.shape[1], image.shape[0]) if self.topology is WFLW98 else None
            faces = [self._face(track, lens, frame.time) for track in sorted(self._tracks, key=lambda track: track.id)]
        return Scene(frame, tuple(faces))

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += perf_counter() - start

    def _advance(self, time: float) -> None:
        """Move the clock on by the frames' own times, or nominally where those do not advance or are not numbers."""
        step = NOMINAL_STEP
        if self._time is not None and math.isfinite(time) and time > self._time:
            step = time - self._time
        self._time = time if math.isfinite(time) else self._time
        self._clock += step

    def _is_cut(self, image: np.ndarray) -> bool:
        """Whether the picture changed all over. Forgets all faces where nothing of it, or of its size, is as before."""
        now = _thumbnail(image)
        if self._shape != image.shape:
            if self._shape is not None:
                self._forget()
            self._shape, self._thumbnail = image.shape, now
            return False
        change = float(np.abs(now - self._thumbnail).mean())
        if change > STILL and now.std() < FLAT:  # a black or white moment: what comes next is held against what was
            return False
        before, self._thumbnail = self._thumbnail, now
        if change > STILL and _correlation(before, now) < UNLIKE:
            self._forget()
            return False
        return change > CUT

    # Following

    def _follow(self, image: np.ndarray, cut: bool) -> None:
        looks = self._look(image, [track.crop for track in self._tracks])
        tracks, self._tracks = self._tracks, []
        for track, look in zip(tracks, looks, strict=True):
            jump = float(np.linalg.norm(look.points - track.points, axis=1).mean()) / track.side
            if look.score < KEPT_CONFIDENCE or not _is_sound(look, image.shape) or (cut and jump > STEADY):
                self._lost.append(track)
            else:
                self._see(track, look)
                self._tracks.append(track)
        self._part()
        if cut:
            self._lost = []
            self._first = True
        if len(self._tracks) < len(tracks) or cut:
            self._wake()

    def _see(self, track: _Track, look: _Look) -> None:
        faded = math.exp((track.seen - self._clock) / USUAL_SECONDS)
        track.usual = max(look.score, look.score + faded * (track.usual - look.score))
        jump = float(np.linalg.norm(look.box.centre - track.expected(self._clock))) / track.side
        track.doubt = jump + track.usual - look.score
        if look.score >= WELL_SEEN * track.usual:
            step = max(self._clock - track.well_seen, 1e-3)
            speed = np.subtract(look.box.centre, track.well_box.centre) / step
            track.speed = speed + math.exp(-step / SPEED_SECONDS) * (track.speed - speed)
            track.well_seen, track.well_box = self._clock, look.box
        track.points, track.confidence, track.box = look.points, look.confidence, look.box
        track.boundaries = look.boundaries
        track.seen = self._clock
        track.crop = self._crop_after(look.points)

    def _crop_after(self, points: np.ndarray) -> Crop:
        card = self.engine.card
        return Crop.following(points, self.topology.roll(points), card.crop_margin, card.crop_size)

    def _part(self) -> None:
        """Where two tracks have come to lie on one face, keep that which was seen to get there, else the older."""
        kept: list[_Track] = []
        for track in sorted(self._tracks, key=lambda track: (round(track.doubt / TIE), track.id)):
            (self._lost if any(_collapsed(track, other) for other in kept) else kept).append(track)
        self._tracks = kept

    # Searching

    def _search_is_due(self) -> bool:
        self._waited += 1
        wanting = len(self._tracks) < self._faces
        elapsed = self._clock - self._searched
        if not wanting:
            return elapsed >= CHECK_SECONDS or self._waited > MAX_WAIT
        longest = LOST_WAIT if self._lost else MAX_WAIT
        return self._waited >= min(self._wait, longest) or elapsed >= SEARCH_SECONDS

    def _search(self, image: np.ndarray) -> None:
        with self._stage("detect"):
            boxes = self._detector(image, self._faces, thorough=self._first)
        self._first, self._waited, self._searched = False, 0, self._clock
        self._wait = min(2 * self._wait, MAX_WAIT)
        for track in self._tracks:
            found = any(_overlap(track.box, box) for box in boxes)
            track.missed = 0 if found or track.box.score >= SURE_CONFIDENCE else track.missed + 1
        self._lost += [track for track in self._tracks if track.missed > MISSED_SEARCHES]
        self._tracks = [track for track in self._tracks if track.missed <= MISSED_SEARCHES]
        unknown = [
            box for box in boxes if all(intersection_over_minimum(box, track.box) < SAME_FACE for track in self._tracks)
        ]
        card = self.engine.card
        places = unknown[: self._faces - len(self._tracks)]
        crops = [Crop.around(box, card.crop_margin, card.crop_size) for box in places]
        # Looked at twice: the second crop lies as those of a followed face do.
        crops = [self._crop_after(look.points) for look in self._look(image, crops) if _is_sound(look, image.shape)]
        for look in self._look(image, crops):
            if look.score >= NEW_CONFIDENCE and _is_sound(look, image.shape):
                self._welcome(look)

    def _welcome(self, look: _Look) -> None:
        """Follow a found face: one that was lost not long ago, or a new one."""
        now, box = self._clock, look.box
        track = _Track(
            *(0, self._crop_after(look.points), look.points, look.confidence, self._smoother(), now, box, now, box),
            boundaries=look.boundaries,
        )
        if any(_collapsed(track, other) for other in self._tracks):
            return
        returning = min(self._lost, key=lambda lost: self._distance(lost, track), default=None)
        if returning is not None and self._distance(returning, track) < math.inf:
            self._lost.remove(returning)
            track.id, track.person = returning.id, returning.person
        else:
            track.id, self._next_id = self._next_id, self._next_id + 1
        self._tracks.append(track)
        self._wait = 1  # where one face is found there may be more

    def _distance(self, lost: _Track, found: _Track) -> float:
        """Face sides between where a lost face was expected and where a face was found; infinite if it is another."""
        gone = self._clock - lost.seen
        far = float(np.linalg.norm(lost.expected(self._clock) - found.box.centre)) / lost.side
        stayed = float(np.linalg.norm(np.subtract(lost.well_box.centre, found.box.centre))) / lost.side
        if abs(math.log(found.side / lost.side)) > RETURN_GROWTH:
            return math.inf
        distance = min(far, stayed)
        return distance if distance <= RETURN_DISTANCE + RETURN_SPEED * gone else math.inf

    def _smoother(self) -> Smoother:
        return Smoother(self._smoothing, self.topology)

    def _look(self, image: np.ndarray, crops: list[Crop]) -> list[_Look]:
        """Run the network on all crops at once."""
        if not crops:
            return []
        card = self.engine.card
        with self._stage("crop"):
            cuts = np.empty((len(crops), card.crop_size, card.crop_size, 3), np.uint8)
            for crop, cut in zip(crops, cuts, strict=True):
                crop.cut(image, cut)
        with self._stage("network"):
            read = None if self._boundaries else getattr(self.engine, "read", None)
            if read is not None:  # the maps stay on the GPU
                points, confidence = read(cuts)
                boundaries = None
            else:
                maps, boundaries = self.engine.both(cuts) if self._boundaries else (self.engine(cuts), None)
        with self._stage("maps"):
            if read is None:
                points, confidence = decode(maps, card.decoding, card.offset)
            return [
                _Look(crop, crop.to_frame(points[i]), confidence[i], None if boundaries is None else boundaries[i])
                for i, crop in enumerate(crops)
            ]

    def _face(self, track: _Track, lens: Lens | None, time: float) -> Face:
        points = track.smoother(track.points, track.confidence, self._clock)
        box = Box.of(points, track.box.score)
        sight = None if lens is None else Sight(lens, track.person, self._clock, time)
        return Face(track.id, points, track.points, track.confidence, box, track.crop, track.boundaries, sight)


def _lenses(fov: float | Calibration | None) -> Callable[[int, int], Lens]:
    """What gives the lens of pictures of a width and a height. Raises TabrtError for a field of view that cannot be."""
    if fov is None:
        return Lens.usual
    if isinstance(fov, Calibration):
        return fov.lens
    Lens.seeing(fov, 1, 1)
    return lambda width, height: Lens.seeing(fov, width, height)


def as_bgr(image: np.ndarray) -> np.ndarray:
    """image as uint8 (H, W, 3) BGR: grey and BGRA are converted. Raises TabrtError for anything else."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3) or image.size == 0:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise TabrtError(f"a frame's image is {found}; give uint8 (height, width, 3) BGR, with at least one pixel")
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_GRAY2BGR)
    if image.shape[2] == 4:
        return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGRA2BGR)
    if image.shape[2] != 3:
        raise TabrtError(f"a frame's image has {image.shape[2]} channels; give 3 (BGR), 4 (BGRA) or 1 (grey)")
    return image if image.flags.c_contiguous else np.ascontiguousarray(image)


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """A grid of single pixels, int16: enough to tell a cut, and cheap on any picture."""
    rows, columns = (max(1, length // THUMBNAIL) for length in image.shape[:2])
    return image[rows // 2 :: rows, columns // 2 :: columns].astype(np.int16)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Of two pictures of one shape, −1…1: 0 where one is of one colour."""
    one, other = (picture - picture.mean(axis=(0, 1), dtype=np.float32) for picture in (one, other))
    spread = math.sqrt(float((one * one).sum()) * float((other * other).sum()))
    return float((one * other).sum()) / spread if spread > 0 else 0.0


def _is_sound(look: _Look, shape: tuple[int, ...]) -> bool:
    """Whether points are finite, centred in the picture, and spread as a face's are in its crop."""
    if not np.isfinite(look.points).all():
        return False
    x, y = look.box.centre
    spread = max(look.box.width, look.box.height) / look.crop.side
    return 0.3 < spread < 1.3 and look.crop.side < 4 * max(shape) and 0 <= x < shape[1] and 0 <= y < shape[0]


def _overlap(a: Box, b: Box) -> bool:
    return intersection_over_minimum(a, b) >= SAME_FACE


def _collapsed(a: _Track, b: _Track) -> bool:
    """Whether two tracks lie on one face."""
    distance = float(np.linalg.norm(a.points - b.points, axis=1).mean())
    return distance < COLLAPSE * min(a.side, b.side) or intersection_over_minimum(a.box, b.box) > 0.8
