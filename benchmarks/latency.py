"""Milliseconds of the network alone, for every engine, precision and build; and what share of the machine that is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch import nn

from benchmarks.contract import Report, Timing, markdown, pick, timed
from benchmarks.plots import bars, figure, save
from tabrt.card import PRECISIONS, ModelCard
from tabrt.commands.demo import DEMO_FILM
from tabrt.engines import ENGINES, Engine, load_engine
from tabrt.engines.parity import sample_crops
from tabrt.errors import EngineUnavailable, TabrtError
from tabrt.exporting.export import export_onnx
from tabrt.exporting.graph import to_onnx, write_card
from tabrt.exporting.int8 import to_int8
from tabrt.files import MODEL_FOLDER
from tabrt.film import open_film
from tabrt.geometry import Crop
from tabrt.hardware import available_threads, has_cuda
from tabrt.network import Tab, TabConfig
from tabrt.network.checkpoint import load_checkpoint, save_checkpoint
from tabrt.variants import variant_name

PAPER_MS = {1: 17.0, 2: 27.0}  # TITAN X, by hourglasses (paper Table 11): full width, batch 1
PRODUCT = 2048  # side of the matrices whose product shows what the machine can do
RANDOM = "random weights"


@dataclass(frozen=True)
class Build:
    """One network to time: its checkpoint, and an ONNX file for each precision that it could be made in."""

    hourglasses: int
    width: str
    weights: str  # a model's name, or RANDOM: speed does not depend on them
    checkpoint: Path
    onnx: dict[str, Path]

    @property
    def name(self) -> str:
        return variant_name(self.hourglasses, self.width)


# ---------------------------------------------------------------------------------------------------------- arithmetic


@cache
def multiplications(config: TabConfig) -> int:
    """Multiply-accumulates of one crop: those of all convolutions, counted on a network without weights."""
    counted: list[int] = []

    def count(layer: nn.Conv2d, _inputs: tuple, output: torch.Tensor) -> None:
        counted.append(output[0].numel() * layer.weight[0].numel())

    with torch.device("meta"), torch.no_grad():
        network = Tab(config).eval()
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(count)
        network(torch.zeros(1, 3, config.crop_size, config.crop_size))
    return sum(counted)


def cpu_limit(threads: int, runs: int) -> float:
    """GMAC/s of a large float32 matrix product on this many threads, in ONNX Runtime."""
    shape = [PRODUCT, PRODUCT]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("a", "b", "c")]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", values[:2], values[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    inputs = {name: rng.standard_normal(shape, np.float32) for name in ("a", "b")}
    return _rate(timed(lambda: session.run(None, inputs), runs, warmup=1))


def _rate(timing: Timing) -> float:
    return PRODUCT**3 / (timing.median * 1e-3) / 1e9


# -------------------------------------------------------------------------------------------------------------- builds


def builds(folder: Path, widths: tuple[str, ...], hourglasses: tuple[int, ...], precisions: tuple[str, ...],
           notes: list[str]) -> Iterator[Build]:  # fmt: skip
    """Make each build: from the shipped weights where there are any, else with random ones."""
    for width in widths:
        for count in hourglasses:
            name = variant_name(count, width)
            shipped = MODEL_FOLDER / f"{name}.safetensors"
            weights = name if shipped.is_file() else RANDOM
            checkpoint = (
                shipped if shipped.is_file() else random_checkpoint(folder / f"{name}.safetensors", count, width)
            )
            files = {}
            for precision in precisions:
                try:
                    files[precision] = _model(checkpoint, folder / f"{name}-{precision}.onnx", precision, weights)
                except TabrtError as problem:
                    notes.append(f"{name} {precision}: not made ({problem})")
            yield Build(count, width, weights, checkpoint, files)


def random_checkpoint(path: Path, hourglasses: int, width: str) -> Path:
    """A checkpoint of random weights, whose values stay within what float16 holds."""
    torch.manual_seed(0)
    network = Tab(TabConfig.of_width(width, hourglasses=hourglasses))
    for layer in network.modules():  # values of the size that trained ones have: denormal numbers would be slow
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            layer.weight.data *= 0.7  # else two hourglasses reach 102,000, and float16 ends at 65,504
    save_checkpoint(path, network, ModelCard(name=path.stem, hourglasses=hourglasses, width=width, licence="none"))
    return path


def _model(checkpoint: Path, path: Path, precision: str, weights: str) -> Path:
    if weights != RANDOM:
        shipped = checkpoint.with_suffix(".onnx")
        return shipped if precision == "fp32" and shipped.is_file() else export_onnx(checkpoint, path, precision).path
    if precision == "fp16":
        raise TabrtError("half precision is judged by its points, and random weights give none")
    model, card = _converted(checkpoint)
    if precision == "int8":
        model = to_int8(model, sample_crops(2))
    write_card(model, replace(card, precision=precision))
    onnx.save(model, path)
    return path


@lru_cache(maxsize=1)
def _converted(checkpoint: Path) -> tuple[onnx.ModelProto, ModelCard]:
    network, card = load_checkpoint(checkpoint)
    return to_onnx(network.eval()), card


# -------------------------------------------------------------------------------------------------------------- timing


def crops(count: int) -> np.ndarray:
    """Crops uint8 (count, 256, 256, 3) RGB of the face in the demo film's first frame."""
    with open_film(DEMO_FILM) as film:
        image = next(iter(film)).image
    return np.stack([Crop((415.0 + i, 190.0), 300.0 + 4 * i).cut(image) for i in range(count)])


def run(effort: str, model: str, faces: Path | None) -> Report:
    """Every engine × precision × hourglasses × width × batch × threads, as far as they are here."""
    notes = [
        "Each time is one call of the engine: uint8 crops in, float32 maps out, both in the host's memory. "
        f"Share: GMAC/s over those of a float32 product of {PRODUCT}×{PRODUCT} matrices on the same threads in the "
        "same run; int8 may pass 100 %.",
        "Builds without shipped weights have random ones: speed does not depend on them.",
    ]
    threads = [count for count in pick(effort, (1, 2), (1, 2), (1,)) if count <= available_threads(None)]
    limits = _limits(threads, effort)
    with tempfile.TemporaryDirectory() as folder:
        found = builds(
            Path(folder),
            pick(effort, ("lite", "full"), ("lite", "full"), ("lite",)),
            pick(effort, (1, 2), (1, 2), (1,)),
            pick(effort, PRECISIONS, ("fp32", "int8"), ("fp32",)),
            notes,
        )
        rows = [row for build in found for row in _rows(build, effort, threads, notes)]
        # A limit is the most that was seen: measured before and after, so that a short disturbance does not lower it.
        limits = {count: max(limits[count], again) for count, again in _limits(threads, effort).items()}
        rows = [row | {"share": row["gmacs"] / limits[str(row["threads"])]} for row in rows]
        if has_cuda():
            notes.append("A GPU is here: `python -m benchmarks gpu` measures it.")
    results = {"rows": rows, "cpu_limit_gmacs": limits, "paper_ms": PAPER_MS}
    report = Report("latency", effort, None, results, threads, notes=notes)
    judge(report)
    return report


def _limits(threads: list[int], effort: str) -> dict[str, float]:
    return {str(count): cpu_limit(count, pick(effort, 15, 7, 1)) for count in threads}


def _rows(build: Build, effort: str, threads: list[int], notes: list[str]) -> Iterator[dict]:
    batches = pick(effort, (1, 2, 4, 8), (1,) if build.width == "full" else (1, 4), (1,))
    work = multiplications(load_checkpoint(build.checkpoint)[0].config)
    for engine in (name for name in ENGINES if name != "tensorrt"):
        models = {"fp32": build.checkpoint} if engine == "torch" else build.onnx
        for precision, path in models.items():
            for count in threads:
                loaded = _loaded(path, engine, count, notes)
                if loaded is None:
                    continue
                for batch in batches:
                    timing = _timing(loaded, batch, effort, build.width == "full")
                    rate = batch * work / timing.median / 1e6
                    yield {
                        "engine": engine, "precision": precision, "build": build.name, "weights": build.weights,
                        "hourglasses": build.hourglasses, "width": build.width, "threads": count, "batch": batch,
                        "milliseconds": timing, "gmacs": rate,
                    }  # fmt: skip
                loaded.close()


def _loaded(path: Path, engine: str, threads: int, notes: list[str]) -> Engine | None:
    try:
        return load_engine(path, engine, threads, device="cpu")
    except EngineUnavailable as problem:
        line = f"{engine} is not here: {problem}"
    except TabrtError as problem:
        line = f"{engine} cannot run {path.name}: {problem}"
    if line not in notes:
        notes.append(line)
    return None


def _timing(engine: Callable, batch: int, effort: str, slow: bool) -> Timing:
    pictures = crops(batch)
    runs, warmup = (pick(effort, 10, 5, 2), pick(effort, 2, 1, 1)) if slow else (pick(effort, 100, 15, 3), 3)
    runs = max(min(runs, 3), runs // batch)
    return timed(lambda: engine(pictures), runs, warmup)


def judge(report: Report) -> None:
    """The paper's 17 and 27 ms: on a CPU a comparison. On a GPU they are a promise, which `benchmarks gpu` judges."""
    most = max(report.threads)
    for row in report.results["rows"]:
        if (row["batch"], row["threads"], row["precision"], row["engine"]) == (1, most, "fp32", "onnxruntime"):
            paper = PAPER_MS[row["hourglasses"]]
            line = f"CPU, {most} thread(s), {row['build']}: {row['milliseconds']} ms; paper's GPU {paper} ms"
            (report.wins if row["milliseconds"].median <= paper else report.losses).append(line)


def table(report: Report) -> str:
    limits = ", ".join(f"{rate:.0f} on {count}" for count, rate in report.results["cpu_limit_gmacs"].items())
    rows = [
        [row["build"], row["engine"], row["precision"], row["threads"], row["batch"], row["milliseconds"],
         row["milliseconds"].median / row["batch"], row["gmacs"], f"{100 * row['share']:.0f}"]
        for row in report.results["rows"]
    ]  # fmt: skip
    header = ["", "engine", "precision", "threads", "batch", "ms (quartiles)", "ms a face", "GMAC/s", "% of limit"]
    parts = [_paper_table(report), f"Limit: {limits} thread(s), GMAC/s.", markdown(header, rows)]
    return "\n\n".join(part for part in parts if part)


def _paper_table(report: Report) -> str:
    """The paper's Table: milliseconds by hourglasses, full width, batch 1; beside it what was measured."""
    most = max(report.threads)
    wanted = [row for row in report.results["rows"] if row["batch"] == 1 and row["threads"] == most]
    lines: dict[str, dict[int, object]] = {"paper, TITAN X": dict(PAPER_MS)}
    for row in wanted:
        name = f"this CPU, {row['width']}, {row['engine']} {row['precision']}"
        lines.setdefault(name, {})[row["hourglasses"]] = row["milliseconds"]
    return markdown(
        ["batch 1, ms", "1 hourglass", "2 hourglasses"], [[name, t.get(1), t.get(2)] for name, t in lines.items()]
    )


def plots(report: Report) -> None:
    rows = report.results["rows"]
    most = max(report.threads)
    widths = sorted({row["width"] for row in rows}, reverse=True)
    fig, axes = figure(len(widths), width=5.6, height=3.8)
    for ax, width in zip(axes, widths, strict=True):
        mine = [row for row in rows if row["width"] == width and row["batch"] == 1 and row["threads"] == most]
        groups = sorted({row["hourglasses"] for row in mine})
        series: dict[str, list] = {}
        for row in sorted(mine, key=lambda row: (row["engine"], row["precision"])):
            name = f"{row['engine']} {row['precision']}"
            series.setdefault(name, [None] * len(groups))[groups.index(row["hourglasses"])] = row["milliseconds"].median
        bars(ax, [f"{count} hourglass{'es' * (count > 1)}" for count in groups], series, "milliseconds, batch 1")
        _distinct_colours(ax, [f"{row['engine']} {row['precision']}" for row in rows])
        for index, count in enumerate(groups):
            ax.plot(
                [index - 0.45, index + 0.45],
                [PAPER_MS[count]] * 2,
                "k--",
                lw=1,
                label="paper, TITAN X" if not index else None,
            )
        ax.set_title(f"{width} width, {most} thread{'s' * (most > 1)}", fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()  # the lite width has every precision
    fig.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    save(fig, report.folder / "latency.png")


def _distinct_colours(ax, names: list[str]) -> None:
    """Give each engine and precision the same colour on all axes."""
    import matplotlib.pyplot as plt

    known = sorted(set(names))
    for container in ax.containers:
        colour = plt.get_cmap("tab10")(known.index(container.get_label()) % 10)
        for bar in container:
            bar.set_color(colour)
