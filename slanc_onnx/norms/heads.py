"""Write out the norms inside attention ops as ops of their own, so that they can be scaled.

GroupQueryAttention may normalise each head of its queries and keys before anything else. The same
is a Reshape to heads, a norm over the last axis, and a Reshape back. ONNX Runtime's CPU provider,
which validates a model, runs the op only without its norms.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, helper, numpy_helper

from slanc_onnx.graph import DOMAINS, GraphPath, every_node, node_faults, unused_name
from slanc_onnx.ops import INTERNAL, Internal

_SPLIT_SIZES, _RMS = 13, 23  # the opsets in which Split takes sizes as an input, with the RMS op


def write_out_head_norms(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Write out the norms inside attention ops.

    One of packed queries, keys and values stays where the file does not tell how long a head is.

    Args:
        model: The model; it is not changed.

    Returns:
        The model, or a copy with these norms written out; and the names of the ops.
    """
    if not any(_parts(node) for node in every_node(model.graph.node)):
        return model, []
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    faults = node_faults(model, shapes=False)
    writer = _Writer(copy)
    for path, graph in list(_graphs(copy.graph, ())):
        nodes = list(graph.node)
        made = [
            [*([] if index in faults.get(path, {}) else writer.before(node)), node]
            for index, node in enumerate(nodes)
        ]
        replaced = [new for group in made for new in group]
        if len(replaced) > len(nodes):
            copies = [NodeProto() for _ in replaced]
            for new, node in zip(copies, replaced, strict=True):
                new.CopyFrom(node)
            del graph.node[:]
            graph.node.extend(copies)
    copy.graph.initializer.extend(writer.constants)
    return (copy, writer.written) if writer.written else (model, [])


def _graphs(graph: GraphProto, path: GraphPath) -> Iterator[tuple[GraphPath, GraphProto]]:
    """A graph's subgraphs, and itself behind them."""
    for index, node in enumerate(graph.node):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _graphs(attribute.g, (*path, (index, attribute.name)))
    yield path, graph


def _parts(node: NodeProto) -> list[Internal]:
    """The norms inside a node that can be written out."""
    parts = INTERNAL.get(node.op_type, ()) if node.domain in DOMAINS else ()
    return [p for p in parts if p.heads and p.gamma < len(node.input) and node.input[p.gamma]]


class _Writer:
    """Makes the nodes before an attention op, with unused names."""

    def __init__(self, model: onnx.ModelProto) -> None:
        nodes = list(every_node(model.graph.node))
        self.constants: list[onnx.TensorProto] = []
        self.written: list[str] = []
        self._opset = next(
            (o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1
        )
        self._lengths = {
            t.name: int(t.dims[0]) for t in model.graph.initializer if len(t.dims) == 1
        }
        self._used = {name for n in nodes for name in (*n.input, *n.output, n.name)}
        self._used |= {t.name for t in (*model.graph.initializer, *model.graph.input)}

    def before(self, node: NodeProto) -> list[NodeProto]:
        """The nodes that go before an op, which loses its norms; [] where it has none."""
        parts = _parts(node)
        packed = len(node.input) < 2 or not node.input[1]
        nodes = self._unpacked(node, parts) if parts and packed else []
        if not parts or (packed and not nodes):
            return []
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        name = node.name or node.output[0]
        for part in parts:
            epsilon = next((given[key] for key in part.epsilons if key in given), part.epsilon)
            nodes += self._norm(node, part, f"{name}/{part.part}", given[part.heads], epsilon)
            node.input[part.gamma] = ""
        while node.input and not node.input[-1]:
            del node.input[-1]
        kept = [a for a in node.attribute if not any(a.name in part.epsilons for part in parts)]
        del node.attribute[:]
        node.attribute.extend(kept)
        self.written.append(name)
        return nodes

    def _norm(
        self, node: NodeProto, part: Internal, name: str, heads: int, epsilon: float
    ) -> list[NodeProto]:
        source, gamma = node.input[part.source], node.input[part.gamma]
        turned, normalised, back = (self._unused(f"{name}/{end}") for end in ("in", "y", "out"))
        node.input[part.source] = back
        op = "RMSNormalization" if self._opset >= _RMS else "SimplifiedLayerNormalization"
        return [
            helper.make_node("Reshape", [source, self._sizes(name, [0, 0, heads, -1])], [turned]),
            helper.make_node(op, [turned, gamma], [normalised], name, axis=-1, epsilon=epsilon),
            helper.make_node("Reshape", [normalised, self._sizes(name, [0, 0, -1])], [back]),
        ]

    def _unpacked(self, node: NodeProto, parts: list[Internal]) -> list[NodeProto]:
        """A Split of packed queries, keys and values; [] where their lengths are not known."""
        length = self._lengths.get(node.input[parts[0].gamma])
        if length is None or self._opset < _SPLIT_SIZES:
            return []
        counts = {a.name: a.i for a in node.attribute if a.type == AttributeProto.INT}
        queries, keys = (counts[name] * length for name in ("num_heads", "kv_num_heads"))
        name, packed = node.name or node.output[0], node.input[0]
        split = [self._unused(f"{name}/{part}") for part in ("query", "key", "value")]
        sizes = self._sizes(name, [queries, keys, keys])
        node.input.extend([""] * (3 - len(node.input)))
        for position, part in enumerate(split):
            node.input[position] = part
        return [helper.make_node("Split", [packed, sizes], split, axis=-1)]

    def _sizes(self, name: str, sizes: list[int]) -> str:
        sizes_name = self._unused(f"{name}/sizes")
        self.constants.append(numpy_helper.from_array(np.array(sizes, np.int64), sizes_name))
        return sizes_name

    def _unused(self, wanted: str) -> str:
        return unused_name(wanted, self._used)
