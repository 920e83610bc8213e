"""Validate: the rewritten model is the same in FP32, and survives FP16 norm arithmetic."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.graph import Array
from slanc_onnx.norms import Norm, as_computed, rounded, scaled_epsilon
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.run import HALF, CannotRun, Feeds, Session, as_float32, instrument, norms_in_float32
from slanc_onnx.tokens import Tokens
from slanc_onnx.verify.compare import Runs, compare, same_bits
from slanc_onnx.verify.emulate import emulate
from slanc_onnx.verify.perplexity import negative_log_likelihood, perplexity
from slanc_onnx.verify.tolerance import (
    FP16_TOLERANCE,
    FP32_TOLERANCE,
    perplexity_tolerance,
    rounding_tolerance,
)

_NONE = np.zeros(0)

COMPARED_RUNS = 4  # outputs of so many runs are kept for comparison; a full text would not fit


@dataclass(frozen=True)
class Observed:
    """What a norm's rows did, over all inputs that were run.

    Attributes:
        sum_of_squares: Of every row in the original, FP32, shape [rows].
        scaled: Of every row in the rewritten model.
        overflowed: Rows whose FP16 mean square is not finite in the rewritten model.
        underflowed: Rows whose FP16 mean square is zero, though the row is not.
        overflowed_before: As `overflowed`, in the original.
    """

    sum_of_squares: Array
    scaled: Array
    overflowed: int
    underflowed: int
    overflowed_before: int


@dataclass(frozen=True)
class Validation:
    """The outcome of running both models in FP32 and with FP16 norms.

    Attributes:
        fp32_tolerance: What is demanded of `fp32_max_relative_error`; 0 for bit-identity.
        fp32_identical: All FP32 outputs of the first `COMPARED_RUNS` runs are the same to the last
            bit, and with tokens the losses of all runs.
        fp32_max_abs_error: Largest absolute difference of an FP32 output.
        fp32_max_relative_error: The same, relative to the output's largest absolute value.
        fp16_error_before: Largest difference of an output with FP16 norms to FP32, relative to the
            output's largest absolute value; inf where an output is not finite. The original's.
        fp16_error_after: The rewritten model's.
        fp16_rms_error: The rewritten model's root mean square difference, relative to the
            output's root mean square.
        rounded_epsilons: Norms whose epsilon is an FP16 tensor of the file, which does not hold
            the divided one exactly.
        observed: By norm name; a norm that was not run is missing.
        perplexity: "fp32", "fp16" and "fp16_slanc", where tokens were given.
        unstable: Outputs left out because the original itself gives other values each time.
        rounded: What was rounded.
        failures: Why the validation failed, empty if it passed.
        fp16_tolerance: What is demanded of `fp16_rms_error`; see `rounding_tolerance`.
    """

    fp32_tolerance: float
    fp32_identical: bool
    fp32_max_abs_error: float
    fp32_max_relative_error: float
    fp16_error_before: float
    fp16_error_after: float
    fp16_rms_error: float
    observed: dict[str, Observed]
    perplexity: dict[str, float] | None
    rounded_epsilons: int = 0
    unstable: list[str] = field(default_factory=list)
    rounded: str = "FP16 norms"
    failures: list[str] = field(default_factory=list)
    fp16_tolerance: float = FP16_TOLERANCE

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def overflowed_before(self) -> int:
        return sum(o.overflowed_before for o in self.observed.values())

    @property
    def overflowed_after(self) -> int:
        return sum(o.overflowed for o in self.observed.values())


def validate_pair(
    original: onnx.ModelProto,
    rewritten: onnx.ModelProto,
    norms: Sequence[Norm],
    rewritten_norms: Sequence[Norm],
    feeds: Sequence[Feeds],
    accelerator: Accelerator,
    *,
    folder: Path | None = None,
    rewritten_folder: Path | None = None,
    exact: bool = True,
    tokens: Tokens | None = None,
    everything: bool = False,
    as_loaded: onnx.ModelProto | None = None,
    progress: Progress = no_progress,
) -> Validation:
    """Run both models on `feeds` and compare, with their FP16 and BF16 tensors in FP32.

    Args:
        original: The model before.
        rewritten: The model after.
        norms: The original's norms.
        rewritten_norms: The rewritten model's norms, with the same names.
        feeds: Inputs by name, one dict per run.
        accelerator: What is emulated.
        folder: Where the external data lies.
        rewritten_folder: Where that of the rewritten model lies; None for the same.
        exact: Whether all scales are powers of two, so that FP32 outputs have to be identical.
        tokens: The ids behind `feeds`, run by run, for the perplexity table.
        everything: Whether all operations are rounded, not the norms' steps alone.
        as_loaded: The original before its functions were inlined, where they were.
        progress: Called with what is being run and the finished share.

    Raises:
        CannotRun: ONNX Runtime cannot run the original on these inputs.
    """
    one_pass, form = accelerator.variance == "one-pass", str(accelerator.format)
    norms, rewritten_norms = (
        norms_in_float32(as_computed(n, one_pass)) for n in (norms, rewritten_norms)
    )
    folders = folder, rewritten_folder or folder
    original, rewritten = as_float32(original, folder), as_float32(rewritten, folders[1])
    loops = _shows_loops(original, norms, feeds[0], folder)
    before = instrument(original, norms, loops=loops)
    after = instrument(rewritten, rewritten_norms, loops=loops)
    half_before = emulate(original, norms, accelerator, loops, everything)
    half_after = emulate(rewritten, rewritten_norms, accelerator, loops, everything)
    jobs = [
        ("FP32, original", before.model, before.sums),
        ("FP32, rewritten", after.model, after.sums),
        ("FP16 norms, original", half_before.model, half_before.mean_squares),
        ("FP16 norms, rewritten", half_after.model, half_after.mean_squares),
    ]
    results = []
    for index, (what, model, taps) in enumerate(jobs):

        def step(done: float, what: str = what, index: int = index) -> None:
            progress(f"validating: {what}", (index + done) / len(jobs))

        results.append(_run(model, taps, feeds, folders[index % 2], tokens, step))
        gc.collect()  # a session holds the weights
    plain, scaled, naive, protected = results
    inexact = _rounded_epsilons(norms, rewritten_norms) if exact else 0
    unstable = _unstable(original, folder, feeds[0], plain, scaled)
    observed = {
        norm.name: _observe(norm.name, plain, scaled, naive, protected)
        for norm in norms
        if plain.rows.get(norm.name, _NONE).size and scaled.rows.get(norm.name, _NONE).size
    }
    fp32 = compare(plain, scaled, unstable)
    halved = compare(plain, protected, unstable, floats_only=True)
    if as_loaded is not None:
        session = Session(as_float32(as_loaded, folder), folder)
        loaded = Runs([session.run(feed) for feed in feeds[:COMPARED_RUNS]], {}, plain.losses)
        fp32 = fp32.and_also(compare(loaded, scaled, unstable))
    losses = {"fp32": plain, "fp16": naive, "fp16_slanc": protected}
    result = Validation(
        fp32_tolerance=0.0 if exact and not inexact else FP32_TOLERANCE,
        rounded_epsilons=inexact,
        fp32_identical=fp32.identical and plain.losses == scaled.losses,
        fp32_max_abs_error=fp32.absolute,
        fp32_max_relative_error=fp32.relative,
        fp16_error_before=compare(plain, naive, unstable, floats_only=True).relative,
        fp16_error_after=halved.relative,
        fp16_rms_error=halved.rms,
        observed=observed,
        perplexity={k: perplexity(r.losses) for k, r in losses.items()} if tokens else None,
        unstable=unstable,
        fp16_tolerance=rounding_tolerance(accelerator, len(norms)),
        rounded=f"everything in {form}" if everything else f"{form} norms",
    )
    result.failures.extend(_failures(result))
    if set(plain.outputs[0]) <= set(unstable):
        result.failures.append("no output can be compared: each run of the original differs")
    return result


def _shows_loops(
    original: onnx.ModelProto, norms: Sequence[Norm], feed: Feeds, folder: Path | None
) -> bool:
    """Whether the rows of norms in loops can be read off: every iteration has as many."""
    try:
        if any(norm.path for norm in norms):
            Session(instrument(original, norms).model, folder).run(feed)
    except CannotRun:
        return False
    return True


def _rounded_epsilons(norms: Sequence[Norm], rewritten: Sequence[Norm]) -> int:
    """How many norms have another epsilon than their scale asks for, exactly."""
    before = {norm.name: norm for norm in norms}
    count = 0
    for norm in rewritten:
        original = before.get(norm.name)
        place = norm.epsilon_place
        if original is None or original.scaled_by or not norm.scaled_by or place is None:
            continue
        exact = scaled_epsilon(original, norm.scaled_by)
        if place.element_type in HALF and exact is not None and exact != norm.epsilon:
            held = rounded(exact, np.dtype(helper.tensor_dtype_to_np_dtype(place.element_type)))
            count += norm.epsilon == float(held)
    return count


def _failures(result: Validation) -> list[str]:
    failures = []
    if not result.fp32_identical and result.fp32_tolerance == 0:
        failures.append("FP32 outputs differ, though every scale is a power of two")
    elif not result.fp32_max_relative_error <= result.fp32_tolerance:
        failures.append("FP32 outputs differ by more than the tolerance")
    overflowed = [name for name, o in result.observed.items() if o.overflowed]
    if overflowed:
        failures.append(f"rows still overflow in {len(overflowed)} norms, first {overflowed[0]!r}")
    if not result.fp16_rms_error <= result.fp16_tolerance:
        failures.append("outputs with FP16 norms are off by more than the tolerance")
    table, allowed = result.perplexity, perplexity_tolerance(result.fp16_tolerance)
    if table is not None and not abs(table["fp16_slanc"] / table["fp32"] - 1) <= allowed:
        failures.append(f"the perplexity with FP16 norms is off by more than {100 * allowed:.3g} %")
    return failures


def _run(
    model: onnx.ModelProto,
    taps: dict[str, str],
    feeds: Sequence[Feeds],
    folder: Path | None,
    tokens: Tokens | None,
    progress: Callable[[float], None],
) -> Runs:
    progress(0.0)
    session = Session(model, folder)
    hidden = set(taps.values()) | {n for n in session.outputs if n.startswith("slanc.emit")}
    kept: list[dict[str, Array]] = []
    rows: dict[str, list[Array]] = {name: [] for name in taps}
    losses: list[float] = []
    for i, feed in enumerate(feeds):
        values = session.run(feed)
        for name, output in taps.items():
            rows[name].append(values[output].reshape(-1))
        outputs = {name: value for name, value in values.items() if name not in hidden}
        if tokens is not None:
            ids = tokens.sequences[i]
            losses.append(negative_log_likelihood(_logits(outputs, ids), ids))
        if i < COMPARED_RUNS:
            kept.append(outputs)
        progress((i + 1) / len(feeds))
    return Runs(kept, {name: np.concatenate(parts) for name, parts in rows.items()}, losses)


def _logits(outputs: dict[str, Array], ids: Array) -> Array:
    for value in outputs.values():
        if value.ndim == 3 and value.shape[:2] == ids.shape and value.shape[2] > int(ids.max()):
            return value
    raise CannotRun(
        "no output holds logits of shape [1, sequence, vocabulary]: --tokens needs a causal "
        "language model, and ids of its own vocabulary."
    )


def _observe(name: str, plain: Runs, scaled: Runs, naive: Runs, protected: Runs) -> Observed:
    sums = plain.rows[name].astype(np.float64)
    after = protected.rows.get(name, np.zeros(0))
    before = naive.rows.get(name, np.zeros(0))
    # What is not finite in FP32 cannot be held against the norm.
    known = np.isfinite(sums) if after.shape == before.shape == sums.shape else True
    lost = (after == 0) & (sums > 0) if after.shape == sums.shape else np.zeros(0, bool)
    return Observed(
        sum_of_squares=sums,
        scaled=scaled.rows[name].astype(np.float64),
        overflowed=int(np.count_nonzero(~np.isfinite(after) & known)),
        underflowed=int(np.count_nonzero(lost)),
        overflowed_before=int(np.count_nonzero(~np.isfinite(before) & known)),
    )


def _unstable(
    original: onnx.ModelProto, folder: Path | None, feed: Feeds, plain: Runs, scaled: Runs
) -> list[str]:
    """Outputs that no run can be held against: caches with uninitialised memory.

    Those of a sliding window are known by their op, others by differing from run to run.
    """
    windows = {
        name
        for node in original.graph.node
        if node.op_type == "GroupQueryAttention"
        and any(a.name == "local_window_size" and a.i > 0 for a in node.attribute)
        for name in node.output[1:]
    }
    first, second = plain.outputs[0], scaled.outputs[0]
    uninitialised = [name for name in first if name in windows]
    differing = [n for n in first if n not in windows and not same_bits(first[n], second[n])]
    if differing:
        session = Session(original, folder)
        again = [session.run(feed) for _ in range(2)]
        differing = [n for n in differing if any(not same_bits(first[n], run[n]) for run in again)]
    return uninitialised + differing
