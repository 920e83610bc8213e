"""What a graph does not tell: ops, norms, rows and bounds."""

from __future__ import annotations

from enum import auto

from slanc_onnx.reasons.named import Named


class Unread(Named):
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
    READ_IN_TWO_WAYS = auto()  # input
    FAILED = auto()  # what was said
    MISFIT = auto()  # shapes and sizes
    BROKEN = auto()  # behind: how


class Fault(Named):
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
    SO_MANY_AXES = auto()  # output, their number
    REFUSED = auto()  # what onnx said


class Unproved(Named):
    """Why a norm has no bound or no certificate."""

    MAY_BE_GIVEN = auto()  # initializer
    NO_LIMIT = auto()  # function
    NEGATIVE_ARGUMENT = auto()  # function
    ROWS_DIFFER = auto()  # channels, channels
    READ_AS_ANOTHER = auto()  # tensor
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


class Seen(Named):
    """Where a row was seen."""

    IN_PROBE = auto()
    IN_CALIBRATION = auto()
    IN_VALIDATION = auto()  # its number, from 0, over all runs
    IN_RUN = auto()  # run of the user's inputs
    AT_POSITION = auto()  # run, sequence, position, token id
    ROW_ALONE = auto()
    TOKEN_ALONE = auto()  # token id


class Unscalable(Named):
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


class Untaken(Named):
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


class Decision(Named):
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
