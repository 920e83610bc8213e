"""Whether a merge moves perplexity, or only rounds otherwise: fold and merged file in many ways.

    python -m benchmarks.merge_noise MODEL.onnx IDS.npy [--bos ID] [--sequences 8]
        [--sequence-length 256] [--parts all] [--ways 4] [--modes MODE ...]

Both files are run with norms in FP16 as the accelerator rounds them, and in `--ways` other ways, in
which each result is moved by up to one unit roundoff first. One perplexity of each is one draw of
many: the table has the mean of all ways, their standard deviation, and the difference of both means
with its standard error. Exit status 1 where a difference is above three standard errors and above
the standard deviation of the fold.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from benchmarks.markdown import heading, line
from benchmarks.missing import positive, told
from benchmarks.scales import MODES
from benchmarks.table1 import feeds_of
from slanc_onnx import Accelerator, Options, protect_file
from slanc_onnx.graph import Array
from slanc_onnx.graph.load import load_model
from slanc_onnx.norms import ReadModel, read_model
from slanc_onnx.options import Merge
from slanc_onnx.run import Session, read_in_float32
from slanc_onnx.tokens import read_tokens
from slanc_onnx.verify.emulate import emulate
from slanc_onnx.verify.perplexity import negative_log_likelihood, perplexity

HEADER = (
    "sums, subnormals",
    "fold",
    "its mean",
    "± one way",
    "merged",
    "its mean",
    "± one way",
    "merged less fold, of the means",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, one row per mode as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--bos", type=int)
    parser.add_argument("--sequences", type=positive, default=8)
    parser.add_argument("--sequence-length", type=positive, default=256)
    parser.add_argument("--parts", nargs="+", choices=get_args(Merge), default=["all"])
    parser.add_argument("--ways", type=positive, default=4)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["sequential, kept"])
    args = parser.parse_args(arguments)
    tokens = read_tokens(args.tokens, args.sequence_length, args.sequences, args.bos)
    print(f"{args.model.stem}, {len(tokens.sequences)} x {args.sequence_length} tokens\n")
    print(heading(HEADER))
    moved = False
    for mode in args.modes:
        with tempfile.TemporaryDirectory(dir=args.model.parent) as folder:
            files = [
                _written(args.model, Path(folder, f"{name}.onnx"), MODES[mode], parts)
                for name, parts in (("fold", ()), ("merged", tuple(args.parts)))
            ]
            of = partial(_perplexity, accelerator=MODES[mode], sequences=tokens.sequences)
            fold, merged = ([of(file, way) for way in range(args.ways + 1)] for file in files)
        difference = statistics.mean(merged) - statistics.mean(fold)
        spread = [statistics.stdev(found) for found in (fold, merged)]
        error = math.hypot(*spread) / math.sqrt(args.ways + 1)
        moved |= not abs(difference) <= max(3 * error, spread[0])
        share = 100 / statistics.mean(fold)
        cells = [mode]
        for found, one in zip((fold, merged), spread, strict=True):
            cells += [f"{found[0]:.3f}", f"{statistics.mean(found):.3f}", f"{one * share:.2f} %"]
        print(line([*cells, f"{difference * share:+.2f} ± {error * share:.2f} %"]), flush=True)
    return int(moved)


def _written(model: Path, out: Path, accelerator: Accelerator, parts: Sequence[Merge]) -> ReadModel:
    """The model with its scales in the weights, and with these parts of its norms."""
    how = Options(
        apply="fold", merge=tuple(parts), accelerator=accelerator, certify="off", validate=False
    )
    protect_file(model, out, how)
    return read_model(load_model(out), out.parent)


def _perplexity(
    file: ReadModel, way: int, accelerator: Accelerator, sequences: Sequence[Array]
) -> float:
    """With norms rounded as the accelerator rounds them (way 0), or in another way."""
    model, norms = read_in_float32(file, accelerator)
    rounded = emulate(model, norms, accelerator, loops=False, dither=way)
    session = Session(rounded.model, file.folder)
    losses = [
        negative_log_likelihood(session.run(feeds_of(file, ids))["logits"], ids)
        for ids in sequences
    ]
    return perplexity(losses)


if __name__ == "__main__":
    sys.exit(told(main))
