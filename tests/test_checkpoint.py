"""Checkpoints: tabrt's own, the authors', and files that are neither."""

from __future__ import annotations

import json
import os
import pickle
import stat
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import full_disk
from small_network import random_checkpoint, random_network
from torch import Tensor
from torch.nn import functional

from tabrt.card import ModelCard
from tabrt.errors import TabrtError
from tabrt.network import Tab, TabConfig, checkpoint
from tabrt.network.checkpoint import CARD_KEY, CONFIG_KEY, load_checkpoint, load_imagenet_stem, save_checkpoint

LAYOUT = Path(__file__).parents[2] / "shared" / "reference" / "official_checkpoint_layout.json"
CARD = ModelCard(name="random", figures={"nme": 0.04})


def _contents(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safetensors.safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata()  # noqa: SIM118


def _refused(path: Path, problem: str) -> None:
    with pytest.raises(TabrtError, match=problem) as raised:
        load_checkpoint(path)
    assert "\n" not in str(raised.value)


# tabrt's own


def test_what_is_saved_comes_back(tmp_path: Path):
    network = random_network().to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path / "new" / "a.safetensors", network, CARD, {"recipe": "none"})
    loaded, card = load_checkpoint(tmp_path / "new" / "a.safetensors")
    assert card == CARD
    assert loaded.config == network.config
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert _contents(tmp_path / "new" / "a.safetensors")[1]["recipe"] == "none"


def test_a_checkpoint_without_a_card_gets_a_plain_one(tmp_path: Path):
    tensors, metadata = _contents(random_checkpoint(tmp_path))
    path = tmp_path / "step500.safetensors"
    safetensors.torch.save_file(tensors, path, {CONFIG_KEY: metadata[CONFIG_KEY]})
    card = load_checkpoint(path)[1]
    assert (card.name, card.hourglasses, card.topology) == ("step500", 1, "wflw98")


def test_a_failed_write_leaves_the_last_good_checkpoint(tmp_path: Path):
    path = random_checkpoint(tmp_path)
    before = path.read_bytes()
    with full_disk(len(before) // 2), pytest.raises(TabrtError, match="cannot write"):
        save_checkpoint(path, random_network(), CARD)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_a_checkpoint_is_as_readable_as_other_files(tmp_path: Path):
    (tmp_path / "other").write_text("")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "other", random_checkpoint(tmp_path))}
    assert len(modes) == 1


def test_damaged_files(tmp_path: Path):
    whole = random_checkpoint(tmp_path).read_bytes()
    path = tmp_path / "bad.safetensors"
    for data in (b"", b"<html>", whole[:100], whole[: len(whole) // 2], (2**62).to_bytes(8, "little") + whole[8:]):
        path.write_bytes(data)
        _refused(path, "truncated or no safetensors")
    _refused(tmp_path / "missing.safetensors", "there is no checkpoint")
    _refused(tmp_path, "there is no checkpoint")
    (tmp_path / "a.txt").write_bytes(whole)
    _refused(tmp_path / "a.txt", "must end in")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda tensors: tensors.pop("balt.out.bias"), "missing: balt.out.bias"),
        (lambda tensors: tensors.update(other=torch.zeros(1)), "unexpected: other"),
        (lambda tensors: tensors.update({"balt.out.bias": torch.zeros(68)}), r"balt.out.bias \(68,\) for \(98,\)"),
        (lambda tensors: tensors.update({"balt.out.bias": torch.full((98,), np.nan)}), "not finite"),
        (lambda tensors: tensors.update({"balt.out.bias": torch.zeros(98, dtype=torch.int32)}), "int32"),
    ],
)
def test_wrong_weights_are_named(tmp_path: Path, change, problem: str):
    tensors, metadata = _contents(random_checkpoint(tmp_path))
    change(tensors)
    path = tmp_path / "bad.safetensors"
    safetensors.torch.save_file(tensors, path, metadata)
    _refused(path, problem)


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({}, "no 'tabrt.config'"),
        ({CONFIG_KEY: "{"}, "not JSON"),
        ({CONFIG_KEY: "[" * 50_000}, "not JSON"),
        ({CONFIG_KEY: "{" * 70_000}, "damaged"),
        ({CONFIG_KEY: "[]"}, "must have the fields"),
        ({CONFIG_KEY: json.dumps({**TabConfig().to_dict(), "channels": 10**9})}, "channels"),
        ({CONFIG_KEY: json.dumps({**TabConfig(hourglasses=1).to_dict(), "channels": 1024})}, "does not fit"),
        ({CARD_KEY: ModelCard(name="x", hourglasses=2).to_json()}, "card of another network"),
        ({CARD_KEY: "nothing"}, "not JSON"),
    ],
)
def test_wrong_descriptions_are_refused(tmp_path: Path, metadata: dict[str, str], problem: str):
    tensors, good = _contents(random_checkpoint(tmp_path))
    path = tmp_path / "bad.safetensors"
    safetensors.torch.save_file(tensors, path, {**good, **metadata} if metadata else None)
    _refused(path, problem)


def test_half_precision_weights_are_read_as_float32(tmp_path: Path):
    tensors, metadata = _contents(random_checkpoint(tmp_path))
    tensors = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
    safetensors.torch.save_file(tensors, tmp_path / "half.safetensors", metadata)
    network = load_checkpoint(tmp_path / "half.safetensors")[0]
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


# The authors'


def _official_weights(hourglasses: int) -> dict[str, Tensor]:
    """Random weights of the authors' names, shapes and types."""
    if not LAYOUT.is_file():
        pytest.skip("the layout of the authors' checkpoints is not beside this checkout")
    generator = torch.Generator().manual_seed(hourglasses)

    def weight(name: str, shape: list[int], kind: str) -> Tensor:
        if kind == "int64":
            return torch.tensor(7)
        values = torch.randn(shape, generator=generator)
        if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            return values.sigmoid() + 0.5
        return values * (2 / np.prod(shape[1:])) ** 0.5 if len(shape) == 4 else values * 0.1

    layout = json.loads(LAYOUT.read_text())[str(hourglasses)]
    return {name: weight(name, *described) for name, described in layout.items()}


def _save_official(path: Path, weights: dict[str, Tensor], **fields) -> Path:
    """With the fields that a training run leaves beside the weights, numpy's numbers among them."""
    torch.save({"epoch": 140, "best_nme": np.float64(0.0394), "state_dict": weights, **fields}, path)
    return path


class _Reference:
    """The authors' network, written down a second time, from their names alone."""

    def __init__(self, weights: dict[str, Tensor]):
        self.weights = weights

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        kernel = self.weights[f"{name}.weight"]
        bias = self.weights.get(f"{name}.bias")
        return functional.conv2d(x, kernel, bias, stride=stride, padding=kernel.shape[-1] // 2)

    def bn(self, name: str, x: Tensor) -> Tensor:
        mean, variance, weight, bias = (
            self.weights[f"{name}.{part}"][None, :, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.relu((x - mean) / torch.sqrt(variance + 1e-5) * weight + bias)

    def block(self, name: str, x: Tensor) -> Tensor:
        first = self.conv(f"{name}.conv1", self.bn(f"{name}.bn1", x))
        second = self.conv(f"{name}.conv2", self.bn(f"{name}.bn2", first))
        third = self.conv(f"{name}.conv3", self.bn(f"{name}.bn3", second))
        return torch.cat([first, second, third], 1) + x

    def hourglass(self, name: str, level: int, x: Tensor, features: list[Tensor]) -> Tensor:
        up = self.block(f"{name}.b1_{level}", x)
        low = self.block(f"{name}.b2_{level}", functional.avg_pool2d(x, 2))
        low = self.hourglass(name, level - 1, low, features) if level > 1 else self.block(f"{name}.b2_plus_1", low)
        low = self.block(f"{name}.b3_{level}", low)
        out = up + low.repeat_interleave(2, 2).repeat_interleave(2, 3)
        features.append(out)
        return out

    def double(self, name: str, x: Tensor) -> Tensor:
        for conv, bn in ((0, 1), (3, 4)):
            x = self.bn(f"{name}.UConv.{bn}", self.conv(f"{name}.UConv.{conv}", x))
        return x

    def tran(self, level: int, channels: int, side: int, x: Tensor) -> Tensor:
        name = f"BALT._{level}_tran_256_{channels}_{side}x{side}"
        stride = 2 if self.weights[f"{name}.0.weight"].shape[-1] == 3 else 1
        return self.bn(f"{name}.1", self.conv(f"{name}.0", x, stride))

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for layer in (0, 3, 7, 10, 14, 17, 20):
            if layer in (7, 14):
                x = functional.max_pool2d(x, 2)
            x = self.bn(f"SCBE.features.{layer + 1}", self.conv(f"SCBE.features.{layer}", x))
        stacks = sum(name.startswith("SCBE.l") and name.endswith("weight") for name in self.weights)
        for i in range(stacks):
            features: list[Tensor] = []
            out = self.block(f"SCBE.top_m_{i}", self.hourglass(f"SCBE.m{i}", 4, x, features))
            out = self.bn(f"SCBE.bn_end{i}", self.conv(f"SCBE.conv_last{i}", out))
            maps = self.conv(f"SCBE.l{i}", out)
            if i < stacks - 1:
                x = x + self.conv(f"SCBE.bl{i}", out) + self.conv(f"SCBE.al{i}", maps)
        f8, f16, f32, f64 = features
        x1 = self.double("BALT.inconv", maps) + self.tran(1, 64, 64, f64)
        x2 = self.double("BALT.down_1.1", functional.max_pool2d(x1, 2))
        x2 = x2 + self.tran(2, 128, 64, f64) + self.tran(2, 128, 32, f32)
        x3 = self.double("BALT.down_2.1", functional.max_pool2d(x2, 2))
        x3 = x3 + self.tran(3, 256, 32, f32) + self.tran(3, 256, 16, f16)
        x4 = self.double("BALT.down_3.1", functional.max_pool2d(x3, 2))
        x4 = x4 + self.tran(4, 512, 16, f16) + self.tran(4, 512, 8, f8)
        x = self.double("BALT.down_4.1", functional.max_pool2d(x4, 2))
        for number, skip in enumerate((x4, x3, x2, x1), start=1):
            up = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = self.double(f"BALT.up_{number}.conv", torch.cat([skip, up], 1))
        return self.conv("BALT.outconv", x), maps


@pytest.mark.parametrize("hourglasses", [1, 2])
def test_the_authors_network_is_computed_exactly(tmp_path: Path, hourglasses: int):
    weights = _official_weights(hourglasses)
    network, card = load_checkpoint(_save_official(tmp_path / "tab.pth", weights))
    picture = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        landmarks, boundaries = network(picture)
        expected = _Reference(weights)(picture)
    for found, wanted in ((landmarks, expected[0]), (boundaries[-1], expected[1])):
        assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert (card.decoding, card.offset, card.width, card.hourglasses) == ("gaussian", 0.0, "full", hourglasses)
    assert "authors" in card.licence


def test_weights_of_a_parallel_run_and_bare_ones_are_read(tmp_path: Path):
    weights = _official_weights(1)
    _save_official(tmp_path / "a.pth", {f"module.{name}": value for name, value in weights.items()})
    torch.save(weights, tmp_path / "b.pth")
    for name in ("a.pth", "b.pth"):
        network = load_checkpoint(tmp_path / name)[0]
        assert torch.equal(network.balt.out.weight, weights["BALT.outconv.weight"])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda w: w.pop("SCBE.m0.b2_plus_1.conv1.weight"), "missing: scbe.stacks.0.hourglass.bottom.conv1.weight"),
        (lambda w: w.update({"SCBE.extra": torch.zeros(1)}), "unexpected: SCBE.extra"),
        (lambda w: w.pop("BALT.outconv.weight"), "no 'BALT.outconv.weight'"),
        (lambda w: w.update({"BALT.outconv.weight": torch.zeros(5, 96, 1, 1)}), "5 landmarks"),
        (lambda w: w.update({"BALT.outconv.bias": torch.zeros(3)}), "wrong shape"),
        (lambda w: w.update({"SCBE.features.0.bias": 3}), "no 'state_dict' of tensors"),
    ],
)
def test_incomplete_files_of_theirs(tmp_path: Path, change, problem: str):
    weights = _official_weights(1)
    change(weights)
    _refused(_save_official(tmp_path / "tab.pth", weights), problem)


class _Bomb:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_bomb_does_not_go_off(tmp_path: Path):
    torch.save({"state_dict": _Bomb(tmp_path / "boom")}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(_Bomb(tmp_path / "boom")))
    torch.save({"state_dict": _Bomb(tmp_path / "boom")}, tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    for name in ("a.pth", "b.pth", "c.pt"):
        _refused(tmp_path / name, "checkpoint|more than weights")
    assert not (tmp_path / "boom").exists()


def test_files_that_are_no_checkpoint_of_theirs(tmp_path: Path):
    path = tmp_path / "a.pth"
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, path)
    _refused(path, "BALT.outconv.weight")
    whole = path.read_bytes()
    for data in (b"", b"x", b"\x80", whole[: len(whole) // 2]):
        path.write_bytes(data)
        _refused(path, "truncated")
    torch.save([1, 2], path)
    _refused(path, "no 'state_dict'")


def test_a_zip_that_unpacks_to_more_than_a_checkpoint_is_not_unpacked(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(checkpoint, "MAX_BYTES", 2**20)
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data/0", bytes(2**21))
    assert path.stat().st_size < 2**16
    _refused(path, "unpacks to more")


# ImageNet


def _vgg_weights() -> dict[str, Tensor]:
    stem = Tab(TabConfig(hourglasses=1)).scbe.stem
    weights = {f"features.{name}": torch.rand_like(value.float()) for name, value in stem.state_dict().items()}
    return {**weights, "features.24.weight": torch.zeros(512, 256, 3, 3), "classifier.0.weight": torch.zeros(8, 8)}


def test_the_stem_starts_from_a_file(tmp_path: Path):
    weights = _vgg_weights()
    for name in [name for name in weights if name.endswith("num_batches_tracked")]:
        del weights[name]  # as in files from before torch 0.4.1
    torch.save(weights, tmp_path / "vgg16_bn.pth")
    network = Tab(TabConfig(hourglasses=1))
    assert "from ImageNet" in load_imagenet_stem(network, tmp_path / "vgg16_bn.pth")
    assert torch.equal(network.scbe.stem[20].weight, weights["features.20.weight"])
    assert torch.equal(network.scbe.stem[21].running_var, weights["features.21.running_var"])


def test_a_wrong_file_for_the_stem_changes_nothing(tmp_path: Path):
    network = Tab(TabConfig(hourglasses=1))
    before = network.scbe.stem[0].weight.clone()
    weights = _vgg_weights()
    weights["features.20.weight"] = torch.zeros(1)
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(TabrtError, match=r"features.20.weight"):
        load_imagenet_stem(network, tmp_path / "a.pth")
    with pytest.raises(TabrtError, match="there is no file"):
        load_imagenet_stem(network, tmp_path / "b.pth")
    assert torch.equal(network.scbe.stem[0].weight, before)


def test_a_stem_without_imagenet_weights_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert "from scratch" in load_imagenet_stem(Tab(TabConfig(hourglasses=1)))
    slim = Tab(TabConfig.of_width("lite", hourglasses=1))
    assert "from scratch" in load_imagenet_stem(slim)
    with pytest.raises(TabrtError, match="another"):
        load_imagenet_stem(slim, tmp_path / "vgg16_bn.pth")
