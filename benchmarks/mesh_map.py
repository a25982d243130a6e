"""From another scheme's mesh to 300w68 points: the best linear map that can be learned from labelled faces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.peers import MESH_TO_68

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the ridge; the best on a fifth of the faces is taken
_EYES = (33, 263)  # outer corners in the mesh: they give the frame in which the map is linear


@dataclass(frozen=True, eq=False)
class MeshMap:
    """An affine map from all mesh points to 68 points, in the frame of the mesh's own eye corners."""

    mean: np.ndarray  # (2K,)
    weights: np.ndarray  # (2K, 136): of the deviation from the mean mesh, to that from the nearest vertices
    offset: np.ndarray  # (136,)

    @classmethod
    def learn(cls, mesh: np.ndarray, points: np.ndarray) -> MeshMap:
        """Ridge regression on mesh (N, K, 2) and human points (N, 68, 2) in px."""
        inputs, targets = _inputs(mesh), _targets(mesh, points)
        judged = np.arange(len(mesh)) % 5 == 0
        losses = []
        for penalty in PENALTIES:
            trial = cls._fit(inputs[~judged], targets[~judged], penalty)
            losses.append(np.abs(trial._residual(inputs[judged]) - targets[judged]).mean())
        return cls._fit(inputs, targets, PENALTIES[int(np.argmin(losses))])

    @classmethod
    def _fit(cls, inputs: np.ndarray, targets: np.ndarray, penalty: float) -> MeshMap:
        mean, offset = inputs.mean(axis=0), targets.mean(axis=0)
        x = inputs - mean
        gram = x @ x.T + penalty * np.eye(len(x))  # fewer faces than coordinates: solve among the faces
        return cls(mean, x.T @ np.linalg.solve(gram, targets - offset), offset)

    def _residual(self, inputs: np.ndarray) -> np.ndarray:
        return (inputs - self.mean) @ self.weights + self.offset

    def __call__(self, mesh: np.ndarray) -> np.ndarray:
        """Points (N, 68, 2) in px of meshes (N, K, 2) in px."""
        near = _inside(mesh, mesh[:, MESH_TO_68])
        moved = near + self._residual(_inputs(mesh)).reshape(-1, 68, 2) @ (1, 1j)
        centre, arm = _frame(mesh)
        placed = moved * arm + centre
        return np.stack([placed.real, placed.imag], axis=-1)


def _frame(mesh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle of the eye corners and the arm between them, (N, 1) complex: a similarity is one product."""
    left, right = (mesh[:, [eye]] @ (1, 1j) for eye in _EYES)
    return (left + right) / 2, right - left


def _inside(mesh: np.ndarray, points: np.ndarray) -> np.ndarray:
    centre, arm = _frame(mesh)
    return (points @ (1, 1j) - centre) / arm


def _inputs(mesh: np.ndarray) -> np.ndarray:
    inside = _inside(mesh, mesh)
    return np.concatenate([inside.real, inside.imag], axis=1)


def _targets(mesh: np.ndarray, points: np.ndarray) -> np.ndarray:
    away = _inside(mesh, points) - _inside(mesh, mesh[:, MESH_TO_68])
    return np.stack([away.real, away.imag], axis=-1).reshape(len(mesh), -1)
