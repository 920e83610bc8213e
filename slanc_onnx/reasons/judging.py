"""What a validation found, and what a user should know or do."""

from __future__ import annotations

from enum import auto

from slanc_onnx.reasons.named import Named


class Failure(Named):
    """Why a validation failed, or could not be done."""

    FP32_DIFFERS = auto()
    FP32_BEYOND_TOLERANCE = auto()
    LEFT_FORMAT = auto()  # format, largest number
    ROWS_LEFT_FORMAT = auto()  # format, largest sum of squares
    INPUT_LEFT_FORMAT = auto()  # format, largest number, norm that reads it
    BECOMES_NOT_FINITE = auto()  # format
    ROWS_OVERFLOW = auto()  # number of norms, name of the first
    ZERO_ROWS = auto()  # rows, norms, name of the first
    ZERO_ROWS_UNDIVIDED = auto()  # rows, norms, name of the first, its epsilon
    OUTPUTS_OFF = auto()
    OFF_WHERE_MASKED = auto()  # the input that masks, RMS error elsewhere
    OUTPUTS_OFF_IN = auto()  # the first norm that is off, the largest error of its mean squares
    MERGED_OFF = auto()  # RMS error, that of the fold alone, noise, ways that were tried, the worst
    MERGED_OFF_AS_IT_IS = auto()  # RMS difference of both files, run as they are
    OTHER_SHAPE = auto()  # output, its shape in FP32, its shape now
    SENSITIVE = auto()  # RMS error with noise at the norms
    SENSITIVE_SHAPE = auto()  # output, its shape in FP32, its shape with noise
    BECOMES_INFINITE = auto()  # constant, its value, format, how many constants are beyond that
    PERPLEXITY_OFF = auto()  # percent that is allowed
    NOTHING_COMPARED = auto()
    OBSERVED_ABOVE = auto()  # rows, norms, name of the first; behind: where its largest row was
    OBSERVED_BELOW = auto()  # rows, norms, name of the first
    CERTIFICATES_WITHDRAWN = auto()  # number of norms, name of the first; behind: why
    NOT_RUN = auto()  # what ONNX Runtime said
    NOT_RUN_AS_WRITTEN = auto()  # what ONNX Runtime said
    NOT_RUN_OPTIMISED = auto()  # the same; without graph optimisation the file runs
    NO_MEMORY = auto()
    TOKENS_NOT_RUN = auto()  # what ONNX Runtime said
    NOT_AS_REQUIRED = auto()  # what was required, number of norms, of how many, name of the first
    NOT_VALIDATED = auto()


# That ONNX Runtime does not run the file that was written as it is, whatever the inputs.
NOT_RUN_ITSELF = frozenset({Failure.NOT_RUN_AS_WRITTEN, Failure.NOT_RUN_OPTIMISED})
# That all there is to say is how far outputs are from those in FP32.
OFF = frozenset({Failure.OUTPUTS_OFF, Failure.OUTPUTS_OFF_IN, Failure.PERPLEXITY_OFF})


class Next(Named):
    """What to do next where a validation did not pass and its failures do not say it."""

    FOLD = auto()
    WIDER_SUMS = auto()
    FP32_NODES = auto()
    OWN_INPUTS = auto()
    MEASURE = auto()
    MASKS = auto()  # format


class Note(Named):
    """What a user should know of a whole file."""

    ESTIMATE_UNUSED = auto()  # estimate, scale
    WEIGHT_LOSS_UNUSED = auto()
    EPSILON_GONE = auto()  # norms
    EPSILON_ROUNDED_AWAY = auto()  # norms
    EPSILON_RAISED = auto()
    INLINED = auto()  # functions
    SCALES_STAY = auto()  # norms
    SCALED_ANEW = auto()  # norms
    WRITTEN_OUT = auto()  # attention ops
    MEANS_UNMATCHED = auto()  # outputs of means
    READ_AS_DEFAULTS = auto()  # initializers
    NOT_FOLDED_INTO = auto()  # weights; behind: why
    WOULD_LOSE_BITS = auto()  # (weight, elements) of each weight
    RANGES_UNKNOWN = auto()  # behind: why
    RANGES_NOT_MEASURED = auto()
    NOT_IN_A_NAME = auto()  # option, regular expression
    DATA_BEHIND_LINKS = auto()  # data files
