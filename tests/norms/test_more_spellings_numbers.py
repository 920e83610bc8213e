"""What the spellings of other frameworks compute, emulated too, and what only looks like them."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.run.instrumented import instrument
from slanc_onnx.verify.emulate.norms import emulate
from tests.models.small_graphs import only_norm
from tests.norms.test_more_spellings import (
    CASES,
    INVERSE,
    ONE_PASS,
    ROOT,
    SQUARES,
    VARIANCE,
    inputs,
    parse,
)
from tests.norms.test_spellings import BETA, GAMMA
from tests.oracles.half_norm import SUMS, Half, HalfNorm
from tests.oracles.unoptimised import different, run

EPSILON = 1e-5
L2 = "l = ReduceL2<axes = [-1]>(x)"
UNIT = "u = LpNormalization<axis = -1, p = 2>(x)"
MORE = {
    "rms: gamma in the inverse root, first": f"{SQUARES} {INVERSE} k = Mul(g, r) y = Mul(k, x)",
    "rms: gamma in Pow(., -0.5)": f"{SQUARES} v = Add(m, eps) r = Pow(v, minus_half) "
    "k = Mul(r, g) y = Mul(x, k)",
    "rms: gamma in Div(1, root)": f"{SQUARES} {ROOT} r = Div(one, s) k = Mul(r, g) y = Mul(x, k)",
    "rms: gamma before the Div, first": f"{SQUARES} {ROOT} h = Mul(g, x) y = Div(h, s)",
    "rms: ReduceSumSquare by 1/d": "t = ReduceSumSquare<axes = [-1]>(x) m = Mul(per_d, t) "
    f"{ROOT} n = Div(x, s) y = Mul(n, g)",
    "rms: ReduceSumSquare, by the inverse root": "t = ReduceSumSquare<axes = [-1]>(x) "
    f"m = Div(t, d) {INVERSE} n = Mul(x, r) y = Mul(n, g)",
    "rms without epsilon: Reciprocal": f"{SQUARES} s = Sqrt(m) r = Reciprocal(s) n = Mul(x, r) "
    "y = Mul(n, g)",
    "rms without epsilon: Pow(., -0.5)": f"{SQUARES} r = Pow(m, minus_half) n = Mul(x, r) "
    "y = Mul(n, g)",
    "rms without epsilon: L2 norm, Div by 1/sqrt(d)": f"{L2} u = Div(x, l) n = Div(u, per_root_d) "
    "y = Mul(n, g)",
    "rms without epsilon: L2 norm by sqrt(d)": f"{L2} s = Div(l, root_d) n = Div(x, s) "
    "y = Mul(n, g)",
    "rms without epsilon: x times sqrt(d) by L2 norm": f"{L2} h = Mul(x, root_d) n = Div(h, l) "
    "y = Mul(n, g)",
    "rms without epsilon: LpNormalization, factor first": f"{UNIT} n = Mul(root_d, u) "
    "y = Mul(n, g)",
    "rms without epsilon: LpNormalization, Div by 1/sqrt(d)": f"{UNIT} n = Div(u, per_root_d) "
    "y = Mul(n, g)",
    "rms without epsilon: LpNormalization, attributes left out": "u = LpNormalization(x) "
    "n = Mul(u, root_d) y = Mul(n, g)",
    "layer: gamma in the inverse root": f"{VARIANCE} {INVERSE} k = Mul(r, g) n = Mul(c, k) "
    "y = Add(n, b)",
    "layer: gamma before the Div": f"{VARIANCE} {ROOT} h = Mul(c, g) n = Div(h, s) y = Add(n, b)",
    "layer: ReduceSumSquare": "mu = ReduceMean<axes = [-1]>(x) c = Sub(x, mu) "
    "t = ReduceSumSquare<axes = [-1]>(c) m = Div(t, d) "
    f"{ROOT} n = Div(c, s) k = Mul(n, g) y = Add(k, b)",
    "layer: folded, mean r gamma with gamma first": f"{VARIANCE} {INVERSE} k = Mul(g, r) "
    "a = Mul(k, x) i = Mul(r, mu) w = Mul(g, i) h = Sub(b, w) y = Add(h, a)",
    "layer: folded, x r gamma": f"{VARIANCE} {INVERSE} n = Mul(x, r) a = Mul(n, g) "
    "i = Mul(mu, r) w = Mul(i, g) h = Sub(b, w) y = Add(a, h)",
    "layer: folded, gamma without beta": f"{VARIANCE} {INVERSE} k = Mul(r, g) a = Mul(x, k) "
    "w = Mul(mu, k) y = Sub(a, w)",
    "layer: folded, Neg, gamma without beta": f"{VARIANCE} {INVERSE} k = Mul(r, g) "
    "a = Mul(x, k) z = Neg(mu) w = Mul(z, k) y = Add(a, w)",
    "layer: folded, one pass": f"{ONE_PASS} m = Max(d1, zero) {INVERSE} k = Mul(r, g) "
    "a = Mul(x, k) w = Mul(mu, k) h = Sub(b, w) y = Add(a, h)",
    "layer: one pass, Clip": f"{ONE_PASS} none = Identity(zero) m = Clip(d1, none) {ROOT} "
    "c = Sub(x, mu) n = Div(c, s) y = Mul(n, g)",
    "layer without epsilon: Div": f"{VARIANCE} s = Sqrt(m) n = Div(c, s) y = Mul(n, g)",
    "layer without epsilon: Reciprocal": f"{VARIANCE} s = Sqrt(m) r = Reciprocal(s) n = Mul(c, r) "
    "k = Mul(n, g) y = Add(k, b)",
}


@dataclass(frozen=True)
class Numbers:
    """What a spelling computes, read off its text."""

    title: str
    nodes: str

    def has(self, constant: str) -> bool:
        return f", {constant})" in self.nodes or f"({constant}, " in self.nodes

    @property
    def kind(self) -> str:
        return self.title.split()[0].strip(":")

    @property
    def epsilon(self) -> float:
        return 0.0 if "without epsilon" in self.title else EPSILON

    @property
    def floor(self) -> bool:
        return "floor" in self.title

    @property
    def one_pass(self) -> bool:
        return "one pass" in self.title

    def truth(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """The norm's definition, in float64."""
        v = x.astype(np.float64)
        v = v - v.mean(-1, keepdims=True) if self.kind == "layer" else v
        mean_square = (v**2).mean(-1, keepdims=True)
        floored = np.maximum(mean_square, self.epsilon)
        y = v / np.sqrt(floored if self.floor else mean_square + self.epsilon)
        gamma, beta = GAMMA if self.has("g") else 1, BETA if self.has("b") else 0
        return np.asarray(y * gamma + beta, np.float64)

    def in_half(
        self, x: NDArray[np.float32], device: Accelerator
    ) -> tuple[list[list[float]], list[float]]:
        """The rows in a loop of float16 operations, and their mean squares."""
        variance = "one-pass" if self.one_pass else device.variance
        device = replace(device, variance=variance)
        loop = HalfNorm(device, "layer" if self.kind == "layer" else "rms", EPSILON)
        if not self.epsilon:
            loop.epsilon = Half(0)
        gamma = GAMMA.tolist() if self.has("g") else []
        beta = BETA.tolist() if self.has("b") else []
        found = [loop.row(row, gamma, beta) for row in x.reshape(-1, 8).tolist()]
        return [y for y, _ in found], [mean_square for _, mean_square in found]


SPELLINGS = [
    Numbers(title, nodes)
    for title, nodes in ({t: n for t, (_, n, _) in CASES.items()} | MORE).items()
]
every_spelling = pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda s: s.title)


@every_spelling
def test_the_text_computes_the_norm_it_is_said_to_be(spelling: Numbers) -> None:
    x = inputs()
    expected = spelling.truth(x)
    np.testing.assert_allclose(run(parse(spelling.nodes), x=x)["y"], expected, atol=3e-4)


@every_spelling
@pytest.mark.parametrize("scale", [0.25, 32.0])
def test_it_is_found_and_scaled_exactly(spelling: Numbers, scale: float) -> None:
    model = parse(spelling.nodes)
    norm = only_norm(model)
    assert (norm.kind, norm.width, norm.one_pass) == (spelling.kind, 8, spelling.one_pass)
    assert (norm.gamma, norm.beta) == tuple(n if spelling.has(n) else None for n in "gb")
    assert (norm.skip_reason, norm.output, norm.epsilon_power) == (None, "y", 2)
    assert norm.epsilon == np.float32(spelling.epsilon)
    assert (norm.epsilon_place is None) == (spelling.epsilon == 0)
    rows = inputs()
    rows[0, 0] = 0  # divided by zero where there is no epsilon: nan before and after
    before = run(model, x=rows)
    assert apply_scales_in(model, [norm], {norm.name: scale})
    assert different(before, run(model, x=rows)) == []
    again = only_norm(model)
    assert (again.scaled_by, again.skip_reason) == (scale, None)
    assert (again.kind, again.gamma, again.beta) == (norm.kind, norm.gamma, norm.beta)
    assert again.epsilon == np.float32(np.float32(spelling.epsilon) / np.float32(scale**2))


@every_spelling
def test_its_sums_of_squares_are_observed(spelling: Numbers) -> None:
    model = parse(spelling.nodes)
    norm = only_norm(model)
    instrumented = instrument(model, [norm])
    x = inputs()
    sums = run(instrumented.model, x=x)[instrumented.sums[norm.name]]
    v = x.astype(np.float64)
    if spelling.kind == "layer" and not spelling.one_pass:
        v = v - v.mean(-1, keepdims=True)
    np.testing.assert_allclose(sums, (v**2).sum(-1, keepdims=True), rtol=1e-4)


@every_spelling
@pytest.mark.parametrize("accumulate", SUMS)
def test_it_is_emulated_bit_for_bit(spelling: Numbers, accumulate: str) -> None:
    if spelling.floor:
        pytest.skip("the emulation adds an epsilon that is a floor")
    device = Accelerator().summing(accumulate)
    model = parse(spelling.nodes)
    norm = only_norm(model)
    emulated = emulate(model, [norm], device)
    x = np.concatenate([inputs()[:, ::4], inputs()[:, ::8] * 1e-4, np.zeros((2, 1, 8))], axis=1)
    outputs = run(emulated.model, x=x.astype(np.float32))
    y, mean_squares = spelling.in_half(x.astype(np.float32), device)
    shown = outputs[emulated.mean_squares[norm.name]].reshape(-1)
    assert np.array_equal(shown, np.array(mean_squares, np.float32), equal_nan=True)
    assert np.array_equal(outputs["y"].reshape(-1, 8), np.array(y, np.float32), equal_nan=True)
