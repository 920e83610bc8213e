"""Texts of what a run says: failures and next steps, nodes that stay in FP32, and notes."""

from __future__ import annotations

from collections.abc import Mapping

from slanc_onnx.reasons import (
    Failure,
    InFp32,
    Keeping,
    Kind,
    Next,
    Note,
    PositionsFrom,
    Seen,
    Untabled,
)

_FAILURES: dict[Kind, str] = {
    Failure.FP32_DIFFERS: "FP32 outputs differ, though every scale is a power of two: this is a "
    "fault here, report it",
    Failure.FP32_BEYOND_TOLERANCE: "FP32 outputs differ by more than the tolerance",
    Failure.LEFT_FORMAT: "is the first to leave {0}, with {1:.3g}",
    Failure.ROWS_LEFT_FORMAT: "its rows are the first to leave {0}, with sums of squares up to "
    "{1:.3g}",
    Failure.INPUT_LEFT_FORMAT: "leaves {0} before the norm {2!r} reads it, with {1:.3g}: no "
    "division behind it heals that",
    Failure.BECOMES_NOT_FINITE: "is the first that is nan or infinite, though what it reads is "
    "finite: it divides by a number that {0} makes 0 or negative, or takes its root or logarithm; "
    "where that is an epsilon, use one that {0} holds",
    Failure.ROWS_OVERFLOW: "rows still overflow in {0} norms, first {1!r}",
    Failure.ZERO_ROWS: "{0} rows of zeros, or that vanish, in {1} norms, first {2!r}, are nan or "
    "infinite where the divided epsilon is rounded to nearest, which gives 0: use --epsilon "
    "representable",
    Failure.ZERO_ROWS_UNDIVIDED: "{0} rows of zeros, or that vanish, in {1} norms, first {2!r}, "
    "are nan or infinite as in the original: its epsilon of {3:.3g}, which no scale divides, "
    "becomes 0 there, or has no reciprocal; write a larger one into the model",
    Failure.OUTPUTS_OFF: "the outputs are off by more than the tolerance",
    Failure.OUTPUTS_OFF_IN: "the outputs are off by more than the tolerance; the first norm that "
    "is off is {0!r}, with an error of its mean squares of up to {1:.3g}",
    Failure.OFF_WHERE_MASKED: "all of that is at positions that the input {0!r} masks (0), and "
    "elsewhere the RMS error is {1:.3g}: where nothing reads those outputs, as those of padding, "
    "it works; inputs without such positions (--inputs) let it be judged",
    Failure.MERGED_OFF: "what is merged makes the outputs worse than noise does: RMS {0:.3g}, the "
    "fold alone {1:.3g} with a noise of {2:.3g}, and at most {4:.3g} rounded in {3} other ways: "
    "merge fewer parts, or none",
    Failure.MERGED_OFF_AS_IT_IS: "run as they are, with what they round to 16 bits themselves, the "
    "files are RMS {0:.3g} apart: merge fewer parts, or none",
    Failure.OTHER_SHAPE: "{0} has the shape {1} in FP32 and {2} when rounded",
    Failure.SENSITIVE: "noise of one rounding at the norms moves the original as far (RMS {0:.3g}),"
    " so that this comparison cannot tell: measure the written file with a metric of your task",
    Failure.SENSITIVE_SHAPE: "noise of one rounding at the norms gives the original's {0} another "
    "shape too ({1}, {2}), so that this comparison cannot tell: measure the written file with a "
    "metric of your task",
    Failure.BECOMES_INFINITE: "rows are lost where the constant {0!r} ({1:.3g}), beyond {2}, or "
    "what is computed of it becomes infinite (a row that a mask covers whole is nan); with the "
    "largest number of {2} in its place all holds: see that your converter does that, or keep the "
    "ops that read it in FP32 ({3} such constants)",
    Failure.PERPLEXITY_OFF: "the perplexity is off by more than {0:.3g} %",
    Failure.OBSERVED_ABOVE: "{0} rows of --observe overflow in {1} norms, first {2!r}, largest "
    "{behind}: give this data to --inputs or --tokens with --scale calibrated",
    Failure.OBSERVED_BELOW: "{0} rows of --observe vanish in {1} norms, first {2!r}: give this "
    "data to --inputs or --tokens with --scale calibrated",
    Failure.CERTIFICATES_WITHDRAWN: "{0} certificates are withdrawn, first that of {1!r}: "
    "{behind}. This is a fault of the proof: report it, or use --certify off",
    Failure.NOTHING_COMPARED: "no output can be compared: each run of the original differs",
    Failure.NOT_RUN: "{0}",
    Failure.TOKENS_NOT_RUN: "not every token was run: {0}",
    Failure.NOT_AS_REQUIRED: "--require {0}: {1} of {2} norms are not, first {3!r}",
    Failure.NOT_VALIDATED: "--require validated: no validation passed",
    Failure.NOT_RUN_AS_WRITTEN: "the file that was written does not run as it is: {0}; nor does it "
    "without graph optimisation: use another version of ONNX Runtime, or the runtime that it is "
    "for",
    Failure.NOT_RUN_OPTIMISED: "the file that was written does not run as it is: {0}; without "
    "graph optimisation it does: use another version of ONNX Runtime, or disable the optimizer at "
    "fault (disabled_optimizers, docs/fp16.md)",
    Failure.NO_MEMORY: "not enough memory to run the models",
}
_NEXT: dict[Kind, str] = {
    Next.FOLD: "next: --apply fold heals that: it was tried on the same inputs, and passes",
    Next.WIDER_SUMS: "next: with sums in FP32 it passes on the same inputs: use --accumulate fp32 "
    "if your device sums so",
    Next.FP32_NODES: "next: keep what leaves the format in FP32, or divide the weights before it: "
    "--fp32-nodes FILE finds the nodes",
    Next.OWN_INPUTS: "next: try your own inputs with --inputs FILE.npz",
    Next.MASKS: "next: masks are added up there: give them a lowest number of a third of {0}'s at "
    "most, so that a sum stays within it and no row becomes nan; or keep the sum in FP32: "
    "--fp32-nodes FILE finds the nodes",
    Next.MEASURE: "next: measure the written file with a metric of your task",
}
_KEEPING: dict[Kind, str] = {
    Keeping.NOT_NEEDED: "no node has to stay in FP32: it works with everything in {0}",
    Keeping.LIST_WORKS: "with {0} of its {1} nodes in FP32 and all else in {2} it works (RMS "
    "{3:.3g}), and without any one of them it does not ({4} lists were tried)",
    Keeping.LIST_MAY_SHRINK: "with {0} of its {1} nodes in FP32 and all else in {2} it works (RMS "
    "{3:.3g}); fewer may do, as the time limit ended the search ({4} lists were tried)",
    Keeping.NO_LIST_WORKS: "no list of FP32 nodes heals it, not even all {0} of them ({1} lists "
    "were tried)",
    Keeping.NO_LIST: "no list is known to work",
    Keeping.NO_TIME: "no list of FP32 nodes was found in time ({0} lists were tried): give more "
    "with --time-limit",
    Keeping.UNNAMEABLE: "the format {1} cannot hold the node name {0!r}: take --fp32-nodes-format "
    "ort",
}
_IN_FP32: dict[Kind, str] = {
    InFp32.SCHEMA: "the schema of {0} takes nothing narrower",
    InFp32.NO_SCHEMA: "no schema of {0} is known",
    InFp32.NO_KERNEL: "ONNX Runtime's CPU provider does not run {0} with fewer bits",
    InFp32.ATTRIBUTE: "an attribute of {0} is a tensor of FP32 or FP64",
    InFp32.SEQUENCE: "reads or makes a sequence, which cannot be cast",
    InFp32.HOLDER: "no schema tells what the graph in {0} takes",
    InFp32.WHOLE_NUMBERS: "computes with whole numbers from integers: indices, lengths, positions",
    InFp32.ACCUMULATOR: "an integer accumulator, until it is multiplied by its scales",
    InFp32.BETWEEN_OTHERS: "lies between nodes that stay",
}
_UNTABLED: dict[Kind, str] = {
    Untabled.FLOAT_INPUT: "its angles are computed from {0!r}, whose values are no whole numbers",
    Untabled.NOT_BY_POSITION: "stands before the angles and does not work position by position",
    Untabled.NO_POSITIONS: "{0!r}, its angles, are computed from constants and sizes alone",
    Untabled.SEVERAL_POSITIONS: "its angles are computed from {0!r} and {1!r}, not from one tensor "
    "of positions",
    Untabled.NO_ARRANGEMENT: "its angles are no rows by the positions in {0!r}",
    Untabled.SIZES_UNKNOWN: "the sizes of its angles beside the positions in {0!r} are not known",
    Untabled.NOT_EVALUATED: "its angles cannot be computed ahead ({0})",
    Untabled.NOT_FINITE: "{0!r}, its angles, are not finite at all positions",
}
_POSITIONS: dict[Kind, str] = {
    PositionsFrom.ASKED: "as asked",
    PositionsFrom.CONFIG: "as {0} says by {1}",
    PositionsFrom.TABLE: "as the rows of {0!r}",
    PositionsFrom.NOTHING: "as nothing says how many there are",
}
_NOTES: dict[Kind, str] = {
    Note.ESTIMATE_UNUSED: "--estimate {0} has no effect with --scale {1}",
    Note.WEIGHT_LOSS_UNUSED: "--weight-loss has no effect without --apply fold",
    Note.EPSILON_GONE: "the epsilon of {count} norms is 0 or vanishes on the target: a row of "
    "zeros is nan in the file as it is; --epsilon representable raises one that is divided and not "
    "0 ({names})",
    Note.EPSILON_ROUNDED_AWAY: "the epsilon of {count} norms, divided, becomes 0 on a device that "
    "rounds it to the format: a row of zeros (padding, a black picture, silence) is nan there; "
    "--epsilon representable raises it ({names})",
    Note.EPSILON_RAISED: "rows of zeros, or that vanish, were seen, which an exactly divided "
    "epsilon would make nan: epsilons that the target does not keep are raised (--epsilon "
    "representable)",
    Note.INLINED: "inlined the functions that hold norms: {names}",
    Note.RANGES_UNKNOWN: "no tensor but the inputs of norms is known to fit the type that is "
    "written, and no weight is balanced for it, as the model was not run: {behind}",
    Note.RANGES_NOT_MEASURED: "no tensor but the inputs of norms is known to fit the type that is "
    "written, and no weight is balanced for it: only --estimate probe, or auto for a model of up "
    "to 4 GiB in FP32, runs the model for that",
    Note.SCALES_STAY: "{count} norms keep the scale of an earlier run ({names}): --minimal decides "
    "only where there is none yet",
    Note.SCALED_ANEW: "{count} norms had scales of another target, or without their note: these "
    "were taken out and placed anew ({names})",
    Note.WRITTEN_OUT: "wrote out the norms inside attention ops: {names}",
    Note.MEANS_UNMATCHED: "no norm found in {count} ReduceMean sites ({names}), where an optimiser "
    "or quantiser may have left a norm in ops that are not read: scale before it runs",
    Note.NOT_IN_A_NAME: "--{0} {1}: is in the name of no norm and of nothing like one",
    Note.DATA_BEHIND_LINKS: "links lead to the data files out of the folder ({names}), which ONNX "
    "Runtime from 1.24 on follows only beside a model that is such a link itself: -o in another "
    "folder brings them along",
    Note.READ_AS_DEFAULTS: "{count} initializers are graph inputs too and were read as their "
    "defaults: {names}",
    Note.NOT_FOLDED_INTO: "{count} weights were not the place to fold into, as each {behind}: "
    "{few}",
    Note.WOULD_LOSE_BITS: "{count} weights would lose bits if divided, and were not: {elements}"
    "{behind}",
}
_SEEN: dict[Kind, str] = {
    Seen.IN_PROBE: "a row of the probe",
    Seen.IN_CALIBRATION: "a row of the calibration",
    Seen.IN_VALIDATION: "row {0} of the validation",
    Seen.IN_RUN: "a row of run {0}",
    Seen.AT_POSITION: "the row of run {0}, sequence {1}, position {2}, id {3}",
    Seen.ROW_ALONE: "the row of a token alone",
    Seen.TOKEN_ALONE: "the row of id {0} alone",
}
OF_RUNS: Mapping[Kind, str] = {
    **_FAILURES,
    **_NEXT,
    **_KEEPING,
    **_IN_FP32,
    **_UNTABLED,
    **_POSITIONS,
    **_NOTES,
    **_SEEN,
}
