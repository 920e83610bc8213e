"""A node of every op in the table of proof rules, with what it reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
W = 6  # channels
MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Rows:
    """An activation [2, 3, 6] whose rows lie along some axes, or whose elements are alone.

    Attributes:
        axes: Of its channels.
        low: No element is below.
        high: No element is above.
        dims: Its sizes.
        dtype: Of its elements.
    """

    axes: tuple[int, ...] = (2,)
    low: float = -4.0
    high: float = 4.0
    dims: tuple[int, ...] = (2, 3, W)
    dtype: type = np.float32


@dataclass(frozen=True)
class Sample:
    """A node; its inputs are activations, constants, or left out."""

    op: str
    inputs: tuple[Rows | Array | None, ...] = (Rows(),)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""
    opset: int = 21
    outputs: int = 1


def whole(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


def number(value: float) -> Array:
    return np.array(value, np.float32)


def random(*sizes: int) -> Array:
    return np.random.default_rng(len(sizes)).normal(size=sizes).astype(np.float32)


ALONE = Rows(axes=())
POSITIVE = Rows(low=0.25)
ROW = random(W)
PAST_SIZES = np.array([2, 2], np.int32), np.array(3, np.int32)
IDS = Rows((), 0, 2, (2, 3), np.int64)
BOOLS = Rows((), 0, 1, (2, 3, W), np.bool_)
BYTES = Rows((), -128, 127, (2, 3, W), np.int8)
STEPS = np.linspace(0.01, 0.1, W).astype(np.float32)
LOW, HIGH = np.full(W, -128, np.int8), np.arange(W, dtype=np.int8)


def packed(*sizes: int) -> Array:
    """Random bytes."""
    return np.random.default_rng(len(sizes)).integers(0, 256, sizes, dtype=np.uint8)


def in_blocks(level: int, bits: int = 4, zero: Array | None = None) -> Sample:
    """MatMulNBits of a [32, 3] matrix in blocks of 16."""
    scales, bias = np.abs(random(3, 2)) / 8, None if bits == 8 else random(3)
    given = (Rows(dims=(2, 3, 32)), packed(3, 2, 2 * bits), scales, zero, None, bias)
    attributes = {"K": 32, "N": 3, "bits": bits, "block_size": 16, "accuracy_level": level}
    return Sample("MatMulNBits", given, attributes, MICROSOFT)


SAMPLES = [
    *[
        Sample(op, (rows,))
        for op in (
            *("Abs", "Neg", "Ceil", "Floor", "Round", "Sign", "Cos", "Sin", "Erf", "Exp", "Elu"),
            *("Celu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Relu", "Selu", "Sigmoid"),
            *("Softplus", "Softsign", "Tanh", "Gelu", "Identity", "IsNaN"),
        )
        for rows in (Rows(), ALONE, POSITIVE)
    ],
    Sample("LeakyRelu", attributes={"alpha": 3.0}),
    Sample("Elu", attributes={"alpha": 2.5}),
    Sample("Gelu", attributes={"approximate": "tanh"}),
    Sample("Swish", attributes={"alpha": 2.0}, opset=24),
    *[Sample(op, (POSITIVE,)) for op in ("Sqrt", "Log", "Reciprocal")],
    *[Sample(op, domain=MICROSOFT) for op in ("Gelu", "QuickGelu", "FastGelu")],
    Sample("FastGelu", (Rows(), ROW), domain=MICROSOFT),
    Sample("BiasGelu", (Rows(), ROW), domain=MICROSOFT),
    *[
        Sample(op, inputs)
        for op in ("Add", "Sub", "Mul", "Max", "Min")
        for inputs in (
            (Rows(), Rows()),
            (Rows(), Rows((1,))),
            (Rows(), ALONE),
            (Rows(), ROW),
            (ROW, Rows()),
            (Rows(), number(3)),
            (Rows(), Rows((), -2, 3, (2, 3, 1))),
            (Rows(), random(3, 1)),
            (Rows(), Rows((0,), dims=(W,))),
        )
    ],
    *[Sample("Div", (Rows(), by)) for by in (POSITIVE, np.abs(ROW) + 1, number(0.5))],
    Sample("Sum", (Rows(), ROW, ALONE)),
    *[Sample("Pow", (POSITIVE, number(power))) for power in (2, 3, 0.5)],
    *[Sample("Pow", (rows, number(2))) for rows in (Rows(), Rows((1,)), ALONE)],
    Sample("Pow", (Rows(), number(3))),
    *[
        Sample(op, (Rows(), ALONE))
        for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
    ],
    *[Sample(op, (BOOLS, BOOLS)) for op in ("And", "Or", "Xor")],
    Sample("Not", (BOOLS,)),
    Sample("Mod", (IDS, whole(2))),
    Sample("Where", (BOOLS, Rows(), ROW)),
    Sample("Where", (Rows((), 0, 1, (2, 3, 1), np.bool_), Rows(), Rows())),
    Sample("Clip", (Rows(), number(-1), number(2))),
    Sample("Clip", (Rows(), None, number(2))),
    Sample("Cast", attributes={"to": 10}),
    Sample("Cast", attributes={"to": 7}),
    *[Sample("Cast", (IDS,), {"to": to}) for to in (1, 10)],
    Sample("Cast", (Rows((2,), 0, 4, dtype=np.int64),), {"to": 1}),
    *[
        Sample("DequantizeLinear", (BYTES, number(0.1), zero))
        for zero in (None, np.array(-128, np.int8))
    ],
    *[Sample("DequantizeLinear", (BYTES, STEPS, zero), {"axis": -1}) for zero in (None, LOW, HIGH)],
    Sample("DequantizeLinear", (Rows((2,), 0, 4, dtype=np.uint8), STEPS), {"axis": 2}),
    Sample("DequantizeLinear", (BYTES, STEPS[:3], HIGH[:3]), {"axis": 1}),
    Sample("DequantizeLinear", (BYTES, STEPS.astype(np.float16)), {"axis": 2}),
    *[
        Sample("QuantizeLinear", (Rows(), scale, zero), {"axis": 2})
        for scale in (number(0.01), number(0.1), STEPS)
        for zero in (None, np.broadcast_to(np.uint8(7), scale.shape), LOW[: scale.size or 1])
        if zero is None or zero.shape == scale.shape
    ],
    *[in_blocks(level, bits) for level in (0, 1, 4) for bits in (4, 8)],
    *[in_blocks(0, 4, zero) for zero in (packed(3, 1), np.abs(random(3, 2)) * 9)],
    in_blocks(4, 4, packed(3, 1)),
    *[
        Sample(
            "GatherBlockQuantized",
            (packed(5, 32 * bits // 8), Rows((), 0, 4, (2, 3), np.int64), random(5, 2), zero),
            {"bits": bits, "block_size": 16, "gather_axis": 0, "quantize_axis": 1},
            MICROSOFT,
        )
        for bits, zero in ((4, None), (4, packed(5, 1)), (8, None), (8, packed(5, 2)))
    ],
    Sample("CastLike", (Rows(), np.array(1, np.float16))),
    Sample("Dropout"),
    Sample("Concat", (Rows(), Rows()), {"axis": 2}),
    Sample("Concat", (Rows(), Rows()), {"axis": 1}),
    Sample("Concat", (Rows(), random(2, 3, 2)), {"axis": -1}),
    Sample("ConstantOfShape", (Rows((), 1, 3, (2,), np.int64),)),
    Sample("Expand", (Rows(dims=(2, 1, W)), whole(2, 3, W))),
    Sample("Expand", (Rows(dims=(W,), axes=(0,)), whole(2, 3, W))),
    Sample("Expand", (Rows((2,), dims=(2, 3, 1)), whole(2, 3, W))),
    Sample("Flatten", attributes={"axis": 2}),
    Sample("Flatten", attributes={"axis": 1}),
    *[
        Sample("Reshape", (Rows(), whole(*to)))
        for to in ((2, 3, 2, 3), (0, 0, -1), (6, W), (2, -1), (2, 3, 3, 2), (2, 9, 2), (36,))
    ],
    *[Sample("Transpose", attributes={"perm": p}) for p in ([0, 2, 1], [2, 0, 1], [1, 0, 2])],
    Sample("Squeeze", (Rows(dims=(2, 1, W)), whole(1))),
    Sample("Unsqueeze", (Rows(), whole(1))),
    Sample("Unsqueeze", (Rows(), whole(-1))),
    Sample("Tile", (Rows(), whole(1, 2, 1))),
    Sample("Tile", (Rows(), whole(1, 1, 2))),
    Sample("Gather", (random(5, W), Rows((), 0, 4, (2, 3), np.int64))),
    Sample("Gather", (Rows(), whole(1)), {"axis": 1}),
    Sample("Gather", (Rows(), whole(4, 0, 0)), {"axis": 2}),
    Sample("Gather", (Rows(), Rows((), 0, 5, (4,), np.int64)), {"axis": 2}),
    Sample("GatherElements", (Rows(), Rows((), 0, 2, (2, 3, W), np.int64)), {"axis": 1}),
    Sample("GatherND", (Rows(), whole(1, 2).reshape(1, 2))),
    Sample("Slice", (Rows(), whole(1), whole(5), whole(2))),
    Sample("Slice", (Rows(), whole(-1), whole(-100), whole(2), whole(-2))),
    Sample("Slice", (Rows(), whole(0), whole(2), whole(1))),
    Sample("Split", (Rows(), whole(2, 4)), {"axis": 2}, outputs=2),
    Sample("Split", (Rows(),), {"axis": -1, "num_outputs": 2}, outputs=2),
    Sample("Split", (Rows(), whole(1, 2)), {"axis": 1}, outputs=2),
    Sample("Pad", (Rows(), whole(0, 0, 1, 0, 0, 2))),
    Sample("Pad", (Rows(), whole(0, 1, 0, 0, 1, 0), number(2))),
    Sample("Trilu", attributes={"upper": 0}),
    Sample("CumSum", (IDS, np.array(1))),
    *[
        Sample("CumSum", (Rows(axes), np.array(axis)), {"exclusive": axis % 2, "reverse": reverse})
        for axes in ((2,), ())
        for axis in (1, 2, -1)
        for reverse in (0, 1)
    ],
    *[
        Sample("Resize", (Rows((1,), dims=(2, 3, 4)), None, *by), {"mode": "nearest"})
        for by in ((np.array([1, 1, 1.7], np.float32),), (None, whole(2, 3, 7)))
    ],
    *[
        Sample(op, inputs, {"keepdims": keep})
        for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2")
        for keep in (0, 1)
        for inputs in ((Rows(), whole(2)), (Rows(), whole(1)), (Rows(),), (Rows((1,)), whole(2)))
    ],
    *[
        Sample("MaxPool", (Rows(axes, dims=(2, W, 5)),), {"kernel_shape": [3], **more})
        for axes in ((1,), (2,), ())
        for more in ({}, {"pads": [2, 1], "strides": [2], "storage_order": 1})
    ],
    Sample("ArgMax", attributes={"axis": 2}),
    Sample("ArgMin", attributes={"axis": 1}),
    Sample("TopK", (Rows(), whole(2)), {"axis": 1}, outputs=2),
    Sample("TopK", (Rows(), whole(2)), outputs=2),
    Sample("Shape"),
    Sample("Size"),
    Sample("NonZero", (IDS,)),
    Sample("Range", (np.array(0), Rows((), 1, 4, (), np.int64), np.array(1))),
    Sample("MatMul", (Rows(), random(W, 4))),
    Sample("MatMul", (Rows(), random(2, W, 4))),
    Sample("MatMul", (Rows(), Rows((1,), dims=(2, W, 4)))),
    Sample("MatMul", (random(4, 3), Rows())),
    Sample("Gemm", (Rows((1,), dims=(3, W)), random(W, 4), random(4)), {"alpha": 2.0}),
    Sample("Gemm", (Rows((1,), dims=(3, W)), random(4, W)), {"transB": 1}),
    Sample("Conv", (Rows((1,), dims=(2, W, 5)), random(4, W, 3), random(4)), {"pads": [1, 1]}),
    Sample("Conv", (Rows((1,), dims=(2, W, 5)), random(W, 1, 3)), {"group": W}),
    Sample("Softmax", attributes={"axis": -1}),
    Sample("Softmax", (ALONE,), {"axis": 1}),
    Sample("ScatterElements", (Rows(), whole(*[1] * W).reshape(1, 1, W), random(1, 1, W))),
    Sample("ScatterND", (Rows(), whole(1, 2).reshape(1, 2), random(1, W))),
    Sample(
        "Attention",
        (Rows((2,), dims=(2, 3, W)), Rows((2,), dims=(2, 3, W)), Rows((2,), dims=(2, 3, W))),
        {"q_num_heads": 2, "kv_num_heads": 2},
        opset=23,
    ),
    *[
        Sample(
            "Attention",
            (*[Rows((3,), dims=(1, 2, 3, 4))] * 3, np.full((3, 3), mask, np.float32)),
            {"is_causal": causal, "scale": 2.0},
            opset=23,
        )
        for causal in (0, 1)
        for mask in (-1.0, np.finfo(np.float32).min)
    ],
    Sample(
        "GroupQueryAttention",
        (
            *[Rows((2,), dims=(2, 3, 16))] * 3,
            None,
            None,
            np.array([2, 2], np.int32),
            np.array(3, np.int32),
        ),
        {"num_heads": 2, "kv_num_heads": 2},
        MICROSOFT,
    ),
    Sample(
        "RotaryEmbedding",
        (Rows((3,), dims=(2, 2, 3, 4)), *[Rows((), -1, 1, (2, 3, 2))] * 2),
        opset=23,
    ),
    Sample(
        "RotaryEmbedding",
        (
            Rows((2,), dims=(2, 3, 8)),
            Rows((), 0, 2, (2, 3), np.int64),
            np.cos(random(4, 2)),
            np.sin(random(4, 2)),
        ),
        {"num_heads": 2},
        MICROSOFT,
    ),
]
