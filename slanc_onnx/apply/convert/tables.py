"""Position tables: each Cos and Sin of positions becomes a table and a Gather.

FP16 has 11 bits, so an angle of a thousand radians is off by up to a quarter of one. The cosines
and sines themselves fit well. They are computed in FP64 from the constants of the file and rounded
once to the narrow format.

A position beyond the table is out of the range of the Gather. ONNX Runtime's CPU provider refuses
that; its CUDA provider gives zeros, as its source has it. A negative one would be taken from the
end of the table without a word: where the ops do not tell that there is none, the table begins
below 0 and anything lower is moved out of range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import helper

from slanc_onnx.accelerator import Format
from slanc_onnx.apply.convert.angle_islands import Island, NoTable
from slanc_onnx.apply.convert.angles import Angles, Circular, kept_nodes
from slanc_onnx.apply.convert.arrangement import Arrangement, arranged, rows_of
from slanc_onnx.apply.convert.gathers import Gathers, Lookup
from slanc_onnx.apply.convert.integers import chain, least
from slanc_onnx.graph import Array, Dims, Flow, NodeAt, Tensor
from slanc_onnx.reasons import Reason, Untabled, reason

_COMPUTED = {"Cos": np.cos, "Sin": np.sin}
_BLOCK = 4096  # rows that are computed at once
_PADDING = 1  # rows below 0 where nothing tells: a sum over a mask, less 1, is -1 at padding


@dataclass(frozen=True)
class Table:
    """A table in the place of a Cos or Sin.

    Attributes:
        tensor: The result that it replaces.
        op: "Cos" or "Sin".
        positions: For how many positions from 0 on it has rows; 0 where it is computed from
            constants, of which it has the shape.
        below: Rows for positions below 0.
        columns: Elements of a row.
        source: The tensor of the positions; "" where it is computed from constants.
        name: The initializer, which other tables may share.
    """

    tensor: str
    op: str
    positions: int
    below: int
    columns: int
    source: str
    name: str


@dataclass(frozen=True)
class Kept:
    """A Cos or Sin that stays, and whose angles have to stay in FP32.

    Attributes:
        tensor: Its result.
        nodes: The float ops before it and itself, as nodes of the model that has the tables.
        why: Why there is no table.
    """

    tensor: str
    nodes: tuple[NodeAt, ...]
    why: Reason


@dataclass(frozen=True)
class Tables:
    """What became of the Cos and Sin of a model; those of features are not named.

    Attributes:
        made: Those that are tables now.
        kept: Those that have to stay in FP32.
        inlined: The functions of the model that held some, and are inlined.
    """

    made: tuple[Table, ...] = ()
    kept: tuple[Kept, ...] = ()
    inlined: tuple[str, ...] = ()


def write_tables(
    model: onnx.ModelProto, circular: Circular, form: Format, positions: int
) -> Tables:
    """Put tables in the place of Cos and Sin whose angles follow from integers alone.

    What is only read for these is removed.

    Args:
        model: The model in FP32; it is changed in place.
        circular: Its Cos and Sin, as they were read.
        form: What the tables are rounded to; they are stored in FP32.
        positions: For how many positions, from 0 on.

    Returns:
        What was made, and what has to stay in FP32.

    Raises:
        SlancError: weights are damaged.
    """
    flow = circular.flow
    if flow is None:
        return Tables()
    writer = _Writer(flow, Gathers(model, flow), form, positions)
    made: list[Table] = []
    kept: list[Kept] = []
    for angles in circular.angles:
        if angles.features:
            continue
        try:
            made += writer.write(angles)
        except NoTable as error:
            result = flow.node(*angles.at).output[0]
            kept.append(Kept(result, tuple(kept_nodes(flow, angles)), error.args[0]))
    moved = writer.gathers.carry_out()
    there = (replace(each, nodes=tuple(sorted(moved[at] for at in each.nodes))) for each in kept)
    return Tables(tuple(made), tuple(there), circular.inlined)


@dataclass
class _Writer:
    """Makes the tables of one model."""

    flow: Flow
    gathers: Gathers
    form: Format
    positions: int
    _rows: dict[Tensor, tuple[Island, Arrangement]] = field(default_factory=dict)
    _arrangements: dict[tuple[bytes, Dims], Arrangement] = field(default_factory=dict)
    _tables: dict[tuple[bytes, str, int], str] = field(default_factory=dict)

    def write(self, angles: Angles) -> tuple[Table, ...]:
        """Put a table in the place of a Cos or Sin.

        Raises:
            NoTable: there is none.
        """
        if angles.why_not is not None:
            raise NoTable(angles.why_not)
        if angles.picked:
            return self._picked(angles)
        if angles.tensor not in self._rows:
            self._rows[angles.tensor] = self._by_position(angles)
        return (self._by_row(angles, *self._rows[angles.tensor]),)

    def _by_position(self, angles: Angles) -> tuple[Island, Arrangement]:
        """The angles as rows by position, by the positions nearest to the inputs of the graph."""
        if not angles.integers:
            raise NoTable(reason(Untabled.NO_POSITIONS, angles.tensor.name))
        chains = [list(chain(self.flow, tensor)) for tensor in angles.integers]
        shared = [t for t in chains[0] if all(t in other for other in chains[1:])]
        if not shared:
            names = [tensor.name for tensor in angles.integers[:2]]
            raise NoTable(reason(Untabled.SEVERAL_POSITIONS, *names))
        floats = (Tensor(at.path, n) for at in angles.nodes for n in self.flow.node(*at).output)
        inside = frozenset((*floats, *(tensor for each in chains for tensor in each)))
        errors = []
        for tensor in reversed(shared):
            island = Island(self.flow, angles.tensor, tensor, inside)
            try:
                key = (island.written, island.dims)
                if key not in self._arrangements:
                    self._arrangements[key] = arranged(island)
                return island, self._arrangements[key]
            except NoTable as error:
                errors.append(error)
        raise errors[0]

    def _by_row(self, angles: Angles, island: Island, arrangement: Arrangement) -> Table:
        node, source = self.flow.node(*angles.at), island.positions
        assert source is not None
        bound, sure = least(self.flow, source)
        below = self.positions - 1 if bound is None else min(-bound, self.positions - 1)
        below = max(below, 0 if sure else _PADDING)
        key = (island.written, node.op_type, below)
        if key not in self._tables:
            table = np.empty((below + self.positions, *arrangement.row), np.float32)
            for start in range(-below, self.positions, _BLOCK):
                stop = min(start + _BLOCK, self.positions)
                rows = rows_of(island, arrangement, start, stop)
                table[start + below : stop + below] = self._values(angles, rows)
            self._tables[key] = self.gathers.table(f"{node.output[0]}/table", table)
        name = self._tables[key]
        self.gathers.look_up(Lookup(angles.at, name, source, below, not sure, arrangement))
        return Table(
            tensor=node.output[0],
            op=node.op_type,
            positions=self.positions,
            below=below,
            columns=math.prod(arrangement.row),
            source=source.name,
            name=name,
        )

    def _picked(self, angles: Angles) -> tuple[Table, ...]:
        """Compute constants of constant angles, from which the ops before then pick."""
        node = self.flow.node(*angles.at)
        made = []

        def table(tensor: Tensor) -> str:
            values = self._values(angles, Island(self.flow, tensor, None).constant())
            kind = helper.tensor_dtype_to_np_dtype(self.flow.element_type(tensor))
            name = self.gathers.table(f"{node.output[0]}/table", values.astype(kind))
            columns = values.shape[-1] if values.ndim else 1
            made.append(Table(node.output[0], node.op_type, 0, 0, columns, "", name))
            return name

        self.gathers.pick(angles, table)
        return tuple(made)

    def _values(self, angles: Angles, computed: Array) -> Array:
        """The cosines or sines of angles in FP64, rounded once."""
        return self.form.rounded(_COMPUTED[self.flow.node(*angles.at).op_type](computed))
