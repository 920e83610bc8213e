"""Raise the opset of a copy that is run: what the validator adds is written in ops of opset 10.

Between opsets 7 and 10 the ops keep what they mean, and all but a few keep how they are written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, helper

from slanc_onnx.graph import Array, add_constant, every_node
from slanc_onnx.run.isolation import CannotRun

OLDEST, WANTED = 7, 10
_OWN = ("", "ai.onnx")
# Attributes that became inputs, in the order of these; the type of their numbers.
_MOVED: dict[str, tuple[tuple[str, ...], type[np.generic]]] = {
    "Slice": (("starts", "ends", "axes"), np.int64),
    "TopK": (("k",), np.int64),
    "Upsample": (("scales",), np.float32),
}


def raised(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in opset 10, whose nodes stay where they are; a model of that or later as it is.

    Args:
        model: The model; it is not changed.

    Raises:
        CannotRun: its ops are older than opset 7, or one of them has no form in opset 10.
    """
    version = next((o.version for o in model.opset_import if o.domain in _OWN), WANTED)
    if version >= WANTED:
        return model
    if version < OLDEST:
        raise _cannot(version)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for entry in copy.opset_import:
        if entry.domain in _OWN:
            entry.version = WANTED
    names = (f"slanc.opset.{n}" for n in range(1, 1 << 62))
    for node in every_node(copy.graph.node):
        if node.domain in _OWN:
            _raise(copy, node, names, version)
    return copy


def _cannot(version: int, op: str = "") -> CannotRun:
    why = f"cannot be read as opset {WANTED}" if op else "are too old"
    return CannotRun(
        f"validation takes ops of opset {OLDEST} or later, and the file's {op or 'ops'} of opset "
        f"{version} {why}; convert the file with onnx.version_converter, or use --no-validate"
    )


def _raise(model: onnx.ModelProto, node: NodeProto, names: Iterator[str], version: int) -> None:
    """Write a node as opset 10 does."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Scan" and version < 9:
        raise _cannot(version, "Scan")
    if node.op_type == "BatchNormalization" and "spatial" in attributes:
        if not attributes["spatial"]:
            raise _cannot(version, "BatchNormalization")
        _drop(node, "spatial")
    moved, number = _MOVED.get(node.op_type, ((), np.int64))
    if node.op_type == "Slice":
        attributes.setdefault("axes", list(range(len(attributes["starts"]))))
    for name in moved:
        if name in attributes and len(node.input) < 1 + len(moved):
            node.input.append(next(names))
            add_constant(model, node.input[-1], _values(attributes[name], number))
            _drop(node, name)
    if node.op_type == "Upsample":
        node.op_type = "Resize"


def _values(given: Any, number: type[np.generic]) -> Array:
    return np.atleast_1d(np.asarray(given, number))


def _drop(node: NodeProto, name: str) -> None:
    kept: list[AttributeProto] = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
