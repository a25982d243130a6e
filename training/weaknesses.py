"""Held-out faces for each weakness of a network, so that none is bettered at the cost of another unseen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tabrt.topology import WFLW98
from training.sets import TURNED, FaceSet, held_out, load_zip, marked_by_people, shared_validation, turned_from_held_out

_CHILD = 15  # years
# Of the points of cfp.zip that come from people, those that a spline through the 30 marked by hand put between them.
_SPLINED = [*range(1, 33, 2), 62, 66, 70, 74]


@dataclass(frozen=True, eq=False)
class Trial:
    """Faces to be judged on, never trained on, and how each is spoilt: one of PERTURBATIONS, or None."""

    name: str
    faces: FaceSet
    perturbation: str | None = None


def profiles(root: Path, cache: Path) -> FaceSet:
    """True profiles of the people of cfp.zip who are held out, by the 30 points of each that people marked."""
    faces, marked = _marked(root / "cfp.zip", cache)
    marked[:, _SPLINED] = False
    faces = replace(faces, name="shared-profiles", points=np.where(marked[..., None], faces.points, np.nan))
    return faces.subset(held_out(faces.names) & np.char.startswith(faces.names, "profile")).by_longer_side()


def turned(root: Path, cache: Path) -> FaceSet:
    """The held-out faces of human.zip, turned."""
    faces = load_zip(cache / TURNED, cache)[0]
    return faces.subset(turned_from_held_out(faces.names), "shared-turned").by_longer_side()


def children(root: Path, cache: Path) -> FaceSet:
    """Held-out children: those of fgnet.zip up to 15 years, by the points that people marked, and human's infants."""
    old, marked = _marked(root / "fgnet.zip", cache)
    ages = np.array([int(name[10:12]) for name in old.names])  # fgnet_SSSAYY
    old = replace(old, points=np.where(marked[..., None], old.points, np.nan))
    old = old.subset(held_out(old.names) & (ages <= _CHILD))
    human = load_zip(root / "human.zip", cache)[0]
    infants = human.subset(held_out(human.names) & np.char.startswith(human.names, "infanface"))
    return _together("shared-children", old, infants)


def _marked(path: Path, cache: Path) -> tuple[FaceSet, np.ndarray]:
    """The faces of a later zip, and which of their 98 points come from people: (N, 98) bool."""
    return load_zip(path, cache)[0], marked_by_people(path)


@dataclass(frozen=True, eq=False)
class _Either:
    """Reads picture i of two sets, one after the other."""

    first: FaceSet
    second: FaceSet

    def __call__(self, i: int) -> np.ndarray:
        return self.first.read(i) if i < len(self.first) else self.second.read(i - len(self.first))


def _together(name: str, first: FaceSet, second: FaceSet) -> FaceSet:
    names = np.concatenate([first.names, second.names])
    points = np.concatenate([first.points, second.points])
    return FaceSet(name, WFLW98, names, points, _Either(first, second))


# Name: where its faces come from, what must be there for it, how they are spoilt, and how many a validation takes.
_TRIALS: dict[str, tuple[Callable[[Path, Path], FaceSet], str, str | None, int]] = {
    "human": (shared_validation, "human.zip", None, 220),
    "profiles": (profiles, "cfp.zip", None, 110),
    "turned": (turned, TURNED, None, 100),
    "children": (children, "fgnet.zip", None, 100),
    "light": (shared_validation, "human.zip", "light", 80),
    "round": (shared_validation, "human.zip", "round", 80),
}
SHARED_TRIALS = tuple(_TRIALS)


def shared_trials(root: Path, cache: Path, capped: bool = True) -> list[Trial]:
    """A trial for each weakness whose faces are there. capped: only as many of them as validations have time for."""
    trials = []
    for name, (source, file, perturbation, most) in _TRIALS.items():
        if (root / file).is_file() or (cache / file).is_file():
            faces = source(root, cache).evenly(most if capped else None)
            if len(faces):
                trials.append(Trial(name, faces, perturbation))
    return trials
