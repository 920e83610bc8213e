"""all-MiniLM-L6-v2 with FP16 norms: cosine of sentence embeddings to FP32, and the paper's scales.

    python -m benchmarks.minilm MODEL.onnx TEXT.txt [--apply fold]

MODEL.onnx as `python -m sample_models.real_minilm MODEL.onnx` makes it; TEXT.txt has a sentence
per line. The packages of the `samples` extra bring weights and tokenizer.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import onnx

from sample_models.real_minilm import model_directory
from slanc_onnx import Options, compute_scales
from slanc_onnx.accelerator import Accelerator, Accumulate
from slanc_onnx.emulate import emulate
from slanc_onnx.fold import apply_fold, fold
from slanc_onnx.graph import read_graph
from slanc_onnx.load import load_model, read_tensor
from slanc_onnx.norms import find_norms_in
from slanc_onnx.rewrite import apply_scales_in
from slanc_onnx.runtime import Feeds, Session
from slanc_onnx.scale import scales_to_apply

SENTENCES = 500
Floats = npt.NDArray[np.float64]


def main() -> int:
    """Print the scales of the paper's equations against NumPy, then one row per accumulator."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--apply", choices=("div", "fold"), default="div")
    args = parser.parse_args()
    model, folder = load_model(args.model), args.model.parent
    _check_paper(model, folder)
    feeds = sentences(args.text)
    exact = embeddings(model, feeds, folder)
    for scale in ("window", "paper") if args.apply == "div" else ("window",):
        decided = compute_scales(model, Options(scale=scale), folder=folder)
        rewritten = onnx.ModelProto()
        rewritten.CopyFrom(model)
        wanted = scales_to_apply(decided)
        if args.apply == "fold":
            folded, _ = fold(rewritten, read_graph(model, folder), decided, Accelerator(), folder)
            apply_fold(rewritten, folded, folder)
        else:
            apply_scales_in(rewritten, [d.norm for d in decided], wanted)
        norms = find_norms_in(read_graph(rewritten, folder))
        print(f"{scale}: {len(wanted)} of {len(decided)} norms scaled")
        for accumulate in get_args(Accumulate):
            for flush in (False, True):
                emulated = emulate(rewritten, norms, Accelerator(accumulate, flush))
                cosine = np.sum(exact * embeddings(emulated.model, feeds, folder), axis=1)
                kept = "flushed" if flush else "kept"
                print(f"  {accumulate}, {kept}: cosine to FP32 min {cosine.min():.6f}, "
                      f"mean {cosine.mean():.6f}", flush=True)  # fmt: skip
    return 0


def sentences(text: Path, count: int = SENTENCES) -> list[Feeds]:
    """Inputs for the first lines of the text that are longer than 40 characters."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_directory() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    lines = [line.strip() for line in text.read_text(encoding="utf-8").splitlines()]
    chosen = [line for line in lines if len(line) > 40][:count]
    feeds: list[Feeds] = []
    for encoding in tokenizer.encode_batch(chosen):
        ids = np.array([encoding.ids], dtype=np.int64)
        mask, kinds = np.ones_like(ids), np.zeros_like(ids)
        feeds.append({"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds})
    return feeds


def embeddings(model: onnx.ModelProto, feeds: list[Feeds], folder: Path) -> Floats:
    """Mean over the tokens, of length 1, shape [sentences, 384]."""
    session = Session(model, folder)
    rows = [session.run(f)["last_hidden_state"][0].astype(np.float64).mean(axis=0) for f in feeds]
    stacked = np.stack(rows)
    return np.asarray(stacked / np.linalg.norm(stacked, axis=1, keepdims=True))


def _check_paper(model: onnx.ModelProto, folder: Path) -> None:
    """Equations 5 and 10, written down in NumPy from the initializers, against --scale paper."""
    weights = {t.name: t for t in model.graph.initializer}

    def read(name: str) -> Floats:
        return read_tensor(weights[name], folder).astype(np.float64)

    decided = compute_scales(model, Options(scale="paper"), folder=folder)
    identity = np.eye(384)
    worst, before = 0.0, "embeddings.LayerNorm"
    for i in range(6):
        layer = f"encoder.layer.{i}"
        gamma = np.diag(read(f"{before}.weight"))
        value = read(f"{layer}.attention.self.value.weight")
        project = read(f"{layer}.attention.output.dense.weight")
        attention = np.linalg.norm(gamma @ (value @ project + identity))
        before = f"{layer}.attention.output.LayerNorm"
        gamma = np.diag(read(f"{before}.weight"))
        e, g = read(f"{layer}.intermediate.dense.weight"), read(f"{layer}.output.dense.weight")
        mlp = np.linalg.norm(gamma @ (e @ g + identity))
        before = f"{layer}.output.LayerNorm"
        for printed, norm in ((attention, decided[2 * i + 1]), (mlp, decided[2 * i + 2])):
            assert norm.scale is not None and math.isfinite(norm.scale)
            worst = max(worst, abs(norm.scale / float(printed) - 1))
    print(f"equations 5 and 10 in NumPy FP64 against --scale paper: relative error {worst:.2g}")


if __name__ == "__main__":
    sys.exit(main())
