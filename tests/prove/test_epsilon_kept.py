"""What a certificate asks of a device whose format does not hold the epsilon of the file."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest

from slanc_onnx import Options, compute_scales, protect
from slanc_onnx.scale import ScaledNorm
from tests.conftest import Run
from tests.models.small_graphs import GAMMA, graph, normal

LEAST = 2.0**-24


def model(first: float, second: float = 1e-3) -> onnx.ModelProto:
    """Two RMSNorms, the second of what the first gives."""
    nodes = f"""
        x = Gather(table, ids)
        [first] y0 = SimplifiedLayerNormalization<axis = -1, epsilon = {first}>(x, gamma)
        [last] y = SimplifiedLayerNormalization<axis = -1, epsilon = {second}>(y0, gamma)
    """
    return graph(nodes, {"table": normal(0, 20, 8, spread=8.0), "gamma": GAMMA})


def asked(found: list[ScaledNorm]) -> list[float | None]:
    certificates = [decided.certificate for decided in found]
    assert all(c is not None and c.certified for c in certificates)
    return [c.epsilon_at_least for c in certificates if c is not None]


@pytest.mark.parametrize(
    ("epsilons", "expected"),
    [
        ((1e-3, 1e-3), [None, None]),
        ((1e-3, 1e-12), [None, LEAST]),
        ((1e-12, 1e-3), [LEAST, LEAST]),  # the second reads what the first makes
    ],
)
@pytest.mark.parametrize("apply", ["div", "fold"])
def test_a_certificate_says_where_it_rests_on_an_epsilon_that_rounds_to_zero(
    epsilons: tuple[float, float], expected: list[float | None], apply: Literal["div", "fold"]
) -> None:
    options = Options(estimate="weights", apply=apply)
    assert asked(protect(model(*epsilons), options)) == expected


def test_without_it_a_row_is_not_finite_and_with_it_it_is() -> None:
    (first, _) = compute_scales(model(1e-12), Options(estimate="weights"))
    assert first.scaled_epsilon is not None and first.safe_radius is not None
    row = np.full(8, 2.0**-14, np.float16)  # whose squares vanish
    assert np.linalg.norm(row.astype(float)) < first.safe_radius
    with np.errstate(divide="ignore", over="ignore"):
        stored = np.float16(first.scaled_epsilon)
        assert stored == 0 and np.isinf(np.float16(1) / np.sqrt((row * row).mean() + stored)).all()
        held = np.sqrt((row * row).mean() + np.float16(LEAST))
        assert np.isfinite(row * (np.float16(1) / held)).all()


def test_nothing_is_asked_for_an_epsilon_that_is_written_into_the_file() -> None:
    options = Options(estimate="weights", epsilon="representable")
    assert asked(protect(model(1e-12, 1e-12), options)) == [None, None]
    left = Options(estimate="weights", epsilon="representable", exclude="first")
    assert asked(compute_scales(model(1e-12), left)) == [LEAST, LEAST]  # that of the file stays


def test_terminal_report_and_page(run: Run) -> None:
    onnx.save(model(1e-12), "m.onnx")
    line = "certified if the device adds no epsilon below 5.96e-08 (--epsilon representable)"
    told: dict[str, Any] = {}
    for rule in ("exact", "representable"):
        shown = ("--report", "r.json", "--html", "r.html", "--epsilon", rule, "--no-validate")
        _, out, _ = run("m.onnx", *shown)
        norms = json.loads(Path("r.json").read_text())["norms"]
        told[rule] = [norm["certificate"]["epsilon_at_least"] for norm in norms]
        assert (line in out.splitlines()) == (line in Path("r.html").read_text())
        assert (line in out.splitlines()) == (rule == "exact")
    assert told == {"exact": [LEAST, LEAST], "representable": [None, None]}
