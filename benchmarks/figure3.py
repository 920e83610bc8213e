"""The paper's figure 3: sums of squares of two consecutive norms before and after scaling.

    python -m benchmarks.figure3 MODEL.onnx IDS.npy OUT.svg [--norm N] [--bos ID] [--scales probe]

Draws four histograms (one row of two per norm) and prints what they show; needs matplotlib.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from benchmarks.missing import picture_file, positive, told
from benchmarks.scales import SCALES, read_source, scales_by
from benchmarks.table1 import feeds_of
from slanc_onnx.accelerator import Accelerator
from slanc_onnx.run.observe import observe_rows
from slanc_onnx.tokens import read_tokens

# What a norm is divided by: a folded model's groups and calibration's data are not known here.
KINDS = [scales for scales in SCALES if scales not in ("folded", "calibrated")]
BEFORE, AFTER = "#d55e00", "#0072b2"


def main() -> int:
    """Write the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("output", type=picture_file)
    parser.add_argument(
        "--norm", type=positive, help="of the first norm, from 1; default: the middle"
    )
    parser.add_argument("--bos", type=int)
    parser.add_argument("--scales", choices=KINDS, default="probe")
    parser.add_argument("--sequences", type=positive, default=4)
    parser.add_argument("--sequence-length", type=positive, default=512)
    args = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    source, device = read_source(args.model), Accelerator()
    start = (args.norm or len(source.norms) // 2) - 1
    chosen = source.norms[max(start, 0) : start + 2]
    if len(chosen) < 2:
        parser.error(f"--norm: the model has {len(source.norms)} norms, and two are drawn")
    scales = scales_by(source, args.scales, device)
    tokens = read_tokens(args.tokens, args.sequence_length, args.sequences, args.bos)
    feeds = [feeds_of(source, ids) for ids in tokens.sequences]
    runs = list(observe_rows(source.model, chosen, feeds, source.folder))
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "slanc"})
    figure, grid = plt.subplots(2, 2, figsize=(9, 5.4), constrained_layout=True, sharey=True)
    for norm, pair in zip(chosen, grid, strict=True):
        rows = np.concatenate([run.sums[norm.name].reshape(-1) for run in runs])
        largest, smallest = device.square_limits(norm.width or 1)
        scale = scales.get(norm.name, 1.0)
        for axes, values, colour, words in (
            (pair[0], rows, BEFORE, "as exported"),
            (pair[1], rows / scale**2, AFTER, f"divided by {scale:g}"),
        ):
            lost = int(np.count_nonzero(values > largest))
            least, median, most = values.min(), np.median(values), values.max()
            print(
                f"{norm.name}, {words}: {least:.3g} least, {median:.3g} median, {most:.3g} most, "
                f"{lost} of {len(values)} rows over {largest:g}"
            )
            edges = np.geomspace(values.min() / 2, values.max() * 2, 60)
            axes.hist(values, edges, color=colour)
            axes.axvline(largest, color="black", linewidth=1)
            axes.axvline((norm.width or 1) * smallest, color="black", linewidth=1, linestyle="--")
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_title(f"{norm.name}, {words}", loc="left", fontsize=9)
    figure.supxlabel(
        "sum of squares of a row; solid: overflow, dashed: subnormal mean square", fontsize=9
    )
    figure.supylabel("rows", fontsize=9)
    dated = {"Date": None} if args.output.suffix == ".svg" else None
    figure.savefig(args.output, metadata=dated)
    return 0


if __name__ == "__main__":
    sys.exit(told(main))
