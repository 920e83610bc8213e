"""One node computed from arrays: by ONNX's reference evaluator, or where it cannot by ONNX Runtime.

The evaluator lacks old versions of some ops and all contributed ones, and walks windows, images and
sequences in loops of Python: of these, what is large is ONNX Runtime's alone. That has a process of
its own where that is asked for, and so many seconds and bytes. Of some ops the two make different
numbers (Softmax before opset 13, Resize, BatchNormalization before opset 14, Range by fractions,
sums): what is not known to be the same in both (`agreed.py`) is computed by both, and taken where
they agree.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from slanc_onnx.graph import Array
from slanc_onnx.ops import ELEMENTWISE, MOVES, QUANTISING
from slanc_onnx.progress import no_progress
from slanc_onnx.prove.bound import NoBound
from slanc_onnx.prove.trusted.agreed import agreed
from slanc_onnx.reasons import Unread, reason
from slanc_onnx.run import CannotRun, Session, isolated

SECONDS, MEMORY = 20.0, 2_000_000_000  # of ONNX Runtime for one node
SECONDS_OF_ALL = 60.0  # for all constants of one proof, after which none is begun
MOST_COMPUTED = 1 << 25  # elements of the inputs and outputs of one node
MOST_IN_LOOPS = 1 << 12  # the same where the evaluator has loops: each may walk the inputs again
_IR_VERSION = 10  # which every ONNX Runtime that is supported reads
# Domains whose ops ONNX Runtime computes from constants; it knows no others.
_DOMAINS = ("", "ai.onnx", "com.microsoft")
# Where the evaluator is a few calls of NumPy.
_WITHOUT_LOOPS = {
    *(*ELEMENTWISE, *MOVES, *QUANTISING, "Add", "Sub", "Mul", "Div", "Where", "Concat", "MatMul"),
    *("Gemm", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"),
}
_CLOSE = 2.0**-20  # relative to each number, where both round

Compute = Callable[[Sequence[Array | None]], list[Array]]


@dataclass
class Spent:
    """The seconds that the constants of one proof took."""

    seconds: float = 0.0


def computer(
    node: NodeProto,
    opsets: Mapping[str, int],
    apart: bool = False,
    made: int | None = None,
    spent: Spent | None = None,
) -> Compute:
    """A function that computes a node's outputs from arrays.

    Args:
        node: The node.
        opsets: Versions by domain.
        apart: Whether ONNX Runtime has a process of its own.
        made: Elements of the outputs; None where they are not known, which counts as none.
        spent: By this proof so far; it is added to.
    """
    spent = spent or Spent()

    def compute(arrays: Sequence[Array | None]) -> list[Array]:
        given = [array for array in arrays if array is not None]
        read = sum(math.prod(array.shape) for array in given)
        if read > MOST_COMPUTED:
            raise NoBound(reason(Unread.TOO_LARGE, max(array.size for array in given)))
        if spent.seconds > SECONDS_OF_ALL:
            raise NoBound(reason(Unread.NOT_COMPUTED, f"more than {SECONDS_OF_ALL:.0f} s"))
        began = time.monotonic()
        try:
            return computed(arrays, read)
        finally:
            spent.seconds += time.monotonic() - began

    def computed(arrays: Sequence[Array | None], read: int) -> list[Array]:
        model = of_one_node(node, arrays, opsets)
        few = read + (made or 0) <= MOST_IN_LOOPS
        by_evaluator: list[Array] | None = None
        if node.domain not in _DOMAINS or node.op_type in _WITHOUT_LOOPS or few:
            try:
                by_evaluator = evaluated(model)
            except Exception as error:  # of the evaluator, which says so in many ways
                if node.domain not in _DOMAINS:
                    raise NoBound(reason(Unread.NOT_COMPUTED, str(error)[:200])) from error
        if by_evaluator is not None and agreed(node, arrays, by_evaluator):
            return by_evaluator
        try:
            by_runtime = run(model, apart)
        except Exception as error:  # what ONNX Runtime says, or that memory is short
            raise NoBound(reason(Unread.NOT_COMPUTED, str(error)[:200])) from error
        if by_evaluator is not None and not _same(by_evaluator, by_runtime):
            raise NoBound(reason(Unread.COMPUTED_TWICE))
        return by_runtime

    return compute


def _same(one: Sequence[Array], other: Sequence[Array]) -> bool:
    """Whether two runtimes made the same numbers, but for rounding."""

    def close(a: Array, b: Array) -> bool:
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if a.dtype.kind in "biu":
            return bool(np.array_equal(a, b))
        wide = a.astype(np.float64), b.astype(np.float64)
        return bool(np.allclose(*wide, _CLOSE, 0.0, equal_nan=True))

    return len(one) == len(other) and all(map(close, one, other))


def of_one_node(
    node: NodeProto, arrays: Sequence[Array | None], opsets: Mapping[str, int]
) -> onnx.ModelProto:
    """A model of the node alone, with the arrays as its initializers."""
    ids = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    empty = onnx.GraphProto(name="one node")
    model = helper.make_model(empty, opset_imports=ids, ir_version=_IR_VERSION)
    graph = model.graph  # filled here, as a graph that is given would be copied
    graph.node.add().CopyFrom(node)
    del graph.node[0].input[:]
    for place, array in enumerate(arrays):
        graph.node[0].input.append("" if array is None else f"in{place}")
        if array is not None:
            graph.initializer.append(numpy_helper.from_array(array, f"in{place}"))
    for name in node.output:
        if name:
            graph.output.add(name=name)
    return model


def evaluated(model: onnx.ModelProto) -> list[Array]:
    """The outputs, by the evaluator; raises whatever it raises."""
    with np.errstate(all="ignore"):
        found = ReferenceEvaluator(model).run(None, {})
    return [np.asarray(array) for array in found]


def run(model: onnx.ModelProto, apart: bool) -> list[Array]:
    """The outputs, by ONNX Runtime.

    Raises:
        CannotRun: it does not take the node, or needs too much.
    """

    import onnxruntime  # noqa: F401  # here, or each process would import it

    def work(_: object) -> list[Array]:
        session = Session(model, None)
        made = session.run({})
        for name in session.outputs:
            kind = np.asarray(made[name]).dtype.name
            if session.types[name] != f"tensor({_NAMES.get(kind, kind)})":
                raise CannotRun(f"{session.types[name]} is no type of NumPy")
        return [made[name] for name in session.outputs]

    return isolated(work, no_progress, SECONDS, apart=apart, memory=MEMORY)


_NAMES = {"float32": "float", "float64": "double"}  # as ONNX Runtime says it


def told_elements(node: NodeProto, tensors: Mapping[str, gs.Tensor]) -> int | None:
    """How many elements a node's outputs have by the shapes in the file; None if open."""
    count = 0
    for name in filter(None, node.output):
        tensor = tensors.get(name)
        if tensor is None or tensor.shape is None:
            return None
        if not all(isinstance(dim, int) for dim in tensor.shape):
            return None
        count += math.prod(tensor.shape)
    return count
