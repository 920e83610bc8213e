"""Ways in which exporters write attention with a residual, as nodes from `x` to `total`.

Rows have 8 elements, in 4 heads. All biases are left out.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.models.small_graphs import Weights, normal

END = """
    turned = Transpose<perm = [0, 2, 1, 3]>(mixed)
    flat = Reshape(turned, whole)
    out = MatMul(flat, w_o)
    total = Add(x, out)
"""
# q, k, v of [batch, sequence, heads, size]
ATTEND = (
    """
    qt = Transpose<perm = [0, 2, 1, 3]>(q)
    kt = Transpose<perm = [0, 2, 3, 1]>(k)
    vt = Transpose<perm = [0, 2, 1, 3]>(v)
    scores = MatMul(qt, kt)
    scaled = Mul(scores, half)
    shares = Softmax<axis = -1>(scaled)
    mixed = MatMul(shares, vt)
"""
    + END
)
SEPARATE = """
    q_flat = MatMul(x, w_q) k_flat = MatMul(x, w_k) v_flat = MatMul(x, w_v)
"""
SPLIT_HEADS = """
    q = Reshape(q_flat, heads) k = Reshape(k_flat, heads) v = Reshape(v_flat, heads)
"""


@dataclass(frozen=True)
class Attention:
    """Nodes, their weights and further inputs.

    Attributes:
        title: What is special about it.
        nodes: From `x` to `total`.
        weights: By name.
        inputs: Graph inputs besides x, in text syntax.
        opset: The lowest standard opset in which the nodes are valid.
        runs: Whether ONNX Runtime's CPU provider takes it.
    """

    title: str
    nodes: str
    weights: Weights
    inputs: str = ""
    opset: int = 17
    runs: bool = True

    def __str__(self) -> str:
        return self.title

    def feeds(self, batch: int) -> dict[str, NDArray[np.int32]]:
        """The further inputs for sequences of length 1."""
        if not self.inputs:
            return {}
        return {"last": np.zeros(batch, np.int32), "length": np.array(1, np.int32)}


def shape(*sizes: int) -> NDArray[np.int64]:
    return np.array(sizes, np.int64)


COMMON: Weights = {
    "heads": shape(0, 0, 4, 2),
    "whole": shape(0, 0, 8),
    "half": np.array(0.5, np.float32),
    "w_o": normal(5, 8, 8),
}
SEPARATE_WEIGHTS = {f"w_{c}": normal(i, 8, 8) for i, c in enumerate("qkv")}
GROUPED_WEIGHTS = {"w_q": normal(0, 8, 8), "w_k": normal(1, 8, 4), "w_v": normal(2, 8, 4)}
# GroupQueryAttention asks for heads of at least 8.
WIDE_HEADS = {
    "w_q": normal(0, 8, 32),
    "w_k": normal(1, 8, 16),
    "w_v": normal(2, 8, 16),
    "w_o": normal(5, 32, 8),
}
PACKED = {"w": normal(3, 8, 24)}
LENGTHS = "int32[batch] last, int32 length"

MULTI_HEAD = Attention(
    "multi-head",
    SEPARATE + SPLIT_HEADS + ATTEND,
    {**COMMON, **SEPARATE_WEIGHTS},
)
GROUPED = Attention(
    "grouped-query: Unsqueeze, Expand, Reshape",
    SEPARATE
    + """
    q = Reshape(q_flat, heads)
    k2 = Reshape(k_flat, few) k3 = Unsqueeze(k2, three) k4 = Expand(k3, twice)
    k = Reshape(k4, heads)
    v2 = Reshape(v_flat, few) v3 = Unsqueeze(v2, three) v4 = Expand(v3, twice)
    v = Reshape(v4, heads)
"""
    + ATTEND,
    {
        **COMMON,
        **GROUPED_WEIGHTS,
        "few": shape(0, 0, 2, 2),
        "three": shape(3),
        "twice": shape(1, 1, 1, 2, 1),
    },
)
GROUPED_OP = Attention(
    "GroupQueryAttention",
    SEPARATE
    + """
    flat = com.microsoft.GroupQueryAttention<num_heads = 4, kv_num_heads = 2>
        (q_flat, k_flat, v_flat, , , last, length)
    out = MatMul(flat, w_o)
    total = Add(x, out)
""",
    WIDE_HEADS,
    LENGTHS,
)

PACKED_FORMS = [
    Attention(
        "packed: Split (gpt2)",
        "qkv = MatMul(x, w) q_flat, k_flat, v_flat = Split<axis = 2>(qkv, thirds)"
        + SPLIT_HEADS
        + ATTEND,
        {**COMMON, **PACKED, "thirds": shape(8, 8, 8)},
    ),
    Attention(
        "packed: Split without sizes, opset 18",
        "qkv = MatMul(x, w) q_flat, k_flat, v_flat = Split<axis = -1, num_outputs = 3>(qkv)"
        + SPLIT_HEADS
        + ATTEND,
        {**COMMON, **PACKED},
        opset=18,
    ),
    Attention(
        "packed: Slice of the last axis (phi3)",
        """
        qkv = MatMul(x, w)
        q_flat = Slice(qkv, n0, n8, n2) k_flat = Slice(qkv, n8, n16, n2)
        v_flat = Slice(qkv, n16, most, n2)
        """
        + SPLIT_HEADS
        + ATTEND,
        {
            **COMMON,
            **PACKED,
            "n0": shape(0),
            "n8": shape(8),
            "n16": shape(16),
            "n2": shape(2),
            "most": shape(2**63 - 1),
        },
    ),
    Attention(
        "packed: interleaved per head, Slice (gpt_neox)",
        """
        qkv = MatMul(x, w) per_head = Reshape(qkv, split)
        q = Slice(per_head, n0, n2, n3) k = Slice(per_head, n2, n4, n3)
        v = Slice(per_head, n4, n6, n3)
        """
        + ATTEND,
        {
            **COMMON,
            **PACKED,
            "split": shape(0, 0, 4, 6),
            "n0": shape(0),
            "n2": shape(2),
            "n3": shape(3),
            "n4": shape(4),
            "n6": shape(6),
        },
    ),
    Attention(
        "packed: [heads, 3, size], Gather (bloom)",
        """
        qkv = MatMul(x, w) five = Reshape(qkv, split)
        q = Gather<axis = 3>(five, n0) k = Gather<axis = 3>(five, n1) v = Gather<axis = 3>(five, n2)
        """
        + ATTEND,
        {
            **COMMON,
            **PACKED,
            "split": shape(0, 0, 4, 3, 2),
            "n0": np.array(0),
            "n1": np.array(1),
            "n2": np.array(2),
        },
    ),
    Attention(
        "packed: [3, heads, size], Slice and Squeeze (modernbert)",
        """
        qkv = MatMul(x, w) five = Reshape(qkv, split)
        q1 = Slice(five, n0, n1, n2) q = Squeeze(q1, n2)
        k1 = Slice(five, n1, n2, n2) k = Squeeze(k1, n2)
        v1 = Slice(five, n2, n3, n2) v = Squeeze(v1, n2)
        """
        + ATTEND,
        {
            **COMMON,
            **PACKED,
            "split": shape(0, 0, 3, 4, 2),
            "n0": shape(0),
            "n1": shape(1),
            "n2": shape(2),
            "n3": shape(3),
        },
    ),
    Attention(
        "multi-query: one key and value head, broadcast (falcon)",
        """
        qkv = MatMul(x, w) all = Reshape(qkv, split)
        q = Slice(all, n0, n4, n2) k = Slice(all, n4, n5, n2) v = Slice(all, n5, n6, n2)
        """
        + ATTEND,
        {
            **COMMON,
            "w": normal(3, 8, 12),
            "split": shape(0, 0, 6, 2),
            "n0": shape(0),
            "n2": shape(2),
            "n4": shape(4),
            "n5": shape(5),
            "n6": shape(6),
        },
    ),
    Attention(
        "a packed weight that is itself sliced and transposed (nn.MultiheadAttention)",
        """
        a = Slice(w, n0, n8, n0) at = Transpose<perm = [1, 0]>(a) q_flat = MatMul(x, at)
        b = Slice(w, n8, n16, n0) bt = Transpose<perm = [1, 0]>(b) k_flat = MatMul(x, bt)
        c = Slice(w, n16, n24, n0) ct = Transpose<perm = [1, 0]>(c) v_flat = MatMul(x, ct)
        """
        + SPLIT_HEADS
        + ATTEND,
        {
            **COMMON,
            "w": normal(3, 24, 8),
            "n0": shape(0),
            "n8": shape(8),
            "n16": shape(16),
            "n24": shape(24),
        },
    ),
]

OPS = [
    GROUPED_OP,
    Attention(
        "GroupQueryAttention, packed",
        """
        qkv = MatMul(x, w)
        flat, keys, values = com.microsoft.GroupQueryAttention<num_heads = 4, kv_num_heads = 2>
            (qkv, , , , , last, length)
        out = MatMul(flat, w_o) total = Add(x, out)
        """,
        {"w": normal(3, 8, 64), "w_o": WIDE_HEADS["w_o"]},
        LENGTHS,
    ),
    Attention(
        "MultiHeadAttention",
        SEPARATE
        + """
        flat = com.microsoft.MultiHeadAttention<num_heads = 4>(q_flat, k_flat, v_flat)
        out = MatMul(flat, w_o) total = Add(x, out)
        """,
        {**COMMON, **SEPARATE_WEIGHTS},
    ),
    Attention(
        "MultiHeadAttention, packed [batch, rows, heads, 3, size]",
        """
        qkv = MatMul(x, w) five = Reshape(qkv, split)
        flat = com.microsoft.MultiHeadAttention<num_heads = 4>(five)
        out = MatMul(flat, w_o) total = Add(x, out)
        """,
        {**COMMON, **PACKED, "split": shape(0, 0, 4, 3, 2)},
        runs=False,
    ),
    Attention(
        "MultiHeadAttention, keys and values of [batch, heads, rows, size]",
        SEPARATE
        + """
        k4 = Reshape(k_flat, heads) kt = Transpose<perm = [0, 2, 1, 3]>(k4)
        v4 = Reshape(v_flat, heads) vt = Transpose<perm = [0, 2, 1, 3]>(v4)
        flat = com.microsoft.MultiHeadAttention<num_heads = 4>(q_flat, kt, vt)
        out = MatMul(flat, w_o) total = Add(x, out)
        """,
        {**COMMON, **SEPARATE_WEIGHTS},
    ),
    Attention(
        "com.microsoft Attention",
        """
        flat = com.microsoft.Attention<num_heads = 4>(x, w, zeros)
        out = MatMul(flat, w_o) total = Add(x, out)
        """,
        {**COMMON, **PACKED, "zeros": np.zeros(24, np.float32)},
    ),
    Attention(
        "com.microsoft Attention with wider values",
        """
        flat = com.microsoft.Attention<num_heads = 4, qkv_hidden_sizes = [8, 8, 16]>(x, w, zeros)
        out = MatMul(flat, w_o) total = Add(x, out)
        """,
        {"w": normal(3, 8, 32), "w_o": normal(5, 16, 8), "zeros": np.zeros(32, np.float32)},
    ),
    Attention(
        "ai.onnx Attention, 3-D, grouped",
        SEPARATE
        + """
        flat = Attention<q_num_heads = 4, kv_num_heads = 2>(q_flat, k_flat, v_flat)
        out = MatMul(flat, w_o) total = Add(x, out)
        """,
        {**COMMON, **GROUPED_WEIGHTS},
        opset=23,
    ),
    Attention(
        "ai.onnx Attention, 4-D, grouped",
        SEPARATE
        + """
        q4 = Reshape(q_flat, heads) qt = Transpose<perm = [0, 2, 1, 3]>(q4)
        k4 = Reshape(k_flat, few) kt = Transpose<perm = [0, 2, 1, 3]>(k4)
        v4 = Reshape(v_flat, few) vt = Transpose<perm = [0, 2, 1, 3]>(v4)
        mixed = Attention(qt, kt, vt)
        """
        + END,
        {**COMMON, **GROUPED_WEIGHTS, "few": shape(0, 0, 2, 2)},
        opset=23,
    ),
]
