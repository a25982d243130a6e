"""The command line of the workshop, and nothing but it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from tabrt.errors import TabrtError
from tabrt.measures.head import TURNED_FILE
from tabrt.network.config import FEATURES, STEMS
from tabrt.topology import TOPOLOGIES, topology_named
from tabrt.variants import WIDTHS
from training.datasets import DATASETS, SHARED_DATASETS
from training.perturb import PERTURBATIONS
from training.recipes import RECIPES, changed, recipe_named, with_shares

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
if TYPE_CHECKING:  # a checker knows no choices that are made from data
    Dataset: TypeAlias = str
    RecipeName: TypeAlias = str
    Scheme: TypeAlias = str
    Width: TypeAlias = str
    Stem: TypeAlias = str
    Features: TypeAlias = str
else:
    Dataset = Literal[("shared", *SHARED_DATASETS, *DATASETS)]
    RecipeName, Scheme, Width = (Literal[tuple(names)] for names in (RECIPES, TOPOLOGIES, WIDTHS))
    Stem, Features = Literal[STEMS], Literal[FEATURES]
CacheOption = Annotated[Path, typer.Option(help="Folder for decoded pictures of zips.")]
CACHE = Path(".cache/faces")


@app.callback()
def _workshop() -> None:
    """Train a network, judge a model, better the labels."""


@app.command()
def train(
    data: Annotated[
        str, typer.Option(help=f"NAME:FOLDER\\[@WEIGHT],… of: shared, {', '.join(DATASETS)}.")
    ] = "shared:../shared/faces",
    out: Annotated[Path, typer.Option(help="Folder of the run; one that has a state is resumed.")] = Path("runs/new"),
    recipe: Annotated[RecipeName, typer.Option(help="How to train.")] = "shipped",
    topology: Annotated[Scheme | None, typer.Option(help="Landmark scheme; wflw98 where not given.")] = None,
    hourglasses: Annotated[int | None, typer.Option(min=1, max=8, help="1 where not given.")] = None,
    width: Annotated[Width | None, typer.Option(help="The recipe's own where not given.")] = None,
    stem: Annotated[Stem | None, typer.Option(help="Layers up to 64×64 (Table 8).")] = None,
    features: Annotated[
        Features | None, typer.Option(help="Scales of the features (Table 9); multi where not given.")
    ] = None,
    fusion: Annotated[
        int | None, typer.Option(min=0, max=3, help="Levels of features fused (Table 10); 2 where not given.")
    ] = None,
    channels: Annotated[int | None, typer.Option(help="Width of the hourglasses.")] = None,
    balt_channels: Annotated[int | None, typer.Option(help="Width of the landmark transform.")] = None,
    crop_size: Annotated[int | None, typer.Option(help="Side of the crops, px: a multiple of 64.")] = None,
    skips: Annotated[
        int | None, typer.Option(min=0, max=4, help="Levels with a block in the hourglasses' skips.")
    ] = None,
    top: Annotated[bool | None, typer.Option(help="A block between an hourglass and its maps.")] = None,
    stem_channels: Annotated[
        int | None, typer.Option(min=1, help="Channels of the first convolution of a slim or short stem.")
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Faces to see in each phase.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data in each phase.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Faces in a step, over all devices.")] = None,
    rate: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    share: Annotated[
        list[str] | None, typer.Option(help="NAME=SHARE of a set of `shared` in each batch, in place of the recipe's.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="A shipped model's name, or a checkpoint: its weights are taken where they fit.")
    ] = None,
    carry_on: Annotated[
        bool, typer.Option(help="Go on where the last.safetensors of --start stood in this recipe's length.")
    ] = False,
    imagenet: Annotated[Path | None, typer.Option(help="torchvision's vgg16_bn state-dict, for the stem.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Bettered labels, made by `relabel`.")] = None,
    validate_every: Annotated[int | None, typer.Option(min=1, help="Steps between validations.")] = None,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between saved states; at least four a phase.")] = 200,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that make batches, for each device.")] = 2,
    devices: Annotated[int, typer.Option(min=1, help="GPUs of each machine; CPU processes where it has none.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    precision: Annotated[
        Literal["auto", "32-true", "bf16-mixed"], typer.Option(help="auto: bf16 where this machine computes in it.")
    ] = "auto",
    cache: CacheOption = CACHE,
) -> None:
    """Train a network; stopped by Ctrl+C, the same command goes on from the last saved state."""
    from training.checkpointing import checkpoint_named, network_wanted, starting_engine
    from training.datasets import parse_sources, training_sets
    from training.loop import launch, native
    from training.loop import train as run
    from training.relabel import with_labels

    plan = with_shares(changed(recipe_named(recipe), samples, epochs, batch, rate), share or [])
    sizes = {
        "topology": topology, "hourglasses": hourglasses, "features": features, "fusion": fusion, "stem": stem,
        "channels": channels, "balt_channels": balt_channels, "crop_size": crop_size, "skips": skips, "top": top,
        "stem_channels": stem_channels,
    }  # fmt: skip
    begun = None if start is None else checkpoint_named(start)
    asked = {name: value for name, value in sizes.items() if value is not None}
    config = network_wanted(width or plan.width, asked, begun)
    wanted = topology_named(config.topology)
    engine = None if begun is None else starting_engine(begun, wanted)
    sets, mixture, trials = training_sets(parse_sources(data), wanted, plan.mixture, cache, engine, typer.echo)
    if labels is not None:
        sets = with_labels(sets, labels)
    plan = replace(plan, mixture=mixture)
    launch(
        devices, nodes,
        lambda fabric: run(
            config, plan, sets, trials, out, seed, workers, begun, imagenet, validate_every, save_every, fabric,
            native(precision), carry_on,
        ),
    )  # fmt: skip


@app.command()
def teach(
    teacher: Annotated[str, typer.Option(help="A shipped model's name, or a checkpoint, that learns first, alone.")],
    pupils: Annotated[str, typer.Option(help="The same of those who then learn from it, with commas.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for the checkpoints.")] = Path("runs/taught"),
    root: Annotated[Path, typer.Option(help="The folder of the zips.")] = Path("../shared/faces"),
    recipe: Annotated[RecipeName, typer.Option(help="Whose mixture, augmentation and loss are taken.")] = "settle",
    share: Annotated[
        list[str] | None, typer.Option(help="NAME=SHARE of a set in each batch, in place of the recipe's.")
    ] = None,
    seconds: Annotated[tuple[float, float], typer.Option(help="For the teacher, and for its pupils.")] = (300, 300),
    rates: Annotated[tuple[float, float], typer.Option(help="Highest learning rates of both.")] = (1.2e-3, 1.5e-3),
    batch: Annotated[int, typer.Option(min=1, help="Faces in a step.")] = 128,
    pool: Annotated[int, typer.Option(min=128, help="Crops that lie on the card.")] = 24_576,
    workers: Annotated[int, typer.Option(min=1, help="Processes that make crops.")] = 15,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    cache: CacheOption = CACHE,
) -> None:
    """Train a teacher and then its pupils on one large card, within a time."""
    import torch

    from tabrt.network.checkpoint import load_checkpoint
    from training.card import Learner, Schoolroom, teach_all
    from training.checkpointing import checkpoint_named
    from training.sets import shared_faces

    def learner(name: str, rate: float) -> Learner:
        path = checkpoint_named(name)
        network = load_checkpoint(path)[0].float()
        if network.config.topology != "wflw98":
            raise TabrtError(f"{name} gives {network.config.topology} points; teach needs networks of wflw98")
        return Learner(path.stem, network, rate)

    first = learner(teacher, rates[0])
    others = [learner(name, rates[1]) for name in pupils.split(",") if name]
    names = [each.name for each in (first, *others)]
    if len(set(names)) < len(names):
        raise TabrtError(f"{', '.join(names)}: each is written to {out} under its name; give them different ones")
    plan = with_shares(recipe_named(recipe), share or [])
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sets, _ = shared_faces(root, cache)
    out.mkdir(parents=True, exist_ok=True)
    room = Schoolroom(sets, plan, out, where, workers, pool, batch, say=typer.echo, seed=seed)
    teach_all(room, first, others, seconds)


@app.command()
def relabel(
    model: Annotated[str, typer.Option(help="A model's name, an .onnx or a .safetensors file.")],
    out: Annotated[Path, typer.Option(help="The .npz to write; give it to `train --labels`.")],
    root: Annotated[Path, typer.Option(help="The folder of the zips.")] = Path("../shared/faces"),
    sets: Annotated[str, typer.Option(help="Which of them, with commas.")] = "allage,utkface,facemask,video",
    weight: Annotated[float, typer.Option(min=0, max=1, help="Of the new points; the rest is the old ones'.")] = 0.7,
    engine: Annotated[str, typer.Option(help="auto, onnxruntime, openvino, tensorrt or torch.")] = "auto",
    cache: CacheOption = CACHE,
) -> None:
    """Better the labels: the mean of a network's points over flips, scales and turns."""
    from tabrt.engines import load_engine
    from training.relabel import relabelled, write_labels
    from training.sets import sets_named

    wanted = sets_named(sets.split(","), root, cache)
    runner = load_engine(model, engine)
    write_labels(out, {name: relabelled(faces, runner, weight, typer.echo) for name, faces in wanted.items()})


@app.command()
def empty(
    pictures: Annotated[list[Path] | None, typer.Argument(help="Folders of pictures that show no people.")] = None,
    root: Annotated[Path, typer.Option(help="The folder of the zips.")] = Path("../shared/faces"),
    count: Annotated[int, typer.Option(min=10, help="How many to make, about.")] = 4000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    cache: CacheOption = CACHE,
) -> None:
    """Make the set `empty`: pictures without a face, from which a network learns to be unsure there."""
    from training.empty import make_empty

    typer.echo(make_empty(root, cache, pictures or [], count, seed, typer.echo))


@app.command()
def turn(
    root: Annotated[Path, typer.Option(help="The folder of the zips and meshes.npz.")] = Path("../shared/faces"),
    faces: Annotated[int, typer.Option(min=10, help="How many to make, about.")] = 4000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    cache: CacheOption = CACHE,
) -> None:
    """Make the set `turned`: portraits turned to profiles by their 3D meshes. Where it was stopped it goes on."""
    from training.turned import make_turned

    typer.echo(f"wrote {make_turned(root, cache, faces, seed, typer.echo)}")


@app.command()
def heads(
    model: Annotated[str, typer.Option(help="A model's name, an .onnx or a .safetensors file.")] = "tab1-lite",
    root: Annotated[Path, typer.Option(help="The folder of the zips and meshes.npz.")] = Path("../shared/faces"),
    out: Annotated[Path, typer.Option(help="The .npz to write.")] = TURNED_FILE,
    cache: CacheOption = CACHE,
) -> None:
    """Learn how a network marks turned heads, which head pose must know: to be made anew with every network."""
    from tabrt.engines import MODELS, load_engine
    from training.heads import make_turned_head

    # Not the name: the float32 file, the same on every machine.
    engine = load_engine(MODELS.get(model, Path(model)), "onnxruntime", threads=1, device="cpu")
    make_turned_head(root, cache, engine, out, typer.echo)
    typer.echo(f"wrote {out}, {out.stat().st_size:,} bytes")


@app.command()
def believe(
    model: Annotated[str, typer.Option(help="A model's name, an .onnx or a .safetensors file.")] = "tab1-lite",
    without: Annotated[list[Path] | None, typer.Option(help="A folder of pictures that show no people.")] = None,
    root: Annotated[Path, typer.Option(help="The folder of the zips.")] = Path("../shared/faces"),
    cache: CacheOption = CACHE,
) -> None:
    """Tell from which sum of score and certainty on a new face is believed: to be measured anew with every network."""
    from tabrt.engines import load_engine
    from training.believing import ask_all, table

    typer.echo(table(*ask_all(load_engine(model), root, cache, without or [], typer.echo)))


@app.command()
def pack(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors of a run.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
) -> None:
    """Write a checkpoint with its kernels in float16, at half the size; `train --start` takes it."""
    from training.checkpointing import pack as write

    write(checkpoint, out)
    typer.echo(f"wrote {out}, {out.stat().st_size:,} bytes")


@app.command()
def thin(
    checkpoint: Annotated[str, typer.Argument(help="A shipped model's name, or a .safetensors.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    stem_channels: Annotated[int, typer.Option(min=1, help="Channels that stay.")],
    root: Annotated[Path, typer.Option(help="The folder of the zips.")] = Path("../shared/faces"),
    cache: CacheOption = CACHE,
) -> None:
    """Leave channels of the stem's first convolution out that the others can tell: it is dear, and repeats itself."""
    from training.checkpointing import checkpoint_named
    from training.checkpointing import thin as write

    left = write(checkpoint_named(checkpoint), out, stem_channels, root, cache)
    typer.echo(f"wrote {out}, {out.stat().st_size:,} bytes; {left:.2%} of what the stem says is lost")


@app.command()
def mix(
    new: Annotated[Path, typer.Argument(help="A .safetensors of a run.")],
    old: Annotated[str, typer.Argument(help="What that run started from: a shipped model's name, or a .safetensors.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    kept: Annotated[float, typer.Option(min=0, max=1, help="The share of the old weights.")] = 0.1,
) -> None:
    """Write the network between two: it loses less of what the old one was good at than it gives up of the new."""
    from training.checkpointing import checkpoint_named
    from training.checkpointing import mix as write

    write(new, checkpoint_named(old), kept, out)
    typer.echo(f"wrote {out}, {out.stat().st_size:,} bytes")


@app.command()
def evaluate(
    dataset: Annotated[
        Dataset, typer.Option(help="What to judge on: its test part. shared: all held-out faces, by weakness.")
    ],
    root: Annotated[Path, typer.Option(help="Folder of the data set, as it is distributed.")],
    model: Annotated[str, typer.Option(help="A shipped model's name, an .onnx or a .safetensors file.")] = "tab1-lite",
    boxes: Annotated[Literal["truth", "detector"], typer.Option(help="Where the crops come from.")] = "truth",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Folder for the error curve, calibration and faces.")] = None,
    engine: Annotated[str, typer.Option(help="auto, onnxruntime, openvino, tensorrt or torch.")] = "auto",
    perturb: Annotated[
        list[str] | None, typer.Option(help=f"Spoil the faces as well: {', '.join(PERTURBATIONS)} or all; repeatable.")
    ] = None,
    faces: Annotated[int | None, typer.Option(min=1, help="Only this many faces, evenly chosen.")] = None,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
    cache: CacheOption = CACHE,
) -> None:
    """Judge a model on a data set: NME, failure rates, areas under the error curve."""
    from tabrt.engines import load_engine
    from training.datasets import load_dataset
    from training.evaluate import report

    names = _perturbations(perturb or [])
    if dataset == "shared":
        _evaluate_shared(root, model, engine, threads, faces, cache, json_file, plots)
        return
    found = load_dataset(dataset, root, "test", cache).evenly(faces)
    if found.note:
        typer.echo(f"note: {found.note}", err=True)
    runner = load_engine(model, engine, threads)
    detector = _detector() if boxes == "detector" else None
    try:
        told, judgements = report(found, runner, detector, names)
    finally:
        runner.close()
        if detector is not None:
            detector.close()
    told = {"dataset": dataset, "model": model, "boxes": boxes, **told}
    typer.echo(_table(told))
    if json_file is not None:
        _write(json_file, json.dumps(told, indent=2, allow_nan=False) + "\n")
    if plots is not None:
        from training.plots import save_all

        save_all(judgements, plots)


def _perturbations(asked: list[str]) -> tuple[str, ...]:
    unknown = [name for name in asked if name not in (*PERTURBATIONS, "all")]
    if unknown:
        raise typer.BadParameter(
            f"{unknown[0]!r} is not one of {', '.join(PERTURBATIONS)}, all", param_hint="--perturb"
        )
    return tuple(PERTURBATIONS) if "all" in asked else tuple(asked)


def _detector():
    from tabrt.detection import Detector

    return Detector()


def _evaluate_shared(
    root: Path,
    model: str,
    engine: str,
    threads: int | None,
    most: int | None,
    cache: Path,
    json_file: Path | None,
    plots: Path | None,
) -> None:
    """One row for each weakness, in true boxes."""
    from tabrt.engines import load_engine
    from training.evaluate import figures, judge, protocol
    from training.weaknesses import SHARED_TRIALS, shared_trials

    trials = shared_trials(root, cache, capped=False)
    if not trials:
        raise TabrtError(f"{root} has no held-out faces; give the folder that holds human.zip")
    absent = [name for name in SHARED_TRIALS if name not in {trial.name for trial in trials}]
    if absent:
        made = "; `python -m training turn` makes turned ones" if "turned" in absent else ""
        typer.echo(f"left out, for their faces are not there: {', '.join(absent)}{made}", err=True)
    runner = load_engine(model, engine, threads)
    told = {}
    try:
        for trial in trials:
            result = judge(trial.faces.evenly(most), runner, perturbation=trial.perturbation)
            told[trial.name] = {**figures(result), "protocol": protocol(trial.faces, runner, False)}
            told[trial.name]["perturbation"] = trial.perturbation
            row = told[trial.name]
            typer.echo(
                f"{trial.name:12}{row['faces']:6} faces  NME {100 * row['nme']:.3f} %  of {trial.faces.normaliser}"
            )
            if plots is not None:
                from training.plots import save_evenly

                save_evenly(result, plots / f"{trial.name}.jpg")
    finally:
        runner.close()
    if json_file is not None:
        _write(json_file, json.dumps({"model": model, "trials": told}, indent=2, allow_nan=False) + "\n")


def _table(told: dict) -> str:
    keys = ("nme", "nme_inner", "fr_08", "fr_10", "auc_08", "auc_10")
    rows = {"all": told, **told["subsets"], **{f"perturbed: {name}": part for name, part in told["perturbed"].items()}}
    lines = [told["protocol"], f"{'':24}{'faces':>7}{'missed':>7}" + "".join(f"{key:>11}" for key in keys)]
    for name, part in rows.items():
        values = ("—" if part[key] is None else f"{100 * part[key]:.3f}" for key in keys)
        lines.append(f"{name:24}{part['faces']:7}{part['missed']:7}" + "".join(f"{value:>11}" for value in values))
    return "\n".join([*lines, "(per cent)"])


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise TabrtError(f"cannot write {path}: {error.strerror}; choose another place") from None
