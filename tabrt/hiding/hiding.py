"""Hides faces in pictures, films and live: what the tracker follows, what only a detector sees, and what lies between.

Privacy is judged by its worst frame. A detector looks at every picture as it is covered: a face that the tracker does
not follow is hidden, too, and where a detector still takes a hidden head for a face, its cover is made stronger until
it does not. What is left even then is told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from tabrt.detection import Detector
from tabrt.errors import TabrtError
from tabrt.faces import Frame, Scene
from tabrt.geometry import Box, Crop
from tabrt.hiding.carrying import Carrying
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
ATTEMPTS = 4  # at covering one picture with all that is found in it
FOUND = 0.3  # score of a detector from which a hidden head is still taken for a face
CERTAIN = 0.5  # of what only a detector sees: clear faces reach 0.5 and more, hands 0.4 …
POSSIBLE = 0.2  # … faces in the dark 0.2 to 0.4 for many frames, chairs and clothes 0.1
REMEMBERED = 0.2  # seconds for which a close look at a place counts
SAME_PLACE = 0.6  # intersection over union of two boxes that are one place
LOOK = 64  # px of what is held against the picture before

Hidden = list[tuple[Head, Region]]


@dataclass(frozen=True, eq=False)
class Checked:
    """What a detector saw when it looked at covers."""

    covers: list[tuple[Region, int]]  # and their strengths
    boxes: list[Box]


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
        self._carrying = Carrying(REACH)
        self._checked: dict[int, Checked] = {}  # by the number of a moment that is yet to be hidden
        self._asked: deque[tuple[Moment, Box, float]] = deque()  # close looks, and what came of them

    def __call__(self, image: np.ndarray, scene: Scene) -> None:
        """Hide the faces of a scene on its image, uint8 (H, W, 3) BGR, in place."""
        moment = self._moment(scene.frame)
        self._see(scene, moment)
        self._hide(image, scene.frame, moment)
        self._forget(moment)

    def still(self, image: np.ndarray, scene: Scene) -> None:
        """As a call, for a picture that has nothing to do with the one before; looked at from all sides."""
        self._heads = Heads()
        self._count += 1
        moment = Moment(self._count, 0.0, self._count)
        self._see(scene, moment)
        self._search(scene, moment, still=True)
        self._hide(image, scene.frame, moment, still=True)
        self._forget(moment)

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
        self._carrying(scene.frame.image, moment, self._heads)
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
        self._forget(moment)
        self.seconds += perf_counter() - start
        return replace(scene, frame=replace(scene.frame, image=image))

    def _forget(self, moment: Moment) -> None:
        """Let go of what tells nothing of later moments."""
        self._heads.forget(moment)
        self._checked.pop(moment.number, None)

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
        raw = scene.frame.image
        known = [(head, region) for head in self._heads if (region := head.seen(moment)) is not None]
        _, boxes = self._covered(raw, known, moment, self._searching, still)
        if still:
            boxes = boxes + self._searching.turned(raw, MOST_FACES)
        taken = [region for _, region in known]
        for box in boxes:
            if any(region.is_of(box) for region in taken):
                continue
            certainty = self._certainty(raw, box, moment, taken)
            if certainty >= POSSIBLE:
                taken.append(Region.around(box, self._margin + UNSURE_MARGIN))
                self._heads.detected(moment, taken[-1], certainty >= CERTAIN)

    def _certainty(self, image: np.ndarray, box: Box, moment: Moment, known: Sequence[Region]) -> float:
        """How sure the detector is of a face in a box when it looks closely: 0…1.

        A known head in it does not vouch for the whole: of a body below a hidden head it would.
        """
        while self._asked and moment.time - self._asked[0][0].time > 2 * REACH:
            self._asked.popleft()
        for when, place, certainty in reversed(self._asked):
            near = when.shot == moment.shot and abs(when.time - moment.time) <= REMEMBERED
            if near and place.overlap(box) >= SAME_PLACE:
                return certainty

        def of_known(found: Box) -> bool:
            return any(region.is_of(found) for region in known)

        self._asked.append((moment, box, self._searching.certainty(image, corners(box), box.roll, of_known)))
        return self._asked[-1][2]

    # ------------------------------------------------------------------------------------------------------ hiding

    def _hide(self, image: np.ndarray, frame: Frame, moment: Moment, still: bool = False) -> None:
        """Cover all heads, and what more is found when they are covered."""
        raw = image.copy()
        found = left = doubtful = True
        hidden: Hidden = []
        for _ in range(ATTEMPTS):
            hidden = list(self._hidden_regions(moment))
            image[...], boxes = self._covered(raw, hidden, moment, self._checking, still)
            seen = [(head, region) for head, region in hidden if head.seen(moment) is not None]
            left = any(box.score >= FOUND and any(region.is_of(box) for _, region in seen) for box in boxes)
            # Where a place was only guessed, what is seen may well be the cover alone.
            known = [region for _, region in seen] + self._shown_regions(moment)
            boxes = [box for box in boxes if not any(region.is_of(box) for region in known)]
            certainties = [self._certainty(raw, box, moment, known) for box in boxes]
            found, doubtful = max(certainties, default=0.0) >= CERTAIN, max(certainties, default=0.0) >= POSSIBLE
            for box, certainty in zip(boxes, certainties, strict=True):
                if certainty >= CERTAIN:
                    self._heads.detected(moment, Region.around(box, self._margin + UNSURE_MARGIN))
            if not found:
                break
        guessed = any(head.seen(moment) is None for head, _ in hidden)
        self.report.add(frame, left or found, doubtful, guessed)

    def _covered(
        self, raw: np.ndarray, hidden: Hidden, moment: Moment, detector: Detector, still: bool
    ) -> tuple[np.ndarray, list[Box]]:
        """A picture with covers over hidden heads, stronger and stronger until the detector takes none of those that
        were seen there for a face; and what it sees then."""
        checked = self._checked.pop(moment.number, None)
        while True:
            image = raw.copy()
            for head, region in hidden:
                cover(image, region, self._mode, head.strength)
            covers = [(region, head.strength) for head, region in hidden]
            if checked is None or checked.covers != covers:
                checked = Checked(covers, detector(image, MOST_FACES, thorough=still))
            weak = {
                head
                for head, region in hidden
                if head.strength < STRONGEST and head.seen(moment) is not None
                if any(box.score >= FOUND and region.holds(box.centre) for box in checked.boxes)
            }
            if not weak:
                self._checked[moment.number] = checked
                return image, checked.boxes
            for head in weak:
                head.strength += 1

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


def _is_known(moment: Moment, now: Moment) -> bool:
    """Whether all is known that can tell of a moment."""
    return now.time - moment.time >= REACH and now.number - moment.number >= FRAMES
