"""A small post-LN encoder like BERT: 2 layers, 5 LayerNormalization operations of opset 17.

The output projections are so large that every norm but the first overflows where squares are summed
in FP16:

    python -m sample_models.bert_like [OUT.onnx]

Inputs `input_ids`, `attention_mask`, `token_type_ids` [batch, sequence], ids below 200, types below
2, at most 64 positions; output `last_hidden_state` [batch, sequence, 96].
"""

import onnx

from sample_models import decoder_parts as parts
from sample_models.graph_builder import GraphBuilder
from sample_models.small_model import SeededWeights, finish, main

HIDDEN, MLP, LAYERS, VOCABULARY, POSITIONS = 96, 192, 2, 200, 64
HEADS = parts.Heads(query=4, key_value=4, size=24)
EPS = 1e-12
ATTENTION_GAIN, MLP_GAIN = 100.0, 150.0  # what each block's last matrix multiplies the RMS by
LOWEST = -10_000.0  # added to the scores at padding


def build() -> onnx.ModelProto:
    """Return the model."""
    g = GraphBuilder(opset=17, norms="fused")
    weights = SeededWeights(g, seed=3)
    input_ids, attention_mask, token_type_ids = (
        g.input(name, "int64", ["batch", "sequence"])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    )
    x = _embeddings(g, weights, input_ids, token_type_ids)
    mask = _padding_mask(g, attention_mask)
    for index in range(LAYERS):
        prefix = f"encoder.layer.{index}"
        with g.scope(prefix):
            block = _attention(g, weights, x, f"{prefix}.attention", mask)
            x = _add_and_norm(g, weights, block, x, f"{prefix}.attention.output")
            block = _feed_forward(g, weights, x, prefix)
            x = _add_and_norm(g, weights, block, x, f"{prefix}.output")
    g.output("last_hidden_state", x, "float32", ["batch", "sequence", HIDDEN])
    return finish(g, "bert_like", "Small post-LN encoder whose naive FP16 norms overflow")


def _embeddings(
    g: GraphBuilder, weights: SeededWeights, input_ids: str, token_type_ids: str
) -> str:
    with g.scope("embeddings"):
        rows = [
            g.node("Gather", [weights.table(f"embeddings.{name}.weight", size, HIDDEN, rms), ids])
            for name, size, rms, ids in (
                ("word_embeddings", VOCABULARY, 1.0, input_ids),
                ("token_type_embeddings", 2, 0.3, token_type_ids),
                ("position_embeddings", POSITIONS, 0.3, parts.positions(g, input_ids)),
            )
        ]
        x = g.node("Add", [g.node("Add", rows[:2]), rows[2]])
        return _norm(g, weights, x, "embeddings")


def _padding_mask(g: GraphBuilder, attention_mask: str) -> str:
    """Return what to add to the scores, [batch, 1, 1, sequence]."""
    kept = g.cast(g.node("Unsqueeze", [attention_mask, g.constant([1, 2])]), "float32")
    return g.node("Mul", [g.node("Sub", [g.constant(1.0), kept]), g.constant(LOWEST)])


def _norm(g: GraphBuilder, weights: SeededWeights, x: str, name: str) -> str:
    gamma = weights.vector(f"{name}.LayerNorm.weight", HIDDEN, center=1.0, spread=0.5)
    beta = weights.vector(f"{name}.LayerNorm.bias", HIDDEN, center=0.0, spread=0.2)
    return g.layer_norm(x, gamma, beta, EPS)


def _add_and_norm(g: GraphBuilder, weights: SeededWeights, x: str, residual: str, name: str) -> str:
    return _norm(g, weights, g.node("Add", [x, residual]), name)


def _dense(
    g: GraphBuilder, weights: SeededWeights, x: str, name: str, shape: tuple[int, int], gain: float
) -> str:
    matrix = weights.matrix(f"{name}.weight", *shape, gain)
    bias = weights.vector(f"{name}.bias", shape[1], center=0.0, spread=0.1 * gain)
    return g.linear(x, matrix, bias)


def _attention(g: GraphBuilder, weights: SeededWeights, x: str, name: str, mask: str) -> str:
    square = (HIDDEN, HIDDEN)
    with g.scope("attention"):
        q, k, v = (
            parts.heads_first(g, parts.split_heads(g, projected, HEADS.size))
            for projected in (
                _dense(g, weights, x, f"{name}.self.query", square, gain=1.5),
                _dense(g, weights, x, f"{name}.self.key", square, gain=1.5),
                _dense(g, weights, x, f"{name}.self.value", square, gain=1.0),
            )
        )
        mixed = parts.attend(g, q, k, v, mask, HEADS)
        return _dense(g, weights, mixed, f"{name}.output.dense", square, ATTENTION_GAIN)


def _feed_forward(g: GraphBuilder, weights: SeededWeights, x: str, name: str) -> str:
    x = _dense(g, weights, x, f"{name}.intermediate.dense", (HIDDEN, MLP), gain=1.0)
    return _dense(g, weights, _gelu(g, x), f"{name}.output.dense", (MLP, HIDDEN), MLP_GAIN)


def _gelu(g: GraphBuilder, x: str) -> str:
    error = g.node("Erf", [g.node("Div", [x, g.constant(2**0.5)])])
    product = g.node("Mul", [x, g.node("Add", [error, g.constant(1.0)])])
    return g.node("Mul", [product, g.constant(0.5)])


if __name__ == "__main__":
    main(build, __doc__, __file__)
