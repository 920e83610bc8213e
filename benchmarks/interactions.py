"""Scaling before and after quantisation, pruning and ONNX Runtime's fusions.

    python -m benchmarks.interactions MODEL.onnx ... [--length N]

Per model and transformation T, against T(model): norms found and scaled, whether FP32 outputs are
bit-identical, and the rows lost and the relative RMS error of the outputs with FP16 norms, for T
alone, for scaling after T, and for T after scaling.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, numpy_helper

from benchmarks.markdown import heading, line
from benchmarks.missing import positive, told
from slanc_onnx import Accelerator, Options, find_norms, protect
from slanc_onnx.graph.inputs import input_specs
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.run.inputs import make_feeds
from slanc_onnx.run.session import Feeds, Session
from slanc_onnx.run.sizes import Sizes
from slanc_onnx.verify.emulate.norms import emulate

Arrays = dict[str, npt.NDArray[np.float64]]
DEVICE = Accelerator("pairwise")


def as_it_is(model: onnx.ModelProto) -> onnx.ModelProto:
    """No transformation."""
    return model


def int4(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights of MatMul in blocks of 32 as MatMulNBits."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(model, block_size=32, is_symmetric=True)
    quantizer.process()
    made: onnx.ModelProto = quantizer.model.model
    return made


def int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights as int8, activations quantised as the model runs."""
    from onnxruntime.quantization import quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, f"{folder}/in.onnx")
        types = {"DefaultTensorType": TensorProto.FLOAT}  # custom ops stop its shape inference
        quantize_dynamic(f"{folder}/in.onnx", f"{folder}/out.onnx", extra_options=types)
        return onnx.load(f"{folder}/out.onnx")


def pruned(model: onnx.ModelProto) -> onnx.ModelProto:
    """The smaller half of every matrix set to zero, by magnitude."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2:
            weight = numpy_helper.to_array(tensor).copy()
            weight[np.abs(weight) < np.median(np.abs(weight))] = 0
            tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    return model


def fused(model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime's own optimiser at its extended level, which fuses norms."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = f"{folder}/out.onnx"
        options.log_severity_level = 3
        ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        return onnx.load(f"{folder}/out.onnx")


TRANSFORMATIONS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "none": as_it_is,
    "int4 (MatMulNBits)": int4,
    "int8 dynamic": int8,
    "50 % pruned": pruned,
    "ORT fused": fused,
}


def main() -> int:
    """Print a Markdown table per model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--length", type=positive, default=64)
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # the quantiser tells of every MatMul
    for path in args.models:
        model = onnx.load(path)
        specs = input_specs(read_graph(model)[0])
        feeds = make_feeds(specs, np.random.default_rng(0), Sizes(batch=4, sequence=args.length))
        print(f"\n{path.stem}, FP16 norms: {DEVICE}\n")
        titles = (
            "T",
            "norms",
            "scaled after T, before T",
            "FP32 identical",
            "rows lost, T alone",
            "after T",
            "before T",
            "RMS error, T alone",
            "after T",
            "before T",
        )
        print(heading(titles))
        for name, transform in TRANSFORMATIONS.items():
            print(line([name, *row(model, transform, feeds)]), flush=True)
    return 0


def row(
    model: onnx.ModelProto, transform: Callable[[onnx.ModelProto], onnx.ModelProto], feeds: Feeds
) -> list[str]:
    """One transformation, as the cells of its row."""
    alone = transform(copy(model))
    after = copy(alone)
    scaled_after = scaled(after)
    before = copy(model)
    scaled_before = scaled(before)
    before = transform(before)
    exact = outputs(alone, feeds)
    lost, errors = [], []
    for version in (alone, after, before):
        emulated = emulate(version, find_norms(version), DEVICE)
        values = Session(emulated.model, None).run(feeds)
        taps = emulated.mean_squares.values()
        lost.append(str(sum(int(np.count_nonzero(~np.isfinite(values[t]))) for t in taps)))
        errors.append(f"{rms(exact, {n: v.astype(np.float64) for n, v in values.items()}):.2g}")
    same = [same_outputs(exact, outputs(version, feeds)) for version in (after, before)]
    words = ["yes" if is_same else "no" for is_same in same]
    return [
        f"{len(find_norms(alone))}, {len(find_norms(before))}",
        f"{scaled_after}, {scaled_before}",
        ", ".join(words),
        *lost,
        *errors,
    ]


def copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Transformations and scaling change a model in place."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made


def scaled(model: onnx.ModelProto) -> int:
    """Scale a model in place; gives how many norms were."""
    options = Options(accelerator=DEVICE, certify="off")
    return sum(norm.status == "scaled" for norm in protect(model, options))


def outputs(model: onnx.ModelProto, feeds: Feeds) -> Arrays:
    """In FP32, by name."""
    found = Session(model, None).run(feeds)
    return {name: value.astype(np.float64) for name, value in found.items()}


def same_outputs(a: Arrays, b: Arrays) -> bool:
    """Whether all are the same to the last bit; FP64 holds FP32."""
    return all(np.array_equal(a[name], b[name]) for name in a)


def rms(exact: Arrays, found: Arrays) -> float:
    """Root mean square of the difference over that of the outputs; inf where one is not finite."""
    error = sum(float(np.sum((found[name] - exact[name]) ** 2)) for name in exact)
    total = sum(float(np.sum(exact[name] ** 2)) for name in exact)
    return float(np.sqrt(error / total)) if np.isfinite(error) else float("inf")


if __name__ == "__main__":
    sys.exit(told(main))
