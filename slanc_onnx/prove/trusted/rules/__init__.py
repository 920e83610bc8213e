"""The reading rules, which enter themselves into the table."""

from slanc_onnx.prove.trusted.rules import (  # noqa: F401
    attention,
    functions,
    joins,
    moves,
    products,
    reductions,
    shapes,
)
