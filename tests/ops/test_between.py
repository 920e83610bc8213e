"""Records of ops between norms: their movements are ONNX Runtime's, and one record is enough."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from slanc_onnx.graph import Array
from slanc_onnx.ops import CannotFollow, moved_by
from slanc_onnx.ops.between import BETWEEN, MOVES
from tests.oracles.unoptimised import run
from tests.places import ROOT

X = np.arange(48, dtype=np.float32).reshape(2, 4, 6)
# (op, attributes, the inputs after the first) of every movement, in each way that it can be asked.
CASES: list[tuple[str, dict[str, Any], list[Any]]] = [
    ("Reshape", {}, [[4, -1, 3]]),
    ("Reshape", {}, [[0, -1]]),
    ("Flatten", {"axis": 2}, []),
    ("Transpose", {"perm": [2, 0, 1]}, []),
    ("Transpose", {}, []),
    ("Unsqueeze", {}, [[0, 2]]),
    ("Squeeze", {}, [[1]]),
    ("Expand", {}, [[3, 1, 1, 1]]),
    ("Tile", {}, [[2, 1, 3]]),
    ("Slice", {}, [[1, 0], [2, 5], [1, 2], [1, 2]]),
    ("Slice", {}, [[5], [-100], [2], [-2]]),
    ("Split", {"axis": 2}, [[1, 5]]),
    ("Split", {"axis": 1}, []),
    ("Gather", {"axis": 1}, [[[3, 0], [1, 1]]]),
    ("GatherND", {}, [[[1, 3], [0, 2]]]),
]


def in_onnx_runtime(op: str, attributes: dict[str, Any], x: Array, given: list[Any]) -> list[Array]:
    names = [f"c{i}" for i in range(len(given))]
    outputs = ["a", "b"] if op == "Split" else ["a"]
    node = helper.make_node(op, ["x", *names], outputs, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", 1, x.shape)],
        [helper.make_tensor_value_info(name, 1, None) for name in outputs],
        [
            numpy_helper.from_array(np.array(v, np.int64), n)
            for n, v in zip(names, given, strict=True)
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    found = run(helper.make_model(graph, opset_imports=opset, ir_version=8), x=x)
    return [found[name] for name in outputs]


@pytest.mark.parametrize(("op", "attributes", "given"), CASES, ids=lambda v: str(v))
def test_a_movement_is_that_of_onnx_runtime(
    op: str, attributes: dict[str, Any], given: list[Any]
) -> None:
    x = X[:, None] if op == "Squeeze" else X
    expected = in_onnx_runtime(op, attributes, x, given)
    moves = MOVES[op].movers
    assert moves is not None
    asked = attributes | {"outputs": len(expected)}
    movers = moves(asked, [np.array(v, np.int64) for v in given])
    assert len(movers) == len(expected)
    for mover, truth in zip(movers, expected, strict=True):
        assert np.array_equal(mover(x), truth)


@pytest.mark.parametrize("sizes", [[1, 4], [5, 5], [8, -2], [2**40, 1]])
def test_pieces_that_do_not_add_up_to_the_axis_are_not_cut(sizes: list[int]) -> None:
    moves = MOVES["Split"].movers
    assert moves is not None
    for mover in moves({"axis": 2, "outputs": 2}, [np.array(sizes)]):
        with pytest.raises(CannotFollow):
            moved_by(mover, X)


def test_every_movement_is_among_the_cases_and_those_that_need_a_constant_say_so() -> None:
    moving = {op: m.movers for op, m in MOVES.items() if m.movers is not None}
    assert {op for op, _, _ in CASES} == set(moving)
    for op in ("Reshape", "Expand", "Tile", "Slice", "Gather", "GatherND"):
        with pytest.raises(CannotFollow, match="unknown_input"):
            moving[op]({"outputs": 1}, [None])


@pytest.mark.parametrize("op", [op for op, record in BETWEEN.items() if record.passes])
def test_what_a_weight_passes_is_a_join_of_its_first_input(op: str) -> None:
    record = BETWEEN[op]
    assert record.joins == record.outputs == (0,)
    assert record.moves is not None


MODEL = """
<ir_version: 8, opset_import: ["": 17]>
main (int64[1, n] ids) => (float[1, n, 32] y)
{
    e = Gather(table, ids)
    a = LayerNormalization<epsilon = 1e-5>(e, ones)
    h = MatMul(a, w)
    k = Compress<axis = 2>(h, chosen)
    [last] y = LayerNormalization<epsilon = 1e-5>(k, fewer)
}
"""
LAST = '    "TopK": '  # the record before which one more is put
RECORD = """
    "Compress": _moving(
        "picks", lambda attributes, given: [lambda x: x.compress(given[0], attributes["axis"])]
    ),
"""
# Prints whether the last norm's input is read, whether that is a proof, and the nodes that folding
# adds.
JOB = """
import sys
import onnx
import slanc_onnx
model = onnx.load(sys.argv[1])
before = len(model.graph.node)
last = slanc_onnx.protect(model, slanc_onnx.Options(apply="fold", estimate="weights"))[-1]
read = "Compress" not in slanc_onnx.rule_text(last.rule)
print(read, last.certificate.certified, len(model.graph.node) - before)
"""


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ("", "False False 1"),
        (RECORD, "True False 0"),  # the prover has a table of its own, where it stays unknown
    ],
)
def test_one_record_reads_and_folds_an_op(record: str, expected: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(MODEL)
    weights = {
        "table": rng.standard_normal((16, 64)),
        "ones": np.ones(64),
        "w": rng.standard_normal((64, 64)) * 100,
        "fewer": np.ones(32),
    }
    for name, values in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    model.graph.initializer.append(numpy_helper.from_array(np.arange(64) % 2 == 0, "chosen"))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    shutil.copytree(ROOT / "slanc_onnx", tmp_path / "slanc_onnx")
    table = tmp_path / "slanc_onnx" / "ops" / "between.py"
    before, _, after = table.read_text(encoding="utf-8").partition(LAST)
    table.write_text(before + record + LAST + after, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", JOB, str(path)],
        cwd=tmp_path,  # where -c looks first
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected
