"""Calls: a function of the file has one body for each of the types that it is called with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import AttributeProto, FunctionProto, NodeProto

from slanc_onnx.graph import every_node
from slanc_onnx.ops.body import UNKNOWN, Body, Held, opsets_of, tree

_Key = tuple[str, str, str]
_Told = tuple[bytes, ...]  # the attributes of a call
# Attributes that say what a tensor holds: a caller may give them.
_DECIDING = {"to", "dtype", "output_dtype", "output_datatype", "value", "sparse_value"}


@dataclass(frozen=True, eq=False)
class _Called:
    """A function as it is called with some attributes and types."""

    told: _Told
    body: Body

    def fits(self, told: _Told, read: Sequence[Held]) -> bool:
        """Whether a call with these attributes and types is of this body."""
        own = (self.body.kinds.get(name, UNKNOWN) for name in self.body.inputs)
        alike = all(UNKNOWN in (a, b) or a == b for a, b in zip(own, read, strict=False))
        return alike and told == self.told


class Calls:
    """The functions of a model.

    One that is called with other types than before, or with other attributes that decide what it
    makes, gets a copy under another name. The model then calls that.

    Args:
        model: The model; functions are added to it, and calls renamed, as they are asked for.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model, self._opsets = model, opsets_of(model.opset_import)
        self._called: dict[_Key, list[_Called]] = {_key(f): [] for f in model.functions}
        self._protos = {_key(f): f for f in model.functions}
        self._pristine = {
            key: _copy(f) for key, f in self._protos.items() if any(self._decided_outside(f))
        }

    @property
    def bodies(self) -> list[Body]:
        """Those of all functions that are called."""
        found = {id(c.body): c.body for called in self._called.values() for c in called}
        return list(found.values())

    def body(self, node: NodeProto, read: Sequence[Held]) -> Body | None:
        """The body that a node calls; None where it calls no function.

        Args:
            node: The node; it gets another type where it calls a copy from now on.
            read: What its inputs hold.
        """
        key = _key_of_call(node)
        if key not in self._called:
            return None
        told: _Told = ()
        if key in self._pristine:
            told = tuple(sorted(a.SerializeToString(deterministic=True) for a in node.attribute))
        for called in self._called[key]:
            if called.fits(told, read):
                break
        else:
            called = self._new(key, node, told)
        node.op_type = called.body.proto.name
        return called.body

    def _new(self, key: _Key, node: NodeProto, told: _Told) -> _Called:
        proto = self._protos[key]
        if self._called[key]:
            proto = self._model.functions.add()
            proto.CopyFrom(self._pristine.get(key, self._protos[key]))
            proto.name = self._unused(key)
            self._protos[_key(proto)] = proto
        if key in self._pristine:
            defaults = {a.name: a for a in proto.attribute_proto}
            _bind(proto.node, {**defaults, **{a.name: a for a in node.attribute}})
        body = tree(proto, None, opsets_of(proto.opset_import) or self._opsets)
        self._called[key].append(_Called(told, body))
        if _key(proto) != key:
            self._called[_key(proto)] = [_Called((), body)]
        return self._called[key][-1]

    def _unused(self, key: _Key) -> str:
        domain, name, overload = key
        number = 2
        while (domain, f"{name}_{number}", overload) in self._protos:
            number += 1
        return f"{name}_{number}"

    def _decided_outside(self, function: FunctionProto) -> Iterator[AttributeProto]:
        """The attributes in a function that its caller gives, as far as a type may follow."""
        for node in every_node(function.node):
            inner = _key_of_call(node) in self._protos
            for attribute in node.attribute:
                name = attribute.name
                decides = inner or name in _DECIDING or name.startswith("value_")
                if attribute.ref_attr_name and decides:
                    yield attribute


def _key(function: FunctionProto) -> _Key:
    return function.domain, function.name, function.overload


def _key_of_call(node: NodeProto) -> _Key:
    return node.domain, node.op_type, node.overload


def _bind(nodes: Sequence[NodeProto], given: Mapping[str, AttributeProto]) -> None:
    """Let nodes have the attributes that a caller gives."""
    for node in every_node(nodes):
        bound = list[AttributeProto]()
        for attribute in node.attribute:
            if not attribute.ref_attr_name:
                bound.append(attribute)
            elif attribute.ref_attr_name in given:
                bound.append(AttributeProto())
                bound[-1].CopyFrom(given[attribute.ref_attr_name])
                bound[-1].name = attribute.name
        if any(a.ref_attr_name for a in node.attribute):
            kept = [_copy_of(a) for a in bound]
            del node.attribute[:]
            node.attribute.extend(kept)


def _copy(function: FunctionProto) -> FunctionProto:
    twin = FunctionProto()
    twin.CopyFrom(function)
    return twin


def _copy_of(attribute: AttributeProto) -> AttributeProto:
    twin = AttributeProto()
    twin.CopyFrom(attribute)
    return twin
