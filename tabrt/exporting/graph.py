"""A network's ONNX graph, and the card that travels in it."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator

import onnx
import torch

from tabrt.card import CARD_KEY, ModelCard
from tabrt.engines import OUTPUTS
from tabrt.network.deployed import Deployed
from tabrt.network.tab import Tab

OPSET = 20


def to_onnx(network: Tab) -> onnx.ModelProto:
    """The deployed network in float32: dynamic batch, every other size constant, nodes named after their modules."""
    model = _traced(network)
    _name_nodes(model)
    return model


def _traced(network: Tab) -> onnx.ModelProto:
    size = network.config.crop_size
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            Deployed(network).eval(),
            (example,),
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=["crops"],
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: torch.export.Dim("faces", min=1, max=1024)},),
            verbose=False,
        )
    assert program is not None  # nothing is returned only where a file is asked for
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' chatter, which tells a user nothing."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _name_nodes(model: onnx.ModelProto) -> None:
    """Name nodes after their modules, and drop the exporter's notes, which tell of source files and their lines."""
    for index, node in enumerate(model.graph.node):
        notes = {note.key: note.value for note in node.metadata_props}
        scopes = re.findall(r"'([^']*)'", notes.get("pkg.torch.onnx.name_scopes", ""))
        module = next((scope for scope in reversed(scopes[:-1]) if scope), "normalise")
        node.name = f"{module}/{node.op_type}_{index}"
        del node.metadata_props[:]
        node.doc_string = ""
    graph = model.graph
    for value in (graph, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""


def write_card(model: onnx.ModelProto, card: ModelCard) -> None:
    """Put the card into a model's metadata, in place of whatever was there."""
    del model.metadata_props[:]
    # The engines refuse a file with this word, ONNX's name for data outside it: in a card it stands escaped.
    text = card.to_json().replace("location", r"\u006cocation")
    onnx.helper.set_model_props(model, {CARD_KEY: text})
