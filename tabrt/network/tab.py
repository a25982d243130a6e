"""TAB, end to end: pixels to boundary and landmark heatmaps."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tabrt.network.balt import Balt
from tabrt.network.config import TabConfig
from tabrt.network.scbe import Scbe

IMAGE_MEAN = (0.485, 0.456, 0.406)  # ImageNet, RGB in 0…1
IMAGE_STD = (0.229, 0.224, 0.225)


class TabOutput(NamedTuple):
    """Raw maps: no activation on either."""

    landmarks: Tensor  # (B, L, 64, 64)
    boundaries: list[Tensor]  # of each stack, (B, 16, 64, 64)


class Tab(nn.Module):
    """The whole network. Input: crops (B, 3, 256, 256), RGB, normalised by `normalise`."""

    def __init__(self, config: TabConfig):
        super().__init__()
        self.config = config
        self.scbe = Scbe(config)
        self.balt = Balt(config)
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and not name.startswith("scbe.stem"):
                nn.init.normal_(module.weight, std=0.001)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> TabOutput:
        boundaries, feature, levels = self.scbe(x)
        return TabOutput(self.balt(boundaries[-1], feature, levels), boundaries)


def normalise(crops: Tensor) -> Tensor:
    """Crops (B, 256, 256, 3), RGB 0…255 of any type, to (B, 3, 256, 256) float32, channels last, as the network expects
    them."""
    mean, std = _scale(crops.device)
    return ((crops.float() - mean) / std).permute(0, 3, 1, 2)


@lru_cache
def _scale(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation in 0…255: brought to a card each time, it would be waited for each time."""
    return torch.tensor(IMAGE_MEAN, device=device) * 255, torch.tensor(IMAGE_STD, device=device) * 255
