"""The network as it is shipped: pixels in, the last maps out."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tabrt.card import MAX_BATCH
from tabrt.network.tab import IMAGE_MEAN, IMAGE_STD, Tab


class Deployed(nn.Module):
    """A network with its normalisation: crops uint8 (N, 256, 256, 3) RGB in; landmark and last boundary maps out."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: Tab):
        super().__init__()
        self.network = network
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        # Float first: TensorRT takes uint8 only straight into a cast. Then planes: per-channel sums are slow in NHWC.
        planes = crops.float().permute(0, 3, 1, 2)  # (N, 3, 256, 256)
        landmarks, boundaries = self.network(planes * self.scale + self.shift)
        return landmarks, boundaries[-1]


def torch_maps(network: Tab, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Landmark and boundary maps in torch float32 on the CPU: what every engine is compared with."""
    deployed = Deployed(network).eval()
    with torch.inference_mode():
        parts = [deployed(torch.from_numpy(crops[i : i + MAX_BATCH])) for i in range(0, len(crops), MAX_BATCH)]
    landmarks, boundaries = (torch.cat(maps).numpy() for maps in zip(*parts, strict=True))
    return landmarks, boundaries
