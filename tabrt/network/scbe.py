"""The self-calibrated boundary estimator (paper §3.1): a stem, then stacked hourglasses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tabrt.network.config import HOURGLASS_DEPTH, TabConfig


class Block(nn.Module):
    """Pre-activation block of three 3×3 convolutions whose outputs are concatenated and added to the input."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        half, quarter = channels_out // 2, channels_out // 4
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, half, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, quarter, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(quarter)
        self.conv3 = nn.Conv2d(quarter, quarter, 3, padding=1, bias=False)
        self.downsample = None
        if channels_in != channels_out:
            self.downsample = nn.Sequential(
                nn.BatchNorm2d(channels_in), nn.ReLU(), nn.Conv2d(channels_in, channels_out, 1, bias=False)
            )

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv1(functional.relu(self.bn1(x)))  # (B, C/2, H, W)
        second = self.conv2(functional.relu(self.bn2(first)))  # (B, C/4, H, W)
        third = self.conv3(functional.relu(self.bn3(second)))  # (B, C/4, H, W)
        skip = x if self.downsample is None else self.downsample(x)
        return torch.cat([first, second, third], dim=1) + skip


class Hourglass(nn.Module):
    """Depth-4 hourglass; returns its output at every level, coarse to fine: 8², 16², 32², 64² cells."""

    def __init__(self, channels: int, skips: int = HOURGLASS_DEPTH):
        super().__init__()
        # Index 0 is the coarsest level.
        self.skip = nn.ModuleList(
            Block(channels, channels) if level >= HOURGLASS_DEPTH - skips else nn.Identity()
            for level in range(HOURGLASS_DEPTH)
        )
        self.before, self.after = (
            nn.ModuleList(Block(channels, channels) for _ in range(HOURGLASS_DEPTH)) for _ in range(2)
        )
        self.bottom = Block(channels, channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        skips = []
        for level in reversed(range(HOURGLASS_DEPTH)):
            skips.append(self.skip[level](x))
            x = self.before[level](functional.avg_pool2d(x, 2))
        x = self.bottom(x)
        outputs = []
        for level in range(HOURGLASS_DEPTH):
            x = self.after[level](x)
            x = skips.pop() + functional.interpolate(x, scale_factor=2.0, mode="nearest")
            outputs.append(x)
        return outputs


class Stack(nn.Module):
    """An hourglass, its feature f, and its boundary heatmaps."""

    def __init__(self, channels: int, boundaries: int, top: bool = True, skips: int = HOURGLASS_DEPTH):
        super().__init__()
        self.hourglass = Hourglass(channels, skips)
        self.top = Block(channels, channels) if top else nn.Identity()
        self.last = nn.Conv2d(channels, channels, 1)
        self.bn = nn.BatchNorm2d(channels)
        self.heatmaps = nn.Conv2d(channels, boundaries, 1)

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        levels = self.hourglass(x)
        feature = functional.relu(self.bn(self.last(self.top(levels[-1]))))  # (B, C, 64, 64)
        return levels, feature, self.heatmaps(feature)  # (B, 16, 64, 64)


class Calibration(nn.Module):
    """What one stack hands to the next: its input, plus its feature and its heatmaps through 1×1 convolutions."""

    def __init__(self, channels: int, boundaries: int):
        super().__init__()
        self.feature = nn.Conv2d(channels, channels, 1)
        self.heatmaps = nn.Conv2d(boundaries, channels, 1)

    def forward(self, previous: Tensor, feature: Tensor, heatmaps: Tensor) -> Tensor:
        return previous + self.feature(feature) + self.heatmaps(heatmaps)


class Scbe(nn.Module):
    """Boundary heatmaps of every stack, and the last stack's features."""

    def __init__(self, config: TabConfig):
        super().__init__()
        self.stem = _stem(config)
        self.stacks = nn.ModuleList(
            Stack(config.channels, config.boundary_channels, config.top, config.skips)
            for _ in range(config.hourglasses)
        )
        self.calibrations = nn.ModuleList(
            Calibration(config.channels, config.boundary_channels) for _ in range(config.hourglasses - 1)
        )

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """x (B, 3, 256, 256) normalised. Returns boundary maps of each stack [(B, 16, 64, 64)], the last feature
        f (B, C, 64, 64), and the last hourglass' features [8², 16², 32², 64²]."""
        x = self.stem(x)  # (B, C, 64, 64)
        first, *others = self.stacks
        levels, feature, heatmaps = first(x)
        maps = [heatmaps]
        for calibration, stack in zip(self.calibrations, others, strict=True):
            x = calibration(x, feature, heatmaps)
            levels, feature, heatmaps = stack(x)
            maps.append(heatmaps)
        return maps, feature, levels


def vgg_stem(channels: int) -> nn.Sequential:
    """VGG16-BN's convolutions 1_1 … 3_3, numbered as torchvision's `vgg16_bn().features[:23]`."""
    layers: list[nn.Module] = []
    last = 3
    for stage, convolutions in ((channels // 4, 2), (channels // 2, 2), (channels, 3)):
        if layers:
            layers.append(nn.MaxPool2d(2))
        for _ in range(convolutions):
            layers += [nn.Conv2d(last, stage, 3, padding=1), nn.BatchNorm2d(stage), nn.ReLU()]
            last = stage
    return nn.Sequential(*layers)


def fan_stem(channels: int) -> nn.Sequential:
    """The hourglass network's own stem (Table 8, baseline)."""
    quarter, half = channels // 4, channels // 2
    return nn.Sequential(
        nn.Conv2d(3, quarter, 7, stride=2, padding=3),
        nn.BatchNorm2d(quarter),
        nn.ReLU(),
        Block(quarter, half),
        nn.MaxPool2d(2),
        Block(half, half),
        Block(half, channels),
    )


class Bottleneck(nn.Module):
    """ResNet's bottleneck: 1×1, 3×3, 1×1, with a projected shortcut where the widths differ."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        quarter = channels_out // 4
        self.body = nn.Sequential(
            *_conv_bn_relu(channels_in, quarter, 1),
            *_conv_bn_relu(quarter, quarter, 3),
            nn.Conv2d(quarter, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.shortcut = None
        if channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + (x if self.shortcut is None else self.shortcut(x)))


def resnet_stem(channels: int) -> nn.Sequential:
    """ResNet-50's layers up to the end of its first stage (Table 8)."""
    quarter = channels // 4
    return nn.Sequential(
        *_conv_bn_relu(3, quarter, 7, stride=2),
        nn.MaxPool2d(3, stride=2, padding=1),
        Bottleneck(quarter, channels),
        Bottleneck(channels, channels),
        Bottleneck(channels, channels),
    )


def slim_stem(channels: int, first: int) -> nn.Sequential:
    """Three convolutions, two of them strided: what a CPU can afford."""
    return nn.Sequential(*short_stem(channels, first), *_conv_bn_relu(channels, channels, 3))


def short_stem(channels: int, first: int) -> nn.Sequential:
    """The two strided convolutions of `slim` alone, the first with so many channels."""
    return nn.Sequential(*_conv_bn_relu(3, first, 3, stride=2), *_conv_bn_relu(first, channels, 3, stride=2))


def _conv_bn_relu(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(channels_out), nn.ReLU()]


STEMS = {"vgg": vgg_stem, "fan": fan_stem, "resnet": resnet_stem}
OUR_STEMS = {"slim": slim_stem, "short": short_stem}


def _stem(config: TabConfig) -> nn.Sequential:
    if config.stem in OUR_STEMS:
        return OUR_STEMS[config.stem](config.channels, config.first_channels)
    return STEMS[config.stem](config.channels)
