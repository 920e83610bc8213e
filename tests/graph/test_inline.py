"""Skeletons: large weights of an inline file are ranges of it, and a model comes back byte by byte.

The truth is protobuf's own: what it parses and writes of the same bytes.
"""

import random
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

from slanc_onnx.errors import SlancError
from slanc_onnx.graph.inline import LEAST, Skeleton, Span, is_inside, pieces_of, slimmed
from slanc_onnx.graph.load import all_tensors, load_model, read_tensor
from slanc_onnx.graph.wire import BYTES, VARINT, head, number

NAME = "model.onnx"
SIZE = LEAST // 4 + 8  # elements of FP32 of a tensor that is taken


def values(seed: int = 0, size: int = SIZE) -> NDArray[Any]:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def skeleton(data: bytes) -> Skeleton | None:
    return slimmed(data, len(data), NAME)


def written(model: onnx.ModelProto, source: bytes) -> bytes:
    """A skeleton as a file, made of the file that it was read from."""
    pieces = pieces_of(model.SerializeToString(), {NAME})
    return b"".join(
        source[p.offset : p.offset + p.length] if isinstance(p, Span) else p for p in pieces
    )


def comes_back(data: bytes, taken: int) -> Skeleton:
    found = skeleton(data)
    assert found is not None
    assert len(found.taken) == taken
    assert sum(map(is_inside, all_tensors(found.model))) == taken
    assert found.model.ByteSize() < len(data) - taken * (LEAST - 300)
    assert written(found.model, data) == onnx.ModelProto.FromString(data).SerializeToString()
    return found


def model_of(*tensors: TensorProto) -> onnx.ModelProto:
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [], [], tensors)
    return helper.make_model(graph)


def tensor(name: str = "w", **fields: Any) -> TensorProto:
    return TensorProto(name=name, dims=[SIZE], data_type=TensorProto.FLOAT, **fields)


def test_raw_data_is_taken_and_read_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / NAME
    for shift in range(9):  # numbers lie at any byte
        model = model_of(numpy_helper.from_array(values(), "w"))
        model.producer_name = "p" * shift
        file.write_bytes(model.SerializeToString())
        comes_back(file.read_bytes(), 1)
        (weight,) = load_model(file).graph.initializer
        assert {e.key: e.value for e in weight.external_data}["location"] == NAME
        read = read_tensor(weight, tmp_path)
        assert read.flags.aligned and np.array_equal(read, values())


@pytest.mark.parametrize(
    ("kind", "field", "data"),
    [
        (TensorProto.FLOAT, "float_data", values(1)),
        (TensorProto.COMPLEX64, "float_data", values(1, 2 * SIZE)),
        (TensorProto.DOUBLE, "double_data", values(1).astype(np.float64)),
        (TensorProto.COMPLEX128, "double_data", values(1, 2 * SIZE).astype(np.float64)),
    ],
)
def test_typed_data_is_taken_where_it_is_the_same_bytes(
    kind: int, field: str, data: NDArray[Any], tmp_path: Path
) -> None:
    weight = tensor()
    weight.data_type = kind
    getattr(weight, field).extend(data)
    whole = model_of(weight)
    (tmp_path / NAME).write_bytes(whole.SerializeToString())
    comes_back(whole.SerializeToString(), 1)
    (found,) = load_model(tmp_path / NAME).graph.initializer
    read = read_tensor(found, tmp_path)
    assert read.dtype == np.dtype(helper.tensor_dtype_to_np_dtype(kind))
    assert np.array_equal(read, data.view(read.dtype))


def test_a_tensor_that_says_it_is_inside_says_so_afterwards() -> None:
    """As onnx.load leaves tensors of external data."""
    weight = numpy_helper.from_array(values(), "w")
    weight.data_location = TensorProto.DEFAULT
    weight.doc_string = "what it is"
    comes_back(model_of(weight, numpy_helper.from_array(values(), "v")).SerializeToString(), 2)


@pytest.mark.parametrize(
    "stays",
    [
        numpy_helper.from_array(values(size=LEAST // 4 - 1), "w"),  # small
        tensor(int32_data=range(SIZE)),
        tensor(raw_data=values().tobytes() + b"0"),  # too much
        tensor(raw_data=values(size=SIZE - 1).tobytes()),  # too little
        tensor(raw_data=values().tobytes(), float_data=[1.0]),
        tensor(raw_data=values().tobytes(), int64_data=[1]),
        tensor(raw_data=values().tobytes(), data_location=TensorProto.EXTERNAL),
        TensorProto(name="w", dims=[SIZE], data_type=99, raw_data=values().tobytes()),
        TensorProto(name="w", dims=[-SIZE], data_type=1, raw_data=values().tobytes()),
        TensorProto(name="w", dims=[SIZE], data_type=10, float_data=values()),
        TensorProto(
            name="w", dims=[SIZE], data_type=TensorProto.STRING, string_data=[b"abcd"] * SIZE
        ),
    ],
    ids=lambda t: str(t.ByteSize()),
)
def test_what_is_small_or_not_right_stays(stays: TensorProto) -> None:
    assert skeleton(model_of(stays).SerializeToString()) is None


class Watched(bytes):
    """Bytes that know which of them were read."""

    read: list[slice]

    def __getitem__(self, key: Any) -> Any:
        self.read.append(key if isinstance(key, slice) else slice(key, key + 1))
        return super().__getitem__(key)


def test_no_weight_is_read() -> None:
    """But for the bytes right behind the length before it, which are read with it."""
    data = Watched(everywhere().SerializeToString())
    data.read = []
    found = skeleton(data)
    assert found is not None and len(found.taken) > 60
    read = set().union(*(range(len(data))[key] for key in data.read))
    for start in found.taken:
        assert read.isdisjoint(range(start + 10, start + LEAST))


def test_weights_of_four_bits_are_taken(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 256, LEAST, np.uint8).tobytes()
    weight = TensorProto(name="w", dims=[2 * LEAST - 1], data_type=TensorProto.UINT4, raw_data=data)
    whole = model_of(weight).SerializeToString()
    (tmp_path / NAME).write_bytes(whole)
    comes_back(whole, 1)
    (found,) = load_model(tmp_path / NAME).graph.initializer
    assert np.array_equal(read_tensor(found, tmp_path), numpy_helper.to_array(weight))


def attribute(**fields: Any) -> AttributeProto:
    return AttributeProto(name="value", **fields)


def everywhere() -> onnx.ModelProto:
    """A model with a large tensor at each place that has one."""
    number_of = count()

    def weight() -> TensorProto:
        seed = next(number_of)
        return numpy_helper.from_array(values(seed), f"w{seed}")

    def constant() -> NodeProto:
        node = NodeProto(op_type="Constant", output=[f"c{next(number_of)}"])
        node.attribute.append(attribute(type=AttributeProto.TENSOR, t=weight()))
        return node

    def sparse() -> onnx.SparseTensorProto:
        indices = numpy_helper.from_array(np.arange(SIZE), "")
        return onnx.SparseTensorProto(values=weight(), indices=indices, dims=[2 * SIZE])

    def graph(depth: int) -> GraphProto:
        made = GraphProto(name="g", initializer=[weight()], sparse_initializer=[sparse()])
        made.node.append(constant())
        made.node.add(op_type="Constant", output=["s"]).attribute.append(
            attribute(type=AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse())
        )
        if depth:
            inner = attribute(type=AttributeProto.GRAPH, g=graph(depth - 1))
            several = attribute(type=AttributeProto.GRAPHS, graphs=[graph(0), graph(0)])
            made.node.add(op_type="If", output=["z"]).attribute.extend([inner, several])
        return made

    model = helper.make_model(graph(3))
    model.functions.add(name="F", domain="d").node.extend([constant(), constant()])
    training = model.training_info.add()
    training.initialization.CopyFrom(graph(0))
    training.algorithm.CopyFrom(graph(1))
    return model


def test_tensors_are_taken_wherever_they_lie() -> None:
    model = everywhere()
    large = sum(t.ByteSize() > LEAST for t in all_tensors(model))
    assert large > 60
    found = comes_back(model.SerializeToString(), large)
    assert found.model.ByteSize() < 60000


def test_a_value_of_another_op_stays() -> None:
    """Kernels read the tensors among their attributes from the model."""
    model = model_of()
    model.graph.node.add(op_type="Other", output=["z"]).attribute.append(
        attribute(type=AttributeProto.TENSOR, t=numpy_helper.from_array(values(), ""))
    )
    assert skeleton(model.SerializeToString()) is None
    model.graph.node[1].op_type = "Constant"
    comes_back(model.SerializeToString(), 1)


def test_a_subgraph_that_is_there_twice_is_left_to_protobuf() -> None:
    """Which makes one of both."""
    whole = model_of(numpy_helper.from_array(values(), "w")).SerializeToString()
    other = model_of(numpy_helper.from_array(values(1), "v")).SerializeToString()
    assert skeleton(whole) is not None
    assert skeleton(whole + other) is None


def test_the_output_may_hold_other_ranges() -> None:
    data = model_of(*(numpy_helper.from_array(values(i), f"w{i}") for i in range(2)))
    found = comes_back(data.SerializeToString(), 2)
    for entry in found.model.graph.initializer[1].external_data:
        if entry.key == "location":
            entry.value = "elsewhere"
    spans = [p for p in pieces_of(found.model.SerializeToString(), {NAME, "elsewhere"})]
    assert [p.file for p in spans if isinstance(p, Span)] == [NAME, "elsewhere"]
    kept = pieces_of(found.model.SerializeToString(), {NAME})
    assert [p.file for p in kept if isinstance(p, Span)] == [NAME]


@pytest.mark.parametrize("cut", [1, 10, 4000, 5000])
def test_a_file_that_is_cut_short_is_told_as_ever(cut: int, tmp_path: Path) -> None:
    whole = model_of(numpy_helper.from_array(values(), "w")).SerializeToString()
    (tmp_path / NAME).write_bytes(whole[:-cut])
    with pytest.raises(SlancError, match=r"cut short|holds no graph"):
        load_model(tmp_path / NAME)


def test_a_file_that_says_that_it_is_its_own_data_file_is_refused(tmp_path: Path) -> None:
    """As a skeleton does, which no file is; beside a tensor that is taken, too."""
    own = tensor("v", data_location=TensorProto.EXTERNAL)
    own.external_data.add(key="location", value=NAME)
    own.external_data.add(key="offset", value="7")
    own.external_data.add(key="length", value=str(4 * SIZE))
    large = numpy_helper.from_array(values(), "w")
    for tensors in ([own], [own, large], [large, own]):
        (tmp_path / NAME).write_bytes(model_of(*tensors).SerializeToString() + bytes(0))
        with pytest.raises(SlancError, match=r"lie in the model|cut short"):
            load_model(tmp_path / NAME)


# Messages as no exporter writes them: fields in any order, unknown ones among them, some twice.


class Odd:
    """Writes a model's message with unknown fields, in an order of its own."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def message(self, message: Any) -> bytes:
        parts = []
        for field, value in message.ListFields():
            repeated = hasattr(value, "extend")
            several = value if repeated else [value]
            if field.message_type is None:
                alone = type(message)()
                target = getattr(alone, field.name)
                if repeated:
                    target.extend(value)
                else:
                    setattr(alone, field.name, value)
                parts.append(alone.SerializeToString())
            else:
                parts.append(b"")
                for each in several:
                    inner = self.message(each)
                    parts[-1] += head(field.number, len(inner)) + inner
        parts += [self.unknown() for _ in range(self.rng.choice([0, 0, 1, 3]))]
        if self.rng.random() < 0.5:
            self.rng.shuffle(parts)
        return b"".join(parts)

    def unknown(self) -> bytes:
        field = self.rng.choice([40, 1000, 99999, 5_000_000])
        if self.rng.random() < 0.5:
            return number(field << 3 | VARINT) + number(self.rng.getrandbits(64))
        text = self.rng.randbytes(self.rng.choice([0, 5, 200, LEAST + 1]))
        return number(field << 3 | BYTES) + number(len(text)) + text


def random_model(rng: random.Random) -> onnx.ModelProto:
    makers: list[Callable[[], TensorProto]] = [
        lambda: numpy_helper.from_array(values(rng.randrange(9), rng.choice([1, SIZE])), "w"),
        lambda: numpy_helper.from_array(np.arange(rng.choice([2, SIZE])), "i"),
        lambda: tensor(float_data=values()),
        lambda: tensor(raw_data=values().tobytes(), data_location=TensorProto.DEFAULT),
        lambda: tensor(raw_data=b"short"),
        lambda: tensor(doc_string="d", int32_data=range(SIZE)),
    ]

    def some(make: Callable[[], Any]) -> list[Any]:
        return [make() for _ in range(rng.choice([0, 1, 2]))]

    def weight() -> TensorProto:
        return rng.choice(makers)()

    def node(depth: int) -> NodeProto:
        made = NodeProto(op_type=rng.choice(["Constant", "Add", "If"]), output=["o"])
        kinds = [attribute(t=weight()), attribute(ints=range(5)), attribute(tensors=some(weight))]
        if depth:
            kinds += [attribute(g=graph(depth - 1)), attribute(graphs=[graph(depth - 1)])]
        made.attribute.append(rng.choice(kinds))
        return made

    def graph(depth: int) -> GraphProto:
        sparse = [onnx.SparseTensorProto(values=weight(), dims=[3]) for _ in some(weight)]
        made = GraphProto(name="g", initializer=some(weight), sparse_initializer=sparse)
        made.node.extend(some(lambda: node(depth)))
        return made

    model = helper.make_model(graph(3))
    model.functions.extend(
        onnx.FunctionProto(name="F", node=some(lambda: node(2))) for _ in some(weight)
    )
    for _ in some(weight):
        model.training_info.add().algorithm.CopyFrom(graph(1))
    return model


@pytest.mark.parametrize("seed", range(150))
def test_any_message_comes_back_as_protobuf_writes_it(seed: int) -> None:
    rng = random.Random(seed)
    data = Odd(seed).message(random_model(rng))
    whole = onnx.ModelProto.FromString(data).SerializeToString()
    found = skeleton(data)
    if found is not None:
        assert written(found.model, data) == whole


def test_most_random_messages_have_a_skeleton() -> None:
    """Or the test above tests nothing."""
    found = [skeleton(Odd(seed).message(random_model(random.Random(seed)))) for seed in range(60)]
    assert sum(one is not None for one in found) > 30


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_message_is_read_as_protobuf_reads_it_or_not_at_all(seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(Odd(seed).message(random_model(rng)))
    for _ in range(rng.choice([1, 3, 30])):
        data[rng.randrange(min(len(data), 3000))] = rng.randrange(256)
    found = skeleton(bytes(data))
    if found is not None:
        whole = onnx.ModelProto.FromString(bytes(data)).SerializeToString()
        assert written(found.model, bytes(data)) == whole
