"""com.microsoft GroupNorm and SkipGroupNorm, which ONNX Runtime's CPU provider cannot run.

What scaling makes of them is read off the graph, and their numbers off models that no longer hold
them: the emulation, and the sums of squares alone.
"""

from itertools import product
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.apply.div import apply_scales_in, plan_edits
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.norms.row_axes import RowAxes
from slanc_onnx.run.instrumented import instrument
from slanc_onnx.verify.emulate.norms import emulate
from tests.models.small_graphs import only_norm
from tests.oracles.unoptimised import Values, run
from tests.spellings.row_norms import EPSILON, Floats, RowNorm
from tests.verify.emulate.test_group_norms import DEVICES, SIZES

# What the ops compute once the channels are in axis 1; the text is not used.
TRUTH = RowNorm(
    "by hand",
    "group",
    RowAxes(),
    None,
    "",
    (6, 3, 2),
    lambda n, c, h, w: (n, c // 3),
    "",
    (6,),
    lambda n, c, h, w: c,
)
SHAPES = {0: "float[batch, 6, h, w]", 1: "float[batch, h, w, 6]"}
SKIPS = ["float[batch, h, w, 6]", "float[batch, 1, 1, 6]"]


class Case(NamedTuple):
    """How an op is written."""

    last: int = 1
    silu: int = 0
    skip: str = ""  # its type, where there is one
    bias: bool = False
    total: bool = False  # whether the sum is a second output

    def __str__(self) -> str:
        parts = {
            "channels last": self.last,
            "SiLU": self.silu,
            f"skip {self.skip}": self.skip,
            "bias": self.bias,
            "sum": self.total,
        }
        return ", ".join(part for part, there in parts.items() if there) or "plain"

    def model(self) -> onnx.ModelProto:
        op = "SkipGroupNorm" if self.skip else "GroupNorm"
        inputs = "x, g, b" + (", k" if self.skip else "") + (", bias" if self.bias else "")
        total = f", {SHAPES[self.last]} sum" if self.total else ""
        model = onnx.parser.parse_model(f"""
            <ir_version: 10, opset_import: ["": 17, "com.microsoft": 1]>
            main ({SHAPES[self.last]} x {f", {self.skip} k" if self.skip else ""})
            => ({SHAPES[self.last]} y{total})
            <float[6] bias = {{5, -6, 7, -8, 9, 10}}>
            {{
                [norm] y {", sum" if self.total else ""} = com.microsoft.{op}<
                    channels_last: int = {self.last}, activation: int = {self.silu},
                    groups: int = 2, epsilon: float = 1e-5>({inputs})
            }}""")
        for name, values in TRUTH.affine().items():
            model.graph.initializer.append(numpy_helper.from_array(values, name))
        return model

    def feeds(self) -> Values:
        """Samples of all sizes, and skips of the same."""
        x = TRUTH.samples(SIZES)
        if self.last:
            x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
        if not self.skip:
            return {"x": x}
        if "1, 1" in self.skip:
            return {"x": x, "k": x[:, :1, :1] / 2}
        return {"x": x, "k": x[:, ::-1] if "w" in self.skip else x[:, 0, 0] / 2}

    def total_of(self, feeds: Values) -> Floats:
        """What is normalised, channels first."""
        total: NDArray[np.float32] = feeds["x"]
        if self.skip:
            k = feeds["k"]
            total = total + (k[:, None, None] if k.ndim == 2 else k)
        if self.bias:
            total = total + np.array([5, -6, 7, -8, 9, 10], np.float32)
        return channels_first(total, self)


def channels_first(x: NDArray[np.float32], case: Case) -> Floats:
    return np.ascontiguousarray(np.moveaxis(x, -1, 1) if case.last else x)


PLAIN = [Case(last, silu) for last, silu in product((0, 1), (0, 1))]
SKIP = [Case(1, 0, kind, *more) for kind, *more in product(SKIPS, (False, True), (False, True))]
every_case = pytest.mark.parametrize("case", [*PLAIN, *SKIP, Case(1, 1, SKIPS[0])], ids=str)


@every_case
def test_it_is_one_norm_whose_parts_are_known(case: Case) -> None:
    norm = only_norm(case.model())
    assert (norm.kind, norm.channels, norm.width) == ("group", 6, None)
    assert norm.axes == RowAxes(groups=2, channels_last=bool(case.last))
    assert (norm.gamma, norm.beta, norm.silu) == ("g", "b", bool(case.silu))
    assert norm.epsilon == pytest.approx(EPSILON, rel=1e-7)
    assert (norm.scaled_by, norm.skip_reason) == (None, None)


def test_channels_are_last_where_the_attribute_is_left_out() -> None:
    model = Case(last=0, silu=1).model()
    del model.graph.node[0].attribute[:]
    for name, value in (("groups", 3), ("activation", 0)):  # which the op must have
        model.graph.node[0].attribute.append(onnx.helper.make_attribute(name, value))
    norm = only_norm(model)
    assert (norm.axes, norm.silu) == (RowAxes(groups=3, channels_last=True), False)
    assert norm.epsilon == pytest.approx(EPSILON, rel=1e-7)


@pytest.mark.parametrize("op", ["GroupNorm", "SkipGroupNorm"])
def test_an_op_of_another_domain_is_no_norm_whatever_its_name(op: str) -> None:
    model = Case(1, 0, SKIPS[0]).model()
    model.opset_import.add(domain="my.domain", version=1)
    model.graph.node[0].domain, model.graph.node[0].op_type = "my.domain", op
    assert find_norms_in(read_graph(model)) == []


@every_case
def test_scaling_divides_every_addend_and_keeps_the_sum(case: Case) -> None:
    model = case.model()
    norm = only_norm(model)
    assert plan_edits(model, [norm], {norm.name: 16.0})
    assert apply_scales_in(model, [norm], {norm.name: 16.0})
    onnx.checker.check_model(model)
    addends = ["x", *(["k"] if case.skip else []), *(["bias"] if case.bias else [])]
    divided = [f"{name}/slanc" for name in addends]
    reads = [divided[0], "g", "b", *divided[1:]]
    outputs = ["y", "sum/slanc"] if case.total else ["y"]
    expected = [("Div", [name, "slanc.scale_16"], [f"{name}/slanc"]) for name in addends]
    expected += [("SkipGroupNorm" if case.skip else "GroupNorm", reads, outputs)]
    expected += [("Mul", ["sum/slanc", "slanc.scale_16"], ["sum"])] if case.total else []
    nodes = model.graph.node
    assert [(n.op_type, list(n.input), list(n.output)) for n in nodes] == expected
    (epsilon,) = (a.f for n in nodes for a in n.attribute if a.name == "epsilon")
    assert epsilon == np.float32(np.float32(EPSILON) / 256)
    again = only_norm(model)
    assert (again.scaled_by, again.skip_reason) == (16.0, None)
    assert not apply_scales_in(model, [again], {})


@every_case
def test_sums_of_squares_are_those_of_the_rows(case: Case) -> None:
    model, feeds = case.model(), case.feeds()
    norm = only_norm(model)
    instrumented = instrument(model, [norm], keep_outputs=False)
    assert not {"GroupNorm", "SkipGroupNorm"} & {n.op_type for n in instrumented.model.graph.node}
    values = run(instrumented.model, **feeds)
    sums = values[instrumented.sums["norm"]].reshape(-1)
    np.testing.assert_allclose(sums, TRUTH.sums(case.total_of(feeds)), rtol=1e-5, atol=1e-9)
    assert values[instrumented.lengths["norm"]].tolist() == [18]


@pytest.mark.parametrize("device", DEVICES[::5], ids=str)
@every_case
def test_every_step_is_rounded_as_in_a_loop_of_float16(case: Case, device: Accelerator) -> None:
    model, feeds = case.model(), case.feeds()
    emulated = emulate(model, [only_norm(model)], device)
    values = run(emulated.model, **feeds)
    total = case.total_of(feeds)
    y, mean_squares = TRUTH.in_half(total, device)
    shown = values[emulated.mean_squares["norm"]].reshape(-1)
    assert np.array_equal(shown, mean_squares, equal_nan=True)
    if case.total:  # it is not rounded
        assert np.array_equal(channels_first(values["sum"], case), total)
    actual = channels_first(values["y"], case)
    if not case.silu:
        assert np.array_equal(actual, y, equal_nan=True)
        return
    # To a step of FP16, as ONNX Runtime's Sigmoid in FP32 is an approximation.
    silu = y / (1 + np.exp(-y.astype(np.float64)))
    np.testing.assert_allclose(actual, silu, rtol=2**-10, atol=device.smallest_kept)
