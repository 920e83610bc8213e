"""A norm by itself, as the finder gives it."""

from __future__ import annotations

from dataclasses import replace

import onnx

from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.norms.norm import Norm


def norm_named(name: str, centred: bool = False) -> Norm:
    """A norm as the finder gives it."""
    op = "LayerNormalization" if centred else "SimplifiedLayerNormalization"
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 17]>
        main (float[rows, 4] x, float[4] g) => (float[rows, 4] y) {{ y = {op}<axis = -1>(x, g) }}
    """)
    (norm,) = find_norms_in(read_graph(model))
    return replace(norm, name=name)
