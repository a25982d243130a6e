"""The training loop: one step function, run by Lightning Fabric on one process or many.

Every batch is a pure function of (seed, step): which faces, and how each is augmented. So a run that is stopped and
resumed from its state file gives the same numbers as one that never stopped.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import lightning_fabric as lightning
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tabrt.errors import TabrtError
from tabrt.heatmaps import decode, render_boundaries
from tabrt.metrics import eye_distance, nme
from tabrt.network import Tab, TabConfig
from tabrt.network.tab import normalise
from tabrt.topology import IBUG68, WFLW98, to_68
from training.augment import training_crop, truth_crop
from training.losses import boundary_mse, landmark_cross_entropy, landmark_mse
from training.recipes import Phase, Recipe
from training.sets import FaceSet


class Batches(Dataset):
    """Map-style over keys (set name, index, seed): gives a crop, its points, its boundary maps."""

    def __init__(self, sets: dict[str, FaceSet], recipe: Recipe):
        self.sets, self.recipe = sets, recipe

    def __getitem__(self, key: tuple[str, int, int]):
        cv2_threads_off()
        name, index, seed = key
        faces = self.sets[name]
        rng = np.random.default_rng(seed)
        box = None if faces.boxes is None else faces.boxes[index]
        pixels, points = training_crop(
            faces.read(index), faces.points[index], faces.topology, self.recipe.augmentation, rng, box=box
        )
        return pixels, points, render_boundaries(points, faces.topology.boundary_lines)


def cv2_threads_off() -> None:
    """OpenCV's own threads fight with the workers for cores."""
    import cv2

    cv2.setNumThreads(0)


class Plan:
    """A batch sampler: yields, for each step, the keys of this process' share of the batch."""

    def __init__(self, sets: dict[str, FaceSet], recipe: Recipe, steps: range, seed: int, rank: int = 0, world: int = 1):
        self.sizes = {name: len(faces) for name, faces in sets.items()}
        self.recipe, self.steps, self.seed, self.rank, self.world = recipe, steps, seed, rank, world
        shares = recipe.mixture or {name: float(size) for name, size in self.sizes.items()}
        shares = {name: share for name, share in shares.items() if name in self.sizes}
        self.names = list(shares)
        self.shares = np.array([shares[name] for name in self.names]) / sum(shares.values())

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[str, int, int]]]:
        for step in self.steps:
            yield self.keys(step)[self.rank :: self.world]

    def keys(self, step: int) -> list[tuple[str, int, int]]:
        """The whole batch of a step. Each set is gone through in shuffled passes, so no face is left out."""
        rng = np.random.default_rng((self.seed, step))
        chosen = rng.choice(len(self.names), self.recipe.batch, p=self.shares)
        keys = []
        for place, which in enumerate(chosen):
            name = self.names[which]
            turn = int(round(step * self.recipe.batch * self.shares[which])) + place
            cycle, position = divmod(turn, self.sizes[name])
            index = np.random.default_rng((self.seed, which, cycle)).permutation(self.sizes[name])[position]
            keys.append((name, int(index), int(rng.integers(1 << 62))))
        return keys


def learning_rate(phase: Phase, step: int, steps: int, steps_per_epoch: int) -> float:
    """The rate of a step: ×0.1 at the milestones, or a warm-up and one cosine."""
    if phase.milestones:
        return phase.learning_rate * 0.1 ** sum(step >= epoch * steps_per_epoch for epoch in phase.milestones)
    if step < phase.warmup:
        return phase.learning_rate * (step + 1) / phase.warmup
    done = (step - phase.warmup) / max(1, steps - phase.warmup)
    return phase.learning_rate_end + (phase.learning_rate - phase.learning_rate_end) * (1 + math.cos(math.pi * done)) / 2


def compute_loss(model: nn.Module, recipe: Recipe, part: str, crops: Tensor, points: Tensor, boundaries: Tensor):
    """The loss of one batch, and its parts as numbers."""
    x = normalise(crops).contiguous(memory_format=torch.channels_last)
    output = model(x)
    zero = torch.zeros((), device=x.device)
    edge = boundary_mse(output.boundaries, boundaries) if part != "balt" else zero
    land = zero
    if part != "scbe":
        if recipe.loss == "mse":
            land = landmark_mse(output.landmarks, points)
        else:
            land = landmark_cross_entropy(output.landmarks, points, recipe.distance_weight)
    return land + recipe.boundary_weight * edge, {"landmarks": float(land.detach()), "boundaries": float(edge.detach())}


def train(
    config: TabConfig,
    recipe: Recipe,
    sets: dict[str, FaceSet],
    validation: FaceSet,
    out: Path,
    seed: int = 0,
    workers: int = 2,
    start: Path | None = None,
    validate_every: int = 500,
    save_every: int = 200,
    fabric: lightning.Fabric | None = None,
) -> Path:
    """Train a network and leave in `out`: best.safetensors, last.safetensors, state.pt, log.csv.

    Resumes from out/state.pt where there is one. `start`: a checkpoint whose weights fill whatever has the same name
    and shape. Returns the path of the best checkpoint (lowest validation NME of the averaged weights).
    """
    from training.checkpointing import load_matching

    fabric = fabric or lightning.Fabric(accelerator="auto", devices=1)
    fabric.seed_everything(seed)
    out.mkdir(parents=True, exist_ok=True)
    model = Tab(config).to(memory_format=torch.channels_last)
    if start is not None:
        fabric.print(load_matching(model, start))
    average = Average(model, recipe.averaging)
    parameters = [p for p in model.parameters() if p.requires_grad]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimiser]
    optimiser = kind(parameters, lr=1e-4, weight_decay=recipe.weight_decay)
    wrapped, optimiser = fabric.setup(model, optimiser)
    phase = recipe.phases[0]
    steps_per_epoch = max(1, sum(map(len, sets.values())) // recipe.batch)
    steps = phase.samples // recipe.batch if phase.samples else phase.epochs * steps_per_epoch
    step, best = 0, math.inf
    state_path = out / "state.pt"
    if state_path.exists():
        state = torch.load(state_path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        average.load(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        step, best = state["step"], state["best"]
        fabric.print(f"resuming at step {step} of {steps}")
    plan = Plan(sets, recipe, range(step, steps), seed, fabric.global_rank, fabric.world_size)
    loader = DataLoader(
        Batches(sets, recipe), batch_sampler=plan, num_workers=workers, collate_fn=collate, prefetch_factor=4 if workers else None
    )
    model.train()
    log = Log(out / "log.csv")
    began, seen = time.perf_counter(), 0
    for crops, points, boundaries in loader:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(phase, step, steps, steps_per_epoch)
        loss, parts = compute_loss(wrapped, recipe, phase.part, crops, points, boundaries)
        if not torch.isfinite(loss):
            raise TabrtError(f"the loss is not finite at step {step}; lower the learning rate, or look at the labels")
        fabric.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        average.update(model, step)
        step += 1
        seen += len(crops)
        log.add(parts)
        if step % 50 == 0:
            speed = seen / (time.perf_counter() - began)
            fabric.print(
                f"step {step}/{steps}  {log.text()}  rate {group['lr']:.2e}  {speed:.1f} faces/s", flush=True
            )
        if step % validate_every == 0 or step == steps:
            error = validate(average.model(model), validation)
            log.write(step, group["lr"], error)
            fabric.print(f"step {step}: validation NME {100 * error:.3f} %", flush=True)
            if error < best:
                best = error
                save(out / "best.safetensors", average.model(model), {"nme": error, "step": step})
        if step % save_every == 0 or step == steps:
            save(out / "last.safetensors", average.model(model), {"step": step})
            atomically(
                state_path,
                lambda path: torch.save(
                    {
                        "model": model.state_dict(),
                        "average": average.state,
                        "optimiser": optimiser.state_dict(),
                        "step": step,
                        "best": best,
                    },
                    path,
                ),
            )
    return out / "best.safetensors"


def collate(samples):
    crops, points, boundaries = zip(*samples, strict=True)
    return tuple(torch.from_numpy(np.stack(part)) for part in (crops, points, boundaries))


class Average:
    """An exponential average of the weights and of the BN statistics, which is what gets shipped."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self._copy = None

    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        floats, news = [], []
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                floats.append(self.state[name])
                news.append(value.detach())
            else:
                self.state[name].copy_(value)
        torch._foreach_lerp_(floats, news, 1 - decay)

    def load(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            self.state[name].copy_(value)

    def model(self, like: Tab) -> Tab:
        if self._copy is None:
            self._copy = Tab(like.config).to(memory_format=torch.channels_last).eval()
        self._copy.load_state_dict(self.state)
        return self._copy


@torch.no_grad()
def predict(model: Tab, crops: np.ndarray, batch: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, L, 2) in crop px and confidences (N, L) of crops uint8 (N, 256, 256, 3) RGB."""
    points, confidence = [], []
    for first in range(0, len(crops), batch):
        x = normalise(torch.from_numpy(crops[first : first + batch])).contiguous(memory_format=torch.channels_last)
        p, c = decode(model(x).landmarks.contiguous().numpy())
        points.append(p)
        confidence.append(c)
    return np.concatenate(points), np.concatenate(confidence)


def validate(model: Tab, faces: FaceSet) -> float:
    """Mean NME over a set, truth boxes, in the set's 68 human points where it has them (inter-ocular)."""
    crops = [truth_crop(points) for points in faces.points]
    pixels = np.stack([crop.cut(faces.read(i)) for i, crop in enumerate(crops)])
    points, _ = predict(model, pixels)
    points = np.stack([crop.to_frame(p) for crop, p in zip(crops, points, strict=True)])
    if faces.points68 is not None:
        return float(nme(to_68(points), faces.points68, eye_distance(faces.points68, IBUG68)).mean())
    return float(nme(points, faces.points, eye_distance(faces.points, WFLW98)).mean())


def save(path: Path, model: Tab, notes: dict) -> None:
    tensors = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    metadata = {"tabrt.config": json.dumps(model.config.to_dict()), "tabrt.notes": json.dumps(notes)}
    atomically(path, lambda partial: save_file(tensors, partial, metadata=metadata))


def atomically(path: Path, write) -> None:
    """Write through a partial file, so that a full disk or a kill leaves the last good one."""
    partial = path.with_name(path.name + ".partial")
    write(partial)
    os.replace(partial, path)


class Log:
    """Running means on the screen, a CSV on disk."""

    def __init__(self, path: Path):
        self.path, self.sums, self.count = path, {}, 0

    def add(self, parts: dict[str, float]) -> None:
        for name, value in parts.items():
            self.sums[name] = 0.98 * self.sums.get(name, value) + 0.02 * value

    def text(self) -> str:
        return "  ".join(f"{name} {value:.4f}" for name, value in self.sums.items())

    def write(self, step: int, rate: float, error: float) -> None:
        row = {"step": step, "learning_rate": rate, **self.sums, "validation_nme": error}
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row.keys())
            if new:
                writer.writeheader()
            writer.writerow(row)
