"""A small pre-LN decoder like Llama: 3 layers, 7 RMSNorms in elementary operations.

Grouped-query attention, rotary positions and a SwiGLU MLP, spelled as the PyTorch exporter does at
opset 18. The output projections are so large that the residual stream overflows every norm but the
first where squares are summed in FP16:

    python -m sample_models.llama_like [OUT.onnx]

Input `input_ids` [batch, sequence], below 200; output `logits` [batch, sequence, 200].
"""

import onnx

from sample_models import decoder_parts as parts
from sample_models.graph_builder import GraphBuilder
from sample_models.small_model import SeededWeights, finish, main

HIDDEN, MLP, LAYERS, VOCABULARY = 64, 128, 3, 200
HEADS = parts.Heads(query=4, key_value=2, size=16)
THETA, EPS = 10_000.0, 1e-5
ATTENTION_GAIN, MLP_GAIN = 80.0, 150.0  # what each block's last matrix multiplies the RMS by


def build() -> onnx.ModelProto:
    """Return the model."""
    g = GraphBuilder(opset=18, norms="decomposed")
    weights = SeededWeights(g, seed=1)
    input_ids = g.input("input_ids", "int64", ["batch", "sequence"])
    embedding = weights.table("model.embed_tokens.weight", VOCABULARY, HIDDEN, rms=1.0)
    position = parts.positions(g, input_ids)
    mask = parts.causal_mask(g, position)
    rotary = parts.rotary_tables(g, position, THETA, HEADS.size)

    residual = g.node("Gather", [embedding, input_ids])
    for index in range(LAYERS):
        prefix = f"model.layers.{index}"
        with g.scope(prefix):
            x = _norm(g, weights, residual, f"{prefix}.input_layernorm")
            block = _attention(g, weights, x, f"{prefix}.self_attn", rotary, mask)
            residual = g.node("Add", [residual, block])
            x = _norm(g, weights, residual, f"{prefix}.post_attention_layernorm")
            block = _feed_forward(g, weights, x, f"{prefix}.mlp")
            residual = g.node("Add", [residual, block])

    x = _norm(g, weights, residual, "model.norm")
    logits = g.linear(x, weights.matrix("lm_head.weight", HIDDEN, VOCABULARY))
    g.output("logits", logits, "float32", ["batch", "sequence", VOCABULARY])
    return finish(g, "llama_like", "Small pre-LN decoder whose naive FP16 norms overflow")


def _norm(g: GraphBuilder, weights: SeededWeights, x: str, name: str) -> str:
    return g.rms_norm(x, weights.vector(f"{name}.weight", HIDDEN, center=1.0, spread=0.5), EPS)


def _attention(
    g: GraphBuilder, weights: SeededWeights, x: str, name: str, rotary: parts.Rotary, mask: str
) -> str:
    wide, narrow = HEADS.query * HEADS.size, HEADS.key_value * HEADS.size
    with g.scope("self_attn"):
        q, k, v = (
            parts.heads_first(g, parts.split_heads(g, g.linear(x, matrix), HEADS.size))
            for matrix in (
                weights.matrix(f"{name}.q_proj.weight", HIDDEN, wide, gain=1.5),
                weights.matrix(f"{name}.k_proj.weight", HIDDEN, narrow, gain=1.5),
                weights.matrix(f"{name}.v_proj.weight", HIDDEN, narrow),
            )
        )
        q, k = (parts.rotate(g, part, rotary, HEADS.size) for part in (q, k))
        mixed = parts.attend(g, q, k, v, mask, HEADS)
        return g.linear(
            mixed, weights.matrix(f"{name}.o_proj.weight", wide, HIDDEN, gain=ATTENTION_GAIN)
        )


def _feed_forward(g: GraphBuilder, weights: SeededWeights, x: str, name: str) -> str:
    with g.scope("mlp"):
        gate = g.linear(x, weights.matrix(f"{name}.gate_proj.weight", HIDDEN, MLP))
        gate = g.node("Mul", [gate, g.node("Sigmoid", [gate])])
        up = g.linear(x, weights.matrix(f"{name}.up_proj.weight", HIDDEN, MLP))
        down = weights.matrix(f"{name}.down_proj.weight", MLP, HIDDEN, gain=MLP_GAIN)
        return g.linear(g.node("Mul", [gate, up]), down)


if __name__ == "__main__":
    main(build, __doc__, __file__)
