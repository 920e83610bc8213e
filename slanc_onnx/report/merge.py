"""What was merged of the norms into the weights around them, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, get_args

from slanc_onnx.apply.merge import MergedNorm, Merges, Part, ProductSize
from slanc_onnx.options import NormPart
from slanc_onnx.report.columns import reason_entry
from slanc_onnx.report.wording import reason_text

_PARTS: tuple[NormPart, ...] = get_args(NormPart)
_WORDS = {
    "gamma": ("weightless", "without gamma before"),
    "mean": ("mean-free", "without mean before"),
    "division": ("deferred", "deferred before"),
}
# Ops that compute one number per element, or move none.
_BY_ELEMENT = ("Add", "Sub", "Mul", "Div", "Sqrt", "Pow", "Neg", "Reciprocal")


def merge_lines(merges: Merges) -> Iterator[str]:
    """How many norms are cheaper now, how many are left and why, and what that saves to run."""
    for part in _PARTS:
        found = merges.parts(part)
        if not found:
            continue
        counts = Counter(one.state for one in found)
        merged, before = _WORDS[part]
        line = f"{part} of {len(found)} norms: {counts['merged']} {merged}, {counts['left']} left"
        if counts["before"]:
            line += f", {counts['before']} {before}"
        yield line
        for why, count in _reasons(merges, part).most_common():
            yield f"  {count} left: {why}"
    if merges.products:
        yield _sizes_line(list(merges.products.values()))
    if merges.nodes:
        changed = (f"{op} {old} -> {new}" for op, (old, new) in merges.nodes.items())
        saved = _saved(merges)
        told = f"{abs(saved)} {'fewer' if saved >= 0 else 'more'} elementwise"
        yield f"nodes: {', '.join(changed)}; {told}"
    if merges.changes.rounding:
        yield (
            f"{len(merges.changes.rounding)} weights merged in FP64 and rounded: largest relative "
            f"error {merges.error:.2g}"
        )


def merged_text(norm: MergedNorm) -> str:
    """What was merged of a norm, and why the rest is left."""
    told = []
    for part in _PARTS:
        one: Part | None = getattr(norm, part)
        if one is not None and one.state == "merged":
            told.append(_WORDS[part][0])
        elif one is not None and one.reason is not None:
            told.append(f"{part} left: {reason_text(one.reason)}")
    if norm.division == Part("merged") and norm.product is not None:
        told.append(_sizes_line([norm.product]))
    return "; ".join(told)


def merge_entry(merges: Merges | None) -> dict[str, Any] | None:
    """The `merge` object of the report."""
    if merges is None:
        return None
    return {
        "weightless": merges.count("gamma", "merged"),
        "mean_free": merges.count("mean", "merged"),
        "deferred": merges.count("division", "merged"),
        "left": {part: dict(_reasons(merges, part)) for part in _PARTS},
        "elementwise_removed": _saved(merges),
        "nodes": {op: list(counts) for op, counts in merges.nodes.items()},
        "largest_relative_error": merges.error,
        "norms": [
            {
                "name": norm.name,
                "form": norm.form,
                "gamma": _part(norm.gamma),
                "mean": _part(norm.mean),
                "division": _part(norm.division),
                "product": _product(norm.product),
            }
            for norm in merges.norms
        ],
    }


def _sizes_line(sizes: Sequence[ProductSize]) -> str:
    """How large the products get that are divided by a norm's root."""
    predicted = [size.predicted for size in sizes if size.predicted is not None]
    certified = [size.certified for size in sizes if size.certified is not None]
    told = [f"predicted up to {max(predicted):.3g}"] if predicted else []
    count = f" ({len(certified)} norms)" if len(sizes) > 1 else ""
    told += [f"certified up to {max(certified):.3g}{count}"] if certified else []
    holds = f"{sizes[0].format} holds {sizes[0].largest:g}"
    return f"products before their division: {', '.join(told)}; {holds}"


def _product(size: ProductSize | None) -> dict[str, Any] | None:
    if size is None:
        return None
    return {"predicted": size.predicted, "certified": size.certified, "largest": size.largest}


def _part(part: Part | None) -> dict[str, Any] | None:
    if part is None:
        return None
    why = None if part.reason is None else reason_entry(part.reason)
    return {"state": part.state, "reason": why}


def _reasons(merges: Merges, part: NormPart) -> Counter[str]:
    """How many norms are left for each reason; those of ops are counted by the op's type."""
    found = (one.reason for one in merges.parts(part))
    texts = Counter[str]()
    for why in found:
        if why is not None:
            texts[reason_text(replace(why, tensor=""))] += 1
    return texts


def _saved(merges: Merges) -> int:
    counts = (merges.nodes.get(op, (0, 0)) for op in _BY_ELEMENT)
    return sum(old - new for old, new in counts)
