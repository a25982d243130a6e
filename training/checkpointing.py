"""What a run leaves on disk: checkpoints with their cards, and the state it resumes from."""

from __future__ import annotations

import datetime
import io
import json
import pickle
from dataclasses import asdict, replace
from pathlib import Path

import torch

from tabrt.card import ModelCard
from tabrt.engines import MODELS
from tabrt.errors import TabrtError
from tabrt.files import MODEL_FOLDER, write_atomically
from tabrt.geometry import CROP_SIZE
from tabrt.network import Tab, TabConfig
from tabrt.network.checkpoint import load_checkpoint, save_checkpoint
from tabrt.network.config import HOURGLASS_DEPTH
from tabrt.network.scbe import OUR_STEMS
from tabrt.topology import Topology
from tabrt.variants import variant_name
from training.averaging import lean
from training.growing import twice_as_wide, widened
from training.recipes import Recipe
from training.sets import SHARED_SETS
from training.spread import calibration_crops
from training.thinning import thinned
from training.validation import NetworkEngine


def card_of(config: TabConfig, recipe: Recipe, sizes: dict[str, int]) -> ModelCard:
    """The card of a network trained by a recipe on sets of these sizes."""
    human = set(sizes) & {*SHARED_SETS, "300w", "300w-lp"}
    licence = "research use: trained with 300-W labels" if human else f"that of its data: {', '.join(sizes)}"
    return ModelCard(
        name=variant_name(config.hourglasses, config.width),
        topology=config.topology,
        hourglasses=config.hourglasses,
        width=config.width,
        crop_size=config.crop_size,
        decoding="gaussian" if recipe.loss == "mse" else "softmax",
        training_data=", ".join(f"{name} ({size:,} faces)" for name, size in sizes.items()),
        licence=licence,
        date=datetime.date.today().isoformat(),
    )


def load_matching(model: Tab, path: Path) -> str:
    """Fill every weight that has the same name and shape in a checkpoint; say how many.

    Raises TabrtError where less than half fit, for that would be hardly a start.

    Where the checkpoint has fewer hourglasses, the further ones start as copies of its last, the calibration before
    them at zero; where it is half as wide, it is widened: either way the network starts as what it grew from.
    """
    source = load_checkpoint(path)[0]
    _check_stem(source.config, model.config, path)
    own, theirs = model.state_dict(), dict(source.state_dict())
    have = source.config.hourglasses
    if twice_as_wide(source.config, model.config):
        theirs = widened(source, replace(model.config, hourglasses=have))
    for stack in range(have, model.config.hourglasses):
        last = f"scbe.stacks.{have - 1}."
        copies = {name.removeprefix(last): value for name, value in theirs.items() if name.startswith(last)}
        for name, value in copies.items():
            theirs[f"scbe.stacks.{stack}.{name}"] = value
        for name, value in model.scbe.calibrations[stack - 1].state_dict().items():
            theirs[f"scbe.calibrations.{stack - 1}.{name}"] = torch.zeros_like(value)
    matching = {name: value for name, value in theirs.items() if name in own and own[name].shape == value.shape}
    if 2 * len(matching) < len(own):
        width = source.config.width
        raise TabrtError(
            f"{path}: {len(matching)} of {len(own)} weights fit this network; give the --width that it has ({width}), "
            "or start from another checkpoint"
        )
    model.load_state_dict(matching, strict=False)
    return f"{path}: {len(matching)} of {len(own)} weights taken over"


def _check_stem(theirs: TabConfig, ours: TabConfig, path: Path) -> None:
    """Raises TabrtError where the first convolution has other channels: it would begin anew, below trained layers."""
    alike = {theirs.stem, ours.stem} <= OUR_STEMS.keys() and theirs.channels == ours.channels
    have, want = theirs.first_channels, ours.first_channels
    if alike and have != want:
        thinner = f", or leave out what is too much by python -m training thin {path}" if have > want else ""
        raise TabrtError(
            f"{path}: its stem begins with {have} channels, this network's with {want}; "
            f"give --stem-channels {have}{thinner}"
        )


def checkpoint_named(name: str) -> Path:
    """The checkpoint of a shipped model's name, or that of a path."""
    shipped = MODEL_FOLDER / f"{name}.safetensors"
    return shipped if name in MODELS and shipped.is_file() else Path(name)


def network_wanted(width: str, asked: dict, start: Path | None) -> TabConfig:
    """The network of a width with what was asked for; with no width, that of the checkpoint to start from.

    Raises TabrtError where the checkpoint is not what was asked for.
    """
    if width:
        return TabConfig.of_width(width, **{"hourglasses": 1, **asked})
    if start is None:
        raise TabrtError("this recipe goes on from a trained network; name it with --start, such as --start tab1-lite")
    config = load_checkpoint(start)[0].config
    for name, value in asked.items():
        if getattr(config, name) != value:
            option = "--no-top" if value is False else f"--{name.replace('_', '-')}"
            raise TabrtError(
                f"{option}: {start} has another, and this recipe trains the network that it is; leave {option} out, or "
                "name the --width of a network to be made"
            )
    return config


def starting_engine(start: Path, topology: Topology) -> NetworkEngine | None:
    """The network that training starts from, to fill in labels; None where its scheme is another."""
    model, card = load_checkpoint(start)
    return NetworkEngine(model, card) if card.topology == topology.name else None


def faces_seen(start: Path) -> int:
    """How many faces the run had seen that left this last.safetensors. Raises TabrtError where it does not say."""
    seen = load_checkpoint(start)[1].figures.get("faces_seen")
    if seen is None:
        raise TabrtError(f"{start} does not say how many faces it has seen; give a run's last.safetensors to --start")
    return int(seen)


def pack(source: Path, out: Path) -> None:
    """Write a checkpoint with its kernels in float16, at half the size: to keep, and to --start from."""
    model, card = load_checkpoint(source)
    save_checkpoint(out, halved(model), card)


def halved(model: Tab) -> Tab:
    """The same network, its kernels in float16: to be saved."""
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data = module.weight.data.half()
    return model


def thin(source: Path, out: Path, stem_channels: int, faces: Path, cache: Path) -> float:
    """Write a network with fewer channels in its stem; the share of variance that it lost. Raises TabrtError."""
    model, card = load_checkpoint(source)
    crops = torch.from_numpy(calibration_crops(faces, cache, model.config.crop_size))
    thinner, left = thinned(model, crops.split(16), stem_channels)
    save_checkpoint(out, thinner, card)
    return left


def mix(new: Path, old: Path, kept: float, out: Path) -> None:
    """Write the network between two of one shape, with the card of the new one. kept: the share of the old weights.

    It keeps more of what the old one knew than it gives up of what the new one has learnt (Wortsman and others: Robust
    fine-tuning). Raises TabrtError where the shapes differ.
    """
    model, card = load_checkpoint(new)
    other = load_checkpoint(old)[0]
    if other.config != model.config:
        raise TabrtError(f"{old} is another network than {new}; mix one with what it was trained from")
    lean(model, other.state_dict(), kept)
    save_checkpoint(out, model, replace(card, figures={}))


def identity(config: TabConfig, recipe: Recipe, seed: int, sizes: dict[str, int]) -> str:
    """What must be the same for a run to be resumed."""
    network = asdict(config)
    for name, usual in (("crop_size", CROP_SIZE), ("top", True), ("skips", HOURGLASS_DEPTH), ("stem_channels", 0)):
        if network[name] == usual:  # runs that were begun before there was anything else go on
            del network[name]
    return json.dumps({"network": network, "recipe": asdict(recipe), "seed": seed, "sets": sizes})


def save_state(path: Path, state: dict) -> None:
    """Write a run's state whole or not at all. Raises TabrtError if it fails; the last good one is still there."""
    memory = io.BytesIO()
    torch.save(state, memory)
    write_atomically(path, memory.getvalue())


def load_state(path: Path, expected: str) -> dict | None:
    """The state to resume from, or None. Raises TabrtError for a damaged one, and for that of another run."""
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise TabrtError(f"{path} is damaged ({str(error)[:80]!r}); remove it to start anew") from None
    found = state.get("identity") if isinstance(state, dict) else None
    if found != expected:
        raise TabrtError(f"{path} is of another run ({_difference(found, expected)}); choose another --out")
    return state


def _difference(found: object, expected: str) -> str:
    if not isinstance(found, str):
        return "it names none"
    path, theirs, ours = _differing(json.loads(found), json.loads(expected))
    return f"{', '.join(path)}: {str(theirs)[:60]}, not {str(ours)[:60]}" if path else "its fields differ"


def _differing(theirs: object, ours: object, path: tuple[str, ...] = ()) -> tuple[tuple[str, ...], object, object]:
    """The first place at which two values of JSON differ, and what stands there."""
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        theirs, ours = ({str(i + 1): value for i, value in enumerate(values)} for values in (theirs, ours))
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in {**ours, **theirs}:
            if theirs.get(key) != ours.get(key):
                return _differing(theirs.get(key), ours.get(key), (*path, key))
    return path, theirs, ours
