"""MiniLM in FP64 with one step rounded: what a running sum of squares in FP16 costs.

    python -m benchmarks.minilm_sums MODEL.onnx [--sequences 10]

MODEL.onnx as `python -m sample_models.real_minilm MODEL.onnx` makes it. All is computed in FP64 by
NumPy, which owes nothing to the emulator or to ONNX Runtime; of the LayerNorms the adds of the sum
behind the mean, or of the sum of squares, are rounded to FP16. The squares are summed in the order
of the channels, in a tree, and from the channel with the smallest mean square on. Ids are random.
The least cosine of a row of the last hidden state, and the median, against the same without
rounding.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from benchmarks.markdown import table
from benchmarks.minilm import check_minilm
from benchmarks.missing import positive, told

Floats = npt.NDArray[np.float64]
Sum = Callable[[Floats], Floats]  # over the last axis
_FIRST, _LAST, _IDS = 101, 102, (999, 30000)  # [CLS], [SEP], and words


def exact(x: Floats) -> Floats:
    """The sum in FP64."""
    return np.asarray(x.sum(axis=-1))


def running(x: Floats) -> Floats:
    """One running sum whose every add is rounded to FP16."""
    total = np.zeros(x.shape[:-1], np.float16)
    for i in range(x.shape[-1]):
        total = (total.astype(np.float64) + x[..., i]).astype(np.float16)
    return total.astype(np.float64)


def tree(x: Floats) -> Floats:
    """Halves added to each other, rounded to FP16, until one number is left."""
    while x.shape[-1] > 1:
        half, odd = divmod(x.shape[-1], 2)
        added = x[..., :half] + x[..., half : 2 * half]
        rounded = added.astype(np.float16).astype(np.float64)
        x = np.concatenate([rounded, x[..., 2 * half :]], axis=-1) if odd else rounded
    return np.asarray(x[..., 0])


def smallest_first(x: Floats) -> Floats:
    """A running sum from the channel with the smallest mean on, over all rows."""
    return running(x[..., np.argsort(x.reshape(-1, x.shape[-1]).mean(axis=0))])


WAYS: dict[str, tuple[Sum, Sum]] = {
    "sum behind the mean, in order": (running, exact),
    "sum of squares, in order": (exact, running),
    "sum of squares, in a tree": (exact, tree),
    "sum of squares, small channels first": (exact, smallest_first),
}


class InFloat64:
    """The ops of the model in FP64.

    Args:
        model: With its weights.
        mean: How the sum behind the mean of a LayerNorm is formed.
        squares: How its sum of squares is.
    """

    def __init__(self, model: onnx.ModelProto, mean: Sum, squares: Sum) -> None:
        self._graph, self._mean, self._squares = model.graph, mean, squares
        self._weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}

    def run(self, feeds: dict[str, npt.NDArray[np.int64]]) -> Floats:
        """The first output."""
        values = {**self._weights, **feeds}
        for node in self._graph.node:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            read = [np.asarray(values[name]) for name in node.input]
            read = [x.astype(np.float64) if x.dtype == np.float32 else x for x in read]
            values[node.output[0]] = self._op(node.op_type, read, attributes)
        return np.asarray(values[self._graph.output[0].name], np.float64)

    def _op(
        self, op: str, read: Sequence[npt.NDArray[np.generic]], attributes: dict[str, object]
    ) -> npt.NDArray[np.generic]:
        x, *others = read
        if op == "LayerNormalization":
            return self._norm(np.asarray(x, np.float64), others, float(str(attributes["epsilon"])))
        if op == "Softmax":
            shares = np.exp(x - x.max(axis=-1, keepdims=True))
            return np.asarray(shares / shares.sum(axis=-1, keepdims=True))
        if op == "Erf":
            return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x))
        if op == "Transpose":
            return x.transpose(attributes["perm"])  # type: ignore[call-overload, no-any-return]
        plain = {
            "Add": np.add,
            "Sub": np.subtract,
            "Mul": np.multiply,
            "Div": np.divide,
            "MatMul": np.matmul,
            "Gather": lambda data, at: np.take(data, at, axis=int(str(attributes.get("axis", 0)))),
            "Shape": lambda data: np.array(data.shape),
            "Range": np.arange,
            "Unsqueeze": lambda data, axes: np.expand_dims(data, tuple(axes.tolist())),
            "Cast": lambda data: data.astype(np.float64),
            "Reshape": _reshaped,
        }
        return np.asarray(plain[op](x, *others))  # type: ignore[operator]

    def _norm(self, x: Floats, affine: Sequence[npt.NDArray[np.generic]], epsilon: float) -> Floats:
        width = x.shape[-1]
        centred = x - (self._mean(x) / width)[..., None]
        variance = self._squares(centred * centred) / width
        gamma, beta = affine
        return np.asarray(centred / np.sqrt(variance + epsilon)[..., None] * gamma + beta)


def _reshaped(x: Floats, shape: npt.NDArray[np.int64]) -> Floats:
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(shape.tolist())])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--sequences", type=positive, default=10, help="of 16 random ids each")
    args = parser.parse_args(arguments)
    model, rng = onnx.load(args.model), np.random.default_rng(0)
    check_minilm(model)
    feeds = []
    for _ in range(args.sequences):
        ids = rng.integers(*_IDS, (1, 16))
        ids[0, 0], ids[0, -1] = _FIRST, _LAST
        mask, kinds = np.ones_like(ids), np.zeros_like(ids)
        feeds.append({"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds})
    plain = [InFloat64(model, exact, exact).run(feed) for feed in feeds]
    rows = []
    for name, sums in WAYS.items():
        found = [InFloat64(model, *sums).run(feed) for feed in feeds]
        cosines = np.concatenate([_cosines(*pair) for pair in zip(plain, found, strict=True)])
        rows.append([name, f"{cosines.min():.7f}", f"{np.median(cosines):.7f}"])
    print(table(["rounded to FP16", "least cosine", "median"], rows))
    return 0


def _cosines(one: Floats, other: Floats) -> Floats:
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return np.asarray((one * other).sum(axis=-1) / lengths).reshape(-1)


if __name__ == "__main__":
    sys.exit(told(main))
