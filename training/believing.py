"""From which sum on a new face is believed: measured anew for each network, for each is sure of other things.

A tracker takes a face for one by the network's score and a share of the detector's certainty (`tabrt.tracking`). Here
it is asked about pictures of faces and of none, each on its own, and the sums are told that would part them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tabrt.engines import Engine
from tabrt.tracking import Tracker
from tabrt.tracking.looking import Look
from tabrt.tracking.tracker import SURE_SCORE
from training.empty import pictures_of
from training.weaknesses import children, profiles

SHARES = (0.2, 0.3, 0.4, 0.5)  # of the detector's certainty
_TOLD = 4  # of the lowest, and of the highest


class _Asked(Tracker):
    """A tracker that notes the score of whatever it is asked to follow, and how certain the detector is of it."""

    def __init__(self, engine: Engine):
        self.asked: list[tuple[float, float]] = []
        super().__init__(engine=engine)

    def _admit(self, look: Look, image: np.ndarray, now: float) -> bool:
        self.asked.append((look.score, self._agreement(look, image, 1.0) - look.score))
        return super()._admit(look, image, now)


@dataclass(frozen=True)
class Kind:
    """Pictures of a kind: scores and certainties of what was asked of each, and the names of those with a face."""

    name: str
    asked: list[list[tuple[float, float]]]
    found: list[str]

    def sums(self, share: float) -> np.ndarray:
        """(N,): the highest sum in each picture; inf where the score alone is enough, 0 where nothing was asked."""
        return np.array([max((_sum(*one, share) for one in picture), default=0.0) for picture in self.asked])


def _sum(score: float, certainty: float, share: float) -> float:
    return math.inf if score >= SURE_SCORE else score + share * certainty


def ask(name: str, pictures: Iterable[tuple[str, np.ndarray]], tracker: _Asked) -> Kind:
    """What a tracker makes of pictures, each on its own: their names, and uint8 (H, W, 3) BGR."""
    asked, found = [], []
    for picture, image in pictures:
        tracker.asked = []
        if tracker.still(image).faces:
            found.append(picture)
        asked.append(tracker.asked)
    return Kind(name, asked, found)


def ask_all(
    engine: Engine, root: Path, cache: Path, without: list[Path], say: Callable[[str], None]
) -> tuple[list[Kind], Kind]:
    """Held-out profiles and children, and the pictures of folders in which nobody is.

    Raises TabrtError for a folder without pictures, before anything is asked.
    """
    paths = [path for folder in without for path in pictures_of(folder)]
    tracker = _Asked(engine)
    kinds = []
    for name, faces in (("profiles", profiles(root, cache)), ("children", children(root, cache))):
        kinds.append(ask(name, ((faces.names[i], faces.read(i)) for i in range(len(faces))), tracker))
        say(f"{name}: {len(kinds[-1].found)} of {len(faces)} found")
    none = ask("none", _read(paths), tracker)
    taken = "".join(f"\n  {name}" for name in none.found)
    say(f"none: in {len(none.found)} of {len(none.asked)} something is taken for a face{taken}")
    tracker.close()
    return kinds, none


def table(kinds: list[Kind], none: Kind) -> str:
    """The lowest sums of faces beside the highest of what is none, for each share: as Markdown."""
    lines = [f"| share | {' | '.join(kind.name + ', lowest' for kind in kinds)} | none, highest |"]
    lines.append("|---" * (len(kinds) + 2) + "|")
    for share in SHARES:
        lowest = [" ".join(f"{value:.3f}" for value in np.sort(kind.sums(share))[:_TOLD]) for kind in kinds]
        highest = " ".join(f"{value:.3f}" for value in np.sort(none.sums(share))[::-1][:_TOLD])
        lines.append(f"| {share} | {' | '.join(lowest)} | {highest} |")
    return "\n".join(lines)


def _read(paths: list[Path]) -> Iterable[tuple[str, np.ndarray]]:
    for path in paths:
        image = cv2.imread(str(path))
        if image is not None:
            yield path.name, image
