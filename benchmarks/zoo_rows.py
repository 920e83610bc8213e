"""What the whole job does to one export, held against what its framework knows of its norms.

An export is a folder: `model.onnx`, `truth.json` with what the framework knows, `io.npz` with
inputs (`in__NAME`) and the names of the outputs that count (`ref__NAME`).
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from slanc_onnx import Accelerator, Options, ScaledNorm, SlancError, protect_file
from slanc_onnx.apply.fold.folding import Fold
from slanc_onnx.feed import Range
from slanc_onnx.graph.load import load_model
from slanc_onnx.options import ApplyRule, EmulateRule, EstimateRule
from slanc_onnx.report.wording import reasons_text
from slanc_onnx.run.isolation import CannotRun
from slanc_onnx.run.session import Feeds, Session

DEVICE = Accelerator("sequential", True)  # the strictest FP16: it flushes subnormals
NORMALISED = ("layernorm", "rmsnorm", "rmsnorm_gated")  # the kinds that the targets count
Truth = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """How the exports are run: without `default_inputs` on those that are stored with them."""

    default_inputs: bool = False
    estimate: EstimateRule = "auto"
    apply: ApplyRule = "div"
    emulate: EmulateRule = "norms"


@dataclass
class Row:
    """What happened to one model."""

    name: str
    expected: int
    verdict: str = ""
    same_outputs: bool | None = None  # as ONNX Runtime runs the files; None: it does not
    identical: bool | None = None  # with FP16 and BF16 tensors in FP32; None: not validated
    idempotent: bool = True
    before: int = 0
    after: int = 0
    hot: bool = False
    seconds: float = 0.0
    norms: list[ScaledNorm] = field(default_factory=list)
    reports: dict[str, str] = field(default_factory=dict)  # reasons of norms without a scale
    typical: list[float] = field(default_factory=list)  # log10 of predicted / middle of the truth
    upper: list[float] = field(default_factory=list)  # log10 of predicted / the truth's maximum
    bound: list[float] = field(default_factory=list)  # log10 of the bound / the truth's maximum
    misses: list[str] = field(default_factory=list)
    fold: Fold | None = None
    errors: tuple[float, float] = (0.0, 0.0)  # largest before, RMS after; see `Validation`


def exports_in(folder: Path) -> list[Path]:
    """The exports of a folder, by name.

    Raises:
        SlancError: it holds none.
    """
    found = sorted(path.parent for path in folder.glob("*/model.onnx"))
    if not found:
        raise SlancError(f"{folder}: holds no folder with a model.onnx.")
    return found


def stored_inputs(folder: Path) -> tuple[Feeds, list[str]]:
    """The inputs that are stored with an export, and which of its outputs count."""
    if not (folder / "io.npz").exists():
        return {}, []
    with np.load(folder / "io.npz") as file:
        feeds = {key[4:]: file[key] for key in file.files if key.startswith("in__")}
        return feeds, [key[5:] for key in file.files if key.startswith("ref__")]


def ranges_of(feeds: Feeds) -> dict[str, Range]:
    """The least and the largest element of each input of floats."""
    floats = {k: v for k, v in feeds.items() if v.dtype.kind == "f" and v.size}
    return {name: Range(float(v.min()), float(v.max())) for name, v in floats.items()}


def run_export(folder: Path, setting: Setting) -> Row:
    """Everything that is measured of one export; what goes wrong is its verdict."""
    truth: Truth = json.loads((folder / "truth.json").read_text())
    row = Row(folder.name, int(truth["norm_sites_in_graph"]))
    feeds, names = stored_inputs(folder)
    options = Options(
        estimate=setting.estimate,
        inputs=None if setting.default_inputs or not feeds else feeds,
        accelerator=DEVICE,
        feeds=ranges_of(feeds),
        apply=setting.apply,
        emulate=setting.emulate,
    )
    source = folder / "model.onnx"
    with tempfile.TemporaryDirectory() as scratch:
        output, second = Path(scratch) / "out.onnx", Path(scratch) / "again.onnx"
        started = time.perf_counter()
        try:
            outcome = protect_file(source, output, options)
            row.seconds = time.perf_counter() - started
            row.norms, row.fold = outcome.norms, outcome.fold
            if output.exists():
                again = replace(options, validate=False)
                protect_file(output, second, again)
                row.idempotent = output.read_bytes() == second.read_bytes()
                row.same_outputs = _same_outputs(source, output, feeds, names)
        except SlancError as error:
            row.verdict = f"ERROR: {error}"
            return row
        except Exception as error:
            row.verdict = f"TRACEBACK: {type(error).__name__}: {error}"
            return row
    result = outcome.validation
    row.verdict = "no norm"
    if row.norms:
        row.verdict = "PASSED" if outcome.passed else "FAILED" if result else "not validated"
    if result is not None:
        row.before, row.after = result.overflowed_before, result.overflowed_after
        row.identical = result.fp32_identical
        row.errors = result.rounded_error_before, result.rounded_rms_error
    row.hot = any(n["sumsq_max"] > 65504 for n in truth["norms"] if n.get("in_graph", True))
    for scaled in row.norms:
        if scaled.status == "skipped":
            row.reports[scaled.norm.name] = reasons_text(scaled.reasons)
    if truth.get("truth_valid", True):
        _hold_against(truth, row)
    return row


def _same_outputs(source: Path, output: Path, feeds: Feeds, names: Sequence[str]) -> bool | None:
    """Whether ONNX Runtime gives the same bits for the named outputs; None if it runs neither."""
    models = load_model(source), load_model(output)
    try:
        before = Session(models[0], source.parent).run(feeds)
    except CannotRun:
        return None
    after = Session(models[1], output.parent).run(feeds)
    named = [name for name in names if name in before]
    return all(before[n].tobytes() == after[n].tobytes() for n in named)


def _hold_against(truth: Truth, row: Row) -> None:
    """Compare predictions with what the framework saw, norm by norm in the order of both."""
    known = [n for n in truth["norms"] if n.get("in_graph", True)]
    modules: dict[str, list[Truth]] = {}
    for norm in known:
        modules.setdefault(norm["module"], []).append(norm)
    calls = [[n] for n in known] if len(known) == len(row.norms) else list(modules.values())
    if len(calls) != len(row.norms):
        return
    for scaled, call in zip(_in_truth_order(row.norms, calls), calls, strict=True):
        certificate = scaled.certificate
        bounded = None if certificate is None else certificate.bound.length
        estimate = scaled.estimate
        if estimate is None or scaled.status == "skipped" or call[0]["kind"] not in NORMALISED:
            continue
        prefix = "centred_" if scaled.norm.kind == "layer" else ""
        low = min(c[f"{prefix}sumsq_min"] for c in call)
        high = max(c[f"{prefix}sumsq_max"] for c in call)
        if high <= 0:
            continue
        if bounded is not None:
            row.bound.append(math.log10(bounded**2 / high))
            if row.bound[-1] < 0:
                row.misses.append(f"{scaled.norm.name}: bound {bounded**2:.6g}, truth {high:.6g}")
        middle = math.sqrt(max(low, high * 1e-12) * high)
        row.typical.append(math.log10(estimate.typical / middle))
        row.upper.append(math.log10(estimate.upper / high))
        if abs(row.typical[-1]) > 1 or row.upper[-1] < 0:
            row.misses.append(
                f"{scaled.norm.name}: typical {estimate.typical:.3g} and upper "
                f"{estimate.upper:.3g} by {estimate.by}, truth {low:.3g} to {high:.3g}"
            )


def _in_truth_order(norms: Sequence[ScaledNorm], calls: Sequence[list[Truth]]) -> list[ScaledNorm]:
    """The norms in the framework's order: widths must agree, which q_norm before k_norm may not."""
    left, ordered = list(norms), []
    for call in calls:
        fits = (n for n in left if n.norm.width in (None, call[0]["dim"]))
        found = next(fits, left[0])
        left.remove(found)
        ordered.append(found)
    return ordered
