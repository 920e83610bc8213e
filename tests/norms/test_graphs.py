"""Norms in subgraphs, in unsorted graphs, and among empty or repeated names."""

import numpy as np
import onnx
from numpy.typing import NDArray

from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.graph.facts import told_type
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from tests.oracles.unoptimised import different, run

RMS = """
    {0}q = Mul({1}, {1})
    {0}m = ReduceMean<axes = [-1]>({0}q)
    {0}v = Add({0}m, eps)
    {0}s = Sqrt({0}v)
    {0}n = Div({1}, {0}s)
    {2} = Mul({0}n, g)
"""
CONSTANTS = "<float[4] g = {1, 2, -3, 0.5}, float eps = {1e-5}, float[4] b = {4, 3, 2, 1}>"

BRANCHES = f"""
<ir_version: 8, opset_import: ["": 17]>
main (float[rows, 4] x, bool c) => (float[rows, 4] y) {CONSTANTS}
{{
    {RMS.format("f", "x", "first")}
    y = If (c) <
        then_branch = t () => (float[rows, 4] o) {{ {RMS.format("t", "first", "o")} }},
        else_branch = e () => (float[rows, 4] p) {{
            [norm] z = LayerNormalization<epsilon = 1e-5>(x, g, b)
            p = LayerNormalization<epsilon = 1e-5>(z, g)
        }}
    >
}}
"""

LOOP = f"""
<ir_version: 8, opset_import: ["": 17]>
main (float[rows, 4] x) => (float[rows, 4] y)
{CONSTANTS[:-1]}, int64 trips = {{3}}, bool on = {{1}}>
{{
    [again] y = Loop (trips, on, x) <
        body = step (int64 i, bool c, float[rows, 4] h) => (bool c2, float[rows, 4] z)
        {{
            c2 = Identity(c)
            {RMS.format("l", "h", "n")}
            k = Cast<to = 1>(i)
            z = Add(n, k)
        }}
    >
}}
"""


def rows() -> NDArray[np.float32]:
    random = np.random.default_rng(3)
    return (random.normal(size=(64, 4)) * 10.0 ** random.uniform(-5, 3, (64, 1))).astype(np.float32)


def test_norms_in_both_branches_of_an_if_are_scaled() -> None:
    model = onnx.parser.parse_model(BRANCHES)
    feeds = [{"x": rows(), "c": np.array(choice)} for choice in (True, False)]
    before = [run(model, **feed) for feed in feeds]
    norms = find_norms_in(read_graph(model))
    assert [(norm.path, norm.output) for norm in norms] == [
        ((), "first"),
        (((6, "then_branch"),), "o"),
        (((6, "else_branch"),), "z"),
        (((6, "else_branch"),), "p"),
    ]
    apply_scales_in(model, norms, {norm.name: 2.0**i for i, norm in enumerate(norms, 2)})
    onnx.checker.check_model(model, full_check=True)
    after = [run(model, **feed) for feed in feeds]
    assert [different(*pair) for pair in zip(before, after, strict=True)] == [[], []]
    assert [n.scaled_by for n in find_norms_in(read_graph(model))] == [4, 8, 16, 32]
    then_branch, else_branch = (a.g for a in model.graph.node[-1].attribute)
    assert [node.op_type for node in then_branch.node].count("Div") == 2
    assert [node.op_type for node in else_branch.node].count("Div") == 2
    assert not then_branch.initializer and not else_branch.initializer


def test_a_norm_in_a_loop_body_is_scaled() -> None:
    model = onnx.parser.parse_model(LOOP)
    before = run(model, x=rows())
    (norm,) = find_norms_in(read_graph(model))
    assert (norm.path, norm.input, norm.gamma, norm.width) == (((0, "body"),), "h", "g", 4)
    apply_scales_in(model, [norm], {norm.name: 64.0})
    onnx.checker.check_model(model, full_check=True)
    assert different(before, run(model, x=rows())) == []


def test_unsorted_nodes_are_read_in_the_order_of_their_data() -> None:
    steps = [("a", "x", "one"), ("b", "one", "two"), ("c", "two", "y")]
    chain = "".join(RMS.format(*names) for names in steps)
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 17]>
        main (float[rows, 4] x) => (float[rows, 4] y) {CONSTANTS} {{ {chain} }}""")
    before = run(model, x=rows())
    shuffled = np.random.default_rng(4).permutation(len(model.graph.node))
    nodes = [model.graph.node[i] for i in shuffled]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    norms = find_norms_in(read_graph(model))
    assert [(norm.input, norm.output) for norm in norms] == [
        ("x", "one"),
        ("one", "two"),
        ("two", "y"),
    ]
    apply_scales_in(model, norms, {norm.name: 64.0 for norm in norms})
    assert different(before, run(model, x=rows())) == []


def test_every_norm_has_a_name_of_its_own() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        main (float[rows, 4] x) => (float[rows, 4] y) <float[4] g = {1, 2, 3, 4}>
        {
            [same] a = LayerNormalization(x, g)
            [same] b = LayerNormalization(a, g)
            c = LayerNormalization(b, g)
            [c] y = LayerNormalization(c, g)
        }""")  # ONNX Runtime does not load this, but other runtimes do
    norms = find_norms_in(read_graph(model))
    assert [norm.name for norm in norms] == ["same", "b", "c", "y"]
    apply_scales_in(model, norms, {"b": 4.0, "y": 8.0})
    assert [norm.scaled_by for norm in find_norms_in(read_graph(model))] == [None, 4.0, None, 8.0]
    names = [node.name for node in model.graph.node if node.op_type == "Div"]
    assert len(set(names)) == 2


def test_equal_tensor_names_in_two_branches_give_two_norm_names() -> None:
    branch = "() => (float[rows, 4] o) { o = LayerNormalization(x, g) }"
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 17]>
        main (float[rows, 4] x, bool c) => (float[rows, 4] y) <float[4] g = {{1, 2, 3, 4}}>
        {{ y = If (c) <then_branch = t {branch}, else_branch = e {branch}> }}""")
    assert [norm.name for norm in find_norms_in(read_graph(model))] == ["o", "o#2"]


def test_a_body_that_is_told_twice_is_not_read() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>'
        "g (float[2, 8] x, int64 n, bool c) => (float[2, 8] y)"
        """{ y = Loop (n, c, x) <body = b (int64 i, bool on, float[2, 8] z)
            => (bool go, float[2, 8] w) { go = Identity(on) w = LpNormalization <axis = 1> (z) }>
            }"""
    )
    assert [norm.kind for norm in find_norms_in(read_graph(model))] == ["l2"]
    loop = model.graph.node[0]
    loop.attribute.append(loop.attribute[0])
    loop.attribute[1].g.node.append(loop.attribute[0].g.node[0])
    assert find_norms_in(read_graph(model)) == []


def test_an_input_of_a_type_that_is_no_tensor_has_no_element_type() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2, 8] x) => (float[2, 8] y) { y = LpNormalization <axis = 1> (x) }"""
    for kind in ("opaque_type", "map_type", "sequence_type", "optional_type"):
        model = onnx.parser.parse_model(text)
        told = model.graph.input[0].type
        told.Clear()
        getattr(told, kind).SetInParent()
        scopes = read_graph(model)
        assert scopes[0].graph.inputs[0].name == "x"
        assert not told_type(scopes[0].graph.inputs[0])
        find_norms_in(scopes)
