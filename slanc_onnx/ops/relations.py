"""Tables of how the scale of a node's output follows from those of its inputs and weights.

Every tensor t may be stored as t / 2^k; k is its exponent. A node ties exponents together:
- a join keeps the exponent: all its inputs and outputs have the same (`between.py`: Add, Reshape);
- a product adds the exponents of its factors: k(y) = k(x) + k(W), and its bias has k(y);
- an absorbing node gives the same output for any exponent of its input, if its weight makes up
  for it.
Every other node computes as before: all its exponents are 0. All of it is exact for powers of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slanc_onnx.graph import FLOATS, Flow, GraphPath, Use, runtime_inputs
from slanc_onnx.ops.between import BETWEEN, EVERY
from slanc_onnx.ops.elementwise import HOMOGENEOUS

# Op -> positions of the inputs that it joins. The op is linear in them, or homogeneous of degree 1.
JOINS: dict[str, tuple[int, ...]] = {
    **{op: record.joins for op, record in BETWEEN.items() if record.joins},
    **dict.fromkeys(HOMOGENEOUS, (0,)),
}


@dataclass(frozen=True)
class Factors:
    """The input positions of a product: its factors, its divisors, and addends of the product."""

    factors: tuple[int, ...]
    divisors: tuple[int, ...] = ()
    addends: tuple[int, ...] = ()


PRODUCTS: dict[str, Factors] = {
    "Mul": Factors((0, 1)),
    "Div": Factors((0,), divisors=(1,)),
    "MatMul": Factors((0, 1)),
    "FusedMatMul": Factors((0, 1)),
    "Einsum": Factors(EVERY),
    "Gemm": Factors((0, 1), addends=(2,)),
    "Conv": Factors((0, 1), addends=(2,)),
    "ConvTranspose": Factors((0, 1), addends=(2,)),
    "MatMulNBits": Factors((0, 2), addends=(5,)),
    "GatherBlockQuantized": Factors((2,)),
    "DequantizeLinear": Factors((1,)),
    "MoE": Factors((4,), addends=(5,)),  # the experts' second layers
    "QMoE": Factors((6,), addends=(7,)),
}
# Op -> the position of its input, and the weight that makes up for the exponent of that.
ABSORBERS: dict[str, tuple[int, Factors]] = {
    "Attention": (0, Factors((1,))),  # com.microsoft, whose weights are inside
    "QuantizeLinear": (0, Factors((), divisors=(1,))),
}


RelationKind = Literal["join", "product", "absorb"]


@dataclass(frozen=True)
class Relation:
    """How one node ties exponents together.

    Attributes:
        kind: "join", "product" or "absorb".
        path: The node's graph.
        node: Its index there.
        terms: Positions of the runtime inputs: joined, multiplied, or absorbed.
        outputs: Positions of the outputs.
        factors: Positions of constants that multiply.
        divisors: Positions of constants that divide.
        addends: Positions of constants that are added, or are among what is joined.
    """

    kind: RelationKind
    path: GraphPath
    node: int
    terms: tuple[int, ...]
    outputs: tuple[int, ...]
    factors: tuple[int, ...] = ()
    divisors: tuple[int, ...] = ()
    addends: tuple[int, ...] = ()

    def use(self, position: int) -> Use:
        """The read of an input of the node."""
        return Use(self.path, self.node, position)

    @property
    def constants(self) -> tuple[int, ...]:
        """Positions of all constant inputs."""
        return (*self.factors, *self.divisors, *self.addends)


def relation(flow: Flow, path: GraphPath, index: int) -> Relation | None:
    """How a node outside all norms ties exponents; None where all its exponents are 0."""
    node = flow.node(path, index)
    op, size = flow.op(path, index), len(node.input)
    runtime = set(runtime_inputs(flow, path, index))
    if not runtime or not node.output:
        return None
    constant = {p for p in range(size) if node.input[p]} - runtime

    def pick(wanted: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(p for p in (range(size) if wanted == EVERY else wanted) if p < size)

    def split(wanted: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        places = pick(wanted)
        return tuple(p for p in places if p in runtime), tuple(p for p in places if p in constant)

    if op in JOINS:
        terms, addends = split(JOINS[op])
        outputs = BETWEEN[op].outputs if op in BETWEEN else (0,)
        outputs = tuple(range(len(node.output))) if outputs == EVERY else outputs
        known = all(_is_float(flow, path, index, p) for p in (*terms, *addends))
        if not known or max(outputs) >= len(node.output):
            return None
        return Relation("join", path, index, terms, outputs, addends=addends)
    if op in ABSORBERS and (op != "Attention" or node.domain == "com.microsoft"):
        source, weight = ABSORBERS[op]
        factors, divisors = pick(weight.factors), pick(weight.divisors)
        if source not in runtime or not constant.issuperset((*factors, *divisors)):
            return None
        return Relation("absorb", path, index, (source,), (0,), factors, divisors)
    if op not in PRODUCTS:
        return None
    form = PRODUCTS[op]
    terms, factors = split(form.factors)
    divisors, addends = pick(form.divisors), pick(form.addends)
    if not constant.issuperset((*divisors, *(p for p in addends if node.input[p]))):
        return None
    if not all(_is_float(flow, path, index, p) for p in (*terms, *factors, *divisors)):
        return None
    addends = tuple(p for p in addends if node.input[p])
    return Relation("product", path, index, terms, (0,), factors, divisors, addends)


def _is_float(flow: Flow, path: GraphPath, index: int, position: int) -> bool:
    tensor = flow.read(Use(path, index, position))
    return tensor is not None and flow.element_type(tensor) in FLOATS
