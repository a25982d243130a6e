"""Hides faces in pictures, films and live: what the tracker follows, what only a detector sees, and what lies between.

Privacy is judged by its worst frame. A detector looks at every picture before and after it is covered: a face that the
tracker does not follow is hidden, too, and where a detector still takes a hidden head for a face, its cover is made
stronger until it does not. What is left even then is told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from time import perf_counter

import numpy as np

from tabrt.detection import Detector
from tabrt.errors import TabrtError
from tabrt.faces import Frame, Scene
from tabrt.geometry import Box, Crop
from tabrt.hiding.covering import STRONGEST, Mode, cover
from tabrt.hiding.regions import Region, corners
from tabrt.hiding.report import Report
from tabrt.hiding.sightings import FRAMES, REACH, Head, Heads, Moment
from tabrt.topology import Topology
from tabrt.tracking import Change, Cuts, alike, glimpse

MARGIN = 0.2  # face sides around the points and the forehead
UNSURE_MARGIN = 0.25  # more, where only a detector saw it: of a profile it sees the middle of the head
LIVE_REACH = 2.0  # seconds for which a lost head stays hidden where nobody can look ahead
MOST_FACES = 100  # that are looked for
MOST_HELD = 2**30  # bytes of pictures that wait
ATTEMPTS = 8  # at covering one picture
CERTAIN = 0.5  # of what only a detector sees: clear faces reach 0.5 and more, hands 0.4 …
POSSIBLE = 0.2  # … faces in the dark 0.2 to 0.4 for many frames, chairs and clothes 0.1
LOOK = 64  # px of what is held against the picture before


class Hiding:
    """Hides the faces of one film, camera or lot of pictures; all but those with an id of `shown`.

    As a layer, `hiding(image, scene)`, it goes by what it has seen until now; `hiding.still` is one for pictures on
    their own. `hiding.film(scenes)` looks a second ahead. margin: face sides around the points. `report` tells how it
    went. Close it at the end.
    """

    def __init__(self, mode: Mode, topology: Topology, margin: float = MARGIN, shown: Collection[int] = ()):
        self.report = Report()
        self.seconds = 0.0  # that it took, of films
        self._mode: Mode = mode
        self._topology, self._margin, self._shown = topology, margin, frozenset(shown)
        self._searching, self._checking = Detector(), Detector()
        self._heads = Heads(LIVE_REACH)
        self._cuts, self._before = Cuts(), np.empty(0)
        self._shot = self._count = 0

    def __call__(self, image: np.ndarray, scene: Scene) -> None:
        """Hide the faces of a scene on its image, uint8 (H, W, 3) BGR, in place."""
        moment = self._moment(scene.frame)
        self._see(scene, moment)
        self._hide(image, scene.frame, moment)
        self._heads.forget(moment)

    def still(self, image: np.ndarray, scene: Scene) -> None:
        """As a call, for a picture that has nothing to do with the one before; looked at from all sides."""
        self._heads = Heads()
        self._count += 1
        moment = Moment(self._count, 0.0, self._count)
        self._see(scene, moment)
        self._search(scene, moment, still=True)
        self._hide(image, scene.frame, moment, still=True)

    def film(self, scenes: Iterable[Scene]) -> Iterator[Scene]:
        """The scenes, a second late, with images in which the faces are hidden."""
        self._heads = Heads(REACH)
        waiting: deque[tuple[Scene, Moment]] = deque()
        try:
            for scene in scenes:
                moment = self._looked_at(scene)
                waiting.append((scene, moment))
                while _is_known(waiting[0][1], moment) or self._is_full(waiting):
                    yield self._hidden(*waiting.popleft())
        except TabrtError:
            yield from (self._hidden(*each) for each in waiting)
            raise
        yield from (self._hidden(*each) for each in waiting)

    def _looked_at(self, scene: Scene) -> Moment:
        start = perf_counter()
        moment = self._moment(scene.frame)
        self._see(scene, moment)
        self._search(scene, moment)
        self.seconds += perf_counter() - start
        return moment

    def close(self) -> None:
        self._searching.close()
        self._checking.close()

    def __enter__(self) -> Hiding:
        return self

    def __exit__(self, *_problem: object) -> None:
        self.close()

    @property
    def notes(self) -> Sequence[str]:
        """How it went, a line each."""
        return self.report.lines(self._shown)

    def _is_full(self, waiting: deque[tuple[Scene, Moment]]) -> bool:
        full = len(waiting) > FRAMES + 1 and len(waiting) * waiting[0][0].frame.image.nbytes > MOST_HELD
        self.report.shortened |= full
        return full

    def _hidden(self, scene: Scene, moment: Moment) -> Scene:
        start, image = perf_counter(), scene.frame.image.copy()
        self._hide(image, scene.frame, moment)
        self._heads.forget(moment)
        self.seconds += perf_counter() - start
        return replace(scene, frame=replace(scene.frame, image=image))

    # ------------------------------------------------------------------------------------------------------ seeing

    def _moment(self, frame: Frame) -> Moment:
        """When a frame is; in a new shot where the picture is another, and no head looks as it did."""
        change = self._cuts(frame.image)
        if change == Change.SIZE or (change == Change.LIKELY and not self._any_stays(frame.image)):
            self._shot += 1
        self._count += 1
        self._before = frame.image
        return Moment(self._count, frame.time, self._shot)

    def _any_stays(self, image: np.ndarray) -> bool:
        """Whether a head that was seen lately looks as it did in the picture before."""
        for head in self._heads:
            region = head.sightings[-1][1]
            crop = Crop(region.centre, region.side, region.roll, size=LOOK)
            if alike(glimpse(crop.cut(self._before)), glimpse(crop.cut(image))):
                return True
        return False

    def _see(self, scene: Scene, moment: Moment) -> None:
        """Note where the tracker's faces are."""
        for face in scene.faces:
            points = np.concatenate([face.points, face.raw])
            points = points[np.isfinite(points).all(axis=1)]
            if len(points):
                roll = self._topology.roll(face.points)
                region = Region.of(points, roll if np.isfinite(roll) else 0.0, self._margin)
                self._heads.tracked(face.id, moment, region)
        self.report.ids.update(face.id for face in scene.faces)

    def _search(self, scene: Scene, moment: Moment, still: bool = False) -> None:
        """Note where a detector sees more, with the known faces out of its way."""
        known = [region for head in self._heads if (region := head.seen(moment)) is not None]
        image = scene.frame.image.copy() if known else scene.frame.image
        for region in known:
            cover(image, region, "blur", 1)
        boxes = self._searching(image, MOST_FACES, thorough=still)
        if still:
            boxes += self._searching.turned(image, MOST_FACES)
        for box in boxes:
            if any(region.holds(box.centre) for region in known):
                continue
            certainty = self._certainty(scene.frame.image, box)
            if certainty >= POSSIBLE:
                known.append(Region.around(box, self._margin + UNSURE_MARGIN))
                self._heads.detected(moment, known[-1], certainty >= CERTAIN)

    def _certainty(self, image: np.ndarray, box: Box) -> float:
        """How sure the detector is of a face in a box when it looks closely: 0…1."""
        return self._searching.certainty(image, corners(box), box.roll)

    # ------------------------------------------------------------------------------------------------------ hiding

    def _hide(self, image: np.ndarray, frame: Frame, moment: Moment, still: bool = False) -> None:
        """Cover all heads, stronger and stronger, until the detector sees none of them."""
        raw = image.copy()
        left = changed = doubtful = True
        hidden: list[tuple[Head, Region]] = []
        for attempt in range(ATTEMPTS):
            if attempt:
                image[...] = raw
            hidden = list(self._hidden_regions(moment))
            for head, region in hidden:
                cover(image, region, self._mode, head.strength)
            shown = self._shown_regions(moment)
            boxes = self._checking(image, MOST_FACES, thorough=still)
            boxes = [box for box in boxes if not any(region.holds(box.centre) for region in shown)]
            left, changed = self._strengthened(boxes, hidden, raw, moment)
            doubtful = bool(boxes) and not left
            if not changed:
                break
        self.report.add(frame, left, doubtful, any(head.seen(moment) is None for head, _ in hidden))

    def _hidden_regions(self, moment: Moment) -> Iterator[tuple[Head, Region]]:
        shown = self._shown_regions(moment)
        for head in self._heads:
            if head.id in self._shown or not head.believed:
                continue
            for region in head.regions(moment, self._heads.seconds):
                if head.id or not any(each.holds(region.centre) for each in shown):
                    yield head, region

    def _shown_regions(self, moment: Moment) -> list[Region]:
        """Where faces are that may be seen: seen themselves, or on the way between two places where they were."""
        heads = [head for head in self._heads if head.id in self._shown]
        places = (head.seen(moment) or head.between(moment, self._heads.seconds) for head in heads)
        return [region for region in places if region is not None]

    def _strengthened(
        self, boxes: list[Box], hidden: list[tuple[Head, Region]], raw: np.ndarray, moment: Moment
    ) -> tuple[bool, bool]:
        """Cover more where a detector found something; whether it found a face, and whether more was done."""
        left = changed = False
        for box in boxes:
            seen = [head for head, region in hidden if region.holds(box.centre) and head.seen(moment) is not None]
            for head in seen:
                if head.strength < STRONGEST:
                    head.strength += 1
                    changed = True
            # Where a place was only guessed, what is seen may well be the cover alone.
            if not seen and self._certainty(raw, box) >= CERTAIN:
                self._heads.detected(moment, Region.around(box, self._margin + UNSURE_MARGIN))
                left = changed = True
            left |= bool(seen)
        return left, changed


def _is_known(moment: Moment, now: Moment) -> bool:
    """Whether all is known that can tell of a moment."""
    return now.time - moment.time >= REACH and now.number - moment.number >= FRAMES
