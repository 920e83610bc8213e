"""Large matrices block by block: what one read gives, whoever does the work."""

import math
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from slanc_onnx import compute_scales
from slanc_onnx.errors import SlancError
from slanc_onnx.estimate import choose
from slanc_onnx.estimate.sample_rows import estimate_from_rows
from slanc_onnx.options import Certify, Options
from slanc_onnx.prove.trusted.rules import products
from slanc_onnx.weights import streamed
from slanc_onnx.weights.nan_check import check_weights
from slanc_onnx.weights.stored import Filed, Stored, as_float32, whole
from slanc_onnx.weights.streamed import read_once
from tests.models.small_graphs import between, graph, normal, read

Matrix = NDArray[Any]


def test_every_fp16_number_is_converted_as_numpy_does_it() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    for some in (every, every[np.isfinite(every)]):
        wanted = some.astype(np.float32)
        np.testing.assert_array_equal(as_float32(some), wanted)
        signs = np.signbit(wanted[~np.isnan(wanted)])
        np.testing.assert_array_equal(np.signbit(as_float32(some))[~np.isnan(wanted)], signs)


@pytest.mark.parametrize("special", [np.inf, -np.inf, np.nan])
def test_one_fp16_number_that_is_not_finite_among_many_stays(special: float) -> None:
    values: Matrix = np.full((40, 30), 1e-3, np.float16)
    values[17, 4] = special
    np.testing.assert_array_equal(as_float32(values[:, 3:9]), values[:, 3:9].astype(np.float32))


def test_fp32_is_not_copied_and_bf16_is_exact() -> None:
    values = normal(1, 5, 6)
    assert np.shares_memory(as_float32(values), values)
    narrow: Matrix = values.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(as_float32(narrow), narrow.astype(np.float32))


def on_file(folder: Path, values: Matrix) -> Filed:
    """Values in a file, behind some bytes that are not theirs."""
    (folder / "weights.bin").write_bytes(b"x" * 10 + values.tobytes())
    return Filed(folder / "weights.bin", 10, values.dtype, (values.shape[0], values.shape[1]))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_columns_and_parts_are_those_of_the_array(
    tmp_path: Path, dtype: type, transposed: bool
) -> None:
    values: Matrix = normal(2, 30, 50).astype(dtype)
    wanted = values.astype(np.float32)
    wanted = wanted.T if transposed else wanted
    for data in (values, on_file(tmp_path, values)):
        matrix = whole(data).turned() if transposed else whole(data)
        assert matrix.shape == wanted.shape
        assert matrix.nbytes == values.nbytes
        np.testing.assert_array_equal(matrix.columns(3, 11), wanted[:, 3:11])
        part: Stored = pickle.loads(pickle.dumps(matrix.part(5, 20)))
        assert part.shape == (wanted.shape[0], 15)
        np.testing.assert_array_equal(part.opened().columns(2, 9), wanted[:, 7:14])


def test_a_part_of_a_file_cannot_be_turned(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be turned"):
        whole(on_file(tmp_path, normal(0, 4, 6))).part(1, 3).turned()


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 60)),
    exponent=st.sampled_from([-42, -30, -10, 0, 10, 30, 36]),
    spread=st.sampled_from([0.0, 20.0]),
    seed=st.integers(0, 10**6),
)
def test_sizes_are_never_below_the_true_ones(
    shape: tuple[int, int], exponent: int, spread: float, seed: int
) -> None:
    """Against NumPy in FP64, with small blocks and elements of very different sizes."""
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore", under="ignore"):
        values = rng.normal(size=shape) * 10.0 ** (exponent - spread * rng.random(shape))
        matrix = np.clip(values, -3e38, 3e38).astype(np.float32)
    sides = np.abs(rng.normal(size=(2, shape[0]))) * 10.0 ** rng.uniform(-60, 60, (2, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamed, "UNIT", 5 * shape[0])
        patch.setattr(streamed, "BLOCK", 3 * shape[0])
        _, sizes = read_once(whole(matrix), None, sides)
    assert sizes is not None
    true = matrix.astype(np.float64)
    tight = 1 + 1e-4
    rows = np.linalg.norm(true, axis=1)
    assert (rows <= sizes.rows).all()
    assert (sides @ np.abs(true) <= sizes.through).all()
    assert np.linalg.norm(true) <= sizes.frobenius
    assert np.linalg.svd(true, compute_uv=False)[0] <= sizes.spectral * (1 + 1e-12)
    if spread == 0.0 and abs(exponent) <= 30:  # nothing underflows
        assert (sizes.rows <= rows * tight).all()
        assert sizes.frobenius <= np.linalg.norm(true) * tight
        assert (sizes.through <= sides @ np.abs(true) * tight).all()
        by_sums = math.sqrt(np.abs(true).sum(axis=0).max() * np.abs(true).sum(axis=1).max())
        assert sizes.spectral <= min(by_sums, float(np.linalg.norm(true))) * tight


def test_a_product_is_that_of_the_whole_matrix() -> None:
    matrix, rows = normal(3, 70, 90).astype(np.float16), normal(4, 5, 70)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamed, "UNIT", 20 * 70)
        patch.setattr(streamed, "BLOCK", 16 * 70)
        product, sizes = read_once(whole(matrix), rows, None)
    wanted: NDArray[np.float64] = rows.astype(np.float64) @ matrix.astype(np.float64)
    assert sizes is None and product is not None
    np.testing.assert_allclose(np.asarray(product, np.float64), wanted, rtol=1e-5, atol=1e-5)


def processes() -> Executor:
    return ProcessPoolExecutor(2, mp_context=get_context("spawn"))


@contextmanager
def dask_cluster() -> Iterator[Executor]:
    """Closed at the end: its processes would stay, and its client warn when it is collected."""
    distributed = pytest.importorskip("distributed", reason="the extra `dask` is not installed")
    dask = pytest.importorskip("dask")
    patient = {f"distributed.comm.timeouts.{what}": "300s" for what in ("connect", "tcp")}
    with (
        dask.config.set(patient),  # on a busy machine a worker takes long to start
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client.get_executor()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("made", [lambda: ThreadPoolExecutor(3), processes, dask_cluster])
def test_threads_processes_and_a_cluster_give_the_same_bits(
    tmp_path: Path,
    made: Callable[[], AbstractContextManager[Executor]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matrix = whole(on_file(tmp_path, normal(5, 64, 400).astype(np.float16)))
    monkeypatch.setattr(streamed, "UNIT", 64 * 100)
    rows, sides = normal(6, 7, 64), np.abs(normal(7, 2, 64)).astype(np.float64)
    alone = read_once(matrix, rows, sides)
    with made() as executor:
        together = read_once(matrix, rows, sides, executor)
    assert alone[0] is not None and together[0] is not None
    assert alone[0].tobytes() == together[0].tobytes()
    assert alone[1] is not None and together[1] is not None
    assert alone[1].through.tobytes() == together[1].through.tobytes()
    assert (alone[1].rows == together[1].rows).all()
    assert alone[1].spectral == together[1].spectral
    assert alone[1].frobenius == together[1].frobenius


BLOCK = """
    up = MatMul(x, w_up)
    on = Relu(up)
    down = MatMul(on, w_down)
    total = Add(x, down)
"""


def mlp_model() -> onnx.ModelProto:
    return between(BLOCK, {"w_up": normal(8, 8, 48), "w_down": normal(9, 48, 8)})


def test_the_decision_is_the_same_with_one_thread_and_many() -> None:
    model = mlp_model()
    decided = [compute_scales(model, Options(estimate="weights", jobs=jobs)) for jobs in (1, 4)]
    assert decided[0] == decided[1]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nan_is_found_among_the_bits_of_any_type(dtype: type, sign: float) -> None:
    values: Matrix = np.full(9, -3.0).astype(dtype)
    values[3:5] = np.inf, -np.inf  # not an error
    model = graph("y = Identity(w)", {"w": values}, "float[4] x", "float[9] y")
    check_weights(model, None)
    values[6] = np.copysign(np.nan, sign)
    model = graph("y = Identity(x)", {"w": values}, "float[4] x", "float[4] y")
    check_weights(model, None)  # which nothing reads
    model = graph("y = Identity(w)", {"w": values}, "float[4] x", "float[9] y")
    with pytest.raises(SlancError, match="'w' holds nan"):
        check_weights(model, None)


def test_nan_that_a_branch_gives_is_read() -> None:
    text = """
        y = If(yes) <then_branch = a () => (float[2] p) { p = Identity(w) },
                     else_branch = b () => (float[2] q) { q = Identity(v) }>"""
    nan = np.full(2, np.nan, np.float32)
    model = graph(text, {"w": nan, "v": nan}, "bool yes", "float[2] y")
    with pytest.raises(SlancError, match="'w' holds nan"):
        check_weights(model, None)
    branch = model.graph.node[0].attribute[0].g
    del branch.node[:]
    branch.output[0].name = "w"
    with pytest.raises(SlancError, match="'w' holds nan"):
        check_weights(model, None)
    branch.output[0].name = "y0"
    with pytest.raises(SlancError, match="'v' holds nan"):
        check_weights(model, None)


@pytest.mark.parametrize("certify", ["auto", "off"])
@pytest.mark.parametrize("weight", ["w_down", "table"])
def test_nan_is_refused_by_the_read_that_the_estimate_needs(
    weight: str, certify: Certify, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matrices that sample rows go through are not read a second time for it; others are."""
    model = mlp_model()
    checked: list[set[str]] = []

    def spy(model: onnx.ModelProto, folder: Path | None, others: set[str]) -> None:
        checked.append(set(others))
        check_weights(model, folder, others)

    monkeypatch.setattr(choose, "check_weights", spy)
    monkeypatch.setattr(products, "EXACT_SIZE", 0)
    options = Options(estimate="weights", certify=certify)
    assert all(d.status == "scaled" for d in compute_scales(model, options))
    assert checked == [{"w_up", "w_down"}]
    (tensor,) = (t for t in model.graph.initializer if t.name == weight)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[5, 3] = np.nan
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, weight))
    with pytest.raises(SlancError, match=f"'{weight}' holds nan"):
        compute_scales(model, options)


def test_progress_tells_bytes_of_all_matrices() -> None:
    told: list[tuple[str, float]] = []
    trace, norms = read(mlp_model())
    estimate_from_rows(trace, norms, lambda what, done: told.append((what, done)))
    assert [done for _, done in told] == [0.5, 1.0]
    assert all(what.startswith("reading weights: 0.0 of 0.0 GB") for what, _ in told)
