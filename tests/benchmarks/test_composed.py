"""Random graphs of any ops: what they are made of, and that the attack on them sees a break."""

from collections import Counter

import onnx

from benchmarks.random_graphs.any_op import RULED, schemas_at
from benchmarks.random_graphs.attack import attack
from benchmarks.random_graphs.breaks import domain_of_functions
from benchmarks.random_graphs.composed import composed, unreached
from benchmarks.random_graphs.make import Made
from tests.versions import needs_onnx_runtime

SEED, SOME = 0, range(30)


def graph(number: int) -> Made:
    needs_onnx_runtime(1, 24, for_what="Pad, which ends the process of 1.23 or gives any memory")
    return composed(SEED, number)


def test_a_number_gives_one_graph() -> None:
    one, again, other = (graph(number) for number in (3, 3, 4))
    assert one.model.SerializeToString() == again.model.SerializeToString()
    assert one.model != other.model


def test_some_graphs_have_many_ops_and_no_violation() -> None:
    ops, certified, rows = Counter[str](), 0, 0
    for number in SOME:
        made = graph(number)
        found = attack(made, SEED)
        assert not found.violations, (number, found.violations)
        ops.update(made.constructs)
        certified, rows = certified + found.certified, rows + found.rows
    assert len(ops) >= 40 and certified >= 30 and rows >= 5000
    assert "ops reached" in unreached(ops)


def test_every_op_with_a_rule_can_be_drawn() -> None:
    """Of the newest opset; each one that ONNX Runtime has here too."""
    every = schemas_at(onnx.defs.onnx_opset_version())
    assert [key for key in RULED if key not in every] == []


def test_a_rule_broken_on_purpose_is_found() -> None:
    for number in SOME:
        made = graph(number)
        with domain_of_functions():
            found = attack(made, SEED).violations
        if found:
            assert "not finite" in next(iter(found.values())).what
            return
    raise AssertionError("no root of a negative number")
