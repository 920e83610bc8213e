"""The rules of the trace: one per op, one file per kind of op.

A rule takes a node with the values of its inputs and gives the values of its outputs. `RULES` is
the table of all rules. An op without a rule ends the trace there.
"""

from slanc_onnx.trace.rules.table import KEEPS_SHAPE, RULES

__all__ = ["KEEPS_SHAPE", "RULES"]
