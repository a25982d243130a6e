"""Starting a network from another's weights."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import nn


def load_matching(model: nn.Module, path: Path) -> str:
    """Fill every weight that has the same name and shape in the checkpoint; say how many."""
    own, theirs = model.state_dict(), load_file(path)
    matching = {name: value for name, value in theirs.items() if name in own and own[name].shape == value.shape}
    model.load_state_dict(matching, strict=False)
    return f"{path}: {len(matching)} of {len(own)} weights taken over"
