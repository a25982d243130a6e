"""Heads turned by known angles, as a network marks them: what head pose must know of points that slide.

A portrait's mesh is turned, and its picture with it; the network looks at that picture. So it is known how the head is
turned, and where the network puts each point of it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np

from tabrt.engines import Engine
from tabrt.files import write_atomically
from tabrt.geometry import Box
from tabrt.measures import Lens
from tabrt.measures.head import ANGLE, HEAD, RIGID, RIGID_MIRROR, TurnedHead
from tabrt.measures.pose import best_fit, to_sight, upright, uprighting
from tabrt.topology import WFLW98
from tabrt.tracking.looking import Looking
from training.sets import CROP_SIDE, MISLABELLED, FaceSet, load_zip
from training.turned import fits, load_meshes
from training.turning import Shape, turn, turned_mesh, yaw_of

FRONTAL = 15.0  # degrees in the portrait, up to which a mesh is turned: its hidden side is a guess
STEEPEST, TILT = 25.0, 10.0  # degrees of pitch at most, and their standard deviation
FARTHEST = 88.0  # degrees of yaw
FAR = Lens.seeing(8.0, CROP_SIDE, CROP_SIDE)  # whose pictures are nearly orthographic, as turned ones are

LEARNT_FROM = {"allage": 600, "utkface": 300}  # faces of each set; those of `human` judge
TURNS = 2  # of each face
SIDES = np.arange(0, 90 + ANGLE, ANGLE)  # degrees
SLIDES_WIDTH, LEFT_WIDTH = 7.0, 10.0  # degrees, standard deviation of what counts as near a side
ROBUST_STEPS = 6
RIDGE = 1.5e-6  # m²: variance of points, of people who move too, that tells nothing
MOST_OFF = 0.35  # radians


@dataclass(frozen=True, eq=False)
class TurnedHeads:
    """N heads: a point p (3,) of the mean head lies at scale · rotation · p + offset, of which x and y are seen."""

    rotations: np.ndarray  # (N, 3, 3)
    scales: np.ndarray  # (N,) px / m
    offsets: np.ndarray  # (N, 3) px
    points: np.ndarray  # (N, 98, 2) px, where the network marks them
    confidence: np.ndarray  # (N, 98)

    def __len__(self) -> int:
        return len(self.scales)

    @classmethod
    def together(cls, parts: list[TurnedHeads]) -> TurnedHeads:
        return cls(*(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(cls)))


def portraits(faces: FaceSet, meshes: np.ndarray) -> np.ndarray:
    """Indices of the faces that look ahead and whose mesh (N, 478, 3) fits; their order hangs on the data alone."""
    good = np.flatnonzero(fits(meshes, faces.points) & ~np.isin(faces.names, MISLABELLED))
    ahead = [index for index in good.tolist() if abs(yaw_of(meshes[index].astype(float))) <= FRONTAL]
    return np.random.default_rng(0).permutation(ahead)


@dataclass(frozen=True, eq=False)
class Turned:
    """A portrait that was turned."""

    image: np.ndarray  # uint8 (352, 352, 3)
    labels: np.ndarray  # (98, 2) px
    head: np.ndarray  # (98, 3) px, of its mesh


def turned_portraits(
    faces: FaceSet, meshes: np.ndarray, shape: Shape, which: np.ndarray, each: int, seed: int
) -> Iterator[Turned]:
    """Faces `which` (N,) of a set, each turned `each` times: once into every share of 0 … FARTHEST, to either side."""
    rng = np.random.default_rng(seed)
    for index in which.tolist():
        mesh, labels = meshes[index].astype(float), faces.points[index]
        for share in range(each):
            yaw = float((share + rng.random()) / each * FARTHEST * rng.choice((-1, 1)))
            pitch = float(np.clip(rng.normal(0, TILT), -STEEPEST, STEEPEST))
            image, moved = turn(faces.read(index), mesh, labels, shape, yaw, pitch)
            yield Turned(image, moved, wflw_of(turned_mesh(mesh, labels, shape, yaw, pitch)[None])[0])


def marked_by(engine: Engine, portraits: Iterable[Turned]) -> TurnedHeads:
    """Turned portraits as a tracker with this network sees faces that it follows."""
    look = Looking(engine, WFLW98, False, lambda _: nullcontext())
    rows = []
    for portrait in portraits:
        first = look(portrait.image, [look.around(Box.of(portrait.labels))])[0]
        second = look(portrait.image, [look.after(first)])[0]
        rows.append((*fitted(portrait.head), second.points, second.confidence))
    return TurnedHeads(*(np.array(column) for column in zip(*rows, strict=True)))


def fitted(head: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Rotation (3, 3), scale and offset (3,) that bring the rigid points of the mean head nearest to those of a head
    (98, 3): Umeyama 1991.
    """
    here, there = HEAD[RIGID], head[RIGID]
    a, b = here - here.mean(axis=0), there - there.mean(axis=0)
    u, sizes, vt = np.linalg.svd(b.T @ a)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ sign @ vt
    scale = float(np.trace(np.diag(sizes) @ sign) / (a**2).sum())
    return rotation, scale, there.mean(axis=0) - scale * rotation @ here.mean(axis=0)


# What head pose must know of them


def make_turned_head(root: Path, cache: Path, engine: Engine, out: Path, say: Callable[[str], None] = print) -> None:
    """Write the tables of a TurnedHead, as this network marks faces of LEARNT_FROM (zips under root, and meshes.npz).

    The same network gives the same file. Raises TabrtError.
    """
    meshes, shape = load_meshes(root / "meshes.npz")
    seen = []
    for seed, (name, count) in enumerate(LEARNT_FROM.items()):
        faces = load_zip(root / f"{name}.zip", cache)[0]
        which = portraits(faces, meshes[name])[:count]
        seen.append(marked_by(engine, turned_portraits(faces, meshes[name], shape, which, TURNS, seed)))
        say(f"{name}: {len(seen[-1])} turned heads")
    slides, left = tables(TurnedHeads.together(seen))
    memory = io.BytesIO()
    np.savez(memory, slides=slides, left=left)
    write_atomically(out, memory.getvalue())


def tables(heads: TurnedHeads) -> tuple[np.ndarray, np.ndarray]:
    """Those of a TurnedHead, slides (19, 98, 4) and left (19, 26, 3), from heads turned to all sides."""
    slides = _slides(heads)
    return slides, _left(heads, TurnedHead.of(slides.astype(float), np.zeros((len(SIDES), 2 * len(RIGID), 3))))


def _slides(heads: TurnedHeads) -> np.ndarray:
    """Local linear means over the side from which heads are seen, robust by 1 / max(1, e / 1.5 median e) a point."""
    sides, away = _with_mirrors(*_off_the_mean(heads))
    means, spreads = [], []
    for side in SIDES:
        near = np.abs(sides - side) < 3 * SLIDES_WIDTH
        by = sides[near] - side
        mean, spread = _line(by, away[near], np.exp(-0.5 * (by / SLIDES_WIDTH) ** 2))
        means.append(mean)
        spreads.append(spread)
    # Seen from the front the mean head is as it is; how people's points differ from it there is no slide.
    slides = np.array(means) - means[0] * np.cos(np.radians(SIDES))[:, None, None]
    sureness = np.minimum(1, spreads[0] / np.array(spreads)) ** 2
    return np.concatenate([slides, sureness[..., None]], axis=2).astype(np.float16)


def _line(by: np.ndarray, away: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means (98, 3) and spreads (98,) of points (K, 98, 3) where `by` (K,) is 0, by a line through them."""
    robust = np.repeat(weights[:, None], away.shape[1], axis=1)
    for _ in range(ROBUST_STEPS):
        whole, first, second = (np.einsum("n,np->p", by**power, robust) for power in (0, 1, 2))
        total, moment = (np.einsum("np,npc->pc", robust * (by**power)[:, None], away) for power in (0, 1))
        within = (whole * second - first**2)[:, None]
        mean = (second[:, None] * total - first[:, None] * moment) / within
        slope = (whole[:, None] * moment - first[:, None] * total) / within
        errors = np.linalg.norm(away - mean - by[:, None, None] * slope, axis=2)
        usual = np.maximum(np.median(errors[weights > 0.3], axis=0), 1e-9)
        robust = weights[:, None] / np.maximum(1, errors / (1.5 * usual))
    return mean, np.sqrt(weights @ np.minimum(errors, 3 * usual) ** 2 / weights.sum())


def _off_the_mean(heads: TurnedHeads) -> tuple[np.ndarray, np.ndarray]:
    """Side (N,) in degrees, and (N, 98, 3) metres by which points lie off the mean head, across the line of sight."""
    placed = HEAD @ heads.rotations.transpose(0, 2, 1)
    across = (heads.points - heads.offsets[:, None, :2]) / heads.scales[:, None, None] - placed[..., :2]
    return _sides(heads.rotations), across @ heads.rotations[:, :2]


def _sides(rotations: np.ndarray) -> np.ndarray:
    return np.degrees(np.arcsin(np.clip(-rotations[:, 2, 0], -1, 1)))


def _with_mirrors(sides: np.ndarray, away: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([sides, -sides]), np.concatenate([away, away[:, WFLW98.mirror] * (-1, 1, 1)])


def _left(heads: TurnedHeads, head: TurnedHead) -> np.ndarray:
    """Ridge regression of how a pose is off on what is left of its points, around each side."""
    rows = [_off(*each, head) for each in zip(heads.rotations, heads.points, heads.confidence, strict=True)]
    sides, left, off = (np.array(column) for column in zip(*(row for row in rows if row is not None), strict=True))
    sides = np.concatenate([sides, -sides])
    left = np.concatenate([left, left[:, :, RIGID_MIRROR] * [[-1], [1]]]).reshape(len(sides), -1)
    off = np.concatenate([off, off * (1, -1, -1)])
    tables = []
    for side in SIDES:
        weights = np.exp(-0.5 * ((sides - side) / LEFT_WIDTH) ** 2)[:, None]
        ridge = RIDGE * weights.sum() * np.eye(left.shape[1])
        tables.append(np.linalg.solve(left.T @ (weights * left) + ridge, left.T @ (weights * off)))
    return np.array(tables, np.float32)


def _off(
    rotation: np.ndarray, points: np.ndarray, confidence: np.ndarray, head: TurnedHead
) -> tuple[float, np.ndarray, np.ndarray] | None:
    """Of the pose that is found: side, what is left (2, 13) of its rigid points, and the rotation vector to the true
    one; upright."""
    fit = best_fit(points.astype(float), confidence, FAR, head=head)
    if fit is None:
        return None
    told = to_sight(fit.translation) @ fit.rotation
    cosine, sine = uprighting(told)
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    off = cv2.Rodrigues(turn @ rotation @ told.T @ turn.T)[0][:, 0]
    return float(_sides(told[None])[0]), upright(fit.left, cosine, sine), np.clip(off, -MOST_OFF, MOST_OFF)


# Meshes


_MESH_HALF = {
    **{34: 63, 35: 105, 36: 66, 37: 107, 38: 55, 39: 65, 40: 52, 41: 53, 51: 168, 52: 197, 53: 5, 54: 4, 55: 98},
    **{56: 97, 57: 2, 76: 61, 77: 39, 78: 37, 79: 0, 85: 17, 86: 84, 87: 181, 88: 78, 89: 82, 90: 13, 94: 14},
    **{95: 87, 96: 468},
}
_MESH_MIRROR = {
    **{34: 293, 35: 334, 36: 296, 37: 336, 38: 285, 39: 295, 40: 282, 41: 283, 55: 327, 56: 326, 76: 291, 77: 269},
    **{78: 267, 86: 314, 87: 405, 88: 308, 89: 312, 95: 317, 96: 473},
}
_JAWS = (
    (127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152),
    (356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152),
)
_UPPER = (33, 246, 161, 160, 159, 158, 157, 173, 133), (263, 466, 388, 387, 386, 385, 384, 398, 362)
_LOWER = (33, 7, 163, 144, 145, 153, 154, 155, 133), (263, 249, 390, 373, 374, 380, 381, 382, 362)


def wflw_of(mesh: np.ndarray) -> np.ndarray:
    """wflw98 points (N, 98, 3) on MediaPipe's meshes (N, 478, 3)."""
    mirror, out = WFLW98.mirror, np.full((len(mesh), 98, 3), np.nan)
    quarters = np.linspace(0, 1, 5)
    for side, (jaw, upper, lower) in enumerate(zip(_JAWS, _UPPER, _LOWER, strict=True)):
        for points, chain, shares in (
            (np.arange(17), jaw, np.linspace(0, 1, 17)),
            (np.arange(60, 65), upper, quarters),
            (np.array([60, 67, 66, 65, 64]), lower, quarters),
        ):
            out[:, mirror[points] if side else points] = _along(mesh[:, list(chain)], shares)
    for point, vertex in _MESH_HALF.items():
        out[:, point] = mesh[:, vertex]
    for point, vertex in _MESH_MIRROR.items():
        out[:, mirror[point]] = mesh[:, vertex]
    out[:, 33], out[:, 46] = mesh[:, [70, 46]].mean(axis=1), mesh[:, [300, 276]].mean(axis=1)
    return out


def _along(chain: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(N, S, 3): places at shares of the length of lines through points (N, K, 3)."""
    lengths = np.linalg.norm(np.diff(chain, axis=1), axis=2).cumsum(axis=1)
    lengths = np.concatenate([np.zeros((len(chain), 1)), lengths], axis=1) / lengths[:, -1:]
    return np.stack(
        [
            np.stack([np.interp(shares, at, line[:, axis]) for axis in range(3)], axis=1)
            for at, line in zip(lengths, chain.astype(float), strict=True)
        ]
    )
