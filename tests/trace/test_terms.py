"""The words for what was read: blocks with the paper's letters and the weights' names."""

import numpy as np
import onnx
import pytest

from slanc_onnx import Options, compute_scales
from slanc_onnx.report.terms import rule_text
from tests.models.small_graphs import GAMMA, D, Weights, between, graph, normal
from tests.places import SAMPLES
from tests.spellings.attention import MULTI_HEAD, OPS, PACKED_FORMS, Attention, shape


def words(model: onnx.ModelProto) -> dict[str, tuple[str, list[str]]]:
    """(rule, sources) by norm name."""
    decided = compute_scales(model, Options(estimate="weights"))
    return {d.norm.name: (rule_text(d.rule), list(d.sources)) for d in decided}


def sample(name: str) -> dict[str, tuple[str, list[str]]]:
    return words(onnx.load(SAMPLES / f"{name}.onnx"))


def test_bert_like() -> None:
    """Post-LN: embeddings, then attention and MLP by turns, each plus x Γ."""
    found = sample("bert_like")
    tables = [f"embeddings.{t}_embeddings.weight" for t in ("word", "token_type", "position")]
    first = "/embeddings/LayerNormalization"
    assert found.pop(first) == (" + ".join(f"rows of {t}" for t in tables), tables)
    before, gamma = first, "embeddings.LayerNorm.weight"
    for layer in (0, 1):
        prefix, name = f"encoder.layer.{layer}", f"/encoder.layer.{layer}/LayerNormalization"
        assert found.pop(name) == (
            f"attention (W_V={prefix}.attention.self.value.weight, "
            f"P={prefix}.attention.output.dense.weight; eq. 10) + x Γ (Γ={gamma}) of {before}",
            [before],
        )
        before, gamma = name, f"{prefix}.attention.output.LayerNorm.weight"
        assert found.pop(f"{name}_1") == (
            f"MLP (E={prefix}.intermediate.dense.weight, G={prefix}.output.dense.weight; eq. 5)"
            f" + x Γ (Γ={gamma}) of {before}",
            [before],
        )
        before, gamma = f"{name}_1", f"{prefix}.output.LayerNorm.weight"
    assert found == {}


def test_llama_like() -> None:
    """Pre-LN: each block plus the residual, which is the input of the norm before."""
    found = sample("llama_like")
    table = "model.embed_tokens.weight"
    before = "/model.layers.0/Mul"
    assert found.pop(before) == (f"rows of {table}", [table])
    for layer in (0, 1, 2):
        prefix = f"model.layers.{layer}"
        after_attention = f"/{prefix}/Mul_2"
        assert found.pop(after_attention) == (
            f"residual r = input of {before} + attention (W_V={prefix}.self_attn.v_proj.weight, "
            f"P={prefix}.self_attn.o_proj.weight; eq. 10)",
            [f"input of {before}", before],
        )
        before = f"/model.layers.{layer + 1}/Mul" if layer < 2 else "/Mul_1"
        assert found.pop(before) == (
            f"residual r = input of {after_attention} + gated MLP (E={prefix}.mlp.gate_proj.weight,"
            f" B={prefix}.mlp.up_proj.weight, G={prefix}.mlp.down_proj.weight; eq. 8)",
            [f"input of {after_attention}", after_attention],
        )
    assert found == {}


def test_sandwich_like() -> None:
    """Norms on both sides of a block, and per head."""
    found = sample("sandwich_like")
    op, table = "SimplifiedLayerNormalization", "model.embed_tokens.weight"
    before, earlier = f"/model.layers.0/{op}", ""
    assert found.pop(before) == (f"rows of {table} times a constant", [table])
    for layer in (0, 1):
        prefix = f"model.layers.{layer}"
        for suffix, matrix in (("", "q_proj"), ("_1", "k_proj")):
            rule = f"projection ({prefix}.self_attn.{matrix}.weight)"
            assert found.pop(f"/{prefix}/self_attn/{op}{suffix}") == (rule, [before])
        post, pre = f"/{prefix}/{op}_1", f"/{prefix}/{op}_2"
        assert found.pop(post) == (
            f"attention (W_V={prefix}.self_attn.v_proj.weight, "
            f"P={prefix}.self_attn.o_proj.weight; eq. 10)",
            [before],
        )
        assert found.pop(pre) == (
            f"residual r = input of {before} + x Γ (Γ={prefix}.post_attention_layernorm.weight) "
            f"of {post}",
            [f"input of {before}", post],
        )
        post, earlier = f"/{prefix}/{op}_3", pre
        assert found.pop(post) == (
            f"gated MLP (E={prefix}.mlp.gate_proj.weight, B={prefix}.mlp.up_proj.weight, "
            f"G={prefix}.mlp.down_proj.weight; eq. 8)",
            [earlier],
        )
        before = f"/model.layers.1/{op}" if layer == 0 else f"/{op}"
        assert found.pop(before) == (
            f"residual r = input of {earlier} + x Γ "
            f"(Γ={prefix}.post_feedforward_layernorm.weight) of {post}",
            [f"input of {earlier}", post],
        )
    assert found == {}


ATTENTION = "attention (W_V={}, P=w_o; eq. 10)"
RESIDUAL = "x Γ (Γ=gamma) of first"


@pytest.mark.parametrize("attention", [MULTI_HEAD, *PACKED_FORMS, *OPS], ids=str)
def test_every_spelling_of_attention(attention: Attention) -> None:
    model = between(attention.nodes, attention.weights, attention.inputs, attention.opset)
    value = "w_v" if "w_v" in attention.weights else "w"
    rule = f"{RESIDUAL} + {ATTENTION.format(value)}"
    assert words(model)["last"] == (rule, ["first"])


BLOCKS = {
    "MLP": ("h = MatMul(x, e) a = Relu(h) total = MatMul(a, g)", "MLP (E=e, G=g; eq. 5)"),
    "MLP with biases": (
        "m = MatMul(x, e) h = Add(m, bias) a = Relu(h) o = MatMul(a, g) total = Add(o, beta)",
        "MLP (E=e, G=g; eq. 5)",
    ),
    "gated MLP": (
        "h = MatMul(x, e) u = MatMul(x, b) s = Sigmoid(h) a = Mul(h, s) p = Mul(u, a) "
        "total = MatMul(p, g)",
        "gated MLP (E=e, B=b, G=g; eq. 8)",
    ),
    "projection": ("total = MatMul(x, w)", "projection (w)"),
    "layer scale": (
        "h = MatMul(x, e) a = Relu(h) o = MatMul(a, g) total = Mul(o, gamma_ls)",
        "MLP (E=e, G=g; eq. 5) times gamma_ls",
    ),
    "a multiplier": (
        "h = MatMul(x, e) a = Relu(h) o = MatMul(a, g) total = Mul(half, o)",
        "MLP (E=e, G=g; eq. 5) times a constant",
    ),
    "an op that cannot be read": (
        "h = CumSum(x, axis) total = Add(h, x)",
        f"unread CumSum (h) + {RESIDUAL}",
    ),
    "an op whose output has no known shape": (
        "h = my.domain.Whirl(x) total = Add(h, x)",
        "unread Whirl (h)",
    ),
    "a second table": (
        "r = Gather(other, ids) total = Add(x, r)",
        f"{RESIDUAL} + rows of other",
    ),
    "a graph input": (
        "total = Add(x, frames)",
        f"{RESIDUAL} + graph input frames",
    ),
    "a bias alone is no term": ("total = Add(x, beta)", RESIDUAL),
}


@pytest.mark.parametrize(("nodes", "rule"), BLOCKS.values(), ids=BLOCKS)
def test_blocks(nodes: str, rule: str) -> None:
    weights = {
        "e": normal(1, D, 12),
        "b": normal(2, D, 12),
        "g": normal(3, 12, D),
        "w": normal(4, D, D),
        "bias": normal(5, 12),
        "beta": normal(6, D),
        "gamma_ls": normal(7, D),
        "half": normal(8, 1)[0],
        "other": normal(9, 20, D),
        "axis": np.array(1),
    }
    model = between(nodes, weights, "float[batch, sequence, 8] frames")
    assert words(model)["last"][0] == rule


def test_a_convolution_names_its_kernel() -> None:
    nodes = """
        c = Conv<strides = [4, 4]>(pixels, kernel) f = Reshape(c, flat)
        t = Transpose<perm = [0, 2, 1]>(f) [n] y = LayerNormalization(t, gamma)
    """
    weights: Weights = {"kernel": normal(1, D, 3, 4, 4), "gamma": GAMMA, "flat": shape(0, D, -1)}
    model = graph(nodes, weights, "float[batch, 3, 16, 16] pixels")
    assert words(model)["n"] == ("convolution (kernel)", ["pixels"])


def test_a_bias_that_is_scaled_is_no_activation() -> None:
    """A product of constants alone has no factor that data goes through."""
    nodes = (
        "r = Reshape(x, flat) g = Gemm<beta = 2.0>(r, e, c) h = Reshape(g, back) "
        "u = MatMul(x, b) s = Sigmoid(u) m = Mul(u, s) n = Mul(h, m) total = MatMul(n, d)"
    )
    weights = {"e": normal(1, D, D), "b": normal(2, D, D), "d": normal(3, D, D), "c": normal(4, D)}
    sizes = {"flat": shape(-1, D), "back": shape(1, -1, D)}
    found = words(between(nodes, {**weights, **sizes}))
    assert found["last"] == ("gated MLP (E=b, B=e, G=d; eq. 8)", ["first"])
