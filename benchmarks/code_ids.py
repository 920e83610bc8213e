"""Token ids of source code for SmolLM2, by the tokenizer inside its GGUF file.

python -m benchmarks.code_ids OUT.npy FILE ...
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from benchmarks.missing import read_text, told
from benchmarks.token_ids import tokenizer_of


def main() -> int:
    """Encode the files one after another as one text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    args = parser.parse_args()
    tokenizer = tokenizer_of("smollm2")
    text = "\n".join(read_text(file) for file in args.files)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if tokenizer.decode(ids) != text:
        raise SystemExit("the ids do not decode to the text")
    np.save(args.output, np.array(ids, dtype=np.uint16))
    print(f"{len(ids)} ids")
    return 0


if __name__ == "__main__":
    sys.exit(told(main))
