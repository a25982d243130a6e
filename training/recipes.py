"""Recipes as plain data: what is trained, on what, how long, and how."""

from __future__ import annotations

from dataclasses import dataclass, field

from tabrt.errors import TabrtError
from training.augment import PAPER, STRONG, Augmentation


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
    width: str
    augmentation: Augmentation
    loss: str  # mse: the paper's | cross-entropy: soft targets over the whole map
    batch: int = 16
    optimiser: str = "adam"
    weight_decay: float = 0.0
    boundary_weight: float = 1.0
    distance_weight: float = 0.0  # of the distance between a map's mean and its point, in cells
    averaging: float = 0.0  # decay of the weight average, per step
    imagenet_stem: bool = False
    mixture: dict[str, float] = field(default_factory=dict)  # share of each batch by set; empty: by size
    drop_disagreement: float = 1.0  # leave out faces above this quantile of the labellers' disagreement


# Paper §4.3: the estimator alone, then the transform on the frozen estimator; Adam 1e-4, ×0.1 at 80 and 120 of 140.
_PAPER_PHASE = {"epochs": 140, "learning_rate": 1e-4, "milestones": (80, 120)}
RECIPES = {
    "paper": Recipe(
        name="paper",
        phases=(Phase("scbe", **_PAPER_PHASE), Phase("balt", **_PAPER_PHASE)),
        width="full",
        augmentation=PAPER,
        loss="mse",
        imagenet_stem=True,
    ),
    # The recipe of the shipped weights. A third of each batch is human-labelled: those labels are the best.
    "shipped": Recipe(
        name="shipped",
        phases=(Phase("all", samples=100_000, learning_rate=2e-3, warmup=200, learning_rate_end=2e-5),),
        width="lite",
        augmentation=STRONG,
        loss="cross-entropy",
        optimiser="adamw",
        weight_decay=0.01,
        boundary_weight=30.0,
        distance_weight=0.3,
        averaging=0.998,
        mixture={"human": 0.36, "allage": 0.26, "utkface": 0.12, "facemask": 0.14, "video": 0.12},
    ),
}


def recipe_named(name: str) -> Recipe:
    """Look a recipe up. Raises TabrtError for a name that is not one of RECIPES."""
    if name not in RECIPES:
        raise TabrtError(f"no recipe is called {name!r}; there are: {', '.join(RECIPES)}")
    return RECIPES[name]
