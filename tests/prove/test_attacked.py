"""Graphs that once had a false certificate: what ONNX Runtime makes of them keeps to the bound.

Each row of the table is one rule that was wrong, on inputs that break what it claimed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from slanc_onnx import Options, compute_scales
from slanc_onnx.feed import Range
from slanc_onnx.prove import Certificate, Condition
from slanc_onnx.scale import with_safe_radius
from slanc_onnx.targets import TARGETS
from tests.models.small_graphs import D, between, graph, normal
from tests.oracles.unoptimised import run
from tests.spellings.attention import shape

Array = NDArray[Any]
F, WHOLE = np.float32, np.int64
SPIKES, ONES = 3 * np.eye(D), np.ones((1, D))
TABLE = np.concatenate([SPIKES, -SPIKES, ONES, -ONES, normal(0, 6, D)])
LENGTH = len(TABLE) // 2


@dataclass(frozen=True)
class Attack:
    """A graph between two norms and the inputs that break a claim about it.

    Attributes:
        nodes: From x to total.
        weights: Their initializers.
        inputs: Graph inputs besides ids.
        given: What is fed to them.
        ids: The ids; all rows of the table in two sequences if not said.
        opset: Of the model.
        ranges: What the tool is told that inputs keep to.
        fixed: Whether the sizes of the ids are told in the file.
        target: The device; one with a wide format where the claims are about large rows.
        odd: By op, attributes that the text syntax cannot say.
    """

    nodes: str
    weights: dict[str, Array] = field(default_factory=dict)
    inputs: str = ""
    given: dict[str, Array] = field(default_factory=dict)
    ids: Array = field(default_factory=lambda: np.arange(len(TABLE)).reshape(2, -1))
    opset: int = 17
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    fixed: bool = False
    target: str = "fp16-in-out"
    odd: tuple[str, str, float] | None = None


def number(value: float) -> Array:
    return np.array(value, F)


FIRST = {"from": shape(0), "to": shape(1), "axis": shape(2)}
ONE = "one = Slice(x, from, to, axis) "
SCORES = "t = Transpose<perm = [0, 2, 1]>(x) sc = MatMul(x, t) "
MASKED = SCORES + (
    "u = Unsqueeze(mask, middle) c = Cast<to = 9>(u) ms = Where(c, sc, ninf) "
    "p = Softmax<axis = -1>(ms) "
)
MASK = "int64[batch, sequence] mask"
SECOND_IS_MASKED = {"mask": np.array([[1] * LENGTH, [0] * LENGTH])}
IN_MASKED = {"middle": shape(1), "ninf": number(-math.inf), "zero": number(0)}


def nan_test(test: str, rows: str = "p", **weights: Array) -> Attack:
    """Shares, with zeros in the place of nan by a test that was moved."""
    nodes = f"{MASKED} {test} q = Where(moved, zero, {rows}) total = MatMul(q, x)"
    return Attack(nodes, {**IN_MASKED, **weights}, MASK, SECOND_IS_MASKED)


def chain(op: str, to: int, count: int = 30) -> str:
    """So many roundings of a number to 16 bits, each upwards."""
    steps = (
        f"m{i + 1} = {op}(f{i}, k) h{i + 1} = Cast<to = {to}>(m{i + 1}) "
        f"f{i + 1} = Cast<to = 1>(h{i + 1})"
        for i in range(count)
    )
    start = "r = ReduceMax<axes = [2]>(x) a = Abs(r) f0 = Clip(a, unit, unit) "
    return start + " ".join(steps) + f" total = Add(f{count}, zeros)"


IN_CHAIN = {"unit": number(1), "zeros": np.zeros(D, F)}
HALF, BRAIN = 10, 16  # ONNX's numbers of FP16 and BF16
SMALL = "ab = Abs(x) ng = Mul(ab, k) e = Exp(ng) "  # down to e^(k sqrt(8))
IN_HALF = SMALL + "h = Cast<to = 10>(e) f = Cast<to = 1>(h) "
BRANCHES = (
    "total = If(told)<then_branch = t () => (float[a, b, c] o1) { o1 = Mul(x, big) }, "
    "else_branch = e () => (float[a, b, c] o2) { o2 = Identity(x) }>"
)
IN_BRANCHES = {"minus": shape(-1), "five": shape(5), "zero": shape(0), "big": number(1000)}
CANCELS = "s = Sigmoid(x) s1 = Add(s, unit) m = Sum(far, s1, back) total = Reciprocal(m)"
UNIFORM = "z = Mul(x, zero) sc = MatMul(z, t) p = Softmax<axis = -1>(sc) "
ROUNDED_SHARES = (
    "t = Transpose<perm = [0, 2, 1]>(x) " + UNIFORM + "pb = Cast<to = 16>(p) pf = Cast<to = 1>(pb) "
    "v = Add(z, units) total = MatMul(pf, v)"
)
TWICE = "q = Concat<axis = 2>(x, x) "
CACHED = TWICE + (
    "o = com.microsoft.GroupQueryAttention<num_heads = 2, kv_num_heads = 2>"
    "(q, q, q, pk, pv, length, whole) total = MatMul(o, half)"
)
IN_CACHED = {
    "pk": np.zeros((1, 2, 2, D), F),
    "length": np.array([5], np.int32),
    "whole": np.array(6, np.int32),
    "half": np.eye(2 * D, D, dtype=F),
}
FEW = np.arange(4)[None]

ATTACKS = {
    "one channel times a row": Attack(
        ONE + "total = Mul(one, v)", {**FIRST, "v": np.full(D, 2, F)}
    ),
    "one channel times a gate": Attack(ONE + "s = Sigmoid(x) total = Mul(one, s)", FIRST),
    "one channel by an index": Attack(
        "one = Gather<axis = 2>(x, from) total = Mul(v, one)", {**FIRST, "v": np.full(D, 2, F)}
    ),
    "nan tests above a diagonal": nan_test("bad = IsNaN(p) moved = Trilu(bad)"),
    "nan tests that are shifted": nan_test(
        "bad = IsNaN(p) moved = Pad(bad, pads)", pads=shape(1, 0, 0, -1, 0, 0)
    ),
    "nan tests of another axis": nan_test(
        "g = Gather<axis = 1>(p, zeroth) bad = IsNaN(g) moved = Unsqueeze(bad, middle)",
        "g",
        zeroth=np.array(0),
    ),
    "nan tests that broadcast": nan_test(
        "g = Gather<axis = 1>(p, zeroth) bad = IsNaN(g) moved = Squeeze(bad, middle)",
        "g",
        zeroth=shape(0),
    ),
    "the sign of what may be nan": Attack(
        MASKED + "m = MatMul(p, x) total = Sign(m)", IN_MASKED, MASK, SECOND_IS_MASKED
    ),
    "the sign of a norm without certificate": Attack(
        "n = LayerNormalization<axis = -1>(h, gamma) s = Sign(n) total = Add(s, x)",
        {},
        "float[batch, sequence, 8] h",
        {"h": np.full((2, LENGTH, D), np.nan, F)},
    ),
    "a sum that cancels on the way": Attack(
        CANCELS, {"unit": number(1), "far": number(1e8), "back": number(-1e8)}
    ),
    "Elu of tiny rows": Attack("y0 = Mul(x, tiny) total = Elu(y0)", {"tiny": number(1.2e-8)}),
    "Selu of tiny rows": Attack("y0 = Mul(x, tiny) total = Selu(y0)", {"tiny": number(1.2e-8)}),
    "Celu of a large alpha": Attack(
        "y0 = Mul(x, tiny) total = Celu<alpha = 1e6>(y0)", {"tiny": number(0.03)}
    ),
    **{
        f"{op} with the {name} {value}": Attack(f"total = {op}(x)", odd=(op, name, value))
        for op, name, value in (
            ("LeakyRelu", "alpha", math.nan),
            ("Elu", "alpha", math.nan),
            ("Celu", "alpha", math.inf),
            ("HardSigmoid", "alpha", math.inf),
            ("HardSigmoid", "beta", math.nan),
        )
    },
    "a cap of scores without limit": Attack(
        "total = Attention<q_num_heads = 2, kv_num_heads = 2>(x, x, x)",
        opset=23,
        odd=("Attention", "softcap", math.inf),
    ),
    "a range whose steps add up": Attack(
        "m = ReduceMax<axes = [0, 1, 2], keepdims = 0>(x) m0 = Mul(m, zero) "
        "r = Range(m0, unit, step) end = Slice(r, from, to) total = Add(end, wide)",
        {
            "zero": number(0),
            "unit": number(1),
            "step": number(1e-7),
            "from": shape(-D),
            "to": shape(2**40),
            "wide": np.zeros((1, 1, D), F),
        },
    ),
    "a LogSoftmax before opset 13 of a constant": Attack(
        "c = LogSoftmax<axis = 1>(k) total = Add(c, zeros)",
        {"k": np.zeros((1, 2, D), F), "zeros": np.zeros(D, F)},
        opset=11,
    ),
    "whole numbers in FP16": Attack(
        "h = Cast<to = 10>(n) f = Cast<to = 1>(h) u = Unsqueeze(f, last) total = Add(u, zeros)",
        {"last": shape(2), "zeros": np.zeros(D, F)},
        "int64[batch, sequence] n",
        {"n": np.full((2, LENGTH), 2051)},
        ranges={"n": (0, 2051)},
    ),
    "numbers rounded to FP16 again and again": Attack(
        chain("Mul", HALF), {**IN_CHAIN, "k": number(1 + 2**-11 + 2**-17)}
    ),
    "sums rounded to FP16 again and again": Attack(
        chain("Add", HALF), {**IN_CHAIN, "k": number(2**-11 * 1.05)}
    ),
    "numbers rounded to BF16 again and again": Attack(
        chain("Mul", BRAIN), {**IN_CHAIN, "k": number(1 + 2**-8 + 2**-14)}
    ),
    "one over what FP16 cannot hold": Attack(
        IN_HALF + "r = Reciprocal(f) total = Mul(r, tiny)", {"k": number(-8), "tiny": number(1e-12)}
    ),
    "the logarithm of what FP16 cannot hold": Attack(IN_HALF + "total = Log(f)", {"k": number(-8)}),
    "a quotient by what FP32 cannot hold": Attack(
        SMALL + "b = Mul(e, e) c = Mul(b, b) y0 = Mul(x, tiny) total = Div(y0, c)",
        {"k": number(-10), "tiny": number(1e-38)},
        target="bf16-fp32",
    ),
    "a quotient by a power that FP32 cannot hold": Attack(
        SMALL + "c = Pow(e, forty) y0 = Mul(x, tiny) total = Div(y0, c)",
        {"k": number(-1), "tiny": number(1e-38), "forty": number(40)},
        target="bf16-fp32",
    ),
    "shares rounded to BF16": Attack(
        ROUNDED_SHARES,
        {"zero": number(0), "units": np.ones(D, F)},
        ids=np.zeros((1, 6), WHOLE),
        fixed=True,
    ),
    "an input's number that may be negative": Attack(
        "s = Concat<axis = 0>(n, five) e = Equal(s, minus) one = Gather(e, zero) "
        "told = Squeeze(one, zero) " + BRANCHES,
        IN_BRANCHES,
        "int64[1] n",
        {"n": np.array([-1])},
    ),
    "the largest of no positions": Attack(
        "total = ReduceMax<axes = [1]>(x)", ids=np.zeros((1, 0), WHOLE)
    ),
    "a tanh that is above one": Attack(
        "y0 = Mul(x, large) total = Tanh(y0)",
        {"large": number(8.955)},
    ),
    **{
        f"a sum of squares over {name}": Attack(
            "h = Mul(rows, unit) q = Mul(h, h) m0 = ReduceSum(q, last) "
            f"{count} n = Cast<to = 1>(s) m = Div(m0, n) e = Add(m, eps) root = Sqrt(e) "
            "total = Div(h, root)",
            {"unit": number(1), "last": shape(-1), "eps": number(1e-6), "second": np.array(1)},
        )
        for name, count in {
            "the size of all": "s = Size(x)",
            "the size of an open axis": "s = Shape<start = 1, end = 2>(rows)",
            "a size that is picked": "z = Shape(ids) s = Gather(z, second)",
        }.items()
    },
    "a cache that is a constant": Attack(
        CACHED, {**IN_CACHED, "pv": np.full((1, 2, 2, D), 1000, F)}, ids=FEW
    ),
}


def model_of(attack: Attack) -> onnx.ModelProto:
    weights = {"table": TABLE.astype(F), "gamma": np.ones(D, F), **attack.weights}
    model = between(attack.nodes, weights, attack.inputs, attack.opset)
    if attack.fixed:
        sizes = model.graph.input[0].type.tensor_type.shape.dim
        for size, count in zip(sizes, attack.ids.shape, strict=True):
            size.dim_value = count
    if attack.odd is not None:
        op, name, value = attack.odd
        node = next(n for n in model.graph.node if n.op_type == op)
        node.attribute.append(onnx.helper.make_attribute(name, value))
    return model


def certificate_of(attack: Attack) -> Certificate:
    """That of the norm that reads total."""
    options = Options(
        estimate="weights",
        accelerator=TARGETS[attack.target],
        feeds={name: Range(*ends) for name, ends in attack.ranges.items()},
    )
    found = compute_scales(model_of(attack), options)[-1].certificate
    assert found is not None
    return found


def rows_of(attack: Attack) -> Array:
    """What ONNX Runtime makes of total, in float64."""
    model = model_of(attack)
    del model.graph.output[:]
    model.graph.output.add(name="total")
    return run(model, ids=attack.ids, **attack.given)["total"].astype(np.float64)


def keeps(condition: Condition, given: Mapping[str, Array]) -> bool:
    """Whether inputs keep to a condition; masks here leave some query none."""
    if condition.kind == "positions":
        sizes = [size for array in given.values() for size in array.shape]
        return all(condition.low <= size <= condition.high for size in sizes)
    if condition.kind == "length":
        return False  # of the rows that are nan
    assert condition.kind in ("range", "keeps")
    if condition.kind == "keeps":
        return bool((given[condition.input][:, :1] != 0).all())
    array = given[condition.input]
    return bool((array >= condition.low).all() and (array <= condition.high).all())


def check(attack: Attack) -> None:
    """Whether its rows keep to what is claimed, where that is and they keep to what it asks."""
    certificate = certificate_of(attack)
    if not certificate.certified:
        return
    if not all(keeps(c, {"ids": attack.ids, **attack.given}) for c in certificate.conditions):
        return
    rows, most = rows_of(attack), certificate.bound.length
    assert most is not None
    assert np.isfinite(rows).all()
    assert np.linalg.norm(rows, axis=-1).max(initial=0.0) <= most * (1 + 1e-9)


@pytest.mark.parametrize("name", ATTACKS)
def test_no_certificate_is_false(name: str) -> None:
    check(ATTACKS[name])


KEPT = {
    "one channel times a row": 2 * D,
    "one channel times a gate": D,
    "whole numbers in FP16": 2052 * D**0.5,
    "numbers rounded to FP16 again and again": D**0.5 * (1 + 30 * 2**-10),
    "shares rounded to BF16": D**0.5 * (1 + 2**-7),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_stays_certified_is_bounded_as_closely(name: str) -> None:
    certificate = certificate_of(ATTACKS[name])
    assert certificate.certified and certificate.bound.length is not None
    assert certificate.bound.length <= KEPT[name] * 1.01


@pytest.mark.parametrize("op", ["RandomNormalLike", "RandomUniformLike"])
def test_random_numbers_are_no_constants(op: str) -> None:
    attack = Attack(f"n = {op}(base) total = Add(x, n)", {"base": np.zeros((1, 1, D), F)})
    assert not certificate_of(attack).certified


BY_HAND = (
    "nz = NonZero(g) n = Shape<start = 1, end = 2>(nz) sizes = Concat<axis = 0>(unit, n, minus) "
    "total = Reshape(h, sizes) q = Mul(total, total) m = ReduceMean<axes = [-1]>(q) "
    "e = Add(m, eps) root = Sqrt(e) y = Div(total, root)"
)


@pytest.mark.parametrize("name", ["?0", "?1", "?2", "a|?0"])
def test_sizes_are_not_the_same_by_a_name_that_the_proof_uses_itself(name: str) -> None:
    """Four rows of 8 become two of 16: a row of them is twice as long as a row of h can be."""
    weights = {"unit": shape(1), "minus": shape(-1), "eps": number(1e-5)}
    model = graph(BY_HAND, weights, "float[1, s, 8] h, int64[k] g")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = name
    feeds = {"h": Range(-1, 1)}
    (norm,) = compute_scales(model, Options(estimate="weights", feeds=feeds))
    assert norm.certificate is not None
    most = norm.certificate.bound.length if norm.certificate.certified else math.inf
    del model.graph.output[:]
    model.graph.output.add(name="total")
    rows = run(model, h=np.ones((1, 4, D), F), g=np.ones(2, WHOLE))["total"]
    assert most is not None and np.linalg.norm(rows, axis=-1).max() <= most


def test_a_mean_over_two_open_axes_allows_for_both() -> None:
    """Of 2000 sequences of 2000 positions the sum is rounded four million times."""
    found = certificate_of(Attack("total = ReduceMean<axes = [0, 1]>(x)"))
    assert found.certified
    assert [(c.kind, c.high) for c in found.conditions] == [("positions", math.isqrt(2**17))]
    merged = Attack(
        "r = Reshape(x, sizes) total = ReduceMean<axes = [1]>(r)", {"sizes": shape(1, -1, D)}
    )
    found = certificate_of(merged)
    assert [(c.kind, c.high) for c in found.conditions] == [("positions", math.isqrt(2**17))]


def test_a_safe_radius_is_of_the_width_that_the_proof_found() -> None:
    """The rows that were sampled may be shorter: 16 where every row of the model has 32."""
    device = TARGETS["fp16-sequential"]
    decided = compute_scales(model_of(Attack("total = Neg(x)")), Options(accelerator=device))[-1]
    assert decided.certificate is not None
    bound = replace(decided.certificate.bound, width=4 * D)
    proved = replace(decided.certificate, bound=bound)
    wide = replace(decided, norm=replace(decided.norm, width=None), certificate=proved)
    known = replace(decided, norm=replace(decided.norm, width=4 * D))
    assert with_safe_radius(wide, device).safe_radius == with_safe_radius(known, device).safe_radius
