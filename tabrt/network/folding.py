"""A network whose batch norms are slopes and offsets, folded in float32.

Their variances reach two thirds of what float16 holds: cast before the slope is computed, a larger one would be
infinite and silence its channel.
"""

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn
from torch.nn.utils import fusion

from tabrt.network.scbe import Stack
from tabrt.network.tab import Tab


def folded(network: Tab) -> Tab:
    """A copy that computes the same: batch norms right after a convolution lie in it, the others are slope and offset.

    It is for inference, and its weights are no checkpoint's any more.
    """
    made = copy.deepcopy(network).eval()
    for module in made.modules():
        if isinstance(module, nn.Sequential):
            _fold_sequence(module)
        elif isinstance(module, Stack):
            _fold_pair(module, "last", "bn")
    for module in list(made.modules()):
        if isinstance(module, nn.BatchNorm2d):
            _as_line(module)
    return made


def _fold_sequence(sequence: nn.Sequential) -> None:
    names = list(sequence._modules)
    for first, second in itertools.pairwise(names):
        _fold_pair(sequence, first, second)


def _fold_pair(parent: nn.Module, first: str, second: str) -> None:
    """Fold the batch norm `second` into the convolution `first`, and leave nothing in its place."""
    conv, norm = parent._modules[first], parent._modules[second]
    if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
        parent._modules[first] = fusion.fuse_conv_bn_eval(conv, norm)
        parent._modules[second] = nn.Identity()


@torch.no_grad()
def _as_line(norm: nn.BatchNorm2d) -> None:
    """Mean 0 and variance 1: weight and bias are slope and offset, as they stand."""
    assert norm.running_mean is not None and norm.running_var is not None
    slope = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    norm.bias.copy_(norm.bias - norm.running_mean * slope)
    norm.weight.copy_(slope)
    norm.running_mean.zero_()
    norm.running_var.fill_(1.0)
    norm.eps = 0.0
