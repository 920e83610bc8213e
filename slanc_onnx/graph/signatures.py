"""What ops take, by their schemas and in opsets that nobody knows."""

from __future__ import annotations

from functools import cache

import onnx

from slanc_onnx.graph.contrib import CONTRIB, Signature

_IN_STANDARD_DOMAIN = "SimplifiedLayerNormalization"


@cache
def schema_of(op: str, opset: int) -> onnx.defs.OpSchema | None:
    """The schema of an op of the standard domain in an opset; None where that has no such op."""
    try:
        schema: onnx.defs.OpSchema = onnx.defs.get_schema(op, opset, "")
    except (onnx.defs.SchemaError, TypeError):
        return None
    return schema


def has_op(domain: str, op: str) -> bool:
    """Whether ONNX, or ONNX Runtime for what the tool reads of it, has an op in that very domain.

    SimplifiedLayerNormalization is one of the standard domain there.
    """
    if domain == "com.microsoft":
        return op in CONTRIB and op != _IN_STANDARD_DOMAIN
    return onnx.defs.has(op) or op == _IN_STANDARD_DOMAIN


@cache
def signature_of(op: str, schema: onnx.defs.OpSchema | None) -> Signature | None:
    """What an op takes by its schema or, without one, in any opset; None where nobody knows it."""
    if schema is None and op in CONTRIB:
        return CONTRIB[op]
    if schema is None and not onnx.defs.has(op):
        return None
    least = _least_inputs()[op] if schema is None else schema.min_input
    schema = schema or onnx.defs.get_schema(op)
    kinds: dict[int, str] = {}
    for name, attribute in schema.attributes.items():
        kind = int(attribute.type.value)  # type: ignore[attr-defined]
        shown = f"{name}!" if attribute.required else name
        kinds[kind] = f"{kinds.get(kind, '')} {shown}".strip()
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    first = bool(schema.inputs) and schema.inputs[0].option == single
    return Signature(least, kinds, first, schema.max_input)


@cache
def _least_inputs() -> dict[str, int]:
    """How many inputs an op of the standard domain has at least, in any opset."""
    found: dict[str, int] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain:
            found[schema.name] = min(schema.min_input, found.get(schema.name, schema.min_input))
    return found


@cache
def usual_kinds() -> dict[str, set[int]]:
    """The kinds that an attribute of a name has in any op of any opset."""
    found: dict[str, set[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        for name, attribute in schema.attributes.items():
            found.setdefault(name, set()).add(int(attribute.type.value))  # type: ignore[attr-defined]
    for signature in CONTRIB.values():
        for kind, names in signature.kinds.items():
            for name in names.split():
                found.setdefault(name.removesuffix("!"), set()).add(kind)
    return found
