"""Valid models of any size: chains, decoders, tensors added to themselves, loops in loops."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

D = 8
_ROW = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "sequence", D])
_node = helper.make_node


def _constant(name: str, value: object) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def _model(
    nodes: Iterable[NodeProto], last: str, weights: Sequence[onnx.TensorProto] = ()
) -> onnx.ModelProto:
    """Nodes from x to `last`, and a LayerNorm of it."""
    norm = _node("LayerNormalization", [last, "gamma"], ["y"], axis=-1)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    ones = _constant("gamma", np.ones(D, np.float32))
    graph = helper.make_graph([*nodes, norm], "growing", [_ROW], [output], [ones, *weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def relus(count: int) -> onnx.ModelProto:
    """A chain of Relu."""
    names = ["x", *(f"t{i}" for i in range(count))]
    return _model((_node("Relu", [a], [b]) for a, b in pairwise(names)), names[-1])


def adds(count: int) -> onnx.ModelProto:
    """A chain of Add, each of another constant vector of the same name."""
    names = ["x", *(f"t{i}" for i in range(count))]
    pairs = pairwise(names)
    step = _constant("step", np.full(D, 1e-4, np.float32))
    return _model((_node("Add", [a, "step"], [b]) for a, b in pairs), names[-1], [step])


def identities(count: int) -> onnx.ModelProto:
    """A weight behind a chain of Identity."""
    names = ["step", *(f"t{i}" for i in range(count))]
    nodes = [_node("Identity", [a], [b]) for a, b in pairwise(names)]
    step = _constant("step", np.full(D, 1e-4, np.float32))
    return _model([*nodes, _node("Add", ["x", names[-1]], ["sum"])], "sum", [step])


def doubled(count: int) -> onnx.ModelProto:
    """x + x, and the sum of that and itself, and so on: 2^count ways from x to the norm."""
    names = ["x", *(f"t{i}" for i in range(count))]
    return _model((_node("Add", [a, a], [b]) for a, b in pairwise(names)), names[-1])


def shifted(count: int) -> onnx.ModelProto:
    """x + c x, again and again."""
    nodes: list[NodeProto] = []
    last = "x"
    for i in range(count):
        nodes.append(_node("Mul", [last, "c"], [f"m{i}"]))
        nodes.append(_node("Add", [last, f"m{i}"], [f"t{i}"]))
        last = f"t{i}"
    return _model(nodes, last, [_constant("c", np.float32(0.01))])


def decoder(count: int) -> onnx.ModelProto:
    """Pre-norm layers with a gated MLP each on one residual stream; eight nodes per layer."""
    rng = np.random.default_rng(0)
    nodes: list[NodeProto] = []
    weights: list[onnx.TensorProto] = []
    last = "x"
    for i in range(count):
        weights.append(_constant(f"gamma{i}", np.ones(D, np.float32)))
        for name in ("gate", "up", "down"):
            matrix = (rng.normal(size=(D, D)) * 0.1).astype(np.float32)
            weights.append(_constant(f"{name}{i}", matrix))
        nodes += [
            _node("SimplifiedLayerNormalization", [last, f"gamma{i}"], [f"n{i}"], axis=-1),
            _node("MatMul", [f"n{i}", f"gate{i}"], [f"h{i}"]),
            _node("MatMul", [f"n{i}", f"up{i}"], [f"u{i}"]),
            _node("Sigmoid", [f"h{i}"], [f"s{i}"]),
            _node("Mul", [f"h{i}", f"s{i}"], [f"a{i}"]),
            _node("Mul", [f"a{i}", f"u{i}"], [f"p{i}"]),
            _node("MatMul", [f"p{i}", f"down{i}"], [f"o{i}"]),
            _node("Add", [last, f"o{i}"], [f"r{i}"]),
        ]
        last = f"r{i}"
    return _model(nodes, last, weights)


def quantised_decoder(count: int) -> onnx.ModelProto:
    """Pre-norm layers with products of integers; 13 nodes per layer.

    What they add grows to the thousandfold, so that no one power of two serves all norms, and the
    weight in front of it is a number that multiplies the scale of the integers.
    """
    rng = np.random.default_rng(0)
    nodes: list[NodeProto] = []
    weights = [_constant("zero", np.int8(0))]
    last = "x"
    for i in range(count):
        weights.append(_constant(f"gamma{i}", np.ones(D, np.float32)))
        nodes.append(
            _node("SimplifiedLayerNormalization", [last, f"gamma{i}"], [f"up_in{i}"], axis=-1)
        )
        for name, scale in (("up", 0.01), ("down", 0.01 * 1000 ** (i / count))):
            integers = rng.integers(-127, 128, (D, D)).astype(np.int8)
            weights.append(_constant(f"{name}{i}", integers))
            weights.append(_constant(f"{name}_scale{i}", np.float32(scale)))
            nodes += [
                _node(
                    "DynamicQuantizeLinear",
                    [f"{name}_in{i}"],
                    [f"{name}_q{i}", f"{name}_s{i}", f"{name}_z{i}"],
                ),
                _node(
                    "MatMulInteger",
                    [f"{name}_q{i}", f"{name}{i}", f"{name}_z{i}", "zero"],
                    [f"{name}_m{i}"],
                ),
                _node("Cast", [f"{name}_m{i}"], [f"{name}_c{i}"], to=TensorProto.FLOAT),
                _node("Mul", [f"{name}_s{i}", f"{name}_scale{i}"], [f"{name}_f{i}"]),
                _node("Mul", [f"{name}_c{i}", f"{name}_f{i}"], [f"{name}_out{i}"]),
            ]
            if name == "up":
                nodes.append(_node("Relu", [f"up_out{i}"], [f"down_in{i}"]))
        nodes.append(_node("Add", [last, f"down_out{i}"], [f"r{i}"]))
        last = f"r{i}"
    return _model(nodes, last, weights)


def nested_loops(depth: int) -> onnx.ModelProto:
    """A norm in the innermost of so many loops of two iterations each."""
    make = helper.make_tensor_value_info

    def body(level: int) -> onnx.GraphProto:
        inner = _node("LayerNormalization", ["v0", "gamma"], ["z0"], axis=-1)
        if level:
            inner = _node("Loop", ["two", "", f"v{level}"], [f"z{level}"], body=body(level - 1))
        inputs = [
            make(f"i{level}", TensorProto.INT64, []),
            make(f"go{level}", TensorProto.BOOL, []),
            make(f"v{level}", TensorProto.FLOAT, None),
        ]
        outputs = [
            make(f"on{level}", TensorProto.BOOL, []),
            make(f"z{level}", TensorProto.FLOAT, None),
        ]
        going = _node("Identity", [f"go{level}"], [f"on{level}"])
        return helper.make_graph([inner, going], f"body{level}", inputs, outputs)

    loop = _node("Loop", ["two", "", "x"], ["out"], body=body(depth - 1))
    return _model([loop], "out", [_constant("two", np.int64(2))])


def circle() -> onnx.ModelProto:
    """Two Identity nodes that read each other: no model that can run."""
    nodes = [_node("Identity", ["b"], ["a"]), _node("Identity", ["a"], ["b"])]
    return _model([*nodes, _node("Add", ["x", "b"], ["sum"])], "sum")


GROWING: dict[str, Callable[[int], onnx.ModelProto]] = {
    "Relu": relus,
    "Add": adds,
    "Identity of a weight": identities,
    "x + c x": shifted,
    "decoder layers": decoder,
    "decoder layers of integers": quantised_decoder,
}
