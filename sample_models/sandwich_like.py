"""A small sandwich-norm decoder like Gemma 3: 2 layers, 13 RMSNorms, each one operation.

Every block has a norm before and after it, queries and keys are normed per head, embeddings are
multiplied by sqrt(hidden) and serve as the output matrix too, the MLP is gated by a tanh GELU. No
gamma is near 1, so a scale that forgets gamma is wrong by orders of magnitude:

    python -m sample_models.sandwich_like [OUT.onnx]

Input `input_ids` [batch, sequence], below 200; output `logits` [batch, sequence, 200].
"""

import onnx

from sample_models import decoder_parts as parts
from sample_models.graph_builder import GraphBuilder
from sample_models.small_model import SeededWeights, finish, main

HIDDEN, MLP, LAYERS, VOCABULARY = 64, 128, 2, 200
HEADS = parts.Heads(query=4, key_value=1, size=32)
THETA, EPS = 10_000.0, 1e-6
BEFORE, AFTER, PER_HEAD, LAST = 6.0, 50.0, 1.5, 0.2  # centers of the gammas
ATTENTION_GAIN, MLP_GAIN = 20.0, 150.0  # what each block's last matrix multiplies the RMS by


def build() -> onnx.ModelProto:
    """Return the model."""
    g = GraphBuilder(opset=18, norms="fused")
    weights = SeededWeights(g, seed=2)
    input_ids = g.input("input_ids", "int64", ["batch", "sequence"])
    embedding = weights.table("model.embed_tokens.weight", VOCABULARY, HIDDEN, HIDDEN**-0.5)
    position = parts.positions(g, input_ids)
    mask = parts.causal_mask(g, position)
    rotary = parts.rotary_tables(g, position, THETA, HEADS.size)

    rows = g.node("Gather", [embedding, input_ids])
    residual = g.node("Mul", [rows, g.constant(HIDDEN**0.5)])
    for index in range(LAYERS):
        prefix = f"model.layers.{index}"
        with g.scope(prefix):
            x = _norm(g, weights, residual, f"{prefix}.input_layernorm", BEFORE)
            block = _attention(g, weights, x, f"{prefix}.self_attn", rotary, mask)
            block = _norm(g, weights, block, f"{prefix}.post_attention_layernorm", AFTER)
            residual = g.node("Add", [residual, block])
            x = _norm(g, weights, residual, f"{prefix}.pre_feedforward_layernorm", BEFORE)
            block = _feed_forward(g, weights, x, f"{prefix}.mlp")
            block = _norm(g, weights, block, f"{prefix}.post_feedforward_layernorm", AFTER)
            residual = g.node("Add", [residual, block])

    x = _norm(g, weights, residual, "model.norm", LAST)
    logits = g.linear(x, g.node("Transpose", [embedding], perm=[1, 0]))
    g.output("logits", logits, "float32", ["batch", "sequence", VOCABULARY])
    return finish(g, "sandwich_like", "Small sandwich-norm decoder whose naive FP16 norms overflow")


def _norm(
    g: GraphBuilder, weights: SeededWeights, x: str, name: str, center: float, size: int = HIDDEN
) -> str:
    return g.rms_norm(x, weights.vector(f"{name}.weight", size, center, spread=center / 2), EPS)


def _attention(
    g: GraphBuilder, weights: SeededWeights, x: str, name: str, rotary: parts.Rotary, mask: str
) -> str:
    wide, narrow = HEADS.query * HEADS.size, HEADS.key_value * HEADS.size
    with g.scope("self_attn"):
        q, k, v = (
            parts.split_heads(g, g.linear(x, matrix), HEADS.size)
            for matrix in (
                weights.matrix(f"{name}.q_proj.weight", HIDDEN, wide),
                weights.matrix(f"{name}.k_proj.weight", HIDDEN, narrow),
                weights.matrix(f"{name}.v_proj.weight", HIDDEN, narrow),
            )
        )
        q, k = (
            _norm(g, weights, part, f"{name}.{short}", PER_HEAD, HEADS.size)
            for part, short in ((q, "q_norm"), (k, "k_norm"))
        )
        q, k, v = (parts.heads_first(g, part) for part in (q, k, v))
        q, k = (parts.rotate(g, part, rotary, HEADS.size) for part in (q, k))
        mixed = parts.attend(g, q, k, v, mask, HEADS)
        return g.linear(
            mixed, weights.matrix(f"{name}.o_proj.weight", wide, HIDDEN, gain=ATTENTION_GAIN)
        )


def _feed_forward(g: GraphBuilder, weights: SeededWeights, x: str, name: str) -> str:
    with g.scope("mlp"):
        gate_matrix = weights.matrix(f"{name}.gate_proj.weight", HIDDEN, MLP, gain=1 / BEFORE)
        gate = _gelu_tanh(g, g.linear(x, gate_matrix))
        up = g.linear(x, weights.matrix(f"{name}.up_proj.weight", HIDDEN, MLP, gain=1 / BEFORE))
        down = weights.matrix(f"{name}.down_proj.weight", MLP, HIDDEN, gain=MLP_GAIN)
        return g.linear(g.node("Mul", [gate, up]), down)


def _gelu_tanh(g: GraphBuilder, x: str) -> str:
    cubed = g.node("Mul", [g.constant(0.044715), g.node("Pow", [x, g.constant(3.0)])])
    inner = g.node("Mul", [g.node("Add", [x, cubed]), g.constant(0.7978845608028654)])
    outer = g.node("Add", [g.node("Tanh", [inner]), g.constant(1.0)])
    return g.node("Mul", [g.node("Mul", [g.constant(0.5), x]), outer])


if __name__ == "__main__":
    main(build, __doc__, __file__)
