"""Fitted: nodes whose inputs have to fit together, which drawing each alone never meets.

Attention's heads and masks, tables of angles, packed blocks of weights: of these ops the sizes and
attributes follow from one tensor that is there, and all else is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.random_graphs.any_op import EXTREMES, MICROSOFT, Drawn, Key, Rng
from benchmarks.random_graphs.building import Array

FIRST = "first"  # the name of the tensor that is there, as an input
WIDEST = 4  # of a block of weights, in groups
_OF_ANY = (("", "Range"), ("", "ScatterND"), (MICROSOFT, "GatherBlockQuantized"))
_LOWEST = float(np.finfo(np.float32).min)
Fit = Callable[[Rng, Array], Drawn]


def fitted(rng: Rng, key: Key, first: Array) -> Drawn:
    """A node of an op that reads a tensor, with whatever fits to that.

    Raises:
        LookupError: none does.
    """
    if key not in _OF_ANY and first.dtype.kind != "f":
        raise LookupError(key[1])
    try:
        return FITS[key](rng, first)
    except (ValueError, IndexError, ZeroDivisionError) as error:  # of a shape that does not fit
        raise LookupError(key[1]) from error


def _chance(rng: Rng, share: float) -> bool:
    return bool(rng.random() < share)


def _numbers(rng: Rng, shape: tuple[int, ...], like: Array) -> Array:
    """Numbers of the type of a tensor: of unit variance, large, or all one extreme."""
    with np.errstate(all="ignore"):
        if _chance(rng, 0.2):
            return np.full(shape, rng.choice(EXTREMES)).astype(like.dtype)
        size = float(rng.choice((1, 1, 30, 1e4, 1e-3, 1e18)))
        return np.asarray(rng.standard_normal(shape) * size).astype(like.dtype)


def _mask(rng: Rng, shapes: tuple[tuple[int, ...], ...], like: Array, truths: bool) -> Array:
    """Truths or addends of scores, of one of some shapes."""
    shape = shapes[int(rng.integers(len(shapes)))]
    kept = rng.random(shape) < rng.choice((0.0, 0.5, 1.0))
    if truths and _chance(rng, 0.4):
        return np.asarray(kept)
    with np.errstate(all="ignore"):
        hidden = rng.choice((-np.inf, _LOWEST, -1e4, -1e9, 3e38, 5.0))
        return np.where(kept, 0.0, hidden).astype(like.dtype)


def _some(rng: Rng, **choices: tuple[Any, ...]) -> dict[str, Any]:
    """Attributes, each left out half of the time."""
    told = {name: ones[int(rng.integers(len(ones)))] for name, ones in choices.items()}
    return {name: value for name, value in told.items() if _chance(rng, 0.5)}


def _heads(rng: Rng, width: int) -> tuple[int, int, int]:
    """Heads of queries, heads of keys, and the width of each, that make a row of that width."""
    heads = int(rng.choice([n for n in (1, 2, 4) if width % n == 0]))
    groups = int(rng.choice([n for n in (1, 2, 4) if heads % n == 0]))
    return heads, groups, width // heads


def _attention(rng: Rng, first: Array) -> Drawn:
    batch, length, width = first.shape[0], first.shape[-2], first.shape[-1]
    past = length if _chance(rng, 0.6) else int(rng.integers(1, 5))
    shapes: list[tuple[int, ...]]
    if first.ndim == 3:
        heads, groups, each = _heads(rng, width)
        other = each if _chance(rng, 0.7) else int(rng.choice((1, 3, 8)))
        shapes = [(batch, past, groups * each), (batch, past, groups * other)]
        attributes = {"q_num_heads": heads, "kv_num_heads": groups}
    else:
        heads = first.shape[1]
        groups = int(rng.choice([n for n in (1, 2, heads) if heads % n == 0]))
        shapes = [(batch, groups, past, size) for size in (width, int(rng.choice((width, 3))))]
        attributes = {}
    inputs: list[str | Array | None] = [FIRST]
    for shape in shapes:
        same = shape == first.shape and _chance(rng, 0.5)
        inputs.append(FIRST if same else _numbers(rng, shape, first))
    if _chance(rng, 0.6):
        wide = ((length, past), (batch, 1, length, past), (batch, heads, length, past))
        inputs.append(_mask(rng, wide, first, truths=True))
    attributes |= _some(
        rng,
        is_causal=(0, 1),
        scale=(0.5, 1.0, 1e3, 1e-3, 1e20),
        softcap=(0.0, 1.0, 30.0, 1e-3, -1.0),
        qk_matmul_output_mode=(0, 1, 2, 3),
    )
    return Drawn(("", "Attention"), tuple(inputs), attributes, int(rng.integers(1, 4)))


def _angles(rng: Rng, shape: tuple[int, ...], like: Array) -> list[Array]:
    """Cosines and sines, or any other numbers."""
    if _chance(rng, 0.4):
        return [_numbers(rng, shape, like) for _ in range(2)]
    turned = rng.random(shape) * 7
    return [np.cos(turned).astype(like.dtype), np.sin(turned).astype(like.dtype)]


def _turned(rng: Rng, first: Array, microsoft: bool) -> Drawn:
    batch, length, width = first.shape[0], first.shape[-2], first.shape[-1]
    if first.ndim == 3:
        heads = int(rng.choice([n for n in (1, 2, 4) if width % (2 * n) == 0]))
        attributes, width = {"num_heads": heads}, width // heads
    else:
        attributes = {}
    part = width
    if _chance(rng, 0.3) and width % 4 == 0:
        part = width // 2
        attributes["rotary_embedding_dim"] = part
    attributes |= _some(rng, interleaved=(0, 1))
    places = rng.integers(0, 9, (batch, length))
    tables = _angles(rng, (9, part // 2), first)
    if microsoft:
        attributes |= _some(rng, scale=(1.0, 2.0))
        at = places if _chance(rng, 0.5) else np.array([0])
        return Drawn((MICROSOFT, "RotaryEmbedding"), (FIRST, at, *tables), attributes, 1)
    if _chance(rng, 0.5):
        tables = _angles(rng, (batch, length, part // 2), first)
        return Drawn(("", "RotaryEmbedding"), (FIRST, *tables), attributes, 1)
    return Drawn(("", "RotaryEmbedding"), (FIRST, *tables, places), attributes, 1)


def _grouped_queries(rng: Rng, first: Array) -> Drawn:
    batch, length, width = first.shape
    if width % 8:
        raise LookupError("GroupQueryAttention")
    packed = _chance(rng, 0.3)
    if packed:
        heads, groups = [(1, 1), (2, 1), (2, 2), (6, 1)][int(rng.integers(4))]
        each, rest = divmod(width, heads + 2 * groups)
        if rest or not each:
            raise LookupError("GroupQueryAttention")
        inputs: list[str | Array | None] = [FIRST, None, None]
    else:
        heads, groups, each = _heads(rng, width)
        if each % 8:  # which the op refuses
            heads, groups, each = width // 8, 1, 8
        shape = (batch, length, groups * each)
        same = shape == first.shape and _chance(rng, 0.5)
        inputs = [FIRST]
        inputs += [FIRST if same else _numbers(rng, shape, first) for _ in range(2)]
    seen = np.full(batch, length - 1, np.int32)
    inputs += [None, None, seen, np.array(length, np.int32)]
    rotary = each % 2 == 0 and _chance(rng, 0.4)
    inputs += _angles(rng, (16, each // 2), first) if rotary else [None, None]
    inputs.append(None)
    shapes = ((1, 1, length, length), (batch, heads, length, length))
    inputs.append(_mask(rng, shapes, first, truths=False) if _chance(rng, 0.3) else None)
    inputs.append(_numbers(rng, (heads,), first) if _chance(rng, 0.3) else None)
    if _chance(rng, 0.1):
        inputs += [None, None, *(_numbers(rng, (each,), first) for _ in range(2))]
    while inputs[-1] is None:
        inputs.pop()
    attributes = {"num_heads": heads, "kv_num_heads": groups, "do_rotary": int(rotary)}
    attributes |= _some(
        rng,
        scale=(0.5, 1.0, 1e3, 1e20),
        local_window_size=(-1, 1, 2),
        softcap=(0.0, 1.0, 30.0),
        smooth_softmax=(0, 1),
        rotary_interleaved=(0, 1),
    )
    return Drawn((MICROSOFT, "GroupQueryAttention"), tuple(inputs), attributes, 3)


def _packed(rng: Rng, shape: tuple[int, ...]) -> Array:
    return np.asarray(rng.integers(0, 256, shape)).astype(np.uint8)


def _blocks(rng: Rng, first: Array) -> Drawn:
    height, width = first.shape[-1], int(rng.choice((1, 3, 8)))
    bits, block = int(rng.choice((4, 4, 8, 2))), int(rng.choice((16, 32)))
    count = -(-height // block)
    inputs: list[str | Array | None] = [
        FIRST,
        _packed(rng, (width, count, block * bits // 8)),
        _numbers(rng, (width, count), first),
    ]
    zeros = (width, -(-count * bits // 8))
    kinds = (None, None, _packed(rng, zeros), _numbers(rng, (width, count), first))
    inputs.append(kinds[int(rng.integers(4))])
    ids = (np.arange(height) // block).astype(np.int32)
    inputs.append(rng.permutation(ids) if _chance(rng, 0.2) else None)
    inputs.append(_numbers(rng, (width,), first) if _chance(rng, 0.3) else None)
    attributes = {"K": height, "N": width, "bits": bits, "block_size": block}
    attributes |= _some(rng, accuracy_level=(0, 1, 2, 3, 4))
    return Drawn((MICROSOFT, "MatMulNBits"), tuple(inputs), attributes, 1)


def _rows_of_blocks(rng: Rng, first: Array) -> Drawn:
    if first.dtype.kind != "i":
        raise LookupError("GatherBlockQuantized")
    rows, bits, block = 9, int(rng.choice((4, 8))), int(rng.choice((16, 32)))
    width = block * int(rng.integers(1, WIDEST))
    like = np.zeros((), (np.float32, np.float16)[int(rng.integers(2))])
    inputs: list[str | Array | None] = [_packed(rng, (rows, width * bits // 8)), FIRST]
    inputs.append(_numbers(rng, (rows, width // block), like))
    if _chance(rng, 0.5):
        inputs.append(_packed(rng, (rows, -(-(width // block) * bits // 8))))
    attributes = {"bits": bits, "block_size": block}
    attributes |= _some(rng, gather_axis=(0, -2), quantize_axis=(1, -1))
    return Drawn((MICROSOFT, "GatherBlockQuantized"), tuple(inputs), attributes, 1)


def _gemm(rng: Rng, first: Array) -> Drawn:
    (rows, height), width = first.shape, int(rng.choice((1, 3, 8)))
    turned, across = bool(_chance(rng, 0.3)), bool(_chance(rng, 0.2))
    if across:
        rows, height = height, rows
    shape = (width, height) if turned else (height, width)
    inputs: list[str | Array | None] = [FIRST, _numbers(rng, shape, first)]
    shapes = ((width,), (1, width), (rows, width), (rows, 1), (1,), ())
    if _chance(rng, 0.6):
        inputs.append(_numbers(rng, shapes[int(rng.integers(len(shapes)))], first))
    attributes = {"transB": int(turned), "transA": int(across)}
    attributes |= _some(rng, alpha=(0.0, -1.0, 1e-3, 1e38, 1e-40), beta=(0.0, -2.0, 1e38, 1e-40))
    return Drawn(("", "Gemm"), tuple(inputs), attributes, 1)


def _range(rng: Rng, first: Array) -> Drawn:
    if first.ndim or first.dtype.kind not in "fi" or first.dtype.itemsize < 4:
        raise LookupError("Range")
    kind, place = first.dtype, int(rng.integers(3))
    numbers: list[str | Array | None] = [
        *(np.asarray(rng.integers(-20, 20)).astype(kind) for _ in range(2)),
        np.asarray(rng.choice((1, 1, -1, 3, 0.1 if kind.kind == "f" else 2))).astype(kind),
    ]
    numbers[place] = FIRST
    if _chance(rng, 0.2):
        numbers[(place + 1) % 3] = FIRST
    return Drawn(("", "Range"), tuple(numbers), {}, 1)


def _scattered(rng: Rng, first: Array) -> Drawn:
    told = int(rng.integers(1, first.ndim + 1))
    count = int(rng.integers(1, 4))
    least = min(first.shape[:told])
    index = rng.integers(-least, least, (count, told)).astype(np.int64)
    updates = _numbers(rng, (count, *first.shape[told:]), first)
    attributes = _some(rng, reduction=("none", "none", "add", "mul", "max", "min"))
    return Drawn(("", "ScatterND"), (FIRST, index, updates), attributes, 1)


FITS: Mapping[Key, Fit] = {
    ("", "Attention"): _attention,
    ("", "RotaryEmbedding"): lambda rng, first: _turned(rng, first, False),
    (MICROSOFT, "RotaryEmbedding"): lambda rng, first: _turned(rng, first, True),
    (MICROSOFT, "GroupQueryAttention"): _grouped_queries,
    (MICROSOFT, "MatMulNBits"): _blocks,
    (MICROSOFT, "GatherBlockQuantized"): _rows_of_blocks,
    ("", "Gemm"): _gemm,
    ("", "Range"): _range,
    ("", "ScatterND"): _scattered,
}
