"""Token ids of a text through a model's own tokenizer, as it stands in the model's GGUF file.

    python -m benchmarks.token_ids TEXT.txt smollm2|gemma3 OUT.npy

One row of integers without a begin-of-text id, as `tokenizer.encode(text)` gives them. The packages
of the `samples` extra hold the files.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.missing import read_text, told

MODELS = ("smollm2", "gemma3")


def tokenizer_of(model: str) -> Any:
    """The tokenizer of a model; one of the library `tokenizers`.

    Raises:
        ModuleNotFoundError, SlancError: a package of the `samples` extra is missing.
    """
    if model == "smollm2":
        from sample_models.real_smollm2 import gguf_path

        return _by_bytes(_fields(gguf_path()))
    from sample_models.real_gemma3 import gguf_file

    with gguf_file() as path:
        return _by_scores(_fields(path))


def _fields(path: Path) -> dict[str, list[Any]]:
    from gguf import GGUFReader

    fields = GGUFReader(path).fields
    wanted = ("tokens", "merges", "scores", "token_type")
    return {
        name: list(fields[f"tokenizer.ggml.{name}"].contents())
        for name in wanted
        if f"tokenizer.ggml.{name}" in fields
    }


def _by_bytes(fields: dict[str, list[Any]]) -> Any:
    """Pairs of bytes, merged in the order of the file; decimal digits one by one."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {str(word): i for i, word in enumerate(fields["tokens"])}
    pairs = [str(m).partition(" ") for m in fields["merges"]]
    merges = [(left, right) for left, _, right in pairs]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\d"), "isolated"), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _by_scores(fields: dict[str, list[Any]]) -> Any:
    """SentencePiece's pairs: the one whose word has the highest score is merged first."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    words = [str(word) for word in fields["tokens"]]
    vocabulary = {word: i for i, word in enumerate(words)}
    ranked = []
    for word, score in zip(words, fields["scores"], strict=True):
        for cut in range(1, len(word)):
            left, right = word[:cut], word[cut:]
            if left in vocabulary and right in vocabulary:
                ranked.append((-float(score), vocabulary[left], vocabulary[right], left, right))
    merges = [pair[3:] for pair in sorted(ranked)]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.add_tokens(_whole(words, fields["token_type"]))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def _whole(words: list[str], types: list[Any]) -> list[Any]:
    """The words that are one id wherever they stand in a text: unknown, control, user defined."""
    from tokenizers import AddedToken

    return [
        AddedToken(word, normalized=False)
        for word, kind in zip(words, types, strict=True)
        if kind in (2, 3, 4)
    ]


def main() -> int:
    """Encode a text, and see that the ids decode to it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    text = read_text(args.text)
    tokenizer = tokenizer_of(args.model)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if tokenizer.decode(ids, skip_special_tokens=False) != text:
        print("ERROR: the ids do not decode to the text", file=sys.stderr)
        return 1
    np.save(args.output, np.array(ids, dtype=np.int64))
    print(f"{len(ids)} ids")
    return 0


if __name__ == "__main__":
    sys.exit(told(main))
