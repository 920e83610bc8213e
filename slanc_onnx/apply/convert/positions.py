"""For how many positions tables are made, and what tells it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from slanc_onnx.apply.convert.angles import Circular
from slanc_onnx.apply.convert.integers import chain
from slanc_onnx.errors import SlancError
from slanc_onnx.graph import FLOATS, Use, every_graph, every_node
from slanc_onnx.reasons import PositionsFrom, Reason, reason

DEFAULT = 8192

# Keys of configuration files, the one that counts first.
_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "max_seq_len",
    "n_ctx",
    "context_length",
)
_FILES = ("config.json", "genai_config.json")
_ROTARY = {("", "RotaryEmbedding"): 1, ("com.microsoft", "RotaryEmbedding"): 2}
_ATTENTION = {("com.microsoft", "GroupQueryAttention"): 7}


@dataclass(frozen=True)
class Positions:
    """For how many positions, from 0 on, and what told it."""

    count: int
    told_by: Reason


def positions_of(
    model: onnx.ModelProto, path: Path | None, asked: int | None, circular: Circular
) -> Positions:
    """For how many positions a model is to have tables.

    Args:
        model: The model.
        path: Its file, beside which its configuration may lie, or above a folder named "onnx".
        asked: What the user asks for.
        circular: Its Cos and Sin.

    Raises:
        SlancError: less than one is asked for.
    """
    if asked is not None:
        if asked < 1:
            raise SlancError(f"positions {asked}: give 1 or more.")
        return Positions(asked, reason(PositionsFrom.ASKED))
    for file in _configurations(path) if path is not None else ():
        found = _told(_read(file))
        if found is not None:
            key, count = found
            return Positions(count, reason(PositionsFrom.CONFIG, file.name, key))
    rows = [*_caches(model), *_embeddings(circular)]
    if rows:
        count, name = min(rows)
        return Positions(count, reason(PositionsFrom.TABLE, name))
    return Positions(DEFAULT, reason(PositionsFrom.NOTHING))


def _configurations(path: Path) -> Iterator[Path]:
    folders = [path.parent]
    if path.absolute().parent.name == "onnx":
        folders.append(path.absolute().parent.parent)
    for folder in folders:
        yield from (folder / name for name in _FILES if (folder / name).is_file())


def _read(file: Path) -> Any:
    """A configuration; None for what is none."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _told(config: Any) -> tuple[str, int] | None:
    """The key that tells the length, and the length: of the text, or else the first that does."""
    if not isinstance(config, Mapping):
        return None
    for key in _KEYS:
        value = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return key, value
    inner = sorted(config, key=lambda key: "text" not in str(key))  # stable
    found = (_told(config[key]) for key in inner)
    return next((each for each in found if each is not None), None)


def _caches(model: onnx.ModelProto) -> Iterator[tuple[int, str]]:
    """The rows and the names of tables of cosines that the model has already."""
    dims = {t.name: t.dims for graph in every_graph(model.graph) for t in graph.initializer}
    for node in every_node(model.graph.node):
        domain = "" if node.domain == "ai.onnx" else node.domain
        place = (_ROTARY | _ATTENTION).get((domain, node.op_type))
        if place is not None and len(node.input) > place:
            rows = dims.get(node.input[place], ())
            if len(rows) == 2:
                yield int(rows[0]), node.input[place]


def _embeddings(circular: Circular) -> Iterator[tuple[int, str]]:
    """The rows and the names of tables that the model looks up by the positions of its angles."""
    flow = circular.flow
    if flow is None:
        return
    sources = {t for angles in circular.angles for t in angles.integers}
    for tensor in {moved for source in sources for moved in chain(flow, source)}:
        for use in flow.uses.get(tensor, ()):
            table = flow.read(Use(use.path, use.node, 0))
            if flow.op(use.path, use.node) == "Gather" and use.position == 1 and table in flow.data:
                dims = flow.data[table].dims
                if len(dims) == 2 and flow.element_type(table) in FLOATS:
                    yield int(dims[0]), table.name
