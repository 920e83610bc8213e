"""A model with as many norms as asked for, under names as long as exporters make them."""

import numpy as np
import onnx
from onnx import numpy_helper

from tests.models.four_norms import ROWS


def many_norms(count: int, leaky: int = 0) -> onnx.ModelProto:
    """The model: each norm reads the same rows of about 1000.

    Args:
        count: How many norms.
        leaky: How many of the last of them have their deviation as an output, so that they cannot
            be scaled and their rows still overflow.
    """
    lines, outputs = ["h = Gather(table, ids)"], ["float[1, rows, 32] y"]
    for at in range(count):
        if at < count - leaky:
            lines.append(f"a{at} = LayerNormalization(h, gamma)")
            continue
        outputs.append(f"float[1, rows, 1] d{at}")
        lines += [f"q{at} = Mul(h, h)", f"m{at} = ReduceMean<axes = [-1]>(q{at})"]
        lines += [f"v{at} = Add(m{at}, eps)", f"d{at} = Sqrt(v{at})"]
        lines.append(f"a{at} = Div(h, d{at})")
    made = [f"a{at}" for at in range(count)]
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 17]> main (int64[1, rows] ids) => (PLACE)'
        "<float eps = {1e-5}> {".replace("PLACE", ", ".join(outputs))
        + "\n".join([*lines, f"y = Sum({', '.join(made)})"])
        + "}"
    )
    for node in model.graph.node:
        at = node.output[0][1:]
        if node.output[0].startswith("a"):
            place = ("input_layernorm", "post_attention_layernorm")[int(at) % 2]
            node.name = f"/model/layers.{int(at) // 2}/{place}/{node.op_type}"
    random = np.random.default_rng(3)
    table = (random.normal(size=(ROWS, 32)) * 1000).astype(np.float32)
    gamma = random.uniform(0.5, 1.5, 32).astype(np.float32)
    for name, value in (("table", table), ("gamma", gamma)):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model
