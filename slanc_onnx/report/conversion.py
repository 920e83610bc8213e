"""What became of a model whose floats have 16 bits now, in words and for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import reduce
from operator import add
from typing import Any

from slanc_onnx.apply.convert import Conversion, Counts
from slanc_onnx.report.wording import reason_text

_SHOWN = 3  # names of constants in a line


def conversion_lines(conversion: Conversion) -> Iterator[str]:
    """A few lines: nodes that stay, Casts, and what the format does not hold."""
    done, form = conversion.converted, str(conversion.converted.format)
    casts = f"{done.casts} Casts inserted"
    if done.removed:
        casts += f", {done.removed} of the file gone"
    yield f"{form}: {len(done.nodes)} nodes in FP32; {casts}; {_weights_text(done.weights)}"
    by_reason = Counter((node.op, node.why) for node in done.nodes)
    for (op, why), count in by_reason.items():
        yield f"in FP32: {count} {op}: {reason_text(why)}"
    clipped = {n: c.largest for n, c in done.weights.items() if c.clipped}
    if clipped:
        yield f"constants clipped to what {form} holds: {_named(clipped)}"
    raised = {n: c.smallest for n, c in done.weights.items() if c.raised}
    if raised:
        yield f"constants raised to what {form} keeps: {_named(raised)}"


def conversion_entry(conversion: Conversion | None) -> dict[str, Any] | None:
    """The `conversion` object of the report."""
    if conversion is None:
        return None
    done = conversion.converted
    total = _total(done.weights.values())
    return {
        "format": str(done.format),
        "fp32_nodes": [
            {"name": node.name, "op": node.op, "reason": reason_text(node.why)}
            for node in done.nodes
        ],
        "casts_inserted": done.casts,
        "casts_removed": done.removed,
        "elements": total.elements,
        "subnormal_elements": total.subnormal,
        "zeroed_elements": total.zero,
        "clipped": {n: c.largest for n, c in done.weights.items() if c.clipped},
        "raised": {n: c.smallest for n, c in done.weights.items() if c.raised},
    }


def _weights_text(weights: Mapping[str, Counts]) -> str:
    total = _total(weights.values())
    if not total.elements:
        return "no weights"
    subnormal, zero = (100 * n / total.elements for n in (total.subnormal, total.zero))
    return (
        f"{total.elements} weight elements other than 0, {subnormal:.2g} % of them subnormal or "
        f"lost, {zero:.2g} % zero"
    )


def _total(counts: Any) -> Counts:
    return reduce(add, counts, Counts())


def _named(values: dict[str, float]) -> str:
    names = [f"{name} ({value:.3g})" for name, value in list(values.items())[:_SHOWN]]
    more = len(values) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
