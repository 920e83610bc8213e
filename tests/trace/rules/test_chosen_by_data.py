"""What the data chooses: rows of a table of integers, and how often it names a place."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from slanc_onnx import Options, compute_scales
from slanc_onnx.trace.expression import Embedding
from tests.models.small_graphs import IDS, D, from_weights, graph, normal, read
from tests.oracles.unoptimised import run

RMS = "SimplifiedLayerNormalization<axis = -1>"
ROWS = np.random.default_rng(5)
V = 40
TABLE = ROWS.integers(0, 256, (V, D)).astype(np.uint8)
PER_TENSOR: dict[str, NDArray[Any]] = {
    "s": np.array(1.5, np.float32),
    "z": np.array(128, np.uint8),
}
PER_CHANNEL: dict[str, NDArray[Any]] = {
    "s": np.linspace(0.5, 2, D).astype(np.float32),
    "z": np.full(D, 100, np.uint8),
}
# With the scales that they take.
CHAINS: dict[str, tuple[str, dict[str, NDArray[Any]]]] = {
    "one scale": ("e = Gather(table, ids) x = DequantizeLinear(e, s, z)", PER_TENSOR),
    "one per channel": (
        "e = Gather(table, ids) x = DequantizeLinear<axis = 2>(e, s, z)",
        PER_CHANNEL,
    ),
    "written out": (
        "e = Gather(table, ids) f = Cast<to = 1>(e) zf = Cast<to = 1>(z) "
        "c = Sub(f, zf) x = Mul(c, s)",
        PER_TENSOR,
    ),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_rows_of_a_quantised_table_are_read_as_the_numbers_that_they_stand_for(chain: str) -> None:
    nodes, scales = CHAINS[chain]
    ones = np.ones(D, np.float32)
    model = graph(f"{nodes} [n] y = {RMS}(x, g)", {"table": TABLE, "g": ones, **scales})
    shown = graph(nodes, {"table": TABLE, **scales}, IDS, "float[a, b, c] x")
    rows = run(shown, ids=np.arange(V)[None])["x"][0].astype(np.float64)
    sums = np.sum(rows * rows, axis=1)
    estimates, reasons = from_weights(model)
    assert reasons == {}
    assert sums.min() <= estimates["n"].lowest <= estimates["n"].seen <= sums.max()
    assert estimates["n"].seen > 0.9 * sums.max()  # the first ids are all among the sample
    (decided,) = compute_scales(model, Options(estimate="weights"))
    certificate = decided.certificate
    assert certificate is not None
    length = certificate.bound.length
    assert certificate.certified and length is not None
    assert sums.max() <= length**2 < 16 * sums.max()


def test_a_small_table_of_positions_stays_a_table_of_indices() -> None:
    nodes = f"i = Gather(buckets, ids) x = Gather(table, i) [n] y = {RMS}(x, g)"
    weights: dict[str, NDArray[Any]] = {
        "buckets": np.arange(12).reshape(6, 2) % 5,
        "table": normal(1, 5, D),
        "g": np.ones(D, np.float32),
    }
    model = graph(nodes, weights, IDS, "float[a, b, c, d] y")
    traced, _ = read(model)
    source = traced.inputs["n"]
    assert isinstance(source, Embedding) and source.table.name == "table"


COUNTED = """
    zeros = ConstantOfShape<value = float[1] {0}>(slots)
    many = Shape(batch)
    ones = Expand(one, many)
    count = ScatterElements<axis = 0, reduction = "add">(zeros, batch, ones)
    logs = Log(count)
    each = Gather(logs, batch)
    column = Unsqueeze(each, last)
    [first] h = SimplifiedLayerNormalization<axis = -1>(x, g)
    total = Mul(h, column)
    [last] y = SimplifiedLayerNormalization<axis = -1>(total, g)
"""


def test_a_count_is_no_logarithm_of_zero() -> None:
    weights: dict[str, NDArray[Any]] = {
        "slots": np.array([4]),
        "one": np.array(1.0, np.float32),
        "last": np.array([-1]),
        "g": np.ones(D, np.float32),
    }
    inputs = f"float[nodes, {D}] x, int64[nodes] batch"
    model = graph(COUNTED, weights, inputs, "float[nodes, d] y", opset=18)
    estimates, reasons = from_weights(model)
    assert reasons == {}
    shown = graph(COUNTED, weights, inputs, "float[nodes, d] total", opset=18)
    batch = np.repeat([0, 1, 3], [2, 5, 16])
    total = run(shown, x=normal(3, len(batch), D), batch=batch)["total"].astype(np.float64)
    sums = np.sum(total * total, axis=1)
    assert np.isfinite(sums).all()
    assert estimates["last"].lowest <= sums.min() and sums.max() <= estimates["last"].upper
    decided = compute_scales(model, Options(estimate="weights"))[1]
    assert decided.certificate is not None and not decided.certificate.certified


def test_the_op_is_named_where_counts_of_unlike_numbers_are_not_known() -> None:
    weights: dict[str, NDArray[Any]] = {
        "slots": np.array([4]),
        "one": np.arange(6, dtype=np.float32),
        "last": np.array([-1]),
        "g": np.ones(D, np.float32),
    }
    nodes = COUNTED.replace("ones = Expand(one, many)", "ones = Identity(one)")
    inputs = f"float[6, {D}] x, int64[6] batch"
    model = graph(nodes, weights, inputs, "float[nodes, d] y", opset=18)
    _, reasons = from_weights(model)
    assert "ScatterElements (count)" in reasons["last"]


SPECTRUM = """
    s = STFT<onesided = 1>(sound, step, window, frame)
    real = Gather<axis = 3>(s, zero)
    t = Transpose<perm = [0, 2, 1]>(real)
    h = Conv<kernel_shape = [3], pads = [1, 1]>(t, k)
    [n] y = InstanceNormalization(h, g, b)
"""


def test_a_sound_shorter_than_a_frame_is_no_crash() -> None:
    weights: dict[str, NDArray[Any]] = {
        "step": np.array(4),
        "window": np.hanning(16).astype(np.float32),
        "frame": np.array(16),
        "zero": np.array(0),
        "k": normal(1, D, 9, 3),
        "g": np.ones(D, np.float32),
        "b": np.zeros(D, np.float32),
    }
    model = graph(SPECTRUM, weights, "float[batch, length, 1] sound", opset=18)
    for estimate in (Options(estimate="weights"), Options()):
        (decided,) = compute_scales(model, estimate)
        assert decided.status in ("scaled", "skipped")
