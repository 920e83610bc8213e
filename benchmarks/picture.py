"""Draw a report: the sums of squares of every norm before and after, against the FP16 limits.

    python -m benchmarks.picture REPORT.json OUT.svg [--title TEXT]

REPORT.json comes from `slanc-onnx ... --report REPORT.json`; needs matplotlib.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.missing import picture_file, read_json, told

OVERFLOW, SMALLEST_NORMAL = 65504.0, 2.0**-14
BEFORE, AFTER = "#c4553b", "#2b6cb0"


def main() -> int:
    """Write the picture and print what it shows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("output", type=picture_file)
    parser.add_argument("--title", default="")
    args = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    report = read_json(args.report)
    found = report.get("norms", []) if isinstance(report, dict) else []
    norms = [n for n in found if n["observed"] and None not in n["observed"]["scaled"]]
    if not norms:
        parser.error(f"{args.report}: is no --report of a run that was validated, or has no norm")
    x = np.arange(len(norms))
    plt.rcParams["svg.fonttype"] = "none"
    plt.rcParams["svg.hashsalt"] = "slanc"
    figure, axes = plt.subplots(figsize=(9, 4.2), constrained_layout=True)
    for key, colour, words in (
        ("sum_of_squares", BEFORE, "as exported"),
        ("scaled", AFTER, "after slanc-onnx"),
    ):
        low, middle, high = np.array([n["observed"][key] for n in norms], dtype=float).T
        axes.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0)
        axes.plot(x, middle, color=colour, linewidth=1.6, label=words)
        print(
            f"{words}: sums of squares up to {high.max():.3g}, medians {middle.min():.3g} to "
            f"{middle.max():.3g}; {np.count_nonzero(high > OVERFLOW)} of {len(x)} norms above "
            f"{OVERFLOW:g}"
        )
    _limits(axes, np.array([n["width"] for n in norms]) * SMALLEST_NORMAL)
    axes.set_xlim(0, max(len(norms) - 1, 1))
    axes.set_title(args.title, loc="left", fontsize=11)
    dated = {"Date": None} if args.output.suffix == ".svg" else None
    figure.savefig(args.output, dpi=130, metadata=dated)
    return 0


def _limits(axes: Any, floor: NDArray[np.float64]) -> None:
    """What FP16 has room for, and the words around the picture.

    Args:
        axes: Of matplotlib.
        floor: Per norm, the sum of squares below which the mean square is subnormal.
    """
    axes.axhline(OVERFLOW, color="black", linewidth=1)
    axes.annotate(
        "FP16 overflows above 65504", (0, OVERFLOW), (2, 4), textcoords="offset points", fontsize=9
    )
    axes.plot(np.arange(len(floor)), floor, color="black", linewidth=1, linestyle="--")
    axes.annotate(
        "mean square subnormal below",
        (0, floor[0]),
        (2, -12),
        textcoords="offset points",
        fontsize=9,
    )
    axes.set_yscale("log")
    axes.set_xlabel("norm, in the order of the network")
    axes.set_ylabel("sum of squares of a row")
    axes.set_ylim(bottom=floor.min() / 20)
    axes.legend(
        loc="upper left",
        fontsize=9,
        frameon=False,
        title_fontsize=9,
        title="line: median row, band: all rows",
        alignment="left",
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


if __name__ == "__main__":
    sys.exit(told(main))
