"""Norms whose steps lie in several graphs are no norms here, and never silent."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from slanc_onnx.norms.model import read_model
from slanc_onnx.reasons import Untaken

WHOLE = {
    "the root inside": """
        v = ReduceMean <axes = [-1]> (q)
        y = If (c) <then_branch = t () => (float[2, 8] o)
                { a = Add(v, eps) r = Sqrt(a) o = Div(x, r) },
            else_branch = e () => (float[2, 8] p) { p = Identity(x) }>""",
    "the division inside": """
        v = ReduceMean <axes = [-1]> (q) a = Add(v, eps) r = Sqrt(a)
        y = If (c) <then_branch = t () => (float[2, 8] o) { o = Div(x, r) },
            else_branch = e () => (float[2, 8] p) { p = Identity(x) }>""",
    "a branch in a branch": """
        v = ReduceMean <axes = [-1]> (q) a = Add(v, eps)
        y = If (c) <then_branch = t () => (float[2, 8] o) {
                o = If (c) <then_branch = t2 () => (float[2, 8] o2) { r = Sqrt(a) o2 = Div(x, r) },
                    else_branch = e2 () => (float[2, 8] p2) { p2 = Identity(x) }> },
            else_branch = e () => (float[2, 8] p) { p = Identity(x) }>""",
    "the mean inside": """
        v = If (c) <then_branch = t () => (float[2, 1] o) { o = ReduceMean <axes = [-1]> (q) },
            else_branch = e () => (float[2, 1] p) { p = ReduceMax <axes = [-1]> (q) }>
        a = Add(v, eps) r = Sqrt(a) y = Div(x, r)""",
    "the root in a branch between": """
        v = ReduceMean <axes = [-1]> (q)
        r = If (c) <then_branch = t () => (float[2, 1] o) { a = Add(v, eps) o = Sqrt(a) },
            else_branch = e () => (float[2, 1] p) { p = Sqrt(v) }>
        y = Div(x, r)""",
    "the root carried into a Loop": """
        v = ReduceMean <axes = [-1]> (q) a = Add(v, eps) r = Sqrt(a)
        y, last = Loop (n, c, x, r) <body = b (int64 i, bool on, float[2, 8] z, float[2, 1] s)
            => (bool go, float[2, 8] w, float[2, 1] s2)
            { go = Identity(on) w = Div(z, s) s2 = Identity(s) }>""",
    "the mean out of a Loop": """
        v0 = ReduceMax <axes = [-1]> (x)
        z, v = Loop (n, c, x, v0) <body = b (int64 i, bool on, float[2, 8] z0, float[2, 1] s)
            => (bool go, float[2, 8] z1, float[2, 1] s1)
            { go = Identity(on) z1 = Identity(z0) q1 = Mul(z0, z0)
              s1 = ReduceMean <axes = [-1]> (q1) }>
        a = Add(v, eps) r = Sqrt(a) y = Div(z, r)""",
}
ELSEWHERE = {  # the square is made in another graph than the mean
    "the square in both branches": """
        k = If (c) <then_branch = t () => (float[2, 8] o) { o = Mul(x, x) },
            else_branch = e () => (float[2, 8] p) { p = Pow(x, two) }> SUM""",
    "the square in one branch, and behind it a factor": """
        k0 = If (c) <then_branch = t () => (float[2, 8] o) { o = Abs(x) },
            else_branch = e () => (float[2, 8] p) { p = Mul(x, x) }> k = Mul(k0, two) SUM""",
    "the square out of a branch in a branch": """
        k = If (c) <then_branch = t () => (float[2, 8] o) {
                o = If (c) <then_branch = t2 () => (float[2, 8] o2) { o2 = Mul(x, x) },
                    else_branch = e2 () => (float[2, 8] p2) { p2 = Abs(x) }> },
            else_branch = e () => (float[2, 8] p) { p = Abs(x) }> SUM""",
    "the square out of a Loop": """
        k = Loop (n, c, x) <body = b (int64 i, bool on, float[2, 8] z) => (bool go, float[2, 8] w)
            { go = Identity(on) w = Mul(z, z) }> SUM""",
    "the square given to a Loop": """
        y, last = Loop (n, c, x, q) <body = b (int64 i, bool on, float[2, 8] z, float[2, 8] q0)
            => (bool go, float[2, 8] w, float[2, 8] q1)
            { go = Identity(on) v = ReduceMean <axes = [-1]> (q0) a = Add(v, eps) r = Sqrt(a)
              w = Div(z, r) q1 = Identity(q0) }>""",
}
SUM = "v = ReduceMean <axes = [-1]> (k) a = Add(v, eps) r = Sqrt(a) y = Div(x, r)"
ADDED_UP = """
    turned = Transpose <perm = [1, 0]> (x)
    v, each = Scan <num_scan_inputs = 1, body = b (float[2] s, float[2] z)
        => (float[2] s1, float[2] w) { z2 = Mul(z, z) s1 = Add(s, z2) w = Identity(s1) }>
        (none, turned)
    a = Add(v, eps) r0 = Sqrt(a) r = Unsqueeze(r0, one) y = Div(x, r)"""
NONE = {
    "squares added up that divide nothing": ADDED_UP.replace("Div", "Mul"),
    "a square out of a Loop that divides nothing": ELSEWHERE["the square out of a Loop"].replace(
        "SUM", SUM.replace("Div", "Add")
    ),
    "a mean square that divides nothing": """
        v = ReduceMean <axes = [-1]> (q)
        y = If (c) <then_branch = t () => (float[2, 8] o) { o = Add(x, v) },
            else_branch = e () => (float[2, 8] p) { p = Identity(x) }>""",
}


def model_of(nodes: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>'
        f"g (float[2, 8] x, bool c) => (float[2, 8] y) {{ q = Mul(x, x) {nodes} }}"
    )
    numbers = {"eps": np.float32(1e-6), "n": np.int64(2), "two": np.float32(2)}
    constants = {name: np.array(value) for name, value in numbers.items()}
    constants |= {"none": np.zeros(2, np.float32), "one": np.array([1])}
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items()
    )
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("nodes", WHOLE.values(), ids=WHOLE)
def test_a_norm_across_graphs_is_a_suspect_with_that_reason(nodes: str) -> None:
    read = read_model(model_of(nodes))
    assert read.norms == []
    assert [suspect.reason.kind for suspect in read.suspects] == [Untaken.IN_ANOTHER_GRAPH]
    assert read.suspects[0].op == "ReduceMean"


@pytest.mark.parametrize("nodes", ELSEWHERE.values(), ids=ELSEWHERE)
def test_a_square_that_another_graph_makes_is_a_suspect(nodes: str) -> None:
    read = read_model(model_of(nodes.replace("SUM", SUM)))
    assert read.norms == []
    assert [s.reason.kind for s in read.suspects] == [Untaken.IN_ANOTHER_GRAPH]
    assert read.suspects[0].op == "ReduceMean"


def test_squares_that_a_scan_adds_up_are_a_suspect() -> None:
    read = read_model(model_of(ADDED_UP))
    assert read.norms == []
    assert [(s.op, s.reason.kind) for s in read.suspects] == [("Add", Untaken.IN_ANOTHER_GRAPH)]


@pytest.mark.parametrize("nodes", NONE.values(), ids=NONE)
def test_what_is_no_norm_is_no_suspect(nodes: str) -> None:
    read = read_model(model_of(nodes))
    assert (read.norms, read.suspects) == ([], [])


def test_a_whole_norm_in_a_branch_is_a_norm() -> None:
    inside = """y = If (c) <then_branch = t () => (float[2, 8] o) { s = Mul(x, x)
            v = ReduceMean <axes = [-1]> (s) a = Add(v, eps) r = Sqrt(a) o = Div(x, r) },
        else_branch = e () => (float[2, 8] p) { p = Identity(x) }>"""
    read = read_model(model_of(inside))
    assert ([norm.kind for norm in read.norms], read.suspects) == (["rms"], [])
