"""What became of a model whose floats have 16 bits now, in words and for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import reduce
from operator import add
from typing import Any

from slanc_onnx.apply.convert import Conversion, Converted, Counts
from slanc_onnx.apply.fold import Fold
from slanc_onnx.report.wording import reason_text

_SHOWN = 3  # names of constants in a line


def conversion_lines(conversion: Conversion, fold: Fold | None) -> Iterator[str]:
    """A few lines: nodes that stay, Casts, and what the format does not hold."""
    if fold is not None:
        yield from _ranges_lines(fold, conversion.converted)
    done, form = conversion.converted, str(conversion.converted.format)
    weights = _weights(conversion)
    casts = f"{done.casts} Casts inserted"
    if done.removed:
        casts += f", {done.removed} of the file gone"
    if done.turned:
        casts += f"; {done.turned} Transposes moved behind the MatMul that they were before"
    wide = sum(node.wide for node in done.nodes)
    full = f"{len(done.nodes) - wide} nodes in FP32" + f", {wide} in FP64" * bool(wide)
    yield f"{form}: {full}; {casts}; {_weights_text(weights)}"
    by_reason = Counter((node.wide, node.op, node.why) for node in done.nodes)
    for (is_wide, op, why), count in by_reason.items():
        yield f"in {'FP64' if is_wide else 'FP32'}: {count} {op}: {reason_text(why)}"
    yield from _tables_lines(conversion)
    clipped = {n: c.largest for n, c in done.weights.items() if c.clipped}
    if clipped:
        yield f"constants clipped to what {form} holds: {_named(clipped)}"
    raised = {n: c.smallest for n, c in done.weights.items() if c.raised}
    if raised:
        yield f"constants raised to what {form} keeps: {_named(raised)}"


def _tables_lines(conversion: Conversion) -> Iterator[str]:
    """The tables of angles, for how many positions, and the angles that stay in FP32."""
    tables, positions = conversion.tables, conversion.positions
    if tables.made:
        names = {table.name for table in tables.made}
        sources = ", ".join(sorted({table.source for table in tables.made if table.source}))
        line = f"angles of {len(tables.made)} Cos and Sin are {len(names)} tables now"
        if sources:
            line += f", by {sources}, for {positions.count} positions "
            line += f"{reason_text(positions.told_by)}; later ones are out of their range"
        yield line
    yield from (f"angles in FP32: {kept.tensor}: {reason_text(kept.why)}" for kept in tables.kept)
    if tables.inlined:
        yield f"inlined the functions that hold a Cos or Sin: {', '.join(tables.inlined)}"


def _ranges_lines(fold: Fold, done: Converted) -> Iterator[str]:
    """How large the tensors are between norms, and what weights lose with their division."""
    form, full = str(done.format), {name for node in done.nodes for name in node.made}
    if fold.ranges:
        largest = fold.ranges[0]
        raised = [group for group in fold.ranges if group.raised]
        line = f"largest of {len(fold.ranges)} groups of tensors: {largest.stored:.3g} of "
        line += f"{largest.limit:g} ({largest.holds}); {len(raised)} without norms divided"
        yield line + ", as they would leave it" * bool(raised)
        over = [group for group in fold.ranges if group.reason is not None]
        held = {g.holds: g.stored for g in over if full.issuperset(g.tensors)}
        yield from (
            f"leaves {form} all the same: {group.holds} ({group.stored:.3g}): "
            f"{reason_text(group.reason)}"
            for group in over
            if group.reason is not None and group.holds not in held
        )
        if held:
            yield f"beyond {form}, but made by nodes that stay: {_named(held)}"
    if fold.faint:
        counts = [
            sum(getattr(weight, state).subnormal for weight in fold.faint)
            for state in ("undivided", "unbalanced", "divided")
        ]
        yield (
            f"subnormal elements of divided weights: {counts[0]} undivided, {counts[1]} as norms "
            f"ask, {counts[2]} written"
        )


def conversion_entry(conversion: Conversion | None, fold: Fold | None) -> dict[str, Any] | None:
    """The `conversion` object of the report."""
    if conversion is None:
        return None
    ranges = () if fold is None else fold.ranges
    faint = () if fold is None else fold.faint
    done = conversion.converted
    total = _total(_weights(conversion).values())
    return {
        "format": str(done.format),
        "fp32_nodes": _nodes(done, False),
        "fp64_nodes": _nodes(done, True),
        "casts_inserted": done.casts,
        "casts_removed": done.removed,
        "turned_products": done.turned,
        "elements": total.elements,
        "subnormal_elements": total.subnormal,
        "zeroed_elements": total.zero,
        "clipped": {n: c.largest for n, c in done.weights.items() if c.clipped},
        "positions": conversion.longest or None,
        "tables": [asdict(table) for table in conversion.tables.made],
        "angles_in_fp32": [
            {"tensor": kept.tensor, "reason": reason_text(kept.why)}
            for kept in conversion.tables.kept
        ],
        "groups": [
            {
                "largest": group.largest,
                "stored": group.stored,
                "limit": group.limit,
                "tensor": group.holds,
                "divided_by": 2.0**group.exponent,
                "norms": group.norms,
                "reason": None if group.reason is None else reason_text(group.reason),
            }
            for group in ranges
        ],
        "faint_weights": [asdict(weight) for weight in faint],
        "raised": {n: c.smallest for n, c in done.weights.items() if c.raised},
    }


def _nodes(done: Converted, wide: bool) -> list[dict[str, str]]:
    """The nodes that compute in FP32, or those in FP64."""
    return [
        {"name": node.name, "op": node.op, "reason": reason_text(node.why)}
        for node in done.nodes
        if node.wide == wide
    ]


def _weights_text(weights: Mapping[str, Counts]) -> str:
    total = _total(weights.values())
    if not total.elements:
        return "no weights"
    subnormal, zero = (100 * n / total.elements for n in (total.subnormal, total.zero))
    return (
        f"{total.elements} weight elements other than 0, {subnormal:.2g} % of them subnormal or "
        f"lost, {zero:.2g} % zero"
    )


def _weights(conversion: Conversion) -> dict[str, Counts]:
    """What became of the constants of the file, without the tables that were made."""
    tables = {table.name for table in conversion.tables.made}
    return {n: c for n, c in conversion.converted.weights.items() if n not in tables}


def _total(counts: Any) -> Counts:
    return reduce(add, counts, Counts())


def _named(values: dict[str, float]) -> str:
    names = [f"{name} ({value:.3g})" for name, value in list(values.items())[:_SHOWN]]
    more = len(values) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
