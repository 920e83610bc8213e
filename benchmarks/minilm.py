"""all-MiniLM-L6-v2 with FP16 norms: do its embeddings stay, and do they rank pairs as before?

    python -m benchmarks.minilm MODEL.onnx TEXT.txt [--modes ...] [--scales ...]

MODEL.onnx as `python -m sample_models.real_minilm MODEL.onnx` makes it; TEXT.txt has a sentence or
paragraph per line, of which the first 256 tokens count. The packages of the `samples` extra bring
weights and tokenizer. The first line that is printed holds the scales of the paper's equations
against the same equations in NumPy.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks.markdown import heading, line
from benchmarks.missing import read_text, told
from benchmarks.scales import MODES, SCALES, read_source, version_by
from sample_models.real_minilm import model_directory
from slanc_onnx import Options, compute_scales
from slanc_onnx.errors import SlancError
from slanc_onnx.graph.load import read_tensor
from slanc_onnx.run.session import Feeds, Session
from slanc_onnx.verify.emulate.norms import emulate

PAIRS = 500  # of neighbouring sentences
KINDS = [scales for scales in SCALES if scales != "calibrated"]  # there is no data to calibrate on
Floats = npt.NDArray[np.float64]


def main() -> int:
    """Print a Markdown table: one row per mode, one column per kind of scales."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--scales", nargs="+", choices=KINDS, default=KINDS)
    args = parser.parse_args()
    source = read_source(args.model)
    check_minilm(source.model)
    feeds = sentences(args.text, PAIRS + 1)
    if len(feeds) < 3:
        parser.error(f"{args.text}: has fewer than three lines of more than 40 characters")
    error = paper_error(source.model, source.folder)
    print(
        f"Equations 5 and 10 in NumPy FP64 against `--scale paper`: relative error {error:.2g}. "
        f"Of {len(feeds) - 1} pairs of neighbouring sentences, against FP32: Spearman's rank "
        "correlation of the similarities / the smallest cosine of an embedding.\n"
    )
    exact = embeddings(source.model, feeds, source.folder)
    print(heading(["sums, subnormals", *args.scales]))
    for mode in args.modes:
        cells = []
        for scales in args.scales:
            version = version_by(source, scales, MODES[mode])
            if version is None:
                cells.append("no formula")
                continue
            emulated = emulate(version.model, version.norms, MODES[mode])
            found = embeddings(emulated.model, feeds, source.folder)
            rank = spearman(similarities(exact), similarities(found))
            cells.append(f"{rank:.6f} / {np.sum(exact * found, axis=1).min():.5f}")
            print(f"{mode}, {scales}: {cells[-1]}", file=sys.stderr)
        print(line([mode, *cells]), flush=True)
    return 0


def check_minilm(model: onnx.ModelProto) -> None:
    """Refuse another model.

    Raises:
        SlancError: it is one, by the names of its weights.
    """
    names = {tensor.name for tensor in model.graph.initializer}
    if not {"embeddings.LayerNorm.weight", "encoder.layer.5.output.dense.weight"} <= names:
        raise SlancError(
            "this measures all-MiniLM-L6-v2, which the model is not: python -m "
            "sample_models.real_minilm minilm.onnx makes it."
        )


def sentences(text: Path, count: int) -> list[Feeds]:
    """Inputs for the first lines of the text that are longer than 40 characters."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_directory() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    lines = [line.strip() for line in read_text(text).splitlines()]
    chosen = [line for line in lines if len(line) > 40][:count]
    feeds: list[Feeds] = []
    for encoding in tokenizer.encode_batch(chosen):
        ids = np.array([encoding.ids], dtype=np.int64)
        mask, kinds = np.ones_like(ids), np.zeros_like(ids)
        feeds.append({"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds})
    return feeds


def embeddings(model: onnx.ModelProto, feeds: list[Feeds], folder: Path | None) -> Floats:
    """Mean over the tokens, of length 1, shape [sentences, 384]."""
    session = Session(model, folder)
    rows = [session.run(f)["last_hidden_state"][0].astype(np.float64).mean(axis=0) for f in feeds]
    stacked = np.stack(rows)
    return np.asarray(stacked / np.linalg.norm(stacked, axis=1, keepdims=True))


def similarities(rows: Floats) -> Floats:
    """Cosines of neighbouring rows of length 1, shape [rows - 1]."""
    return np.asarray(np.sum(rows[:-1] * rows[1:], axis=1))


def spearman(a: Floats, b: Floats) -> float:
    """Pearson's correlation of the ranks; nan where a value is.

    Spearman, "The proof and measurement of association between two things", 1904. Without ties,
    which cosines of different sentences do not have.
    """
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    first, second = (np.argsort(np.argsort(values)).astype(np.float64) for values in (a, b))
    return float(np.corrcoef(first, second)[0, 1])


def paper_error(model: onnx.ModelProto, folder: Path | None) -> float:
    """Equations 5 and 10, written down in NumPy from the initializers, against --scale paper.

    Returns:
        The largest relative error of a scale.
    """
    weights = {t.name: t for t in model.graph.initializer}

    def read(name: str) -> Floats:
        return read_tensor(weights[name], folder).astype(np.float64)

    decided = compute_scales(model, Options(scale="paper"), folder=folder)
    identity = np.eye(384)
    worst, before = 0.0, "embeddings.LayerNorm"
    for i in range(6):
        layer = f"encoder.layer.{i}"
        gamma = np.diag(read(f"{before}.weight"))
        value = read(f"{layer}.attention.self.value.weight")
        project = read(f"{layer}.attention.output.dense.weight")
        attention = np.linalg.norm(gamma @ (value @ project + identity))
        before = f"{layer}.attention.output.LayerNorm"
        gamma = np.diag(read(f"{before}.weight"))
        e, g = read(f"{layer}.intermediate.dense.weight"), read(f"{layer}.output.dense.weight")
        mlp = np.linalg.norm(gamma @ (e @ g + identity))
        before = f"{layer}.output.LayerNorm"
        for printed, norm in ((attention, decided[2 * i + 1]), (mlp, decided[2 * i + 2])):
            assert norm.scale is not None and math.isfinite(norm.scale)
            worst = max(worst, abs(norm.scale / float(printed) - 1))
    return worst


if __name__ == "__main__":
    sys.exit(told(main))
