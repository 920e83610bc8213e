"""Agreed: of which nodes ONNX's evaluator and ONNX Runtime are known to make the same numbers.

Of all others both are asked. `tests/prove/test_computed.py` asks both of what is said here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from slanc_onnx.graph import DOMAINS, Array
from slanc_onnx.prove.bound import NoBound
from slanc_onnx.reasons import Unread, reason

# Ops that the evaluator of an onnx before 1.23 lacks or gets wrong: there both are asked.
RIGHT_SINCE_1_23 = {"Div", "OneHot", "ScatterND", "Softplus"}
_VERSION = tuple(map(int, onnx.__version__.split(".")[:2]))
# Ops whose numbers are moved, compared, or the nearest one of the type to what they stand for.
_NEAREST = frozenset(
    (
        *("Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Clip", "Concat", "Constant"),
        *("ConstantOfShape", "Div", "Equal", "Expand", "Flatten", "Floor", "Gather"),
        *("GatherElements", "GatherND", "Greater", "GreaterOrEqual", "Identity", "IsNaN", "Less"),
        *("LessOrEqual", "Max", "Min", "Mul", "Neg", "NonZero", "Not", "OneHot", "Or", "Pad"),
        *("ReduceMax", "ReduceMin", "Relu", "Reshape", "Round", "ScatterElements", "ScatterND"),
        *("Shape", "Sign", "Size", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Tile", "TopK"),
        *("Transpose", "Trilu", "Unsqueeze", "Where", "Xor"),
    )
)
_IN_FP32 = ("Cos", "DequantizeLinear", "Erf", "Exp", "HardSigmoid", "LeakyRelu", "Log", "Mod")
_ALSO = ("CumSum", "Reciprocal", "Sin", "Softplus", "Softsign", "Tanh")
AGREED = (_NEAREST | {*_IN_FP32, *_ALSO}) - (RIGHT_SINCE_1_23 if _VERSION < (1, 23) else set())
# Attributes that are 0 or 1. What another number means, each runtime decides for itself.
_SWITCHES = frozenset(
    (
        *("align_corners", "allowzero", "antialias", "causal", "ceil_mode", "count_include_pad"),
        *("do_rotary", "exclude_outside", "exclusive", "fmod", "interleaved", "is_causal"),
        *("keepdims", "largest", "noop_with_empty_axes", "reverse", "rotary_interleaved"),
        *("saturate", "select_last_index", "sliding_window_cache", "smooth_softmax", "sorted"),
        *("training_mode", "transA", "transB", "upper"),
    )
)
_ROUNDED = (np.dtype(np.float16), helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))


def refuse_odd_switches(node: NodeProto) -> None:
    """Refuse a node of which an attribute that is 0 or 1 is another number.

    Raises:
        NoBound: there is one.
    """
    if node.domain not in DOMAINS:
        return
    for attribute in node.attribute:
        if attribute.name in _SWITCHES and attribute.i not in (0, 1):
            raise NoBound(reason(Unread.NO_RULE_FOR_ATTRIBUTE, attribute.name))


def agreed(node: NodeProto, arrays: Sequence[Array | None], made: Sequence[Array]) -> bool:
    """Whether both make the same of a node, as far as is known.

    Args:
        node: The node.
        arrays: Its inputs.
        made: Its outputs, by the evaluator.
    """
    if node.domain not in DOMAINS:
        return True  # which ONNX Runtime does not know
    given = [array for array in arrays if array is not None]
    if node.op_type == "Range":  # ONNX Runtime adds the steps up
        return all(bool((np.asarray(array, np.float64) % 1 == 0).all()) for array in given)
    if node.op_type == "Pow":  # whole numbers may leave their type
        return arrays[0] is not None and arrays[0].dtype.kind not in "iu" and not _odd(given, made)
    if node.op_type == "CumSum":  # which rounds in any order
        return all(array.dtype.kind in "iu" for array in given)
    if node.op_type not in AGREED or _odd(given, made):
        return False
    if any(array.dtype in _ROUNDED for array in (*given, *made)) and node.op_type not in _NEAREST:
        return False
    return not _read_in_two_ways(node, arrays)


def _odd(given: Sequence[Array], made: Sequence[Array]) -> bool:
    """Whether there is nan or inf, which runtimes clip, compare and order in their own ways."""
    floats = [a for a in (*given, *made) if a.dtype.kind in "fV"]
    with np.errstate(all="ignore"):
        finite = [np.isfinite(a.astype(np.float32, copy=False)).all() for a in floats]
    return not all(finite)


def _read_in_two_ways(node: NodeProto, arrays: Sequence[Array | None]) -> bool:
    """Whether the evaluator reads inputs or attributes of a node in another way."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    first = arrays[0] if arrays else None
    match node.op_type:
        case "Squeeze":  # no axes are none for the one, and all for the other
            return any(array is not None and not array.size for array in arrays[1:])
        case "Unsqueeze":  # before opset 13 it adds them one after another, in their order
            return len(values.get("axes", ())) > 1
        case "Slice":  # a start below the first place, for steps backwards
            steps = arrays[4] if len(arrays) > 4 else None
            return steps is not None and bool((np.asarray(steps) < 0).any())
        case "TopK":  # in no order
            return not values.get("sorted", 1)
        case "NonZero":  # of a number without axes
            return first is None or not first.ndim
        case "DequantizeLinear":  # whole numbers that leave their type
            return first is None or first.dtype.itemsize > 2
    return False
