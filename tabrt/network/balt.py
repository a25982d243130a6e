"""The boundary-aware landmark transform (paper §3.2): a U-Net over the boundary heatmaps, fed by the estimator."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tabrt.network.config import HOURGLASS_DEPTH, TabConfig


def _bn(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, momentum=0.01)


def double_conv(channels_in: int, channels_out: int) -> nn.Sequential:
    """DC of equation 3: twice 3×3, BN, ReLU."""
    layers: list[nn.Module] = []
    for source in (channels_in, channels_out):
        layers += [nn.Conv2d(source, channels_out, 3, padding=1, bias=False), _bn(channels_out), nn.ReLU()]
    return nn.Sequential(*layers)


class Transition(nn.Sequential):
    """T of equations 3 and 4: brings a feature to a level's width, and down `steps` levels."""

    def __init__(self, channels_in: int, channels_out: int, steps: int):
        layers: list[nn.Module] = []
        if steps == 0:
            layers += [nn.Conv2d(channels_in, channels_out, 1, bias=False), _bn(channels_out), nn.ReLU()]
        for step in range(steps):
            source = channels_out if step else channels_in
            layers += [
                nn.Conv2d(source, channels_out, 3, stride=2, padding=1, bias=False),
                _bn(channels_out),
                nn.ReLU(),
            ]
        super().__init__(*layers)


class Balt(nn.Module):
    """From boundary heatmaps (B, 16, 64, 64) and boundary-aware features to landmark heatmaps (B, L, 64, 64)."""

    def __init__(self, config: TabConfig):
        super().__init__()
        width = config.balt_channels
        self.single_scale = config.features == "single"
        self.widths = [width, 2 * width, 4 * width, 8 * width]  # at 64², 32², 16², 8²
        self.encoders = nn.ModuleList()
        self.transitions = nn.ModuleList()  # of each level: from its own scale, then from the finer ones
        source = config.boundary_channels
        for level, channels in enumerate(self.widths):
            self.encoders.append(double_conv(source, channels))
            fused = min(config.fusion, level + 1)
            self.transitions.append(nn.ModuleList(Transition(config.channels, channels, i) for i in range(fused)))
            source = channels
        self.bottom = double_conv(8 * width, 8 * width)
        self.decoders = nn.ModuleList(
            [
                double_conv(16 * width, 4 * width),
                double_conv(8 * width, 2 * width),
                double_conv(4 * width, width),
                double_conv(2 * width, 2 * width),
            ]
        )
        self.out = nn.Conv2d(2 * width, config.points, 1)

    def forward(self, boundaries: Tensor, feature: Tensor, levels: list[Tensor]) -> Tensor:
        """boundaries (B, 16, 64, 64), feature f (B, C, 64, 64), levels of the hourglass, coarse to fine."""
        scales = self._scales(feature, levels)
        x, encoded = boundaries, []
        for level, (encoder, transitions) in enumerate(zip(self.encoders, self.transitions, strict=True)):
            x = encoder(functional.max_pool2d(x, 2) if level else x)
            for steps, transition in enumerate(cast(nn.ModuleList, transitions)):
                x = x + transition(scales[level - steps])
            encoded.append(x)
        x = self.bottom(functional.max_pool2d(x, 2))  # (B, 8W, 4, 4)
        for decoder in self.decoders:
            up = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
            x = decoder(torch.cat([encoded.pop(), up], dim=1))
        return self.out(x)

    def _scales(self, feature: Tensor, levels: list[Tensor]) -> list[Tensor]:
        """The features to fuse at 64², 32², 16², 8²."""
        if not self.single_scale:
            return levels[::-1]
        scales = [feature]
        for _ in range(HOURGLASS_DEPTH - 1):
            scales.append(functional.max_pool2d(scales[-1], 2))
        return scales
