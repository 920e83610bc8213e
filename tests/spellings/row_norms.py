"""Norms whose rows are not the last axis alone, as the text of a model with nothing else in it.

Which elements make a row, and which weight each has, is written down per element and looked up in
a loop, so that nothing here depends on how the library moves axes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.norms.row_axes import RowAxes
from slanc_onnx.ops.fused import Kind
from tests.oracles.half_norm import HalfNorm
from tests.versions import needs_onnx_runtime

EPSILON = 1e-5
Index = tuple[int, ...]
Floats = NDArray[np.float32]

HEADER = """
<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]>
main ({x} x) => ({x} y)
<float eps = {{1e-5}}, float one = {{1}}, float two = {{2}}, float minus_half = {{-0.5}}>
{{ {nodes} }}
"""


@dataclass(frozen=True)
class RowNorm:
    """A norm of `x` in text form, and what it computes.

    Attributes:
        title: What is special about it.
        kind: "layer", "rms" or "group".
        axes: How the rows should be found to lie.
        width: Elements per row as far as the file tells.
        x: Type of the input and the output, in the text syntax of onnx.parser.
        shape: Of one sample to run it on.
        row: The row of the element at an index, as anything that tells rows apart.
        nodes: In the text syntax of onnx.parser; the constants are those of `HEADER`, g and b.
        weights: The shape of gamma and beta.
        weight: Where the element at an index has its gamma and beta in the flat arrays.
        opset: Of the standard domain.
        gamma: Whether gamma is applied.
        beta: Whether beta is added.
        runs_since: The least ONNX Runtime that takes weights of this shape.
    """

    title: str
    kind: Kind
    axes: RowAxes
    width: int | None
    x: str
    shape: tuple[int, ...]
    row: Callable[..., object]
    nodes: str
    weights: tuple[int, ...] = ()
    weight: Callable[..., int] = lambda *index: 0
    opset: int = 17
    gamma: bool = True
    beta: bool = True
    runs_since: tuple[int, ...] = (1, 23)

    def __str__(self) -> str:
        return f"{self.kind}: {self.title}"

    def needs_its_runtime(self) -> None:
        """Skip the test where ONNX Runtime refuses this norm."""
        needs_onnx_runtime(*self.runs_since, for_what="LayerNormalization whose gamma broadcasts")

    def affine(self) -> dict[str, Floats]:
        """Gamma and beta, as far as the norm has them."""
        random = np.random.default_rng(7)
        both = {n: random.normal(size=self.weights).astype(np.float32) for n in "gb"}
        return {n: v for n, v in both.items() if (self.gamma if n == "g" else self.beta)}

    def model(self) -> onnx.ModelProto:
        text = HEADER.format(opset=self.opset, x=self.x, nodes=self.nodes)
        model = onnx.parser.parse_model(text)
        model.graph.initializer.extend(
            numpy_helper.from_array(values, name) for name, values in self.affine().items()
        )
        return model

    def samples(self, sizes: Sequence[float]) -> Floats:
        """One sample of random numbers per size, and two of constants."""
        x = np.random.default_rng(0).normal(size=(len(sizes) + 2, *self.shape))
        x[:-2] *= np.reshape(sizes, (-1, *[1] * len(self.shape)))
        x[-2], x[-1] = 3.25, 0
        return x.astype(np.float32)

    def rows(self, x: NDArray[np.generic]) -> list[list[Index]]:
        """The places of the elements of each row, in the order in which `x` has them."""
        found: dict[object, list[Index]] = {}
        for index in np.ndindex(x.shape):
            found.setdefault(self.row(*index), []).append(index)
        return list(found.values())

    def _constants(self, places: list[Index]) -> tuple[list[float], list[float]]:
        """Gamma and beta of the elements of a row; [] for one that the norm does not have."""
        flat = {name: values.reshape(-1).tolist() for name, values in self.affine().items()}
        places_in = [self.weight(*index) for index in places]
        gamma, beta = ([flat[n][i] for i in places_in] if n in flat else [] for n in "gb")
        return gamma, beta

    def sums(self, x: Floats) -> NDArray[np.float64]:
        """The sum of squares of each row, centred unless it is an RMSNorm, in float64."""
        rows = [np.array([x[i] for i in places], np.float64) for places in self.rows(x)]
        centred = [row if self.kind == "rms" else row - row.mean() for row in rows]
        return np.array([(row**2).sum() for row in centred])

    def truth(self, x: Floats) -> NDArray[np.float64]:
        """The norm's definition, in float64."""
        y = np.empty(x.shape)
        for places, total in zip(self.rows(x), self.sums(x), strict=True):
            row = np.array([x[i] for i in places], np.float64)
            if self.kind != "rms":
                row = row - row.mean()
            row = row / np.sqrt(total / row.size + EPSILON)
            gamma, beta = self._constants(places)
            for i, value in zip(places, row * (gamma or 1) + (beta or 0), strict=True):
                y[i] = value
        return y

    def in_half(self, x: Floats, device: Accelerator) -> tuple[Floats, Floats]:
        """The norm in a loop of float16 operations, and its mean squares."""
        loop = HalfNorm(device, "rms" if self.kind == "rms" else "layer", EPSILON)
        y, mean_squares = np.empty(x.shape, np.float32), []
        for places in self.rows(x):
            row, mean_square = loop.row([float(x[i]) for i in places], *self._constants(places))
            mean_squares.append(mean_square)
            for i, value in zip(places, row, strict=True):
                y[i] = value
        return y, np.array(mean_squares, np.float32)
