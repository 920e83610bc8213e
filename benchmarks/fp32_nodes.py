"""How long it takes to find the nodes that have to stay in FP32, on MiniLM with larger scores.

Queries and keys of every layer are made larger by powers of two and the scores smaller again, so
that the model is the same in FP32, bit by bit, and the product of queries and keys leaves FP16.

    python -m benchmarks.fp32_nodes minilm.onnx 1 16
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.minilm import check_minilm
from benchmarks.missing import told
from slanc_onnx.norms import ReadModel, read_model
from slanc_onnx.options import Options
from slanc_onnx.run import validation_inputs
from slanc_onnx.verify import find_fp32_nodes, validate_on


def with_larger_scores(model: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    """A copy whose queries and keys are `factor` times as large, and whose scores are the same."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    values = {t.name: t for t in copy.graph.initializer}
    makers = {name: node for node in copy.graph.node for name in node.output}
    for node in copy.graph.node:
        scores = re.fullmatch(r"(.*)/MatMul_3", node.name)
        if scores is None:
            continue
        for addition in ("Add", "Add_1"):
            add = next(n for n in copy.graph.node if n.name == f"{scores[1]}/{addition}")
            product = next(n for n in map(makers.get, add.input) if n is not None)
            for name in (*add.input, *product.input):
                if name in values:
                    _multiply(values[name], factor)
        scaling = next(n for n in copy.graph.node if n.name == f"{scores[1]}/Mul")
        constant = next(name for name in scaling.input if name in values)
        own = f"{scores[1]}/scale"
        value = numpy_helper.to_array(values[constant]) / np.float32(factor * factor)
        copy.graph.initializer.append(numpy_helper.from_array(value, own))
        scaling.input[list(scaling.input).index(constant)] = own
    return copy


def _multiply(tensor: onnx.TensorProto, factor: float) -> None:
    value = numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row per factor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("factors", type=float, nargs="+")
    args = parser.parse_args(arguments)
    original = onnx.load(args.model)
    check_minilm(original)
    print("| factor | verdict | nodes in FP32 | lists tried | seconds |")
    for factor in args.factors:
        read = read_model(with_larger_scores(original, factor))
        print(f"| {factor:g} | {' | '.join(_row(read))} |")
    return 0


def _row(read: ReadModel) -> list[str]:
    options = Options(fp32_nodes=True)
    inputs = validation_inputs(read, options)
    validation = validate_on(read, read, options, inputs)
    started = time.perf_counter()
    found = find_fp32_nodes(read, read, options, inputs, validation)
    seconds = time.perf_counter() - started
    word = "passes" if validation.passed else "fails"
    listed = f"{len(found.names)} of {found.nodes}" if found.works else "none found"
    return [word, listed, str(found.tried), f"{seconds:.1f}"]


if __name__ == "__main__":
    sys.exit(told(main))
