"""Precision and control: what lies beyond FP32 or FP16 between norms, and branches."""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper

from benchmarks.random_graphs.building import BOOL, FLOAT, Building
from benchmarks.random_graphs.constructs.construct import construct
from benchmarks.random_graphs.constructs.plain import back, projected

HALF, BRAIN = int(TensorProto.FLOAT16), int(TensorProto.BFLOAT16)


def times(g: Building, x: str, *factors: float) -> str:
    for factor in factors:
        x = g.node("Mul", x, g.constant(factor))
    return x


@construct("fp32_range_between_norms")
def far_up_and_back(g: Building) -> None:
    g.x = times(g, g.x, 1e20, 1e20, 1e-20, 1e-20)


@construct("fp32_range_between_norms")
def far_down_and_back(g: Building) -> None:
    g.x = times(g, g.x, 1e-30, 1e-30, 1e30, 1e30)


@construct("fp32_range_between_norms")
def infinity_less_itself(g: Building) -> None:
    far = times(g, g.x, 1e30)
    square = g.node("Mul", far, far)
    g.x = g.node(g.one_of("Tanh", "Sigmoid", "Sin", "Identity"), g.node("Sub", square, square))


@construct("fp32_range_between_norms")
def zero_times_infinity(g: Building) -> None:
    g.x = g.node("Add", g.x, times(g, g.x, 3e38, 3e38, 0.0))


@construct("fp32_range_between_norms")
def infinity_in_a_bounded_function(g: Building) -> None:
    far = times(g, g.x, 1e30, 1e30)
    g.x = g.node(g.one_of("Sigmoid", "Tanh", "Erf", "Softsign", "HardSigmoid", "Cos"), far)


@construct("fp32_range_between_norms")
def infinity_over_itself(g: Building) -> None:
    far = times(g, g.x, 1e30, 1e30)
    g.x = g.node("Div", g.one_of(far, g.x), g.one_of(far, g.x, g.node("Abs", far)))


@construct("fp32_range_between_norms")
def silu_of_far(g: Building) -> None:
    far = times(g, projected(g, g.x, g.width), float(g.one_of(1e38, 1e30)), 1e8)
    g.x = times(g, g.node("Mul", far, g.node("Sigmoid", far)), 1e-30)


@construct("fp32_range_between_norms")
def sum_of_far(g: Building) -> None:
    wide = g.constant(np.full((g.width, g.width), 1e38, np.float32))
    g.x = times(g, g.node("MatMul", g.x, wide), 1e-38)


@construct("cast_to_fp16")
def island_in_half(g: Building) -> None:
    up = float(g.one_of(1e5, 1e4, 3e3, 1e6))
    half = g.node("Cast", times(g, g.x, up), to=g.one_of(HALF, HALF, BRAIN))
    g.x = times(g, g.as_float(half), 1 / up)


@construct("cast_to_fp16")
def product_in_half(g: Building) -> None:
    if g.half:
        return elementwise_in_half(g)
    spread = float(g.one_of(1.0, 100.0, 1e3))
    matrix = (g.rng.standard_normal((g.width, g.width)) * spread).astype(np.float16)
    half = g.node("Cast", g.x, to=HALF)
    made = g.node("MatMul", g.node("MatMul", half, g.constant(matrix)), g.constant(matrix))
    g.x = times(g, g.as_float(made), 1 / spread)
    return None


@construct("cast_to_fp16")
def elementwise_in_half(g: Building) -> None:
    half = g.node("Cast", times(g, g.x, 100.0), to=HALF)
    g.x = times(g, g.as_float(g.node("Mul", half, half)), 1e-4)


@construct("cast_to_fp16")
def back_from_whole_numbers(g: Building) -> None:
    kind = g.one_of(TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32, TensorProto.BOOL)
    up = times(g, g.x, float(g.one_of(100.0, 1.0, 1e10)))
    g.x = g.as_float(g.node("Cast", up, to=int(kind)))


@construct("quantised")
def quantised(g: Building) -> None:
    if g.half:
        return elementwise_in_half(g)
    step, zero = g.constant(0.05), g.constant(g.one_of(0, 128, 255), np.uint8)
    g.x = g.node("DequantizeLinear", g.node("QuantizeLinear", g.x, step, zero), step, zero)
    return None


@construct("quantised")
def dynamically_quantised(g: Building) -> None:
    if g.half:
        return elementwise_in_half(g)
    q, step, zero = g.outputs("DynamicQuantizeLinear", 3, g.x)
    weight = g.constant(g.rng.integers(0, 255, (g.width, g.width)).astype(np.uint8))
    product = g.node("MatMulInteger", q, weight, zero, g.constant(128, np.uint8))
    g.x = g.node("Mul", g.as_float(product), g.node("Mul", step, g.constant(0.01)))
    return None


@construct("quantised")
def weight_of_bytes(g: Building) -> None:
    if g.half:
        return elementwise_in_half(g)
    per_column = g.chance(0.5)
    step = g.rng.uniform(1e-3, 0.1, (g.width,) if per_column else ())
    zero = g.rng.integers(-128, 128, step.shape).astype(np.int8)
    weight = g.rng.integers(-128, 128, (g.width, g.width)).astype(np.int8)
    parts = g.constant(weight), g.constant(step.astype(np.float32)), g.constant(zero)
    g.x = g.node("MatMul", g.x, g.node("DequantizeLinear", *parts, axis=g.one_of(0, 1, -1)))
    return None


@construct("quantised")
def weight_in_blocks(g: Building) -> None:
    if g.half:
        return elementwise_in_half(g)
    bits = g.one_of(4, 8)
    packed = g.rng.integers(0, 256, (g.width, 1, 2 * bits), dtype=np.uint8)
    steps = g.constant(g.rng.uniform(0, 0.5, (g.width, 1)).astype(np.float32))
    attributes = {"K": g.width, "N": g.width, "bits": bits, "block_size": 16}
    level = g.one_of(0, 1, 4)
    inputs = [g.x, g.constant(packed), steps]
    if g.chance(0.5):
        inputs.append(g.constant(g.rng.integers(0, 256, (g.width, 1), dtype=np.uint8)))
    domain = "com.microsoft"
    g.x = g.node("MatMulNBits", *inputs, domain=domain, accuracy_level=level, **attributes)
    return None


@construct("quantised")
def table_of_bytes(g: Building) -> None:
    if g.half:
        return elementwise_in_half(g)
    table = g.constant(g.rng.integers(-128, 128, (40, g.width)).astype(np.int8))
    step, zero = g.constant(0.3), g.constant(g.one_of(-128, 0, 127), np.int8)
    rows = g.node("DequantizeLinear", g.node("Gather", table, "ids"), step, zero)
    g.x = g.node("Add", g.x, rows)
    return None


@construct("quantised")
def table_in_blocks(g: Building) -> None:
    if g.half:
        return elementwise_in_half(g)
    table = g.constant(g.rng.integers(0, 256, (40, 8), dtype=np.uint8))
    steps = g.constant(g.rng.uniform(0, 3, (40, 1)).astype(np.float32))
    how = {"bits": 4, "block_size": 16, "gather_axis": 0, "quantize_axis": 1}
    rows = g.node("GatherBlockQuantized", table, "ids", steps, domain="com.microsoft", **how)
    g.x = g.node("Add", g.x, g.node("Slice", rows, g.ints(0), g.ints(g.width), g.ints(-1)))
    return None


@construct("cast_to_fp16")
def everything_in_half(g: Building) -> None:
    g.x = g.node("Add", g.x, projected(g, g.x, g.width, 100.0))
    g.x = back(g, g.x, g.width)


def branch(g: Building, name: str, *nodes: NodeProto) -> GraphProto:
    """A subgraph whose last node makes its output."""
    result = helper.make_tensor_value_info(nodes[-1].output[0], g.output_type(), None)
    return helper.make_graph(list(nodes), name, [], [result])


def chosen(g: Building, condition: str) -> None:
    """`x` as it is, or 10 000 times as large."""
    large = g.constant(1e4)
    names = g.name("then"), g.name("else")
    same = branch(g, "then", helper.make_node("Identity", [g.x], [names[0]]))
    other = branch(g, "else", helper.make_node("Mul", [g.x, large], [names[1]]))
    g.x = g.node("If", condition, then_branch=same, else_branch=other)


@construct("if_overridable_condition")
def overridable_condition(g: Building) -> None:
    chosen(g, g.overridable(np.array(g.chance(0.8))))


@construct("if_overridable_condition")
def condition_of_the_caller(g: Building) -> None:
    chosen(g, g.input("flag", "flag", BOOL, ()))


@construct("if_overridable_condition")
def condition_of_the_length(g: Building) -> None:
    short = g.node("Less", g.length_now(), g.constant(g.one_of(2, 5), np.int64))
    chosen(g, short)


@construct("if_overridable_condition")
def norm_in_a_branch(g: Building) -> None:
    gamma, names = g.vector(), (g.name("then"), g.name("else"))
    op = "SimplifiedLayerNormalization"
    norm = helper.make_node(op, [g.x, gamma], [names[0]], axis=-1, epsilon=1e-5)
    other = helper.make_node(g.one_of("Neg", "Tanh", "Softplus"), [g.x], [names[1]])
    branches = branch(g, "then", norm), branch(g, "else", other)
    flag = g.input("flag", "flag", BOOL, ())
    g.x = g.node("If", flag, then_branch=branches[0], else_branch=branches[1])


@construct("if_overridable_condition")
def condition_of_a_constant(g: Building) -> None:
    one = g.overridable(np.array(1.0, np.float32))
    chosen(g, g.node("Greater", one, g.constant(0.0)))


@construct("composition")
def floats_of_the_caller(g: Building) -> None:
    rows = g.as_float(g.input("floats", "floats", FLOAT, (g.batch, g.length, g.width)))
    g.x = g.node(g.one_of("Add", "Mul", "Sub"), g.x, rows)


@construct("composition")
def ids_as_floats(g: Building) -> None:
    column = g.node("Unsqueeze", g.as_float("ids"), g.ints(-1))
    g.x = g.node("Add", g.x, times(g, column, float(g.one_of(1.0, 30.0))))


@construct("composition")
def norm_of_the_caller(g: Building) -> None:
    g.x = g.as_float(g.input("floats", "floats", FLOAT, (g.batch, g.length, g.width)))
    g.norm()


@construct("composition")
def norm_of_far_rows(g: Building) -> None:
    g.x = times(g, g.x, float(g.one_of(1e30, 1e19, 1e15)), float(g.one_of(1.0, 1e10)))
    g.norm()
