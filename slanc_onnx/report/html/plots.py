"""The pictures of the HTML report, drawn by matplotlib as SVG that takes its colours from the page.

Every colour here is a stand-in that becomes a CSS variable, so that one picture serves light, dark
and print. What a colour tells, a shape or a word tells too.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from slanc_onnx.errors import SlancError
from slanc_onnx.graph import Array
from slanc_onnx.report.rows import NormRow

# Stand-ins; the page gives the hues of Okabe and Ito's palette for colour-blind readers.
BEFORE, AFTER, INK, LIMIT, FAINT = "#d55e01", "#0072b3", "#010101", "#010102", "#010103"
_VARIABLES = {
    BEFORE: "--before",
    AFTER: "--after",
    INK: "--ink",
    LIMIT: "--limit",
    FAINT: "--faint",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "slanc",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
}
BINS, LEAST_SHOWN = 60, 0.5
MOST_DRAWN = 150  # histograms, of some 15 kB each


def check_matplotlib() -> None:
    """Raises SlancError where matplotlib is missing, or does not start."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise SlancError(
            "--html draws with matplotlib. Install it: pip install 'slanc-onnx[plots]'."
        ) from error
    except ValueError as error:  # of MPLBACKEND or a matplotlibrc
        raise SlancError(f"--html draws with matplotlib, which does not start: {error}.") from error


def overview(norms: Sequence[NormRow], form: str, seen: bool, narrow: bool = False) -> str:
    """Every norm's sums of squares before and after against the limits, as an SVG element.

    Args:
        norms: In the order of the network.
        form: The format's name, for the limits.
        seen: Whether the bands are observed rows, not predictions.
        narrow: For a phone: as tall as it is wide.
    """
    if not norms:
        return ""
    import matplotlib

    with matplotlib.rc_context({**_STYLE, "font.size": 11 if narrow else 10}):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.6, 6.2) if narrow else (11.0, 5.6), layout="constrained")
        axes = figure.subplots()
        what = "rows" if seen else "prediction"
        _band(axes, norms, "before", BEFORE, f"{what} as exported", "///")
        _band(axes, norms, "after", AFTER, f"{what} with the scales", None)
        _marks(axes, norms)
        _limits(axes, norms, form)
        _skipped(axes, norms)
        axes.set_yscale("log")
        _decades(axes.yaxis)
        axes.set_ylabel("sum of squares of a row")
        axes.set_xlim(0.4, len(norms) + 0.6)
        axes.set_ylim(*_range(norms))
        _ticks(axes, norms, 6 if narrow else 16)
        columns = 1 if narrow else 3
        place: dict[str, Any] = {"loc": "outside upper left", "ncols": columns, "frameon": False}
        figure.legend(**place, markerscale=1 / _mark_size(norms))
        words = "Sums of squares of every norm before and after scaling, against the limits"
        return _inline(figure, "narrow" if narrow else "wide", words)


def _band(
    axes: Any, norms: Sequence[NormRow], which: str, colour: str, label: str, hatch: str | None
) -> None:
    """Least, median and largest; a norm of which nothing is known leaves a gap."""
    spreads = [n.before if which == "before" else n.after for n in norms]
    low, middle, high = (
        np.array([math.nan if s is None else getattr(s, k) for s in spreads])
        for k in ("low", "middle", "high")
    )
    edges = np.arange(0.5, len(norms) + 1)
    shape = {"baseline": low, "fill": True}
    axes.stairs(high, edges, **shape, facecolor=colour, alpha=0.25, linewidth=0)
    if hatch:  # apart, because a hatch has the colour of the edge, here that of the face
        axes.stairs(
            high,
            edges,
            **shape,
            facecolor="none",
            edgecolor=colour,
            alpha=0.45,
            hatch=hatch,
            linewidth=0.5,
        )
    dashes = (0, (4, 2)) if hatch else "solid"
    axes.stairs(
        middle,
        edges,
        baseline=None,
        color=colour,
        linewidth=1.8,
        linestyle=dashes,
        label=f"{label}: median line, all rows band",
    )


def _range(norms: Sequence[NormRow]) -> tuple[float, float]:
    """All that is drawn, and some room."""
    spreads = [s for n in norms for s in (n.before, n.after) if s is not None]
    found = [value for s in spreads for value in (s.low, s.high)]
    for n in norms:
        predicted = [v / n.factor for v in (n.typical, n.upper, n.bound) if v is not None]
        found += [*predicted, n.overflow or 0.0, n.subnormal or 0.0]
    usable = [v for v in found if v > 0 and math.isfinite(v)] or [1.0]
    return min(usable) / 4, max(usable) * 4


def _mark_size(norms: Sequence[NormRow]) -> float:
    """How large marks are, so that those of many norms stay apart; 1 for a few."""
    return max(0.25, min(1.0, 120 / len(norms)))


def _marks(axes: Any, norms: Sequence[NormRow]) -> None:
    kinds = (
        ("typical", "_", INK, "predicted typical row, scaled"),
        ("upper", "^", "none", "predicted largest row, scaled"),
        ("bound", "D", AFTER, "certified: no input exceeds it"),
    )
    size = _mark_size(norms)
    for key, marker, face, label in kinds:
        values = [getattr(n, key) for n in norms]
        if any(v is not None for v in values):
            pairs = zip(values, norms, strict=True)
            y = [math.nan if v is None else v / n.factor for v, n in pairs]
            axes.plot(
                range(1, len(norms) + 1),
                y,
                linestyle="none",
                marker=marker,
                label=label,
                markersize=4.5 * size,
                markerfacecolor=face,
                markeredgecolor=INK,
                markeredgewidth=0.8 * size,
            )


def _limits(axes: Any, norms: Sequence[NormRow], form: str) -> None:
    edges = np.arange(0.5, len(norms) + 1)
    for key, style, words, above in (
        ("overflow", "solid", f"{form} overflows above", True),
        ("normal", "dashed", "mean square subnormal below", False),
        ("subnormal", "dotted", "mean square zero below", False),
    ):
        values = [getattr(n, key) for n in norms]
        known = np.array([math.nan if v is None else v for v in values])
        if np.isnan(known).all():
            continue
        axes.stairs(known, edges, baseline=None, color=LIMIT, linewidth=1.3, linestyle=style)
        first = float(known[np.flatnonzero(~np.isnan(known))[0]])
        axes.annotate(
            words,
            (0.7, first),
            (2, 4 if above else -11),
            textcoords="offset points",
            color=LIMIT,
            fontsize=9,
        )


def _skipped(axes: Any, norms: Sequence[NormRow]) -> None:
    skipped = [n.number for n in norms if n.decided.status == "skipped"]
    for number in skipped:
        axes.axvspan(
            number - 0.5, number + 0.5, facecolor="none", edgecolor=FAINT, hatch="xxx", linewidth=0
        )
    if skipped:
        axes.plot(
            skipped,
            [0.98] * len(skipped),
            transform=axes.get_xaxis_transform(),
            marker="x",
            linestyle="none",
            color=INK,
            markersize=5,
            label="skipped",
        )


def _decades(axis: Any) -> None:
    """Powers of ten as plain text, which is drawn ten times as fast as mathtext."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    small = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: "10" + str(round(math.log10(value))).translate(small))
    )


def _ticks(axes: Any, norms: Sequence[NormRow], most: int) -> None:
    """Where layers start, if the names tell; the norm's number otherwise."""
    starts: dict[int, int] = {}
    for norm in norms:
        if norm.layer is not None:
            starts.setdefault(norm.layer, norm.number)
    if len(starts) > 1 and list(starts) == sorted(starts):
        step = math.ceil(len(starts) / most)
        chosen = list(starts.items())[::step]
        axes.set_xticks([at for _, at in chosen], [str(layer) for layer, _ in chosen])
        axes.set_xlabel("layer")
        return
    axes.set_xticks(range(1, len(norms) + 1, math.ceil(len(norms) / most)))
    axes.set_xlabel("norm, in the order of the network")


def histograms(norms: Sequence[NormRow]) -> list[str]:
    """Per norm its rows before and after on one axis (the paper's figure 3), "" where not run.

    All share the range of sums, so that they can be compared by eye. Of very many norms those that
    lost rows come first, and the rest is left out.
    """
    import matplotlib

    run = [n for n in norms if len(n.rows_before) and len(n.rows_after)]
    first = sorted(run, key=lambda n: (not n.overflows_after, not n.overflows_before, n.number))
    shown = first[:MOST_DRAWN]
    numbers = {norm.number for norm in shown}
    if not shown:
        return ["" for _ in norms]
    every = [
        v
        for n in shown
        for v in (
            n.rows_before.min(),
            n.rows_before.max(),
            n.rows_after.min(),
            n.rows_after.max(),
            n.overflow,
            n.subnormal,
        )
        if v
    ]
    edges = np.geomspace(min(every) / 2, max(every) * 2, BINS + 1)
    with matplotlib.rc_context({**_STYLE, "font.size": 9}):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.0, 2.1))
        axes = figure.add_axes((0.09, 0.23, 0.89, 0.72))
        axes.set_xscale("log")
        _decades(axes.xaxis)
        axes.set_xlabel("sum of squares of a row")
        axes.set_ylabel("rows")
        axes.set_yscale("log")  # one massive activation among thousands of rows has to show
        _decades(axes.yaxis)
        drawn: list[str] = []
        for norm in norms:
            if norm.number not in numbers:
                drawn.append("")
                continue
            pieces = _histogram(axes, norm, edges)
            words = f"Rows of {norm.name} by their sum of squares, before and after"
            drawn.append(_inline(figure, f"h{norm.number}", words))
            for piece in pieces:
                piece.remove()
        return drawn


def _histogram(axes: Any, norm: NormRow, edges: Array) -> list[Any]:
    """What is drawn for one norm, to be taken off again: figures are slow to set up."""
    pieces: list[Any] = []
    top = 1.0
    for rows, colour, hatch, style in (
        (norm.rows_before, BEFORE, "///", "dashed"),
        (norm.rows_after, AFTER, None, "solid"),
    ):
        counts = np.histogram(rows, edges)[0]
        top = max(top, float(counts.max()))
        filled = np.flatnonzero(counts)
        part = slice(int(filled[0]), int(filled[-1]) + 1)
        heights, bins = np.maximum(counts[part], LEAST_SHOWN), edges[part.start : part.stop + 1]
        shape = {"baseline": LEAST_SHOWN, "fill": True}
        pieces.append(axes.stairs(heights, bins, **shape, facecolor=colour, alpha=0.25))
        if hatch:
            pieces.append(
                axes.stairs(
                    heights,
                    bins,
                    **shape,
                    facecolor="none",
                    edgecolor=colour,
                    alpha=0.6,
                    hatch=hatch,
                    linewidth=0,
                )
            )
        pieces.append(
            axes.stairs(
                heights, bins, baseline=LEAST_SHOWN, color=colour, linewidth=1.2, linestyle=style
            )
        )
    for value, style in (
        (norm.overflow, "solid"),
        (norm.normal, "dashed"),
        (norm.subnormal, "dotted"),
    ):
        if value:
            pieces.append(axes.axvline(value, color=LIMIT, linewidth=1.2, linestyle=style))
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(LEAST_SHOWN, 2 * top)
    return pieces


def _inline(figure: Any, prefix: str, words: str) -> str:
    """The figure as an SVG element whose ids no other has, in the page's colours."""
    written = io.StringIO()
    figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    text = written.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", text)  # hundredths of a point are enough
    text = re.sub(r"\s*\n\s*", " ", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, f"var({variable})")
    label = words.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg", f'<svg class="{prefix}" role="img" aria-label="{label}"', 1)
