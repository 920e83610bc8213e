"""The graphs of a model as matching and tracing walk them: graphsurgeon's view, without weights.

`onnx_graphsurgeon` reads a skeleton of the model (every initializer without its data), so that
reading costs nothing, cannot touch the caller's model, and cannot write. Node `i` of a scope here
is node `i` of the GraphProto it stands for.
"""

from __future__ import annotations

import math
import pickle
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, TensorProto

from slanc_onnx.errors import SlancError
from slanc_onnx.graph.apart import Lost, apart
from slanc_onnx.graph.checked import DOMAINS, Faults, GraphPath, node_faults
from slanc_onnx.graph.load import Array, constant_value, read_tensor
from slanc_onnx.graph.signatures import has_op
from slanc_onnx.graph.stand_ins import Functions, inferred
from slanc_onnx.reasons import Reason

Dims = tuple[int | str, ...]  # a dynamic size is its name

# Ops whose output has the values of their first input.
SEE_THROUGH = {"Cast", "CastLike", "Identity", "Dropout"}
# Op -> the inputs of which it reads the shape or the type, and no value.
_LIKE = ("EyeLike", "RandomNormalLike", "RandomUniformLike")
_VALUE_UNREAD = {**dict.fromkeys(("Shape", "Size", *_LIKE), (0,)), "CastLike": (1,)}


FAULTY = "slanc.faulty"  # the domain in which a scope shows nodes that break the rules of their op
CALLS = "slanc.function"  # the domain of nodes whose op the model defines itself, as no runtime has


@dataclass(frozen=True, eq=False)
class Scope:
    """One graph of the model: the main graph, or the body of an If, Loop or Scan."""

    path: GraphPath
    proto: onnx.GraphProto
    graph: gs.Graph
    parent: Scope | None
    folder: Path | None
    initializers: dict[str, TensorProto]
    index: dict[int, int] = field(repr=False)  # id(gs node) -> index in the GraphProto
    overridable: frozenset[str] = frozenset()  # initializers that are graph inputs as well
    skeleton: onnx.ModelProto | None = field(default=None, repr=False)  # of the main graph
    apart: bool = False  # whether onnx has a process of its own where it may run away
    faults: Mapping[int, Reason] = field(default_factory=dict)  # by the index of the node
    functions: frozenset[tuple[str, str]] = frozenset()  # domain and name of those of the model
    # The results of `facts`, by id(gs tensor).
    constants_made: dict[int, bool] = field(default_factory=dict, repr=False)
    dims_read: dict[int, Dims | None] = field(default_factory=dict, repr=False)

    def fault(self, node: gs.Node) -> Reason | None:
        """How a node breaks the rules of its op, so that nothing of it can be read; else None."""
        return self.faults.get(self.index[id(node)])

    def is_call(self, node: gs.Node) -> bool:
        """Whether a node calls a function of the model."""
        if self.parent is not None:
            return self.parent.is_call(node)
        return (node.domain or "", node.op) in self.functions

    def constant(self, tensor: gs.Tensor) -> TensorProto | None:
        """The data behind a tensor that is an initializer or a Constant node's output."""
        scope: Scope | None = self
        while scope is not None:
            found = scope.initializers.get(tensor.name)
            if found is not None:
                return found
            scope = scope.parent
        return None

    def read(self, tensor: gs.Tensor) -> Array | None:
        """The values of a constant tensor, None for any other."""
        proto = self.constant(tensor)
        return None if proto is None else read_tensor(proto, self.folder)

    def overridden(self, tensor: gs.Tensor) -> str | None:
        """The graph input behind a constant that a caller may give another value; else None.

        Since IR version 4 an initializer is the default of the graph input of its name.
        """
        waiting, seen = [tensor], set[int]()
        while waiting:
            one = waiting.pop()
            if id(one) in seen:
                continue
            seen.add(id(one))
            for node in one.inputs:  # none for a constant, one for any other
                read = [t for at, t in enumerate(node.inputs) if t.name and reads_value(node, at)]
                waiting += read
            scope: Scope | None = self
            while scope is not None and one.name not in scope.initializers:
                scope = scope.parent
            if scope is not None and one.name in scope.overridable:
                return str(one.name)
        return None

    @cached_property
    def tensors(self) -> Mapping[str, gs.Tensor]:
        """The tensors that nodes of the scope read and make, by name."""
        found: dict[str, gs.Tensor] = self.graph.tensors()
        return found

    @cached_property
    def sorted_nodes(self) -> list[gs.Node]:
        """The scope's nodes in topological order, which a file need not keep.

        Raises:
            SlancError: nodes read each other's outputs in a circle.
        """
        made = {id(t): n for n in self.graph.nodes for t in n.outputs}
        order: list[gs.Node] = []
        state: dict[int, int] = {}
        for root in self.graph.nodes:
            stack = [root]
            while stack:
                node = stack[-1]
                if state.get(id(node)) == 2:
                    stack.pop()
                    continue
                before = [made[id(t)] for t in reads(node) if id(t) in made]
                waiting = [n for n in before if state.get(id(n)) is None]
                if state.get(id(node)) is None:
                    state[id(node)] = 1
                    circle = [n for n in before if state.get(id(n)) == 1]
                    if circle:
                        raise SlancError(_circle(circle[0], node))
                if waiting:
                    stack.extend(waiting)
                    continue
                state[id(node)] = 2
                order.append(node)
                stack.pop()
        return order


def _circle(first: gs.Node, last: gs.Node) -> str:
    names = (node.name or node.outputs[0].name for node in (first, last))
    return (
        f"the graph has a circle: {' and '.join(names)} read each other's outputs, directly or "
        "not. No runtime can order that: export the model again."
    )


def reads(node: gs.Node) -> Iterator[gs.Tensor]:
    """The tensors that a node or its subgraphs read."""
    yield from node.inputs
    for value in node.attrs.values():
        if isinstance(value, gs.Graph):
            for inner in value.nodes:
                yield from reads(inner)


def op_of(node: gs.Node) -> str:
    """The type of a node whose op is known by name, "" for an op of another domain.

    A Sum of two tensors is an Add, and one of a single tensor an Identity.
    """
    if node.domain not in DOMAINS:
        return ""
    if node.op == "Sum" and len(node.inputs) <= 2:
        return "Add" if len(node.inputs) == 2 else "Identity"
    return str(node.op)


def reads_value(node: gs.Node, position: int) -> bool:
    """Whether a node reads the values of an input, and not its shape or type alone."""
    return position not in _VALUE_UNREAD.get(op_of(node), ())


def read_graph(
    model: onnx.ModelProto, folder: Path | None = None, *, isolate: bool = False
) -> list[Scope]:
    """The scopes of a model, the main graph first.

    Args:
        model: The model; it is not changed and its weights are not read.
        folder: Where its external data lies, if it has any.
        isolate: Whether onnx has a process of its own where it may run away.

    Raises:
        SlancError: graphsurgeon cannot read the model.
    """
    functions = frozenset((f.domain, f.name) for f in model.functions)
    faults, skeleton = _checked(model, functions, isolate)
    bare = _skeleton(model, faults)
    gs.logger.G_LOGGER.severity = gs.logger.G_LOGGER.ERROR
    try:
        root = gs.import_onnx(skeleton or bare)
    except Exception as error:
        raise SlancError(
            f"the graph cannot be read ({type(error).__name__}: {error}). "
            "Check the file with onnx.checker and export it again."
        ) from error
    inputs = {info.name for info in model.graph.input} if model.ir_version >= 4 else set()
    main = _scope((), model.graph, root, None, folder, faults)
    overridable = frozenset(inputs.intersection(main.initializers))
    main = replace(main, overridable=overridable, skeleton=bare, functions=functions, apart=isolate)
    scopes = [main, *_inner_scopes(main, faults)]
    for scope in scopes:
        _ = scope.sorted_nodes  # a circle is refused before anybody walks along it
    return scopes


def _checked(
    model: onnx.ModelProto, functions: Functions, isolate: bool
) -> tuple[Faults, onnx.ModelProto | None]:
    """The faults of the nodes, and the skeleton with shapes; None where onnx cannot infer them."""

    def work() -> bytes:
        faults = node_faults(model)
        try:
            return pickle.dumps((faults, inferred(_skeleton(model, faults), functions)))
        except Exception:  # Shapes are a convenience: a model the checker dislikes is read without.
            return pickle.dumps((faults, None))

    try:
        read: tuple[Faults, onnx.ModelProto | None] = pickle.loads(apart(work, isolate))
    except Lost:
        return node_faults(model, shapes=False), None
    return read


def _scope(
    path: GraphPath,
    proto: onnx.GraphProto,
    graph: gs.Graph,
    parent: Scope | None,
    folder: Path | None,
    faults: Faults,
) -> Scope:
    """One graph, without the graphs in it."""
    initializers = {tensor.name: tensor for tensor in proto.initializer}
    own = faults.get(path, {})
    for i, node in enumerate(proto.node):
        if node.op_type == "Constant" and node.output and i not in own:
            value = constant_value(node)
            if value is not None:
                initializers[node.output[0]] = value
    index = {id(node): i for i, node in enumerate(graph.nodes)}
    return Scope(path, proto, graph, parent, folder, initializers, index, faults=own)


def _inner_scopes(scope: Scope, faults: Faults) -> Iterator[Scope]:
    """The subgraphs of a graph; each comes before its own."""
    for i, (node, view) in enumerate(zip(scope.proto.node, scope.graph.nodes, strict=True)):
        told = Counter(attribute.name for attribute in node.attribute)
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH and told[attribute.name] == 1:
                path, body = (*scope.path, (i, attribute.name)), view.attrs[attribute.name]
                inner = _scope(path, attribute.g, body, scope, scope.folder, faults)
                yield inner
                yield from _inner_scopes(inner, faults)


def _skeleton(model: onnx.ModelProto, faults: Faults) -> onnx.ModelProto:
    """A copy of the model without functions and without the data of its initializers.

    A node with a fault is one of an unknown domain there, whose attributes say nothing. One of a
    function is, too, unless a runtime has an op of that name and domain, for which it stands then.
    """
    copy = onnx.ModelProto(ir_version=model.ir_version)
    copy.opset_import.extend(model.opset_import)
    for domain in (FAULTY, CALLS):
        copy.opset_import.add(domain=domain, version=1)
    calls = {(f.domain, f.name) for f in model.functions if f.domain in DOMAINS}
    calls = {call for call in calls if not has_op(*call)}
    _copy_graph(model.graph, copy.graph, (), faults, calls)
    return copy


def _copy_graph(
    graph: onnx.GraphProto,
    copy: onnx.GraphProto,
    path: GraphPath,
    faults: Faults,
    calls: Set[tuple[str, str]],
) -> None:
    own = faults.get(path, {})
    copy.name = graph.name
    for name in ("input", "output", "value_info"):
        getattr(copy, name).extend(getattr(graph, name))
    for tensor in graph.initializer:
        bare = copy.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        if not _is_large(tensor):
            bare.CopyFrom(tensor)  # axes and shapes, which shape inference reads
    for index, node in enumerate(graph.node):
        called = CALLS if (node.domain, node.op_type) in calls else node.domain
        twin = copy.node.add(
            op_type=node.op_type,
            domain=FAULTY if index in own else called,
            name=node.name,
            input=node.input,
            output=node.output,
        )
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                inner = twin.attribute.add(name=attribute.name, type=AttributeProto.GRAPH)
                _copy_graph(attribute.g, inner.g, (*path, (index, attribute.name)), faults, calls)
            elif index in own:
                continue
            elif attribute.type == AttributeProto.TENSOR and _is_large(attribute.t):
                bare = twin.attribute.add(name=attribute.name, type=AttributeProto.TENSOR).t
                bare.data_type = attribute.t.data_type
                bare.dims.extend(attribute.t.dims)
            elif attribute.type in _READABLE and attribute.s.isascii():
                twin.attribute.add().CopyFrom(attribute)


def _is_large(tensor: TensorProto) -> bool:
    return math.prod(tensor.dims) > 64 or tensor.data_location == TensorProto.EXTERNAL


# Other kinds of attributes (strings of any bytes, sparse tensors, types) matter to no rule here
# and can make graphsurgeon fail.
_READABLE = {
    AttributeProto.FLOAT,
    AttributeProto.INT,
    AttributeProto.STRING,
    AttributeProto.FLOATS,
    AttributeProto.INTS,
    AttributeProto.TENSOR,
}
