"""The table of checks: which outputs of rules are sound, and which hold only as estimates.

The tracer reads a graph at batch 1 and sequence length 1 and may approximate. A bound over all
inputs may use a rule's output only where it is sound: every row of the true tensor, for every
input, batch and length, lies in what the expression stands for. That is, for

- Linear, Sum, Product, Apply, Pick, Join, Select: exactly that function of the parts, which are
  rows of one position; a part that occurs twice is the same row.
- Apply of ReduceSum: the sum of the part's row, one number.
- Mix: shares of at least 0 that add up to at most 1, of rows of its part at any positions; other
  shares for every head, so a channel that a Pick repeats may be mixed anew each time.
- Alternatives: one of the kinds, as a whole. Shares: numbers in [0, 1], at most 1 in sum.
- Embedding: some row of the table. Experts: the part through any one matrix.
- Convolution: each tap times a row at any position, or times zero.
- Normalised: any row of length sqrt(channels) or less, sqrt(channels * positions) over a Pooled.

An op that is not in the table is never sound.
"""

from __future__ import annotations

from collections.abc import Sequence

from slanc_onnx.graph import op_of
from slanc_onnx.ops import MOVES, UNARY, CannotFollow, Movement
from slanc_onnx.reasons import Doubt, Reason
from slanc_onnx.trace.constants import ON_CONSTANTS
from slanc_onnx.trace.expression import Input, Weight
from slanc_onnx.trace.rules import ATTENTION, LOGIC
from slanc_onnx.trace.sound import checks as compute
from slanc_onnx.trace.sound import moves as moving
from slanc_onnx.trace.sound.checks import views_in
from slanc_onnx.trace.values import Const, Value, View
from slanc_onnx.trace.visit import Visit


def unproven(visit: Visit, outputs: Sequence[Value]) -> Reason | None:
    """Why the outputs of a rule hold only as an estimate; None where they are sound.

    Args:
        visit: The node and the values of its inputs.
        outputs: The values that the rule gave for its outputs.
    """
    op = op_of(visit.node)
    if op not in CHECK_OF:
        return Reason(Doubt.NO_CHECK)
    try:
        doubt = _of_any_op(op, visit, outputs) or CHECK_OF[op](visit, outputs)
    except CannotFollow as error:
        return Reason(Doubt.NOT_JUDGED, behind=error.reason)
    return None if doubt is None else Reason(doubt)


def _of_any_op(op: str, visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """Why an op of any kind is unsound: sequence length 1 hides values or positions."""
    # Whatever it is made of, a condition is 0 or 1, and what a softmax gives are shares.
    if op == "Softmax" or op in LOGIC:
        return None
    # Past rows are empty as well at length 1; `past_values` names them.
    if any(_vanishes(v) for v in views_in(visit.inputs[:3] if op in ATTENTION else visit.inputs)):
        return Doubt.EMPTY_INPUT
    if any(_vanishes(v) for v in views_in(outputs)):
        return Doubt.EMPTY_OUTPUT
    varies = any(isinstance(v, Const) and v.varies for v in visit.inputs)
    if varies and op not in _BY_LENGTH and any(isinstance(v, View) for v in outputs):
        return Doubt.NUMBERS_BY_LENGTH
    if varies and op != "Expand" and any(isinstance(v, Weight) for v in outputs):
        return Doubt.CUT_BY_LENGTH
    return None


def _vanishes(view: View) -> bool:
    return not view.ids.size and not isinstance(view.expr, Input)


def past_values(visit: Visit) -> str | None:
    """The graph input with past rows that an op puts in front of its own; None for no such input.

    They are rows of the same kind if the model made them. At sequence length 1 there are none.
    """
    op = op_of(visit.node)
    if op in ATTENTION:
        position = {"GroupQueryAttention": 4, "MultiHeadAttention": 7}.get(op)
        if position is None:
            position = 4 if visit.node.domain == "com.microsoft" else 5
        return visit.node.inputs[position].name if visit.value(position) is not None else None
    if op not in ("Concat", "ConcatFromSequence"):
        return None
    views = [v for v in views_in(visit.inputs) if not v.ids.size and isinstance(v.expr, Input)]
    return next((v.expr.name for v in views if isinstance(v.expr, Input)), None)


# Ops whose shape, bounds or positions may depend on the sequence length; their checks look at it.
_BY_LENGTH = {
    *(op for op, moves in MOVES.items() if moves.by_length),
    "Concat",
    "Pad",
    "Resize",
    "Where",
    *ATTENTION,
    "EmbedLayerNormalization",
}


_ROUNDS = compute.of_constants(Doubt.ROUNDED)
_REDUCES = compute.of_constants(Doubt.REDUCED)
_INDICES = compute.of_constants(Doubt.INDICES)

# Kind of movement -> the check of ops that move so.
_OF_MOVEMENT: dict[Movement, compute.Check] = {
    "keeps": compute.always,
    "drops": compute.dropout,
    "casts": compute.cast,
    "reshapes": moving.reshape,
    "turns": moving.transpose,
    "inserts": moving.insert,
    "repeats": moving.tile,
    "slices": moving.cut,
    "splits": moving.cut,
    "picks": moving.gather,
    "points": moving.point,
}

# Op -> its check, which says why its outputs are unsound, None where they are sound.
CHECK_OF: dict[str, compute.Check] = {
    **dict.fromkeys(ON_CONSTANTS, compute.of_constants(Doubt.NO_CHECK)),
    **dict.fromkeys(LOGIC, compute.always),
    **dict.fromkeys(UNARY, compute.elementwise),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Sum", "Pow"), compute.elementwise),
    **dict.fromkeys(("Min", "Max", "Clip"), compute.limited),
    **{op: _OF_MOVEMENT[m.kind] for op, m in MOVES.items() if m.kind in _OF_MOVEMENT},
    "Where": compute.where,
    "Softmax": compute.softmax,
    "Concat": moving.concat,
    "ConcatFromSequence": moving.concat,
    "Pad": moving.pad,
    "MatMul": compute.matmul,
    "FusedMatMul": compute.matmul,
    "Gemm": compute.gemm,
    "FusedGemm": compute.gemm,
    "Einsum": compute.einsum,
    **dict.fromkeys(("Conv", "FusedConv", "NhwcConv"), compute.conv),
    "BatchNormalization": compute.batch_norm,
    "EmbedLayerNormalization": compute.embed,
    **dict.fromkeys(ATTENTION, compute.attention),
    "MatMulNBits": compute.nbits,
    "GatherBlockQuantized": moving.block_table,
    "QuantizeLinear": _ROUNDS,
    "DequantizeLinear": compute.dequantised,
    **dict.fromkeys(
        (
            "ReduceMax",
            "ReduceMin",
            "ReduceProd",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceLogSumExp",
        ),
        _REDUCES,
    ),
    "ReduceMean": compute.mean,
    "ReduceSum": compute.total,
    **dict.fromkeys(("AveragePool", "GlobalAveragePool"), compute.mean),
    **dict.fromkeys(("Resize", "Upsample"), moving.resize),
    "CumSum": compute.of_constants(Doubt.COUNTED),
    "TopK": moving.top_k,
    **dict.fromkeys(("NonZero", "ArgMax", "ArgMin"), _INDICES),
    **dict.fromkeys(
        ("GatherElements", "ScatterND", "ScatterElements"),
        compute.of_constants(Doubt.CHOSEN_BY_DATA),
    ),
    "SplitToSequence": moving.split_sequence,
    **dict.fromkeys(("SequenceAt", "SequenceConstruct"), compute.always),
    **dict.fromkeys(("Shape", "Size", "Range", "ConstantOfShape"), compute.always),
}
