"""A second implementation of the decoder sample models, in NumPy, straight from the GGUF file.

It is the check of `real_smollm2` and `real_gemma3`: it shares no code with them and takes another
way where there is one: the llama architecture keeps its interleaved rotary pairs, heads are a loop,
and arithmetic is float64.
"""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


class NumpyDecoder:
    """A Llama or Gemma 3 decoder read from a GGUF file."""

    def __init__(self, path: Path) -> None:
        self._reader = gguf.GGUFReader(path)
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self._architecture = self._field("general.architecture")
        self._gemma = self._architecture == "gemma3"

    def logits(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the logits [sequence, vocab] of one sequence of token ids."""
        embedding = self._weight("token_embd")
        x = embedding[ids].astype(np.float64)
        if self._gemma:
            x *= np.sqrt(x.shape[-1])
        for layer in range(self._metadata("block_count")):
            y = self._attend(self._norm(x, f"blk.{layer}.attn_norm"), layer)
            x = x + (self._norm(y, f"blk.{layer}.post_attention_norm") if self._gemma else y)
            y = self._feed_forward(self._norm(x, f"blk.{layer}.ffn_norm"), layer)
            x = x + (self._norm(y, f"blk.{layer}.post_ffw_norm") if self._gemma else y)
        final: NDArray[np.float32] = self._norm(x, "output_norm").astype(np.float32) @ embedding.T
        return final

    def _metadata(self, key: str) -> Any:
        return self._field(f"{self._architecture}.{key}")

    def _field(self, key: str) -> Any:
        field = self._reader.get_field(key)
        if field is None:
            raise KeyError(key)
        return field.contents()

    def _weight(self, name: str) -> NDArray[np.float32]:
        tensor = self._tensors[f"{name}.weight"]
        weight: NDArray[np.float32] = gguf.dequantize(tensor.data, tensor.tensor_type)
        return weight

    def _linear(self, x: Float, name: str) -> Float:
        return x @ self._weight(name).T.astype(np.float64)

    def _norm(self, x: Float, name: str) -> Float:
        eps = self._metadata("attention.layer_norm_rms_epsilon")
        normalised: Float = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
        return normalised * self._weight(name)

    def _attend(self, x: Float, layer: int) -> Float:
        query_heads = self._metadata("attention.head_count")
        group = query_heads // self._metadata("attention.head_count_kv")
        q, k, v = (self._linear(x, f"blk.{layer}.attn_{name}") for name in "qkv")
        size = q.shape[-1] // query_heads
        distance = np.subtract.outer(np.arange(len(x)), np.arange(len(x)))
        hidden = distance < 0
        theta = self._metadata("rope.freq_base")
        if self._gemma and (layer + 1) % 6:
            theta = 10000.0
            hidden |= distance >= self._metadata("attention.sliding_window")
        mixed = []
        for head in range(query_heads):
            columns = slice(head * size, (head + 1) * size)
            shared = slice(head // group * size, (head // group + 1) * size)
            query, key = q[:, columns], k[:, shared]
            if self._gemma:
                query = self._norm(query, f"blk.{layer}.attn_q_norm")
                key = self._norm(key, f"blk.{layer}.attn_k_norm")
            scores = self._rotate(query, theta) @ self._rotate(key, theta).T / np.sqrt(size)
            scores[hidden] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            mixed.append(weights / weights.sum(-1, keepdims=True) @ v[:, shared])
        return self._linear(np.concatenate(mixed, -1), f"blk.{layer}.attn_output")

    def _rotate(self, x: Float, theta: float) -> Float:
        """Turn each pair of channels as one complex number."""
        length, size = x.shape
        angle = np.outer(np.arange(length), theta ** (-np.arange(0, size, 2) / size))
        if self._gemma:  # channel i is paired with i + size / 2
            turned = (x[:, : size // 2] + 1j * x[:, size // 2 :]) * np.exp(1j * angle)
            return np.concatenate([turned.real, turned.imag], -1)
        turned = (x[:, ::2] + 1j * x[:, 1::2]) * np.exp(1j * angle)
        return np.stack([turned.real, turned.imag], -1).reshape(x.shape)

    def _feed_forward(self, x: Float, layer: int) -> Float:
        gate = self._linear(x, f"blk.{layer}.ffn_gate")
        if self._gemma:
            gate *= 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
        else:
            gate /= 1 + np.exp(-gate)
        return self._linear(gate * self._linear(x, f"blk.{layer}.ffn_up"), f"blk.{layer}.ffn_down")
