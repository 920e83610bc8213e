"""Perplexity of a causal language model with FP16 norms, in six accumulators, scaled and not.

    python -m benchmarks.real_models MODEL.onnx IDS.npy [--sequence-length N] [--max-sequences N]
                                     [--bos ID] [--estimate probe weights] [--apply fold]

FP32 is run once; every other figure emulates an accelerator that rounds each step of each norm.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import get_args

import numpy as np
import onnx

from slanc_onnx.accelerator import Accelerator, Accumulate
from slanc_onnx.emulate import emulate
from slanc_onnx.fold import apply_fold, fold
from slanc_onnx.fold_report import fold_line
from slanc_onnx.graph import read_graph
from slanc_onnx.inputs import input_specs, make_feeds
from slanc_onnx.load import load_model
from slanc_onnx.norm import Norm
from slanc_onnx.norms import find_norms_in
from slanc_onnx.perplexity import Tokens, negative_log_likelihood, perplexity, read_tokens
from slanc_onnx.rewrite import apply_scales_in
from slanc_onnx.runtime import Feeds, Session
from slanc_onnx.scale import compute_scales_in, scales_to_apply


def main() -> int:
    """Print one row per accumulator."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--sequence-length", type=int, default=1024)
    parser.add_argument("--max-sequences", type=int, default=4)
    parser.add_argument("--bos", type=int)
    parser.add_argument("--apply", choices=("div", "fold"), default="div")
    parser.add_argument("--estimate", nargs="*", default=["probe", "weights"])
    args = parser.parse_args()
    tokens = read_tokens(args.tokens, args.sequence_length, args.max_sequences, args.bos)
    folder = args.model.parent
    model = load_model(args.model)
    scopes = read_graph(model, folder)
    norms = find_norms_in(scopes)
    specs = input_specs(scopes[0])
    rng = np.random.default_rng(0)
    feeds: list[Feeds] = [
        make_feeds(specs, rng, sequence=ids.shape[1], ids=ids) for ids in tokens.sequences
    ]
    versions: dict[str, tuple[onnx.ModelProto, list[Norm]]] = {"none": (model, norms)}
    for estimate in args.estimate:
        started = time.perf_counter()
        decided = compute_scales_in(model, scopes, norms, folder=folder, estimate=estimate)
        rewritten = onnx.ModelProto()
        rewritten.CopyFrom(model)
        wanted = scales_to_apply(decided)
        if args.apply == "fold":
            folded, _ = fold(rewritten, scopes, decided, Accelerator(), folder)
            apply_fold(rewritten, folded, folder)
            print(fold_line(len(norms), folded))
        else:
            apply_scales_in(rewritten, norms, wanted)
        versions[estimate] = rewritten, find_norms_in(read_graph(rewritten, folder))
        seconds = time.perf_counter() - started
        print(f"{estimate}: {len(wanted)} of {len(norms)} norms scaled in {seconds:.1f} s")
    exact, _ = _measure(model, {}, feeds, tokens, folder)
    print(f"FP32 perplexity {exact:.4f}", flush=True)
    for accumulate in get_args(Accumulate):
        for flush in (False, True):
            accelerator = Accelerator(accumulate, flush)
            figures = []
            for name, (version, its_norms) in versions.items():
                emulated = emulate(version, its_norms, accelerator)
                value, lost = _measure(
                    emulated.model, emulated.mean_squares, feeds, tokens, folder
                )
                figures.append(f"{name} {value:.4f} ({value / exact - 1:+.3%}, {lost} rows lost)")
            print(f"{accumulate}, {'flushed' if flush else 'kept'}: " + "; ".join(figures),
                  flush=True)  # fmt: skip
    return 0


def _measure(
    model: onnx.ModelProto, taps: dict[str, str], feeds: list[Feeds], tokens: Tokens, folder: Path
) -> tuple[float, int]:
    """Perplexity, and the rows whose mean square is not finite."""
    session = Session(model, folder)
    losses, lost = [], 0
    for feed, ids in zip(feeds, tokens.sequences, strict=True):
        values = session.run(feed)
        losses.append(negative_log_likelihood(values["logits"], ids))
        lost += sum(int(np.count_nonzero(~np.isfinite(values[tap]))) for tap in taps.values())
    return perplexity(losses), lost


if __name__ == "__main__":
    sys.exit(main())
