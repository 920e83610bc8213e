"""The fused ops that the tool reads and onnx.defs does not know: what they take, and give.

They are ONNX Runtime's, of com.microsoft, and its SimplifiedLayerNormalization. Tests hold them
against ONNX Runtime.
"""

from __future__ import annotations

from typing import NamedTuple

from onnx import AttributeProto

INT, FLOAT, STRING = AttributeProto.INT, AttributeProto.FLOAT, AttributeProto.STRING
INTS, FLOATS = AttributeProto.INTS, AttributeProto.FLOATS


class StandIn(NamedTuple):
    """An op of onnx whose output has the shape and the type of a fused op's.

    Attributes:
        op: Its type.
        inputs: The fused op's inputs that it reads.
        outputs: The fused op's outputs that are like its own.
    """

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...] = (0,)


class Signature(NamedTuple):
    """What an op takes.

    Attributes:
        least: The inputs that it must have.
        kinds: Its attributes by kind, as one text; those that it must have end with "!".
        first: Whether it must have the first of them.
        most: The inputs that it can have.
        stand_in: What tells shape inference of its outputs; None where no single op does.
    """

    least: int
    kinds: dict[int, str]
    first: bool = True
    most: int = 2**31 - 1
    stand_in: StandIn | None = None


_SAME = StandIn("Identity", (0,))
_SUM = StandIn("Add", (0, 1), (0, 3))

CONTRIB: dict[str, Signature] = {
    "Attention": Signature(
        2,
        {
            INT: (
                "num_heads! do_rotary past_present_share_buffer rotary_embedding_dim unidirectional"
            ),
            FLOAT: "mask_filter_value scale",
            INTS: "qkv_hidden_sizes",
        },
    ),
    "BiasGelu": Signature(2, {}, stand_in=StandIn("Add", (0, 1))),
    "DequantizeLinear": Signature(2, {INT: "axis"}),
    "DynamicQuantizeMatMul": Signature(3, {}),
    "EmbedLayerNormalization": Signature(
        7,
        {FLOAT: "epsilon", INT: "mask_index_type"},
        stand_in=StandIn("Gather", (2, 0), (0, 2)),  # rows of the word table, by ids
    ),
    "FastGelu": Signature(1, {}, stand_in=_SAME),
    "FusedConv": Signature(
        2,
        {
            STRING: "activation auto_pad",
            FLOATS: "activation_params",
            INTS: "dilations kernel_shape pads strides",
            INT: "group",
        },
    ),
    "FusedGemm": Signature(
        2,
        {
            STRING: "activation",
            FLOAT: "activation_alpha activation_beta activation_gamma alpha beta",
            INT: "transA transB",
        },
    ),
    "FusedMatMul": Signature(2, {FLOAT: "alpha", INT: "transA transB transBatchA transBatchB"}),
    "GatherBlockQuantized": Signature(3, {INT: "bits block_size gather_axis quantize_axis"}),
    "GatherND": Signature(2, {}),
    "Gelu": Signature(1, {}, stand_in=_SAME),
    "GroupNorm": Signature(
        3, {INT: "activation! groups! channels_last", FLOAT: "epsilon"}, stand_in=_SAME
    ),
    "GroupQueryAttention": Signature(
        7,
        {
            INT: (
                "kv_num_heads! num_heads! causal do_rotary kv_cache_bit_width "
                "local_window_size qk_output rotary_interleaved sliding_window_cache "
                "smooth_softmax"
            ),
            FLOAT: "k_norm_epsilon q_norm_epsilon qk_norm_epsilon scale softcap",
            STRING: "k_quant_type v_quant_type",
        },
    ),
    "MatMulIntegerToFloat": Signature(4, {}),
    "MatMulNBits": Signature(3, {INT: "K! N! block_size! accuracy_level bits weight_prepacked"}),
    "MoE": Signature(
        5,
        {
            FLOAT: "activation_alpha activation_beta swiglu_limit",
            STRING: "activation_type",
            INT: (
                "k normalize_routing_weights swiglu_fusion "
                "swiglu_limit_after_activation use_sparse_mixer"
            ),
        },
    ),
    "MultiHeadAttention": Signature(
        1, {INT: "num_heads! unidirectional", FLOAT: "mask_filter_value scale"}
    ),
    "NhwcConv": Signature(
        2, {STRING: "auto_pad", INTS: "dilations kernel_shape pads strides", INT: "group"}
    ),
    "Pad": Signature(2, {STRING: "mode"}),
    "QEmbedLayerNormalization": Signature(18, {FLOAT: "epsilon"}),
    "QGemm": Signature(6, {FLOAT: "alpha", INT: "transA transB"}),
    "QLinearAdd": Signature(7, {}),
    "QLinearConv": Signature(
        8,
        {
            STRING: "auto_pad",
            INT: "channels_last group",
            INTS: "dilations kernel_shape pads strides",
        },
    ),
    "QLinearMul": Signature(7, {}),
    "QuantizeLinear": Signature(2, {INT: "axis"}),
    "QuickGelu": Signature(1, {FLOAT: "alpha"}, stand_in=_SAME),
    "Range": Signature(2, {}),
    "SimplifiedLayerNormalization": Signature(
        2,
        {INT: "axis stash_type", FLOAT: "epsilon"},
        stand_in=StandIn("Mul", (1, 0)),  # its type is that of gamma
    ),
    "SkipGroupNorm": Signature(
        4,
        {INT: "activation! groups! channels_last", FLOAT: "epsilon"},
        stand_in=StandIn("Identity", (0,), (0, 1)),
    ),
    "SkipLayerNormalization": Signature(3, {FLOAT: "epsilon"}, stand_in=_SUM),
    "SkipSimplifiedLayerNormalization": Signature(3, {FLOAT: "epsilon"}, stand_in=_SUM),
}
