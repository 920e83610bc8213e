"""Norms whose ops are read one by one: what is finite in FP32 may be nan on the device."""

import numpy as np
import pytest

from slanc_onnx import Options, compute_scales
from slanc_onnx.prove import Certificate
from slanc_onnx.reasons import Unproved
from tests.models.small_graphs import GAMMA, graph, normal

D = 8
TABLE = np.concatenate([normal(0, 10, D), np.full((1, D), 1e5, np.float32)])
LENGTH = "l = ReduceL2<axes = [-1]>(x) e = Max(l, floor) [n] n = Div(x, e)"
CENTRED = (
    "m = ReduceMean<axes = [-1]>(x) c = Sub(x, m) q = Mul(c, c) v = ReduceMean<axes = [-1]>(q) "
    "e = Max(v, floor) s = Sqrt(e) [n] n = Div(c, s)"
)


def certificate_behind(nodes: str, exclude: str = "^n$") -> Certificate:
    """Of an RMSNorm behind a norm that is left alone, unless said."""
    end = "z = Mul(n, small) [last] y = SimplifiedLayerNormalization<axis = -1>(z, gamma)"
    weights = {"table": TABLE, "gamma": GAMMA, "floor": np.float32(1e3), "small": np.float32(1e-3)}
    model = graph(
        f"x = Gather(table, ids) {nodes} {end}", {n: np.asarray(w) for n, w in weights.items()}
    )
    found = {
        decided.norm.name: decided.certificate
        for decided in compute_scales(model, Options(estimate="weights", exclude=exclude))
    }
    certificate = found["last"]
    assert certificate is not None and certificate.bound.length is not None
    assert certificate.bound.length < 1e6  # as FP32 it is bounded
    return certificate


@pytest.mark.parametrize("exclude", ["^n$", "^none$"])
@pytest.mark.parametrize("nodes", [LENGTH, CENTRED])
def test_what_has_no_radius_certifies_nothing_behind_it(nodes: str, exclude: str) -> None:
    certificate = certificate_behind(nodes, exclude)
    assert certificate.bound.leans == ("n",)
    assert not certificate.certified and certificate.reason is not None
    assert certificate.reason.kind is Unproved.LEANS_ON
    with np.errstate(all="ignore"):  # left alone, the row of 1e5 is nan behind it in FP16
        x = TABLE[-1].astype(np.float16)
        root = np.sqrt(np.sum(x * x, dtype=np.float16))
        assert np.isnan(x / root).all()


def test_ops_that_are_no_norm_are_fp32() -> None:
    certificate = certificate_behind("n = Mul(x, small)")
    assert certificate.bound.leans == () and certificate.certified


@pytest.mark.parametrize("op", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
def test_a_condition_on_a_sum_names_all_that_is_added_up(op: str) -> None:
    """Nothing limits `skip`: a condition on x alone always holds, and the row behind is nan."""
    nodes = f"""
        x = Gather(table, ids)
        [first] n = com.microsoft.{op}(x, skip, gamma)
        [last] y = LayerNormalization<axis = -1>(n, gamma)
    """
    inputs = "int64[batch, sequence] ids, float[batch, sequence, 8] skip"
    model = graph(nodes, {"table": normal(0, 20, D), "gamma": GAMMA}, inputs=inputs)
    first, last = compute_scales(model, Options(estimate="probe"))
    assert first.certificate is not None and not first.certificate.certified
    assert last.certificate is not None and last.certificate.certified
    asked = {c.input: c.high for c in last.certificate.conditions if c.kind == "length"}
    assert set(asked) == {"x", "skip"}
    assert first.safe_radius is not None  # by the triangle inequality
    assert 0.999 * first.safe_radius < sum(asked.values()) < first.safe_radius


def test_groups_of_sums_have_no_condition_that_rows_could_keep() -> None:
    """Another addend may lack the positions that a group runs over."""
    nodes = """
        [first] n = com.microsoft.SkipGroupNorm<groups = 2, epsilon = 1e-5>(x, gamma, beta, skip)
        [last] y = LayerNormalization<axis = -1>(n, gamma)
    """
    weights = {"gamma": GAMMA, "beta": np.zeros(8, np.float32)}
    inputs = "float[2, 3, 3, 8] x, float[2, 8] skip"
    model = graph(nodes, weights, inputs=inputs, outputs="float[a, b, c, d] y")
    certificates = {d.norm.name: d.certificate for d in compute_scales(model)}
    certificate = certificates["last"]
    assert certificate is not None and not certificate.certified
