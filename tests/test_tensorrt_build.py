"""Real TensorRT engines, built without a GPU for chosen ones: the optional job `make test-tensorrt`.

TensorRT for RTX builds engines for a compute capability that is not here; only running them needs the GPU.
Torch-TensorRT itself wants a driver at import: stand-ins answer what it asks of one, and it says how it would
partition.
"""

from __future__ import annotations

import os
import re
import time
import types
from pathlib import Path

import pytest
import torch

pytest.importorskip("tensorrt_rtx", reason="needs torch-tensorrt-rtx (1.2 GB): make test-tensorrt")
pytest.importorskip("onnx", reason="needs the extra `export`")

import tensorrt_rtx

from tabrt.card import ModelCard
from tabrt.engines.tensorrt.building import compile_settings, compiled, exported_program, profile
from tabrt.exporting.graph import to_onnx, write_card
from tabrt.exporting.half import half_but
from tabrt.network import Tab, TabConfig
from tabrt.network.folding import folded
from tabrt.variants import WIDTHS

CAPABILITIES = ("SM86", "SM89", "SM120")  # the cards that TensorRT-RTX serves: RTX 30, 40, 50
VARIANTS = [(width, hourglasses) for width in WIDTHS for hourglasses in (1, 2)]


def _network(width: str, hourglasses: int) -> Tab:
    torch.manual_seed(0)
    return Tab(TabConfig.of_width(width, hourglasses=hourglasses)).eval()


def _build(model: bytes, capability: str) -> int:
    """Build an engine for batches 1…16; its size in bytes."""
    logger = tensorrt_rtx.Logger(tensorrt_rtx.Logger.ERROR)
    builder = tensorrt_rtx.Builder(logger)
    network = builder.create_network(0)
    parser = tensorrt_rtx.OnnxParser(network, logger)
    assert parser.parse(model), [str(parser.get_error(index)) for index in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(tensorrt_rtx.ComputeCapability, capability), 0)
    shapes = builder.create_optimization_profile()
    shapes.set_shape("crops", *profile().values())
    config.add_optimization_profile(shapes)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None, f"no engine for {capability}"
    return engine.nbytes


@pytest.mark.parametrize(("width", "hourglasses"), VARIANTS)
def test_engines_build_from_our_onnx(width: str, hourglasses: int, capsys: pytest.CaptureFixture):
    single = to_onnx(_network(width, hourglasses))
    write_card(single, ModelCard(name="build", hourglasses=hourglasses, width=width))
    sizes = {}
    plain = to_onnx(folded(_network(width, hourglasses)))
    for precision, model in (("fp32", single), ("fp16", half_but(plain, ()))):
        for capability in CAPABILITIES:
            start = time.perf_counter()
            size = sizes[precision] = _build(model.SerializeToString(), capability)
            with capsys.disabled():
                took = time.perf_counter() - start
                print(f"\n{width} {hourglasses} {precision} {capability}: {size / 1e6:.1f} MB in {took:.1f} s", end="")
    assert sizes["fp16"] < sizes["fp32"]


@pytest.fixture(scope="module")
def torch_tensorrt():
    """Torch-TensorRT as it is on a machine with an RTX 30 GPU, as far as planning goes."""
    patch = pytest.MonkeyPatch()
    properties = types.SimpleNamespace(name="stand-in", major=8, minor=6, total_memory=8 << 30)
    patch.setattr(torch._C, "_CudaDeviceProperties", object, raising=False)
    patch.setattr(torch.cuda, "get_device_properties", lambda *_: properties)
    patch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 6))
    patch.setattr(torch.cuda, "current_device", lambda: 0)
    patch.setattr(torch.cuda, "mem_get_info", lambda *_: (8 << 30, 8 << 30))
    is_file = os.path.isfile
    patch.setattr(os.path, "isfile", lambda path: "libtorchtrt" not in str(path) and is_file(path))
    try:
        import torch_tensorrt
    except (ImportError, OSError, AttributeError) as problem:
        patch.undo()
        pytest.skip(f"Torch-TensorRT does not load here: {problem}")
    from torch_tensorrt.dynamo.runtime import _TRTEngine

    # What was built cannot be opened without the card: its bytes are kept as they are.
    opened = types.SimpleNamespace
    patch.setattr(
        tensorrt_rtx,
        "Runtime",
        lambda logger: opened(deserialize_cuda_engine=lambda plan: opened(serialize=lambda: bytes(plan))),
    )
    patch.setattr(torch.cuda, "default_stream", lambda *_: None)
    patch.setattr(_TRTEngine.TRTEngine, "_setup_engine", lambda engine: None)
    yield torch_tensorrt
    patch.undo()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("width", "hourglasses"), VARIANTS)
def test_everything_runs_in_one_engine(
    torch_tensorrt, tmp_path: Path, width: str, hourglasses: int, precision: str, capsys: pytest.CaptureFixture
):
    plan = tmp_path / "plan.txt"
    crops = torch_tensorrt.Input(**profile(), dtype=torch.uint8)
    torch_tensorrt.dynamo.compile(
        exported_program(_network(width, hourglasses), "cpu"),
        arg_inputs=[crops],
        dryrun=str(plan),
        **compile_settings(precision, ()),
    )
    text = plan.read_text()
    total, supported = map(int, re.search(r"consists of (\d+) Total Operators, of which (\d+)", text).groups())
    engines = [int(count) for count in re.findall(r"Number of Operators in Engine: (\d+)", text)]
    with capsys.disabled():
        print(f"\n{width} {hourglasses} {precision}: {total} operators, in TensorRT engines {engines}", end="")
    assert supported == total
    assert engines == [total]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("width", "hourglasses"), VARIANTS)
def test_the_compiler_gives_one_engine_of_tensorrts_own_bytes(
    torch_tensorrt, tmp_path: Path, width: str, hourglasses: int, precision: str, capsys: pytest.CaptureFixture
):
    """What `--engine tensorrt` does, but for the running: the same function, the real compiler and builder."""
    network = _network(width, hourglasses)
    start = time.perf_counter()
    plan = compiled(torch_tensorrt, network, precision, (), tmp_path / "timing.bin", device="cpu")
    weights = sum(value.numel() for value in network.parameters()) * (4 if precision == "fp32" else 2)
    with capsys.disabled():
        took = time.perf_counter() - start
        print(f"\n{width} {hourglasses} {precision} compiled: {len(plan) / 1e6:.1f} MB in {took:.1f} s", end="")
    assert 0.9 * weights < len(plan) < 2.5 * weights + 3e6  # and its kernels
