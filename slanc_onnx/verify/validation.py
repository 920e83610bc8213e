"""What a validation says: of all inputs together, and of each set of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from slanc_onnx.reasons import NOT_RUN_ITSELF, Failure, Reason
from slanc_onnx.run import Fed
from slanc_onnx.verify.beside_fold import BesideFold
from slanc_onnx.verify.beyond import Beyond
from slanc_onnx.verify.compare import Difference, Reshaped
from slanc_onnx.verify.emulate import Watched
from slanc_onnx.verify.left import Left
from slanc_onnx.verify.observed import Observed, lost_before
from slanc_onnx.verify.tensor_sizes import TensorSize
from slanc_onnx.verify.tolerance import FP16_TOLERANCE

_UNDECIDED = (
    Failure.SENSITIVE,
    Failure.SENSITIVE_SHAPE,
    Failure.BECOMES_INFINITE,
    Failure.OFF_WHERE_MASKED,
)


@dataclass(frozen=True)
class Trial:
    """What one set of inputs says.

    Attributes:
        fed: The inputs.
        failures: Why the validation fails on them; empty if it passes.
        observed: What the rows of each norm did on them, by norm name.
        longer: Whether they are the first inputs at a longer sequence.
    """

    fed: tuple[Fed, ...]
    failures: tuple[Reason, ...]
    observed: Mapping[str, Observed] = field(default_factory=dict)
    longer: bool = False

    @property
    def lost_before(self) -> int:
        """Rows that lose their norm as exported: they overflow, or vanish beside epsilon."""
        return lost_before(self.observed)


@dataclass(frozen=True)
class Validation:
    """The outcome of running both models in FP32 and with FP16 norms.

    Attributes:
        fp32_tolerance: What is demanded of `fp32_max_relative_error`; 0 for bit-identity.
        fp32_identical: All FP32 outputs of the runs that are compared, see `COMPARED_RUNS`, are the
            same to the last bit with graph optimisation off, and with tokens the losses of all.
        fp32_max_abs_error: Largest absolute difference of an FP32 output.
        fp32_max_relative_error: The same, relative to the output's largest absolute value.
        rounded_error_before: Largest difference of an output with rounded norms to FP32, relative
            to the output's largest absolute value; inf where one is not finite. The original's.
        rounded_error_after: The rewritten model's.
        rounded_rms_error: The rewritten model's root mean square difference, relative to the
            output's root mean square.
        rounded_epsilons: Norms whose epsilon is an FP16 tensor of the file, which does not hold
            the divided one exactly.
        observed: By norm name; a norm that was not run is missing.
        perplexity: "fp32", "fp16" and "fp16_slanc", where tokens were given.
        unstable: Outputs left out because the original itself gives other values each time.
        format: To which numbers were rounded, for people.
        everything: Whether the results of all ops were, not those of the norms' steps alone.
        first_out: The first tensor of the rewritten model that leaves the format to which it is
            rounded; None where none does.
        failures: Why the validation failed, empty if it passed.
        rounded_tolerance: What is demanded of `rounded_rms_error`; see `rounding_tolerance`.
        trials: What each set of inputs says that was tried; all else is of the first.
        reshaped: The first output of the rewritten model with rounded norms that has another shape
            than in FP32.
        reshaped_before: The same of the original.
        tensors: Where all operations are rounded: how large each tensor of the rewritten model is.
        sensitivity: How far noise at the norms moves the original; None where the outputs are not
            off, or something else is wrong.
        at_default: How far the FP32 outputs of both files are apart at ONNX Runtime's default
            optimisation level; None where it was not run there.
        as_written: How far a file of 16 bits, run as it is at that level, is from the original;
            None where it is none, the original was not run there, or inputs or outputs are BF16.
        no_kernel: The op that keeps a file of BF16 from being run as it is, as ONNX Runtime's CPU
            provider does not compute it in BF16; None for others.
        cosine: The least between rows of the outputs of a file of 16 bits, rounded, and those of
            the original; None for other files.
        beyond: The constants that the format does not hold, and what comes of them where they
            become infinite; None where there are none, or not everything was rounded.
        not_finite: Where nothing left the format and an output is not finite, the first result
            that is not; None where everything is not rounded, or none is known.
        adds_masks: Whether `first_out` is a sum of masks.
        left: All of the rewritten model that leaves the format where everything is rounded; None
            where it was not looked for, as the outputs are finite.
        all_zero: Whether no output holds a finite number but 0 in FP32, so that none tells right
            from wrong.
        fp32_rms_error: Root mean square difference of FP32 outputs, relative to their root mean
            square; the largest.
        fp32_rms_tolerance: What is demanded of that where norms are merged into weights, which
            rounds these; None for other files, of which `fp32_tolerance` is demanded.
        beside_fold: How far a file with merged parts is from the fold alone, both rounded; None
            for other files.
        first_out_before: The first tensor of the original that leaves the format before a norm
            reads it, where norms alone are rounded; None where none does.
        inputs_beyond: By name, the largest |x| of graph inputs that the format does not hold, where
            norms alone are rounded, and so not every op that reads one.
        outside_beyond: What is beyond the format in FP32 outside of norms, where norms alone are
            rounded, but for masks; see `show_outside`.
        as_they_round: How far a file with merged parts is from the original where both are run as
            they are; None where they hold nothing of 16 bits, or are not run so.
    """

    fp32_tolerance: float
    fp32_identical: bool
    fp32_max_abs_error: float
    fp32_max_relative_error: float
    rounded_error_before: float
    rounded_error_after: float
    rounded_rms_error: float
    observed: dict[str, Observed]
    perplexity: dict[str, float] | None
    rounded_epsilons: int = 0
    unstable: list[str] = field(default_factory=list)
    format: str = "FP16"
    everything: bool = False
    first_out: Left | None = None
    failures: list[Reason] = field(default_factory=list)
    rounded_tolerance: float = FP16_TOLERANCE
    trials: tuple[Trial, ...] = ()
    reshaped: Reshaped | None = None
    reshaped_before: Reshaped | None = None
    sensitivity: Difference | None = None
    tensors: tuple[TensorSize, ...] = ()
    at_default: Difference | None = None
    as_written: Difference | None = None
    no_kernel: str | None = None
    cosine: float | None = None
    beyond: Beyond | None = None
    all_zero: bool = False
    left: Sequence[Left] | None = None
    adds_masks: bool = False
    not_finite: Watched | None = None
    fp32_rms_error: float = 0.0
    fp32_rms_tolerance: float | None = None
    beside_fold: BesideFold | None = None
    as_they_round: Difference | None = None
    first_out_before: Left | None = None
    inputs_beyond: Mapping[str, float] = field(default_factory=dict)
    outside_beyond: Sequence[Left] = ()

    @property
    def observed_on_each(self) -> list[Mapping[str, Observed]]:
        """`observed` of every set of inputs that was tried."""
        return [trial.observed for trial in self.trials] or [self.observed]

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def inconclusive(self) -> bool:
        """Whether it fails on some inputs alone, and nobody says which count; or noise alone moves
        the model as far; or it holds for one way alone to store constants beyond the format."""
        if self.passed or any(reason.kind in NOT_RUN_ITSELF for reason in self.failures):
            return False
        undecided = any(r.kind in _UNDECIDED for r in self.failures)
        if any(trial.longer and trial.failures for trial in self.trials):
            return undecided
        return undecided or not all(t.failures for t in self.trials if not t.longer)

    @property
    def lost_before(self) -> int:
        """Rows that lose their norm as exported, on the inputs that the figures are of."""
        return lost_before(self.observed)

    @property
    def zeros_lost(self) -> int:
        return sum(o.zeros_lost for o in self.observed.values())

    @property
    def zeros_lost_by_scales(self) -> int:
        """Those whose epsilon a scale divides, so that it may be raised."""
        return sum(o.zeros_lost for o in self.observed.values() if o.undivided is None)

    @property
    def overflowed_before(self) -> int:
        return sum(o.overflowed_before for o in self.observed.values())

    @property
    def overflowed_after(self) -> int:
        return sum(o.overflowed for o in self.observed.values())
