"""Check: what the user asks for, and whether the model's norms, weights and inputs make sense."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from slanc_onnx.errors import SlancError
from slanc_onnx.feed import Feed, Normal, Range, Values
from slanc_onnx.graph import Array, GraphPath, InputSpec, Scope, Use, read_flow
from slanc_onnx.norms import Norm
from slanc_onnx.options import Options
from slanc_onnx.reasons import Reason, Unread
from slanc_onnx.run.inputs import dtype_of
from slanc_onnx.run.sizes import Sizes, open_axes, shapes_of

_MOST_EPSILON = 1e30  # beside it every row is zero


def check_norms(norms: Sequence[Norm]) -> None:
    """Refuse norms that no model can mean.

    Raises:
        SlancError: a row without elements, or an epsilon below zero, not finite or enormous.
    """
    empty = [norm.name for norm in norms if norm.width == 0]
    if empty:
        raise SlancError(
            f"norm {empty[0]!r} has rows of width 0. The export went wrong: check the model's "
            "hidden size and export it again."
        )
    for norm in norms:
        if norm.epsilon is not None and not 0 <= norm.epsilon <= _MOST_EPSILON:
            raise SlancError(f"norm {norm.name!r} has the epsilon {norm.epsilon}. Export it again.")


def broken_rule(norms: Sequence[Norm], scopes: Sequence[Scope]) -> tuple[str, Reason] | None:
    """A norm that breaks the rules of its op, or reads what does; None for none.

    Such a model is not run: the name of the norm or node, and how it breaks them.
    """
    for norm in norms:
        if norm.broken and norm.skip_reason is not None:
            return f"norm {norm.name!r}", norm.skip_reason
    if not any(scope.faults for scope in scopes):
        return None
    flow = read_flow(scopes)
    waiting = [(norm.path, index) for norm in norms for index in norm.nodes]
    seen = set(waiting)
    while waiting:
        path, index = waiting.pop()
        fault = flow.scopes[path].faults.get(index)
        node = flow.node(path, index)
        if fault is not None:
            name = f"node {_called(node)}, which norms depend on"
            return name, Reason(Unread.BROKEN, behind=fault)
        inner = (at for at in flow.order if _holds(path, index, at))
        reads = (flow.read(Use(path, index, p)) for p in range(len(node.input)))
        makers = (flow.makers[t][:2] for t in reads if t in flow.makers)
        more = [at for at in (*inner, *makers) if at not in seen]
        seen.update(more)
        waiting += more
    return None


def _called(node: onnx.NodeProto) -> str:
    name = node.name or next(iter(node.output), "")
    return f"{name!r} ({node.op_type})"


def _holds(path: GraphPath, index: int, at: tuple[GraphPath, int]) -> bool:
    """Whether a node lies in a subgraph of the node at an index of a graph."""
    return len(at[0]) > len(path) and at[0][: len(path)] == path and at[0][len(path)][0] == index


def with_checked_inputs(options: Options, specs: Sequence[InputSpec], option: str = "") -> Options:
    """The options with inputs that fit the model; `option` is how messages call the inputs.

    Raises:
        SlancError: an input is missing, of another type or shape, or names a row that is not
            there; a feed or a size is for what the model does not have, or does not fit it; jobs
            is below 1; a loss is no fraction; what excludes norms is no regular expression.
    """
    options = _with_checked_feeds(options, specs)
    _check_dims(options.dims, specs)
    for regex in ("exclude", "only"):
        text = getattr(options, regex)
        if text is None:
            continue
        if not text:
            raise SlancError(
                f"--{regex} '': is in every name. Give a word of those that are meant."
            )
        try:
            re.compile(text)
        except re.error as error:
            raise SlancError(
                f"--{regex} {text}: is no regular expression ({error}). Escape what is meant as "
                "it stands with a backslash."
            ) from error
    if not 0 <= options.weight_loss < 1:
        raise SlancError(
            f"--weight-loss {options.weight_loss:g}: must be at least 0, for no loss, and below 1."
        )
    if options.jobs is not None and options.jobs < 1:
        raise SlancError(f"--jobs {options.jobs}: must be at least 1.")
    if options.inputs is not None:
        text = {spec.name for spec in specs if spec.is_text} if options.tokens else set()
        needed = {spec.name for spec in specs} - text - set(options.feeds)
        missing = sorted(needed - set(options.inputs))
        if missing:
            raise SlancError(
                f"{option or '--inputs'} lacks {', '.join(missing)}; it holds "
                f"{', '.join(options.inputs) or 'nothing'}."
            )
        fitted = {
            spec.name: _fitted(spec, options.inputs[spec.name], option or "--inputs")
            for spec in specs
            if spec.name in options.inputs
        }
        options = replace(options, inputs=fitted)
    if options.tokens is not None:
        text_specs = [spec for spec in specs if spec.is_text]
        if not text_specs:
            raise SlancError(f"{option or '--tokens'}: the model has no input of token ids.")
        rows, ids = text_specs[0].rows, options.tokens.ids
        for token in (int(ids.max()), int(ids.min())):
            if not 0 <= token < rows:
                raise SlancError(
                    f"{option or '--tokens'}: id {token} is outside the model's vocabulary of "
                    f"{rows}. Use ids of this model's tokenizer."
                )
        for spec in text_specs:
            _check_length(spec, ids.shape[1], option or "--tokens")
    return options


def _with_checked_feeds(options: Options, specs: Sequence[InputSpec]) -> Options:
    """The options with ranges as feeds, arrays in the type that the model takes.

    Raises:
        SlancError: one is for no graph input, is no range, or does not fit its input.
    """
    by_name = {spec.name: spec for spec in specs}
    floats = [spec.name for spec in specs if spec.is_float]
    for name, (low, high) in options.input_ranges.items():
        if name not in floats:
            known = f"they are {', '.join(floats)}" if floats else "the model has none"
            raise SlancError(f"--input-range {name}: is no graph input of floats; {known}.")
        if not (low <= high and math.isfinite(high - low)):
            raise SlancError(
                f"--input-range {name}: {low:g} to {high:g} is no range. Give finite numbers, the "
                "least first."
            )
    ranges = {name: Range(*limits) for name, limits in options.input_ranges.items()}
    feeds = {}
    for name, feed in {**ranges, **options.feeds}.items():
        if name not in by_name:
            known = f"they are {', '.join(by_name)}" if by_name else "the model has none"
            raise SlancError(f"--feed {name}: is no graph input; {known}.")
        feeds[name] = _fitted_feed(by_name[name], feed)
    return replace(options, feeds=feeds, input_ranges={})


def _fitted_feed(spec: InputSpec, feed: Feed) -> Feed:
    """A feed that its input can take.

    Raises:
        SlancError: it cannot.
    """
    option = f"--feed {spec.name}={feed}"
    if isinstance(feed, Values):
        return replace(feed, array=_fitted(spec, feed.array, option))
    dtype = dtype_of(spec)
    if isinstance(feed, Normal) and not spec.is_float:
        raise SlancError(f"{option}: {spec.name} is of type {dtype}. Give ids(LO,HI) for it.")
    limits = feed.limits
    if limits is None:
        return feed
    low, high = limits
    if not low <= high or not math.isfinite(high - low):
        raise SlancError(f"{option}: is no range. Give finite numbers, the least first.")
    if spec.rows and not (low >= 0 and high < spec.rows):
        raise SlancError(f"{option}: what {spec.name} indexes has {spec.rows} rows.")
    if dtype.kind in "iu":
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        if low < least or high > most or math.ceil(low) > math.floor(high):
            raise SlancError(f"{option}: holds no whole numbers that {dtype} has.")
    return feed


def _check_dims(dims: Mapping[str, int], specs: Sequence[InputSpec]) -> None:
    """Whether sizes are for axes that the file leaves open.

    Raises:
        SlancError: one is not, or is below 0.
    """
    axes = [axis for spec in specs for axis in open_axes(spec)]
    parts = {part.strip() for _, name, _ in axes for part in name.split("+")}
    known = parts | {place for *_, place in axes}
    named = sorted(n for n in parts if n) + [place for _, name, place in axes if not name]
    for name, size in dims.items():
        if name not in known:
            told = f"open are {', '.join(named)}" if named else "no input leaves one open"
            raise SlancError(f"--dim {name}: is no open axis; {told}.")
        if size < 0:
            raise SlancError(f"--dim {name}: {size} is no size.")


def _check_length(spec: InputSpec, length: int, option: str) -> None:
    shape, ids = shapes_of([spec], Sizes(sequence=length))[spec.name], (1, length)
    fits = zip(reversed(ids), reversed(shape), strict=False)
    if len(shape) < len(ids) or any(have not in (1, size) for have, size in fits):
        raise SlancError(
            f"{option}: {spec.name} has the shape {list(shape)}, which sequences of {length} ids "
            "do not fit. Give another --sequence-length."
        )


def _fitted(spec: InputSpec, value: Array, option: str) -> Array:
    wanted = np.dtype(helper.tensor_dtype_to_np_dtype(spec.element_type))
    if value.dtype.kind == "V" and value.dtype.itemsize == wanted.itemsize and wanted.kind != "O":
        value = value.view(wanted)  # .npz files do not know bfloat16 by name
    if value.dtype != wanted:
        how = " (save it as ml_dtypes.bfloat16)" if wanted.name == "bfloat16" else ""
        raise SlancError(
            f"{option}: {spec.name} is of type {value.dtype}, but the model takes {wanted}{how}."
        )
    if spec.is_text and not value.size:
        raise SlancError(
            f"{option}: {spec.name} has the shape {list(value.shape)}, which holds no id. Give a "
            "sequence of at least one."
        )
    fits = len(value.shape) == len(spec.dims) and all(
        isinstance(dim, str) or dim == size
        for dim, size in zip(spec.dims, value.shape, strict=True)
    )
    if spec.dims and not fits:
        shape = ", ".join(str(dim) or "?" for dim in spec.dims)
        raise SlancError(
            f"{option}: {spec.name} has the shape {list(value.shape)}, but the model takes "
            f"[{shape}]."
        )
    for index in (value.max(), value.min()) if spec.rows and value.size else ():
        if not -spec.rows <= float(index) < spec.rows:  # which nan is not either
            raise SlancError(
                f"{option}: {spec.name} holds {index}, but what it indexes has {spec.rows} rows."
            )
    return value
