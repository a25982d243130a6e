"""What an ONNX model computes on the way to its outputs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from tabrt.engines.parity import quiet_session


def inner_values(model: onnx.ModelProto, crops: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """Every value that the nodes give, outputs included, by name: for one crop of uint8 (N, 256, 256, 3) at a time."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    promised = {value.name for value in model.graph.output}
    names = [name for node in model.graph.node for name in node.output]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in promised)
    session = quiet_session(watched.SerializeToString())
    for crop in crops:
        yield dict(zip(names, session.run(names, {"crops": crop[None]}), strict=True))
