"""Token ids of source code for SmolLM2, by the tokenizer inside its GGUF file.

python -m benchmarks.code_ids OUT.npy FILE ...
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from sample_models.real_smollm2 import gguf_path


def main() -> int:
    """Encode the files one after another as one text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    args = parser.parse_args()
    from gguf import GGUFReader
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    fields = GGUFReader(gguf_path()).fields
    words = [str(w) for w in fields["tokenizer.ggml.tokens"].contents()]
    pairs = [str(m).partition(" ") for m in fields["tokenizer.ggml.merges"].contents()]
    merges = [(left, right) for left, _, right in pairs]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    text = "\n".join(file.read_text(encoding="utf-8") for file in args.files)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if tokenizer.decode(ids) != text:
        raise SystemExit("the ids do not decode to the text")
    np.save(args.output, np.array(ids, dtype=np.uint16))
    print(f"{len(ids)} ids")
    return 0


if __name__ == "__main__":
    sys.exit(main())
