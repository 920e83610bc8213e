"""Schemas: which element types an op takes and gives, asked of ONNX and of ONNX Runtime.

ONNX knows its own ops, ONNX Runtime those of com.microsoft besides.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import NodeProto, TensorProto, helper

# How schemas write an element type.
_WRITTEN: Mapping[int, str] = {
    TensorProto.FLOAT: "float",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "double",
}
# Reductions for which kernels refuse 16 bits, though they say that they take these.
_REFUSED = {"ScatterElements": {b"add", b"mul"}, "ScatterND": {b"add", b"mul", b"max", b"min"}}
_NEWEST = 10**6  # a version of a domain that a file does not tell, and what any later one counts as


@dataclass(frozen=True)
class Formal:
    """One input or output of an op.

    Attributes:
        variable: The name of its type, which others of the op may share; the type itself where
            there is no choice.
        types: What it may be, as schemas write it: "tensor(float)".
        many: Whether it stands for all that follow, which may be of different types each.
        alike: Whether those are all of one type.
    """

    variable: str
    types: frozenset[str]
    many: bool = False
    alike: bool = True

    def takes(self, element_type: int) -> bool:
        """Whether it may be a tensor, or a sequence of tensors, of these elements."""
        name = _WRITTEN[element_type]
        return any(f"tensor({name})" in text for text in self.types)


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of an op."""

    inputs: tuple[Formal, ...]
    outputs: tuple[Formal, ...]

    def input(self, position: int) -> Formal | None:
        """The formal input that a node's input at a position is."""
        return _at(self.inputs, position)

    def output(self, position: int) -> Formal | None:
        """The formal output that a node's output at a position is."""
        return _at(self.outputs, position)


def _at(formals: tuple[Formal, ...], position: int) -> Formal | None:
    if position < len(formals):
        return formals[position]
    return formals[-1] if formals and formals[-1].many else None


def signature(node: NodeProto, opsets: Mapping[str, int]) -> Signature | None:
    """The signature of a node's op; None for one that nobody knows.

    Args:
        node: The node.
        opsets: The version of each domain, by its name; "" for ONNX's own.
    """
    domain, version = _version(node, opsets)
    return _signature(domain, node.op_type, version)


def _version(node: NodeProto, opsets: Mapping[str, int]) -> tuple[str, int]:
    """The domain of a node's op, and its version as far as schemas can tell versions apart."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    return domain, min(max(opsets.get(domain, _NEWEST), 0), _NEWEST)  # onnx takes 32 bits


@functools.cache
def _signature(domain: str, op: str, version: int) -> Signature | None:
    try:
        schema = onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        known = _of_runtime().get((domain, op), [])
        fitting = [s for s in known if s.since_version <= version]
        if not fitting:
            return None
        newest = max(fitting, key=lambda s: s.since_version)
        return _read(newest, "typeStr")
    return _read(schema, "type_str")


def _runtime() -> Any:
    """ONNX Runtime, which is slow to import; --help and --version do without."""
    from onnxruntime.capi import _pybind_state

    return _pybind_state


@functools.cache
def _of_runtime() -> dict[tuple[str, str], list[Any]]:
    """ONNX Runtime's schemas, by domain and op."""
    found: dict[tuple[str, str], list[Any]] = {}
    for schema in _runtime().get_all_operator_schema():
        found.setdefault((schema.domain, schema.name), []).append(schema)
    return found


def runs(
    node: NodeProto, opsets: Mapping[str, int], variable: str, element_type: int, casts: bool
) -> bool:
    """Whether ONNX Runtime's CPU provider runs an op for an element type that its schema takes.

    Args:
        node: The node.
        opsets: The version of each domain, by its name.
        variable: What the schema calls the type.
        element_type: What that should be.
        casts: Whether ONNX Runtime may put Casts round the node, as it does by what a node reads.
    """
    domain, version = _version(node, opsets)
    refused = _REFUSED.get(node.op_type, set())
    if any(a.name == "reduction" and a.s in refused for a in node.attribute):
        return False
    has = _has_kernel(domain, node.op_type, version, variable, element_type)
    if has:
        return True
    written_out = _holds_written_out(node, domain, version, element_type)
    return (casts or has is None) if written_out is None else written_out


@functools.cache
def _has_kernel(
    domain: str, op: str, version: int, variable: str, element_type: int
) -> bool | None:
    """Whether there is a kernel for an element type; None where there is none for any."""
    wanted = f"tensor({_WRITTEN[element_type]})"
    kernels = [
        kernel.type_constraints
        for kernel in _kernels().get((domain, op), [])
        if kernel.version_range[0] <= version <= kernel.version_range[1]
    ]
    taken = [text for types in kernels for text in types.get(variable, [wanted])]
    return any(wanted in text for text in taken) if kernels else None


def _holds_written_out(
    node: NodeProto, domain: str, version: int, element_type: int
) -> bool | None:
    """Whether types are right in what an op is written out as that has no kernel for them.

    None for an op that is not written out.
    """
    try:
        schema = onnx.defs.get_schema(node.op_type, version, domain)
    except onnx.defs.SchemaError:
        return None
    written_out = schema.function_body
    if written_out is None or not written_out.node:
        return None
    formals = _read(schema, "type_str").inputs  # onnx 1.20 cannot give the types of a formal
    types = [_some_type(told.types, element_type) for told in formals]
    given = {name: told.default_value for name, told in schema.attributes.items()}
    given |= {attribute.name: attribute for attribute in node.attribute}
    known = [attribute for attribute in given.values() if attribute.type]
    try:
        onnx.shape_inference.infer_function_output_types(written_out, types, known)
    except onnx.shape_inference.InferenceError:
        return False
    return True


def _some_type(written: Set[str], element_type: int) -> onnx.TypeProto:
    """A tensor of an element type, or where that is not among those written, of one that is."""
    wanted = f"tensor({_WRITTEN[element_type]})"
    name = wanted if wanted in written else min(written)
    element = TensorProto.DataType.Value(name.rpartition("(")[2].rstrip(")").upper())
    return helper.make_tensor_type_proto(element, None)


@functools.cache
def _kernels() -> dict[tuple[str, str], list[Any]]:
    """ONNX Runtime's kernels for a CPU, by domain and op."""
    found: dict[tuple[str, str], list[Any]] = {}
    for kernel in _runtime().get_all_opkernel_def():
        if kernel.provider == "CPUExecutionProvider":
            found.setdefault((kernel.domain, kernel.op_name), []).append(kernel)
    return found


def _read(schema: Any, spelled: str) -> Signature:
    """A schema of either library; they spell the type of a formal in two ways."""
    choices = {t.type_param_str: frozenset(t.allowed_type_strs) for t in schema.type_constraints}

    def formal(told: Any) -> Formal:
        variable = str(getattr(told, spelled))
        many = "Variadic" in str(told.option)
        alike = bool(getattr(told, "is_homogeneous", getattr(told, "isHomogeneous", True)))
        return Formal(variable, choices.get(variable, frozenset({variable})), many, alike)

    return Signature(
        tuple(formal(told) for told in schema.inputs),
        tuple(formal(told) for told in schema.outputs),
    )
