"""Networks and crops that the tests of engines, checkpoints and export share."""

from __future__ import annotations

import functools
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import nn

from tabrt.card import ModelCard
from tabrt.engines.engine import MODEL_FOLDER
from tabrt.geometry import CROP_SIZE, Crop
from tabrt.network import Tab, TabConfig
from tabrt.network.checkpoint import save_checkpoint
from tabrt.network.tab import normalise

FILM = Path(__file__).parents[1] / "tabrt" / "demo" / "pexels_face.mp4"


@functools.cache
def face_crops(count: int = 8, size: int = CROP_SIZE) -> np.ndarray:
    """Crops uint8 (count, size, size, 3) RGB around the face in the first frames of the demo film."""
    with av.open(str(FILM)) as film:
        frames = [
            frame.to_ndarray(format="bgr24") for _, frame in zip(range(count), film.decode(video=0), strict=False)
        ]
    crops = [Crop((415.0 + i, 190.0), 300.0 + 4 * i, 0.02 * i, size=size) for i in range(len(frames))]
    return np.stack([crop.cut(frame) for crop, frame in zip(crops, frames, strict=True)])


@functools.cache
def random_network(hourglasses: int = 1, topology: str = "wflw98", stem: str = "slim") -> Tab:
    """A lite network of all blocks with random weights, whose batch norms know what they get on faces."""
    torch.manual_seed(0)
    blocks = {"top": True, "skips": 4, "stem_channels": 0}
    network = Tab(TabConfig.of_width("lite", hourglasses=hourglasses, topology=topology, stem=stem, **blocks))
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(normalise(torch.from_numpy(face_crops(2))))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return network.eval()


def random_checkpoint(folder: Path, hourglasses: int = 1, **changes) -> Path:
    """A checkpoint of `random_network`; changes are fields of its card."""
    path = folder / f"random{hourglasses}.safetensors"
    card = ModelCard(**{"name": "random", "hourglasses": hourglasses, "licence": "none", **changes})
    save_checkpoint(path, random_network(hourglasses, card.topology), card)
    return path


def shipped_checkpoint(name: str = "tab1-lite") -> Path:
    """The checkpoint of a shipped model; skips the test in a checkout without it."""
    path = MODEL_FOLDER / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in this checkout")
    return path
