"""Element types: what each tensor holds, in every graph and function of a model.

Types follow from what the file tells, and otherwise from the schemas of the ops, so that no shape
has to be known for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx
from onnx import AttributeProto, NodeProto, TensorProto

from slanc_onnx.errors import SlancError
from slanc_onnx.graph import FLOATS
from slanc_onnx.ops.body import UNKNOWN, Body, Held, kind_of, opsets_of, tree, walk
from slanc_onnx.ops.calls import Calls
from slanc_onnx.ops.schemas import Signature, signature

_MOST_PASSES = 50  # over the nodes of a file that does not keep their order
_FLOAT, _INT64, _BOOL = (Held(t) for t in (TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL))
# Op -> the attribute that says what it makes, and what it makes where it does not say.
TYPE_ATTRIBUTES: Mapping[str, tuple[str, int]] = {
    "Cast": ("to", TensorProto.FLOAT),
    "RandomNormal": ("dtype", TensorProto.FLOAT),
    "RandomUniform": ("dtype", TensorProto.FLOAT),
    "SequenceEmpty": ("dtype", TensorProto.FLOAT),
    "Multinomial": ("dtype", TensorProto.INT32),
    "HannWindow": ("output_datatype", TensorProto.FLOAT),
    "HammingWindow": ("output_datatype", TensorProto.FLOAT),
    "BlackmanWindow": ("output_datatype", TensorProto.FLOAT),
    "MelWeightMatrix": ("output_datatype", TensorProto.FLOAT),
}
# Ops that say it by "dtype", and take the type of their first input where they do not.
LIKE_INPUT = frozenset(("Bernoulli", "EyeLike", "RandomNormalLike", "RandomUniformLike"))

# Ops whose outputs but the first are of a type of their own, U, whatever they read.
STASHING = {"LayerNormalization", "SimplifiedLayerNormalization"}


def read_bodies(model: onnx.ModelProto) -> list[Body]:
    """The bodies of a model, the main graph first, and each before those in it.

    A function that is called with several types is there once for each of them; the model gets
    these copies. One that is not called is left out.

    Raises:
        SlancError: a function calls itself.
    """
    calls, main = Calls(model), tree(model.graph, None, opsets_of(model.opset_import))
    _Types(calls).body(main)
    return [b for root in (main, *calls.bodies) for b in walk(root)]


class _Types:
    """Goes through the nodes until no more types follow."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._open: list[Body] = []  # functions whose calls are being looked into

    def body(self, body: Body) -> None:
        for _ in range(_MOST_PASSES):
            unknown = [n for n, kind in body.kinds.items() if kind == UNKNOWN]
            if not unknown:
                break
            for index, node in enumerate(body.proto.node):
                if any(body.kinds.get(name) == UNKNOWN for name in node.output if name):
                    self._node(body, index, node)
            if unknown == [n for n, kind in body.kinds.items() if kind == UNKNOWN]:
                break
        if isinstance(body.proto, onnx.GraphProto):
            for info in (*body.proto.value_info, *body.proto.output):
                if body.kinds.get(info.name) == UNKNOWN:
                    body.kinds[info.name] = kind_of(info.type)

    def _node(self, body: Body, index: int, node: NodeProto) -> None:
        read = [body.kind(name) if name else UNKNOWN for name in node.input]
        for kind, name in zip(self._made(body, index, node, read), node.output, strict=False):
            if name and kind != UNKNOWN:
                body.kinds[name] = kind

    def _made(self, body: Body, index: int, node: NodeProto, read: list[Held]) -> list[Held]:
        inner = {name: b for (at, name), b in body.inner.items() if at == index}
        if inner:
            return self._of_inner(node, inner, read)
        called = self._calls.body(node, read)
        if called is not None:
            if called in self._open:
                raise SlancError(f"the function {node.op_type!r} calls itself. Repair the model.")
            self._open.append(called)
            made = self._of_inner(node, {"": called}, read)
            self._open.pop()
            return made
        if node.op_type == "Constant":
            return [_of_constant(node)]
        return made_kinds(node, read, signature(node, body.opsets))

    def _of_inner(
        self, node: NodeProto, inner: Mapping[str, Body], read: Sequence[Held]
    ) -> list[Held]:
        given = {"Loop": [_INT64, _BOOL, *read[2:]], "If": []}.get(node.op_type, read)
        made: list[Held] = []
        for body in inner.values():
            for name, kind in zip(body.inputs, given, strict=False):
                if body.kinds.get(name, UNKNOWN) == UNKNOWN:
                    body.kinds[name] = kind
            self.body(body)
            out = [body.kind(name) for name in body.outputs]
            out = out[1:] if node.op_type == "Loop" else out
            if node.op_type == "SequenceMap":
                out = [kind._replace(containers="s") for kind in out]
            made = [a if a != UNKNOWN else b for a, b in zip(made, out, strict=False)] or out
        return made


def _of_constant(node: NodeProto) -> Held:
    attribute = node.attribute[0] if node.attribute else AttributeProto()
    if attribute.name.startswith("value_float"):
        return _FLOAT
    if attribute.name.startswith("value_int"):
        return _INT64
    if attribute.name == "sparse_value":
        return Held(attribute.sparse_tensor.values.data_type)
    return Held(attribute.t.data_type if attribute.name == "value" else TensorProto.STRING)


def made_kinds(node: NodeProto, read: Sequence[Held], known: Signature | None) -> list[Held]:
    """What the outputs of a node without bodies hold.

    Args:
        node: The node.
        read: What its inputs hold.
        known: The signature of its op; None for one that nobody knows.
    """
    told = {a.name: a for a in node.attribute}
    if node.op_type == "ConstantOfShape":
        return [Held(told["value"].t.data_type) if "value" in told else _FLOAT]
    if node.op_type in TYPE_ATTRIBUTES:
        name, default = TYPE_ATTRIBUTES[node.op_type]
        containers = "s" if node.op_type == "SequenceEmpty" else ""
        return [Held(told[name].i if name in told else default, containers)]
    if node.op_type in LIKE_INPUT and "dtype" in told:
        return [Held(told["dtype"].i)]
    if node.op_type == "BitCast" and "to" in told:
        return [Held(told["to"].i)]
    if node.op_type == "Optional":
        inner = kind_of(told["type"].tp) if "type" in told else next(iter(read), UNKNOWN)
        return [inner._replace(containers="o" + inner.containers)]
    if node.op_type == "OptionalGetElement" and read:
        held = read[0].containers
        return [read[0]._replace(containers=held[1:] if held[:1] == "o" else held)]
    if known is None:  # as most ops do
        floats = (k for k in read if k.element in FLOATS)
        return [next(floats, UNKNOWN)] * len(node.output)
    bound: dict[str, Held] = {}
    if node.op_type in STASHING:
        stash = told["stash_type"].i if "stash_type" in told else TensorProto.FLOAT
        bound["U"] = Held(stash)
    for position, kind in enumerate(read):
        formal = known.input(position)
        if formal is not None and formal.alike and kind != UNKNOWN:
            bound.setdefault(formal.variable, kind)
    return [_of_output(known, position, bound, read) for position in range(len(node.output))]


def _of_output(
    known: Signature, position: int, bound: Mapping[str, Held], read: Sequence[Held]
) -> Held:
    formal = known.output(position)
    if formal is None:
        return UNKNOWN
    if formal.variable in bound and formal.alike:
        return bound[formal.variable]
    if len(formal.types) == 1:
        return _written(next(iter(formal.types)))
    contained = all("tensor(" in t and not t.startswith("tensor(") for t in formal.types)
    first = next((k for k in read if k != UNKNOWN), UNKNOWN)
    if contained or first.contained:  # a sequence of what it reads, or an element of one
        return first._replace(containers="s" if contained else "")
    floats = [k for k in read if k.element in FLOATS and formal.takes(k.element)]
    if floats:
        return floats[0]
    return UNKNOWN


def _written(text: str) -> Held:
    """What a type that a schema writes holds."""
    name = text.rpartition("tensor(")[2].rstrip(")")
    known: Callable[[str], int] = TensorProto.DataType.Value
    try:
        return Held(known(name.upper()), "" if text.startswith("tensor(") else "s")
    except ValueError:
        return UNKNOWN
