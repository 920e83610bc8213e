"""What the small sample models share: seeded weights, descriptions and the command line.

A builder of a small model makes the same bytes on every machine: its weights come from the frozen
random stream of `numpy.random.RandomState` and need no function that rounds differently elsewhere.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from sample_models.graph_builder import GraphBuilder


class SeededWeights:
    """Random weights, declared one after the other as initializers of a graph."""

    def __init__(self, g: GraphBuilder, seed: int) -> None:
        self._g = g
        self._random = np.random.RandomState(seed)

    def matrix(self, name: str, rows: int, columns: int, gain: float = 1.0) -> str:
        """Declare a matrix [in, out] that multiplies the RMS of its input by about `gain`."""
        return self._g.initializer(name, self._uniform((rows, columns)) * (gain * rows**-0.5))

    def table(self, name: str, rows: int, columns: int, rms: float) -> str:
        """Declare a table of embeddings whose elements have the given root mean square."""
        return self._g.initializer(name, self._uniform((rows, columns)) * rms)

    def vector(self, name: str, size: int, center: float, spread: float) -> str:
        """Declare a gamma, beta or bias: evenly spread over center ± spread."""
        return self._g.initializer(name, center + spread * self._uniform((size,)) * 3**-0.5)

    def _uniform(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Draw with mean 0 and variance 1; uniform needs no logarithm, unlike normal."""
        return self._random.uniform(-1.0, 1.0, shape) * 3**0.5


def finish(g: GraphBuilder, name: str, description: str) -> onnx.ModelProto:
    """Return the built model, with the descriptions that a rewrite must keep."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.onnx"
        g.save(path)
        model = onnx.load(path)
    model.doc_string = description
    model.producer_name = "slanc-onnx sample_models"
    model.domain = "sample_models"
    model.model_version = 1
    helper.set_model_props(model, {"architecture": name, "weights": "random, seeded"})
    model.graph.doc_string = f"Main graph of {name}"
    model.graph.metadata_props.add(key="built_by", value=f"sample_models.{name}")
    for node in model.graph.node:
        node.metadata_props.add(key="scope", value=node.name.rpartition("/")[0] or "/")
    return model


def main(build: Callable[[], onnx.ModelProto], description: str | None, source: str) -> None:
    """Build a small model and write it.

    Args:
        build: the builder to call.
        description: what `--help` prints.
        source: path of the builder's script; the model goes beside it by default.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(source).with_suffix(".onnx")
    parser.add_argument("output", type=Path, nargs="?", default=default, help="ONNX file to write")
    output: Path = parser.parse_args().output
    try:
        output.write_bytes(build().SerializeToString(deterministic=True))
    except OSError as error:
        parser.exit(2, f"ERROR: {output}: {error.strerror or error}\n")
    print(output)
