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


FUSED: dict[str, Fused] = {
    "LayerNormalization": Fused("layer", addends=(0,), gamma=1, beta=2),
    "RMSNormalization": Fused("rms", addends=(0,), gamma=1),
    "SimplifiedLayerNormalization": Fused("rms", addends=(0,), gamma=1),
    "SkipLayerNormalization": Fused("layer", (0, 1, 4), 2, 3, epsilon=1e-12, residual=3),
    "SkipSimplifiedLayerNormalization": Fused("rms", (0, 1, 3), 2, epsilon=1e-12, residual=3),
    "GroupNormalization": Fused("group", addends=(0,), gamma=1, beta=2),
    "InstanceNormalization": Fused("group", addends=(0,), gamma=1, beta=2),
    "GroupNorm": Fused("group", addends=(0,), gamma=1, beta=2),
    "SkipGroupNorm": Fused("group", (0, 3, 4), gamma=1, beta=2, residual=1),
}


@dataclass(frozen=True)
class Internal:
    """A norm inside another op: its input is no tensor of the graph, so nothing can be divided."""

    kind: Kind
    gamma: int
    obstacle: Unscalable
    beta: int = -1
    epsilon: str = "epsilon"
    part: str = ""  # tells the norms of an op apart that may hold several


_EMBEDDING = Internal(
    "layer",
    5,
    Unscalable.ADDS_INSIDE,
    beta=6,
)


INTERNAL: dict[str, tuple[Internal, ...]] = {
    "EmbedLayerNormalization": (_EMBEDDING,),
    "QEmbedLayerNormalization": (_EMBEDDING,),
    "GroupQueryAttention": (
        Internal("rms", 14, Unscalable.HEADS_INSIDE, epsilon="qk_norm_epsilon", part="q_norm"),
        Internal("rms", 15, Unscalable.HEADS_INSIDE, epsilon="qk_norm_epsilon", part="k_norm"),
    ),
}
