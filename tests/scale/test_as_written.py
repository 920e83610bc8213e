"""What is certified of a file of 16 bits is proved of that file: kept, dropped, and held."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from slanc_onnx import Options, ScaledNorm, protect, protect_file
from slanc_onnx.accelerator import Accelerator
from slanc_onnx.graph import Array
from slanc_onnx.prove import safe_radius
from slanc_onnx.prove.affine import Affine
from slanc_onnx.reasons import Unproved

WIDTH = 32
HEAD = '<ir_version: 8, opset_import: ["": 17]> m (int64[b, s] ids) => (float[b, s, n] y)'
OF_ROWS = "x = Gather(table, ids) [norm] y = LayerNormalization<axis = -1>(x, gamma, beta)"
# The scores between two norms are (n_i u) (v n_j), and what is mixed by their shares is added.
MIXING = """x = Gather(table, ids) [first] h = LayerNormalization<axis = -1>(x, gamma, beta)
q = MatMul(h, w) k = Transpose<perm = [0, 2, 1]>(h) [scores] s = MatMul(q, k)
p = Softmax<axis = -1>(s) c = MatMul(p, h) r = Add(h, c)
[second] y = LayerNormalization<axis = -1>(r, gamma, beta)"""


def model(nodes: str, **weights: Array) -> onnx.ModelProto:
    made = onnx.parser.parse_model(f"{HEAD} {{{nodes}}}")
    width = weights["table"].shape[1]
    weights = {"gamma": np.ones(width), "beta": np.zeros(width)} | weights
    made.graph.initializer.extend(
        numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()
    )
    return made


def certified(made: onnx.ModelProto, folder: Path, options: Options) -> dict[str, ScaledNorm]:
    """The norms after the whole job, which has to pass; `protect` says the same of each."""
    onnx.save(made, folder / "model.onnx")
    done = protect_file(folder / "model.onnx", folder / "out.onnx", options)
    assert done.validation is not None and done.validation.passed
    in_memory = protect(made, replace(options, validate=False))
    bounds = [n.certificate and (n.certificate.certified, n.certificate.bound) for n in done.norms]
    assert bounds == [
        n.certificate and (n.certificate.certified, n.certificate.bound) for n in in_memory
    ]
    return {n.norm.name: n for n in done.norms}


@pytest.mark.parametrize("off", [0.4, -0.4], ids=["rounded down", "rounded up"])
def test_a_table_is_bounded_by_its_rounded_rows(off: float, tmp_path: Path) -> None:
    """The rows of the original are longer, or shorter: neither withdraws the certificate."""
    rows = np.random.default_rng(0).choice([-1.0, 1.0], (20, WIDTH))
    made = model(OF_ROWS, table=rows * (1 + 2.0**-10 + off * 2.0**-10))
    norm = certified(made, tmp_path, Options(to="fp16"))["norm"]
    assert norm.certificate is not None and norm.certificate.certified
    longest = np.sqrt(WIDTH) * (1 + 2.0**-10)  # 1 + 2^-10 is an FP16 number
    assert norm.certificate.bound.length == pytest.approx(longest, rel=1e-5)
    assert norm.certificate.bound.length >= longest
    before = np.sqrt(WIDTH) * (1 + 2.0**-10 + off * 2.0**-10)
    assert (norm.certificate.bound.length < before * (1 - 2.0**-13)) == (off > 0)


def test_one_whose_bound_a_rounding_breaks_is_dropped(tmp_path: Path) -> None:
    """Rows within the safe radius in FP32, and beyond it once they are rounded up to FP16."""
    base = certified(
        model(OF_ROWS, table=np.ones((4, WIDTH))),
        tmp_path,
        Options(to="fp16", set_scale={"norm": 1.0}),
    )["norm"]
    for width in range(8, 200):
        radius = safe_radius(replace(base.norm, width=width), width, 1.0, Accelerator(), Affine())
        assert radius is not None
        element = radius / np.sqrt(width) * (1 - 1e-5)
        rounded = float(np.float16(element))
        if rounded > element * (1 + 1e-4):
            break
    signs = np.resize([1.0, -1.0], (4, width))
    options = Options(
        to="fp16", set_scale={"norm": 1.0}, inputs={"ids": np.zeros((1, 4), np.int64)}
    )
    made = model(OF_ROWS, table=np.vstack([signs[:1], signs * element]))
    fp32 = protect(model(OF_ROWS, table=signs * element), Options(set_scale={"norm": 1.0}))[0]
    assert fp32.certificate is not None and fp32.certificate.certified
    norm = certified(made, tmp_path, options)["norm"]
    assert norm.certificate is not None and not norm.certificate.certified
    assert norm.certificate.reason is not None
    assert norm.certificate.reason.kind in (Unproved.SUM_OVERFLOWS, Unproved.STEP_OVERFLOWS)


def test_one_whose_bound_holds_in_fp32_between_the_norms_alone_is_dropped(tmp_path: Path) -> None:
    """Scores beyond FP16 are infinite and their shares nan; in FP32 they are shares as ever."""
    rng = np.random.default_rng(1)
    u, v = (np.resize(signs, WIDTH) / np.sqrt(WIDTH) for signs in ([1, -1], [1, 1, -1, -1]))
    table = np.vstack([rng.standard_normal((98, WIDTH)), [u, v]])
    made = model(MIXING, table=table, w=4096 * np.outer(u, v))
    options = Options(to="fp16", inputs={"ids": np.arange(12).reshape(1, 12)})
    fp32 = protect(model(MIXING, table=table, w=4096 * np.outer(u, v)), replace(options, to=None))
    assert all(n.certificate is not None and n.certificate.certified for n in fp32)
    norms = certified(made, tmp_path, options)
    first, second = norms["first"].certificate, norms["second"].certificate
    assert first is not None and first.certified
    assert second is not None and not second.certified and second.reason is not None
    assert second.reason.kind is Unproved.OVERFLOWS_BETWEEN
    rows = np.stack([row / row.std() for row in (u, v)])  # what the norm makes of the last ids
    scores = rows @ (4096 * np.outer(u, v)) @ rows.T
    assert np.abs(scores).max() > 65504, "so it is no mere lack of a proof"


def test_without_a_proof_none_is_made(tmp_path: Path) -> None:
    made = model(OF_ROWS, table=np.ones((4, WIDTH)) * np.resize([1, -1], WIDTH))
    norm = certified(made, tmp_path, Options(to="fp16", certify="off"))["norm"]
    assert norm.certificate is None
