"""The comparison that other tests rely on sees every kind of change."""

from collections.abc import Callable

import onnx
import pytest

from tests.oracles.proto_diff import differences

MODEL = """
<ir_version: 8, opset_import: ["": 17]>
main (float[4] x) => (float[4] y) <float[2] w = {1, 2}>
{
    a = Abs(x)
    b = Neg(a)
    y = Clip(b)
}
"""


def removed(model: onnx.ModelProto) -> None:
    del model.graph.node[1]


def inserted(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, onnx.helper.make_node("Identity", ["x"], ["new"]))


def reordered(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def rewired(model: onnx.ModelProto) -> None:
    model.graph.node[2].input[0] = "a"


def documented(model: onnx.ModelProto) -> None:
    model.graph.node[0].doc_string = "text"


def annotated(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="k", value="v")


def revalued(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].float_data[1] = 3


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (removed, ["graph.node[b]: removed"]),
        (inserted, ["graph.node[new]: added"]),
        (reordered, ["graph.node: reordered"]),
        (rewired, ["graph.node[y].input: ['b'] -> ['a']"]),
        (documented, ["graph.node[a].doc_string: added"]),
        (annotated, ["metadata_props[k]: added"]),
        (revalued, ["graph.initializer[w].float_data: [1.0, 2.0] -> [1.0, 3.0]"]),
    ],
)
def test_a_change_is_seen(change: Callable[[onnx.ModelProto], None], expected: list[str]) -> None:
    before, after = onnx.parser.parse_model(MODEL), onnx.parser.parse_model(MODEL)
    assert differences(before, after) == []
    change(after)
    assert differences(before, after) == expected
