"""Frames in, scenes out: faces are found once, then followed from frame to frame."""

from __future__ import annotations

import itertools
import math
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any, TypeVar

import cv2
import numpy as np

from tabrt.detection import Detector
from tabrt.engines import Engine, load_engine
from tabrt.errors import TabrtError
from tabrt.faces import Face, Frame, Scene
from tabrt.geometry import Box
from tabrt.measures import Calibration, Lens, Sight
from tabrt.topology import WFLW98, topology_named
from tabrt.tracking.clock import Clock
from tabrt.tracking.cuts import Change, Cuts
from tabrt.tracking.frames import as_frame, frames_of
from tabrt.tracking.identities import Identities, Track, collapsed, misread, overlap
from tabrt.tracking.looking import Look, Looking
from tabrt.tracking.pixels import as_shown, as_stored
from tabrt.tracking.schedule import Schedule
from tabrt.tracking.smoothing import DEFAULT_STRENGTH, Smoother

# Score of a face: the mean confidence of its points. About 0.9 on a clear face, 0.5 to 0.65 on a profile in the dark.
MIN_SCORE = 0.4  # below, a followed face is lost: lower than for new ones, so that a hand before it is no end
NEW_MARGIN = 0.05  # by which a new face's score must lie above that
SURE_CONFIDENCE = 0.6  # a followed face below it must be seen by the detector too, now and then
SURE_SCORE = 0.85  # from here on a new face is believed at once; below, the detector must see it there too:
# the network's score and a share of the detector's certainty, in the mean of so many frames. Measured in single
# pictures (`python -m training believe`), with `tab1-lite`: 208 profiles reach 0.83 and more, 52 children 0.81; of 320
# pictures without people a dog's face 0.84, the others 0.75. `tab2-lite`: 0.83, 0.82; 0.87, 0.75.
CERTAINTY_SHARE = 0.4
AGREED = 0.78
# Others are surer of everything. Of `tab1-nano` all profiles but one and children reach 0.92 and more, what is none but
# the dog 0.89; of `tab2-base` 0.84 but for one, and 0.82 but for the dog.
AGREED_OF = {(1, "nano"): 0.89, (2, "base"): 0.828}
AGREED_AT_ONCE = 0.085  # above that
CONFIRMING = 4
HOPELESS = 0.05  # what scores less when looked at twice is not looked at again; what became a face had 0.1 and more
STILL_SHARE, STILL_AGREED = 0.2, 0.54  # the same of a face that has been confirmed
REFUSED_SECONDS = 2.0  # before what was not confirmed is looked at again
LOST_BY_A_FORK = {"openvino", "tensorrt", "torch", "mediapipe"}  # engines and detectors whose threads a child lacks

T = TypeVar("T", bound=Engine | Detector)


class Stage:
    """Adds the time that is spent in it to `seconds[name]`."""

    def __init__(self, seconds: dict[str, float], name: str):
        self._seconds, self._name = seconds, name

    def __enter__(self) -> None:
        self._start = perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._name] += perf_counter() - self._start


class Tracker:
    """Follows faces through frames: `tracker(frame) -> Scene`, or `tracker.track(source)`.

    model: a name of tabrt.engines.engine.MODELS or a file. engine: a name of ENGINES, "auto", or one that is
    loaded. faces: most faces to follow at once. smoothing: 0 (off) … 1. threads, device: the engine's. boundaries: give
    each face its boundary heatmaps. detector: what finds faces: a name of RUNTIMES, or one that is loaded. fov: degrees
    that the camera sees horizontally, or its calibration; guessed for the heads' distance where not given. min_score:
    0…1, a face of a lower score is lost. in_seconds: the times of frames are known to be, so that no advice is given on
    milliseconds where they lie far apart. A context manager: it closes what it loaded, and nothing that it was lent.
    Raises TabrtError.

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
        min_score: float = MIN_SCORE,
        in_seconds: bool = False,
    ):
        self._faces = _count("faces", faces)
        self._smoothing = _share("smoothing", smoothing)
        self._min_score = _share("min_score", min_score)
        self._lens = _lenses(fov)
        self._in_seconds = in_seconds
        self._owned: list[Engine | Detector] = []
        self.engine = self._own(load_engine(model, engine, threads, device)) if isinstance(engine, str) else engine
        self._detector = self._own(Detector(detector)) if isinstance(detector, str) else detector
        self.topology = topology_named(self.engine.card.topology)
        card = self.engine.card
        self._agreed = AGREED_OF.get((card.hourglasses, card.width), AGREED)
        self.seconds = dict.fromkeys(("detect", "crop", "network", "maps", "smooth"), 0.0)
        self._stage = {name: Stage(self.seconds, name) for name in self.seconds}.__getitem__
        self._looking = Looking(self.engine, self.topology, boundaries, self._stage)
        self._process, self._lock = os.getpid(), Lock()
        self.reset()

    def _own(self, loaded: T) -> T:
        self._owned.append(loaded)
        return loaded

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the engine and the detector that it loaded; the tracker cannot be used afterwards."""
        for each in self._owned:
            each.close()

    def reset(self) -> None:
        """Forget all faces: the next frame is the first, and ids count from 1."""
        self._clock = Clock(self._in_seconds)
        self._cuts, self._schedule, self._identities = Cuts(), Schedule(), Identities()
        self._refused: list[tuple[Box, float]] = []  # what was not confirmed, and when
        self._thorough = True  # look at every part of the next picture, and turned
        self._count = 0  # frames

    def rename(self, names: Mapping[int, int], following: int) -> None:
        """Give the faces that are followed the ids that they had in an earlier run: by their present ones.

        Those that are not named, and those to come, count on from `following`.
        """
        with self._lock:
            self._identities.rename(names, following)

    def track(self, source: str | Path | int | cv2.VideoCapture | Iterable[Frame | np.ndarray]) -> Iterator[Scene]:
        """Scenes of a film, a camera by its number, a cv2.VideoCapture, or of any frames or images, begun afresh.

        Closes what it opened at the end, or when the iterator is closed.
        """
        self.reset()
        frames: Any = frames_of(source)
        try:
            yield from map(self, frames)
        finally:
            frames.close()

    def still(self, image: Frame | np.ndarray) -> Scene:
        """The faces of a picture on its own, whatever was before; turned by any angle where none is upright.

        Each is looked at more closely than in a film: once more, and in a mirror.
        """
        self.reset()
        return self._scene(image, closely=True)

    def __call__(self, frame: Frame | np.ndarray) -> Scene:
        """The faces of one frame, or of a bare image, in the order of their ids.

        Raises TabrtError for an image of another kind than uint8 (H, W, 3) BGR, (H, W, 4) BGRA or (H, W) grey.
        """
        return self._scene(frame)

    def _scene(self, frame: Frame | np.ndarray, closely: bool = False) -> Scene:
        self._check_process()
        with self._lock:
            given = as_frame(frame, self._count)
            shown = given if given.pixel_aspect == 1 else as_shown(given)
            scene = Scene(shown, self._watch(shown, closely))
            self._count += 1
        return scene if shown is given else as_stored(scene, given)

    def _watch(self, frame: Frame, closely: bool) -> tuple[Face, ...]:
        now = self._clock(frame.time)
        self._follow(frame.image, self._changed(frame.image), now)
        if self._search_is_due(now):
            self._search(frame.image, now)
        if closely:
            self._look_closely(frame.image)
        return self._shown(frame, now)

    def _look_closely(self, image: np.ndarray) -> None:
        tracks = self._identities.tracks
        looks = self._looking.both_ways(image, [self._looking.after(track.look) for track in tracks])
        for track, look in zip(tracks, looks, strict=True):
            if look.is_sound(image.shape):
                track.look = look

    def _check_process(self) -> None:
        """A fork leaves threads behind, and a lock that one of them may have held."""
        if self._process == os.getpid():
            return
        names = {self.engine.name, getattr(self._detector, "runtime", "")} & LOST_BY_A_FORK
        if names:
            raise TabrtError(
                f"this tracker was made in another process, and {names.pop()} does not survive a fork; "
                "make the tracker in the process that uses it"
            )
        self._process, self._lock = os.getpid(), Lock()

    def _changed(self, image: np.ndarray) -> Change:
        with self._stage("detect"):
            return self._cuts(image)

    def _follow(self, image: np.ndarray, change: Change, now: float) -> None:
        tracks = self._identities.tracks
        if change == Change.SIZE:
            tracks.clear()
        looks = self._looking(image, [self._looking.after(track.look) for track in tracks])
        seen = [look if look.score >= self._min_score and look.is_sound(image.shape) else None for look in looks]
        cut = self._identities.follow(seen, change, now)
        if cut:
            self._thorough, self._refused = True, []
        if change or len(self._identities.tracks) < len(looks):
            self._schedule.wake()

    def _search_is_due(self, now: float) -> bool:
        faces = self._identities
        wanting = len(faces.tracks) < self._faces
        return self._schedule.is_due(now, wanting, bool(faces.lost), bool(faces.doubtful))

    def _search(self, image: np.ndarray, now: float) -> None:
        """Confirm what is doubtful, and look for faces that are not followed yet."""
        first = self._thorough
        self._confirm(image, now)
        with self._stage("detect"):
            boxes = self._detector(image, self._faces, thorough=first)
        self._refused = [(box, since) for box, since in self._refused if now - since < REFUSED_SECONDS]
        confirmed = [track for track in self._identities.tracks if track.confirmed]
        self._identities.check({track: self._still_there(track.look, image) for track in confirmed})
        found = self._meet(boxes, image, now)
        hanging = any(math.cos(track.look.roll) < 0 for track in self._identities.believed)
        if hanging or not self._identities.tracks:
            with self._stage("detect"):
                boxes = _turned(self._detector, image, self._faces, thorough=first)
            found += self._meet(boxes, image, now)
        self._thorough = False
        self._schedule.searched(now, any(found))

    def _meet(self, boxes: list[Box], image: np.ndarray, now: float) -> list[bool]:
        """Admit what a detector found and nobody follows, while there is room."""
        room = self._faces - len(self._identities.tracks)
        unknown = self._identities.unknown(boxes)[:room]
        return [self._admit(look, image, now) for look in self._looks_at(image, unknown)]

    def _looks_at(self, image: np.ndarray, boxes: list[Box]) -> list[Look]:
        """What the network sees in boxes that a detector found: faces, or what might be one."""
        new = [box for box in boxes if not any(overlap(box, refused) for refused, _ in self._refused)]
        looks = self._looking(image, [self._looking.around(box) for box in new])
        # Looked at twice: the second crop lies as those of a followed face do.
        looks = self._again(image, looks)
        sure = [look.score >= SURE_SCORE and look.is_sound(image.shape) for look in looks]
        unsure = [look for look, is_sure in zip(looks, sure, strict=True) if look.score >= HOPELESS and not is_sure]
        return [*itertools.compress(looks, sure), *(self._best_of(image, look) for look in unsure)]

    def _again(self, image: np.ndarray, looks: list[Look]) -> list[Look]:
        crops = [self._looking.after(look) for look in looks if np.isfinite(look.points).all()]
        return self._looking(image, crops)

    def _best_of(self, image: np.ndarray, look: Look) -> Look:
        """Of a look, two more from there, and the same upside down, the one that the network is surest of.

        One that is not sound may be on its way to a face that is.
        """
        once = self._again(image, [look, *self._looking(image, [self._looking.upside_down(look)])])
        looks = [look, *once, *self._again(image, once)]
        return max(looks, key=lambda each: (each.is_sound(image.shape), each.score))

    def _admit(self, look: Look, image: np.ndarray, now: float) -> bool:
        """Follow a found face: one that was lost not long ago, a new one, or one that is yet to be confirmed."""
        if look.score < self._min_score + NEW_MARGIN or not look.is_sound(image.shape):
            return False
        track = Track(look, now, Smoother(self._smoothing, self.topology))
        if any(collapsed(track, other) or misread(track, other) for other in self._identities.tracks):
            return False
        agreed = math.inf if look.score >= SURE_SCORE else self._agreement(look, image)
        if agreed >= self._agreed + AGREED_AT_ONCE:
            self._identities.believe(track)
        elif self._count == 0:  # perhaps a still: nothing more will be known of it
            if agreed < self._agreed:
                return False
            self._identities.believe(track, confirmed=False)
        elif agreed >= self._agreed:
            self._identities.re_identify(track)
        shown_now = track.id and look.score < SURE_SCORE
        self._identities.tracks.append(replace(track, look=self._settled(look, image)) if shown_now else track)
        return True

    def _settled(self, look: Look, image: np.ndarray) -> Look:
        """The next look, for of several the surest is one from too far away, where points are less exact."""
        (after,) = self._again(image, [look])
        return after if after.score >= self._min_score and after.is_sound(image.shape) else look

    def _still_there(self, look: Look, image: np.ndarray) -> bool:
        """Whether a face that was confirmed before is still believed: by the network alone, or with the detector."""
        return look.score >= SURE_CONFIDENCE or self._agreement(look, image, STILL_SHARE) >= STILL_AGREED

    def _confirm(self, image: np.ndarray, now: float) -> None:
        """Ask the detector about faces that are doubtful, for a few frames."""
        for track in self._identities.doubtful:
            track.evidence.append(self._agreement(track.look, image))
            if track.look.score >= SURE_SCORE:
                self._identities.believe(track)
            elif len(track.evidence) == CONFIRMING:
                if np.mean(track.evidence) >= self._agreed:
                    self._identities.believe(track)
                else:
                    self._identities.drop([track])
                    if not self._identities.lost:  # else one that comes back, half hidden yet
                        self._refused.append((track.box, now))

    def _agreement(self, look: Look, image: np.ndarray, share: float = CERTAINTY_SHARE) -> float:
        """The network's score of a face, and a share of how certain a detector is of it."""
        ask = getattr(self._detector, "certainty", None)
        if ask is None:  # one that was lent, and knows boxes alone
            return look.score + share
        with self._stage("detect"):
            return look.score + share * ask(image, look.points, look.roll)

    def _shown(self, frame: Frame, now: float) -> tuple[Face, ...]:
        lens = self._lens(*frame.image.shape[1::-1]) if self.topology is WFLW98 else None
        with self._stage("smooth"):
            return tuple(self._face(track, lens, now, frame.time) for track in self._identities.believed)

    def _face(self, track: Track, lens: Lens | None, now: float, time: float) -> Face:
        look = track.look
        points = track.smoother(look.points, look.confidence, now)
        sight = None if lens is None else Sight(lens, track.person, now, time)
        box = Box.of(points, look.score)
        return Face(track.id, points, look.points, look.confidence, box, look.crop, look.boundaries, sight)


def _turned(detector: Any, image: np.ndarray, limit: int, thorough: bool) -> list[Box]:
    """Faces in pictures turned by quarters, for detectors that can look so."""
    look = getattr(detector, "turned", None)
    return [] if look is None else look(image, limit, thorough)


def _count(name: str, value: Any) -> int:
    """A whole number from 1, of whatever type. Raises TabrtError."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise TabrtError(f"{name} is {value!r}; it must be a whole number from 1")
    return number


def _share(name: str, value: Any) -> float:
    """A number 0…1, of whatever type. Raises TabrtError."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number <= 1:
        raise TabrtError(f"{name} is {value!r}; it must be a number 0…1")
    return number


def _lenses(fov: float | Calibration | None) -> Callable[[int, int], Lens]:
    """What gives the lens of pictures of a width and a height. Raises TabrtError for a field of view that cannot be."""
    if fov is None:
        return lru_cache(1)(Lens.usual)
    if isinstance(fov, Calibration):
        return fov.lens
    Lens.seeing(fov, 1, 1)
    return lambda width, height: Lens.seeing(fov, width, height)
