"""A model repository for NVIDIA's Triton Inference Server: how tabrt scales past one machine."""

from __future__ import annotations

from pathlib import Path

from tabrt.card import MAX_BATCH, ModelCard
from tabrt.exporting.export import export_onnx
from tabrt.files import write_atomically
from tabrt.network.checkpoint import load_checkpoint
from tabrt.topology import BOUNDARY_CHANNELS

VERSION = "1"
DELAY = 2000  # microseconds a request may wait for others to share its batch
MOUNTED = "/models"  # where the server sees the repository
WORKSPACE = 2**30  # bytes TensorRT may use while it builds


def write_repository(checkpoint: Path, folder: Path, tensorrt: bool = False) -> str:
    """Write <folder>/<model>/config.pbtxt and <folder>/<model>/1/model.onnx; says how to start the server.

    tensorrt: the server builds a TensorRT FP16 engine for its own GPU from the ONNX file, and keeps it.
    """
    card = load_checkpoint(checkpoint)[1]
    place = folder / card.name
    report = export_onnx(checkpoint, place / VERSION / "model.onnx")
    write_atomically(place / "config.pbtxt", config(card, tensorrt).encode())
    start = (
        f"docker run --rm {'--gpus all ' if tensorrt else ''}-p 8000:8000 -p 8001:8001 -v {folder.resolve()}:{MOUNTED} "
        f"nvcr.io/nvidia/tritonserver:25.06-py3 tritonserver --model-repository={MOUNTED}"
    )
    return f"{report}\n{place}: a Triton model; start with: {start}"


def config(card: ModelCard, tensorrt: bool) -> str:
    """config.pbtxt: names, types and sizes without the batch, and dynamic batching."""
    maps, pixels = f"{card.map_size}, {card.map_size}", f"{card.crop_size}, {card.crop_size}, 3"
    text = f"""name: "{card.name}"
backend: "onnxruntime"
max_batch_size: {MAX_BATCH}
input [ {{ name: "crops" data_type: TYPE_UINT8 dims: [ {pixels} ] }} ]
output [
  {{ name: "landmarks" data_type: TYPE_FP32 dims: [ {card.points}, {maps} ] }},
  {{ name: "boundaries" data_type: TYPE_FP32 dims: [ {BOUNDARY_CHANNELS}, {maps} ] }}
]
dynamic_batching {{ max_queue_delay_microseconds: {DELAY} }}
instance_group [ {{ count: 1 kind: {"KIND_GPU" if tensorrt else "KIND_AUTO"} }} ]
"""
    return text + _accelerator(card) if tensorrt else text


def _accelerator(card: ModelCard) -> str:
    """TensorRT in FP16: one engine for every batch, kept in the repository, so that it outlives the container."""
    pixels = f"{card.crop_size}x{card.crop_size}x3"
    batches = {"min": 1, "opt": 1, "max": MAX_BATCH}
    options = {
        "precision_mode": "FP16",
        "max_workspace_size_bytes": str(WORKSPACE),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": f"{MOUNTED}/{card.name}/cache",
        **{f"trt_profile_{kind}_shapes": f"crops:{n}x{pixels}" for kind, n in batches.items()},
    }
    parameters = " ".join(f'parameters {{ key: "{key}" value: "{value}" }}' for key, value in options.items())
    return f"""optimization {{
  execution_accelerators {{ gpu_execution_accelerator: [ {{ name: "tensorrt" {parameters} }} ] }}
}}
"""
