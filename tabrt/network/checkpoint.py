"""Checkpoints: tabrt's own (safetensors, with the network's config inside) and those of the paper's authors (.pth)."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from tabrt.card import MAX_CARD_CHARACTERS, ModelCard
from tabrt.errors import TabrtError
from tabrt.files import PICKLES, write_atomically
from tabrt.network.config import HOURGLASS_DEPTH, TabConfig
from tabrt.network.tab import Tab
from tabrt.topology import TOPOLOGIES

CONFIG_KEY, CARD_KEY = "tabrt.config", "tabrt.card"
MAX_BYTES = 2 * 2**30  # of weights: the largest network of the paper has 87 MiB
NUMPY_SCALARS: list[Any] = [
    (np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")
] + [
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64")),
]


def save_checkpoint(path: str | Path, model: Tab, card: ModelCard, metadata: Mapping[str, str] | None = None) -> None:
    """Write a checkpoint whole or not at all: a full disk leaves the last good one. Raises TabrtError if it fails."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    own = {CONFIG_KEY: json.dumps(model.config.to_dict()), CARD_KEY: card.to_json()}
    write_atomically(path, safetensors.torch.save(tensors, {**(metadata or {}), **own}))


def load_checkpoint(path: str | Path) -> tuple[Tab, ModelCard]:
    """Build the network a checkpoint describes, with its weights, in eval mode; and its card.

    Reads .safetensors of tabrt's and .pth of the authors'. Raises TabrtError for any other file, naming what is
    missing or unexpected.
    """
    path = Path(path)
    if not path.is_file():
        raise TabrtError(f"there is no checkpoint {path}; check the path")
    if path.stat().st_size > MAX_BYTES:
        raise TabrtError(f"{path} has {path.stat().st_size:,} bytes; a checkpoint has at most {MAX_BYTES:,}")
    if path.suffix.lower() in PICKLES:
        return _load_official(path)
    if path.suffix.lower() == ".safetensors":
        return _load_own(path)
    raise TabrtError(f"{path.name} is no checkpoint: it must end in .safetensors, {', '.join(PICKLES)}")


def _load_own(path: Path) -> tuple[Tab, ModelCard]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = set(file.keys())
            config, card = _described(metadata, path)
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            skeleton = _skeleton(config)
            _check_shapes(skeleton, shapes, path)
            weights = {name: file.get_tensor(name).clone() for name in names}  # not a view of the file
    except (safetensors.SafetensorError, OSError) as error:
        raise TabrtError(f"{path} is truncated or no safetensors file ({error}); copy it again") from error
    return _filled(skeleton, weights, path), card


def _described(metadata: dict[str, str], path: Path) -> tuple[TabConfig, ModelCard]:
    if CONFIG_KEY not in metadata:
        raise TabrtError(f"{path} has no {CONFIG_KEY!r} in its metadata, so it is no checkpoint of tabrt's")
    if len(metadata[CONFIG_KEY]) > MAX_CARD_CHARACTERS:
        raise TabrtError(f"{path} has {len(metadata[CONFIG_KEY])} characters of {CONFIG_KEY!r}; it is damaged")
    try:
        config = TabConfig.from_dict(json.loads(metadata[CONFIG_KEY]))
    except (ValueError, RecursionError, TypeError) as error:
        raise TabrtError(f"{path} has a {CONFIG_KEY!r} that is not JSON; it is damaged") from error
    if CARD_KEY not in metadata:  # one from the middle of a training run
        return config, _plain_card(path.stem, config)
    card = ModelCard.from_json(metadata[CARD_KEY])
    described = (card.topology, card.hourglasses, card.crop_size)
    if described != (config.topology, config.hourglasses, config.crop_size):
        told = f"{card.topology}, {card.hourglasses} hourglasses, crops of {card.crop_size} px"
        raise TabrtError(f"{path} has a card of another network ({told})")
    return config, card


def _plain_card(name: str, config: TabConfig) -> ModelCard:
    return ModelCard(name, config.topology, config.hourglasses, config.width, crop_size=config.crop_size)


def _skeleton(config: TabConfig) -> Tab:
    """The network without memory for its weights, so that a hostile config costs none."""
    with torch.device("meta"):
        return Tab(config)


def _check_shapes(skeleton: Tab, shapes: dict[str, tuple[int, ...]], path: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
    missing, unexpected = sorted(expected.keys() - shapes.keys()), sorted(shapes.keys() - expected.keys())
    wrong = [f"{name} {shapes[name]} for {expected[name]}" for name in expected.keys() & shapes.keys()
             if shapes[name] != expected[name]]  # fmt: skip
    problems = [
        f"{label}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for label, names in (("missing", missing), ("unexpected", unexpected), ("wrong shape", sorted(wrong)))
        if names
    ]
    if problems:
        raise TabrtError(f"{path} does not fit its network; {'; '.join(problems)}")


def _filled(skeleton: Tab, weights: dict[str, Tensor], path: Path) -> Tab:
    for name, expected in skeleton.state_dict().items():
        if weights[name].is_floating_point() != expected.is_floating_point():
            raise TabrtError(f"{path} holds {name} as {weights[name].dtype}; it must be {expected.dtype}")
        weights[name] = weights[name].to(expected.dtype)
        if not torch.isfinite(weights[name]).all():
            raise TabrtError(f"{path} holds {name} with values that are not finite; use an earlier checkpoint")
    skeleton.load_state_dict(weights, assign=True)
    return skeleton.eval()


def _load_official(path: Path) -> tuple[Tab, ModelCard]:
    weights = _official_weights(_read_pickle(path), path)
    config = _official_config(weights, path)
    names = official_names(config)
    skeleton = _skeleton(config)
    ours = {their: our for our, their in names.items()}
    renamed = {ours.get(name, name): tensor for name, tensor in weights.items()}
    _check_shapes(skeleton, {name: tuple(tensor.shape) for name, tensor in renamed.items()}, path)
    card = replace(
        _plain_card(f"tab{config.hourglasses}-authors", config),
        decoding="gaussian",
        offset=0.0,  # they divide pixels by 4, so cell 0 lies at pixel 0
        training_data="see the authors",
        licence="unknown: see the authors",
    )
    return _filled(skeleton, renamed, path), card


def _read_pickle(path: Path) -> object:
    """The contents of a .pth: tensors and plain values only, so nothing in it can run."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise TabrtError(f"{path} unpacks to more than {MAX_BYTES:,} bytes; it is no checkpoint")
    try:
        # Training fields may be numpy's numbers. What torch has to warn of comes as an error or does not matter.
        with torch.serialization.safe_globals(NUMPY_SCALARS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise TabrtError(f"{path} holds more than weights, or is truncated; it was not opened for safety") from error
    except Exception as error:  # whatever else a damaged archive can raise
        raise TabrtError(f"{path} is truncated or no checkpoint; copy it again") from error


def _official_weights(contents: object, path: Path) -> dict[str, Tensor]:
    state = contents.get("state_dict", contents) if isinstance(contents, dict) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise TabrtError(f"{path} has no 'state_dict' of tensors, so it is no checkpoint of the authors'")
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()}


def _official_config(weights: dict[str, Tensor], path: Path) -> TabConfig:
    """Theirs are all of full width; only the landmark count and the hourglasses differ."""
    last = weights.get("BALT.outconv.weight")
    if last is None or last.ndim != 4:
        raise TabrtError(f"{path} has no 'BALT.outconv.weight', so it is no checkpoint of the authors'")
    # Their files do not name the scheme: the count is all there is.
    named = [name for name, topology in TOPOLOGIES.items() if topology.points == len(last)]
    if not named:
        raise TabrtError(f"{path} gives {len(last)} landmarks; no known scheme has so many")
    count = sum(f"SCBE.l{i}.weight" in weights for i in range(8))
    return TabConfig.of_width("full", topology=named[0], hourglasses=max(1, count))


def official_names(config: TabConfig) -> dict[str, str]:
    """The authors' name of each of our parameters and buffers, for a network of full width."""
    modules = {"scbe.stem": "SCBE.features", "balt.out": "BALT.outconv"}
    for i in range(config.hourglasses):
        modules |= _stack_names(i)
    for i in range(config.hourglasses - 1):
        modules |= {f"scbe.calibrations.{i}.{ours}": f"SCBE.{theirs}{i}"
                    for ours, theirs in (("feature", "bl"), ("heatmaps", "al"))}  # fmt: skip
    modules |= _transform_names()
    prefixes = sorted(modules, key=len, reverse=True)
    names = {}
    for name in _skeleton(config).state_dict():
        prefix = next(prefix for prefix in prefixes if name.startswith(prefix + "."))
        names[name] = modules[prefix] + name.removeprefix(prefix)
    return names


def _stack_names(i: int) -> dict[str, str]:
    ours, theirs = f"scbe.stacks.{i}", f"SCBE.m{i}"
    names = {
        f"{ours}.top": f"SCBE.top_m_{i}",
        f"{ours}.last": f"SCBE.conv_last{i}",
        f"{ours}.bn": f"SCBE.bn_end{i}",
        f"{ours}.heatmaps": f"SCBE.l{i}",
        f"{ours}.hourglass.bottom": f"{theirs}.b2_plus_1",
    }
    for level in range(HOURGLASS_DEPTH):  # theirs count from 1 at the coarsest
        for our, their in (("skip", "b1"), ("before", "b2"), ("after", "b3")):
            names[f"{ours}.hourglass.{our}.{level}"] = f"{theirs}.{their}_{level + 1}"
    return names


def _transform_names() -> dict[str, str]:
    names = {"balt.encoders.0": "BALT.inconv.UConv", "balt.bottom": "BALT.down_4.1.UConv"}
    names |= {f"balt.encoders.{i}": f"BALT.down_{i}.1.UConv" for i in (1, 2, 3)}
    names |= {f"balt.decoders.{i}": f"BALT.up_{i + 1}.conv.UConv" for i in range(4)}
    for level, channels in enumerate((64, 128, 256, 512)):
        for steps in range(min(2, level + 1)):
            side = 64 >> (level - steps)
            names[f"balt.transitions.{level}.{steps}"] = f"BALT._{level + 1}_tran_256_{channels}_{side}x{side}"
    return names


def load_imagenet_stem(model: Tab, path: str | Path | None = None) -> str:
    """Give a `vgg` stem ImageNet's weights: from a torchvision vgg16_bn state-dict file, or torchvision itself.

    Returns one sentence on what the stem starts from. Raises TabrtError for a file that does not fit.
    """
    stem = model.scbe.stem
    if model.config.stem != "vgg" or model.config.channels != 256:
        if path is not None:
            raise TabrtError(f"{path} is for the stem of width full; this network's stem is another")
        return f"The stem ({model.config.stem}) has no ImageNet weights: it starts from scratch."
    if path is None:
        try:
            import torchvision  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            return "No ImageNet weights are given and torchvision is not installed: the stem starts from scratch."
        try:
            weights = torchvision.models.vgg16_bn(weights="IMAGENET1K_V1").features.state_dict()
        except OSError as error:  # it fetches what it does not have yet
            return f"torchvision could not get its ImageNet weights ({error}): the stem starts from scratch."
        source = "torchvision's vgg16_bn"
    else:
        contents = _read_pickle(Path(path)) if Path(path).is_file() else None
        if contents is None:
            raise TabrtError(f"there is no file {path}; check the path")
        weights = {
            name.removeprefix("features."): value for name, value in _official_weights(contents, Path(path)).items()
        }
        source = str(path)
    expected = stem.state_dict()
    wanted = {name: weights[name] for name in expected if name in weights}
    # Files older than BN's batch counter lack it; it plays no part at inference.
    missing = [name for name in expected if name not in wanted and not name.endswith("num_batches_tracked")]
    wrong = [name for name, value in wanted.items() if value.shape != expected[name].shape]
    if missing or wrong:
        raise TabrtError(f"{source} is no vgg16_bn: features.{(missing + wrong)[0]} is missing or of another shape")
    stem.load_state_dict(wanted, strict=False)
    return f"The stem starts from ImageNet: {source}."
