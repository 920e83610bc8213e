"""Random ways to write a norm, made from its definition by algebra that changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

KINDS = ("layer", "rms", "group", "l2")
WIDTH, GROUPS = 8, 2


@dataclass
class Writer:
    """Collects the nodes of one model; the choices are those of a random generator."""

    random: np.random.Generator
    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """One more node; the name of its output."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """A constant as an initializer, or as a node."""
        name = f"k{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        if self.maybe(0.2):
            tensor = numpy_helper.from_array(self.constants.pop(name), name)
            self.constants[f"{name}_unused"] = np.zeros(1, np.float32)
            return self.node("Constant", value=tensor)
        return name

    def maybe(self, share: float = 0.5) -> bool:
        """True in that share of the cases."""
        return bool(self.random.random() < share)

    def any_of(self, *choices: Any) -> Any:
        """One of several choices."""
        return choices[self.random.integers(len(choices))]

    def reduced(self, op: str, x: str, axes: list[int]) -> str:
        """A reduction with its axes kept, or put back by Unsqueeze."""
        kept = self.maybe(0.7) or op == "ReduceL2"
        as_input = self.opset >= (13 if op == "ReduceSum" else 18)
        given = [self.constant(axes, np.int64)] if as_input else []
        more = {} if as_input else {"axes": axes}
        y = self.node(op, x, *given, keepdims=int(kept), **more)
        if kept:
            return y
        if self.opset >= 13:
            return self.node("Unsqueeze", y, self.constant(sorted(axes), np.int64))
        return self.node("Unsqueeze", y, axes=sorted(axes))

    def same(self, x: str) -> str:
        """A value behind ops that leave it as it is, now and then."""
        if self.maybe(0.1):
            x = self.node("Identity", x)
        if self.maybe(0.1):
            x = self.node("Cast", x, to=TensorProto.FLOAT)
        return x

    def clamped(self, v: str) -> str:
        """A value that is not negative behind a clamp that does not bind, now and then."""
        if not self.maybe(0.3):
            return v
        infinite = self.any_of(3.4e38, np.inf)
        return str(
            self.any_of(
                lambda: self.node("Max", v, self.constant(0.0)),
                lambda: self.node("Min", v, self.constant(infinite)),
                lambda: self.node("Relu", v),
                lambda: self.node("Abs", v),
                lambda: self.node("Clip", v, self.constant(0.0), self.constant(3.4e38)),
            )()
        )

    def square(self, x: str) -> str:
        """A square."""
        return self.node("Mul", x, x) if self.maybe() else self.node("Pow", x, self.constant(2.0))

    def total(self, x: str, axes: list[int], count: int, averaged: bool) -> str:
        """The sum or mean of squares."""
        if averaged and self.maybe():
            return self.reduced("ReduceMean", self.square(x), axes)
        if self.maybe(0.3):
            total = self.reduced("ReduceSumSquare", x, axes)
        else:
            total = self.reduced("ReduceSum", self.square(x), axes)
        return self.by_count(total, count) if averaged else total

    def by_count(self, total: str, count: int) -> str:
        """A sum over its number of addends."""
        if self.maybe():
            return self.node("Div", total, self.constant(float(count)))
        return self.node("Mul", total, self.constant(1.0 / count))

    def mean(self, x: str, axes: list[int], count: int) -> str:
        """The mean of a row."""
        if self.maybe(0.7):
            return self.reduced("ReduceMean", x, axes)
        return self.by_count(self.reduced("ReduceSum", x, axes), count)

    def divided(self, x: str, variance: str) -> str:
        """A value over the root of its variance."""
        way = self.random.integers(5)
        if way == 0:
            return self.node("Mul", x, self.node("Pow", variance, self.constant(-0.5)))
        half = self.constant(0.5)
        root = self.node("Sqrt", variance) if self.maybe() else self.node("Pow", variance, half)
        root = self.same(self.clamped(root))
        if way == 1:
            return self.node("Mul", x, self.node("Reciprocal", root))
        if way == 2:
            return self.node("Mul", self.node("Div", self.constant(1.0), root), x)
        return self.node("Div", x, root)


def written(kind: str, random: np.random.Generator) -> onnx.ModelProto:
    """A model with one norm of a kind, of x [2, 4, 8] or, in groups, [2, 4, 6, 2]."""
    w = Writer(random, int(random.choice([13, 17, 18, 21])))
    shape = [2, 4, 6, 2] if kind == "group" else [2, 4, WIDTH]
    x, axes, count = w.same("x"), [w.any_of(-1, 2)], WIDTH
    if kind == "group":
        x = w.node("Reshape", x, w.constant([2, GROUPS, -1], np.int64))
        count = 24
    elif w.maybe(0.2):
        axes, count = w.any_of([-1, -2], [1, 2], [2, 1]), 4 * WIDTH
    c = x
    one_pass = kind in ("layer", "group") and w.maybe(0.25)
    if kind in ("layer", "group"):
        mu = w.same(w.mean(x, axes, count))
        c = w.node("Add", x, w.node("Neg", mu)) if w.maybe(0.2) else w.node("Sub", x, mu)
        c = w.same(c)
    if one_pass:
        variance = w.node("Sub", w.total(x, axes, count, True), w.square(mu))
    else:
        variance = w.total(c, axes, count, kind != "l2")
    variance = w.clamped(w.same(variance))
    epsilon = w.constant(1e-5, np.float32)
    joined = w.node("Max", variance, epsilon) if w.maybe(0.15) else ""
    joined = joined or w.node("Add", *w.any_of((variance, epsilon), (epsilon, variance)))
    y = w.divided(c, w.clamped(joined))
    if kind == "group":
        y = w.node("Reshape", y, w.constant(shape, np.int64))
    elif w.maybe():
        y = w.node("Mul", y, w.constant(np.arange(1, WIDTH + 1)))
        y = w.node("Add", y, w.constant(np.arange(WIDTH))) if w.maybe() else y
    y = w.node("Identity", y)
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", y)]
    weights = [numpy_helper.from_array(value, name) for name, value in w.constants.items()]
    graph = helper.make_graph(w.nodes, "norm", infos[:1], infos[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", w.opset)], ir_version=8)
