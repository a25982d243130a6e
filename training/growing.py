"""A wider network that starts as what a narrower one computes (Chen, Goodfellow, Shlens: Net2Net)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tabrt.network import Tab, TabConfig

_SPREAD = 0.5  # how unevenly two copies of a channel share a weight: with even shares they would stay alike for ever


def widened(narrow: Tab, config: TabConfig, seed: int = 0) -> dict[str, Tensor]:
    """The weights of a network of `config`, twice as wide as `narrow`, that gives the same maps.

    Every channel inside becomes two copies of itself; what reads them shares its weight between them, at random.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        wide = Tab(config)
    shapes = {name: tensor.shape for name, tensor in wide.state_dict().items()}
    kinds = dict(narrow.named_modules())
    weights = {}
    for name, value in narrow.state_dict().items():
        kind = kinds[name.rpartition(".")[0]]
        inwards = isinstance(kind, nn.Conv2d) and value.ndim == 4 and value.shape[1] != shapes[name][1]
        if value.ndim and value.shape[0] != shapes[name][0]:
            value = value.repeat_interleave(2, dim=0)
        if inwards:
            share = 0.5 + _SPREAD * torch.randn(value.shape, generator=generator)
            value = torch.stack([share * value, (1 - share) * value], dim=2).flatten(1, 2)
        weights[name] = value
    return weights


def twice_as_wide(narrow: TabConfig, wide: TabConfig) -> bool:
    """Whether a network can be grown so: the same in all but its channels, which are doubled."""
    same = ("topology", "stem", "features", "fusion", "top", "skips")
    doubled = ("channels", "balt_channels", "first_channels")
    return all(getattr(narrow, name) == getattr(wide, name) for name in same) and all(
        2 * getattr(narrow, name) == getattr(wide, name) for name in doubled
    )
