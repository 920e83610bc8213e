"""Scaling before and after what else a pipeline does to a file: optimisers and quantisers.

    python -m benchmarks.order MODEL.onnx ... [--apply fold] [--length N] [--only WORD ...]

Per model and tool T: the norms found in T(model) and in T(scaled model), the rows that are lost
with FP16 norms, whether FP32 outputs are those of T(model) bit for bit, and how many norms a second
run still knows as scaled. A tool that is not installed is named with the reason.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx

from benchmarks.interactions import (
    DEVICE,
    Arrays,
    copy,
    fused,
    int4,
    int8,
    outputs,
    same_outputs,
)
from benchmarks.markdown import heading, line
from benchmarks.missing import positive, told
from slanc_onnx import Options, find_norms, protect
from slanc_onnx.graph.inputs import input_specs
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.options import ApplyRule
from slanc_onnx.run.inputs import make_feeds
from slanc_onnx.run.session import Feeds, Session
from slanc_onnx.run.sizes import Sizes
from slanc_onnx.verify.emulate.norms import emulate

Tool = Callable[[onnx.ModelProto, Feeds], onnx.ModelProto]


def slim(model: onnx.ModelProto, _: Feeds) -> onnx.ModelProto:
    """onnxslim, as its command does it."""
    import onnxslim

    made: onnx.ModelProto = onnxslim.slim(model)
    return made


def simplified(model: onnx.ModelProto, _: Feeds) -> onnx.ModelProto:
    """onnxsim, as its command does it."""
    import onnxsim

    made, works = onnxsim.simplify(model)
    if not works:
        raise RuntimeError("onnxsim says that its model is not the same")
    simple: onnx.ModelProto = made
    return simple


def of_onnxscript(model: onnx.ModelProto, _: Feeds) -> onnx.ModelProto:
    """onnxscript.optimizer, which torch.onnx.export runs."""
    import onnxscript.optimizer

    made: onnx.ModelProto = onnxscript.optimizer.optimize(model)
    return made


def for_transformers(model: onnx.ModelProto, _: Feeds) -> onnx.ModelProto:
    """The optimiser of onnxruntime.transformers, which fuses norms into Skip norms."""
    from onnxruntime.transformers.optimizer import optimize_model

    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, f"{folder}/in.onnx")
        made: onnx.ModelProto = optimize_model(f"{folder}/in.onnx", "bert", opt_level=0).model
        return made


def static_int8(model: onnx.ModelProto, feeds: Feeds) -> onnx.ModelProto:
    """Weights and activations of MatMul as int8, between QuantizeLinear and DequantizeLinear."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[Feeds] = iter([feeds])

        def get_next(self) -> Feeds | None:
            return next(self.left, None)

    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, f"{folder}/in.onnx")
        types = {"DefaultTensorType": onnx.TensorProto.FLOAT}
        given = {"op_types_to_quantize": ["MatMul", "Gemm"], "extra_options": types}
        quantize_static(f"{folder}/in.onnx", f"{folder}/out.onnx", Reader(), **given)
        return onnx.load(f"{folder}/out.onnx")


TOOLS: dict[str, Tool] = {
    "onnxslim": slim,
    "onnxsim": simplified,
    "onnxscript.optimizer": of_onnxscript,
    "ORT, extended level": lambda model, _: fused(model),
    "onnxruntime.transformers": for_transformers,
    "int4 (MatMulNBits)": lambda model, _: int4(model),
    "int8 dynamic": lambda model, _: int8(model),
    "int8 static (QDQ)": static_int8,
}
TITLES = (
    "T",
    "norms: T alone, T after scaling",
    "rows lost: T alone",
    "scaled after T",
    "scaled before T",
    "FP32 as T alone: scaled after T",
    "scaled before T",
    "known to a second run",
)


def main() -> int:
    """Print a Markdown table per model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--apply", choices=["div", "fold"], default="div")
    parser.add_argument("--length", type=positive, default=64)
    parser.add_argument("--only", nargs="+", default=[""], help="tools in whose name a word is")
    args = parser.parse_args()
    if not any(word in name for name in TOOLS for word in args.only):
        parser.error(f"--only: none of {', '.join(TOOLS)} has such a name")
    logging.disable(logging.WARNING)
    for path in args.models:
        model = onnx.load(path)
        specs = input_specs(read_graph(model)[0])
        feeds = make_feeds(specs, np.random.default_rng(0), Sizes(batch=4, sequence=args.length))
        print(f"\n{path.stem}, --apply {args.apply}, FP16 norms: {DEVICE}\n")
        print(heading(TITLES))
        for name, tool in TOOLS.items():
            if any(word in name for word in args.only):
                print(line([name, *cells(model, tool, feeds, args.apply)]), flush=True)
    return 0


def cells(model: onnx.ModelProto, tool: Tool, feeds: Feeds, apply: ApplyRule) -> list[str]:
    """One tool, as the cells of its row after its name."""
    try:
        alone = tool(copy(model), feeds)
    except ImportError as error:
        return [f"not run: {error}", *[""] * (len(TITLES) - 2)]
    except Exception as error:
        return [f"not run: {' '.join(str(error).split())[:100]}", *[""] * (len(TITLES) - 2)]
    options = Options(accelerator=DEVICE, certify="off", apply=apply)
    after, before = copy(alone), copy(model)
    protect(after, options)
    protect(before, options)
    before = tool(before, feeds)
    exact = outputs(alone, feeds)
    seen = protect(copy(before), options)
    known = sum(norm.status == "unchanged" for norm in seen)
    return [
        f"{len(find_norms(alone))}, {len(find_norms(before))}",
        *(str(lost(version, feeds)) for version in (alone, after, before)),
        *(said(exact, outputs(version, feeds)) for version in (after, before)),
        f"{known} of {len(seen)}",
    ]


def lost(model: onnx.ModelProto, feeds: Feeds) -> int:
    """How many rows lose their norm where norms are computed in FP16."""
    emulated = emulate(model, find_norms(model), DEVICE)
    values = Session(emulated.model, None).run(feeds)
    taps = emulated.mean_squares.values()
    return sum(int(np.count_nonzero(~np.isfinite(values[t]))) for t in taps)


def said(exact: Arrays, found: Arrays) -> str:
    """Whether outputs are the same, or the largest difference over the largest output."""
    if same_outputs(exact, found):
        return "the same"
    largest = max(float(np.abs(value).max()) for value in exact.values())
    apart = max(float(np.abs(found[name] - value).max()) for name, value in exact.items())
    return f"off by {apart / largest:.1e}"


if __name__ == "__main__":
    sys.exit(told(main))
