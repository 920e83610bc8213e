"""Everything in a model that can be FP16 or BF16, in its FP32 copy: each runs and equals NumPy."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from slanc_onnx.run import float32
from slanc_onnx.run.float32 import as_float32
from slanc_onnx.run.session import Session

Half = np.dtype[np.generic]
HALVES: dict[str, tuple[int, Half]] = {
    "float16": (TensorProto.FLOAT16, np.dtype(np.float16)),
    "bfloat16": (TensorProto.BFLOAT16, np.dtype(ml_dtypes.bfloat16)),
}
TEXT = """
<ir_version: {ir}, opset_import: ["": 17, "local": 1]>
main ({t}[rows, 4] x, bool c{inputs}) => ({t}[rows, 4] y)
{{ {nodes} }}
{functions}
"""
A_THIRD = 1 / 3  # in 11 or 8 bits, not in 24
CONSTANT = "k = Constant<value = {t} {{{bits}}}>()"
CHOICE = """If (c) <
    then_branch = t () => ({t}[rows, 4] o) {{ o = Mul(x, third) }},
    else_branch = e () => ({t}[rows, 4] q) {{ q = Add(x, third) }}>"""


def function(body: str) -> str:
    return f'<domain: "local", opset_import: ["": 17]> f (p) => (r) {{{{ {body} }}}}'


# Part -> (nodes, functions); `third` and `w` are initializers where they are named.
PARTS: dict[str, tuple[str, str]] = {
    "an initializer": ("y = Mul(x, third)", ""),
    "a Constant node": (f"{CONSTANT} y = Mul(x, k)", ""),
    "a Cast": ("f = Cast<to = 1>(x) h = Cast<to = {kind}>(f) y = Mul(h, third)", ""),
    "a Cast of integers": (
        "i = Cast<to = 7>(c) h = Cast<to = {kind}>(i) k = Mul(h, third) y = Mul(x, k)",
        "",
    ),
    "a CastLike": ("i = Cast<to = 7>(c) h = CastLike(i, x) k = Mul(h, third) y = Mul(x, k)", ""),
    "a ConstantOfShape": (
        "d = Shape(x) k = ConstantOfShape<value = {t}[1] {{{bits}}}>(d) y = Mul(x, k)",
        "",
    ),
    "EyeLike": (
        "i = Constant<value = int64[4, 4] {{0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}}>() "
        "k = EyeLike<dtype = {kind}>(i) h = MatMul(x, k) y = Mul(h, third)",
        "",
    ),
    "a branch of an If": (f"y = {CHOICE}", ""),
    "a Constant in a branch": (
        "y = " + CHOICE.replace("o = Mul(x, third)", f"{CONSTANT} o = Mul(x, k)"),
        "",
    ),
    "an initializer of a branch": (f"y = {CHOICE}", "inside"),
    "the body of a Loop": (
        """n = Cast<to = 7>(c) y = Loop (n, c, x) <
            body = b (int64 i, bool go, {t}[a, 4] s) => (bool on, {t}[a, 4] u) {{
                on = Identity(go) u = Mul(s, third) }}>""",
        "",
    ),
    "a function": (
        "y = local.f(x)",
        function(f"{CONSTANT} r = Mul(p, k)"),
    ),
    "a Cast in a function": (
        "h = local.f(x) y = Mul(h, third)",
        function("g = Cast<to = 1>(p) r = Cast<to = {kind}>(g)"),
    ),
    "a branch in a function": (
        "y = local.f(x)",
        function(f"""
            yes = Constant<value = bool {{{{1}}}}>() r = If (yes) <
            then_branch = t () => ({{t}}[rows, 4] o) {{{{
                {CONSTANT} o = Mul(p, k) }}}},
            else_branch = e () => ({{t}}[rows, 4] q) {{{{ q = Identity(p) }}}}>"""),
    ),
}
each_half = pytest.mark.parametrize("name", HALVES)
each_part = pytest.mark.parametrize("part", PARTS)


def half(name: str, values: NDArray[np.float64]) -> NDArray[np.generic]:
    return np.asarray(values).astype(HALVES[name][1])


def model_of(name: str, nodes: str, functions: str = "", ir: int = 10) -> onnx.ModelProto:
    kind = HALVES[name][0]
    inside = functions == "inside"
    inputs = ", {t} third" if ir < 4 else ""
    value = half(name, np.array(A_THIRD))
    text = TEXT.replace("{inputs}", inputs).replace("{nodes}", nodes)
    text = text.replace("{functions}", "" if inside else functions)
    model = onnx.parser.parse_model(
        text.format(ir=ir, t=name, kind=kind, bits=int(value.view(np.uint16)))
    )
    third = numpy_helper.from_array(value, "third")
    graph = model.graph
    for owner in [a.g for a in graph.node[0].attribute] if inside else [graph]:
        owner.initializer.append(third)
    return model


def x_of(name: str) -> NDArray[np.generic]:
    return half(name, np.random.default_rng(1).normal(size=(3, 4)))


def run(model: onnx.ModelProto, name: str) -> NDArray[np.float32]:
    y = Session(model, None).run({"x": x_of(name), "c": np.array(True)})["y"]
    assert y.dtype == np.float32
    return y


def truth(name: str) -> NDArray[np.float64]:
    """The half-precision numbers, multiplied exactly."""
    return x_of(name).astype(np.float64) * float(half(name, np.array(A_THIRD)))


@each_half
@each_part
def test_each_part_of_a_model_is_converted(part: str, name: str) -> None:
    model = model_of(name, *PARTS[part])
    before = model.SerializeToString()
    copy = as_float32(model, None)
    assert model.SerializeToString() == before
    onnx.checker.check_model(copy)
    np.testing.assert_allclose(run(copy, name), truth(name), rtol=1e-6)
    kinds = [t.type.tensor_type.elem_type for t in (*copy.graph.input, *copy.graph.output)]
    assert kinds == [TensorProto.FLOAT, TensorProto.BOOL, TensorProto.FLOAT]
    assert HALVES[name][0] not in [t.data_type for t in copy.graph.initializer]
    for mine, its in zip(model.graph.node, copy.graph.node, strict=True):
        assert (mine.op_type, list(mine.input)) == (its.op_type, list(its.input))
        assert list(mine.output) == list(its.output)


LARGE = {
    "in the main graph": ("y = Mul(x, third)", "", 10),
    "in a branch": (f"y = {CHOICE}", "inside", 10),
    "read in a branch": (f"y = {CHOICE}", "", 10),
    "read by the body of a Loop": (PARTS["the body of a Loop"][0], "", 10),
    "that is a graph input too, as before IR version 4": ("y = Mul(x, third)", "", 3),
}


@each_half
@pytest.mark.parametrize(("nodes", "functions", "ir"), LARGE.values(), ids=LARGE)
def test_a_large_weight_stays_as_it_is_with_a_cast_behind_it(
    nodes: str, functions: str, ir: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(float32, "LARGEST_INLINE", 0)
    model = model_of(name, nodes, functions, ir)
    copy = as_float32(model, None)
    if functions != "inside" and ir > 3:  # elsewhere it may as well be converted
        assert [t.data_type for t in copy.graph.initializer] == [HALVES[name][0]]
    np.testing.assert_allclose(run(copy, name), truth(name), rtol=1e-6)
    for mine, its in zip(model.graph.node, copy.graph.node, strict=False):
        assert (mine.op_type, mine.output) == (its.op_type, its.output)


IN_FP32 = {
    "floats": "y = Mul(x, k) k = Constant<value_float = 2.0>()",
    "a Cast to integers": "i = Cast<to = 7>(x) y = Cast<to = 1>(i)",
    "an If": "y = If (c) <then_branch = t () => (float[a, 4] o) { o = Neg(x) }, "
    "else_branch = e () => (float[a, 4] q) { q = Abs(x) }>",
}


@pytest.mark.parametrize("nodes", IN_FP32.values(), ids=IN_FP32)
def test_a_model_without_half_precision_is_itself(nodes: str) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 17]> '
        f"main (float[rows, 4] x, bool c) => (float[rows, 4] y) {{ {nodes} }}"
    )
    assert as_float32(model, None) is model


@each_half
def test_one_half_precision_tensor_in_a_branch_is_enough(name: str) -> None:
    kind = HALVES[name][0]
    model = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 17]>
        main (float[rows, 4] x, bool c) => (float[rows, 4] y) {{
            y = If (c) <
                then_branch = t () => (float[a, 4] o) {{
                    h = Cast<to = {kind}>(x) o = Cast<to = 1>(h) }},
                else_branch = e () => (float[a, 4] q) {{ q = Identity(x) }}>
        }}""")
    copy = as_float32(model, None)
    assert copy is not model
    x = np.array([[1 / 3, 1e-9, 7e7, 1]], np.float32)
    y = Session(copy, None).run({"x": x, "c": np.array(True)})["y"]
    np.testing.assert_array_equal(y, x)  # nothing is rounded any more


def test_integers_that_are_stored_in_16_bits_stay() -> None:
    model = model_of("float16", "i = Cast<to = 5>(x) h = Cast<to = 10>(i) y = Mul(h, third)")
    copy = as_float32(model, None)
    kinds = [helper.get_node_attr_value(n, "to") for n in copy.graph.node if n.op_type == "Cast"]
    assert kinds == [TensorProto.INT16, TensorProto.FLOAT]
