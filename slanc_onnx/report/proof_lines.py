"""Lines of a summary on proofs: which target would certify more, what tokens alone gave."""

from __future__ import annotations

from collections.abc import Mapping

from slanc_onnx.targets import Change
from slanc_onnx.verify import FirstRows

EPSILON = "certified if the device adds no epsilon below {:.3g} (--epsilon representable)"
CHANGES: Mapping[Change, str] = {
    Change.KEEP_SUBNORMALS: "subnormals kept",
    Change.PAIRWISE_SUMS: "pairwise sums",
    Change.FP32_SUMS: "sums in FP32",
    Change.FP32_STATISTICS: "all statistics in FP32",
}


def advice_text(certified: Mapping[Change, int], now: int, norms: int) -> str:
    """Which changes of the target certify more norms, the most first; "" where none does.

    Args:
        certified: How many norms each change certifies, the cheapest change first.
        now: How many are certified.
        norms: How many there are.
    """
    more = [(count, CHANGES[change]) for change, count in certified.items() if count > now]
    ranked = sorted(more, key=lambda each: -each[0])  # the cheaper of equals stays first
    words = [f"{count} with {change}" for count, change in ranked]
    return f"of {norms} norms at least {', '.join(words)} would be certified" if words else ""


def first_rows_text(rows: FirstRows, within: int, norms: int) -> str:
    """What the run of every token alone showed, and what its other inputs were."""
    others = ", ".join(f"{name} {value:g}" for name, value in rows.others.items())
    ran = f"each of {rows.tokens} tokens alone, in FP32{others and f' with {others}'}"
    return f"{ran}: within the safe radius of {within} of {norms} norms"
