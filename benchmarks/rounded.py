"""Every op of a model rounded to FP16, by Casts alone: evidence that owes nothing to the emulator.

Behind each op that gives floats stands a Cast to FP16 and back. A norm that is one op is written
out first, and the sum behind a mean is rounded too, as a device without wide accumulators has it.
What ops of other domains do inside stays in FP32: such a run finds too little wrong, never too
much. Integer accumulators are rounded behind their scales, as runtimes compute them. ONNX Runtime's
CPU provider alone would hide every overflow.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from slanc_onnx.graph import Array

NORMS = {"LayerNormalization": True, "SimplifiedLayerNormalization": False}
NORMS |= {"RMSNormalization": False}
WITH_BODY = {"If", "Loop", "Scan"}


def every_op_rounded(model: onnx.ModelProto, clips: bool = True) -> onnx.ModelProto:
    """The same model in FP32 with every float result of its main graph rounded to FP16.

    Args:
        model: In FP32; opset 10 or later.
        clips: Whether finite constants beyond FP16 become its largest number, as converters make
            them; without it they stay, and what is computed of them becomes infinite.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kinds = _element_types(copy)
    names = (f"rounded.{n}" for n in range(1 << 62))
    nodes: list[NodeProto] = []
    integer_sums = {n.output[0] for n in copy.graph.node if n.op_type.endswith("Integer")}
    opset = next((o.version for o in copy.opset_import if o.domain in ("", "ai.onnx")), 17)
    for node in copy.graph.node:
        if node.op_type in NORMS and len([o for o in node.output if o]) == 1:
            nodes += _written_out(node, names, opset)
            continue
        held = node.op_type == "Constant" and node.attribute[0].HasField("t")
        if held or (node.op_type == "Cast" and node.input[0] in integer_sums):
            nodes.append(node)
        else:
            nodes += _with_rounding(node, kinds, names)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    constants = (n for n in copy.graph.node if n.op_type == "Constant")
    made = [a.t for n in constants for a in n.attribute if a.HasField("t")]
    for tensor in (*copy.graph.initializer, *made):
        if tensor.data_type == TensorProto.FLOAT and not tensor.external_data:
            values = numpy_helper.to_array(tensor)
            with np.errstate(over="ignore"):
                half = values.astype(np.float16).astype(np.float32)
            beyond = np.isinf(half) & np.isfinite(values)
            half = np.where(beyond, np.clip(values, -65504, 65504) if clips else values, half)
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    return copy


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    infos = (*inferred.input, *inferred.value_info, *inferred.output)
    return {info.name: info.type.tensor_type.elem_type for info in infos}


def _rounding(source: str, result: str, names: Iterator[str]) -> list[NodeProto]:
    half = next(names)
    return [
        helper.make_node("Cast", [source], [half], to=TensorProto.FLOAT16),
        helper.make_node("Cast", [half], [result], to=TensorProto.FLOAT),
    ]


def _with_rounding(
    node: NodeProto, kinds: dict[str, int], names: Iterator[str]
) -> Iterator[NodeProto]:
    """A node, and behind it the rounding of what it gives."""
    behind: list[NodeProto] = []
    given = NodeProto()
    given.CopyFrom(node)
    for position, name in enumerate(node.output):
        if kinds.get(name) == TensorProto.FLOAT and node.op_type not in WITH_BODY:
            given.output[position] = source = next(names)
            if node.op_type in ("ReduceMean", "GlobalAveragePool"):
                behind += _through_sum(node.input[0], source, names)
                source = behind[-1].output[0]
            behind += _rounding(source, name, names)
    yield given
    yield from behind


def _through_sum(x: str, mean: str, names: Iterator[str]) -> list[NodeProto]:
    """The mean by way of its sum, which is rounded."""
    all_of, some, count, length, total, held, result = (next(names) for _ in range(7))
    return [
        helper.make_node("Size", [x], [all_of]),
        helper.make_node("Size", [mean], [some]),
        helper.make_node("Div", [all_of, some], [count]),
        helper.make_node("Cast", [count], [length], to=TensorProto.FLOAT),
        helper.make_node("Mul", [mean, length], [total]),
        *_rounding(total, held, names),
        helper.make_node("Div", [held, length], [result]),
    ]


def _written_out(node: NodeProto, names: Iterator[str], opset: int) -> list[NodeProto]:
    """A norm over the last axis in steps, each rounded; epsilon is rounded as what it is added to.

    An epsilon that would vanish is the smallest number instead, as the tool takes devices to do.
    """
    found: list[NodeProto] = []
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}

    def step(op: str, *inputs: str) -> str:
        exact, result = next(names), next(names)
        found.append(helper.make_node(op, inputs, [exact]))
        found.extend(_rounding(exact, result, names))
        return result

    def mean(x: str) -> str:
        exact, result = next(names), next(names)
        if opset < 18:
            found.append(helper.make_node("ReduceMean", [x], [exact], axes=[-1]))
        else:
            found.append(helper.make_node("ReduceMean", [x, constant(np.array([-1]))], [exact]))
        found.extend(_through_sum(x, exact, names))
        found.extend(_rounding(found[-1].output[0], result, names))
        return result

    def constant(value: Array) -> str:
        name = next(names)
        found.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value)))
        return name

    axis = int(attributes.get("axis", -1))
    if axis != -1:
        raise ValueError(f"a norm from axis {axis} on is not written out")
    x = step("Identity", node.input[0])
    if NORMS[node.op_type]:
        x = step("Sub", x, mean(x))
    squares = mean(step("Mul", x, x))
    epsilon = max(np.float16(attributes.get("epsilon", 1e-5)), np.float16(2**-24))
    added = step("Add", squares, constant(np.array(epsilon, np.float32)))
    y = step("Div", x, step("Sqrt", added))
    for op, name in zip(("Mul", "Add"), node.input[1:], strict=False):
        y = step(op, y, name) if name else y
    found.append(helper.make_node("Identity", [y], [node.output[0]]))
    return found
