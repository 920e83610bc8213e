"""Random graphs, merged: the outputs are those of the original, as far as these are told apart.

Some graphs amplify what the last bit of a weight is, as those that round to whole numbers: there
the outputs may move as far as they do with noise of that size in the weights of the original.
"""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from benchmarks.random_graphs.building import BOOL
from benchmarks.random_graphs.make import MERGED, Made, merging, random_graph
from slanc_onnx import Options, find_norms, protect
from slanc_onnx.apply.merge import merge_in_memory
from slanc_onnx.options import Merge
from tests.oracles.unoptimised import Values, run
from tests.versions import needs_onnx_runtime

SEED, GRAPHS = 5, 90
PARTS: tuple[Merge, ...] = ("all",)


def feed(made: Made) -> Values:
    rng, sizes = np.random.default_rng(made.number), {"b": 2, "s": 5}
    found: Values = {}
    for each in made.inputs:
        shape = tuple(sizes[d] if isinstance(d, str) else d for d in each.dims)
        dtype = helper.tensor_dtype_to_np_dtype(each.element_type)
        if each.kind == "mask" or each.element_type == BOOL:
            found[each.name] = np.ones(shape, dtype)
        elif each.kind == "ids":
            found[each.name] = rng.integers(0, made.rows, shape).astype(dtype)
        else:
            found[each.name] = rng.standard_normal(shape).astype(dtype)
    return found


def noisy(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    copy, rng = onnx.ModelProto(), np.random.default_rng(seed)
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype in (np.float16, np.float32) and value.size > 1:
            noise = float(np.finfo(value.dtype).eps) * rng.choice((-1.0, 1.0), value.shape)
            moved = value.astype(np.float64) * (1 + noise)
            tensor.CopyFrom(numpy_helper.from_array(moved.astype(value.dtype), tensor.name))
    return copy


def far(expected: Values, actual: Values) -> float:
    """The largest RMS difference of an output of floats, relative to its RMS."""
    worst = 0.0
    for name, value in expected.items():
        assert value.shape == actual[name].shape and value.dtype == actual[name].dtype
        x, y = value.astype(np.float64), actual[name].astype(np.float64)
        if value.dtype.kind == "f" and value.size and np.isfinite(x).all():
            size = float(np.sqrt(np.mean(x**2))) or 1.0
            worst = max(worst, float(np.sqrt(np.mean((x - y) ** 2))) / size)
    return worst


@pytest.mark.parametrize("number", range(GRAPHS))
def test_outputs_are_those_of_the_original(number: int) -> None:
    made = random_graph(SEED, number)
    after = onnx.ModelProto()
    after.CopyFrom(made.model)
    merges = merge_in_memory(after, None, Options(apply="fold", merge=PARTS))
    if not merges.changes:
        assert after == made.model
        return
    given = feed(made)
    if "random_like_a_constant" in made.constructs:
        pytest.skip("it draws random numbers")
    if "layer_norm_of_flat_positions" in made.constructs:
        needs_onnx_runtime(1, 24, for_what="LayerNormalization whose gamma broadcasts")
    expected = run(made.model, **given)
    off = far(expected, run(after, **given))
    if off > 1e-5:
        noise = [far(expected, run(noisy(made.model, seed), **given)) for seed in range(3)]
        assert off <= 4 * max(noise)
    again = onnx.ModelProto()
    again.CopyFrom(after)
    assert not merge_in_memory(again, None, Options(apply="fold", merge=PARTS)).changes
    assert again == after


# Of 1 500, those that a SimplifiedLayerNormalization comes into before norms of open shapes.
@pytest.mark.parametrize("number", [324, 517, 1035])
def test_a_second_run_knows_the_shapes_that_the_first_did(number: int) -> None:
    options = Options(apply="fold", merge=PARTS, estimate="weights", certify="off", validate=False)
    once, twice = onnx.ModelProto(), onnx.ModelProto()
    once.CopyFrom(random_graph(SEED, number).model)
    protect(once, options)
    assert any(node.op_type == "SimplifiedLayerNormalization" for node in once.graph.node)
    twice.CopyFrom(once)
    protect(twice, options)
    assert twice == once


MERGED_GRAPHS, CLOSE_IN_16_BITS = 40, 5e-3


def divided(model: onnx.ModelProto) -> int:
    return sum(bool(norm.deferred) for norm in find_norms(model))


@pytest.mark.parametrize("first", range(0, MERGED_GRAPHS, 10))
def test_outputs_behind_deferred_divisions_are_those_of_the_original(first: int) -> None:
    counts = []
    for number in range(first, first + 10):
        made = random_graph(SEED, number, MERGED)
        counts.append(divided(made.model))
        if counts[-1]:
            assert is_as_the_original(made), number
    assert sum(counts) > 3 and sum(count > 0 for count in counts) > 2  # or nothing is tested


def is_as_the_original(made: Made) -> bool:
    """Whether outputs are, as far as rounding moves them, and a second run changes nothing."""
    assert made.original is not None
    again, given = onnx.ModelProto(), feed(made)
    again.CopyFrom(made.model)
    protect(again, merging(made.target))
    assert again == made.model
    expected = run(made.original, **given)
    off = far(expected, run(made.model, **given))
    half = next(iter(expected.values())).dtype == np.float16
    if off <= (CLOSE_IN_16_BITS if half else 1e-5):
        return True
    noise = [far(expected, run(noisy(made.original, seed), **given)) for seed in range(3)]
    return off <= 4 * max(noise)


def test_many_of_them_are_merged() -> None:
    """So that the test above tests something."""
    counts = [0, 0]
    for number in range(GRAPHS):
        made = random_graph(SEED, number)
        merges = merge_in_memory(made.model, None, Options(apply="fold", merge=PARTS))
        counts[0] += merges.count("gamma", "merged")
        counts[1] += merges.count("mean", "merged")
    assert counts[0] > 5 and counts[1] > 15
