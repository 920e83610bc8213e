"""Norms over extents that the file leaves open, by weights: NumPy has the rows of real inputs."""

import numpy as np
import onnx
import pytest

from slanc_onnx import Options, compute_scales
from slanc_onnx.prove.certificate import Certificate
from slanc_onnx.scale import ScaledNorm

RNG = np.random.default_rng(4)
KERNELS = {rank: (RNG.normal(size=(8, 3, *[3] * rank)) * 50).astype(np.float32) for rank in (1, 3)}


def decided(extents: str, nodes: str, channels: int = 3, rank: int = 1) -> ScaledNorm:
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 17]>
        main (float[1, {channels}, {extents}] x) => (float y) {{ {nodes} }}""")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    tensors = {
        "k": KERNELS[rank],
        "g": np.ones(8, np.float32),
        "b": np.zeros(8, np.float32),
        "half_g": np.ones(4, np.float32),
        "half_b": np.zeros(4, np.float32),
        "groups": np.array([0, 4, -1]),
    }
    for name, value in tensors.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    (found,) = compute_scales(model, Options(estimate="weights"))
    return found


@pytest.mark.parametrize(
    ("extents", "rank"), [("n", 1), ("d, h, w", 3)], ids=["a sound", "a volume"]
)
def test_a_convolution_and_a_norm_over_open_extents(extents: str, rank: int) -> None:
    found = decided(extents, "c = Conv(x, k) y = InstanceNormalization(c, g, b)", rank=rank)
    assert found.status == "scaled" and found.estimate is not None
    # Of rows of 16 positions: each is the kernel of its channel times numbers of unit variance.
    squares = (KERNELS[rank].astype(np.float64) ** 2).reshape(8, -1).sum(-1)
    expected = 16 * float(squares.mean())
    typical, largest = found.estimate.typical, found.estimate.largest
    assert largest is not None and expected / 20 < typical < expected < largest < 20 * expected
    assert not isinstance(found.certificate, Certificate) or not found.certificate.certified


def test_groups_of_channels_over_an_open_extent() -> None:
    nodes = "c = Conv(x, k) r = Reshape(c, groups) y = InstanceNormalization(r, half_g, half_b)"
    found = decided("n", nodes)
    assert found.status == "scaled" and found.scale is not None and found.scale >= 128


def test_a_graph_input_over_an_open_extent() -> None:
    found = decided("n", "y = InstanceNormalization(x, g, b)", channels=8)
    assert found.status == "scaled" and found.estimate is not None
    typical, largest = found.estimate.typical, found.estimate.largest
    assert largest is not None and 16 / 4 < typical < 16 < largest < 16 * 4


def test_an_extent_of_one_is_a_row_of_zeros() -> None:
    found = decided("1", "y = InstanceNormalization(x, g, b)", channels=8)
    assert found.status == "skipped"
