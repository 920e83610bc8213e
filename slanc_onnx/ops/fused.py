"""Tables of the fused ops that are norms, and of the ops that hold one inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slanc_onnx.reasons import Unscalable

Kind = Literal["layer", "rms", "group", "l2"]


@dataclass(frozen=True)
class Fused:
    """A fused op that is a norm: the input positions of its parts, -1 for one it does not have."""

    kind: Kind
    addends: tuple[int, ...]
    gamma: int
    beta: int = -1
    epsilon: float = 1e-5  # the attribute's default
    residual: int | None = None  # position of the output that has the sum of the addends
    indices: tuple[int, ...] = ()  # of rows, where the addends are tables; without them 0, 1, 2 ...


FUSED: dict[str, Fused] = {
    "LayerNormalization": Fused("layer", addends=(0,), gamma=1, beta=2),
    "RMSNormalization": Fused("rms", addends=(0,), gamma=1),
    "SimplifiedLayerNormalization": Fused("rms", addends=(0,), gamma=1),
    "SkipLayerNormalization": Fused("layer", (0, 1, 4), 2, 3, epsilon=1e-12, residual=3),
    "SkipSimplifiedLayerNormalization": Fused("rms", (0, 1, 3), 2, epsilon=1e-12, residual=3),
    "EmbedLayerNormalization": Fused("layer", (2, 3, 4), 5, 6, 1e-12, 2, indices=(0, 8, 1)),
    "GroupNormalization": Fused("group", addends=(0,), gamma=1, beta=2),
    "InstanceNormalization": Fused("group", addends=(0,), gamma=1, beta=2),
    "GroupNorm": Fused("group", addends=(0,), gamma=1, beta=2),
    "SkipGroupNorm": Fused("group", (0, 3, 4), gamma=1, beta=2, residual=1),
}


@dataclass(frozen=True)
class Internal:
    """A norm inside another op: its input is no tensor of the graph, so nothing can be divided.

    Attributes:
        kind: Of the norm.
        gamma: The input position of its gamma.
        obstacle: Why it cannot be scaled where it stays inside.
        beta: The input position of its beta; -1 for none.
        epsilons: The attributes that may tell its epsilon; the first that is given counts.
        epsilon: Where none is given.
        part: Tells the norms of an op apart that may hold several.
        source: The input position of what is normalised head by head.
        heads: The attribute with the number of heads; "" for a norm that is not written out.
    """

    kind: Kind
    gamma: int
    obstacle: Unscalable
    beta: int = -1
    epsilons: tuple[str, ...] = ("epsilon",)
    epsilon: float = 1e-12
    part: str = ""
    source: int = 0
    heads: str = ""


def _heads(part: str, source: int, gamma: int, heads: str) -> Internal:
    epsilons = (f"{part}_epsilon", "qk_norm_epsilon")
    obstacle = Unscalable.HEADS_INSIDE
    return Internal("rms", gamma, obstacle, -1, epsilons, 1e-6, part, source, heads)


INTERNAL: dict[str, tuple[Internal, ...]] = {
    "QEmbedLayerNormalization": (Internal("layer", 5, Unscalable.ADDS_INSIDE, beta=6),),
    "GroupQueryAttention": (
        _heads("q_norm", 0, 14, "num_heads"),
        _heads("k_norm", 1, 15, "kv_num_heads"),
    ),
}

# ONNX Runtime's other ops with norms inside, which are listed and not read: the input positions of
# the norms' weights, or the attribute that switches them on.
HOLDING: dict[str, tuple[int, ...] | str] = {
    "DynamicSparseAttention": (14, 15),
    "EngramGate": (3, 4, 5),
    "GatedDeltaNet": "qk_l2_norm",
    "HyperConnectionLowRankMix": (1,),
    "Mamba2Verify": (8,),
    "MatMulNBitsMlp": (2,),
    "MatMulNBitsQkv": (2,),
    "PackedSparseAttentionIndexer": (2, 3),
    "PagedAttention": (12, 13),
    "SparseAttentionIndexer": (2, 3),
    "SparsePagedAttention": (17, 18),
}
