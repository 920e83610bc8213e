"""Models with QuantizeLinear and DequantizeLinear behind every step, as quantisers write them."""

from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, helper, numpy_helper

from tests.oracles.unoptimised import Values, run

Floats = NDArray[np.floating]
LIMITS = {"uint8": (0, 255), "int8": (-127, 127), "uint16": (0, 65535), "int16": (-32767, 32767)}


class Quantiser:
    """Writes pairs of QuantizeLinear and DequantizeLinear into a model.

    Attributes:
        kind: The integers' type.
        axis: The axis along which scales differ; None for one scale per tensor.
        dedicated: Whether each reader has a pair of its own.
        half: Whether the scales, and with them all floats, are FP16.
    """

    def __init__(
        self, kind: str, axis: int | None = None, dedicated: bool = False, half: bool = False
    ) -> None:
        self.kind, self.axis, self.dedicated = kind, axis, dedicated
        self.float = np.dtype(np.float16 if half else np.float32)

    def quantised(self, model: onnx.ModelProto, feeds: Values) -> onnx.ModelProto:
        """The model with a pair behind its input and behind every float that a node makes.

        Args:
            model: Its nodes have one output each.
            feeds: Inputs, which give the ranges.
        """
        made = [name for node in model.graph.node for name in node.output]
        seen = self._values(model, feeds, made)
        result = onnx.ModelProto()
        result.CopyFrom(model)
        del result.graph.node[:]
        names = {name: [name] for name in seen}
        for name in feeds:
            result.graph.node.extend(self._pairs(result, model, name, seen[name], names))
        outputs = {info.name for info in model.graph.output}
        for node in model.graph.node:
            copy = NodeProto()
            copy.CopyFrom(node)
            for position, name in enumerate(node.input):
                if name in names:
                    copy.input[position] = names[name][0]
                    names[name] = [*names[name][1:], names[name][0]]
            result.graph.node.append(copy)
            name = node.output[0]
            if name in seen and name not in outputs:
                result.graph.node.extend(self._pairs(result, model, name, seen[name], names))
        return result

    def _values(self, model: onnx.ModelProto, feeds: Values, made: list[str]) -> dict[str, Floats]:
        shown = onnx.ModelProto()
        shown.CopyFrom(model)
        del shown.graph.output[:]
        for name in made:
            shown.graph.output.add(name=name)
        values = {**feeds, **run(shown, **feeds)}
        return {name: v for name, v in values.items() if v.dtype.kind == "f"}

    def _pairs(
        self,
        result: onnx.ModelProto,
        model: onnx.ModelProto,
        name: str,
        values: Floats,
        names: dict[str, list[str]],
    ) -> Iterable[NodeProto]:
        readers = sum(node.input[:].count(name) for node in model.graph.node)
        count = readers if self.dedicated else 1
        names[name] = []
        for number in range(count):
            whole, back = f"{name}_q{number}", f"{name}_dq{number}"
            step, middle, axis = self._step(result, f"{name}_{number}", values)
            for op, read, made in (("Quantize", name, whole), ("Dequantize", whole, back)):
                node = helper.make_node(f"{op}Linear", [read, step, middle], [made])
                node.attribute.extend(axis)
                yield node
            names[name].append(back)

    def _step(
        self, result: onnx.ModelProto, name: str, values: Floats
    ) -> tuple[str, str, list[AttributeProto]]:
        """Scale and zero point of a tensor, and the attribute."""
        low, high = LIMITS[self.kind]
        axis = self.axis if values.ndim > 1 and self.axis is not None else None
        others = None if axis is None else tuple(n for n in range(values.ndim) if n != axis)
        least = np.minimum(values.min(others), 0).astype(np.float64)
        most = np.maximum(values.max(others), 0).astype(np.float64)
        if low < 0:
            least, most = -np.maximum(-least, most), np.maximum(-least, most)
        step = np.maximum((most - least) / (high - low), 1e-7 if self.float == np.float16 else 0)
        step = np.where(step == 0, 1.0, step)
        middle = np.rint(low - least / step) if low == 0 else np.zeros_like(step)
        for what, value in (
            ("scale", step.astype(self.float)),
            ("zero", middle.astype(self.kind)),
        ):
            tensor = numpy_helper.from_array(np.asarray(value), f"{name}_{what}")
            result.graph.initializer.append(tensor)
        attributes = [] if axis is None else [helper.make_attribute("axis", axis)]
        return f"{name}_scale", f"{name}_zero", attributes


def with_constants(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """The model with these constants as integers behind a DequantizeLinear, as quantisers do."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for name in names:
        (tensor,) = (t for t in copy.graph.initializer if t.name == name)
        value = numpy_helper.to_array(tensor)
        step = np.asarray(np.abs(value).max() / 255, np.float32)
        tensor.CopyFrom(
            numpy_helper.from_array(np.rint(value / step).astype(np.uint8), f"{name}_i")
        )
        copy.graph.initializer.append(numpy_helper.from_array(step, f"{name}_scale"))
        copy.graph.initializer.append(
            numpy_helper.from_array(np.zeros((), np.uint8), f"{name}_zero")
        )
        inputs = [f"{name}_{part}" for part in ("i", "scale", "zero")]
        copy.graph.node.insert(0, helper.make_node("DequantizeLinear", inputs, [name]))
    return copy
