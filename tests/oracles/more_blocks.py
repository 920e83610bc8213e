"""More blocks between norms: residual streams, tables, convolutions, experts, choices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from slanc_onnx.trace.expression import (
    Alternatives,
    Apply,
    Convolution,
    Embedding,
    Experts,
    Input,
    Join,
    Mix,
    Mixture,
    Pick,
    Select,
    Shares,
)
from tests.oracles.blocks import (
    ACTIVATIONS,
    HEADS,
    POSITIONS,
    WIDE,
    Block,
    D,
    Draw,
    Floats,
    attend,
    attention,
    gated_mlp,
    grouped_attention,
    heads_of,
    known,
    linear,
    mlp,
    norm_of,
    number,
    plus,
    query_norm,
    relu_squared,
    sigmoid,
    times,
    weight,
)

TOKENS = 5


def table_row(table: Floats, logits: Floats) -> Floats:
    """The row of a table that logits [batch, rows of x, tokens] point at."""
    return np.asarray(table[np.argmax(logits, axis=-1)])


def residual_stream(draw: Draw) -> Block:
    """Sandwich norms: a token's row, and two blocks whose outputs are normed, each times gamma."""
    table, gammas = draw(TOKENS, D), (draw(D), draw(D))
    normed = [times(norm_of(name=f"n{i}"), known(g)) for i, g in enumerate(gammas)]
    return Block(
        plus(Embedding(D, weight(table)), *normed),
        (("free", 1, TOKENS), ("rms", 1, D), ("rms", 1, D)),
        lambda ids, a, b: table_row(table, ids) + a * gammas[0] + b * gammas[1],
    )


def pre_norm_chain(draw: Draw) -> Block:
    """r + attention(x1) + MLP(x2), where the norms that gave x1 and x2 read the stream itself."""
    table, v, p, e, g = draw(TOKENS, D), draw(D, D), draw(D, D), draw(D, WIDE), draw(WIDE, D)
    q, k = draw(D, D), draw(D, D)
    mixed = Mix(D, linear(norm_of(name="n1"), v), heads_of(D, HEADS))
    inner = Apply(WIDE, "Swish", linear(norm_of(name="n2"), e), (1.0,))
    stream = plus(Embedding(D, weight(table)), linear(mixed, p), linear(inner, g))

    def rows(ids: Floats, a: Floats, b: Floats) -> Floats:
        attended = attend(a, q, k, a @ v, HEADS)[:, :1] @ p
        return np.asarray(table_row(table, ids) + attended + b @ e * sigmoid(b @ e) @ g)

    inputs = (("free", 1, TOKENS), ("rms", POSITIONS, D), ("rms", 1, D))
    return Block(stream, inputs, rows)  # type: ignore[arg-type]


def parallel(draw: Draw) -> Block:
    """Attention and MLP read the same norm; layer scale on both."""
    v, p, e, g = draw(D, D), draw(D, D), draw(D, WIDE), draw(WIDE, D)
    q, k, scales = draw(D, D), draw(D, D), (0.3 * draw(D), 0.3 * draw(D))
    x = norm_of("layer")
    mixed = linear(Mix(D, linear(x, v), heads_of(D, HEADS)), p)
    inner = linear(Apply(WIDE, "Gelu", linear(x, e)), g)
    gelu = ACTIVATIONS["Gelu"][1]

    def rows(x: Floats) -> Floats:
        attended = attend(x, q, k, x @ v, HEADS) @ p
        return np.asarray(attended * scales[0] + gelu(x @ e) @ g * scales[1] + x)

    whole = plus(times(mixed, known(scales[0])), times(inner, known(scales[1])), x)
    return Block(whole, (("layer", POSITIONS, D),), rows, centred=True)


def embeddings(draw: Draw) -> Block:
    """Token, position and a bias of its own, times a scalar, as in Gemma."""
    tokens, places, bias = draw(TOKENS, D), draw(3, D), draw(D)
    words = times(Embedding(D, weight(tokens)), number(2.5))
    return Block(
        plus(words, Embedding(D, weight(places)), known(bias)),
        (("free", 1, TOKENS), ("free", 1, 3)),
        lambda ids, at: 2.5 * table_row(tokens, ids) + table_row(places, at) + bias,
        centred=True,
    )


def softcap(draw: Draw) -> Block:
    """5 tanh(z / 5) of a projection, plus 1."""
    w = draw(D, D)
    capped = times(Apply(D, "Tanh", times(linear(norm_of(), w), number(0.2))), number(5.0))
    return Block(
        plus(capped, number(1.0)),
        (("rms", 1, D),),
        lambda x: 5 * np.tanh(x @ w * 0.2) + 1,
    )


def convolution(draw: Draw) -> Block:
    """Three taps in two groups over positions, then a pointwise map."""
    kernel, w = draw(D, D // 2, 3), draw(D, D)

    def rows(x: Floats) -> Floats:
        groups = np.split(x, 2, axis=-1), np.split(kernel, 2, axis=0)
        pairs = zip(*groups, strict=True)
        convolved = [np.einsum("bti,oit->bo", part, tap) for part, tap in pairs]
        return np.asarray((np.concatenate(convolved, axis=-1) @ w)[:, None])

    convolved = Convolution(D, norm_of(), weight(kernel), 2)
    return Block(linear(convolved, w), (("rms", 3, D),), rows)


def experts(draw: Draw) -> Block:
    """Any of three experts, mixed with shares, plus the residual."""
    up, down = draw(3, D, WIDE), draw(3, WIDE, D)
    inner = Apply(WIDE, "Relu", Experts(WIDE, norm_of(), weight(up)))

    def rows(x: Floats, logits: Floats) -> Floats:
        shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        hidden = np.maximum(np.einsum("bpd,edw->bpew", x, up), 0)
        return np.asarray(np.einsum("bpew,ewd,bpe->bpd", hidden, down, shares) + x)

    mixed = Experts(D, inner, weight(down))
    return Block(plus(mixed, norm_of()), (("rms", 1, D), ("free", 1, 3)), rows)


def shared_experts(draw: Draw) -> Block:
    """Experts in nodes of their own, each times its share."""
    a, b = draw(D, D), draw(D, D)
    x = norm_of()
    kinds = (times(Shares(1, 2), linear(x, a)), times(Shares(1, 2), linear(x, b)))

    def rows(x: Floats, logits: Floats) -> Floats:
        share = sigmoid(logits)
        return np.asarray(share * (x @ a) + (1 - share) * (x @ b))

    return Block(Mixture(D, kinds, (0.5, 0.5)), (("rms", 1, D), ("free", 1, 1)), rows)


def leaky_by_where(draw: Draw) -> Block:
    """Where(z > 0, z, z / 2): which elements are halved depends on the data."""
    w, g = draw(D, WIDE), draw(WIDE, D)
    z = linear(norm_of(), w)
    chosen = Select(WIDE, Apply(WIDE, "Greater", z, (0.0,)), z, times(z, number(0.5)))
    return Block(
        linear(chosen, g),
        (("rms", 1, D),),
        lambda x: np.where(x @ w > 0, x @ w, x @ w / 2) @ g,
    )


def merged_patches(draw: Draw) -> Block:
    """Rows of two positions end to end, as Swin merges patches, and a gate of constant rows."""
    w, bias = draw(2 * D, D), draw(D)
    pair = Pick(2 * D, norm_of("layer"), np.tile(np.arange(D), 2))
    return Block(
        plus(linear(pair, w), known(bias)),
        (("layer", 2, D),),
        lambda x: (x.reshape(len(x), -1) @ w + bias)[:, None],
        centred=True,
    )


def joined_rows(draw: Draw) -> Block:
    """Two norms end to end, times the sum of a third."""
    w = draw(2 * D, D)
    pair = Join(2 * D, (norm_of(name="a"), norm_of(name="b")))
    total = Apply(1, "ReduceSum", norm_of(name="c"))
    return Block(
        times(linear(pair, w), total),
        (("rms", 1, D), ("rms", 1, D), ("rms", 1, D)),
        lambda a, b, c: np.concatenate([a, b], axis=-1) @ w * c.sum(axis=-1, keepdims=True),
    )


def pixels_or_token(draw: Draw) -> Block:
    """A projected graph input in [-1, 1], or a class token that has no input."""
    w, token = draw(D, D), draw(D)
    pixels = linear(Input(D, "pixels"), w)
    return Block(
        Alternatives(D, (pixels, known(token)), (0.5, 0.5)),
        (("box", 1, D),),
        lambda x: np.concatenate([x @ w, np.broadcast_to(token, x.shape)], axis=1),
        centred=True,
    )


BLOCKS: Mapping[str, Callable[[Draw], Block]] = {
    "post-LN attention": attention,
    "grouped-query attention": grouped_attention,
    "query norm per head": query_norm,
    "gated MLP": gated_mlp,
    "relu²": relu_squared,
    "sandwich residuals": residual_stream,
    "pre-LN chain": pre_norm_chain,
    "parallel, layer scale": parallel,
    "embeddings": embeddings,
    "softcap": softcap,
    "convolution": convolution,
    "experts": experts,
    "shared experts": shared_experts,
    "leaky by Where": leaky_by_where,
    "merged patches": merged_patches,
    "joined rows": joined_rows,
    "pixels or token": pixels_or_token,
    **{f"MLP, {name}": partial(mlp, name=name) for name in ACTIVATIONS},
}
