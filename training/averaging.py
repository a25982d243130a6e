"""An exponential average of a network's weights: steadier than the last step's, and what gets shipped."""

from __future__ import annotations

import torch
from torch import Tensor

from tabrt.network import Tab


class Average:
    """The running average of a model's weights and statistics (batch normalisation). decay 0: those of the last step.

    origin, kept: the weights that training started from, and their share of the network given out. A network between
    the two keeps more of what it knew than it gives up of what it has learnt (Wortsman and others: Robust fine-tuning).
    """

    def __init__(self, model: Tab, decay: float, origin: dict[str, Tensor] | None = None, kept: float = 0.0):
        self.decay, self.origin, self.kept = decay, origin, kept
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.config = model.config
        new = {name: value.detach() for name, value in model.state_dict().items()}  # training changes them in place
        floats = [name for name, value in new.items() if value.is_floating_point()]
        self._kept, self._new = [self.state[name] for name in floats], [new[name] for name in floats]
        self._counts = [(self.state[name], value) for name, value in new.items() if not value.is_floating_point()]

    def update(self, step: int) -> None:
        """Take in the weights after a step. The first steps count more, so that the start is forgotten soon."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._kept, self._new, 1 - decay)
        for kept, value in self._counts:
            kept.copy_(value)

    def load(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            self.state[name].copy_(value)

    def model(self) -> Tab:
        """A network of the average, in eval mode."""
        model = Tab(self.config).to(next(iter(self.state.values())).device)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        model.load_state_dict(self.state)
        if self.origin is not None:
            lean(model, self.origin, self.kept)
        return model.eval()


def lean(model: Tab, other: dict[str, Tensor], share: float) -> None:
    """Move a network's weights and statistics by a share of the way to another's of the same shape."""
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.lerp_(other[name].to(value), share)
