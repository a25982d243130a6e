"""Where heads are at a moment, by where they were seen before and after: seen, between two sightings, or guessed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from tabrt.hiding.regions import Region

REACH = 1.0  # seconds for which a head is hidden before it is first seen and after it was last seen …
FRAMES = 2  # … and frames at least
GROWTH = 0.6  # of a region's size, by which it grows for each second that it is guessed
SPEED_SECONDS = 0.3  # over which a head's speed is measured
ENOUGH = 3  # sightings of a head by a detector alone, before more is guessed of it …
DETECTED_REACH = 0.5  # … for so many seconds, where it was: a detector's places jump
LASTING = 8  # sightings from which on a head is one, even where the detector was never sure
SAME = 0.5  # of the larger side: heads that a detector sees nearer than this are one
ALIKE = 0.7  # of their sides, the smaller over the larger


@dataclass(frozen=True)
class Moment:
    """When a frame is. Between two shots nothing is guessed."""

    number: int  # of the frames looked at
    time: float  # seconds
    shot: int = 0

    def reaches(self, other: Moment, seconds: float) -> bool:
        """Whether a head seen at one of the two is hidden at the other, too."""
        near = abs(self.time - other.time) <= seconds or abs(self.number - other.number) <= FRAMES
        return near and self.shot == other.shot


@dataclass(eq=False)
class Head:
    """The sightings of one head, in order."""

    id: int  # the tracker's; 0 of one that only a detector saw
    sightings: list[tuple[Moment, Region]] = field(default_factory=list)
    carried: dict[int, Region] = field(default_factory=dict)  # by a moment's number: unseen, but its picture is there
    traced: bool = False  # whether it was carried back from its first sighting
    strength: int = 0  # of its cover
    believed: bool = True  # to be a head; one that a detector is unsure of is not, until it has been seen for long

    def seen(self, moment: Moment) -> Region | None:
        """The region at a moment in which it was seen, else None."""
        return next((region for when, region in reversed(self.sightings) if when.number == moment.number), None)

    @property
    def reach(self) -> float:
        """Seconds for which something is guessed of it where it is not seen; 0 for nothing."""
        if self.id:
            return REACH
        return DETECTED_REACH if len(self.sightings) >= ENOUGH else 0.0

    def between(self, moment: Moment, seconds: float) -> Region | None:
        """The region at a moment between two sightings that both reach it, grown as far as it may have strayed."""
        before, after = self._nearest(moment, seconds)
        if before is None or after is None:
            return None
        (since, start), (until, end) = before, after
        share = (moment.number - since.number) / (until.number - since.number)
        return start.towards(end, share).grown(1 + GROWTH * min(moment.time - since.time, until.time - moment.time))

    def regions(self, moment: Moment, seconds: float) -> Iterator[Region]:
        """All that is to be hidden of it at a moment. seconds: how far a sighting reaches."""
        seen = self.seen(moment)
        if seen is not None:
            yield seen
            return
        if moment.number in self.carried:
            yield self.carried[moment.number]
        between = self.between(moment, seconds)
        if between is not None:
            yield between
            return
        if not self.id:
            seconds = self.reach
        for nearest, direction in zip(self._nearest(moment, seconds), (1, -1), strict=True):
            if nearest is not None:
                when, region = nearest
                away = abs(moment.time - when.time)
                grown = region.grown(1 + GROWTH * away)
                yield grown  # it may have stayed …
                if self.id:
                    yield grown.moved(self._strayed(when, direction, away, region.side))  # … or gone on

    def _nearest(
        self, moment: Moment, seconds: float
    ) -> tuple[tuple[Moment, Region] | None, tuple[Moment, Region] | None]:
        """The last sighting before and the first after a moment, of those that reach it."""
        near = [each for each in self.sightings if each[0].reaches(moment, seconds)]
        before = [each for each in near if each[0].number < moment.number]
        after = [each for each in near if each[0].number > moment.number]
        return before[-1] if before else None, after[0] if after else None

    def _strayed(self, when: Moment, direction: int, seconds: float, most: float) -> np.ndarray:
        """How far (2,) it goes on at its speed, at most so many px."""
        by = seconds * self._speed(when, direction)
        shorter: np.ndarray = by * min(1.0, most / max(float(np.hypot(*by)), 1e-6))
        return shorter

    def _speed(self, when: Moment, direction: int) -> np.ndarray:
        """Frame px/s (2,) of the sightings up to one (direction 1), or from it on (-1), away from them."""
        near = [
            (abs(when.time - other.time), region)
            for other, region in self.sightings
            if other.shot == when.shot and (when.number - other.number) * direction >= 0
        ]
        recent = [each for each in near if each[0] <= SPEED_SECONDS]
        if len(recent) < 2:
            return np.zeros(2)
        (first, here), (last, there) = min(recent, key=_away), max(recent, key=_away)
        return (np.array(here.centre) - there.centre) / max(last - first, 1e-3)


def _away(sighting: tuple[float, Region]) -> float:
    return sighting[0]


class Heads:
    """All heads that were seen lately. seconds: how far a sighting reaches, to both sides."""

    def __init__(self, seconds: float = REACH):
        self.seconds = seconds
        self._heads: list[Head] = []

    def __iter__(self) -> Iterator[Head]:
        return iter(self._heads)

    def tracked(self, number: int, moment: Moment, region: Region) -> None:
        """A head with an id was seen."""
        head = next((each for each in self._heads if each.id == number), None)
        if head is None:
            head = Head(number)
            self._heads.append(head)
        head.sightings.append((moment, region))

    def detected(self, moment: Moment, region: Region, certain: bool = True) -> None:
        """A head was seen, for certain or perhaps, of which only its place is known."""
        known = [head for head in self._heads if not head.id and _is_one(head, moment, region, self.seconds)]
        head = min(known, key=lambda each: _distance(each.sightings[-1][1], region), default=None)
        if head is None:
            head = Head(0, believed=False)
            self._heads.append(head)
        head.sightings.append((moment, region))
        head.believed |= certain or len(head.sightings) >= LASTING

    def forget(self, moment: Moment) -> None:
        """Let go of what reaches neither this moment nor a later one."""
        for head in self._heads:
            head.sightings = [
                each for each in head.sightings if each[0].number > moment.number or self._counts(each[0], moment)
            ]
            head.carried = {number: region for number, region in head.carried.items() if number > moment.number}
        self._heads = [head for head in self._heads if head.sightings]

    def _counts(self, when: Moment, moment: Moment) -> bool:
        """Whether a sighting still tells a place or a speed."""
        return when.reaches(moment, self.seconds + SPEED_SECONDS)


def _is_one(head: Head, moment: Moment, region: Region, seconds: float) -> bool:
    when, last = head.sightings[-1]
    sides = sorted((last.side, region.side))
    alike = sides[0] >= ALIKE * sides[1]
    return (
        alike
        and when.number != moment.number
        and when.reaches(moment, seconds)
        and _distance(last, region) < SAME * sides[1]
    )


def _distance(one: Region, other: Region) -> float:
    return float(np.hypot(*np.subtract(one.centre, other.centre)))
