"""A rewritten model differs from the original in the norms and in nothing else."""

import numpy as np
import onnx
from onnx import helper

from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from tests.oracles.proto_diff import differences, fill
from tests.oracles.unoptimised import different, run

TEXT = """
<
    ir_version: 10,
    opset_import: ["": 17, "com.microsoft": 1, "local": 1, "nobody.uses.this": 3],
    producer_name: "exporter", producer_version: "1.2", domain: "org.example", model_version: 7,
    doc_string: "a model", metadata_props: ["author": "someone", "license": "some"]
>
main (float[1, rows, 4] x, float[4] optional) => (float[1, rows, 4] y, float[1, rows, 4] sum)
<
    float[4] optional = {1, 1, 1, 1}, float[4] g = {1, 2, 3, 4}, float[4] b = {4, 3, 2, 1},
    float[2] unused = {8, 9}, float eps = {1e-5}, float[1, 1, 4] a, float[1, 1, 4] c
>
{
    [first] a = LayerNormalization<axis = -1, epsilon = 1e-5>(x, g, b)
    [twice] d = local.double(a)
    q = Mul(d, d)
    m = ReduceMean<axes = [-1]>(q)
    v = Add(m, eps)
    s = Sqrt(v)
    [second] n = Div(d, s)
    c = Mul(n, optional)
    [third] y, mean, inv, sum = com.microsoft.SkipSimplifiedLayerNormalization(c, x, g)
    dead = Neg(eps)
}
<domain: "local", opset_import: ["": 17]>
double (p) => (r) { r = Add(p, p) }
"""


def rich_model() -> onnx.ModelProto:
    """A model with all that a rewrite can lose."""
    model = onnx.parser.parse_model(TEXT)
    fill(model)
    model.graph.initializer[1].doc_string = "gamma"
    model.graph.node[0].attribute[1].doc_string = "not zero"
    return model


def test_only_the_norms_change() -> None:
    before, model = rich_model(), rich_model()
    norms = find_norms_in(read_graph(model))
    assert [norm.name for norm in norms] == ["first", "second", "third"]
    assert differences(before, model) == []  # reading changes nothing
    apply_scales_in(model, norms, {"first": 2.0, "second": 4.0, "third": 8.0})
    first = helper.make_attribute("epsilon", float(np.float32(1e-5)) / 4).f
    third = "graph.node[y].attribute[epsilon]: added"
    assert sorted(differences(before, model)) == sorted(
        [
            "graph.initializer[slanc.scale_2]: added",
            "graph.initializer[slanc.scale_4]: added",
            "graph.initializer[slanc.scale_8]: added",
            "graph.initializer[slanc.epsilon_6.25e-07]: added",
            "graph.node[x/slanc]: added",
            "graph.node[a].input: ['x', 'g', 'b'] -> ['x/slanc', 'g', 'b']",
            f"graph.node[a].attribute[epsilon].f: {float(np.float32(1e-5))!r} -> {first!r}",
            "graph.node[d/slanc]: added",
            "graph.node[q].input: ['d', 'd'] -> ['d/slanc', 'd/slanc']",
            "graph.node[v].input: ['m', 'eps'] -> ['m', 'slanc.epsilon_6.25e-07']",
            "graph.node[n].input: ['d', 's'] -> ['d/slanc', 's']",
            "graph.node[c/slanc]: added",
            "graph.node[x/slanc_2]: added",
            "graph.node[y].input: ['c', 'x', 'g'] -> ['c/slanc', 'x/slanc_2', 'g']",
            "graph.node[y].output: ['y', 'mean', 'inv', 'sum'] -> "
            "['y', 'mean', 'inv', 'sum/slanc']",
            third,
            "graph.node[sum]: added",
        ]
    )


def test_the_rich_model_computes_the_same() -> None:
    x = np.random.default_rng(6).normal(size=(1, 50, 4)).astype(np.float32)
    before, model = run(rich_model(), x=x), rich_model()
    norms = find_norms_in(read_graph(model))
    apply_scales_in(model, norms, {norm.name: 16.0 for norm in norms})
    assert different(before, run(model, x=x)) == []
