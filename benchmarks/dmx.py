"""The scales of dmx-compressor (`slanc_tuning` of its DmxSLaNCRecipe), from initializers.

In this package's row vectors, with g the gamma of the norm in front of the block:

    after attention      |(repeat(W_V) P + I) g|_F    repeat tiles the heads h0 h1 h2 h0 ...
    after a gated MLP    |g W_up W_down|_F |g W_gate|_2    without the residual
    after a plain MLP    mean|g| |A|_2 |B|_2

The tiling is kept as it is there, though models interleave grouped heads (h0 h0 h0 h1 ...). Norms
that its lists do not name (the first one; all sandwich and Q/K norms) get no scale.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from slanc_onnx.estimate.paper import spectral_norm
from slanc_onnx.graph.load import read_tensor
from slanc_onnx.norms.norm import Norm

Floats = npt.NDArray[np.float64]
Read = Callable[[str], Floats]
_LAYER = re.compile(r"(.*layers?\.)(\d+)\.(.*)\.weight$")


def dmx_scales(
    model: onnx.ModelProto, norms: list[Norm], folder: Path | None, head_size: int
) -> dict[str, float]:
    """Scales by norm name for a Llama or BERT whose initializers have transformers' names.

    Args:
        model: The model.
        norms: Its norms, in topological order.
        folder: Where its external data lies.
        head_size: Channels of a head, which says how often the value heads are repeated.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}

    def read(name: str) -> Floats:
        return np.asarray(read_tensor(weights[name], folder), dtype=np.float64)

    if any("q_norm" in name or "pre_feedforward" in name for name in weights):
        return {}  # no list of its names these blocks
    scales: dict[str, float] = {}
    for before, norm in itertools.pairwise(norms):
        match = _LAYER.match(before.gamma or "")
        gamma = read(before.gamma) if before.gamma else None
        if gamma is None or norm.gamma is None:
            continue
        if "encoder.layer" in norm.gamma:
            scales[norm.name] = _bert(read, norm.gamma, gamma)
        elif match is not None:
            scales[norm.name] = _llama(read, match, gamma, head_size)
    return scales


def _llama(read: Read, match: re.Match[str], gamma: Floats, head_size: int) -> float:
    prefix, index, name = match.groups()
    layer = f"{prefix}{index}"
    if name == "input_layernorm":
        value = read(f"{layer}.self_attn.v_proj.weight")
        return attention(gamma, value, read(f"{layer}.self_attn.o_proj.weight"), head_size)
    up, down, gate = (read(f"{layer}.mlp.{n}_proj.weight") for n in ("up", "down", "gate"))
    product = np.linalg.norm((gamma[:, None] * up) @ down)
    return float(product) * spectral_norm(gamma[:, None] * gate)


def _bert(read: Read, name: str, gamma: Floats) -> float:
    layer = name.split(".attention.output")[0].split(".output")[0]
    if ".attention.output" in name:
        value = read(f"{layer}.attention.self.value.weight")
        return attention(gamma, value, read(f"{layer}.attention.output.dense.weight"), len(value))
    first, second = read(f"{layer}.intermediate.dense.weight"), read(f"{layer}.output.dense.weight")
    return float(np.abs(gamma).mean()) * spectral_norm(first) * spectral_norm(second)


def attention(gamma: Floats, value: Floats, project: Floats, head_size: int) -> float:
    """The attention formula; `value` [d, kv heads x head_size], `project` [q heads x head_size, d].

    Args:
        gamma: Of the norm in front, shape [d].
        value: The value projection.
        project: The output projection.
        head_size: Channels of a head.
    """
    heads = value.reshape(len(value), -1, head_size)
    repeats = len(project) // value.shape[1]
    tiled = np.tile(heads, (1, repeats, 1)).reshape(len(value), -1)
    return float(np.linalg.norm(gamma[:, None] * (tiled @ project + np.eye(len(gamma)))))
