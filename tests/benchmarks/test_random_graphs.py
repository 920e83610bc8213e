"""The random graphs that attack certificates: what they are, and that the attack sees a break."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest

from benchmarks.random_graphs import attack as attacks
from benchmarks.random_graphs.attack import Attacked, attack
from benchmarks.random_graphs.breaks import BREAKS, Break
from benchmarks.random_graphs.constructs import CONSTRUCTS, TO_MERGE
from benchmarks.random_graphs.feeds import feeds, keeps
from benchmarks.random_graphs.make import KINDS, LATER, LONG_EVERY, MERGED, Made, random_graph
from benchmarks.random_graphs.until_found import until_found
from slanc_onnx import Options, ScaledNorm, find_norms, protect
from slanc_onnx.prove import Condition
from tests.oracles.unoptimised import run

SEED = 0


def test_a_number_gives_one_graph_and_one_set_of_inputs() -> None:
    one, again, other = (random_graph(SEED, n) for n in (31, 31, 31 + len(KINDS) * 1000))
    assert one.model.SerializeToString() == again.model.SerializeToString()
    assert one.kind == other.kind and one.model != other.model
    assert random_graph(SEED + 1, 31).model != one.model
    first, second = (list(feeds(one, np.random.default_rng(7))) for _ in range(2))
    for left, right in zip(first, second, strict=True):
        assert all(np.array_equal(left[name], right[name], equal_nan=True) for name in left)


def test_every_construct_comes_first_in_some_graph() -> None:
    longest = max(sum(c.kind == kind for c in CONSTRUCTS) for kind in (*KINDS, *LATER))
    numbers = range(len(KINDS) * (longest + 1))
    firsts = {random_graph(SEED, number).constructs[0] for number in numbers}
    for kind in LATER:
        firsts |= {random_graph(SEED, number, kind).constructs[0] for number in range(longest + 1)}
    assert firsts >= {construct.name for construct in CONSTRUCTS}
    long = KINDS.index("mix_rounding") + len(KINDS) * (LONG_EVERY // 2)
    assert random_graph(SEED, long).constructs == ("long mean",)


def test_merged_graphs_hold_their_certificates() -> None:
    """As many are attacked by hand as docs/merge.md says."""
    numbers, firsts, deferred = range(2 * len(TO_MERGE)), set[str](), 0
    for number in numbers:
        made = random_graph(SEED, number, MERGED)
        firsts.add(made.constructs[0])
        deferred += sum(bool(norm.deferred) for norm in find_norms(made.model))
        assert not attack(made, SEED).violations
    assert firsts == {construct.name for construct in TO_MERGE} and deferred > 3


def test_nearly_all_graphs_run_as_they_are_written() -> None:
    failed = 0
    for number in range(100):
        made = random_graph(SEED, number)
        try:
            for feed in list(feeds(made, np.random.default_rng(number)))[:3]:
                run(made.model, **feed)
        except Exception:  # whatever ONNX Runtime raises
            failed += 1
    assert failed <= 3


def plain_graph() -> Made:
    """One that has a certified norm whose bound is met by some row."""
    for number in range(KINDS.index("plain"), 10_000, len(KINDS)):
        made = random_graph(SEED, number)
        found = attack(made, SEED)
        if found.certified and found.rows and not found.violations:
            return made
    raise AssertionError("no plain graph is certified")


def falsified(made: Made, monkeypatch: pytest.MonkeyPatch, share: float, scale: float) -> Attacked:
    """The attack on certificates whose bound and scale are other ones."""

    def changed(model: onnx.ModelProto, options: Options) -> Sequence[ScaledNorm]:
        decided = []
        for each in protect(model, options):
            certificate = each.certificate
            if certificate is None or certificate.bound.length is None:
                decided.append(each)
                continue
            bound = replace(certificate.bound, length=certificate.bound.length * share)
            divisor = None if each.scale is None else each.scale * scale
            claimed = replace(certificate, bound=bound, scale=divisor or 1.0)
            decided.append(replace(each, certificate=claimed, scale=divisor))
        return decided

    monkeypatch.setattr(attacks, "protect", changed)
    return attack(made, SEED)


def test_the_attack_sees_a_bound_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    made = plain_graph()
    found = falsified(made, monkeypatch, 1e-3, 1.0)
    assert found.violations
    assert all("above" in each.what for each in found.violations.values())


def test_the_attack_sees_a_scale_at_which_rows_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    made = replace(plain_graph(), target="fp16-sequential")
    assert not attack(made, SEED).violations
    found = falsified(made, monkeypatch, 1.0, 2.0**-12)
    assert found.violations
    assert all("lost in the step" in each.what for each in found.violations.values())


@pytest.mark.parametrize(
    ("kind", "broken"), [(kind, broken) for kind, own in BREAKS.items() for broken in own]
)
def test_a_rule_broken_on_purpose_is_found(kind: str, broken: Break) -> None:
    """As the table in benchmarks/README.md says, within 60 graphs of its kind."""
    assert until_found(SEED, kind, 60, broken).what


def test_inputs_that_break_a_condition_are_no_counterexample() -> None:
    within = Condition("pixels", "range", -3.0, 3.0)
    assert keeps({"pixels": np.array([-3.0, 3.0])}, within)
    assert not keeps({"pixels": np.array([-3.1, 3.0])}, within)
    assert not keeps({"pixels": np.array([np.nan])}, within)
    with pytest.raises(ValueError, match="not known"):
        keeps({}, Condition("past", "made"))
