"""A teacher and its pupils on one large card, within a time.

The processes that make crops may be slower than the card, so crops stay on it, and each comes again with another turn
and light until newer ones take its place. The boundary maps are made there too, and all of a step but the optimiser's
is one CUDA graph. The teacher learns first, alone; then its pupils learn at once, from the labels and from its maps
(Hinton and others: Distilling the knowledge in a network).
"""

from __future__ import annotations

import copy
import functools
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from tabrt.card import ModelCard
from tabrt.errors import first_line
from tabrt.geometry import CROP_SIZE, STRIDE
from tabrt.heatmaps import CELL_OFFSET, GAUSSIAN_SIGMA, REACH
from tabrt.network import Tab
from tabrt.network.checkpoint import save_checkpoint
from tabrt.network.tab import normalise
from tabrt.topology import WFLW98, Topology
from training.averaging import Average
from training.batches import Crops
from training.checkpointing import card_of, halved
from training.losses import Objective, faceless
from training.recipes import Recipe
from training.sets import FaceSet

Lines = tuple[tuple[int, ...] | None, ...]
Lesson = tuple[Tensor, ...]  # crops as the network wants them, points, and a teacher's maps if there is one
_AT_ONCE = 64  # crops that a process makes before it hands them over
_FIRST = 2048  # crops there before training begins
_WARMUP, _PLAIN = 0.04, 0.85  # shares of the time: until the full rate; from where crops are seen as they came
_KEEP = 0.998  # decay of the weights' average, per step
_CLIP = 5.0
_AHEAD = 16  # handfuls of crops that may wait


@functools.cache
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers that lie on the device: brought there each time, the card would be waited for each time."""
    return torch.tensor(values, device=device)


class Endless(IterableDataset):
    """Crops uint8 (64, 256, 256, 3) and points (64, L, 2) of a mixture of sets, without end, by each process."""

    def __init__(self, crops: Crops, mixture: dict[str, float], seed: int):
        self.crops, self.seed = crops, seed
        self.names = [name for name in crops.sets if mixture.get(name, 0) > 0]
        self.shares = np.array([mixture[name] for name in self.names])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = get_worker_info()
        rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        while True:
            names = rng.choice(len(self.names), _AT_ONCE, p=self.shares / self.shares.sum())
            made = [self._made(self.names[name], rng) for name in names.tolist()]
            yield tuple(torch.from_numpy(np.stack(part)) for part in zip(*made, strict=True))  # type: ignore[misc]

    def _made(self, name: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        index = int(rng.integers(len(self.crops.sets[name])))
        return self.crops.crop((name, index, int(rng.integers(1 << 62))))


class Pool:
    """The latest crops, on the device."""

    def __init__(self, size: int, points: int, device: torch.device):
        size -= size % _AT_ONCE
        self.crops = torch.empty((size, CROP_SIZE, CROP_SIZE, 3), dtype=torch.uint8, device=device)
        self.points = torch.empty((size, points, 2), device=device)
        self.made = 0

    def put(self, crops: Tensor, points: Tensor) -> None:
        """Take crops in, in the place of the oldest."""
        first = self.made % len(self.crops)
        place = slice(first, first + len(crops))
        self.crops[place].copy_(crops, non_blocking=True)
        self.points[place].copy_(points, non_blocking=True)
        self.made += len(crops)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Some of them, at random."""
        which = torch.randint(min(self.made, len(self.crops)), (count,), device=self.crops.device)
        return self.crops[which], self.points[which]


def varied(crops: Tensor, points: Tensor, topology: Topology, plain: bool) -> tuple[Tensor, Tensor]:
    """Crops (B, S, S, 3) uint8 and points (B, L, 2) px in another turn, size, place and light; half of them mirrored.

    plain: mirrored at most. A third of them are only mirrored anyway, for a second warp blurs.
    """
    count, size, device = len(crops), crops.shape[1], crops.device
    flip = torch.rand(count, device=device) < 0.5
    mirrored = points[:, _constant(tuple(topology.mirror.tolist()), device)]
    mirrored = torch.stack([size - 1 - mirrored[..., 0], mirrored[..., 1]], dim=-1)
    points = torch.where(flip[:, None, None], mirrored, points)
    crops = torch.where(flip[:, None, None, None], crops.flip(2), crops)
    if plain:
        return crops, points
    moved = torch.rand(count, device=device) < 0.67
    roll, grow, right, down = (
        torch.where(moved, (2 * torch.rand(count, device=device) - 1) * most, 0.0)
        for most in (math.radians(9), 0.06, 0.03, 0.03)
    )
    cos, sin = torch.cos(roll) / (1 + grow), torch.sin(roll) / (1 + grow)
    # Where each new pixel comes from, in grid_sample's units of half a side.
    shift = torch.stack([right, down], dim=1) * 2
    back = torch.stack([torch.stack([cos, sin], dim=1), torch.stack([-sin, cos], dim=1)], dim=1)
    matrix = torch.cat([back, shift[..., None]], dim=2)
    planes = crops.permute(0, 3, 1, 2).float()
    grid = functional.affine_grid(matrix, list(planes.shape), align_corners=False)
    warped = functional.grid_sample(planes, grid, mode="bicubic", align_corners=False)
    planes = torch.where(moved[:, None, None, None], warped, planes)
    gain = 1 + 0.15 * (2 * torch.rand(count, 1, 1, 1, device=device) - 1)
    gain = gain * (1 + 0.06 * (2 * torch.rand(count, 3, 1, 1, device=device) - 1))
    crops = (planes * gain).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    unit = (points + 0.5) * (2 / size) - 1
    forward = back.transpose(1, 2) * (1 + grow)[:, None, None] ** 2
    unit = torch.einsum("bij,blj->bli", forward, unit - shift[:, None])
    return crops, (unit + 1) * (size / 2) - 0.5


def sized(crops: Tensor, points: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Crops and points as crops of another size would have them."""
    if crops.shape[1] == size:
        return crops, points
    planes = crops.permute(0, 3, 1, 2).float()
    smaller = functional.interpolate(planes, (size, size), mode="bilinear", antialias=True, align_corners=False)
    factor = size / crops.shape[1]
    pixels = smaller.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return pixels, (points + 0.5) * factor - 0.5


def boundary_maps(points: Tensor, lines: Lines, size: int) -> tuple[Tensor, Tensor]:
    """`render_boundaries` of a batch of points (B, L, 2), maps (B, 16, size, size), and which are known (B, 16)."""
    cells = (points - CELL_OFFSET) / STRIDE
    count, device = len(points), points.device
    grid = torch.arange(size, device=device, dtype=torch.float32)
    far = (REACH * GAUSSIAN_SIGMA) ** 2
    face = torch.isfinite(points).any(dim=2).any(dim=1)
    maps, known = [], []
    for line in lines:
        if line is None:
            maps.append(torch.full((count, size, size), math.inf, device=device))
            known.append(torch.ones(count, dtype=torch.bool, device=device))
            continue
        through = cells[:, _constant(line, device)]
        whole = torch.isfinite(through).all(dim=2).all(dim=1)
        through = torch.where(whole[:, None, None], through, -1e4)  # far outside: an empty map
        starts, steps = through[:, :-1], through[:, 1:] - through[:, :-1]
        dx = grid - starts[..., 0, None]  # (B, s, size)
        dy = grid - starts[..., 1, None]
        along = (dx * steps[..., :1])[:, :, None, :] + (dy * steps[..., 1:])[:, :, :, None]
        share = (along / steps.square().sum(dim=-1).clamp(min=1e-12)[..., None, None]).clamp_(0, 1)
        squares = (dx[:, :, None, :] - share * steps[..., 0, None, None]).square_()
        squares += (dy[:, :, :, None] - share * steps[..., 1, None, None]).square_()
        nearest = squares.amin(dim=1)
        maps.append(torch.where(nearest <= far, nearest, math.inf))
        known.append(whole | ~face)
    maps.append(torch.stack(maps).amin(dim=0))
    known.append(torch.stack(known).all(dim=0))
    drawn = torch.exp(torch.stack(maps, dim=1) / (-2 * GAUSSIAN_SIGMA**2))
    return drawn, torch.stack(known, dim=1).float()


def distance_from(teacher: Tensor, pupil: Tensor, face: Tensor) -> Tensor:
    """Cross-entropy of a pupil's maps to the teacher's, mean over the maps of faces; both are read as softmaxes.

    Maps of another size are made of the teacher's shares. face (B,) bool: crops in which something is one.
    """
    shares = torch.softmax(teacher.float().flatten(2), dim=2).view(teacher.shape)
    if shares.shape[-1] != pupil.shape[-1]:
        shares = functional.interpolate(shares, pupil.shape[-2:], mode="bilinear", antialias=True, align_corners=False)
        shares = shares / shares.sum(dim=(2, 3), keepdim=True)
    told = torch.log_softmax(pupil.float().flatten(2), dim=2)
    each = -(shares.flatten(2) * told).sum(dim=2).mean(dim=1)
    return (each * face).sum() / face.sum().clamp(min=1)


def _said(teacher: Tab, x: Tensor) -> Tensor:
    """A teacher's landmark maps of crops."""
    with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
        return teacher(x).landmarks


class Graph:
    """A function of tensors of fixed shapes as one CUDA graph: one by one its kernels wait for Python to start them."""

    def __init__(self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]):
        self.inputs = [part.clone() for part in inputs]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # what a first run chooses or allocates cannot be captured
                function(*self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        # Loading goes on meanwhile, in another thread.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.output = function(*self.inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The output lies where the next call puts its own."""
        for held, new in zip(self.inputs, inputs, strict=True):
            held.copy_(new, non_blocking=True)
        self.graph.replay()
        return self.output


@dataclass
class Learner:
    """A network that learns: what of, and at which rate at most."""

    name: str
    model: Tab
    rate: float

    def begin(self, recipe: Recipe, device: torch.device) -> None:
        self.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective = Objective(self.model, recipe, "all", half=True).train()
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=self.rate, weight_decay=recipe.weight_decay, fused=device.type == "cuda"
        )
        self.average = Average(self.model, _KEEP)
        self.good = copy.deepcopy(self.model.state_dict())
        self.slower = 1.0
        self.release()

    def release(self) -> None:
        """Without a graph, whose memory goes, lessons of any size run kernel by kernel."""
        self.gradients: Callable[..., Tensor] = self._gradients

    def capture(self, lesson: Lesson) -> None:
        """From here on lessons of this size run as one CUDA graph. Changes no weight."""
        self.gradients = Graph(self._gradients, lesson)

    def lesson(self, crops: Tensor, points: Tensor, told: Tensor | None) -> Lesson:
        """What this network learns from crops (B, 256, 256, 3) uint8, points (B, L, 2) and a teacher's maps."""
        pixels, marks = sized(crops, points, self.model.config.crop_size)
        return (normalise(pixels), marks, *([] if told is None else [told]))

    def step(self, lesson: Lesson, share: float, number: int) -> Tensor:
        """One step at this share of the rate. Returns the losses (labels, boundaries, teacher) on the device."""
        losses = self.gradients(*lesson)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * self.slower * share
        self.optimiser.step()
        self.average.update(number)
        return losses

    def _gradients(self, x: Tensor, points: Tensor, told: Tensor | None = None) -> Tensor:
        """Leave the gradients of the loss, and return what it is made of."""
        self.optimiser.zero_grad(set_to_none=True)
        maps, known = boundary_maps(points, WFLW98.boundary_lines, x.shape[-1] // STRIDE)
        # No cache of weights in bf16: a graph would keep the first ones.
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            output = self.model(x)
        loss, land, edge = self.objective.loss(output.landmarks, output.boundaries, points, maps, known)
        taught = torch.zeros_like(land)
        if told is not None:
            taught = distance_from(told, output.landmarks, ~faceless(points, known))
            loss = loss + taught
        loss.backward()
        return torch.stack([land, edge, taught.detach()])

    def sound(self) -> bool:
        """Whether the weights are finite; where not, the last ones that were come back, and the rate is halved."""
        if all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            self.good = copy.deepcopy(self.model.state_dict())
            return True
        self.model.load_state_dict(self.good)
        self.average.load(self.good)
        self.optimiser.state.clear()
        self.slower /= 2
        return False

    def save(self, path: Path, card: ModelCard) -> None:
        """The average, its kernels in float16, whole or not at all."""
        save_checkpoint(path, halved(self.average.model().cpu()), card)


@dataclass
class Schoolroom:
    """Where they learn: crops that keep coming, and whom to tell."""

    sets: dict[str, FaceSet]
    recipe: Recipe
    out: Path
    device: torch.device
    workers: int
    pool_size: int = 24_576
    batch: int = 128
    save_every: float = 60.0  # s
    say: Callable[[str], None] = print
    seed: int = 0

    def open(self) -> None:
        """Start the processes that make crops, and wait for the first."""
        crops = Crops(self.sets, self.recipe.augmentation)
        feed = DataLoader(
            Endless(crops, self.recipe.mixture, self.seed), batch_size=None, num_workers=self.workers,
            prefetch_factor=4, in_order=False, pin_memory=self.device.type == "cuda",
        )  # fmt: skip
        self.feed = iter(feed)  # forks here, before the card is touched
        self.made: queue.Queue[tuple[Tensor, Tensor] | Exception] = queue.Queue(_AHEAD)
        self.closed = threading.Event()
        self.fetcher = threading.Thread(target=self._fetch, daemon=True)
        self.fetcher.start()
        self.pool = Pool(self.pool_size, WFLW98.points, self.device)
        while self.pool.made < min(_FIRST, len(self.pool.crops)):
            self._put(self.made.get())

    def close(self) -> None:
        """Let the processes end."""
        self.closed.set()
        self.fetcher.join()

    def _fetch(self) -> None:
        """Hand over what the processes make, or what befalls them."""
        made: tuple[Tensor, Tensor] | Exception | None = None
        while not self.closed.is_set():
            try:
                made = made or next(self.feed)
            except Exception as error:
                made = error
            try:
                self.made.put(made, timeout=0.2)
            except queue.Full:
                continue
            if isinstance(made, Exception):
                return
            made = None

    def _put(self, made: tuple[Tensor, Tensor] | Exception) -> None:
        if isinstance(made, Exception):
            raise made
        self.pool.put(*made)

    def _take(self) -> None:
        """All crops that have been made by now, without waiting for more."""
        while not self.made.empty():
            self._put(self.made.get())

    def teach(self, learners: list[Learner], seconds: float, teacher: Tab | None = None) -> None:
        """Train them at once for so long, the rate on one cosine; leave name.safetensors of each."""
        for learner in learners:
            learner.begin(self.recipe, self.device)
        view = self._prepare(learners, teacher)
        cards = {learner.name: self._card(learner) for learner in learners}
        begun = time.time()
        until = begun + seconds
        saved, number, seen, came = begun, 0, 0, self.pool.made
        sums = {learner.name: torch.zeros(3, device=self.device) for learner in learners}
        told, told_at = 0, begun
        while (now := time.time()) < until or number == 0:
            done = min(1.0, (now - begun) / max(until - begun, 1e-3))
            share = min(1.0, done / _WARMUP) * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)
            self._take()
            new = self.pool.made - came >= seen  # none of them was shown before: as they came
            crops, points = varied(*self.pool.draw(self.batch), WFLW98, new or done > _PLAIN)
            told_maps = None if view is None else view(normalise(crops))
            for learner in learners:
                sums[learner.name] += learner.step(learner.lesson(crops, points, told_maps), share, number)
            number, seen, told = number + 1, seen + self.batch, told + 1
            if now - told_at > 10 or number == 20:
                self._tell(learners, sums, told, now - told_at, seen, self.pool.made - came, share, now - begun)
                told, told_at = 0, time.time()
            if now - saved > self.save_every:
                for learner in learners:
                    if not learner.sound():
                        self.say(
                            f"{learner.name}: not finite any more; back to the last sound weights, at half the rate"
                        )
                    learner.save(self.out / f"{learner.name}-{now - begun:04.0f}s.safetensors", cards[learner.name])
                saved = now
        self.say(
            f"{', '.join(cards)}: {seen:,} faces in {time.time() - begun:.0f} s, {self.pool.made - came:,} new ones"
        )
        for learner in learners:
            if not learner.sound():
                self.say(f"{learner.name}: not finite at the end; the last sound weights are kept")
            card = replace(cards[learner.name], figures={"faces_seen": float(seen)})
            path = self.out / f"{learner.name}.safetensors"
            learner.save(path, card)
            self.say(f"checkpoint: {path}")

    def _prepare(self, learners: list[Learner], teacher: Tab | None) -> Callable[[Tensor], Tensor] | None:
        """CUDA graphs on a card, of the largest batch that its memory holds. Returns what a teacher says to crops."""
        say = None if teacher is None else functools.partial(_said, teacher)
        if self.device.type != "cuda":
            return say
        begun = time.time()
        while True:
            try:
                crops, points = self.pool.draw(self.batch)
                view = None if say is None else Graph(say, (normalise(crops),))
                for learner in learners:
                    learner.capture(learner.lesson(crops, points, None if view is None else view.output))
                self.say(f"ready after {time.time() - begun:.0f} s")
                return view
            except RuntimeError as error:
                view = None
                for learner in learners:
                    learner.release()
                if not isinstance(error, torch.cuda.OutOfMemoryError):
                    self.say(f"CUDA graphs cannot be captured ({first_line(error)}); running without, slower")
                    return say
                if self.batch <= 32:
                    raise
            self.batch //= 2
            self.say(f"the card's memory is full: {self.batch} faces in a step")
            torch.cuda.empty_cache()

    def _tell(
        self, learners, sums, told: int, seconds: float, seen: int, came: int, share: float, since: float
    ) -> None:
        losses = []
        for learner in learners:
            land, edge, taught = (sums[learner.name] / max(told, 1)).tolist()
            losses.append(f"{learner.name} {land:.3f} {1e3 * edge:.2f} {taught:.3f}")
            sums[learner.name].zero_()
        pace = told * self.batch / max(seconds, 1e-6)
        memory = torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else 0
        self.say(
            f"{since:.0f} s, {seen:,} faces ({came:,} new), {pace:.0f}/s, rate {share:.3f}, {memory:.0f} GiB: "
            + "; ".join(losses)
        )

    def _card(self, learner: Learner) -> ModelCard:
        return card_of(learner.model.config, self.recipe, {name: len(faces) for name, faces in self.sets.items()})


def teach_all(room: Schoolroom, teacher: Learner, pupils: list[Learner], seconds: tuple[float, float]) -> None:
    """The teacher for so many seconds, then all pupils for so many."""
    torch.backends.cudnn.benchmark = True
    room.open()
    try:
        room.say("the first crops are there")
        room.teach([teacher], seconds[0])
        if pupils:
            wise = teacher.average.model()
            teacher.model.cpu()
            # The card's memory is the pupils'.
            del teacher.gradients, teacher.objective, teacher.optimiser, teacher.average, teacher.good
            room.teach(pupils, seconds[1], wise)
    finally:
        room.close()
