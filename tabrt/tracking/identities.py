"""Which face is which from frame to frame."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tabrt.detection import SAME_FACE, intersection_over_minimum
from tabrt.geometry import Box
from tabrt.measures import Person
from tabrt.tracking.cuts import Change, alike
from tabrt.tracking.looking import Look
from tabrt.tracking.smoothing import Smoother

MISSED_SEARCHES = 3  # in a row in which the detector may not see a doubtful face before it counts as lost
LOST_SECONDS = 2.0  # how long a lost face keeps its id: an occlusion of a second, half hidden before and after it
RETURN_DISTANCE = 0.6  # face sides between where a lost face was expected and where it may come back …
RETURN_SPEED = 0.8  # … and how much farther for each second that it was lost
RETURN_GROWTH = 0.5  # largest change of the logarithm of its size
COLLAPSE = 0.25  # face sides, mean distance of points at which two faces are one
TIE = 0.1  # doubts closer than this do not tell which of two collapsed faces is the real one
OPPOSED = -0.7  # cosine between the rolls of two readings of one face, one of them upside down …
SHARED = 0.25  # … and how much of the smaller box lies in the other: eyes and brows. Foreheads that touch share none
STEADY = 0.25  # face sides that points may move across a suspected cut of one and the same face
SPEED_SECONDS = 0.1  # over which a face's speed is averaged
USUAL_SECONDS = 1.0  # in which a face's usual confidence follows one that is lower; a higher one it takes at once
WELL_SEEN = 0.93  # of the usual confidence: below it something is before the face, and its points are dragged along


@dataclass(eq=False)
class Track:
    """A face that is followed, or was lost not long ago. Times are the tracker's, in seconds."""

    look: Look  # the newest
    seen: float  # when that was
    smoother: Smoother
    id: int = 0  # none until the face is believed
    confirmed: bool = False  # whether there is no doubt that it is one
    person: Person = field(default_factory=Person)  # what is remembered for pose and measures
    evidence: list[float] = field(default_factory=list)  # of one that is not yet confirmed
    speed: tuple[float, float] = (0.0, 0.0)  # frame px/s, while well seen
    usual: float = 0.0  # confidence
    doubt: float = 0.0  # face sides from where it was expected, plus the confidence it lacks: large on another's face
    missed: int = 0  # searches in a row that passed it over

    def __post_init__(self) -> None:
        self.well_seen, self.well_box = self.seen, self.look.box  # when and where nothing was before it

    @property
    def box(self) -> Box:
        """The upright box of its newest points, with its score."""
        return self.look.box

    @property
    def side(self) -> float:
        """The longer side of its box while well seen, in frame px."""
        return max(self.well_box.width, self.well_box.height, 1e-6)

    def expected(self, now: float) -> tuple[float, float]:
        """Where its centre should be by now, if it moves on as it did."""
        (x, y), (right, down), gone = self.well_box.centre, self.speed, now - self.well_seen
        return x + right * gone, y + down * gone

    def jump(self, look: Look) -> float:
        """Face sides by which its points would move to those of a look."""
        return float(np.linalg.norm(look.points - self.look.points, axis=1).mean()) / self.side

    def goes_on(self, look: Look, change: Change) -> bool:
        """Whether a look after a change of the picture shows the same face: where it was, and as it was."""
        if change == Change.NONE:
            return True
        there = self.jump(look) <= STEADY
        return there and (change == Change.SUSPECTED or alike(self.look.glimpse, look.glimpse))

    def see(self, look: Look, now: float) -> None:
        """Take in what the face looks like now."""
        faded = math.exp((self.seen - now) / USUAL_SECONDS)
        self.usual = max(look.score, look.score + faded * (self.usual - look.score))
        jump = math.dist(look.box.centre, self.expected(now)) / self.side
        self.doubt = jump + self.usual - look.score
        if look.score >= WELL_SEEN * self.usual:
            step = max(now - self.well_seen, 1e-3)
            old, (x, y), (was_x, was_y) = math.exp(-step / SPEED_SECONDS), look.box.centre, self.well_box.centre
            right, down = (1 - old) * (x - was_x) / step, (1 - old) * (y - was_y) / step
            self.speed = right + old * self.speed[0], down + old * self.speed[1]
            self.well_seen, self.well_box = now, look.box
        self.look, self.seen = look, now


class Identities:
    """The faces that are followed, those that were lost not long ago, and the next id."""

    def __init__(self) -> None:
        self.tracks: list[Track] = []
        self.lost: list[Track] = []
        self._next_id = 1

    @property
    def believed(self) -> list[Track]:
        """The faces to be shown, in the order of their ids."""
        return sorted((track for track in self.tracks if track.id), key=lambda track: track.id)

    @property
    def doubtful(self) -> list[Track]:
        """Those that wait to be confirmed."""
        return [track for track in self.tracks if not track.confirmed]

    def follow(self, looks: Iterable[Look | None], change: Change, now: float) -> bool:
        """Take in what was seen where each track was expected: None where no face was. Whether the picture was cut.

        A change of the whole picture is no cut for a face that is still where it was: a split screen's other half may
        have gone. Where none is, everything is another.
        """
        before, self.tracks, lost = self.tracks, [], []
        for track, look in zip(before, looks, strict=True):
            if look is not None and track.goes_on(look, change):
                track.see(look, now)
                self.tracks.append(track)
            elif track.confirmed:  # a doubtful one that is not seen again was none
                lost.append(track)
        self.lost += lost
        self._part()
        cut = change >= Change.SUSPECTED and not self.tracks
        if cut:
            self.lost = []
        self.lost = [track for track in self.lost if now - track.seen <= LOST_SECONDS]
        return cut

    def _part(self) -> None:
        """Where two tracks have come to lie on one face, keep that which was seen to get there, else the older."""
        kept: list[Track] = []
        for track in sorted(self.tracks, key=lambda track: (not track.id, round(track.doubt / TIE), track.id)):
            if not any(collapsed(track, other) for other in kept):
                kept.append(track)
            elif track.id:
                self.lost.append(track)
        self.tracks = [track for track in kept if not any(misread(track, other) for other in kept)]

    def check(self, agreed: dict[Track, bool]) -> None:
        """Take in which doubtful faces the detector sees too; one that it has not seen for long is lost."""
        for track in self.tracks:
            track.missed = 0 if agreed.get(track, True) else track.missed + 1
        gone = [track for track in self.tracks if track.missed > MISSED_SEARCHES]
        self.drop(gone)
        self.lost += gone

    def unknown(self, boxes: Sequence[Box]) -> list[Box]:
        """Of what a detector found, that which is not followed."""
        return [box for box in boxes if not any(overlap(box, track.box) for track in self.tracks)]

    def drop(self, tracks: Iterable[Track]) -> None:
        """Follow these no longer."""
        gone = list(tracks)
        self.tracks = [track for track in self.tracks if track not in gone]

    def re_identify(self, track: Track) -> bool:
        """Give a track the id of the lost face that it is, if it is one."""
        lost = min(self.lost, key=lambda lost: _distance(lost, track), default=None)
        if lost is None or _distance(lost, track) == math.inf:
            return False
        self.lost.remove(lost)
        track.id, track.person = lost.id, lost.person
        track.confirmed, track.evidence = lost.confirmed, lost.evidence
        return True

    def rename(self, names: Mapping[int, int], following: int) -> None:
        """Give tracks other ids, by their present ones; those without a name, and new ones, count from `following`."""
        self._next_id = following
        for track in sorted((track for track in (*self.tracks, *self.lost) if track.id), key=lambda track: track.id):
            if track.id in names:
                track.id = names[track.id]
            else:
                track.id, self._next_id = self._next_id, self._next_id + 1

    def believe(self, track: Track, confirmed: bool = True) -> None:
        """Give a track the id of the lost face that it is, or one of its own, unless it has one."""
        track.confirmed = confirmed
        if not track.id and not self.re_identify(track):
            track.id, self._next_id = self._next_id, self._next_id + 1


def overlap(a: Box, b: Box) -> bool:
    """Whether two boxes are of one face."""
    return intersection_over_minimum(a, b) >= SAME_FACE


def collapsed(a: Track, b: Track) -> bool:
    """Whether two tracks lie on one face."""
    distance = float(np.linalg.norm(a.look.points - b.look.points, axis=1).mean())
    return distance < COLLAPSE * min(a.side, b.side) or intersection_over_minimum(a.box, b.box) > 0.8


def misread(track: Track, other: Track) -> bool:
    """Whether a track reads the other one's face upside down: about the same eyes, and less surely."""
    opposed = math.cos(track.look.roll - other.look.roll) < OPPOSED
    shared = opposed and intersection_over_minimum(track.box, other.box) > SHARED
    return shared and track.look.score < other.look.score


def _distance(lost: Track, found: Track) -> float:
    """Face sides between where a lost face was expected and where a face was found; infinite if it is another."""
    gone = found.seen - lost.seen
    far = math.dist(lost.expected(found.seen), found.box.centre) / lost.side
    stayed = math.dist(lost.well_box.centre, found.box.centre) / lost.side
    if abs(math.log(found.side / lost.side)) > RETURN_GROWTH:
        return math.inf
    distance = min(far, stayed)
    return distance if distance <= RETURN_DISTANCE + RETURN_SPEED * gone else math.inf
