"""Tracing: what each norm reads, as an expression over weights.

Takes scopes and norms and gives one expression per norm, from its input back to the norms, tables
and graph inputs that it comes from. An op that no rule reads becomes an opaque source, which the
report names. Expressions are for estimates: a proof reads the graph by itself (`prove`).
"""

from slanc_onnx.trace.expression import (
    Alternatives,
    Apply,
    Combined,
    Convolution,
    Embedding,
    Experts,
    Expr,
    Input,
    Join,
    Known,
    Linear,
    Mapped,
    Mix,
    Normalised,
    Opaque,
    Pick,
    Pooled,
    Product,
    Select,
    Shares,
    Source,
    Sum,
    Weight,
    kind_of,
    walk,
)
from slanc_onnx.trace.ranges import constant_values, is_nonlinear, value_range
from slanc_onnx.trace.reading import Reading, reader
from slanc_onnx.trace.terms import Term, source_names, terms_of
from slanc_onnx.trace.tracing import Trace, trace
from slanc_onnx.trace.values import Const

__all__ = [
    "Alternatives",
    "Apply",
    "Combined",
    "Const",
    "Convolution",
    "Embedding",
    "Experts",
    "Expr",
    "Input",
    "Join",
    "Known",
    "Linear",
    "Mapped",
    "Mix",
    "Normalised",
    "Opaque",
    "Pick",
    "Pooled",
    "Product",
    "Reading",
    "Select",
    "Shares",
    "Source",
    "Sum",
    "Term",
    "Trace",
    "Weight",
    "constant_values",
    "is_nonlinear",
    "kind_of",
    "reader",
    "source_names",
    "terms_of",
    "trace",
    "value_range",
    "walk",
]
