"""Emulated norms have every bit that a loop of float16 operations has."""

from dataclasses import replace
from itertools import product

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from slanc_onnx import Options, validate
from slanc_onnx.accelerator import Accelerator, Variance
from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.ops.fused import Kind
from slanc_onnx.verify.emulate.norms import can_emulate, emulate
from tests.oracles.half_norm import SUMS, HalfNorm
from tests.oracles.unoptimised import run
from tests.pairs import a_third

EPSILON = 1e-5
PASSES: list[Variance] = ["two-pass", "one-pass"]
DEVICES = [
    Accelerator(flush_subnormals=flush, variance=variance).summing(accumulate)
    for accumulate, flush, variance in product(SUMS, (False, True), PASSES)
]
NORMS: dict[str, tuple[Kind, int, str]] = {
    "layer": ("layer", 2, "y = LayerNormalization<epsilon = 1e-5>(x, g, b)"),
    "layer by ops": (
        "layer",
        2,
        "mu = ReduceMean<axes = [-1]>(x) c = Sub(x, mu) q = Mul(c, c) "
        "m = ReduceMean<axes = [-1]>(q) v = Add(m, eps) s = Sqrt(v) n = Div(c, s) "
        "k = Mul(n, g) y = Add(k, b)",
    ),
    "layer, n - 1": (
        "layer",
        2,
        "mu = ReduceMean<axes = [-1]>(x) c = Sub(x, mu) q = Mul(c, c) "
        "t = ReduceSum(q, last) m = Div(t, n_1) v = Add(m, eps) s = Sqrt(v) n = Div(c, s) "
        "k = Mul(n, g) y = Add(k, b)",
    ),
    "rms": ("rms", 2, "y = SimplifiedLayerNormalization<axis = -1, epsilon = 1e-5>(x, g)"),
    "rms, epsilon outside": (
        "rms",
        1,
        "q = Mul(x, x) m = ReduceMean<axes = [-1]>(q) r = Sqrt(m) s = Add(r, eps) n = Div(x, s) "
        "y = Mul(n, g)",
    ),
}


def model_of(nodes: str, width: int, inputs: str = "x") -> onnx.ModelProto:
    kind = f"float[2, rows, {width}]"
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
        main ({", ".join(f"{kind} {name}" for name in inputs.split())}) => ({kind} y)
        <float eps = {{1e-5}}, float n_1 = {{{width - 1}}}, int64[1] last = {{-1}}>
        {{ {nodes} }}""")
    for name, values in affine(width).items():
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def affine(width: int) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(7)
    return {name: random.normal(size=width).astype(np.float32) for name in ("g", "b")}


def rows(width: int) -> NDArray[np.float32]:
    """Ordinary rows, hot rows that overflow, cold rows of subnormal squares, constant rows."""
    random = np.random.default_rng(width)
    size = 2.0 ** np.array([0, 1, 5, 7, 9, 15, -4, -7, -9, -14, -20])
    x = random.normal(size=(2, len(size) + 2, width))
    x[:, : len(size)] *= size[:, None]
    x[:, -2], x[:, -1] = 3.25, 0
    return x.astype(np.float32)


def same(actual: NDArray[np.generic], expected: list[object]) -> bool:
    truth = np.array(expected, np.float32).reshape(actual.shape)
    return bool(np.array_equal(actual, truth, equal_nan=True))


# Sums of an even and of an odd number are in 5 and 33; 32 and 2 are powers of two, as halves of
# halves are: each device meets one of the lot below, and all of them when the slow tests run.
@pytest.mark.parametrize(
    ("device", "width"), [*a_third(DEVICES, [1, 2, 32]), *product(DEVICES, [5, 33])], ids=str
)
def test_every_step_is_rounded_as_in_a_loop_of_float16(device: Accelerator, width: int) -> None:
    x, constants = rows(width), affine(width)
    for title, (kind, power, nodes) in NORMS.items():
        if "n - 1" in title and width == 1:
            continue  # it divides by zero
        model = model_of(nodes, width)
        norms = find_norms_in(read_graph(model))
        emulated = emulate(model, norms, device)
        outputs = run(emulated.model, x=x)
        gamma = constants["g"].tolist() if norms[0].gamma else []
        beta = constants["b"].tolist() if norms[0].beta else []
        loop = HalfNorm(device, kind, EPSILON, power, unbiased="n - 1" in title)
        expected = [loop.row(row, gamma, beta) for row in x.reshape(-1, width).tolist()]
        (mean_square,) = emulated.mean_squares.values()
        assert same(outputs[mean_square], [square for _, square in expected]), title
        if norms[0].output == "y":  # gamma and beta of one element are not told from scalars
            assert same(outputs["y"], [y for y, _ in expected]), title


@pytest.mark.parametrize(("device", "title"), a_third(DEVICES, list(NORMS)), ids=str)
def test_a_naive_row_overflows_and_a_scaled_one_does_not(device: Accelerator, title: str) -> None:
    x = np.full((2, 1, 64), 40, np.float32) * np.array([1, -1] * 32, np.float32)
    x[1] /= 1024  # and an ordinary row
    model = model_of(NORMS[title][2], 64)
    norms = find_norms_in(read_graph(model))
    naive = emulate(model, norms, device)
    outputs = run(naive.model, x=x)
    (mean_square,) = naive.mean_squares.values()
    assert not np.isfinite(outputs[mean_square][0])  # 64 * 40^2 = 102400
    apply_scales_in(model, norms, {norms[0].name: 64.0})
    scaled = emulate(model, find_norms_in(read_graph(model)), device)
    outputs = run(scaled.model, x=x)
    (mean_square,) = scaled.mean_squares.values()
    count = 63 if norms[0].unbiased else 64
    assert outputs[mean_square][0] == np.float16(64 * (40 / 64) ** 2 / count)
    assert np.isfinite(outputs["y"]).all()


@pytest.mark.parametrize("title", ["rms", "rms, epsilon outside"])
def test_a_naive_row_that_overflows_becomes_zero(title: str) -> None:
    model = model_of(NORMS[title][2], 64)
    emulated = emulate(model, find_norms_in(read_graph(model)), Accelerator())
    x = np.full((2, 1, 64), 40, np.float32)
    assert not run(emulated.model, x=x)["y"].any()
    assert np.allclose(run(model, x=x)["y"], affine(64)["g"], rtol=1e-3)


@pytest.mark.parametrize(
    ("epsilon", "flush", "held"),
    [
        (2.0**-10, False, 2.0**-10),
        (2.0**-20, False, 2.0**-20),
        (2.0**-20, True, 2.0**-14),
        (1e-12, False, 2.0**-24),
        (1e-12, True, 2.0**-14),
        (0.0, False, 0.0),
        (0.0, True, 0.0),
        (1e6, False, 65504.0),
        (1e300, True, 65504.0),
    ],
)
@pytest.mark.filterwarnings("error")
def test_epsilon_is_held_above_zero_and_below_infinity(
    epsilon: float, flush: bool, held: float
) -> None:
    assert Accelerator(flush_subnormals=flush).held_epsilon(epsilon) == held


@pytest.mark.parametrize("device", DEVICES[::3], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_a_skip_op_normalises_the_sum_and_hands_it_on_unrounded(
    device: Accelerator, bias: bool
) -> None:
    more = ", b, g" if bias else ", b"
    nodes = f"n, t, u, sum = com.microsoft.SkipLayerNormalization(x, k, g{more}) y = Add(n, sum)"
    model = model_of(nodes, 5, "x k")
    x, k = rows(5), rows(5)[:, ::-1].copy()
    for name in ("n", "sum"):
        model.graph.output.add(name=name).type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    emulated = emulate(model, find_norms_in(read_graph(model)), device)
    outputs = run(emulated.model, x=x, k=k)
    constants = affine(5)
    total = x + k + constants["g"] if bias else x + k
    assert np.array_equal(outputs["sum"], total)
    loop = HalfNorm(device, "layer", 1e-12)
    expected = [
        loop.row(row, constants["g"].tolist(), constants["b"].tolist())
        for row in total.reshape(-1, 5).tolist()
    ]
    assert same(outputs["n"], [y for y, _ in expected])
    assert same(outputs[next(iter(emulated.mean_squares.values()))], [m for _, m in expected])


@pytest.mark.parametrize(
    "nodes",
    [
        "y = LayerNormalization<epsilon = 1e-5>(x, g)",
        "q = Mul(x, x) m = ReduceMean<axes = [-1]>(q) v = Add(m, eps) s = Sqrt(v) n = Div(x, s) "
        "y = Mul(n, g)",
        "f = Cast<to = 1>(x) q = Mul(f, f) m = ReduceMean<axes = [-1]>(q) e = Cast<to = 1>(eps) "
        "v = Add(m, e) s = Sqrt(v) n = Div(f, s) c = Cast<to = 10>(n) y = Mul(c, g)",
    ],
    ids=["fused", "in FP16", "squared in FP32"],
)
def test_a_model_in_fp16_keeps_its_types(nodes: str) -> None:
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 17]>
        main (float16[2, rows, 5] x) => (float16[2, rows, 5] z) {{ {nodes} z = Add(y, x) }}""")
    gamma = affine(5)["g"].astype(np.float16)
    model.graph.initializer.append(numpy_helper.from_array(gamma, "g"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(EPSILON, np.float16), "eps"))
    norms = find_norms_in(read_graph(model))
    assert (norms[0].output, norms[0].output_type) == ("y", onnx.TensorProto.FLOAT16)
    emulated = emulate(model, norms, Accelerator())
    emulated.model.graph.output.add(name="y").type.tensor_type.elem_type = norms[0].output_type
    with np.errstate(over="ignore"):
        x = rows(5).astype(np.float16)
    loop = HalfNorm(Accelerator(), "layer" if "Layer" in nodes else "rms", EPSILON)
    expected = [loop.row(row, gamma.tolist())[0] for row in x.reshape(-1, 5).tolist()]
    assert same(run(emulated.model, x=x)["y"], list(expected))


ONE_PASS = (
    "mu = ReduceMean<axes = [-1]>(x) q = Mul(x, x) e = ReduceMean<axes = [-1]>(q) w = Mul(mu, mu) "
    "m = Sub(e, w) v = Add(m, eps) s = Sqrt(v) c = Sub(x, mu) n = Div(c, s) k = Mul(n, g) "
    "y = Add(k, b)"
)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_a_layer_norm_spelled_in_one_pass_is_emulated_so_on_every_device(
    device: Accelerator,
) -> None:
    model = model_of(ONE_PASS, 32)
    (norm,) = find_norms_in(read_graph(model))
    assert norm.one_pass
    x, constants = rows(32), affine(32)
    x[:, 0] = x[:, 0] * 2 + 300  # a wide mean: its square overflows, the variance does not
    emulated = emulate(model, [norm], device)
    outputs = run(emulated.model, x=x)
    one_pass = replace(device, variance="one-pass")
    loop = HalfNorm(one_pass, "layer", EPSILON)
    gamma, beta = constants["g"].tolist(), constants["b"].tolist()
    expected = [loop.row(row, gamma, beta) for row in x.reshape(-1, 32).tolist()]
    mean_squares = outputs[emulated.mean_squares[norm.name]]
    assert same(mean_squares, [square for _, square in expected])
    assert same(outputs["y"], [y for y, _ in expected])
    assert not np.isfinite(mean_squares[:, 0]).any()


IF = """
<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
main (float[2, rows, 5] x, bool c) => (float[2, rows, 5] y) <float[5] g = {1, 2, 3, 4, 5}>
{
    y = If (c) <
        then_branch = t () => (float[2, rows, 5] o) {
            k = Mul(x, x)
            [one] a = SimplifiedLayerNormalization<axis = -1, epsilon = 1e-5>(x, g)
            [two] o = SimplifiedLayerNormalization<axis = -1, epsilon = 1e-5>(k, g)
        },
        else_branch = e () => (float[2, rows, 5] o) {
            [three] o = SimplifiedLayerNormalization<axis = -1, epsilon = 1e-5>(x, g)
        }
    >
}
"""


@pytest.mark.parametrize("taken", [True, False])
def test_a_norm_in_a_branch_is_observed_when_the_branch_is_taken(taken: bool) -> None:
    model = onnx.parser.parse_model(IF)
    emulated = emulate(model, find_norms_in(read_graph(model)), Accelerator())
    x = rows(5)
    outputs = run(emulated.model, x=x, c=np.array(taken))
    with np.errstate(over="ignore"):
        inputs = {"one": x, "two": x * x, "three": x}
    for name, values in inputs.items():
        mean_squares = outputs[emulated.mean_squares[name]]
        if (name == "three") == taken:
            assert mean_squares.shape == (0,)
            continue
        loop = HalfNorm(Accelerator(), "rms", EPSILON)
        expected = [loop.row(row, [1] * 5)[1] for row in values.reshape(-1, 5).tolist()]
        assert mean_squares.shape == (len(expected),)
        assert same(mean_squares, list(expected))


def test_a_norm_inside_two_subgraphs_is_emulated_and_observed() -> None:
    inner = f"() => (float[2, rows, 5] o) {{ {NORMS['rms'][2].replace('y =', 'o =')} }}"
    choice = "= If (c) <then_branch = t {0}, else_branch = e {0}>"
    branch = f"() => (float[2, rows, 5] r) {{ r {choice.format(inner)} }}"
    nodes = f"c = Cast<to = 9>(eps) y {choice.format(branch)}"
    model = model_of(nodes, 5)
    emulated = emulate(model, find_norms_in(read_graph(model)), Accelerator())
    assert len(emulated.mean_squares) == 4
    loop = HalfNorm(Accelerator(), "rms", EPSILON)
    gamma = affine(5)["g"].tolist()
    expected = [loop.row(row, gamma)[0] for row in rows(5).reshape(-1, 5).tolist()]
    assert same(run(emulated.model, x=rows(5))["y"], list(expected))


def test_the_width_of_a_norm_may_come_from_the_data() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        main (float[rows, width] x) => (float[rows, width] y) <float eps = {1e-5}>
        {
            q = Mul(x, x) m = ReduceMean<axes = [-1]>(q) v = Add(m, eps) s = Sqrt(v)
            y = Div(x, s)
        }""")
    (norm,) = find_norms_in(read_graph(model))
    assert (norm.width, can_emulate(norm)) == (None, True)
    x = np.ascontiguousarray(rows(5)[0])
    for accumulate in SUMS:
        accelerator = Accelerator().summing(accumulate)
        loop = HalfNorm(accelerator, "rms", 1e-5)
        expected = [loop.row(row, [1] * 5)[0] for row in x.tolist()]
        assert same(run(emulate(model, [norm], accelerator).model, x=x)["y"], list(expected))


def test_a_cast_of_an_input_before_the_norm_runs() -> None:
    """A file of 16 bits with its norms in FP32: ONNX Runtime joins Casts with those in a branch."""
    rng = np.random.default_rng(2)
    gamma = numpy_helper.from_array(rng.uniform(0.5, 2, 16).astype(np.float32), "g")
    model = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["": 17]>
        main (float16[2, 16] x) => (float16[2, 16] z)
        <float two = {2}, float eps = {1e-5}> {
            wide = Cast<to = 1>(x)
            q = Mul(wide, wide)
            m = ReduceMean<axes = [-1]>(q)
            v = Add(m, eps)
            s = Sqrt(v)
            n = Div(wide, s)
            y = Mul(n, g)
            z = Cast<to = 10>(y)
        }
        """
    )
    model.graph.initializer.append(gamma)
    x = rng.standard_normal((2, 16)).astype(np.float16)
    result = validate(model, model, Options(inputs={"x": x}))
    assert result.passed and 0 < result.rounded_rms_error < 2**-9
