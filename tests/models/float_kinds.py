"""Small FP32 models, one for each kind of place where a converter to 16 bits can go wrong.

Each says what the schemas of its ops leave in FP32, and how many Casts that takes, inputs and
outputs of the model included.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Values = Mapping[str, NDArray[Any]]
HEAD = '<ir_version: {ir}, opset_import: ["": {opset}, "com.microsoft": 1, "local": 1]>\n'


@dataclass(frozen=True)
class Kind:
    """A model.

    Attributes:
        name: What it is about.
        text: Its graph and functions, in the syntax of onnx.parser.
        feeds: What it is run with.
        weights: Its initializers.
        full: The types of the ops that stay in FP32, sorted.
        casts: How many Casts are inserted.
        removed: How many Casts of the model go.
    """

    name: str
    text: str
    feeds: Values = field(default_factory=dict)
    weights: Values = field(default_factory=dict)
    full: tuple[str, ...] = ()
    casts: int = 2
    removed: int = 0
    opset: int = 18
    ir: int = 10

    @property
    def model(self) -> onnx.ModelProto:
        """The model, as an exporter would have written it."""
        head = HEAD.format(ir=self.ir, opset=self.opset)
        model = onnx.parser.parse_model(head + self.text)
        model.graph.initializer.extend(
            numpy_helper.from_array(w, n) for n, w in self.weights.items()
        )
        return model

    def __str__(self) -> str:
        return self.name


def floats(*shape: int, seed: int = 0, spread: float = 1.0) -> NDArray[np.float32]:
    """Random numbers round zero."""
    return (np.random.default_rng(seed).normal(size=shape) * spread).astype(np.float32)


X = {"x": floats(2, 4)}
W = {"w": floats(4, 4, seed=1)}
IO = "(float[2, 4] x) => (float[2, 4] y)"
T = np.array(True)


def ints(*values: int) -> NDArray[np.int64]:
    """Indices."""
    return np.array(values, np.int64)
