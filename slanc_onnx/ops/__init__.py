"""Records of ops: which are norms, what functions compute, how scales pass through the others.

Takes a node of a graph and gives the record of its op, or None where no table has it. Later stages
read the records and do not ask for an op by its name. An op without a record counts as unknown,
which is safe.
"""

from slanc_onnx.ops.between import BETWEEN, EVERY, MOVES
from slanc_onnx.ops.body import Body, Held
from slanc_onnx.ops.degrees import (
    ATTRIBUTES,
    EPSILON,
    LEAST,
    QUANTISING,
    Degree,
    NoDegree,
    any_degree,
    degrees_of_outputs,
    tells_no_size,
)
from slanc_onnx.ops.element_types import LIKE_INPUT, STASHING, TYPE_ATTRIBUTES, read_bodies
from slanc_onnx.ops.elementwise import (
    COMPARISONS,
    ELEMENTWISE,
    HOMOGENEOUS,
    UNARY,
    Interval,
    Parameter,
    apply_function,
)
from slanc_onnx.ops.follow import (
    MOST_CHANNELS,
    MOST_TRACED,
    CannotFollow,
    Mover,
    axis_of,
    broadcast,
    common_shape,
    computed,
    damage_cannot_be_followed,
    moved_by,
    places_cut,
    refuse_large,
    reshaped,
    taken_along,
    too_large,
    whole_numbers,
)
from slanc_onnx.ops.fused import FUSED, HOLDING, INTERNAL, Fused, Internal, Kind
from slanc_onnx.ops.relations import JOINS, Relation, relation
from slanc_onnx.ops.schemas import Formal, Signature, runs, signature

__all__ = [
    "ATTRIBUTES",
    "BETWEEN",
    "COMPARISONS",
    "ELEMENTWISE",
    "EPSILON",
    "EVERY",
    "FUSED",
    "HOLDING",
    "HOMOGENEOUS",
    "INTERNAL",
    "JOINS",
    "LEAST",
    "LIKE_INPUT",
    "MOST_CHANNELS",
    "MOST_TRACED",
    "MOVES",
    "QUANTISING",
    "STASHING",
    "TYPE_ATTRIBUTES",
    "UNARY",
    "Body",
    "CannotFollow",
    "Degree",
    "Formal",
    "Fused",
    "Held",
    "Internal",
    "Interval",
    "Kind",
    "Mover",
    "NoDegree",
    "Parameter",
    "Relation",
    "Signature",
    "any_degree",
    "apply_function",
    "axis_of",
    "broadcast",
    "common_shape",
    "computed",
    "damage_cannot_be_followed",
    "degrees_of_outputs",
    "moved_by",
    "places_cut",
    "read_bodies",
    "refuse_large",
    "relation",
    "reshaped",
    "runs",
    "signature",
    "taken_along",
    "tells_no_size",
    "too_large",
    "whole_numbers",
]
