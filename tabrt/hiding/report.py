"""What became of hiding, frame by frame, in a few lines."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from tabrt.faces import Frame
from tabrt.words import listed

MOST_NAMED = 8  # stretches of frames, or pictures, in a line
MOST_KEPT = 10_000  # frames, of a run for days
TOGETHER = 0.25  # seconds between two frames of one stretch, at most


@dataclass
class Report:
    """Frames that were looked at again when they were hidden. pictures: their names, where they are no film's."""

    pictures: Sequence[str] = ()
    frames: int = 0
    guessed: int = 0  # frames in which a head was hidden that nobody saw there
    left: list[tuple[int, float]] = field(default_factory=list)  # index and time of frames that still show a face
    doubtful: list[tuple[int, float]] = field(default_factory=list)  # … that show what may be one
    ids: set[int] = field(default_factory=set)  # that the tracker gave
    shortened: bool = False  # whether less than a second was looked ahead

    def add(self, frame: Frame, left: bool, doubtful: bool, guessed: bool) -> None:
        self.frames += 1
        self.guessed += guessed
        if left and len(self.left) < MOST_KEPT:
            self.left.append((frame.index, frame.time))
        if doubtful and len(self.doubtful) < MOST_KEPT:
            self.doubtful.append((frame.index, frame.time))

    def lines(self, shown: Collection[int]) -> list[str]:
        """What to tell at the end. shown: ids that were not to be hidden."""
        lines = []
        if self.guessed:
            lines.append(f"frames in which a place was guessed, and hidden larger: {self.guessed} of {self.frames}")
        missing = sorted(set(shown) - self.ids)
        if missing:
            lines.append(f"no face had the id {', '.join(map(str, missing))}, which was to be shown")
        if self.shortened:
            lines.append("pictures are so large that less than a second was looked ahead: check the result")
        if self.left:
            these = "THIS" if len(self.pictures) == 1 else "THESE"
            lines.append(
                f"LOOK AT {these}: the detector still takes something hidden for a face in {self._named(self.left)}"
            )
        elif self.frames:
            lines.append(f"looked at again, hidden: the detector finds no face in {self._all()}")
        if self.doubtful:
            named = self._named(self.doubtful)
            lines.append(f"worth a look: something that is not hidden may be a face, or a hand, say, in {named}")
        return lines

    def _all(self) -> str:
        return f"any of {self.frames} {self._kind}" if self.frames != 1 else "the picture"

    @property
    def _kind(self) -> str:
        return "pictures" if self.pictures else "frames"

    def _named(self, frames: list[tuple[int, float]]) -> str:
        if len(self.pictures) == 1:
            return "the picture"
        count = f"{len(frames)} of {self.frames} {self._kind}: "
        if self.pictures:
            return count + listed([self.pictures[index] for index, _ in frames], MOST_NAMED)
        stretches = _stretches(frames)
        named = [_stretch(*each) for each in stretches[:MOST_NAMED]]
        more = len(stretches) - len(named)
        return count + ", ".join(named) + (f" and {more} more" if more > 0 else "")


Stretch = tuple[tuple[int, float], tuple[int, float]]  # the first and the last frame: index and time


def _stretches(frames: list[tuple[int, float]]) -> list[Stretch]:
    """Runs of frames with hardly a gap."""
    stretches: list[Stretch] = []
    for frame in frames:
        if stretches and (frame[0] - stretches[-1][1][0] == 1 or frame[1] - stretches[-1][1][1] <= TOGETHER):
            stretches[-1] = stretches[-1][0], frame
        else:
            stretches.append((frame, frame))
    return stretches


def _stretch(first: tuple[int, float], last: tuple[int, float]) -> str:
    if first == last:
        return f"{first[0]} ({first[1]:.2f} s)"
    return f"{first[0]}-{last[0]} ({first[1]:.2f}-{last[1]:.2f} s)"
