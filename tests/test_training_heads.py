"""What head pose learns of turned heads, from heads whose points slide and differ in a known way."""

from __future__ import annotations

import numpy as np
import pytest

from tabrt.measures.head import EYE_DISTANCE, HEAD, TurnedHead
from tabrt.measures.pose import angles_of, best_fit, head_pose, rotation_of
from tabrt.topology import WFLW98
from training.heads import FAR, SIDES, TurnedHeads, fitted, tables

FAR_JAW = np.arange(17, 30)  # of a head that turns to the picture's right; the other side's is its mirror
NOSE_TIP = 54


def sliding(count: int, seed: int = 0) -> TurnedHeads:
    """Mean heads whose far jaw comes forwards as they turn, and whose noses are longer or shorter."""
    rng = np.random.default_rng(seed)
    rotations = np.stack([rotation_of(rng.uniform(-88, 88), rng.normal(0, 10), 0) for _ in range(count)])
    scale, offset = 1000.0, np.array([175.0, 175.0, 0.0])
    points = []
    for rotation in rotations:
        head = HEAD.copy()
        turned = -rotation[2, 0]
        head[FAR_JAW if turned < 0 else WFLW98.mirror[FAR_JAW], 2] -= 0.05 * abs(turned)
        head[NOSE_TIP, 2] += rng.normal(0, 0.006)
        points.append(scale * (head @ rotation.T)[:, :2] + offset[:2] + rng.normal(0, 0.2, (98, 2)))
    return TurnedHeads(
        rotations, np.full(count, scale), np.tile(offset, (count, 1)), np.stack(points), np.full((count, 98), 0.9)
    )


@pytest.fixture(scope="module")
def learnt() -> tuple[np.ndarray, np.ndarray]:
    return tables(sliding(400))


def test_slides_are_those_of_the_heads(learnt: tuple[np.ndarray, np.ndarray]):
    slides = learnt[0].astype(float)
    front, half = 0, int(np.flatnonzero(SIDES == 45)[0])
    near = np.setdiff1d(np.arange(98), [NOSE_TIP, *FAR_JAW, *WFLW98.mirror[FAR_JAW]])
    assert np.abs(slides[front, :, :3]).max() < 1e-3
    assert np.abs(slides[half, near, :3]).max() < 1e-3
    rotation = rotation_of(45, 0, 0)  # only what is across the line of sight can be seen of a slide
    across = slides[half, WFLW98.mirror[FAR_JAW], :3] @ rotation.T
    assert np.abs(np.abs(across[:, 0]) - 0.05 * np.sin(np.pi / 4) ** 2).max() < 3e-3


def test_poses_are_nearer_with_what_was_learnt(learnt: tuple[np.ndarray, np.ndarray]):
    heads = sliding(60, seed=1)
    known = TurnedHead.of(*(table.astype(float) for table in learnt))
    unknown = TurnedHead.of(
        np.concatenate([np.zeros((19, 98, 3)), np.ones((19, 98, 1))], axis=2), np.zeros((19, 26, 3))
    )

    def off(head: TurnedHead) -> float:
        fits = [best_fit(*each, FAR, head=head) for each in zip(heads.points, heads.confidence, strict=True)]
        return float(np.mean([np.abs(np.subtract(angles_of(fit.rotation), angles_of(rotation)))[0]
                              for fit, rotation in zip(fits, heads.rotations, strict=True)]))  # fmt: skip

    assert off(known) < 0.6 * off(unknown)


def test_a_head_is_fitted_where_it_lies():
    rotation = rotation_of(30, -10, 5)
    told, scale, offset = fitted(3 * HEAD @ rotation.T + (1, 2, 3))
    np.testing.assert_allclose(told, rotation, atol=1e-9)
    assert scale == pytest.approx(3)
    np.testing.assert_allclose(offset, (1, 2, 3), atol=1e-9)


@pytest.mark.parametrize("confidence", [0.9, 0.05])
def test_a_long_nose_turns_no_pose_far(confidence: float):
    """What a table tells of people's noses is nothing to go by where a hand or a beak is."""
    head = HEAD.copy()
    head[NOSE_TIP, 2] -= 0.5 * EYE_DISTANCE
    sure = np.full(98, 0.9)
    sure[NOSE_TIP] = confidence
    rotation = rotation_of(25, 0, 0)
    placed = head @ rotation.T + (0, 0, FAR.focal / 1000)
    pose = head_pose(placed[:, :2] / placed[:, 2:] * FAR.focal + FAR.centre, sure, FAR)
    assert pose is not None
    told = pose.fit.rotation
    turned = np.degrees(np.arccos(np.clip((np.trace(pose.unsighted @ told.T) - 1) / 2, -1, 1)))
    assert turned < 4
