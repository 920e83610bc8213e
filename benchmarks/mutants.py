"""Mutants of a model: ways to damage its structure, and its bytes.

Every change is drawn from a `random.Random`, so a number stands for a mutant.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper

from slanc_onnx.trace.rules import RULES

T = TypeVar("T")
Change = Callable[[onnx.ModelProto, random.Random], None]

_INTS = (0, 1, -1, 2, 3, 7, -2, 64, 255, -100, 2**31, 2**62, -(2**63), 2**63 - 1)
_FLOATS = (0.0, -1.0, 1e-5, 1e30, -1e30, 3e38, 1e-45, float("inf"), float("-inf"), float("nan"))
_DIMS = (0, 1, 2, 3, 5, 1000, -1, -(2**62), 2**31, 2**40, 2**62)
_TEXTS = (b"", b"abc", b"\xff\xfe", b"\x1b[31m", b"ij,jk->ik", b"NOTSET", b"x" * 3000)
_NAMES = ("", "x", "\x1b[2J", "ü" * 40, "a/b", "[bold]", "x" * 3000)
_SCALES = ("nan", "abc", "", "inf", "-1", "0", "1e400", "0.3", "2", "4.0", "1_0", "\x1b[31m2")


def of(rng: random.Random, choices: Sequence[T]) -> T | None:
    """One of some things, None where there are none."""
    return rng.choice(choices) if choices else None


def _bodies(model: onnx.ModelProto) -> Iterator[Any]:
    """Everything that holds nodes: graphs and functions."""
    waiting: list[Any] = [model.graph, *model.functions]
    while waiting:
        body = waiting.pop(0)
        yield body
        for node in body.node:
            waiting += [a.g for a in node.attribute if a.type == AttributeProto.GRAPH]


def _graphs(model: onnx.ModelProto) -> list[GraphProto]:
    return [body for body in _bodies(model) if isinstance(body, GraphProto)]


def _nodes(model: onnx.ModelProto) -> list[NodeProto]:
    return [node for body in _bodies(model) for node in body.node]


def _attributes(model: onnx.ModelProto) -> list[AttributeProto]:
    return [attribute for node in _nodes(model) for attribute in node.attribute]


def _tensors(model: onnx.ModelProto) -> list[TensorProto]:
    held = [a.t for a in _attributes(model) if a.type == AttributeProto.TENSOR]
    return [*(t for g in _graphs(model) for t in g.initializer), *held]


def _infos(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    return [i for g in _graphs(model) for i in (*g.input, *g.output, *g.value_info)]


def _names(model: onnx.ModelProto) -> list[str]:
    """All names of tensors."""
    return sorted({n for node in _nodes(model) for n in (*node.input, *node.output)}) or [""]


def _fill(attribute: AttributeProto, rng: random.Random) -> None:
    """Give an attribute another value of some kind, its name kept."""
    name = attribute.name
    attribute.Clear()
    attribute.name = name
    kind = rng.randrange(9)
    if kind == 0:
        attribute.type, attribute.i = AttributeProto.INT, rng.choice(_INTS)
    elif kind == 1:
        attribute.type, attribute.f = AttributeProto.FLOAT, rng.choice(_FLOATS)
    elif kind == 2:
        attribute.type, attribute.s = AttributeProto.STRING, rng.choice(_TEXTS)
    elif kind == 3:
        attribute.type = AttributeProto.INTS
        attribute.ints.extend(rng.choice(_INTS) for _ in range(rng.randrange(4)))
    elif kind == 4:
        attribute.type = AttributeProto.FLOATS
        attribute.floats.extend(rng.choice(_FLOATS) for _ in range(rng.randrange(3)))
    elif kind == 5:
        attribute.type = AttributeProto.TENSOR
        attribute.t.CopyFrom(helper.make_tensor("t", TensorProto.INT64, [2], [1, 2]))
    elif kind == 6:
        attribute.type = rng.choice((AttributeProto.FLOAT, AttributeProto.INT))
        attribute.ref_attr_name = "outside"
    elif kind == 7:
        attribute.type = AttributeProto.GRAPH
    else:
        attribute.type = AttributeProto.STRINGS
        attribute.strings.extend([b"a", b"\xff"])


def change_attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    """Another value, of the same kind or another."""
    attribute = of(rng, _attributes(model))
    if attribute is None:
        return
    same = rng.random() < 0.5
    if same and attribute.type == AttributeProto.INT:
        attribute.i = rng.choice(_INTS)
    elif same and attribute.type == AttributeProto.FLOAT:
        attribute.f = rng.choice(_FLOATS)
    elif same and attribute.type == AttributeProto.INTS and attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(_INTS)
    elif same:
        attribute.type = rng.choice(AttributeProto.AttributeType.values())
    else:
        _fill(attribute, rng)


def add_attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    """A further attribute: known elsewhere, told twice, or of no meaning."""
    node = of(rng, _nodes(model))
    if node is None:
        return
    known = sorted({a.name for a in _attributes(model)} | {"axis", "epsilon", "to", "axes"})
    _fill(node.attribute.add(name=rng.choice([*known, "other"])), rng)


def drop_attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    """One attribute less, a subgraph perhaps; or one twice."""
    node = of(rng, [node for node in _nodes(model) if node.attribute])
    if node is None:
        return
    if rng.random() < 0.2:
        node.attribute.add().CopyFrom(rng.choice(node.attribute))
    else:
        del node.attribute[rng.randrange(len(node.attribute))]


def drop_inputs(model: onnx.ModelProto, rng: random.Random) -> None:
    """Fewer inputs or outputs, or an empty name among them."""
    node = of(rng, _nodes(model))
    if node is None:
        return
    names = node.input if rng.random() < 0.7 or not node.output else node.output
    if not names:
        return
    place = rng.randrange(len(names))
    if rng.random() < 0.3:
        names[place] = ""
    else:
        del names[place:]


def rewire(model: onnx.ModelProto, rng: random.Random) -> None:
    """Another tensor read, or made twice: circles, duplicates, names of nothing."""
    node = of(rng, _nodes(model))
    if node is None:
        return
    names = node.input if rng.random() < 0.7 or not node.output else node.output
    new = rng.choice([*_names(model), *_NAMES[:3], "of nobody"])
    if names and rng.random() < 0.85:
        names[rng.randrange(len(names))] = new
    else:
        names.append(new)


def move_node(model: onnx.ModelProto, rng: random.Random) -> None:
    """A node twice, somewhere else, in another graph, or gone."""
    bodies = [body for body in _bodies(model) if body.node]
    body, other = of(rng, bodies), of(rng, bodies)
    if body is None or other is None:
        return
    place = rng.randrange(len(body.node))
    node = NodeProto()
    node.CopyFrom(body.node[place])
    if rng.random() < 0.6:
        del body.node[place]
    if rng.random() < 0.6:
        other.node.insert(rng.randrange(len(other.node) + 1), node)


def swap_op(model: onnx.ModelProto, rng: random.Random) -> None:
    """Another op, of another domain perhaps."""
    node = of(rng, _nodes(model))
    if node is None:
        return
    ops = [*sorted(RULES), *(n.op_type for n in _nodes(model))]
    node.op_type = rng.choice([*ops, "If", "Loop", "Scan", "Constant", "", "\x1b[31mRed"])
    if rng.random() < 0.3:
        node.domain = rng.choice(("", "ai.onnx", "com.microsoft", "local", "\x1b"))


def repeat_node(model: onnx.ModelProto, rng: random.Random) -> None:
    """A chain of copies of a node, each reading the output of the last in one or all places."""
    body = of(rng, [body for body in _bodies(model) if body.node])
    if body is None:
        return
    place = rng.randrange(len(body.node))
    first = body.node[place]
    if not first.input or not first.output:
        return
    position, every = rng.randrange(len(first.input)), rng.random() < 0.5
    last = first.input[position]
    for i in range(rng.choice((2, 5, 15, 40))):
        node = NodeProto()
        node.CopyFrom(first)
        for at in range(len(node.input)) if every else [position]:
            node.input[at] = last
        last = node.output[0] = f"again{i}"
        body.node.insert(place + i, node)
    body.node[place + i + 1].input[position] = last


def change_tensor(model: onnx.ModelProto, rng: random.Random) -> None:
    """Dims, type, data or place of the data of a weight."""
    tensor = of(rng, _tensors(model))
    if tensor is None:
        return
    what = rng.choice(("dims", "dims", "type", "raw", "place", "name", "values", "none"))
    if what == "dims" and tensor.dims and rng.random() < 0.6:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(_DIMS)
    elif what == "dims":
        del tensor.dims[:]
        tensor.dims.extend(rng.choice(_DIMS) for _ in range(rng.randrange(5)))
    elif what == "type":
        tensor.data_type = rng.choice((*TensorProto.DataType.values(), 99, -1))
    elif what == "raw":
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
    elif what == "place":
        tensor.data_location = TensorProto.EXTERNAL
        for key in ("location", "offset", "length"):
            texts = ("", "0", "-4", "99999999999999999999", "abc", "../x", "model.onnx")
            tensor.external_data.add(key=key, value=rng.choice(texts))
    elif what == "name":
        tensor.name = rng.choice([*_names(model), *_NAMES])
    elif what == "values" and tensor.data_type == TensorProto.FLOAT and tensor.raw_data:
        count = len(tensor.raw_data) // 4
        tensor.raw_data = struct.pack("<f", rng.choice(_FLOATS)) * count
    else:
        empty = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0])
        tensor.CopyFrom(empty)


def change_info(model: onnx.ModelProto, rng: random.Random) -> None:
    """Type or shape of an input, an output or a tensor between."""
    info = of(rng, _infos(model))
    if info is None:
        return
    kind = info.type.tensor_type
    what = rng.choice(("dim", "dim", "rank", "type", "other", "name"))
    if what == "dim" and kind.shape.dim:
        dim = rng.choice(kind.shape.dim)
        if rng.random() < 0.3:
            dim.dim_param = rng.choice(("", "past", "N+1", "\x1b[31m"))
        else:
            dim.dim_value = rng.choice(_DIMS)
    elif what == "rank":
        del kind.shape.dim[:]
        for _ in range(rng.randrange(7)):
            kind.shape.dim.add(dim_value=rng.choice(_DIMS[:5]))
    elif what == "type":
        kind.elem_type = rng.choice((*TensorProto.DataType.values(), 99))
    elif what == "other":
        info.type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    else:
        info.name = rng.choice([*_names(model), *_NAMES])


def change_io(model: onnx.ModelProto, rng: random.Random) -> None:
    """Inputs, outputs and weights of a graph: twice, gone, a weight that is an input as well."""
    graph = of(rng, _graphs(model))
    if graph is None:
        return
    fields = of(rng, [f for f in (graph.input, graph.output, graph.initializer) if f])
    if fields is None:
        return
    place = rng.randrange(len(fields))
    what = rng.randrange(3)
    if what == 0:
        del fields[place]
    elif what == 1:
        fields.add().CopyFrom(fields[place])
    else:
        weight = of(rng, list(graph.initializer))
        name = weight.name if weight is not None else "x"
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))


def change_versions(model: onnx.ModelProto, rng: random.Random) -> None:
    """IR version and opsets."""
    what = rng.randrange(4)
    if what == 0:
        model.ir_version = rng.choice((0, 1, 3, 8, 99, -1, 2**40))
    elif what == 1 and model.opset_import:
        rng.choice(model.opset_import).version = rng.choice((0, 1, 6, 9, 12, 23, 99, -5, 2**62))
    elif what == 2:
        model.opset_import.add(domain=rng.choice(("", "local", "\xff")), version=rng.choice(_INTS))
    elif model.opset_import:
        del model.opset_import[rng.randrange(len(model.opset_import))]


def change_notes(model: onnx.ModelProto, rng: random.Random) -> None:
    """Notes of scales that no run of the tool has left, and names that a terminal obeys."""
    node = of(rng, _nodes(model))
    if node is None:
        return
    if rng.random() < 0.3:
        node.name = rng.choice(_NAMES)
    for _ in range(rng.choice((1, 1, 2))):
        key = rng.choice(("slanc.scale", "slanc.scale", "slanc.norm", "slanc.applied"))
        node.metadata_props.add(key=key, value=rng.choice(_SCALES))


def change_function(model: onnx.ModelProto, rng: random.Random) -> None:
    """A function with other inputs, attributes or calls, itself among them."""
    function = of(rng, list(model.functions))
    if function is None:
        return change_notes(model, rng)
    what = rng.randrange(5)
    if what == 0 and function.input:
        del function.input[rng.randrange(len(function.input))]
    elif what == 1 and function.output:
        function.output[0] = "of nobody"
    elif what == 2:
        function.node.add(op_type=function.name, domain=function.domain, output=["loop"])
    elif what == 3 and function.node:
        node = rng.choice(function.node)
        node.attribute.add(name="epsilon", ref_attr_name="missing", type=AttributeProto.FLOAT)
    else:
        function.name = rng.choice(("LayerNormalization", "", "other"))
    return None


CHANGES: tuple[Change, ...] = (
    change_attribute,
    change_attribute,
    add_attribute,
    drop_attribute,
    drop_inputs,
    rewire,
    move_node,
    swap_op,
    repeat_node,
    change_tensor,
    change_tensor,
    change_info,
    change_io,
    change_versions,
    change_notes,
    change_function,
)


def damaged_structure(model: onnx.ModelProto, rng: random.Random) -> bytes:
    """The bytes of a model after one to three changes of its structure."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(CHANGES)(copy, rng)
    whole: bytes = copy.SerializeToString()
    return whole


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, put in, taken out or cut off, in one to eight places."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        place, what = rng.randrange(len(damaged) + 1), rng.randrange(8)
        if what < 4 and place < len(damaged):
            damaged[place] = rng.choice((damaged[place] ^ (1 << rng.randrange(8)), 0, 255, 127))
        elif what < 6:
            damaged[place:place] = rng.randbytes(rng.choice((1, 2, 8)))
        elif what == 6:
            del damaged[place : place + rng.choice((1, 2, 8))]
        elif rng.random() < 0.3:
            del damaged[place:]
    return bytes(damaged)
