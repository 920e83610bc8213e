"""What the user says of the inputs drives every stage; what nobody says is printed and tried."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from slanc_onnx.feed import Ids, Normal, Range, Values, read_feed
from tests.conftest import Run
from tests.models.small_graphs import Weights, graph, normal

Floats = NDArray[np.float32]
LIMIT = 65504.0
WIDTH = 64

PATCHES = """
    c = Conv<strides = [8, 8]>(images, kernel)
    f = Reshape(c, flat)
    t = Transpose<perm = [0, 2, 1]>(f)
    [first] n = LayerNormalization(t, gamma)
    h = MatMul(n, w)
    [second] y = LayerNormalization(h, gamma)
"""


def patches(spread: float = 0.02) -> onnx.ModelProto:
    weights: Weights = {
        "kernel": normal(1, WIDTH, 3, 8, 8, spread=spread),
        "flat": np.array([0, WIDTH, -1]),
        "gamma": np.ones(WIDTH, np.float32),
        "w": normal(2, WIDTH, WIDTH, spread=0.2),
    }
    return graph(PATCHES, weights, "float[batch, 3, height, width] images")


def sums_of_first_norm(model: onnx.ModelProto, pixels: Floats) -> NDArray[np.float64]:
    """The sums of squares of the first norm's centred rows, in FP64, without any runtime."""
    [kernel] = [
        onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "kernel"
    ]
    n, c, h, w = pixels.shape
    cut = pixels.reshape(n, c, h // 8, 8, w // 8, 8).transpose(0, 2, 4, 1, 3, 5)
    rows = cut.reshape(-1, c * 64).astype(np.float64) @ kernel.reshape(WIDTH, -1).T
    centred = rows - rows.mean(axis=1, keepdims=True)
    return np.asarray((centred**2).sum(axis=1))


def report() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(Path("r.json").read_text())
    return loaded


def last(out: str) -> str:
    return out.splitlines()[-1]


@pytest.mark.parametrize(
    ("text", "feed"),
    [
        ("range(0,255)", Range(0, 255)),
        ("range(-1.5, 1e3)", Range(-1.5, 1000)),
        ("ids(0,30522)", Ids(0, 30522)),
        ("normal(0,0.01)", Normal(0, 0.01)),
    ],
)
def test_a_spec_is_read(text: str, feed: object) -> None:
    assert read_feed(text) == feed


@pytest.mark.parametrize("estimate", ["probe", "weights"])
@pytest.mark.parametrize(
    "said", [("--feed", "images=range(0,255)"), ("--input-range", "images=0,255")]
)
def test_a_range_drives_every_stage(run: Run, estimate: str, said: tuple[str, str]) -> None:
    model = patches()
    onnx.save(model, "m.onnx")
    status, out, _ = run("m.onnx", *said, "--estimate", estimate, "--report", "r.json")
    assert status == 0, out
    first = report()["norms"][0]
    pixels = np.random.default_rng(5).uniform(0, 255, (4, 3, 64, 64)).astype(np.float32)
    sums = sums_of_first_norm(model, pixels)
    assert sums.max() > LIMIT  # such pixels overflow as exported
    assert sums.max() / first["scale"] ** 2 < LIMIT and first["scale"] > 1
    assert sums.max() / 8 < first["predicted_sum_of_squares"]["upper"] < 64 * sums.max()
    assert first["observed"]["overflowed_before"] > 0  # so the validation saw them
    assert first["observed"]["overflowed"] == 0
    assert {(c["input"], c["low"], c["high"]) for c in first["certificate"]["conditions"]} == {
        ("images", 0.0, 255.0)
    }
    assert "on images [1, 3, 32, 128] range(0, 255) |" in last(out)
    assert "nothing is said" not in last(out) and first["assumed_inputs"] == []


def test_small_embeddings_get_a_scale_of_their_own(run: Run) -> None:
    nodes = "[n] y = SimplifiedLayerNormalization<axis = -1, epsilon = 1e-6>(embeds, gamma)"
    model = graph(nodes, {"gamma": np.ones(64, np.float32)}, "float[b, t, 64] embeds")
    onnx.save(model, "m.onnx")
    for said, std in (("normal(0,0.01)", 0.01), ("range(-0.04,0.04)", 0.04 / 3**0.5)):
        status, out, _ = run("m.onnx", "--feed", f"embeds={said}", "--report", "r.json")
        norm = report()["norms"][0]
        assert status == 0, out
        assert norm["predicted_sum_of_squares"]["typical"] < 64 * std**2
        mean_square = std**2 / norm["scale"] ** 2
        assert mean_square > 2.0**-14  # it stays a normal number of FP16
        assert norm["observed"]["underflowed"] == 0
    rows = np.random.default_rng(1).normal(0, 0.01, (1, 16, 64))
    np.save("e.npy", rows.astype(np.float32))
    status, out, _ = run("m.onnx", "--feed", "embeds=e.npy", "--report", "r.json")
    norm = report()["norms"][0]
    seen = np.sum(rows.astype(np.float32).astype(np.float64) ** 2, axis=-1)
    assert status == 0 and "on embeds [1, 16, 64] given |" in last(out)
    assert norm["observed"]["sum_of_squares"][2] == pytest.approx(seen.max(), rel=1e-5)


def test_what_nobody_says_is_told_for_every_norm_behind_it(run: Run) -> None:
    onnx.save(patches(), "m.onnx")
    status, out, _ = run("m.onnx", "--report", "r.json")
    assert status == 0
    line = last(out)
    assert "on images [1, 3, 32, 128] assumed normal(0, 1)" in line
    assert "nothing is said of images, on which 2 of 2 norms depend" in line
    assert "it holds for images of normal(0, 1), range(0, 1) or range(0, 255)" in line
    for norm in report()["norms"]:
        assert [one["input"] for one in norm["assumed_inputs"]] == ["images"]
    tried = report()["validation"]["tried"]
    assert [one["inputs"][0]["values"] for one in tried] == [
        "assumed normal(0, 1)",
        "assumed range(0, 1)",
        "assumed range(0, 255)",
    ]
    assert all(one["passed"] for one in tried)
    pixels = np.random.default_rng(5).uniform(0, 255, (4, 3, 64, 64)).astype(np.float32)
    sums = sums_of_first_norm(patches(), pixels)
    assert sums.max() > LIMIT > sums.max() / report()["norms"][0]["scale"] ** 2


NARROW = """
    q = Mul(x, x)
    [n] y = SimplifiedLayerNormalization<axis = -1>(q, gamma)
"""  # sums of fourth powers: no scale serves numbers of 0..1 and of 0..255


@pytest.mark.parametrize(
    ("shape", "status", "word"),
    [
        ("float[b, t, 64] x", 0, "PASSED"),
        ("float[b, 3, 8, 64] x", 1, "INCONCLUSIVE"),
    ],
)
def test_a_verdict_says_where_it_holds(run: Run, shape: str, status: int, word: str) -> None:
    weights: Weights = {"gamma": np.ones(64, np.float32)}
    onnx.save(graph(NARROW, weights, shape), "m.onnx")
    found, out, _ = run("m.onnx", "--report", "r.json")
    assert found == status, out
    line = last(out)
    assert line.split(" | ")[0].endswith(word)
    assert "it holds for x of normal(0, 1) or range(0, 1), not for range(0, 255)" in line
    assert "--feed 'x=range(0, 255)'" in line
    whys = [part for part in line.split(" | ") if "leave FP16" in part or "rows still" in part]
    assert len(whys) == 1 and whys[0].startswith("it holds for x")  # not beside other figures
    assert [one["passed"] for one in report()["validation"]["tried"]] == [True, True, False]
    assert report()["validation"]["inconclusive"] == (word == "INCONCLUSIVE")
    status, out, _ = run("m.onnx", "--feed", "x=range(0, 255)")
    assert status == 0 and " not for " not in last(out)


def test_a_size_is_said(run: Run) -> None:
    onnx.save(patches(), "m.onnx")
    run("m.onnx", "--dim", "height=16", "--dim", "width=24", "--dim", "batch=2")
    _, out, _ = run("m.onnx", "--dim", "height=16", "--dim", "images:3=24", "--dim", "batch=2")
    assert "on images [2, 3, 16, 24] assumed" in last(out)


@pytest.mark.parametrize(
    ("option", "argument", "message"),
    [
        ("feed", "images=range(1,0)", "is no range"),
        ("feed", "images=range(0,nan)", "must be finite"),
        (
            "feed",
            "images=range(0)",
            "is not range(LO,HI), ids(LO,HI), normal(MEAN,STD) or",
        ),
        ("feed", "images=normal(0,-1)", "not below 0"),
        ("feed", "images=ids(0,0.5)", "whole numbers"),
        ("feed", "images=none.npy", "no such file"),
        ("feed", "images", "is not NAME=SPEC"),
        ("feed", "pixels=range(0,1)", "--feed pixels: is no graph input; they are images"),
        ("dim", "depth=3", "--dim depth: is no open axis; open are batch, height, width"),
        ("dim", "images:1=3", "is no open axis"),
        ("dim", "height=x", "is not NAME=N"),
    ],
)
def test_what_makes_no_sense_is_refused(
    run: Run, option: str, argument: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(patches(), "m.onnx")
    status: object
    try:
        status, _, err = run("m.onnx", f"--{option}", argument)
    except SystemExit as stopped:  # argparse
        status, err = stopped.code, capsys.readouterr().err
    assert status == 2 and message in err
    assert not Path("m.slanc.onnx").exists()


IDS = """
    e = Gather(table, ids)
    [n] y = SimplifiedLayerNormalization<axis = -1>(e, gamma)
"""


@pytest.mark.parametrize("estimate", ["probe", "weights"])
def test_ids_stay_in_what_is_said_of_them(run: Run, estimate: str) -> None:
    table = normal(1, 500, 64, spread=0.1)
    table[:400] *= 10000.0  # rows that these ids never reach
    weights: Weights = {"table": table, "gamma": np.ones(64, np.float32)}
    onnx.save(graph(IDS, weights, "int64[b, t] ids"), "m.onnx")
    status, out, _ = run(
        "m.onnx", "--feed", "ids=ids(400,500)", "--estimate", estimate, "--report", "r.json"
    )
    sums = (table[400:].astype(np.float64) ** 2).sum(axis=1)
    norm = report()["norms"][0]
    assert status == 0, out
    assert norm["predicted_sum_of_squares"]["upper"] < 3 * sums.max()
    assert norm["observed"]["sum_of_squares"][2] <= sums.max() * 1.0001
    assert "on ids [1, 16] ids(400, 500) |" in last(out)
    status, _, err = run("m.onnx", "--feed", "ids=ids(400,501)")
    assert status == 2 and "what ids indexes has 500 rows" in err


def test_drawn_values_keep_to_what_is_said() -> None:
    rng = np.random.default_rng(0)
    ints = Range(-2.5, 3.5).draw(rng, (1000,), np.dtype(np.int32))
    assert set(ints.tolist()) == {-2, -1, 0, 1, 2, 3}
    assert set(Ids(3, 6).draw(rng, (100,), np.dtype(np.int64)).tolist()) == {3, 4, 5}
    floats = Normal(5, 0.01).draw(rng, (10_000,), np.dtype(np.float32))
    assert floats.mean() == pytest.approx(5, abs=1e-3) and floats.std() == pytest.approx(0.01, 0.1)
    halves = Range(0.5, 2.0).draw(rng, (10_000,), np.dtype(np.float16))
    assert 0.5 <= halves.min() < 0.51 and 1.99 < halves.max() <= 2.0
    table = np.arange(12.0).reshape(4, 3)
    rows = Values(table).draw(rng, (50, 3), np.dtype(np.float32))
    assert all(any((row == one).all() for one in table) for row in rows)
