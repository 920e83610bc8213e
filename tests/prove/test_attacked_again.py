"""Graphs of a second attack, each of which had a false certificate."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from slanc_onnx import Options, compute_scales
from slanc_onnx.feed import Range
from tests.models.small_graphs import D, graph
from tests.oracles.unoptimised import run
from tests.prove.test_attacked import (
    BRANCHES,
    BY_HAND,
    IN_BRANCHES,
    LENGTH,
    MASK,
    ROUNDED_SHARES,
    SCORES,
    TABLE,
    Attack,
    certificate_of,
    check,
    number,
)
from tests.spellings.attention import shape

F, WHOLE = np.float32, np.int64
LEAST, MOST = np.iinfo(WHOLE).min, np.iinfo(WHOLE).max
EIGHT = np.arange(D)[None]
PICKED = np.array([0, *[1] * (D - 1)], F)
FIRST_IS_LARGE = np.array([1000, *[1] * (D - 1)], F).reshape(D, 1)
LARGEST = "r = ReduceMax<axes = [2]>(x) "


def whole(nodes: str, value: int = 0, **weights: NDArray[Any]) -> Attack:
    """An input n of whole numbers that become s, and total from the root of s."""
    nodes += " f = Cast<to = 1>(s) g = Mul(f, tiny) w = Sqrt(g) u = Unsqueeze(w, last) "
    every = {"tiny": number(1e-18), "last": shape(2), "zeros": np.zeros(D, F), **weights}
    given = {"n": np.full((2, LENGTH), value)}
    return Attack(nodes + "total = Add(u, zeros)", every, "int64[batch, sequence] n", given)


def masked(nodes: str, **weights: NDArray[Any]) -> Attack:
    """Scores `sc` that become `hidden`, whose shares mix x; the mask keeps every position."""
    read = "mu = Unsqueeze(mask, middle) mf = Cast<to = 1>(mu) mb = Cast<to = 9>(mu) "
    shares = " p = Softmax<axis = -1>(hidden) m = MatMul(p, x) total = Add(m, x)"
    every = {"middle": shape(1), "ninf": number(-math.inf), "far": number(100), **weights}
    return Attack(
        SCORES + read + nodes + shares, every, MASK, {"mask": np.ones((2, LENGTH), WHOLE)}
    )


HALF, BRAIN = 10, 16  # ONNX's numbers of FP16 and BF16


def by_hand(scale: float, epsilon: float, *steps: str, centred: bool = False) -> Attack:
    """An RMSNorm of x times a number, in steps of which some are rounded to 16 bits and back.

    Args:
        scale: The number.
        epsilon: Of the norm.
        steps: The steps that are rounded: "STEP:TYPE", with the number of the type in ONNX.
        centred: Whether the mean is taken off first, as a LayerNorm has it.
    """
    kinds = dict(step.split(":") for step in steps)

    def step(name: str, node: str) -> str:
        if name not in kinds:
            return f"{name} = {node} "
        casts = f"{name}h = Cast<to = {kinds[name]}>({name}0) {name} = Cast<to = 1>({name}h) "
        return f"{name}0 = {node} {casts}"

    mean = "mu = ReduceMean<axes = [-1]>(h) c = Sub(h, mu) " if centred else ""
    row = "c" if centred else "h"
    nodes = (
        "h = Mul(x, scale) " + mean + step("r", f"Identity({row})") + step("q", "Mul(r, r)")
        + step("m", "ReduceMean<axes = [-1]>(q)") + step("e", "Add(m, eps)")
        + step("root", "Sqrt(e)") + f"total = Div({row}, root)"
    )  # fmt: skip
    return Attack(nodes, {"scale": number(scale), "eps": number(epsilon)})


HIDDEN = "hidden = Where(c, sc, ninf)"
FAR = number(3e38)
SMALLER = " ".join(f"p{i + 1} = Mul(k, p{i})" for i in range(200))
REPEATED_SHARES = ROUNDED_SHARES.split("pb =")[0].replace("p = Soft", "p0 = Soft")

ATTACKS = {
    "numbers that subnormals hold": Attack("total = Mul(x, tiny)", {"tiny": number(1.4e-45)}),
    "numbers of which most are subnormal": Attack(
        "total = Mul(x, sizes)", {"sizes": np.array([1e-30, *[1.4e-45] * (D - 1)], F)}
    ),
    "subnormal numbers that are made large again": Attack(
        "a = Mul(x, tiny) b = Mul(a, huge) total = Mul(b, huge)",
        {"tiny": number(1.4e-45), "huge": number(2.0**74)},
    ),
    "a mean square in FP16": by_hand(1e-4, 1e-12, f"m:{HALF}"),
    "squares in FP16": by_hand(1e-4, 1e-12, f"q:{HALF}"),
    "a variance in FP16": by_hand(1e-4, 1e-12, f"e:{HALF}"),
    "a root in FP16": by_hand(8e-8, 1e-16, f"root:{HALF}"),
    "squares of a row in FP16": by_hand(3e-8, 1e-16, f"r:{HALF}"),
    "squares of a centred row in BF16": by_hand(50, 1e-6, f"r:{BRAIN}", centred=True),
    "the absolute of the least whole number": whole("s = Abs(n)", LEAST),
    "a sum that wraps around": whole("c = Clip(n, k, k) s = Add(c, c)", k=np.array(2**62)),
    "a product that wraps around": whole(
        "c = Clip(n, k, k) s = Mul(c, two)", k=np.array(2**62), two=np.array(2)
    ),
    "a difference that FP64 does not see": whole(
        "c = Clip(n, nil, k) d = Sub(c, far) s = Neg(d)",
        2**60 + 127,
        nil=np.array(0),
        k=np.array(2**60 + 127),
        far=np.array(2**60),
    ),
    "a sum without signs that wraps around": replace(
        whole("v = Cast<to = 13>(n) c = Clip(v, k, k) t = Add(c, c) s = Sub(t, one)"),
        nodes="v = Cast<to = 13>(n) c = Clip(v, k, k) t = Add(c, c) f = Cast<to = 1>(t) "
        "i = Reciprocal(f) u = Unsqueeze(i, last) total = Add(u, zeros)",
        weights={"k": np.array(2**63, np.uint64), "last": shape(2), "zeros": np.zeros(D, F)},
    ),
    "a float that no whole number holds": Attack(
        LARGEST + "c = Clip(r, k, k) i = Cast<to = 7>(c) f = Cast<to = 1>(i) m = Mul(f, tiny) "
        "w = Sqrt(m) total = Mul(x, w)",
        {"k": number(2**63), "tiny": number(1e-18)},
    ),
    "a constant sum of whole numbers": Attack(
        "c = ReduceSum<keepdims = 0>(k) f = Cast<to = 1>(c) total = Mul(x, f)",
        {"k": np.array([LEAST, MOST, 7, -6], WHOLE)},
    ),
    "a constant product of whole numbers": Attack(
        "c = ReduceProd<keepdims = 0>(k) f = Cast<to = 1>(c) g = Mul(f, tiny) total = Mul(x, g)",
        {"k": np.array([2**40, 2**40], WHOLE), "tiny": number(1e-18)},
    ),
    "FP64 rounded to FP32": Attack(
        LARGEST + "d = Cast<to = 11>(r) c = Clip(d, k, k) f = Cast<to = 1>(c) s = Sub(near, f) "
        "g = Add(s, tiny) v = Reciprocal(g) w = Mul(v, tiny) total = Mul(x, w)",
        {"k": np.array(0.1), "near": number(0.1), "tiny": number(1e-10)},
    ),
    "FP64 that stays FP64": Attack(
        LARGEST + "d = Cast<to = 11>(r) c = Clip(d, k, k) m = Mul(c, one) s = Sub(m, k) "
        "f = Reciprocal(s) g = Mul(f, tiny) h = Cast<to = 1>(g) total = Mul(x, h)",
        {"k": np.array(0.1), "one": np.array(1.0), "tiny": np.array(1e-9)},
    ),
    "a number of unlimited data that may be negative": Attack(
        "n = CastLike(h, minus) s = Concat<axis = 0>(n, five) e = Equal(s, minus) "
        "one = Gather(e, zero) told = Squeeze(one, zero) " + BRANCHES,
        IN_BRANCHES,
        "float[1] h",
        {"h": np.array([-1], F)},
    ),
    "a gamma of positions": Attack(
        "n = LayerNormalization<axis = -1>(x, g) total = Mul(n, picked)",
        {"g": FIRST_IS_LARGE, "picked": PICKED},
        ids=EIGHT,
        fixed=True,
    ),
    "a beta of positions": Attack(
        "n = LayerNormalization<axis = -1>(x, ones, b) total = Mul(n, picked)",
        {"ones": np.ones(D, F), "b": FIRST_IS_LARGE, "picked": PICKED},
        ids=EIGHT,
        fixed=True,
    ),
    "shares that grow again and again": Attack(
        f"{REPEATED_SHARES} {SMALLER} v = Add(z, units) total = MatMul(p200, v)",
        {"zero": number(0), "units": np.ones(D, F), "k": number(1 + 2**-21)},
        ids=np.zeros((1, 6), WHOLE),
        fixed=True,
    ),
    "the largest of positions that a slice leaves": Attack(
        "s = Slice(x, start, end, axis) total = ReduceMax<axes = [1]>(s)",
        {"start": shape(20), "end": shape(30), "axis": shape(1)},
    ),
    "scores that are -inf without a mask": masked(
        "q = Mul(x, x) a = ReduceSum(q, last) l = Mul(a, low) lt = Transpose<perm = [0, 2, 1]>(l) "
        "hidden = Add(lt, mf)",
        last=shape(2),
        low=number(-1e38),
    ),
    "a mask that is low everywhere": masked(
        "d = Sub(mf, two) b = Mul(d, far) s = Add(sc, b) hidden = Add(s, b)",
        two=number(2),
        far=FAR,
    ),
    "a mask that FP16 does not hold": masked(
        "d = Sub(mf, two) b = Mul(d, k) bh = Cast<to = 10>(b) bf = Cast<to = 1>(bh) "
        "hidden = Add(sc, bf)",
        two=number(2),
        k=number(70000),
    ),
    "a constant that hides everything": masked("s = Add(sc, mf) hidden = Add(s, ninf)"),
    "a test of scores with a mask": masked("s = Add(sc, mf) c = Greater(s, far) " + HIDDEN),
    "a test of scores and a mask": masked("g = Greater(sc, far) c = And(g, mb) " + HIDDEN),
    "a test of scores times a mask": masked(
        "g = Greater(sc, far) gf = Cast<to = 1>(g) k = Mul(gf, mf) c = Cast<to = 9>(k) " + HIDDEN
    ),
    "places of scores and a mask": masked(
        "v, i = TopK<axis = -1>(sc, one) h = Less(i, nil) c = And(h, mb) " + HIDDEN,
        one=shape(1),
        nil=np.array(0),
    ),
    "a table of tokens and a mask": masked(
        "fl = Gather(flags, ids) h = Greater(fl, far) hu = Unsqueeze(h, middle) c = And(hu, mb) "
        + HIDDEN,
        flags=np.zeros(len(TABLE), F),
    ),
    "scores that choose between two masks": masked(
        "one = Where(mb, sc, ninf) nb = Not(mb) two = Where(nb, sc, ninf) l = Less(sc, far) "
        "c = Xor(l, mb) hidden = Where(c, one, two)"
    ),
}
SECOND = MASK + ", int64[batch, sequence] other"
BOUNDED_MASK = masked(
    "o = Cast<to = 1>(other) s = Sigmoid(o) h = Greater(s, half) hu = Unsqueeze(h, middle) "
    "c = And(hu, mb) " + HIDDEN,
    half=number(0.6),
)
ATTACKS["a mask that was bounded before its test"] = replace(
    BOUNDED_MASK,
    inputs=SECOND,
    given={**BOUNDED_MASK.given, "other": np.zeros((2, LENGTH), WHOLE)},
)


@pytest.mark.parametrize("name", ATTACKS)
def test_no_certificate_is_false(name: str) -> None:
    check(ATTACKS[name])


KEPT = {
    "a test of the mask alone": masked("c = Greater(mf, nil) " + HIDDEN, nil=number(0)),
    "a mask that is added": masked(
        "d = Sub(mf, one) b = Mul(d, far) s = Add(sc, b) hidden = Add(s, b)",
        one=number(1),
        far=FAR,
    ),
    "a mask and a constant one": masked(
        "c = And(mb, lower) " + HIDDEN, lower=np.tri(LENGTH, dtype=bool)[None]
    ),
}


def test_a_norm_in_fp32_of_a_row_in_fp16_keeps_its_certificate() -> None:
    nodes = (
        "xh = Cast<to = 10>(x) h = Cast<to = 1>(xh) q = Mul(h, h) m = ReduceMean<axes = [-1]>(q) "
        "e = Add(m, eps) root = Sqrt(e) y0 = Div(h, root) yh = Cast<to = 10>(y0) "
        "total = Cast<to = 1>(yh)"
    )
    assert certificate_of(Attack(nodes, {"eps": number(1e-6)})).certified


@pytest.mark.parametrize("name", KEPT)
def test_a_mask_that_hides_some_positions_is_a_condition(name: str) -> None:
    certificate = certificate_of(KEPT[name])
    assert certificate.certified
    assert ("mask", "keeps") in [(c.input, c.kind) for c in certificate.conditions]


def test_shares_stay_shares_whichever_factor_they_are() -> None:
    """Of 6 positions: as dot products their rows would be 6 times as long."""
    for pair in ("k, p0", "p0, k"):
        nodes = f"{REPEATED_SHARES} p = Mul({pair}) v = Add(z, units) total = MatMul(p, v)"
        weights = {"zero": number(0), "units": np.ones(D, F), "k": number(0.5)}
        attack = Attack(nodes, weights, ids=np.zeros((1, 6), WHOLE), fixed=True)
        most = certificate_of(attack).bound.length
        assert most is not None and most < 1.01 * D**0.5


def largest_of_total(model: onnx.ModelProto, **inputs: NDArray[Any]) -> float:
    """The longest row of total."""
    del model.graph.output[:]
    model.graph.output.add(name="total")
    return float(np.linalg.norm(run(model, **inputs)["total"], axis=-1).max())


def bound_of(model: onnx.ModelProto, **feeds: Range) -> float:
    """The bound of the last norm; infinite without a certificate."""
    *_, norm = compute_scales(model, Options(estimate="weights", feeds=feeds))
    assert norm.certificate is not None
    most = norm.certificate.bound.length if norm.certificate.certified else math.inf
    assert most is not None
    return most


def test_a_size_of_0_is_one_that_is_copied() -> None:
    """No element of g counts, so that both reshapes copy a size, each another one."""
    by_hand = BY_HAND.split("sizes =")[0] + (
        "one = Concat<axis = 0>(unit, n, eight) y1 = Reshape(h, one) "
        "two = Concat<axis = 0>(n, unit, minus) total = Reshape(y1, two)"
    )
    norm = BY_HAND[BY_HAND.index(" q =") :]
    weights = {"unit": shape(1), "minus": shape(-1), "eight": shape(8), "eps": number(1e-5)}
    model = graph(by_hand + norm, weights, "float[1, s, 8] h, int64[k] g")
    most = bound_of(model, h=Range(-1, 1))
    assert largest_of_total(model, h=np.ones((1, 4, D), F), g=np.zeros(2, WHOLE)) <= most


def test_a_cache_that_two_ops_join_may_be_that_of_either() -> None:
    nodes = (
        "x = SimplifiedLayerNormalization<axis = -1>(rows, ones) total = Concat<axis = 1>(past, x) "
        "large = Mul(x, thousand) other = Concat<axis = 1>(past, large) "
        "y = SimplifiedLayerNormalization<axis = -1>(total, ones)"
    )
    weights = {"ones": np.ones(D, F), "thousand": number(1000)}
    inputs = "float[1, s, 8] rows, float[1, p, 8] past"
    outputs = "float[1, a, 8] total, float[1, a, 8] other, float[1, a, 8] y"
    rows, none = np.ones((1, 2, D), F), np.zeros((1, 0, D), F)
    model = graph(nodes, weights, inputs, outputs)
    made = run(model, rows=rows, past=none)["other"]
    most = bound_of(model, rows=Range(-1, 1))
    assert largest_of_total(model, rows=rows, past=made) <= most
