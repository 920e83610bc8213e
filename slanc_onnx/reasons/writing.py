"""What is left as it was in the file that is written."""

from __future__ import annotations

from enum import auto

from slanc_onnx.reasons.named import Named


class Undivided(Named):
    """Why a weight is not divided by a fold."""

    LOSES_BITS = auto()  # exponent, relative loss
    LOSES_SO_MUCH = auto()  # relative loss
    FADES = auto()
    COMPUTED = auto()
    SHARED = auto()


class Unmerged(Named):
    """Why a gamma, a beta, a mean or the division of a norm is left where it is."""

    OUTPUT = auto()
    NO_READER = auto()
    READ_OTHERWISE = auto()  # the op is named by the reason
    OTHER_PRODUCT = auto()  # the same
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
    MOVED_APART = auto()
    SUM_OF_THREE = auto()
    ROOT_SPREADS = auto()
    ROOT_FADES = auto()
    TWO_TYPES = auto()
    SIZE_UNKNOWN = auto()
    PRODUCT_PREDICTED = auto()  # magnitude, format
    CERTIFICATE_LOST = auto()  # behind: why


class Unraised(Named):
    """Why a tensor that leaves the format to be written is not divided by a fold."""

    MADE_BY = auto()  # the op is named by the reason
    READ_BY = auto()  # the same
    LEAVES_GRAPH = auto()
    NO_WAY = auto()


class Keeping(Named):
    """Which nodes have to stay in FP32 so that a model works with all else rounded."""

    NOT_NEEDED = auto()  # format
    LIST_WORKS = auto()  # nodes, of how many, format, RMS error, lists that were tried
    LIST_MAY_SHRINK = auto()  # the same
    NO_LIST_WORKS = auto()  # nodes, lists that were tried
    NO_TIME = auto()  # lists that were tried
    NO_LIST = auto()
    UNNAMEABLE = auto()  # name, format of a list


class InFp32(Named):
    """Why a node computes in FP32 or FP64 where all else has fewer bits."""

    SCHEMA = auto()  # op
    NO_SCHEMA = auto()  # op
    NO_KERNEL = auto()  # op
    ATTRIBUTE = auto()  # op
    HOLDER = auto()  # op
    SEQUENCE = auto()
    WHOLE_NUMBERS = auto()
    ACCUMULATOR = auto()
    BETWEEN_OTHERS = auto()


class Untabled(Named):
    """Why the angles of a Cos or Sin have no table."""

    FLOAT_INPUT = auto()  # graph input
    NOT_BY_POSITION = auto()  # the op is named by the reason
    NO_POSITIONS = auto()  # tensor of the angles
    SEVERAL_POSITIONS = auto()  # tensor, another tensor
    NO_ARRANGEMENT = auto()  # tensor of the positions
    SIZES_UNKNOWN = auto()  # tensor of the positions
    NOT_EVALUATED = auto()  # what was said
    NOT_FINITE = auto()  # tensor of the angles


class PositionsFrom(Named):
    """What tells for how many positions there are tables."""

    ASKED = auto()
    CONFIG = auto()  # file, key
    TABLE = auto()  # initializer
    NOTHING = auto()
