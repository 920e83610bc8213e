"""Inline the model-local functions that hold norms, or parts of one, so that they can be scaled.

Every other function stays as it is. The weights are not read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import onnx
from onnx import NodeProto, inliner

from slanc_onnx.errors import SlancError
from slanc_onnx.graph import DOMAINS, every_node, read_graph
from slanc_onnx.norms.find import find_in
from slanc_onnx.norms.sums import SQUARING, SUMS
from slanc_onnx.norms.suspects import is_called_norm
from slanc_onnx.ops import FUSED, INTERNAL

_Key = tuple[str, str]  # domain and name of a function
_MOST_INLINED = 2**20  # nodes

# Ops of which a decomposed norm has at least one. Which functions hold a part is then tried out.
_OPS = {*SQUARING, *SUMS, "LpNormalization", "Sqrt", "Pow", "Reciprocal"}


def inline_norm_functions(
    model: onnx.ModelProto, folder: Path | None = None, *, isolate: bool = False
) -> tuple[onnx.ModelProto, list[str]]:
    """Inline the calls of the model-local functions that hold norms, suspects, or parts of such.

    A function that stands for a fused op, like com.microsoft SkipLayerNormalization, is a norm
    itself and stays.

    Args:
        model: The model; it is not changed.
        folder: Where its external data lies, if it has any.
        isolate: As `read_graph` takes it.

    Returns:
        The model, or a copy that differs only in the calls of these functions; and the names of the
        functions.

    Raises:
        SlancError: onnx.inliner cannot inline them.
    """
    bodies = {(f.domain, f.name): list(every_node(f.node)) for f in model.functions}
    holders = _called(model, bodies)
    graphs = [every_node(model.graph.node), *(bodies[key] for key in holders)]
    if not holders or not any(_may_hold_a_norm(list(nodes)) for nodes in graphs):
        return model, []
    skeleton = _without_weights(model)
    _refuse_growth(model, bodies)
    holders = _without_norms(skeleton, holders, bodies, isolate)
    if not holders:
        return model, []

    def norms_with(functions: Sequence[_Key]) -> tuple[int, int]:
        """How many norms and suspects there are with these inlined."""
        chosen = _with_callers(functions, bodies)
        inlined = _inlined(skeleton, chosen) if chosen else skeleton
        found = find_in(read_graph(inlined, folder, isolate=isolate))
        return len(found.norms), len(found.suspects)

    found = norms_with(holders)
    if found == norms_with([]):
        return model, []

    def suffice(functions: Sequence[_Key]) -> bool:
        try:
            return norms_with(functions) == found
        except SlancError:  # of another opset, which takes types that only others give
            return False

    holders = _needed(holders, suffice)
    chosen = _with_callers(holders, bodies)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _take_nodes(copy, _inlined(skeleton, chosen))
    return copy, [name for _, name in chosen]


def inline_functions_with(model: onnx.ModelProto, ops: Collection[str]) -> list[str]:
    """Inline the calls of the model-local functions that hold some ops, in place.

    Args:
        model: The model; it is changed, and its weights are not read.
        ops: Types of ops whose domain is known.

    Returns:
        The names of the functions.

    Raises:
        SlancError: onnx.inliner cannot inline them, or they are too many nodes then.
    """
    bodies = {(f.domain, f.name): list(every_node(f.node)) for f in model.functions}
    holders = [
        key
        for key in _called(model, bodies)
        if any(node.op_type in ops and node.domain in DOMAINS for node in bodies[key])
    ]
    if holders:
        _refuse_growth(model, bodies)
        holders = _with_callers(holders, bodies)
        _take_nodes(model, _inlined(_without_weights(model), holders))
    return [name for _, name in holders]


def _take_nodes(model: onnx.ModelProto, inlined: onnx.ModelProto) -> None:
    """Give a model the nodes and functions of its copy without weights."""
    del model.graph.node[:], model.functions[:], model.opset_import[:]
    model.graph.node.extend(inlined.graph.node)
    model.functions.extend(inlined.functions)
    model.opset_import.extend(inlined.opset_import)


def _needed(functions: list[_Key], suffice: Callable[[Sequence[_Key]], bool]) -> list[_Key]:
    """Some functions without those that can be left out, in groups, as most hold nothing."""
    waiting, kept = [functions], list(functions)
    while waiting:
        group = waiting.pop()
        rest = [key for key in kept if key not in group]
        if rest and suffice(rest):
            kept = rest
        elif len(group) > 1:
            half = len(group) // 2
            waiting += [group[half:], group[:half]]
    return kept


def _called(model: onnx.ModelProto, bodies: dict[_Key, list[NodeProto]]) -> list[_Key]:
    """The functions that the graph calls, directly or not, except functions that are norms."""
    called: dict[_Key, None] = {}
    waiting = list(every_node(model.graph.node))
    while waiting:
        node = waiting.pop(0)
        key = (node.domain, node.op_type)
        if key in bodies and key not in called and not _names_a_norm(*key):
            called[key] = None
            waiting += bodies[key]
    return list(called)


def _names_a_norm(domain: str, op: str) -> bool:
    return domain in DOMAINS and (op in FUSED or op in INTERNAL)


def _may_hold_a_norm(body: Sequence[NodeProto]) -> bool:
    ops = {node.op_type for node in body if node.domain in DOMAINS}
    called = any(is_called_norm(node.op_type) for node in body if node.domain not in DOMAINS)
    return called or bool(ops & {*FUSED, *INTERNAL, *_OPS})


def _refuse_growth(model: onnx.ModelProto, bodies: dict[_Key, list[NodeProto]]) -> None:
    """Refuse functions that call each other so often that no machine holds their calls inlined.

    Raises:
        SlancError: they do.
    """
    calls = Counter((n.domain, n.op_type) for n in every_node(model.graph.node))
    size = 0
    for _ in bodies:  # one level after the other; in a circle there is no last one
        calls = Counter({key: times for key, times in calls.items() if key in bodies})
        size += sum(times * len(bodies[key]) for key, times in calls.items())
        if size > _MOST_INLINED:
            raise SlancError(
                "the model-local functions are to be inlined, and are more than "
                f"{_MOST_INLINED} nodes then. Export the model without functions."
            )
        inner: Counter[_Key] = Counter()
        for key, times in calls.items():
            for node in bodies[key]:
                inner[node.domain, node.op_type] += times
        calls = inner


def _without_norms(
    model: onnx.ModelProto, holders: list[_Key], bodies: dict[_Key, list[NodeProto]], isolate: bool
) -> list[_Key]:
    """Holders without those that cannot be inlined, and have no norm: those stop nothing."""
    try:
        _inlined(model, _with_callers(holders, bodies))
    except SlancError:
        functions = {(f.domain, f.name): f for f in model.functions}
        return [key for key in holders if _has_norms(functions[key], bodies, isolate)]
    return holders


def _has_norms(
    function: onnx.FunctionProto, bodies: dict[_Key, list[NodeProto]], isolate: bool
) -> bool:
    """Whether a function holds a norm, as far as it alone can tell."""
    alone = onnx.ModelProto(ir_version=onnx.IR_VERSION)
    alone.opset_import.extend(function.opset_import)
    alone.graph.node.extend(function.node)
    for name in function.input:
        alone.graph.input.add(name=name)
    calls = any((n.domain, n.op_type) in bodies for n in every_node(function.node))
    return calls or bool(find_in(read_graph(alone, isolate=isolate)).norms)


def _with_callers(holders: Sequence[_Key], bodies: dict[_Key, list[NodeProto]]) -> list[_Key]:
    """Some functions, and all whose bodies call them: those have to be inlined as well."""
    chosen = list(holders)
    while True:
        more = [
            key
            for key, body in bodies.items()
            if key not in chosen and any((n.domain, n.op_type) in chosen for n in body)
        ]
        if not more:
            return chosen
        chosen += more


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model whose large initializers have no data, as the inliner serialises it."""
    copy = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name == "graph":
            continue
        if hasattr(value, "extend"):
            getattr(copy, field.name).extend(value)
        elif field.message_type is not None:
            getattr(copy, field.name).CopyFrom(value)
        else:
            setattr(copy, field.name, value)
    for name in ("node", "input", "output", "value_info"):
        getattr(copy.graph, name).extend(getattr(model.graph, name))
    copy.graph.name = model.graph.name
    for tensor in model.graph.initializer:
        bare = copy.graph.initializer.add(name=tensor.name, data_type=tensor.data_type)
        bare.dims.extend(tensor.dims)
        if math.prod(tensor.dims) <= 16:
            bare.CopyFrom(tensor)
    return copy


def _inlined(model: onnx.ModelProto, functions: Sequence[_Key]) -> onnx.ModelProto:
    """The model with all calls of some functions inlined, in the model's opset.

    Raises:
        SlancError: onnx.inliner cannot inline them.
    """
    chosen, others = onnx.ModelProto(), []
    chosen.CopyFrom(model)
    for function in model.functions:
        if (function.domain, function.name) not in functions:
            others.append(function)
            chosen.functions.remove(function)
    _give_defaults(chosen)
    try:
        inlined = inliner.inline_local_functions(chosen)
        if inlined.functions:  # they are written in another opset
            known = _types_of_weights(chosen)
            inlined = inliner.inline_local_functions(known, convert_version=True)
        inlined.functions.extend(others)
        imported = {opset.domain for opset in inlined.opset_import}
        for opset in (o for function in chosen.functions for o in function.opset_import):
            if opset.domain not in imported:
                imported.add(opset.domain)
                inlined.opset_import.append(opset)
        return inlined
    except Exception as error:
        names = ", ".join(name for _, name in functions)
        raise SlancError(
            f"the model-local functions {names} have to be inlined, and cannot be ({error}). "
            "Inline them with the exporter, or with onnx.inliner.inline_local_functions."
        ) from error


def _types_of_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with inferred types, as a conversion to another opset needs them.

    Only its nodes are used, so its weights may be graph inputs here.
    """
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    for tensor in model.graph.initializer:
        info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        typed.graph.input.append(info)
    return onnx.shape_inference.infer_shapes(typed)


def _give_defaults(model: onnx.ModelProto) -> None:
    """Write default attributes into the calls that leave them out: the inliner forgets them."""
    defaults = {(f.domain, f.name): list(f.attribute_proto) for f in model.functions}
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    for node in (node for body in bodies for node in every_node(body)):
        given = {attribute.name for attribute in node.attribute}
        for default in defaults.get((node.domain, node.op_type), ()):
            if default.name not in given:
                node.attribute.append(default)
