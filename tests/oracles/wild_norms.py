"""Random ways to write a norm of [2, 4, 8] that exporters, optimisers and people have, and more.

Beyond `written_norms`: sizes and axes computed by the graph, rows moved about, sums by products,
steps that change nothing, an epsilon by choice. What is read off such a norm is checked elsewhere.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.oracles.written_norms import WIDTH, Writer

KINDS = ("layer", "rms", "l2")
SHAPE = [2, 4, WIDTH]
_INT = np.int64


class Wild(Writer):
    """Writes steps in one of many ways."""

    def same(self, x: str) -> str:
        """A value behind up to three ops that leave it as it is."""
        for _ in range(3):
            if self.maybe(0.12):
                x = self.any_of(
                    lambda x: self.node("Identity", x),
                    lambda x: self.node("Cast", x, to=TensorProto.FLOAT),
                    lambda x: self.node("CastLike", x, "x"),
                    lambda x: self.node("Dropout", x),
                    lambda x: self.node("Mul", x, self.constant(1.0)),
                    lambda x: self.node("Add", x, self.constant(0.0)),
                    lambda x: self.node("Neg", self.node("Neg", x)),
                    lambda x: self.node("Reshape", x, self.node("Shape", x)),
                    lambda x: self.node("Expand", x, self.node("Shape", x)),
                    lambda x: self.node("Where", self.constant(True, bool), x, self.constant(0.0)),
                    lambda x: self.node(
                        "Squeeze",
                        self.node("Unsqueeze", x, self.constant([0], _INT)),
                        self.constant([0], _INT),
                    ),
                    lambda x: self.node(
                        "Transpose", self.node("Transpose", x, perm=[0, 2, 1]), perm=[0, 2, 1]
                    ),
                )(x)
        return x

    def axes(self) -> str:
        """The last axis, as a constant or computed."""
        numbers = (self.constant(number, _INT) for number in (2, 3, 1))
        rank = self.node("Size", self.node("Shape", "x")) if self.maybe(0.3) else ""
        return str(
            self.any_of(
                lambda: self.constant([-1], _INT),
                lambda: self.constant([2], _INT),
                lambda: self.node("Range", *numbers),
                lambda: self.node("Constant", value_ints=[-1]),
                lambda: self.node("Cast", self.constant([-1], np.int32), to=TensorProto.INT64),
                lambda: self.node(
                    "Sub",
                    self.node("Reshape", rank or self.constant(3, _INT), self.constant([1], _INT)),
                    self.constant([1], _INT),
                ),
            )()
        )

    def over_rows(self, op: str, x: str) -> str:
        """A reduction over the last axis, with that axis left or put back."""

        def short() -> str:
            return self.node(op, x, self.axes(), keepdims=0)

        def sized() -> str:
            v = short()
            sizes = [self.node("Shape", v), self.constant([1], _INT)]
            return self.node("Reshape", v, self.node("Concat", *sizes, axis=0))

        def turned() -> str:
            rows = self.node("Transpose", x, perm=[2, 0, 1])
            v = self.node(op, rows, self.constant([0], _INT), keepdims=0)
            return self.node("Unsqueeze", v, self.constant([2], _INT))

        to = self.any_of([2, 4, 1], [0, -1, 1], [-1, 4, 1], [2, -1, 1])
        return str(
            self.any_of(
                lambda: self.node(op, x, self.axes(), keepdims=1),
                lambda: self.node(op, x, self.axes(), keepdims=1),
                lambda: self.node("Unsqueeze", short(), self.constant([-1], _INT)),
                lambda: self.node("Reshape", short(), self.constant(to, _INT)),
                lambda: self.node(
                    "Expand", self.node(op, x, self.axes(), keepdims=1), self.node("Shape", "x")
                ),
                sized,
                turned,
            )()
        )

    def over_count(self, v: str) -> str:
        """A sum over the width, which is a constant or read from the shape."""
        counted = self.node("Gather", self.node("Shape", "x"), self.constant(-1, _INT))
        if self.maybe(0.3):
            return self.node("Div", v, self.node("Cast", counted, to=TensorProto.FLOAT))
        return self.by_count(v, WIDTH)

    def row_mean(self, x: str) -> str:
        """The mean of each row."""
        return str(
            self.any_of(
                lambda: self.over_rows("ReduceMean", x),
                lambda: self.over_rows("ReduceMean", x),
                lambda: self.over_count(self.over_rows("ReduceSum", x)),
                lambda: self.over_rows("ReduceSum", self.over_count(x)),
                lambda: self.node("MatMul", x, self.constant(np.full((WIDTH, 1), 1 / WIDTH))),
                lambda: self.node("GlobalAveragePool", x),
            )()
        )

    def squared(self, x: str, twin: str) -> str:
        """A square; the twin has the same values."""
        return str(
            self.any_of(
                lambda: self.node("Mul", x, twin),
                lambda: self.node("Mul", self.same(twin), x),
                lambda: self.node("Mul", self.node("Neg", x), self.node("Neg", twin)),
                lambda: self.node("Pow", x, self.constant(2.0)),
                lambda: self.node("Pow", self.node("Abs", x), self.constant(2, _INT)),
            )()
        )

    def row_total(self, x: str, twin: str) -> str:
        """The sum of squares of each row."""

        def product() -> str:
            row, column = (self.node("Unsqueeze", x, self.constant([a], _INT)) for a in (2, 3))
            return self.node("Squeeze", self.node("MatMul", row, column), self.constant([3], _INT))

        def einsum() -> str:
            v = self.node("Einsum", x, x, equation=self.any_of("btd,btd->bt", "...d,...d->..."))
            return self.node("Unsqueeze", v, self.constant([-1], _INT))

        return str(
            self.any_of(
                lambda: self.over_rows("ReduceSum", self.squared(x, twin)),
                lambda: self.over_rows("ReduceSumSquare", x),
                lambda: self.node("Pow", self.over_rows("ReduceL2", x), self.constant(2.0)),
                product,
                einsum,
            )()
        )

    def with_epsilon(self, v: str) -> str:
        """A value with an epsilon or a floor."""
        e, half = self.constant(1e-4), self.constant(5e-5)
        return str(
            self.any_of(
                lambda: self.node("Add", v, e),
                lambda: self.node("Add", e, v),
                lambda: self.node("Max", v, e),
                lambda: self.node("Clip", v, e),
                lambda: self.node("Sum", v, e),
                lambda: self.node("Add", v, self.node("CastLike", e, v)),
                lambda: self.node("Add", self.node("Add", v, half), half),
                lambda: self.node("Where", self.node("Greater", v, e), v, e),
            )()
        )


def wild(kind: str, random: np.random.Generator) -> onnx.ModelProto:
    """A model with one norm of a kind, of x [2, 4, 8], some of whose sizes may have names."""
    w = Wild(random, 18)
    x = c = w.same("x")
    twin = c
    if kind == "layer":
        mean = w.same(w.row_mean(x))
        c = w.any_of(
            lambda: w.node("Sub", x, mean),
            lambda: w.node("Sum", x, w.node("Neg", mean)),
            lambda: w.node("Neg", w.node("Sub", mean, x)),
        )()
        twin = w.node("Sub", x, w.row_mean(x)) if w.maybe(0.2) else c
    if kind == "l2":
        v = w.row_total(c, twin)
    elif kind == "layer" and w.maybe(0.2):
        v = w.node("Sub", w.row_mean(w.squared(x, x)), w.squared(mean, mean))
    elif w.maybe():
        v = w.row_mean(w.squared(c, twin))
    else:
        v = w.over_count(w.row_total(c, twin))
    v = w.with_epsilon(w.clamped(w.same(v)))
    y = w.divided(c, w.clamped(v))
    y = w.node("Mul", y, w.constant(np.arange(1, WIDTH + 1))) if w.maybe() else y
    sizes = [f"d{i}" if i < 2 and w.maybe(0.4) else size for i, size in enumerate(SHAPE)]
    graph = helper.make_graph(
        w.nodes,
        "norm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in w.constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
