"""What a run shows of the rows in front of a norm, to hold an estimate against it.

A table of `ROWS` rows is small enough to be seen whole. The first ids of the sample rows are all
ids, so where no positions mix, the smallest and the largest row of an estimate are the smallest
and the largest of these.
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from slanc_onnx.estimate.estimate import Estimate
from slanc_onnx.report.wording import reason_text
from tests.models.small_graphs import GAMMA, D, Matrix, exact, from_weights, normal
from tests.oracles.unoptimised import run

ROWS = 11  # of the table of `between`
EACH = np.arange(ROWS)[:, None]  # every id, in a sequence of its own


def table_of(rows: int) -> NDArray[np.float32]:
    """A table for `between` of another length; of 11 rows it is the usual one."""
    return normal(0, rows, D)


def x_rows(rows: int = ROWS) -> Matrix:
    """`x` of `between` for every id of a table, in NumPy."""
    table = exact(table_of(rows))
    root = np.sqrt(np.mean(table**2, axis=1, keepdims=True) + 1e-5)
    return np.asarray(table / root * exact(GAMMA))


def shown(model: onnx.ModelProto, tensor: str = "total", **feeds: NDArray[Any]) -> NDArray[Any]:
    """A tensor of the main graph, as ONNX Runtime computes it; for every id if not told."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.add(name=tensor).type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return np.asarray(run(copy, **(feeds or {"ids": EACH}))[tensor])


def sums(rows: NDArray[Any], centred: bool = False) -> Matrix:
    """Sums of squares over the last axis, flat."""
    wide = rows.astype(np.float64)
    if centred:
        wide = wide - wide.mean(axis=-1, keepdims=True)
    return np.asarray((wide**2).sum(axis=-1)).reshape(-1)


def estimated(model: onnx.ModelProto, norm: str = "last", assumes: str = "") -> Estimate:
    """The estimate of a norm from the weights; every norm must have one.

    Args:
        model: The model.
        norm: The norm's name.
        assumes: What the estimate must say that it assumes.
    """
    estimates, reasons = from_weights(model)
    assert reasons == {}
    told = estimates[norm].assumes
    assert ("" if told is None else reason_text(told)) == assumes
    return estimates[norm]


def extremes(found: Estimate) -> list[float]:
    """The smallest and the largest sample row."""
    return [found.lowest, found.seen]


def within_a_factor(found: Estimate, truth: Matrix, factor: float = 10.0) -> bool:
    """Whether an ordinary row and the largest one are those of a run, up to a factor."""
    ratios = found.typical / np.quantile(truth, 0.05), found.upper / truth.max()
    return all(1 / factor < ratio < factor for ratio in ratios)
