"""Small graphs in the text syntax of onnx.parser with NumPy weights, and what is read of them.

A test writes the nodes between two norms: they read `x`, the first norm's output (gamma applied),
and write `total`, the second norm's input.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from slanc_onnx.estimate.estimate import Estimate
from slanc_onnx.estimate.paper import paper_estimates
from slanc_onnx.estimate.sample_rows import estimate_from_rows
from slanc_onnx.graph.inputs import input_specs
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.norms.norm import Norm
from slanc_onnx.report.wording import reason_text
from slanc_onnx.trace.tracing import Trace, trace
from tests.oracles.unoptimised import run

Weights = Mapping[str, NDArray[Any]]
Matrix = NDArray[np.float64]
D = 8

TEXT = """
<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]>
main ({inputs}) => ({outputs}) {{ {nodes} }}
"""
IDS = "int64[batch, sequence] ids"
BETWEEN = """
    rows = Gather(table, ids)
    [first] x = SimplifiedLayerNormalization<axis = -1>(rows, gamma)
    {nodes}
    [last] y = SimplifiedLayerNormalization<axis = -1>(total, gamma_of_last)
"""


def graph(
    nodes: str,
    weights: Weights,
    inputs: str = IDS,
    outputs: str = "float[a, b, c] y",
    opset: int = 17,
) -> onnx.ModelProto:
    """A model with these nodes and initializers."""
    text = TEXT.format(nodes=nodes, inputs=inputs, outputs=outputs, opset=opset)
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(w, n) for n, w in weights.items())
    return model


def between(nodes: str, weights: Weights, inputs: str = "", opset: int = 17) -> onnx.ModelProto:
    """`nodes` between an RMSNorm of embedding rows, named first, and another, named last."""
    every = {"table": normal(0, 11, D), "gamma_of_last": np.ones(D, np.float32), **weights}
    every.setdefault("gamma", GAMMA)
    more = f"{IDS}, {inputs}" if inputs else IDS
    return graph(BETWEEN.format(nodes=nodes), every, more, opset=opset)


def only_norm(model: onnx.ModelProto) -> Norm:
    """The norm of a model that has one."""
    (norm,) = find_norms_in(read_graph(model))
    return norm


def normal(seed: int, *shape: int, spread: float = 1.0) -> NDArray[np.float32]:
    """Random numbers, spread round zero."""
    return (np.random.default_rng(seed).normal(size=shape) * spread).astype(np.float32)


GAMMA = np.array([0.5, -1, 2, 3, 0.25, -1.5, 1, 0.75], np.float32)


def exact(weights: NDArray[Any]) -> Matrix:
    """Stored numbers, in float64."""
    return np.asarray(weights, np.float64)


def frobenius(matrix: Matrix) -> float:
    return float(np.sqrt(np.sum(matrix**2)))


def spectral(matrix: Matrix) -> float:
    """The largest singular value."""
    return float(np.linalg.svd(matrix, compute_uv=False)[0])


def measured_map(
    nodes: str, weights: Weights, inputs: str = "", opset: int = 17, **feeds: NDArray[Any]
) -> Matrix:
    """What ONNX Runtime makes of the rows of Γ: the map from x to `total` of linear nodes.

    The rows are a batch of sequences of length 1, so every softmax has one entry.
    """
    gamma = weights.get("gamma", GAMMA)
    every = {n: w for n, w in weights.items() if n != "gamma"}
    x = "float[batch, sequence, 8] x"
    more = f"{x}, {inputs}" if inputs else x
    model = graph(nodes, every, more, "float[a, b, c] total", opset)
    return exact(run(model, x=np.diag(gamma)[:, None, :], **feeds)["total"][:, 0, :])


def read(model: onnx.ModelProto) -> tuple[Trace, list[Norm]]:
    """What the tracer makes of a model, and the model's norms."""
    scopes = read_graph(model)
    norms = find_norms_in(scopes)
    return trace(scopes, norms, input_specs(scopes[0])), norms


def paper(model: onnx.ModelProto) -> dict[str, float]:
    """The paper's s by norm name; every norm must have one."""
    estimates, reasons = paper_estimates(*read(model))
    assert reasons == {}
    return {name: found.upper**0.5 for name, found in estimates.items()}


def from_weights(model: onnx.ModelProto) -> tuple[dict[str, Estimate], dict[str, str]]:
    """Estimates of `--estimate weights` and the reasons where there is none, in words."""
    estimates, reasons = estimate_from_rows(*read(model))
    return estimates, {name: reason_text(reason) for name, reason in reasons.items()}
