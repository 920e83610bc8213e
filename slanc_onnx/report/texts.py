"""Texts: each kind of reason, and each step of a norm, in words; `wording.py` fills them in."""

from __future__ import annotations

from collections.abc import Mapping

from slanc_onnx.accelerator import Step
from slanc_onnx.reasons import (
    Decision,
    Failure,
    Fault,
    InFp32,
    Keeping,
    Kind,
    Next,
    Note,
    PositionsFrom,
    Seen,
    Undivided,
    Unmerged,
    Unproved,
    Unraised,
    Unread,
    Unscalable,
    Untabled,
    Untaken,
)

_UNREAD: dict[Kind, str] = {
    Unread.STOPPED: "the trace stopped at {behind}",
    Unread.NOT_REACHED: "the trace did not reach it",
    Unread.NOTHING_SAID: "",
    Unread.NO_RULE: "has no rule",
    Unread.NO_RULE_IN_DOMAIN: "has no rule in the domain {0}",
    Unread.NO_RULE_FOR_CONSTANTS: "has no rule for constants",
    Unread.NO_RULE_FOR_ACTIVATIONS: "has no rule for activations",
    Unread.NO_RULE_FOR_FUNCTION: "has the activation {0}, which has no rule",
    Unread.NO_RULE_FOR_ATTRIBUTE: "has the attribute {0}, which has no rule",
    Unread.UNKNOWN_VALUE: "reads a value that is not known",
    Unread.UNKNOWN_TENSOR: "reads {0!r}, which {1} makes",
    Unread.UNKNOWN_INPUT: "its input {0!r} is not known",
    Unread.NOT_CONSTANT: "its {0} are no constant",
    Unread.SHAPES_DIFFER: "combines the shapes {0} and {1}",
    Unread.NO_MATRIX: "its weight is no matrix",
    Unread.TWO_ACTIVATIONS: "multiplies two activations",
    Unread.TWO_CONSTANTS: "multiplies two constants",
    Unread.EQUATION: "sums over {0}",
    Unread.CHOSEN_WEIGHTS: "reads weights that the data chooses",
    Unread.CHOSEN_ELEMENTS: "reads or keeps elements that the data chooses",
    Unread.EXPONENTS_DIFFER: "raises channels to different powers",
    Unread.CHANNELS_DIFFER: "puts channels together that differ from position to position",
    Unread.REDUCES_CHANNELS: "reduces over channels",
    Unread.EMPTY: "has no elements at sequence length 1",
    Unread.WIDTHS_DIFFER: "its rows have {0} channels, from run to run",
    Unread.OUT_OF_RANGE: "takes elements that are not among the {0} of axis {1}",
    Unread.NO_FIT: "reshapes {0} to {1}",
    Unread.NO_AXIS: "names axis {0} of {1}",
    Unread.TOO_LARGE: "takes {0:g} elements",
    Unread.NOT_THERE: "moves what is not there ({0})",
    Unread.FAILED: "cannot be read as it is ({0})",
    Unread.NOT_COMPUTED: "cannot be computed of these constants ({0})",
    Unread.COMPUTED_TWICE: "ONNX's evaluator and ONNX Runtime make different numbers of it",
    Unread.MISFIT: "its sizes do not fit each other: {names}",
    Unread.BROKEN: "breaks the rules of its op: {behind}",
}
_FAULTS: dict[Kind, str] = {
    Fault.NOBODY_MAKES: "it reads {0!r}, which nothing makes",
    Fault.REFERS_OUTSIDE: "its {0!r} refers to an attribute of a function around it",
    Fault.COUNTS_NOTHING: "its {0!r} is {1}",
    Fault.CASTS_TO_UNKNOWN: "it casts to the element type {0}, which nobody knows",
    Fault.NO_SINGLE_VALUE: "{0!r}, by which it runs, is no single value",
    Fault.TOLD_TWICE: "it has {0!r} more than once",
    Fault.OF_ODD_KIND: "its {0!r} is a {1}",
    Fault.OF_OTHER_KIND: "its {0!r} is no {1}",
    Fault.LACKS_ATTRIBUTE: "it lacks the attribute {0!r}",
    Fault.HAS_MORE_INPUTS: "it has {0} inputs, of which its op takes {1}",
    Fault.LACKS_INPUTS: "it has {0} inputs of at least {1}",
    Fault.NO_SUCH_SIZES: "its output {0!r} would have the sizes {1}",
    Fault.REFUSED: "{0}",
}
_UNPROVED: dict[Kind, str] = {
    Unproved.MAY_BE_GIVEN: "a caller may give another value of {0}",
    Unproved.NO_LIMIT: "nothing limits {0}",
    Unproved.NEGATIVE_ARGUMENT: "what {0} reads may be negative",
    Unproved.ROWS_DIFFER: "combines rows of {0} and {1} channels",
    Unproved.INPUT_UNLIMITED: "nothing limits the graph input {0!r}: --feed '{0}=range(LO,HI)'",
    Unproved.WEIGHTS_NOT_FINITE: "its weights are not finite",
    Unproved.WEIGHTS_ROUNDED: "weights are rounded that the proof had read (--weight-loss, or --to "
    "with --dry-run: what is proved is proved of the file that is written)",
    Unproved.NOT_AS_WRITTEN: "it was not found in the file that was written",
    Unproved.WEIGHTS_MERGED: "weights are merged that the proof had read (--merge with --dry-run: "
    "what is proved is proved of the file that is written)",
    Unproved.BOUND_NOT_FINITE: "its bound is not finite",
    Unproved.STEP_OVERFLOWS: "{0} may overflow: up to {1:.3g}",
    Unproved.PRODUCT_OVERFLOWS: "a product whose division is deferred may overflow: up to {0:.3g}",
    Unproved.SUM_OVERFLOWS: "a row within its bound may overflow the sum of squares by {0:.1f} "
    "bits",
    Unproved.AFFINE_NOT_CONSTANT: "its gamma or beta is no constant",
    Unproved.ONE_ELEMENT: "it divides the sum of squares of one element by zero",
    Unproved.NO_EPSILON: "it has no epsilon: a row of zeros is divided by zero",
    Unproved.SCALE_TOO_LARGE: "its scale is above {0:.3g}",
    Unproved.NEGATIVE_UNDER_ROOT: "E[x^2] - mean^2 may come out as {0:.3g} under the root: "
    "that is nan",
    Unproved.ROW_NOT_FINITE: "withdrawn: {behind} is not finite",
    Unproved.ROW_ABOVE_BOUND: "withdrawn: {behind} has the length {0:.4g}, above the bound {1:.4g}",
    Unproved.ROW_LOST: "withdrawn: {0} rows were lost in the emulation",
    Unproved.BELOW_EPSILON: "E[x^2] - mean^2 may come out as {0:.3g}, below -epsilon: its root "
    "is nan",
    Unproved.L2_NORMALISATION: "it is an L2 normalisation, whose steps have no bounds yet",
    Unproved.SIZE_OPEN: "the size {0!r} is open",
    Unproved.MAY_NOT_BE_FINITE: "what it reads may be nan or infinite",
    Unproved.OVERFLOWS_BETWEEN: "its numbers may reach {0:.3g}, and its type holds {1:.3g}",
    Unproved.NO_RULE_FOR_TYPE: "no rule for elements of the type {0}",
    Unproved.LEANS_ON: "its bound leans on {0}, which has no safe radius",
    Unproved.ANOTHER_SPELLING: "its ops come to a norm by other steps, which have no bounds yet",
    Unproved.OTHER_STEPS: "its ops compute more than a norm, and have no bounds yet",
}
_UNMERGED: dict[Kind, str] = {
    Unmerged.OUTPUT: "its output is a graph output",
    Unmerged.NO_READER: "no weight reads it",
    Unmerged.READ_OTHERWISE: "it is read otherwise than by a product with a weight",
    Unmerged.OTHER_PRODUCT: "the product that reads it is no plain MatMul or Gemm, or its row is "
    "moved first, or it lies in another graph",
    Unmerged.INTEGER_WEIGHT: "it, or the weight that reads it, is quantised",
    Unmerged.WEIGHT_COMPUTED: "the weight that reads it is no stored constant",
    Unmerged.PADDED: "its beta does not commute with zeros that are put around it",
    Unmerged.TIED: "the weight {0!r} is also read otherwise",
    Unmerged.NO_BIAS: "its beta would need {0} new Adds, as the weights that read it have no bias",
    Unmerged.NO_ROW: "the bias {0!r} that would take its beta is no row",
    Unmerged.AFFINE_COMPUTED: "its gamma or beta is no constant that is finite",
    Unmerged.GAMMA_INSIDE: "its gamma stands inside the norm's ops",
    Unmerged.ROWS: "its rows are not the channels of one axis",
    Unmerged.NO_DATA: "it normalises a constant",
    Unmerged.LEFT_OUT: "left out, as asked",
    Unmerged.OVERFLOWS: "the weight {0!r} would reach {1:.3g}, which its type does not hold",
    Unmerged.LOSES: "the weight {0!r} would lose {1:.2g} of its norm in its type",
    Unmerged.WRITTEN_BY: "what it writes into the stream is not linear in a weight",
    Unmerged.SEEN_BY: "it reads the stream, and would see the mean gone",
    Unmerged.STREAM_OUTPUT: "the stream is a graph output",
    Unmerged.SPELLING: "its mean is subtracted in another way than by ReduceMean and Sub",
    Unmerged.NOT_READ: "it {behind}",
    Unmerged.NO_FORM: "the file's opset has no RMSNormalization, and its 16 bits may not hold the "
    "epsilon of a decomposed one",
    Unmerged.KEEPS_MEAN: "it subtracts a mean",
    Unmerged.GAMMA_STAYS: "its gamma or beta stays between its row and the products",
    Unmerged.WITH_SUM: "its op adds a residual as well",
    Unmerged.ROOT_SPREADS: "its root is not one number per row that a product can be divided by",
    Unmerged.TWO_TYPES: "its row and its output are of two element types",
    Unmerged.SIZE_UNKNOWN: "nothing tells how large its products would be",
    Unmerged.PRODUCT_PREDICTED: "a product before the division may reach {0:.3g}, beyond {1}",
    Unmerged.CERTIFICATE_LOST: "it would lose its certificate: {behind}",
}
_UNSCALABLE: dict[Kind, str] = {
    Unscalable.INNER_VALUE_READ: "its inner value {0!r} is also read by {1} {2!r}",
    Unscalable.INNER_VALUE_OUTPUT: "its inner value {0!r} is a graph output",
    Unscalable.MEAN_READ: "its mean is also read by {0} {1!r}",
    Unscalable.MEAN_OUTPUT: "its mean is a graph output",
    Unscalable.DEVIATION_READ: "its inverse deviation is also read by {0} {1!r}",
    Unscalable.DEVIATION_OUTPUT: "its inverse deviation is a graph output",
    Unscalable.AXIS_UNKNOWN: "normalises from axis {0} on, of an input whose rank the file does "
    "not tell; run onnx.shape_inference on the file first",
    Unscalable.ADDS_INSIDE: "the op adds the embedding rows inside, so its norm has no input "
    "tensor to divide; export without this fusion to scale it",
    Unscalable.HEADS_INSIDE: "the attention op normalises packed heads inside, and the file does "
    "not tell how long one is; store the norm's weight as an initializer to have it written out",
    Unscalable.AXES_UNKNOWN: "its axes are not known; run onnx.shape_inference on the file first",
    Unscalable.BREAKS_RULES: "breaks the rules of {0}: {behind}",
    Unscalable.NO_FLOAT: "its input is of type {0}, no float",
    Unscalable.NOTE_UNREADABLE: "its note slanc.scale = {0!r} is no scale; remove it from the file",
    Unscalable.NO_GAMMA: "has no gamma, which its op asks for",
    Unscalable.NO_GROUPS: "cuts its channels into {0} groups",
    Unscalable.NO_SUCH_AXIS: "normalises from axis {0} on of an input of {1} axes",
}
_UNTAKEN: dict[Kind, str] = {
    Untaken.NO_DEGREE: "a factor of degree {0} does not pass",
    Untaken.DEGREES_DIFFER: "joins values of the degrees {0}, so that no factor passes",
    Untaken.JOINED_WITH_DATA: "joins a value of degree {0} with {1!r}, which is data",
    Untaken.WEIGHTS_INSIDE: "multiplies by weights before the division",
    Untaken.ANOTHER_DEGREE: "gives something of degree {0}, not 0",
    Untaken.NOT_DIVIDED: "nothing of its own size is divided by its root",
    Untaken.IN_ANOTHER_GRAPH: "its root divides in another graph, outside or inside an If, Loop or "
    "Scan",
    Untaken.ROOT_OF_SCALE: "a root of the scale would have to pass, which is not exact",
    Untaken.INSIDE: "the op normalises inside; export the norm as an op of its own",
    Untaken.QLINEAR: "a QLinear op computes with its integers; quantise it with Q/DQ nodes",
    Untaken.UNKNOWN_OP: "an op of the domain {0!r}, not known; export the norm in ONNX's own ops",
}
_DECISIONS: dict[Kind, str] = {
    Decision.ONE_IS_BEST: "1 is the best scale: nothing to insert",
    Decision.ONE_IS_SAFE: "1 is safe on the estimate by {1}: without --minimal {0:g}",
    Decision.SCALED_BEFORE: "scaled by an earlier run",
    Decision.NO_ROW_KNOWN: "no row of its input is known; try --inputs with real inputs",
    Decision.EPSILON_UNKNOWN: "its epsilon is not a constant",
    Decision.WIDTH_UNKNOWN: "its width is not known: no gamma and no shape tells it",
    Decision.CONSTANT_LOST: "{0} would not hold its constant {1:g} beside the scale {2:g}",
    Decision.ROWS_LOST: "no scale serves all rows: rows with a sum of squares over {0:.3g} "
    "overflow (predicted largest {1:.3g}, typical {2:.3g})",
    Decision.SIZE_KEPT: "assumes that the size of what {ops} reads is kept",
    Decision.NO_PROBE: "no probe ({0})",
    Decision.ROWS_NOT_FINITE: "its rows are not finite or zero",
    Decision.NOT_LINEAR: "its input is no linear map of earlier norms ({0})",
    Decision.MAP_TOO_LONG: "the maps from earlier norms have more than {0:g} parts together; "
    "--scale window needs none",
    Decision.SQUARE_NOT_FINITE: "the predicted sum of squares is {0:g}",
    Decision.EXCLUDED: "left out by --exclude or --only",
    Decision.SET: "set by hand",
    Decision.WITH_ITS_GROUP: "folded with its group",
    Decision.ALONE: "{0:g} by itself",
    Decision.WORSE_THAN_ONE: "kept at 1: with {0:g} more rows overflow than with 1",
}
_UNDIVIDED: dict[Kind, str] = {
    Undivided.LOSES_BITS: "would lose bits when divided by 2^{0}",
    Undivided.LOSES_SO_MUCH: "; --weight-loss {0:.2g} accepts that",
    Undivided.FADES: "would be too small for the type that is written",
    Undivided.COMPUTED: "is computed or may be overridden",
    Undivided.SHARED: "is shared with what is not divided",
}
_UNRAISED: dict[Kind, str] = {
    Unraised.MADE_BY: "makes it so large and takes no divisor",
    Unraised.READ_BY: "reads it undivided",
    Unraised.LEAVES_GRAPH: "leaves its graph undivided",
    Unraised.NO_WAY: "no exponent was found with which it fits",
}
_FAILURES: dict[Kind, str] = {
    Failure.FP32_DIFFERS: "FP32 outputs differ, though every scale is a power of two: this is a "
    "fault here, report it",
    Failure.FP32_BEYOND_TOLERANCE: "FP32 outputs differ by more than the tolerance",
    Failure.LEFT_FORMAT: "is the first to leave {0}, with {1:.3g}",
    Failure.ROWS_LEFT_FORMAT: "its rows are the first to leave {0}, with sums of squares up to "
    "{1:.3g}",
    Failure.INPUT_LEFT_FORMAT: "leaves {0} before the norm {2!r} reads it, with {1:.3g}: no "
    "division behind it heals that",
    Failure.ROWS_OVERFLOW: "rows still overflow in {0} norms, first {1!r}",
    Failure.ZERO_ROWS: "{0} rows of zeros, or that vanish, in {1} norms, first {2!r}, are nan or "
    "infinite where the divided epsilon is rounded to nearest, which gives 0: use --epsilon "
    "representable",
    Failure.OUTPUTS_OFF: "the outputs are off by more than the tolerance",
    Failure.OUTPUTS_OFF_IN: "the outputs are off by more than the tolerance; the first norm that "
    "is off is {0!r}, with an error of its mean squares of up to {1:.3g}",
    Failure.MERGED_OFF: "what is merged makes the outputs worse than noise does: RMS {0:.3g}, the "
    "fold alone {1:.3g} with a noise of {2:.3g}: merge fewer parts, or none",
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
    "zeros is nan in the file as it is ({names})",
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
TEXTS: Mapping[Kind, str] = {
    **_UNREAD,
    **_FAULTS,
    **_UNPROVED,
    **_UNSCALABLE,
    **_UNTAKEN,
    **_DECISIONS,
    **_UNDIVIDED,
    **_UNMERGED,
    **_UNRAISED,
    **_SEEN,
    **_FAILURES,
    **_NEXT,
    **_KEEPING,
    **_IN_FP32,
    **_UNTABLED,
    **_POSITIONS,
    **_NOTES,
}
STEPS: Mapping[Step, str] = {
    "input": "an element",
    "mean": "the mean of a row",
    "centred": "an element without the mean",
    "square": "the square of the mean",
    "sum": "the sum of a row",
    "mean_square": "the mean square",
    "variance": "the variance with epsilon",
    "deviation": "the deviation",
    "inverse": "the reciprocal root",
    "normalised": "an element of the output",
    "affine": "gamma and beta",
}
