"""What is checked where a model is read, once: the file as a whole, and each node by its schema.

What makes a file no model is refused. A node that breaks the rules of its op is a fault: the scopes
show it as an op that nobody knows, so nothing is read from it, and the reason is kept.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import AttributeProto, NodeProto, TensorProto, TypeProto, checker, helper, numpy_helper

from slanc_onnx.errors import SlancError
from slanc_onnx.graph.contrib import Signature
from slanc_onnx.graph.load import every_graph
from slanc_onnx.graph.signatures import schema_of, signature_of, usual_kinds
from slanc_onnx.graph.stand_ins import Functions, stand_ins
from slanc_onnx.reasons import Fact, Fault, Reason

# Domains whose ops are known by name; an op of that name elsewhere may do anything.
DOMAINS = {None, "", "ai.onnx", "com.microsoft"}

# (node index, attribute name) for each step from the main graph down to a subgraph.
GraphPath = tuple[tuple[int, str], ...]
Faults = dict[GraphPath, dict[int, Reason]]  # by the index of the node

MOST_AXES = 64  # of any tensor: NumPy holds no more
MOST_ELEMENTS = 2**40  # of any tensor that is looked at
_MOST_FED = 2**30  # elements of an input
_SHOWN = 8  # sizes of a shape that messages tell
_SMALL = 64  # elements of a constant that is looked into
_SUBGRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


def check_model(model: onnx.ModelProto) -> None:
    """Refuse what no runtime can read as a model.

    Raises:
        SlancError: a text is no UTF-8, a tensor has two makers, or a weight a shape that its data
            cannot fill.
    """
    tensors = list(_tensors_of(model))
    for graph in every_graph(model.graph):
        inputs = {info.name for info in graph.input}  # which initializers may be the defaults of
        inner = {tensor.name for tensor in graph.initializer} - inputs
        _check_names([*(info.name for info in graph.input), *inner], graph.node)
        _check_inputs(graph)
    for function in model.functions:
        _check_names(function.input, function.node)
        for graph in every_graph(function):
            _check_names([info.name for info in graph.input], graph.node)
    for tensor in tensors:
        _check_size(tensor)


def _tensors_of(message: Message) -> Iterator[TensorProto]:
    """Every tensor in a message; all its texts are read on the way, the tensors' data is not."""
    waiting = [message]
    while waiting:
        part = waiting.pop()
        if isinstance(part, TensorProto):
            _check_text(part.name)
            waiting += list(part.external_data)
            yield part
            continue
        for field, value in part.ListFields():
            if field.message_type is not None:
                waiting += [value] if isinstance(value, Message) else list(value)
            elif field.type == FieldDescriptor.TYPE_STRING:
                for text in [value] if isinstance(value, (str, bytes)) else value:
                    _check_text(text)


def _check_text(text: str | bytes) -> None:
    if isinstance(text, bytes):  # what protobuf makes of a text that it cannot decode
        raise SlancError(
            f"a name or another text in the model is no UTF-8: {text[:60]!r}. The file is damaged: "
            "copy or export it again."
        )


def _check_names(inputs: Sequence[str], nodes: Sequence[NodeProto]) -> None:
    made = [*inputs, *(name for node in nodes for name in node.output)]
    for name, times in Counter(name for name in made if name).items():
        if times > 1:
            raise SlancError(
                f"{name!r} names {times} tensors of one graph, as inputs, weights or outputs of "
                "nodes. No runtime can tell them apart: export the model again."
            )


def _check_inputs(graph: onnx.GraphProto) -> None:
    if any(not info.name for info in graph.input):
        raise SlancError("a graph input has no name. The file is damaged: export it again.")
    for info in graph.input:
        sizes = [d.dim_value for d in info.type.tensor_type.shape.dim if d.dim_value > 0]
        if len(sizes) > MOST_AXES or math.prod(sizes) > _MOST_FED:
            raise SlancError(
                f"the input {info.name!r} has the shape {sizes[:8]}, which no machine holds. "
                "Export the model with its real sizes."
            )
    for info in (*graph.input, *graph.output, *graph.value_info):
        _check_type(info.name, info.type.tensor_type.elem_type, undefined=True)


def _check_type(name: str, element_type: int, undefined: bool = False) -> None:
    known = element_type in TensorProto.DataType.values()
    if not known or (element_type == TensorProto.UNDEFINED and not undefined):
        raise SlancError(
            f"{name!r} has the element type {element_type}, which this version of onnx does not "
            "know. Export the model again, or update onnx."
        )


def _check_size(tensor: TensorProto) -> None:
    _check_type(tensor.name, tensor.data_type)
    sizes = list(tensor.dims)
    # Four bits are the least that an element takes; a message counts its data without copying it.
    inside = tensor.data_location != TensorProto.EXTERNAL and tensor.HasField("raw_data")
    room = 8 * tensor.ByteSize() if inside else 2**62
    if 0 in sizes:  # which no array holds either if the others are enormous
        sizes, room = [max(1, size) if size >= 0 else size for size in sizes], MOST_ELEMENTS
    if any(size < 0 for size in sizes) or len(sizes) > MOST_AXES or math.prod(sizes) > room:
        raise SlancError(
            f"initializer {tensor.name!r} has the shape {sizes[:8]}, which no data fills. The file "
            "is damaged: export it again."
        )


@dataclass(frozen=True)
class _Rules:
    """What nodes are checked by.

    Attributes:
        context: The opsets, as onnx.checker takes them.
        shapes: Whether shape inference follows the nodes.
        functions: The functions of the model, by domain and name.
    """

    context: Any
    shapes: bool
    functions: Functions


def node_faults(model: onnx.ModelProto, *, shapes: bool = True) -> Faults:
    """The nodes of a model that break the rules of their op, and how.

    Args:
        model: The model.
        shapes: Whether shape inference follows the nodes, which may end the process.
    """
    found: Faults = {}
    context = checker.C.CheckerContext()
    context.ir_version = onnx.IR_VERSION
    versions = {opset.domain: opset.version for opset in model.opset_import}
    if "ai.onnx" in versions:  # another name of the same
        versions.setdefault("", versions["ai.onnx"])
    context.opset_imports = {name: min(max(v, 0), 2**31 - 1) for name, v in versions.items()}
    functions = frozenset((f.domain, f.name) for f in model.functions)
    _read_faults(model.graph, (), ({}, frozenset()), _Rules(context, shapes, functions), found)
    return found


def _read_faults(
    graph: onnx.GraphProto,
    path: GraphPath,
    outer: tuple[Mapping[str, TypeProto | TensorProto], Set[str]],
    rules: _Rules,
    found: Faults,
) -> None:
    """The faults of a graph and of those in it; types are followed from the inputs on.

    Args:
        graph: The graph.
        path: Where it lies.
        outer: The types that are known of tensors of graphs around it, and all their names.
        rules: What they are checked by.
        found: Takes the faults.
    """
    known: dict[str, TypeProto | TensorProto] = dict(outer[0])
    known.update({info.name: _carried(info.type) if path else info.type for info in graph.input})
    known.update({tensor.name: tensor for tensor in graph.initializer})
    named = outer[1] | known.keys() | {name for node in graph.node for name in node.output}
    for index, node in enumerate(graph.node):
        lost = [name for name in node.input if name and name not in named]
        if lost:
            found.setdefault(path, {})[index] = Reason(Fault.NOBODY_MAKES, (lost[0],))
        if node.op_type == "Constant" and node.output and node.domain in DOMAINS:
            values = [a.t for a in node.attribute if a.name == "value" and a.HasField("t")]
            if values and len(node.attribute) == 1:
                known[node.output[0]] = values[0]
                continue
        for name in node.output:  # which may hide a tensor of a graph around this one
            known.pop(name, None)
        try:
            _check_node(node, known, rules)
        except _Broken as broken:
            found.setdefault(path, {}).setdefault(index, broken.reason)
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                inner = (*path, (index, attribute.name))
                _read_faults(attribute.g, inner, (known, named), rules, found)


def _carried(told: TypeProto) -> TypeProto:
    """The type of what a node gives to its subgraph, whose shape the file may tell wrongly."""
    carried = TypeProto()
    carried.tensor_type.elem_type = told.tensor_type.elem_type
    return carried if told.HasField("tensor_type") else told


# Attributes that count something: with 0, or fewer, ONNX Runtime may divide by them.
_COUNTS = {"num_heads", "kv_num_heads", "q_num_heads", "group", "groups", "num_groups"} | {
    "block_size",
    "K",
    "N",
    "num_scan_inputs",
    "num_outputs",
}
_SINGLE = {"If": 1, "Loop": 2}  # first inputs of one element; ONNX Runtime dies of an empty one

# ValueError: of a tensor that onnx cannot read.
_REFUSALS = (checker.ValidationError, onnx.shape_inference.InferenceError, ValueError)


class _Broken(Exception):
    """A node breaks the rules of its op; `reason` says how."""

    def __init__(self, kind: Fault, *facts: Fact) -> None:
        super().__init__(kind, *facts)
        self.reason = Reason(kind, facts)


def _check_node(node: NodeProto, known: dict[str, TypeProto | TensorProto], rules: _Rules) -> None:
    """Check a node, and add the types of its outputs to those that are known.

    Raises:
        _Broken: it breaks the rules of its op.
    """
    if node.domain not in DOMAINS:
        return
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            raise _Broken(Fault.REFERS_OUTSIDE, attribute.name)
        if attribute.name in _COUNTS and attribute.type == AttributeProto.INT and attribute.i < 1:
            raise _Broken(Fault.COUNTS_NOTHING, attribute.name, attribute.i)
        if attribute.name == "to" and attribute.i not in TensorProto.DataType.values():
            raise _Broken(Fault.CASTS_TO_UNKNOWN, attribute.i)
        if attribute.type == AttributeProto.TENSOR:
            _check_data(attribute.t)
    for name in node.input[: _SINGLE.get(node.op_type, 0)]:
        value = known.get(name)
        if isinstance(value, TensorProto) and math.prod(value.dims) != 1:
            raise _Broken(Fault.NO_SINGLE_VALUE, name)
    twice = [n for n, times in Counter(a.name for a in node.attribute).items() if times > 1]
    if twice:
        raise _Broken(Fault.TOLD_TWICE, twice[0])
    imports = rules.context.opset_imports
    standard = node.domain in ("", "ai.onnx")
    schema = schema_of(node.op_type, imports[""]) if standard and "" in imports else None
    # A node with subgraphs is not checked with them: their nodes have faults of their own.
    whole = not any(a.type in _SUBGRAPHS or _is_long(a) for a in node.attribute)
    if schema is None or schema.deprecated or not whole:
        _check_signature(node, signature_of(node.op_type, schema))
        if rules.shapes:
            _follow_fused(node, known, rules)
        return
    if node.domain:  # the other name of the standard ops, which onnx.defs does not take
        named = NodeProto()
        named.CopyFrom(node)
        named.domain = ""
        node = named
    try:
        checker.check_node(node, rules.context)
        if rules.shapes and all(name in known for name in node.input if name):
            made = _types_of_outputs(schema, node, known, imports)
            _check_sizes(made)
            known.update(made)
    except _REFUSALS as error:
        raise _Broken(Fault.REFUSED, _first_line(error)) from error


def _follow_fused(
    node: NodeProto, known: dict[str, TypeProto | TensorProto], rules: _Rules
) -> None:
    """Add the types of a fused op's outputs to those that are known.

    Raises:
        _Broken: one has a shape that no tensor has.
    """
    imports = rules.context.opset_imports
    for like in stand_ins(node, rules.functions):
        schema = schema_of(like.op_type, imports[""]) if "" in imports else None
        if schema is not None and all(name in known for name in like.input):
            with suppress(*_REFUSALS):  # which are not of the op itself
                made = _types_of_outputs(schema, like, known, imports)
                _check_sizes(made)
                known.update(made)


def _check_data(tensor: TensorProto) -> None:
    if tensor.data_location != TensorProto.EXTERNAL:
        try:
            numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise _Broken(Fault.REFUSED, _first_line(error)) from error


def _check_signature(node: NodeProto, signature: Signature | None) -> None:
    if signature is None:
        return
    kind_of = {name: kind for kind, names in signature.kinds.items() for name in names.split()}
    given = {attribute.name: attribute.type for attribute in node.attribute}
    for name, kind in given.items():  # a rule may ask for it, as other ops and opsets have it
        usual = name in kind_of or f"{name}!" in kind_of or kind in usual_kinds().get(name, {kind})
        if not usual or (kind in _SUBGRAPHS and name not in usual_kinds()):
            raise _Broken(Fault.OF_ODD_KIND, name, AttributeProto.AttributeType.Name(kind))
    for name, kind in kind_of.items():
        plain = name.removesuffix("!")
        if plain in given and given[plain] != kind:
            raise _Broken(Fault.OF_OTHER_KIND, plain, AttributeProto.AttributeType.Name(kind))
        if plain != name and plain not in given:
            raise _Broken(Fault.LACKS_ATTRIBUTE, plain)
    given_first = bool(node.input and node.input[0])
    if len(node.input) < signature.least or (signature.first and not given_first):
        raise _Broken(Fault.LACKS_INPUTS, len(node.input), signature.least)
    if len(node.input) > signature.most:
        raise _Broken(Fault.HAS_MORE_INPUTS, len(node.input), signature.most)


def _is_long(attribute: AttributeProto) -> bool:
    return attribute.type == AttributeProto.TENSOR and math.prod(attribute.t.dims) > _SMALL


def _types_of_outputs(
    schema: onnx.defs.OpSchema,
    node: NodeProto,
    known: Mapping[str, TypeProto | TensorProto],
    imports: Mapping[str, int],
) -> dict[str, TypeProto]:
    """The types that shape inference gives the outputs of a node.

    Raises:
        InferenceError: the shapes of its inputs do not fit.
        ValidationError: nor do their types.
    """
    read = {name: known[name] for name in node.input if name}
    types = {n: _type_of(v) if isinstance(v, TensorProto) else v for n, v in read.items()}
    data = {n: v for n, v in read.items() if isinstance(v, TensorProto) and _is_small(v)}
    opsets = [helper.make_opsetid(domain, version) for domain, version in imports.items()]
    return dict(
        onnx.shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=opsets)
    )


def _check_sizes(made: Mapping[str, TypeProto]) -> None:
    """Check what a node gives: onnx itself ends at a Slice of less than nothing, or never ends.

    Raises:
        _Broken: an output has more axes or elements than any tensor, or a size below zero.
    """
    for name, told in made.items():
        sizes = tuple(dim.dim_value for dim in told.tensor_type.shape.dim)  # 0: not known
        known = math.prod(size for size in sizes if size)
        if len(sizes) > MOST_AXES:
            raise _Broken(Fault.SO_MANY_AXES, name, len(sizes))
        if known > MOST_ELEMENTS or min(sizes, default=0) < 0:
            raise _Broken(Fault.NO_SUCH_SIZES, name, sizes[:_SHOWN])


def _type_of(tensor: TensorProto) -> TypeProto:
    made: TypeProto = helper.make_tensor_type_proto(tensor.data_type, tuple(tensor.dims))
    return made


def _is_small(tensor: TensorProto) -> bool:
    inside = tensor.data_location != TensorProto.EXTERNAL
    return inside and math.prod(tensor.dims) <= _SMALL


def _first_line(error: Exception) -> str:
    first = next(iter(str(error).splitlines()), "").rstrip(" .")
    return first or type(error).__name__
