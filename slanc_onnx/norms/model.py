"""The model as it was read, once per job, for every stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from slanc_onnx.graph import InputSpec, Scope, check_model, input_specs, read_graph
from slanc_onnx.norms.find import find_in
from slanc_onnx.norms.functions import inline_norm_functions
from slanc_onnx.norms.heads import write_out_head_norms
from slanc_onnx.norms.norm import Norm
from slanc_onnx.norms.suspects import Suspect


@dataclass(frozen=True, eq=False)
class ReadModel:
    """A model with its graphs, norms and inputs.

    Attributes:
        loaded: The model as it was given.
        model: The model with its functions that hold norms inlined, and the norms inside attention
            ops written out; `loaded` itself without any.
        inlined: The names of these functions.
        written_out: The names of these ops.
        scopes: The graphs of `model`, the main graph first.
        norms: Every norm, in topological order.
        suspects: What looks like one and was not taken.
        specs: The inputs of the main graph that have to be fed.
        folder: Where the external data lies; None if it has none.
        kept: The names of nodes that the file keeps in FP32 where all else has 16 bits.
    """

    loaded: onnx.ModelProto
    model: onnx.ModelProto
    inlined: list[str]
    written_out: list[str]
    scopes: list[Scope]
    norms: list[Norm]
    suspects: list[Suspect]
    specs: list[InputSpec]
    folder: Path | None
    kept: frozenset[str] = frozenset()


def read_model(
    model: onnx.ModelProto, folder: Path | None = None, *, isolate: bool = False
) -> ReadModel:
    """Read a model; it is not changed, and its large weights are not read.

    Args:
        model: The model.
        folder: Where its external data lies, if it has any that was not loaded.
        isolate: Whether onnx has a process of its own where it may run away.

    Raises:
        SlancError: the graph cannot be read, or a function that holds norms cannot be inlined.
    """
    check_model(model)
    inlined, functions = inline_norm_functions(model, folder, isolate=isolate)
    written, ops = write_out_head_norms(inlined)
    scopes = read_graph(written, folder, isolate=isolate)
    found, specs = find_in(scopes), input_specs(scopes[0])
    return ReadModel(
        model, written, functions, ops, scopes, found.norms, found.suspects, specs, folder
    )
