"""Reasons: why something is not done, not proved or worth knowing, as values without words.

`report/texts.py` has the words, and no other code reads those.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto


class _Named(Enum):
    """An enum whose values are its names in lower case; unlike strings, no two kinds are equal."""

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[str]) -> str:
        return name.lower()


class Unread(_Named):
    """Why a rule of the trace cannot say what an op does."""

    STOPPED = auto()  # behind: the op at which the trace stopped
    NOT_REACHED = auto()
    NOTHING_SAID = auto()  # the op is named by the reason, and that is all
    NO_RULE = auto()
    NO_RULE_IN_DOMAIN = auto()  # domain
    NO_RULE_FOR_CONSTANTS = auto()
    NO_RULE_FOR_ACTIVATIONS = auto()
    NO_RULE_FOR_FUNCTION = auto()  # activation function
    NO_RULE_FOR_ATTRIBUTE = auto()  # attribute
    UNKNOWN_VALUE = auto()
    UNKNOWN_TENSOR = auto()  # tensor, op that makes it
    UNKNOWN_INPUT = auto()  # name of the op's input
    NOT_CONSTANT = auto()  # what has to be a constant
    SHAPES_DIFFER = auto()  # shape, shape
    NO_MATRIX = auto()  # shape
    TWO_ACTIVATIONS = auto()
    TWO_CONSTANTS = auto()
    EQUATION = auto()  # of an Einsum
    CHOSEN_WEIGHTS = auto()
    CHOSEN_ELEMENTS = auto()
    EXPONENTS_DIFFER = auto()
    CHANNELS_DIFFER = auto()
    REDUCES_CHANNELS = auto()
    EMPTY = auto()
    WIDTHS_DIFFER = auto()  # numbers of channels
    OUT_OF_RANGE = auto()  # length, axis
    NO_FIT = auto()  # shape, shape
    NO_AXIS = auto()  # axis, rank
    TOO_LARGE = auto()  # number of elements
    NOT_THERE = auto()  # what NumPy said
    NOT_COMPUTED = auto()  # what NumPy said
    COMPUTED_TWICE = auto()
    FAILED = auto()  # what was said
    MISFIT = auto()  # shapes and sizes
    BROKEN = auto()  # behind: how


class Fault(_Named):
    """How a node breaks the rules of its op."""

    NOBODY_MAKES = auto()  # tensor that it reads
    REFERS_OUTSIDE = auto()  # attribute
    COUNTS_NOTHING = auto()  # attribute, its value
    CASTS_TO_UNKNOWN = auto()  # element type
    NO_SINGLE_VALUE = auto()  # tensor
    TOLD_TWICE = auto()  # attribute
    OF_ODD_KIND = auto()  # attribute, its kind
    OF_OTHER_KIND = auto()  # attribute, the kind that it should have
    LACKS_ATTRIBUTE = auto()  # attribute
    HAS_MORE_INPUTS = auto()  # inputs, most
    LACKS_INPUTS = auto()  # inputs, the least number of them
    NO_SUCH_SIZES = auto()  # output, its sizes
    REFUSED = auto()  # what onnx said


class Unproved(_Named):
    """Why a norm has no bound or no certificate."""

    MAY_BE_GIVEN = auto()  # initializer
    NO_LIMIT = auto()  # function
    NEGATIVE_ARGUMENT = auto()  # function
    ROWS_DIFFER = auto()  # channels, channels
    INPUT_UNLIMITED = auto()  # graph input
    WEIGHTS_NOT_FINITE = auto()
    WEIGHTS_ROUNDED = auto()
    NOT_AS_WRITTEN = auto()
    WEIGHTS_MERGED = auto()
    BOUND_NOT_FINITE = auto()
    STEP_OVERFLOWS = auto()  # step, magnitude
    PRODUCT_OVERFLOWS = auto()  # magnitude
    SUM_OVERFLOWS = auto()  # bits
    AFFINE_NOT_CONSTANT = auto()
    ONE_ELEMENT = auto()
    NO_EPSILON = auto()
    SCALE_TOO_LARGE = auto()  # largest scale
    NEGATIVE_UNDER_ROOT = auto()  # variance
    BELOW_EPSILON = auto()  # variance
    ROW_NOT_FINITE = auto()  # behind: where the row was seen
    ROW_ABOVE_BOUND = auto()  # its length, the bound; behind: where the row was seen
    ROW_LOST = auto()  # number of rows
    SIZE_OPEN = auto()  # name of the size
    MAY_NOT_BE_FINITE = auto()
    OVERFLOWS_BETWEEN = auto()  # magnitude, largest number of the type
    NO_RULE_FOR_TYPE = auto()  # element type
    LEANS_ON = auto()  # norm without a safe radius
    L2_NORMALISATION = auto()
    OTHER_STEPS = auto()
    ANOTHER_SPELLING = auto()


class Seen(_Named):
    """Where a row was seen."""

    IN_PROBE = auto()
    IN_CALIBRATION = auto()
    IN_VALIDATION = auto()  # its number, from 0, over all runs
    IN_RUN = auto()  # run of the user's inputs
    AT_POSITION = auto()  # run, sequence, position, token id
    ROW_ALONE = auto()
    TOKEN_ALONE = auto()  # token id


class Unscalable(_Named):
    """Why the input of a norm cannot be divided."""

    INNER_VALUE_READ = auto()  # inner value, op and name of the reader
    INNER_VALUE_OUTPUT = auto()  # inner value
    MEAN_READ = auto()  # op and name of the reader
    MEAN_OUTPUT = auto()
    DEVIATION_READ = auto()  # op and name of the reader
    DEVIATION_OUTPUT = auto()
    AXIS_UNKNOWN = auto()  # axis
    ADDS_INSIDE = auto()
    HEADS_INSIDE = auto()
    AXES_UNKNOWN = auto()
    BREAKS_RULES = auto()  # op; behind: how
    NO_FLOAT = auto()  # type of its input
    NOTE_UNREADABLE = auto()  # text of its note
    NO_GAMMA = auto()
    NO_GROUPS = auto()  # number of groups
    NO_SUCH_AXIS = auto()  # axis, number of axes


class Untaken(_Named):
    """Why what looks like a norm is not taken for one."""

    NO_DEGREE = auto()  # degree of its input
    DEGREES_DIFFER = auto()  # degrees of its inputs
    JOINED_WITH_DATA = auto()  # degree, the other tensor
    WEIGHTS_INSIDE = auto()
    ANOTHER_DEGREE = auto()  # degree of its output
    NOT_DIVIDED = auto()
    IN_ANOTHER_GRAPH = auto()
    ROOT_OF_SCALE = auto()
    UNKNOWN_OP = auto()  # domain
    INSIDE = auto()
    QLINEAR = auto()


class Decision(_Named):
    """What a user should know of the scale of a norm, or why it has none."""

    ONE_IS_BEST = auto()
    ONE_IS_SAFE = auto()  # the scale in whose place it is, and the source of the estimate
    SCALED_BEFORE = auto()
    NO_ROW_KNOWN = auto()
    EPSILON_UNKNOWN = auto()
    WIDTH_UNKNOWN = auto()
    CONSTANT_LOST = auto()  # element type, value, scale
    ROWS_LOST = auto()  # sums of squares: limit, predicted largest, typical
    SIZE_KEPT = auto()  # (op, tensor) of each op that is not read
    NO_PROBE = auto()  # what ONNX Runtime said
    ROWS_NOT_FINITE = auto()
    NOT_LINEAR = auto()  # op or kind of expression
    MAP_TOO_LONG = auto()  # most parts of all maps
    SQUARE_NOT_FINITE = auto()  # predicted sum of squares
    EXCLUDED = auto()
    SET = auto()
    WITH_ITS_GROUP = auto()
    ALONE = auto()  # the scale that it would have by itself
    WORSE_THAN_ONE = auto()  # the scale with which more rows overflow than with 1


class Undivided(_Named):
    """Why a weight is not divided by a fold."""

    LOSES_BITS = auto()  # exponent, relative loss
    LOSES_SO_MUCH = auto()  # relative loss
    FADES = auto()
    COMPUTED = auto()
    SHARED = auto()


class Unmerged(_Named):
    """Why a gamma, a beta, a mean or the division of a norm is left where it is."""

    OUTPUT = auto()
    NO_READER = auto()
    READ_OTHERWISE = auto()  # the op is named by the reason
    INTEGER_WEIGHT = auto()  # the same
    WEIGHT_COMPUTED = auto()  # the same
    PADDED = auto()  # the same
    TIED = auto()  # weight
    NO_BIAS = auto()  # number of Adds
    NO_ROW = auto()  # bias
    AFFINE_COMPUTED = auto()
    GAMMA_INSIDE = auto()
    ROWS = auto()
    NO_DATA = auto()
    LEFT_OUT = auto()
    OVERFLOWS = auto()  # weight, its largest element
    LOSES = auto()  # weight, relative loss
    WRITTEN_BY = auto()  # the op is named by the reason
    SEEN_BY = auto()  # the same
    STREAM_OUTPUT = auto()
    SPELLING = auto()
    NOT_READ = auto()  # behind: why
    NO_FORM = auto()
    KEEPS_MEAN = auto()
    GAMMA_STAYS = auto()
    WITH_SUM = auto()
    ROOT_SPREADS = auto()
    TWO_TYPES = auto()
    SIZE_UNKNOWN = auto()
    PRODUCT_PREDICTED = auto()  # magnitude, format
    CERTIFICATE_LOST = auto()  # behind: why


class Unraised(_Named):
    """Why a tensor that leaves the format to be written is not divided by a fold."""

    MADE_BY = auto()  # the op is named by the reason
    READ_BY = auto()  # the same
    LEAVES_GRAPH = auto()
    NO_WAY = auto()


class Failure(_Named):
    """Why a validation failed, or could not be done."""

    FP32_DIFFERS = auto()
    FP32_BEYOND_TOLERANCE = auto()
    LEFT_FORMAT = auto()  # format, largest number
    ROWS_LEFT_FORMAT = auto()  # format, largest sum of squares
    INPUT_LEFT_FORMAT = auto()  # format, largest number, norm that reads it
    ROWS_OVERFLOW = auto()  # number of norms, name of the first
    ZERO_ROWS = auto()  # rows, norms, name of the first
    OUTPUTS_OFF = auto()
    OUTPUTS_OFF_IN = auto()  # the first norm that is off, the largest error of its mean squares
    MERGED_OFF = auto()  # RMS error, that of the fold alone, noise
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


class Next(_Named):
    """What to do next where a validation did not pass and its failures do not say it."""

    FOLD = auto()
    WIDER_SUMS = auto()
    FP32_NODES = auto()
    OWN_INPUTS = auto()
    MEASURE = auto()


class Keeping(_Named):
    """Which nodes have to stay in FP32 so that a model works with all else rounded."""

    NOT_NEEDED = auto()  # format
    LIST_WORKS = auto()  # nodes, of how many, format, RMS error, lists that were tried
    LIST_MAY_SHRINK = auto()  # the same
    NO_LIST_WORKS = auto()  # nodes, lists that were tried
    NO_TIME = auto()  # lists that were tried
    NO_LIST = auto()
    UNNAMEABLE = auto()  # name, format of a list


class InFp32(_Named):
    """Why a node computes in FP32 where all else has fewer bits."""

    SCHEMA = auto()  # op
    NO_SCHEMA = auto()  # op
    NO_KERNEL = auto()  # op
    ATTRIBUTE = auto()  # op
    HOLDER = auto()  # op
    SEQUENCE = auto()
    WHOLE_NUMBERS = auto()
    ACCUMULATOR = auto()
    BETWEEN_OTHERS = auto()


class Untabled(_Named):
    """Why the angles of a Cos or Sin have no table."""

    FLOAT_INPUT = auto()  # graph input
    NOT_BY_POSITION = auto()  # the op is named by the reason
    NO_POSITIONS = auto()  # tensor of the angles
    SEVERAL_POSITIONS = auto()  # tensor, another tensor
    NO_ARRANGEMENT = auto()  # tensor of the positions
    SIZES_UNKNOWN = auto()  # tensor of the positions
    NOT_EVALUATED = auto()  # what was said
    NOT_FINITE = auto()  # tensor of the angles


class PositionsFrom(_Named):
    """What tells for how many positions there are tables."""

    ASKED = auto()
    CONFIG = auto()  # file, key
    TABLE = auto()  # initializer
    NOTHING = auto()


class Note(_Named):
    """What a user should know of a whole file."""

    ESTIMATE_UNUSED = auto()  # estimate, scale
    WEIGHT_LOSS_UNUSED = auto()
    EPSILON_GONE = auto()  # norms
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


Kind = (
    Unread
    | Fault
    | Unproved
    | Seen
    | Unscalable
    | Untaken
    | Decision
    | Undivided
    | Unmerged
    | Unraised
    | Failure
    | Next
    | InFp32
    | Keeping
    | Untabled
    | PositionsFrom
    | Note
)
Fact = str | float | tuple[int, ...] | tuple[str, str] | tuple[str, int]


@dataclass(frozen=True)
class Reason:
    """One reason.

    Attributes:
        kind: What kind it is.
        facts: Names and numbers that belong to it; its kind says which.
        op: The type of the op that it is about; "" where it is about none.
        tensor: The output of that op.
        behind: The reason behind it.
    """

    kind: Kind
    facts: tuple[Fact, ...] = ()
    op: str = ""
    tensor: str = ""
    behind: Reason | None = None

    def at(self, op: str, tensor: str) -> Reason:
        """The reason as one about an op and its output."""
        return replace(self, op=op, tensor=tensor)


def reason(kind: Kind, *facts: Fact) -> Reason:
    """A reason about no op."""
    return Reason(kind, facts)
