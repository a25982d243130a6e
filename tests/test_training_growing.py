"""A wider network grown from a narrower one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from tabrt.card import ModelCard
from tabrt.errors import TabrtError
from tabrt.network import Tab, TabConfig
from tabrt.network.checkpoint import load_checkpoint, save_checkpoint
from training.checkpointing import load_matching, mix
from training.growing import twice_as_wide, widened

NARROW = TabConfig(hourglasses=1, stem="slim", channels=8, balt_channels=2)
WIDE = dataclasses.replace(NARROW, channels=16, balt_channels=4)


def lively(config: TabConfig) -> Tab:
    """A network whose every weight and statistic matters: as it starts, its maps are almost nothing."""
    torch.manual_seed(0)
    model = Tab(config)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


@pytest.mark.parametrize("hourglasses", [1, 2])
def test_a_widened_network_gives_the_same_maps(hourglasses):
    narrow = lively(dataclasses.replace(NARROW, hourglasses=hourglasses))
    wide = Tab(dataclasses.replace(WIDE, hourglasses=hourglasses))
    wide.load_state_dict(widened(narrow, wide.config))
    x = torch.randn(2, 3, 256, 256)
    with torch.no_grad():
        before, after = narrow(x), wide.eval()(x)
    scale = float(before.landmarks.std())
    assert scale > 1e-3
    torch.testing.assert_close(after.landmarks, before.landmarks, atol=2e-3 * scale, rtol=0)
    for ours, theirs in zip(after.boundaries, before.boundaries, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-3 * float(theirs.std()), rtol=0)


def test_the_two_copies_of_a_channel_learn_apart():
    wide = Tab(WIDE)
    wide.load_state_dict(widened(lively(NARROW), WIDE))
    wide.train()(torch.randn(2, 3, 256, 256)).landmarks.square().sum().backward()
    gradient = wide.scbe.stacks[0].last.weight.grad
    assert not torch.allclose(gradient[:, ::2], gradient[:, 1::2])


def test_a_network_grows_in_width_and_in_hourglasses_at_once(tmp_path):
    narrow = lively(NARROW)
    save_checkpoint(tmp_path / "narrow.safetensors", narrow, ModelCard(name="narrow", hourglasses=1))
    grown = Tab(dataclasses.replace(WIDE, hourglasses=2))
    load_matching(grown, tmp_path / "narrow.safetensors")
    x = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        before, after = narrow(x).landmarks, grown.eval()(x).landmarks
    torch.testing.assert_close(after, before, atol=2e-3 * float(before.std()), rtol=0)


def test_only_the_same_network_twice_as_wide_is_grown():
    assert twice_as_wide(NARROW, WIDE) and not twice_as_wide(WIDE, NARROW)
    assert not twice_as_wide(NARROW, dataclasses.replace(WIDE, fusion=1))
    assert twice_as_wide(TabConfig.of_width("lite"), TabConfig.of_width("base"))


def test_two_networks_are_mixed_weight_by_weight(tmp_path: Path):
    paths = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        paths.append(tmp_path / f"{seed}.safetensors")
        save_checkpoint(paths[-1], Tab(NARROW), ModelCard(name="tiny", figures={"validation_nme": 0.1}))
    mix(*paths, 0.25, tmp_path / "mixed.safetensors")
    (new, _), (old, _), (mixed, card) = (load_checkpoint(path) for path in (*paths, tmp_path / "mixed.safetensors"))
    for name, value in mixed.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * new.state_dict()[name] + 0.25 * old.state_dict()[name])
    assert card.name == "tiny" and not card.figures  # those were of another network


def test_networks_of_two_shapes_are_not_mixed(tmp_path: Path):
    for name, config in (("one", NARROW), ("two", dataclasses.replace(NARROW, hourglasses=2))):
        card = ModelCard(name=name, hourglasses=config.hourglasses)
        save_checkpoint(tmp_path / f"{name}.safetensors", Tab(config), card)
    with pytest.raises(TabrtError, match="is another network than"):
        mix(tmp_path / "one.safetensors", tmp_path / "two.safetensors", 0.5, tmp_path / "out.safetensors")
