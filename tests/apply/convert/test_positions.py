"""What tells for how many positions there are tables: the first of these that does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from slanc_onnx.apply.convert.angles import read_circular
from slanc_onnx.apply.convert.positions import DEFAULT, Positions, positions_of
from slanc_onnx.errors import SlancError
from slanc_onnx.reasons import PositionsFrom
from slanc_onnx.report.wording import reason_text
from tests.models.position_graphs import POSITIONS, model_of

PLAIN = model_of(
    "u = Unsqueeze(positions, minus) c = Cast<to = 1>(u) m = Mul(c, freq) y = Cos(m)", POSITIONS
)


def with_table(nodes: str, rows: int, inputs: str = POSITIONS) -> onnx.ModelProto:
    model = model_of(nodes, inputs)
    table = np.zeros((rows, 3), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(table, "table"))
    return model


EMBEDDED = with_table(
    "u = Unsqueeze(positions, minus) c = Cast<to = 1>(u) m = Mul(c, freq) k = Cos(m) "
    "e = Gather(table, positions) y = Add(e, k)",
    77,
)
ROTATED = with_table(
    "y = com.microsoft.RotaryEmbedding(x, positions, table, table)",
    99,
    f"{POSITIONS}, float[a, b, c] x",
)
CONFIGS: list[tuple[str, Any, tuple[str, int]]] = [
    ("config.json", {"n_positions": 5, "n_ctx": 6}, ("n_positions", 5)),
    (
        "config.json",
        {"vision_config": {"n_ctx": 3}, "text_config": {"max_position_embeddings": 4}},
        ("max_position_embeddings", 4),
    ),
    ("genai_config.json", {"model": {"context_length": 7}}, ("context_length", 7)),
]


def told_of(model: onnx.ModelProto, path: Path | None, asked: int | None) -> Positions:
    return positions_of(model, path, asked, read_circular(model, None))


@pytest.mark.parametrize(("name", "config", "told"), CONFIGS)
@pytest.mark.parametrize("folder", [".", "onnx"])
def test_the_configuration_beside_the_file_or_above_its_folder(
    name: str, config: Any, told: tuple[str, int], folder: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(json.dumps(config))
    found = told_of(EMBEDDED, tmp_path / folder / "model.onnx", None)
    assert (found.told_by.kind, found.told_by.facts) == (PositionsFrom.CONFIG, (name, told[0]))
    assert found.count == told[1]
    assert reason_text(found.told_by) == f"as {name} says by {told[0]}"


def test_what_is_asked_for_comes_first(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"n_positions": 5}')
    found = told_of(EMBEDDED, tmp_path / "model.onnx", 12)
    assert (found.count, found.told_by.kind) == (12, PositionsFrom.ASKED)


@pytest.mark.parametrize(
    ("model", "rows"), [(EMBEDDED, 77), (ROTATED, 99)], ids=["embedded", "rotated"]
)
def test_the_tables_of_the_model_come_after_its_configuration(
    model: onnx.ModelProto, rows: int
) -> None:
    found = told_of(model, None, None)
    assert (found.count, found.told_by.facts) == (rows, ("table",))


@pytest.mark.parametrize("text", ["{", "[]", '{"n_positions": true}', '{"n_positions": -1}', "7"])
def test_where_nothing_tells(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    found = told_of(PLAIN, tmp_path / "model.onnx", None)
    assert (found.count, found.told_by.kind) == (DEFAULT, PositionsFrom.NOTHING)


def test_less_than_one_is_refused() -> None:
    with pytest.raises(SlancError, match="give 1 or more"):
        told_of(PLAIN, None, 0)
