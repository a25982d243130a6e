"""Recipes as plain data: what is trained, on what, how long, and how."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from tabrt.errors import TabrtError
from training.augment import FIRM, HARD, MILD, PAPER, STRONG, Augmentation


@dataclass(frozen=True)
class Phase:
    """One stretch of training. `part`: all | scbe (the boundary estimator alone) | balt (the estimator frozen)."""

    part: str
    samples: int | None = None  # faces seen; or
    epochs: int | None = None  # passes over the training set
    learning_rate: float = 1e-4
    milestones: tuple[int, ...] = ()  # epochs at which the rate falls to a tenth; none: one cosine cycle
    warmup: int = 0  # steps
    learning_rate_end: float = 0.0  # of the cosine


@dataclass(frozen=True)
class Recipe:
    """How a network is trained."""

    name: str
    phases: tuple[Phase, ...]
    width: str  # of WIDTHS; empty: the network is that of --start
    augmentation: Augmentation
    loss: str  # mse: the paper's | cross-entropy: soft targets over the whole map
    batch: int = 16
    optimiser: str = "adam"
    weight_decay: float = 0.0
    boundary_weight: float = 1.0
    distance_weight: float = 0.0  # of the distance between a map's mean and its point, in cells
    averaging: float = 0.0  # decay of the weight average, per step
    imagenet_stem: bool = False
    mixture: dict[str, float] = field(default_factory=dict)  # share of each batch by set of `shared`; empty: by size
    clip: float = 0.0  # largest norm of the gradient; 0: any
    kept: float = 0.0  # share that the weights of --start have in those given out


# Paper §4.3: the estimator alone, then the transform on the frozen estimator; Adam 1e-4, ×0.1 at 80 and 120 of 140.
_PAPER_PHASE = Phase("scbe", epochs=140, learning_rate=1e-4, milestones=(80, 120))
RECIPES = {
    "paper": Recipe(
        name="paper",
        phases=(_PAPER_PHASE, replace(_PAPER_PHASE, part="balt")),
        width="full",
        augmentation=PAPER,
        loss="mse",
        imagenet_stem=True,
    ),
    # The recipe of the shipped weights. Nearly half of each batch is human-labelled: those labels are the best.
    "shipped": Recipe(
        name="shipped",
        phases=(Phase("all", samples=168_000, learning_rate=2e-3, warmup=200, learning_rate_end=2e-5),),
        width="lite",
        augmentation=STRONG,
        loss="cross-entropy",
        optimiser="adamw",
        weight_decay=0.01,
        boundary_weight=30.0,
        distance_weight=0.3,
        averaging=0.999,
        clip=5.0,
        mixture={"human": 0.38, "infants": 0.08, "allage": 0.20, "utkface": 0.10, "facemask": 0.12, "video": 0.12},
    ),
}
# What follows it, with --start and --labels: a second cycle on the labels that the first one bettered. The first ends
# with no more error on its training faces than on others, so this one is spoilt less, and leans on the human labels.
RECIPES["refine"] = replace(
    RECIPES["shipped"],
    name="refine",
    phases=(Phase("all", samples=100_000, learning_rate=1e-3, warmup=200, learning_rate_end=1e-5),),
    augmentation=MILD,
    distance_weight=1.0,
    mixture={"human": 0.50, "infants": 0.10, "allage": 0.14, "utkface": 0.05, "facemask": 0.11, "video": 0.10},
)
# What follows both, with --start: what portraits lack. Turned, dark, blurred, covered, upside down, and no face at all.
RECIPES["broad"] = replace(
    RECIPES["shipped"],
    name="broad",
    phases=(Phase("all", samples=64_000, learning_rate=8e-4, warmup=200, learning_rate_end=1e-5),),
    augmentation=HARD,
    distance_weight=1.0,
    mixture={
        "human": 0.28, "infants": 0.05, "allage": 0.06, "utkface": 0.03, "facemask": 0.06, "video": 0.05,
        "frontal": 0.06, "profiles": 0.13, "fgnet": 0.06, "wider": 0.05, "turned": 0.12, "empty": 0.03,
        "drawn": 0.02,
    },
)  # fmt: skip
# What follows that: back towards portraits and the labels of people, keeping what was learnt.
RECIPES["settle"] = replace(
    RECIPES["broad"],
    name="settle",
    phases=(Phase("all", samples=24_000, learning_rate=4e-4, warmup=100, learning_rate_end=5e-6),),
    augmentation=FIRM,
    mixture={
        "human": 0.39, "infants": 0.07, "allage": 0.06, "utkface": 0.02, "facemask": 0.05, "video": 0.04,
        "frontal": 0.04, "profiles": 0.11, "fgnet": 0.06, "wider": 0.03, "turned": 0.08, "empty": 0.03,
        "drawn": 0.02,
    },
)  # fmt: skip
# The same as broad for a wider network, which teaches the others. Grown from a narrow one by --start.
RECIPES["teacher"] = replace(
    RECIPES["broad"],
    name="teacher",
    phases=(Phase("all", samples=150_000, learning_rate=5e-4, warmup=300, learning_rate_end=1e-5),),
    width="base",
)


# A trained network goes on, with --start, on faces of one's own: slowly, so that it keeps what it knows.
RECIPES["adapt"] = replace(
    RECIPES["refine"],
    name="adapt",
    phases=(Phase("all", samples=3_200, learning_rate=1e-4, warmup=20, learning_rate_end=1e-6),),
    width="",
    averaging=0.98,
    kept=0.5,
    mixture={},
)


def recipe_named(name: str) -> Recipe:
    """Look a recipe up. Raises TabrtError for a name that is not one of RECIPES."""
    if name not in RECIPES:
        raise TabrtError(f"no recipe is called {name!r}; there are: {', '.join(RECIPES)}")
    return RECIPES[name]


def changed(
    recipe: Recipe, samples: int | None = None, epochs: int | None = None, batch: int | None = None,
    rate: float | None = None,
) -> Recipe:  # fmt: skip
    """A recipe with every phase of another length or learning rate; the milestones move with the length."""
    phases = recipe.phases
    if samples is not None and epochs is not None:
        raise TabrtError("a length is given twice; give --samples or --epochs")
    if samples is not None:
        if any(phase.milestones for phase in phases):
            raise TabrtError(f"the recipe {recipe.name} counts epochs; give --epochs instead of --samples")
        phases = tuple(replace(phase, samples=samples, epochs=None) for phase in phases)
    if epochs is not None:
        phases = tuple(_of_epochs(phase, epochs) for phase in phases)
    if rate is not None:
        phases = tuple(replace(phase, learning_rate=rate) for phase in phases)
    return replace(recipe, phases=phases, batch=batch or recipe.batch)


def with_shares(recipe: Recipe, shares: list[str]) -> Recipe:
    """A recipe with other shares of some of its sets in a batch, each given as NAME=SHARE. Raises TabrtError."""
    mixture = dict(recipe.mixture)
    for text in shares:
        name, _, share = text.partition("=")
        if name not in mixture:
            known = ", ".join(mixture) or "none, for it takes sets by their size"
            raise TabrtError(f"--share {text!r}: the recipe {recipe.name} has no set called {name!r}; it has {known}")
        if not re.fullmatch(r"0|0?\.\d+|1", share):
            raise TabrtError(f"--share {text!r}: expected NAME=SHARE with a share of 0…1, as {name}={mixture[name]}")
        mixture[name] = float(share)
    return replace(recipe, mixture=mixture)


def _of_epochs(phase: Phase, epochs: int) -> Phase:
    milestones = tuple(round(at * epochs / phase.epochs) for at in phase.milestones) if phase.epochs else ()
    return replace(phase, epochs=epochs, samples=None, milestones=milestones)
