"""Greedy tokens of model folders, as onnxruntime-genai generates them.

    python -m benchmarks.genai_tokens FOLDER OTHER ... [--tokens 64]

Each OTHER is held against FOLDER: of how many tokens behind each prompt the first ones are the
same. Behind the first token that differs two texts are no longer comparable, so later tokens that
happen to be alike do not count. Needs onnxruntime-genai (sample_models/genai_smollm2.py makes such
folders). It runs on the CPU, where FP16 does not overflow as on a device: it shows that a folder
works, not that FP16 does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.markdown import table
from benchmarks.missing import positive, told
from sample_models.weights import require
from slanc_onnx.errors import SlancError

PROMPTS = (
    "The capital of France is",
    "Once upon a time",
    "def fibonacci(n):",
    "Water boils at",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("others", nargs="+", type=Path)
    parser.add_argument("--tokens", type=positive, default=64)
    args = parser.parse_args(arguments)
    for folder in (args.folder, *args.others):
        if not (folder / "genai_config.json").is_file():
            raise SlancError(
                f"{folder}: holds no genai_config.json. python -m sample_models.genai_smollm2 "
                f"{folder} makes such a folder."
            )
    expected = generate(args.folder, PROMPTS, args.tokens)
    found = {other: generate(other, PROMPTS, args.tokens) for other in args.others}
    rows = [
        (str(other), *(_same(*pair) for pair in zip(expected, ids, strict=True)))
        for other, ids in found.items()
    ]
    print(table((f"the first tokens as {args.folder}", *PROMPTS), rows))
    return 0


def generate(folder: Path, prompts: Sequence[str], count: int) -> list[list[int]]:
    """The ids of the tokens that follow on each prompt, always the likeliest; the end is not one.

    Args:
        folder: It holds genai_config.json.
        prompts: Texts.
        count: How many tokens.
    """
    genai = require("onnxruntime_genai", "onnxruntime-genai")
    model = genai.Model(str(folder))
    tokenizer, found = genai.Tokenizer(model), []
    for prompt in prompts:
        ids = tokenizer.encode(prompt)
        length = len(ids) + count
        params = genai.GeneratorParams(model)
        params.set_search_options(min_length=length, max_length=length, do_sample=False)
        generator = genai.Generator(model, params)
        generator.append_tokens(ids)
        while not generator.is_done():
            generator.generate_next_token()
        found.append([int(token) for token in generator.get_sequence(0)][len(ids) :])
    return found


def _same(expected: Sequence[int], found: Sequence[int]) -> str:
    """How many tokens are the same before the first that differs."""
    pairs = enumerate(zip(expected, found, strict=True))
    same = next((i for i, (one, other) in pairs if one != other), len(expected))
    return f"{same} of {len(expected)}"


if __name__ == "__main__":
    sys.exit(told(main))
