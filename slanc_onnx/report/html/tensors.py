"""The page's part on tensors: the largest of them against the limit, most of them folded away."""

from __future__ import annotations

import html
from collections.abc import Sequence

from slanc_onnx.report.columns import bits
from slanc_onnx.report.html.parts import listing
from slanc_onnx.verify import TensorSize


def tensor_section(sizes: Sequence[TensorSize], said: str) -> str:
    """The sentence and the table; "" for no tensors.

    Args:
        sizes: The largest first.
        said: What they say in a sentence.
    """
    if not sizes:
        return ""
    rows = [
        (s.tensor, s.op, f"{s.largest:.4g}", bits(s.bits), "leaves the format" if s.left else "")
        for s in sizes
    ]
    titles = ("tensor", "op", "largest in FP32", "bits to overflow", "rounded")
    table = listing("The largest tensors", titles, rows, 3, [size.left for size in sizes])
    return f"<h2>Tensors</h2>\n<p>{html.escape(said)}</p>\n{table}"
