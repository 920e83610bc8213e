"""Sentence similarity with FP16 norms: does all-MiniLM-L6-v2 still rank pairs as it did?

    python -m benchmarks.similarity MODEL.onnx TEXT.txt

500 pairs of neighbouring sentences of the text. Prints Spearman's rank correlation of their cosine
similarities to those in FP32, and the largest change of a similarity, with and without scales.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from benchmarks.minilm import Floats, embeddings, sentences
from benchmarks.scales import MODES, SCALES, read_source, scaled_model, scales_by
from slanc_onnx.emulate import emulate

PAIRS = 500


def main() -> int:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--scales", nargs="+", choices=SCALES, default=["none", "paper", "probe"])
    args = parser.parse_args()
    source = read_source(args.model)
    feeds = sentences(args.text, PAIRS + 1)
    exact = similarities(embeddings(source.model, feeds, source.folder))
    print(f"| sums, subnormals | {' | '.join(args.scales)} |\n|---|{'---|' * len(args.scales)}")
    for mode in args.modes:
        cells = []
        for scales in args.scales:
            model, norms = scaled_model(source, scales_by(source, scales, MODES[mode]))
            emulated = emulate(model, norms, MODES[mode])
            found = similarities(embeddings(emulated.model, feeds, source.folder))
            change = np.abs(found - exact).max()
            cells.append(f"{spearman(exact, found):.6f} (largest change {change:.2g})")
        print(f"| {mode} | {' | '.join(cells)} |", flush=True)
    return 0


def similarities(rows: Floats) -> Floats:
    """Cosines of neighbouring rows of length 1, shape [rows - 1]."""
    return np.asarray(np.sum(rows[:-1] * rows[1:], axis=1))


def spearman(a: Floats, b: Floats) -> float:
    """Pearson's correlation of the ranks; nan where a value is.

    Spearman, "The proof and measurement of association between two things", 1904. Without ties,
    which cosines of different sentences do not have.
    """
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    first, second = (np.argsort(np.argsort(values)).astype(np.float64) for values in (a, b))
    return float(np.corrcoef(first, second)[0, 1])


if __name__ == "__main__":
    sys.exit(main())
