"""Norms over groups or several axes inside a model: what is around them, and what is none."""

import re

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in, unmatched_means
from slanc_onnx.norms.row_axes import RowAxes
from slanc_onnx.reasons import Reason, Unscalable
from slanc_onnx.report.wording import reason_text
from slanc_onnx.run.instrumented import instrument
from slanc_onnx.verify.emulate.norms import emulate
from tests.models.small_graphs import only_norm
from tests.norms.test_group_norms import wide_samples
from tests.oracles.unoptimised import different, run
from tests.spellings.row_norms import RowNorm
from tests.spellings.rows import CHANNELS_FIRST, GROUP_NORMS, written_layer, written_rms
from tests.verify.emulate.test_group_norms import DEVICES, SIZES, same

IMAGE = "float[batch, 6, h, w]"


def parse(nodes: str, x: str, opset: int = 17, **weights: tuple[int, ...]) -> onnx.ModelProto:
    """A model of x and y of the same type, with random weights of the given shapes."""
    model = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": {opset}]>
        main ({x} x) => ({x} y)
        <float eps = {{1e-5}}, int64[3] groups = {{0, 2, -1}}, float[2] ones = {{1, 1}},
         float[2] zeros = {{0, 0}}> {{ {nodes} }}""")
    random = np.random.default_rng(5)
    for name, shape in weights.items():
        values = random.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_norm_from_a_counted_axis_on_needs_the_rank_of_its_input(axis: int) -> None:
    nodes = f"y = LayerNormalization<axis = {axis}>(x, g)"
    norm = only_norm(parse(nodes, "float[]", g=(2, 4)))
    assert norm.skip_reason is not None
    assert reason_text(norm.skip_reason) == (
        f"normalises from axis {axis} on, of an input whose rank the file does not tell; "
        "run onnx.shape_inference on the file first"
    )
    model = parse(nodes, "float[]", g=(2, 4))
    assert not apply_scales_in(model, [norm], {norm.name: 16.0})
    assert model == parse(nodes, "float[]", g=(2, 4))
    assert only_norm(parse(nodes, "float[a, b, c, d]", g=(2, 4))).skip_reason is None


# The whole of torch.nn.GroupNorm as it is exported below opset 18.
TORCH = """
    r = Reshape(x, groups) n = InstanceNormalization<epsilon = 1e-5>(r, ones, zeros)
    shape = Shape(x) back = Reshape(n, shape) o = Mul(back, g) y = Add(o, b)
"""
# What its norm computes, on [batch, groups, elements].
INSTANCES = RowNorm(
    "two instances",
    "group",
    RowAxes(groups=0),
    None,
    "",
    (2, 18),
    lambda n, g, i: (n, g),
    "",
    gamma=False,
    beta=False,
)


def torch_group_norm() -> onnx.ModelProto:
    return parse(TORCH, IMAGE, g=(6, 1, 1), b=(6, 1, 1))


def test_a_group_norm_made_of_an_instance_norm_is_scaled_there() -> None:
    model = torch_group_norm()
    norm = only_norm(model)
    assert (norm.kind, norm.form) == ("group", "InstanceNormalization")
    assert (norm.axes, norm.channels, norm.width) == (RowAxes(groups=0), 2, None)
    assert (norm.input, norm.output) == ("r", "n")
    x = wide_samples(GROUP_NORMS[0])
    before = run(model, x=x)
    assert apply_scales_in(model, [norm], {norm.name: 16.0})
    assert different(before, run(model, x=x)) == []
    assert only_norm(model).scaled_by == 16.0


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_its_instances_are_observed_and_emulated(device: Accelerator) -> None:
    model = torch_group_norm()
    norm = only_norm(model)
    x = GROUP_NORMS[0].samples(SIZES)
    rows = x.reshape(len(x), 2, 18)
    instrumented = instrument(model, [norm])
    values = run(instrumented.model, x=x)
    sums = values[instrumented.sums[norm.name]]
    np.testing.assert_allclose(sums.reshape(-1), INSTANCES.sums(rows), rtol=1e-5, atol=1e-9)
    assert values[instrumented.lengths[norm.name]].tolist() == [18]
    emulated = emulate(model, [norm], device)
    emulated.model.graph.output.add(name="n").type.tensor_type.elem_type = 1
    values = run(emulated.model, x=x)
    y, mean_squares = INSTANCES.in_half(rows, device)
    assert same(values[emulated.mean_squares[norm.name]], mean_squares)
    assert same(values["n"], y)


def in_a_branch(spelling: RowNorm) -> onnx.ModelProto:
    """The norm where the sum of x is positive, x itself where not."""
    inner = re.sub(r"\by\b", "inner", spelling.nodes)
    text = f"""
        total = ReduceSum<keepdims = 0>(x) gate = Greater(total, eps)
        y = If (gate) <
            then_branch = t () => ({spelling.x} inner) {{ {inner} }},
            else_branch = e () => ({spelling.x} outer) {{ outer = Identity(x) }}>"""
    model = parse(text, spelling.x, spelling.opset)
    for name, values in spelling.affine().items():
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


@pytest.mark.parametrize("spelling", [*GROUP_NORMS[:4:3], CHANNELS_FIRST[0]], ids=str)
def test_a_norm_in_a_branch_is_scaled_observed_and_emulated_there(spelling: RowNorm) -> None:
    model = in_a_branch(spelling)
    norm = only_norm(model)
    assert norm.path == ((2, "then_branch"),)
    x = spelling.samples([0.5, 2, 300])
    x[0] += 200  # so that the sum is positive
    emulated = emulate(model, [norm], Accelerator())
    values = run(emulated.model, x=x)
    y, mean_squares = spelling.in_half(x, Accelerator())
    assert same(values[emulated.mean_squares[norm.name]], mean_squares)
    assert same(values["y"], y)
    instrumented = instrument(model, [norm])
    sums = run(instrumented.model, x=x)[instrumented.sums[norm.name]]
    np.testing.assert_allclose(sums, spelling.sums(x), rtol=1e-5, atol=1e-2)
    for other in (emulated.model, instrumented.model):
        names = [output.name for output in other.graph.output if output.name != "y"]
        values = run(other, x=-x)
        assert np.array_equal(values["y"], -x)
        assert all(values[name].shape == (0,) for name in names)
    before = run(model, x=x)
    assert apply_scales_in(model, [norm], {norm.name: 16.0})
    assert different(before, run(model, x=x)) == []


HIDDEN = "float[batch, sequence, 8]"
OTHER_AXES = {
    "layer over a sequence, gamma of the features": (HIDDEN, written_layer("1"), (8,)),
    "rms over a sequence, gamma of the features": (HIDDEN, written_rms("1"), (8,)),
    "layer over a sequence, no gamma": (HIDDEN, written_layer("1", "y = Identity(n)"), (8,)),
    "layer over a sequence, its axis counted from the end": (HIDDEN, written_layer("-2"), (8,)),
    "layer over a sequence, gamma with axes of length 1": (HIDDEN, written_layer("1"), (1, 1, 8)),
    "layer over axis 1, rank unknown, gamma of the features": ("float[]", written_layer("1"), (8,)),
    "layer over axis 1, rank unknown, no gamma": (
        "float[]",
        written_layer("1", "y = Identity(n)"),
        (8,),
    ),
    "layer over axis 2, rank unknown": ("float[]", written_layer("2"), (8,)),
    "layer over sequence and features, gamma of the features": (
        HIDDEN,
        written_layer("1, 2"),
        (8,),
    ),
    "layer over the batch": (HIDDEN, written_layer("0"), (8,)),
    "layer over batch and positions": (IMAGE, written_layer("0, 2, 3"), (6, 1, 1)),
    "layer over all axes": (IMAGE, written_layer("0, 1, 2, 3"), (6, 1, 1)),
    "layer over heads, gamma of the features": (
        "float[b, heads, rows, 8]",
        written_layer("1"),
        (8,),
    ),
    "mean over features, squares over the sequence": (
        HIDDEN,
        written_layer("-1").replace("[-1]>(q)", "[1]>(q)"),
        (8,),
    ),
    "mean over the sequence, squares over features, one pass": (
        HIDDEN,
        "mu = ReduceMean<axes = [1]>(x) p = Mul(x, x) e = ReduceMean<axes = [-1]>(p) "
        "w = Mul(mu, mu) m = Sub(e, w) c = Sub(x, mu) v = Add(m, eps) s = Sqrt(v) n = Div(c, s) "
        "o = Mul(n, g) y = Add(o, b)",
        (8,),
    ),
}


@pytest.mark.parametrize("title", OTHER_AXES)
def test_a_norm_over_positions_or_over_different_axes_is_scaled_exactly(title: str) -> None:
    x, nodes, shape = OTHER_AXES[title]
    model = parse(nodes, x, g=shape, b=shape)
    norm = only_norm(model)
    assert norm.by_ops == ("one pass" in title or "axis 2" in title)
    if "axis 2" in title:
        assert norm.skip_reason == Reason(Unscalable.AXES_UNKNOWN)
        return
    random = np.random.default_rng(2)
    rows = random.normal(size=(2, 6, 5, 8)) * 10.0 ** random.uniform(-5, 2, (2, 6, 5, 1))
    feeds = rows.astype(np.float32)[:, :, 0] if x in (HIDDEN, "float[]") else rows
    before = run(model, x=feeds.astype(np.float32))
    apply_scales_in(model, [norm], {norm.name: 8.0})
    assert different(before, run(model, x=feeds.astype(np.float32))) == []
    assert only_norm(model).scaled_by == 8.0


@pytest.mark.parametrize(
    ("x", "axes", "width"),
    [("float[b, 3, 2, 4]", "-2, -1", 8), ("float[b, 5, 3, 2, 4]", "1, 2, 4", 60)],
)
@pytest.mark.parametrize("nodes", ["o = Mul(n, g) y = Add(o, b)", "y = Identity(n)"])
def test_a_width_that_is_known_is_that_of_the_row(
    x: str, axes: str, width: int, nodes: str
) -> None:
    norm = only_norm(parse(written_layer(axes, nodes), x, g=(2, 4), b=(2, 4)))
    assert norm.width in (None, width)


def test_a_mean_over_an_axis_that_is_not_there_is_no_norm() -> None:
    scopes = read_graph(parse(written_rms("0", "y = Identity(n)"), "float"))
    assert find_norms_in(scopes) == []
    assert unmatched_means(scopes, []) == []


def test_a_model_in_fp16_keeps_its_types() -> None:
    spelling = GROUP_NORMS[0]
    model = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 18]>
        main (float16[batch, 6, h, w] x) => (float16[batch, 6, h, w] z)
        {{ {spelling.nodes} z = Add(y, x) }}""")
    for name, values in spelling.affine().items():
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), name))
    norm = only_norm(model)
    assert (norm.element_type, norm.output_type) == (10, 10)
    emulated = emulate(model, [norm], Accelerator())
    emulated.model.graph.output.add(name="y").type.tensor_type.elem_type = norm.output_type
    with np.errstate(over="ignore"):
        x = spelling.samples(SIZES).astype(np.float16)
    actual = run(emulated.model, x=x)["y"]
    assert actual.dtype == np.float16
    y, _ = spelling.in_half(x.astype(np.float32), Accelerator())
    assert same(actual, y)
