"""Fewer channels in a stem's first convolution: those from which the others can be told stay (Luo and others: ThiNet).

What that convolution says of a picture repeats itself: of 32 channels 16 tell 99.8 % of what the next convolution is
given, and at the finest level of all their work is dear.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from tabrt.errors import TabrtError
from tabrt.network import Tab
from tabrt.network.scbe import OUR_STEMS
from tabrt.network.tab import normalise

FIRST, BN, SECOND, NEXT_BN = 0, 1, 3, 4  # places in a stem
EVERY = 37  # one of so many cells of the feature is looked at


def thinned(model: Tab, crops: Iterable[Tensor], channels: int) -> tuple[Tab, float]:
    """The network with so many channels in its stem's first convolution, and the share of variance that it lost.

    crops: batches (B, S, S, 3) uint8 RGB. The next convolution's kernels take over what those that go would have said,
    by least squares. Raises TabrtError for a stem of another kind, or one that is as narrow.
    """
    config = model.config
    if config.stem not in OUR_STEMS:
        raise TabrtError(f"the stem is {config.stem}; only slim and short ones can be made thinner")
    stem = model.eval().scbe.stem
    before = len(stem.state_dict()[f"{FIRST}.weight"])
    if not 1 <= channels < before:
        raise TabrtError(f"the stem has {before} channels; --stem-channels must be 1…{before - 1}")
    said = _said(stem, crops)
    kept, left = _choice(said, _weight(stem.state_dict()[f"{SECOND}.weight"]), channels)
    known = torch.cat([said[kept], torch.ones_like(said[:1])])
    told = torch.linalg.lstsq(known.T, said.T).solution.T  # (all, kept + 1): each channel from those kept, and 1
    thin = Tab(replace(config, stem_channels=channels))
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("scbe.stem.")}
    thin.load_state_dict(weights | _stem_weights(stem, kept, told))
    return thin.eval(), left


@torch.no_grad()
def _said(stem: nn.Sequential, crops: Iterable[Tensor]) -> Tensor:
    """What the first convolution says: (channels, cells)."""
    first = nn.Sequential(*list(stem)[:SECOND])
    parts = [first(normalise(batch)).transpose(0, 1).flatten(1)[:, ::EVERY] for batch in crops]
    return torch.cat(parts, dim=1).double()


def _weight(kernels: Tensor) -> Tensor:
    """How much a convolution heeds each channel that it is given."""
    return kernels.double().pow(2).sum(dim=(0, 2, 3)).sqrt()


def _choice(said: Tensor, weight: Tensor, count: int) -> tuple[list[int], float]:
    """The channels that tell most of all, one after another, and the share of variance that they leave untold."""
    centred = (said - said.mean(dim=1, keepdim=True)) * weight[:, None]
    whole = left = centred @ centred.T / centred.shape[1]
    kept: list[int] = []
    for _ in range(count):
        gain = left.pow(2).sum(dim=0) / left.diagonal().clamp_min(1e-12)
        gain[kept] = -1
        best = int(gain.argmax())
        kept.append(best)
        left = left - torch.outer(left[:, best], left[best]) / left[best, best].clamp_min(1e-12)
    return sorted(kept), float(left.trace() / whole.trace())


def _stem_weights(stem: nn.Sequential, kept: list[int], told: Tensor) -> dict[str, Tensor]:
    weights = {f"scbe.stem.{name}": value.clone() for name, value in stem.state_dict().items()}
    for place in (FIRST, BN):
        for name, value in stem[place].state_dict().items():
            weights[f"scbe.stem.{place}.{name}"] = value[kept] if value.ndim else value
    kernels = weights[f"scbe.stem.{SECOND}.weight"].double()
    weights[f"scbe.stem.{SECOND}.weight"] = torch.einsum("oikl,ij->ojkl", kernels, told[:, :-1]).float()
    constant = torch.einsum("oikl,i->o", kernels, told[:, -1]).float()
    weights[f"scbe.stem.{NEXT_BN}.running_mean"] -= constant
    return weights
