"""A model with everything in FP16, as a device computes that: a rounding behind every op.

ONNX Runtime's CPU provider computes most ops of an FP16 file in FP32 and rounds few results; here
each result, each weight and each input passes a Cast to FP16 and back, weights clipped to its
range as converters clip masks. Fused ops and the sums of a MatMul stay in FP32 inside. It shares no
code with the emulation of the package.
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.oracles.unoptimised import Values, run

LARGEST = 65504.0
HALF = {TensorProto.FLOAT16, TensorProto.BFLOAT16}


def run_rounded(model: onnx.ModelProto, **feeds: NDArray[Any]) -> Values:
    """The outputs of a model without subgraphs, each float rounded to FP16 behind every op."""
    types = _element_types(model)
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    graph = rounded.graph
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype in (np.float16, np.float32):
            kept = _rounded(np.clip(values, -LARGEST, LARGEST))
            tensor.CopyFrom(numpy_helper.from_array(kept, tensor.name))
    nodes = []
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in HALF:
                attribute.i = TensorProto.FLOAT
        floats = [
            name for name in node.output if types.get(name) in {TensorProto.FLOAT, *HALF} and name
        ]
        for index, name in enumerate(node.output):
            node.output[index] = f"{name}/as computed" if name in floats else name
        nodes.append(node)
        for name in floats:
            short = f"{name}/short"
            nodes.append(helper.make_node("Cast", [f"{name}/as computed"], [short], to=10))
            nodes.append(helper.make_node("Cast", [short], [name], to=1))
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    for info in (*graph.input, *graph.output):
        if info.type.tensor_type.elem_type in HALF:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    given = {n: _rounded(v) if v.dtype.kind == "f" else v for n, v in feeds.items()}
    return run(rounded, **given)


def _rounded(values: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model)
    known = {
        info.name: info.type.tensor_type.elem_type
        for info in (*inferred.graph.value_info, *model.graph.output)
    }
    made = {name for node in model.graph.node for name in node.output}
    return {name: known.get(name, TensorProto.FLOAT) for name in made}
