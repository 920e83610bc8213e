"""One norm of a model, as plain values for scaling, emulating and reporting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from slanc_onnx.graph import GraphPath
from slanc_onnx.norms.row_axes import RowAxes
from slanc_onnx.ops import Kind
from slanc_onnx.reasons import Reason


class Place(NamedTuple):
    """An input of a node: the node's index in its graph, the input's position and element type.

    A position of `ops.ATTRIBUTES` is the attribute of that name.
    """

    node: int
    position: int
    element_type: int


@dataclass(frozen=True)
class Limit:
    """A constant inside a norm that is divided along with its input, beside epsilon.

    Attributes:
        place: Where it is read.
        power: The power of the scale that divides it; below 0 it is multiplied.
        values: Its elements; None where the file does not hold them as they are read, or a caller
            may give others.
        shape: Its shape; () where one number stands for all elements.
    """

    place: Place
    power: int
    values: tuple[float, ...] | None
    shape: tuple[int, ...] = ()


class Deferred(NamedTuple):
    """A product that reads a row before it is divided by its root, and is divided itself.

    FlashNorm (arXiv 2407.09577), section 2: (x / root) W = (x W) / root.
    """

    product: int  # the index of the node that multiplies the row by a weight
    output: str  # the tensor after the division


@dataclass(frozen=True)
class Norm:
    """One LayerNorm, RMSNorm, GroupNorm or L2 normalisation of a graph.

    Attributes:
        name: Unique in the model: the node's name, or its output where that is empty or shared.
        kind: "layer" (centred), "rms", "group" (centred, over a group of channels at all
            positions of a sample), or "l2" (the sum of squares is not divided by the width).
        form: The fused op's type, or "decomposed".
        path: The subgraph that holds it; () for the main graph.
        input: The tensor that is normalised. For a Skip op the first addend.
        axes: Which elements of the input make one row.
        normalised: The tensor after the division; for fused ops the op's output.
        output: The tensor after gamma and beta.
        width: Number of elements per row; None where neither gamma nor a shape tells it, or the
            data decides.
        element_type: ONNX element type of the input (onnx.TensorProto.FLOAT, ...).
        output_type: ONNX element type of the output; another Cast may precede it.
        epsilon: Epsilon as in the graph; None where it is no constant.
        epsilon_place: Where a decomposed norm reads epsilon; None for a fused op's attribute.
        epsilon_power: Power of the scale that divides epsilon (2, or 1 outside the root).
        limits: Other constants that are divided too, as those of a clamp.
        by_ops: Whether its nodes compute more than its kind says, so that its output is traced and
            rounded op by op; its rows are as the kind says.
        deferred: The products that are divided where its row is not: `normalised` is what the
            first of them comes to, and no tensor holds the row over its root. () where one does.
        other_steps: Whether its ops come to a norm by other steps than `accelerator.Step` has, so
            that other numbers on the way may overflow.
        unbiased: Whether the mean square divides by width - 1 (Bessel's correction).
        one_pass: Whether a LayerNorm's variance is spelled E[x^2] - mean^2, which sums squares of
            the input as it is, not of the centred input.
        gamma: Tensor name of gamma, None where the norm has none.
        beta: Tensor name of beta, likewise.
        places: Every read of the input inside the norm, to be divided. Empty for a norm inside
            another op.
        nodes: The norm's own nodes, by index, in topological order.
        channels: The length of gamma, for a norm over groups; None for every other norm.
        addends: What an op adds up before it normalises, by name: `input` and the others; () where
            `input` itself is normalised.
        residual: The position of the output that has the sum of the addends, for an op that adds
            before it normalises; None for every other norm.
        silu: Whether the op applies SiLU to its normalised value.
        overridable_epsilon: The graph input behind a decomposed norm's epsilon, with `epsilon` as
            its default; None where no caller can give another.
        scaled_by: The scale that an earlier run put in, None without one.
        divisions: The Divs by one number that stand right before `places`, one for each; empty
            where a read has none, or another number.
        divisor: That number.
        skip_reason: Why the norm cannot be scaled, None where it can.
        broken: Whether that is because the file breaks the rules of the norm's op, so that no
            runtime takes it.
    """

    name: str
    kind: Kind
    form: str
    path: GraphPath
    input: str
    normalised: str
    output: str
    width: int | None
    element_type: int
    output_type: int
    epsilon: float | None
    epsilon_place: Place | None
    epsilon_power: int
    gamma: str | None
    beta: str | None
    places: tuple[Place, ...]
    nodes: tuple[int, ...]
    limits: tuple[Limit, ...] = ()
    by_ops: bool = False
    deferred: tuple[Deferred, ...] = ()
    other_steps: bool = False
    unbiased: bool = False
    one_pass: bool = False
    axes: RowAxes = RowAxes()  # noqa: RUF009
    channels: int | None = None
    addends: tuple[str, ...] = ()
    residual: int | None = None
    silu: bool = False
    overridable_epsilon: str | None = None
    scaled_by: float | None = None
    divisions: tuple[int, ...] = ()
    divisor: float | None = None
    skip_reason: Reason | None = None
    broken: bool = False

    @property
    def centred(self) -> bool:
        """Whether the mean is subtracted."""
        return self.kind in ("layer", "group")

    @property
    def is_row_norm(self) -> bool:
        """Whether its output is a row of length sqrt(width), before gamma and beta."""
        return self.kind != "l2" and not self.by_ops

    @property
    def has_row_steps(self) -> bool:
        """Whether its steps are those of a norm of rows, also where the division is deferred."""
        return self.is_row_norm or bool(self.deferred)

    @property
    def joined_epsilon(self) -> float:
        """Epsilon as it is added to the mean square, or to the sum of squares of an L2 norm.

        It is 0 where it is no constant.
        """
        return (self.epsilon or 0.0) ** (2 // self.epsilon_power)

    @property
    def sums_centred(self) -> bool:
        """Whether the sum of squares is of the centred input."""
        return self.centred and not self.one_pass


def as_computed(norms: Sequence[Norm], one_pass: bool) -> list[Norm]:
    """The norms as a device computes them: LayerNorm's variance in one pass, or as it is spelled.

    Args:
        norms: The norms.
        one_pass: Whether the device computes E[x^2] - mean^2 whatever the spelling.
    """
    if not one_pass:
        return list(norms)
    return [replace(norm, one_pass=norm.centred) for norm in norms]
