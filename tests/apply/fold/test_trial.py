"""What a trial says after any moves is what solving all relations at once from nothing says."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from slanc_onnx.apply.fold import settle as settling
from slanc_onnx.apply.fold import solve as solving
from slanc_onnx.apply.fold.blocks import whole
from slanc_onnx.apply.fold.folding import fold, fold_windows
from slanc_onnx.apply.fold.groups import parted, partition
from slanc_onnx.apply.fold.push import push, pushed
from slanc_onnx.apply.fold.settle import Asked, settle
from slanc_onnx.apply.fold.solve import mismatches, solver_of
from slanc_onnx.apply.fold.trial import Trial
from slanc_onnx.apply.fold.weights import Weights
from slanc_onnx.graph.flow import Tensor, read_flow
from slanc_onnx.norms import read_model
from slanc_onnx.options import Options
from slanc_onnx.reasons import Reason
from slanc_onnx.scale import compute_scales_in
from tests.models.fold_models import ACCELERATOR, LN, RMS, weights
from tests.models.growing import decoder, quantised_decoder
from tests.models.small_graphs import D, graph, normal

OPTIONS = Options(estimate="weights", certify="off")
SKIP = "com.microsoft.SkipSimplifiedLayerNormalization"
SHARED = f"""
    e = Gather(table, ids) s = Mul(e, c) [n1] h = {RMS}(s, g1) m = MatMul(h, w1) d = Mul(m, c)
    r = Add(s, d) [n2] k = {LN}(r, g2, b1) q = MatMul(k, w1) f = Add(q, b1) t = Add(r, f)
    [n3] y = {RMS}(t, g3)
"""
SKIPS = f"""
    e = Gather(table, ids) m = MatMul(e, w1) [n1] h, p, q, r = {SKIP}(e, m, g1, b1)
    o = MatMul(h, w2) z = Exp(r) [n2] y = {SKIP}(r, o, g2, b1) v = MatMul(z, w2)
"""
HALVES = {n: (v / 256).astype(np.float16) for n, v in weights(c=normal(5, D)).items()}
MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "decoder": lambda: decoder(4),
    "decoder of integers": lambda: quantised_decoder(4),
    "weights that several nodes read": lambda: graph(SHARED, weights(c=normal(5, D))),
    "sums inside norms": lambda: graph(SKIPS, weights()),
    "weights that lose bits": lambda: graph(SHARED, HALVES, outputs="float16[a, b, c] y"),
}


def trial_of(model: onnx.ModelProto, border: bool) -> Trial:
    read = read_model(model)
    windows = fold_windows(compute_scales_in(read, OPTIONS), ACCELERATOR)
    norms = [norm for norm in read.norms if norm.name in windows]
    flow = read_flow(read.scopes)
    parts = partition(flow, norms)
    least = {flow.reads[use]: 5 - i for i, s in enumerate(parts.sites[:4]) for use in s.uses}
    solver = solver_of(parts, Weights(flow, None), least)
    if border:
        first = flow.reads[parts.sites[0].uses[0]]
        parts = parted(parts, frozenset(flow.uses[first]))
    alone = {norm.name: 3 for norm in norms}
    return Trial(solver, parts, [0] * len(parts.sizes), alone)


def from_nothing(trial: Trial) -> tuple[tuple[int, int], list[int], dict[Tensor, Reason]]:
    """Cost, failed relations and refused weights, all relations taken as one block."""
    parts, solver = trial.parts, trial.solver
    alone = {s.norm.name: 3 if s.group is None else trial.groups[s.group] for s in parts.sites}
    asked = Asked(parts, trial.groups, alone)
    every = settle(asked, solver.weights, solver.least, whole(parts))
    overflow = sum(max(b - every.produced.get(t, 0), 0) for t, b in solver.least.items())
    nodes = every.nodes + len(mismatches(parts.flow, every.produced, every.needed))
    return (overflow, nodes), sorted(every.failed), solving.refused([every])


@pytest.mark.parametrize("border", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_moves_cost_what_solving_from_nothing_costs(name: str, border: bool) -> None:
    trial = trial_of(MODELS[name](), border)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(150):
        trial.move(int(rng.integers(len(trial.groups))), int(rng.integers(-6, 12)))
        if rng.random() < 0.1:
            trial.restore([0] * len(trial.groups))
        cost, failed, refused = from_nothing(trial)
        assert (trial.cost, trial.failed) == (cost, failed)
        assert list(trial.refused.items()) == list(refused.items())
        seen.add(cost)
    assert len(seen) > 5


def test_what_is_only_asked_leaves_a_trial_as_it_was() -> None:
    trial = trial_of(quantised_decoder(4), border=False)
    free = [group not in {s.group for s in trial.parts.sites} for group in range(len(trial.groups))]
    (group,) = {s.group for s in trial.parts.sites if s.group is not None}
    before = trial.cost, trial.failed, list(trial.groups)
    nodes, _ = pushed(trial, free, group, 4)
    assert (trial.cost, trial.failed, trial.groups) == before
    trial.move(group, 4)
    unpushed = trial.nodes
    push(trial, free)
    assert trial.nodes == nodes < unpushed
    assert trial.cost == from_nothing(trial)[0]


def blocks_settled(layers: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many relations are looked at to fold a decoder."""
    count = 0

    def counted(*arguments: object, **named: object) -> settling.Settled:
        nonlocal count
        block = arguments[3]
        count += len(block.relations)  # type: ignore[attr-defined]
        return settle(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(solving, "settle", counted)
    read = read_model(quantised_decoder(layers))
    fold(read, compute_scales_in(read, OPTIONS), OPTIONS)
    return count


def test_the_relations_that_are_looked_at_grow_as_the_model_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few, many = blocks_settled(8, monkeypatch), blocks_settled(32, monkeypatch)
    assert few < many < 6 * few
