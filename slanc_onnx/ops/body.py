"""Bodies: the graphs and functions of a model, with what each tensor in them holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

import onnx
from onnx import AttributeProto, NodeProto, TensorProto

from slanc_onnx.errors import SlancError
from slanc_onnx.graph import constant_value
from slanc_onnx.ops.between import BETWEEN


class Held(NamedTuple):
    """What a tensor holds.

    Attributes:
        element: The element type.
        containers: What the tensors lie in, from outside: "s" for a sequence, "o" for an optional.
    """

    element: int
    containers: str = ""

    @property
    def contained(self) -> bool:
        """Whether it is a sequence of tensors, or an optional one."""
        return bool(self.containers)


UNKNOWN = Held(TensorProto.UNDEFINED)


@dataclass(eq=False)
class Body:
    """A graph or a function.

    Attributes:
        proto: It, in the model.
        outer: The body whose node holds it; None for the main graph and functions.
        opsets: The versions of the domains.
        kinds: What each tensor holds that it defines.
        inner: The bodies in its nodes, by the index of the node and the name of the attribute.
        constants: The tensors behind initializers and Constant nodes; of sparse ones, their values.
        makers: The node that makes a tensor, and the position of the output.
    """

    proto: onnx.GraphProto | onnx.FunctionProto
    outer: Body | None
    opsets: Mapping[str, int]
    kinds: dict[str, Held] = field(default_factory=dict)
    inner: dict[tuple[int, str], Body] = field(default_factory=dict)
    constants: dict[str, TensorProto] = field(default_factory=dict)
    makers: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def inputs(self) -> list[str]:
        """The names of its inputs."""
        return [x if isinstance(x, str) else x.name for x in self.proto.input]

    @property
    def outputs(self) -> list[str]:
        """The names of its outputs."""
        return [x if isinstance(x, str) else x.name for x in self.proto.output]

    def defining(self, name: str) -> Body | None:
        """The body that defines a tensor which is read here: this one, or one around it."""
        body: Body | None = self
        while body is not None and name not in body.kinds:
            body = body.outer
        return body

    def kind(self, name: str) -> Held:
        """What a tensor holds that is read here."""
        body = self.defining(name)
        return UNKNOWN if body is None else body.kinds[name]


def opsets_of(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """The version of each domain, by its name; "" for ONNX's own."""
    return {"" if o.domain == "ai.onnx" else o.domain: o.version for o in imports}


def walk(body: Body) -> Iterator[Body]:
    """A body, and those in it."""
    yield body
    for inner in body.inner.values():
        yield from walk(inner)


def tree(
    proto: onnx.GraphProto | onnx.FunctionProto, outer: Body | None, opsets: Mapping[str, int]
) -> Body:
    """The body of a graph or function, of which no more is known than it tells.

    Raises:
        SlancError: a node lacks its input or output, or the nodes of a function cannot be ordered.
    """
    body = Body(proto, outer, opsets)
    if isinstance(proto, onnx.GraphProto):
        body.constants.update((tensor.name, tensor) for tensor in proto.initializer)
        body.kinds.update((t.name, Held(t.data_type)) for t in proto.initializer)
        for sparse in proto.sparse_initializer:
            body.kinds[sparse.values.name] = Held(sparse.values.data_type)
            body.constants[sparse.values.name] = sparse.values
        for info in proto.input:
            body.kinds.setdefault(info.name, kind_of(info.type))
    else:
        body.kinds.update(dict.fromkeys(proto.input, UNKNOWN))
    for index, node in enumerate(proto.node):
        _refuse_incomplete(node)
        for position, name in enumerate(node.output):
            if name:
                body.makers[name] = index, position
                body.kinds[name] = UNKNOWN
        if node.op_type == "Constant" and node.attribute:
            body.constants[node.output[0]] = _constant_of(node)
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                body.inner[index, attribute.name] = tree(attribute.g, body, opsets)
    if isinstance(proto, onnx.FunctionProto):
        _refuse_circles(body, proto.name)
    return body


def _refuse_circles(body: Body, function: str) -> None:
    """Refuse what no runtime can order; of graphs that is done where a file is read."""
    before = {
        index: {body.makers[name][0] for name in node.input if name in body.makers}
        for index, node in enumerate(body.proto.node)
    }
    try:
        TopologicalSorter(before).prepare()
    except CycleError:
        raise SlancError(
            f"the function {function!r} has a circle: nodes in it read each other's outputs. "
            "Export the model again."
        ) from None


def _refuse_incomplete(node: NodeProto) -> None:
    moves = node.op_type in BETWEEN
    if (moves and not node.input) or ((moves or node.op_type == "Constant") and not node.output):
        name = node.name or next(iter(node.output), "")
        raise SlancError(
            f"the {node.op_type} {name!r} lacks its input or output. Repair the model."
        )


def _constant_of(node: NodeProto) -> TensorProto:
    """What a Constant node gives; of a sparse one, the values."""
    attribute, found = node.attribute[0], constant_value(node)
    tensor: TensorProto = attribute.t if found is None else found
    return attribute.sparse_tensor.values if attribute.HasField("sparse_tensor") else tensor


def kind_of(told: onnx.TypeProto) -> Held:
    """What a tensor of a type holds."""
    containers = ""
    while not told.HasField("tensor_type"):
        if told.HasField("sequence_type"):
            told, containers = told.sequence_type.elem_type, containers + "s"
        elif told.HasField("optional_type"):
            told, containers = told.optional_type.elem_type, containers + "o"
        else:
            return UNKNOWN
    return Held(told.tensor_type.elem_type, containers)
