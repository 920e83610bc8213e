"""The reading rules: what each op does to values.

Takes a node's call and gives what its outputs can hold. Every rule enters itself into the table. A
rule that cannot say it raises NoBound.
"""

from slanc_onnx.prove.trusted.rules import (  # noqa: F401
    attention,
    functions,
    joins,
    moves,
    picks,
    products,
    quantized,
    reductions,
    shapes,
)
from slanc_onnx.prove.trusted.rules.joins import summed

__all__ = ["summed"]
