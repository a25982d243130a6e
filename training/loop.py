"""The training loop: one step, run by Lightning Fabric on one process or many."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import lightning_fabric as lightning
import torch
from torch import Tensor, distributed

from tabrt.errors import TabrtError
from tabrt.network import Tab, TabConfig
from tabrt.network.checkpoint import load_checkpoint, load_imagenet_stem, save_checkpoint
from training.averaging import Average
from training.batches import Plan, loader
from training.checkpointing import card_of, faces_seen, identity, load_matching, load_state, save_state
from training.journal import Journal
from training.losses import Objective
from training.recipes import Phase, Recipe
from training.sets import FaceSet
from training.validation import validate
from training.weaknesses import Trial

_OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def train(
    config: TabConfig,
    recipe: Recipe,
    sets: dict[str, FaceSet],
    trials: list[Trial],
    out: Path,
    seed: int = 0,
    workers: int = 2,
    start: Path | None = None,
    imagenet: Path | None = None,
    validate_every: int | None = None,
    save_every: int = 200,
    fabric: lightning.Fabric | None = None,
    precision: str = "32-true",
    carry_on: bool = False,
) -> Path:
    """Train a network and leave in `out`: best.safetensors, last.safetensors, state.pt, log.csv, curves.png, samples/.

    Resumes from out/state.pt where there is one, with the numbers that an uninterrupted run would have had. start: a
    checkpoint whose weights fill whatever has the same name and shape. validate_every, save_every: steps; None: each
    epoch, or 500 steps where the phase counts samples; a phase is saved four times at least.
    precision: of the network's arithmetic, as `native` gives it.
    carry_on: go on at the place in the recipe's length that start's card names, for a run whose state was lost.
    Returns the best checkpoint by the mean error over the trials.
    """
    fabric = fabric or lightning.Fabric(accelerator="auto", devices=1)
    run = _Run(config, recipe, sets, trials, out, seed, workers, save_every, fabric, precision)
    try:
        run.begin(start, imagenet, carry_on)
        with run.journal.bar:
            for index, phase in enumerate(recipe.phases):
                if index >= run.phase:
                    run.train_phase(index, phase, validate_every)
    except KeyboardInterrupt:
        run.journal.say(f"stopped; the same command {run.saved or 'begins anew, for nothing was saved yet'}")
        raise
    return out / "best.safetensors"


class _Run:
    """A run and all that is saved of it."""

    def __init__(
        self,
        config: TabConfig,
        recipe: Recipe,
        sets: dict[str, FaceSet],
        trials: list[Trial],
        out: Path,
        seed: int,
        workers: int,
        save_every: int,
        fabric: lightning.Fabric,
        precision: str,
    ):
        self.half = precision == "bf16-mixed"
        self.recipe, self.sets, self.trials, self.out = recipe, sets, trials, out
        self.seed, self.workers, self.save_every, self.fabric = seed, workers, save_every, fabric
        self.sizes = {name: len(faces) for name, faces in sets.items()}
        self.card = card_of(config, recipe, self.sizes)
        self.identity = identity(config, recipe, seed, self.sizes)
        self.journal = Journal(out, fabric.is_global_zero)
        torch.manual_seed(seed)
        self.model = Tab(config)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.phase, self.step, self.best = 0, 0, math.inf
        self.resumed: dict | None = None
        self.origin: dict[str, Tensor] | None = None
        self.started = False  # from weights that were given
        self.saved = ""  # where the saved state goes on, in words

    def begin(self, start: Path | None, imagenet: Path | None, carry_on: bool = False) -> None:
        """Weights to start from, or the state to resume."""
        if self.recipe.kept and start is not None:
            origin = Tab(self.model.config)
            load_matching(origin, start)
            self.origin = origin.state_dict()
        self.resumed = load_state(self.out / "state.pt", self.identity)
        if self.resumed is not None:
            self.model.load_state_dict(self.resumed["model"])
            self.phase, self.step, self.best = (self.resumed[key] for key in ("phase", "step", "best"))
            self.journal.means, self.journal.rows = self.resumed["means"], self.resumed["rows"]
            self.journal.say(f"resuming phase {self.phase + 1} after step {self.step}")
            self.saved = self._here
            return
        if self.recipe.imagenet_stem:
            self.journal.say(load_imagenet_stem(self.model, imagenet))
        if start is not None:
            self.journal.say(load_matching(self.model, start))
            self.started = True
        if carry_on:
            self.step = self._place_of(start)
            self.journal.say(f"carrying on after step {self.step}")

    def _place_of(self, start: Path | None) -> int:
        """The step at which another run left its weights, so that the learning rate goes on from there."""
        if start is None or len(self.recipe.phases) > 1:
            raise TabrtError("--carry-on needs --start, and a recipe of one phase; leave it out")
        return faces_seen(start) // self.recipe.batch

    def train_phase(self, index: int, phase: Phase, validate_every: int | None) -> None:
        """One phase, from its best predecessor or from where it was left, to its end."""
        if index > self.phase:
            self.phase, self.step, self.best = index, 0, math.inf
            self.model.load_state_dict(load_checkpoint(self._best(index - 1))[0].state_dict())
        per_epoch = max(1, sum(self.sizes.values()) // self.recipe.batch)
        steps = phase_steps(phase, self.recipe.batch, per_epoch)
        every = validate_every or (per_epoch if phase.epochs else 500)
        save_every = min(self.save_every, max(1, steps // 4))  # a short phase is not lost as a whole
        objective, optimiser, average = self._prepare(phase)
        fabric, batch = self.fabric, self.recipe.batch
        shares = self.recipe.mixture or {name: float(size) for name, size in self.sizes.items()}
        plan = Plan(
            self.sizes, shares, batch, range(self.step, steps), self.seed + index, fabric.global_rank, fabric.world_size
        )
        self.journal.begin(index, self.step, steps)
        if self.started and index == self.step == 0:  # what the weights were worth that training starts from
            self._validate(phase, average, 0.0, chosen=False)
        for tensors in loader(self.sets, self.recipe.augmentation, plan, self.workers, self.card.crop_size):
            rate = learning_rate(phase, self.step, steps, per_epoch)
            losses = self._train_step(objective, optimiser, rate, fabric.to_device(tensors))
            average.update(self.step)
            self.step += 1
            self.journal.add(self.step, losses, rate, batch)
            validated = self.step % every == 0 or self.step == steps
            if validated:
                self._validate(phase, average, rate)
            if validated or self.step % save_every == 0:
                self._save(average, optimiser)

    def _prepare(self, phase: Phase):
        total = self._total if self.fabric.world_size > 1 else None
        objective = Objective(self.model, self.recipe, phase.part, total, self.half)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        kind = _OPTIMISERS[self.recipe.optimiser]
        optimiser = kind(parameters, lr=phase.learning_rate, weight_decay=self.recipe.weight_decay)
        if self.fabric.world_size > 1 and self.fabric.device.type == "cuda":
            objective = torch.nn.SyncBatchNorm.convert_sync_batchnorm(objective)  # torch has none for CPUs
        wrapped, optimiser = self.fabric.setup(objective, optimiser)
        average = Average(self.model, self.recipe.averaging, self.origin, self.recipe.kept)
        if self.resumed is not None:
            average.load(self.resumed["average"])
            optimiser.load_state_dict(self.resumed["optimiser"])
            self.resumed = None
        wrapped.train()
        return wrapped, optimiser, average

    def _total(self, values: Tensor) -> Tensor:
        return cast(Tensor, self.fabric.all_reduce(values, reduce_op="sum"))

    def _train_step(self, objective, optimiser, rate: float, tensors: tuple[Tensor, ...]) -> dict[str, Tensor]:
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss, landmarks, boundaries = objective(*tensors)
        self.fabric.backward(loss)
        # Measured after the processes have shared their gradients, so all of them stop together.
        limit = self.recipe.clip or math.inf
        norm = self.fabric.clip_gradients(objective, optimiser, max_norm=limit, error_if_nonfinite=False)
        if norm is None or not torch.isfinite(norm):
            raise TabrtError(
                f"the gradient is not finite at step {self.step}; lower the learning rate, or look at the labels"
            )
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return {"landmarks": landmarks, "boundaries": boundaries}

    def _validate(self, phase: Phase, average: Average, rate: float, chosen: bool = True) -> None:
        """A row of the log, and a checkpoint where it is the best so far. chosen: whether it may be that."""
        if self.fabric.is_global_zero:
            model = average.model()
            picture = self.out / "samples" / f"phase{self.phase + 1}-{self.step:06d}.jpg"
            told = validate(model, self.card, self.trials, phase.part, picture)
            self.journal.validated(self.step, self.recipe.batch, rate, told)
            if chosen and told.mean < self.best:
                self.best = told.mean
                figures = {f"validation_{told.what}": told.mean}
                if len(told.errors) > 1:
                    figures |= {f"validation_{name}": error for name, error in told.errors.items()}
                self._save_checkpoint(self._best(self.phase), model, figures)
        self.fabric.barrier()

    def _best(self, phase: int) -> Path:
        last = phase == len(self.recipe.phases) - 1
        return self.out / ("best.safetensors" if last else f"phase{phase + 1}.safetensors")

    @property
    def _here(self) -> str:
        return f"goes on with phase {self.phase + 1} after step {self.step}"

    def _save(self, average: Average, optimiser: torch.optim.Optimizer) -> None:
        if not self.fabric.is_global_zero:
            return
        seen = {"faces_seen": float(self.step * self.recipe.batch)}
        self._save_checkpoint(self.out / "last.safetensors", average.model(), seen)
        state = {
            "identity": self.identity,
            "phase": self.phase,
            "step": self.step,
            "best": self.best,
            "means": self.journal.means,
            "rows": self.journal.rows,
            "model": self.model.state_dict(),
            "average": average.state,
            "optimiser": optimiser.state_dict(),
        }
        save_state(self.out / "state.pt", state)
        self.saved = self._here

    def _save_checkpoint(self, path: Path, model: Tab, figures: dict[str, float]) -> None:
        save_checkpoint(path, model, dataclasses.replace(self.card, figures=figures))


def phase_steps(phase: Phase, batch: int, per_epoch: int) -> int:
    """How many steps a phase has. Raises TabrtError for none."""
    steps = (phase.samples or 0) // batch if phase.epochs is None else phase.epochs * per_epoch
    if steps < 1:
        raise TabrtError(f"{phase.samples or 0} samples are less than one batch of {batch}; ask for more")
    return steps


def learning_rate(phase: Phase, step: int, steps: int, steps_per_epoch: int) -> float:
    """The rate of a step: ×0.1 at the milestones, or a warm-up and one cosine."""
    if phase.milestones:
        return phase.learning_rate * 0.1 ** sum(step >= epoch * steps_per_epoch for epoch in phase.milestones)
    if step < phase.warmup:
        return phase.learning_rate * (step + 1) / phase.warmup
    done = (step - phase.warmup) / max(1, steps - phase.warmup)
    return (
        phase.learning_rate_end + (phase.learning_rate - phase.learning_rate_end) * (1 + math.cos(math.pi * done)) / 2
    )


def launch(devices: int, nodes: int, work: Callable[[lightning.Fabric], Path]) -> None:
    """Run `work` by Fabric on this many devices of this many machines, with gradients shared (DDP).

    Fabric's own mixed precision would round the labelled points to bf16 too, by up to a pixel: `Objective` sees to it.
    """
    strategy = "ddp" if devices * nodes > 1 else "auto"
    fabric = lightning.Fabric(devices=devices, num_nodes=nodes, strategy=strategy)
    with joined(fabric):
        best = work(fabric)
        fabric.print(f"best checkpoint: {best}")


@contextmanager
def joined(fabric: lightning.Fabric) -> Iterator[None]:
    """Start Fabric's processes, and let them part in order: gloo's threads abort a process that ends among them."""
    fabric.launch()
    try:
        yield
        fabric.barrier()
    finally:
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


def native(precision: str) -> str:
    """`auto` as what this machine computes natively: bf16 where it has it."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    able = torch.cpu.get_capabilities()
    return "bf16-mixed" if able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16") else "32-true"
