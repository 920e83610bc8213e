"""Changes: what merging does to a folded model, as plain values."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.apply.merge.held import Rounding, Step, Steps
from slanc_onnx.graph import Array, NodeAt, Tensor, Use
from slanc_onnx.options import NormPart
from slanc_onnx.reasons import Reason, Unmerged

State = Literal["merged", "before", "left"]


@dataclass(frozen=True)
class Asked:
    """What is asked for.

    Attributes:
        parts: "gamma", "mean" and "division", or some of them.
        excluded: The names of norms that the user left out.
        loss: The relative loss that a 16-bit weight may have beyond that of one rounding.
        opset: The version of ONNX's own ops in the file.
        device: The device, whose format a norm's products have to fit.
        freed: The norms that lose their mean, so that no fused op adds their beta.
    """

    parts: Collection[str]
    excluded: Collection[str]
    loss: float
    opset: int
    device: Accelerator
    freed: Collection[str] = ()


@dataclass(frozen=True)
class Part:
    """What became of one part of a norm.

    Attributes:
        state: "merged", "before" where the norm had no such part, or "left".
        reason: Why it is left.
    """

    state: State
    reason: Reason | None = None


@dataclass(frozen=True)
class ProductSize:
    """How large the products of a row get that is not divided by its root, as magnitudes.

    Attributes:
        predicted: Of the largest row that the estimate expects; None where there is none.
        certified: Of every row within the bound of the norm's certificate; None without one.
        largest: What the format holds.
        format: Its name.
        refused: Why the norm would have no certificate, where it has one; None where it would.
    """

    predicted: float | None
    certified: float | None
    largest: float
    format: str
    refused: Reason | None = None

    @property
    def reason(self) -> Reason | None:
        """Why the division cannot wait; None where it can."""
        room = self.largest / (1 + 2.0**-6)  # of what rounding may add
        if self.predicted is not None and not self.predicted <= room:
            return Reason(Unmerged.PRODUCT_PREDICTED, (self.predicted, self.format))
        if self.refused is not None:
            return Reason(Unmerged.CERTIFICATE_LOST, behind=self.refused)
        return None


@dataclass(frozen=True)
class MergedNorm:
    """What became of one norm; None for a part that nobody asked for, or that its kind lacks.

    Attributes:
        name: Its name.
        gamma: Of its gamma and beta.
        mean: Of its mean.
        form: What it is now: a fused op's type, or "decomposed".
        division: Of its division.
        product: How large the products are that are divided instead, where that was weighed.
    """

    name: str
    gamma: Part | None
    mean: Part | None
    form: str
    division: Part | None = None
    product: ProductSize | None = None


@dataclass(frozen=True)
class NewBias:
    """A row that is added to what a node makes, by an Add of its own or by the node.

    Attributes:
        position: Where the node takes the row; None for an Add behind it.
        steps: What makes the row of zeros.
        size: Its number of elements.
        element_type: Of the row.
    """

    position: int | None
    steps: Steps
    size: int
    element_type: int


@dataclass(frozen=True, eq=False)
class Copy:
    """A changed copy of a constant row, for one read of it.

    Attributes:
        row: The row as it is, FP64.
        element_type: Of the copy.
        steps: What becomes of it.
    """

    row: Array
    element_type: int
    steps: Steps


@dataclass(frozen=True)
class Moved:
    """Rows of a norm that were moved behind it, whole.

    Attributes:
        rows: The tensor that they end in.
        at: The node that makes it.
    """

    rows: str
    at: NodeAt


@dataclass(frozen=True)
class Decomposition:
    """A norm that is written out as the ops of an RMS norm.

    Attributes:
        name: The norm's name.
        epsilon: Its epsilon.
        element_type: Of its input.
        gamma: The constant that multiplies; None for none.
        beta: The constant that is added; None for none.
        deferred: Whether products are divided by its root, and not its row.
        moved: What moves its rows before the products, and is to stand before it; None for nothing.
    """

    name: str
    epsilon: float
    element_type: int
    gamma: str | None
    beta: str | None
    deferred: bool = False
    moved: Moved | None = None


@dataclass(frozen=True)
class Division:
    """The division of what a product makes by the root of a norm.

    Attributes:
        op: "Div" by the root, or "Mul" by its reciprocal.
        root: Its tensor; None where the norm is written out.
        norm: The node that divides the row otherwise, or that is written out.
        name: The name of the new node; None for one after the product.
        last: Whether it is the last node of the norm, which has its notes.
    """

    op: str
    root: str | None
    norm: NodeAt
    name: str | None
    last: bool


@dataclass
class Changes:
    """All changes to a model.

    Attributes:
        steps: What becomes of stored weights in place.
        biases: Rows that are added where there was no bias.
        copies: Reads of a constant that take a changed copy of it.
        skipped: Tensors whose readers read another one.
        removed: Nodes that are not needed.
        ones: Norms whose gamma becomes ones, with its position, length and type.
        dropped: Inputs that are left out.
        ops: New types and domains of nodes.
        betas: Fused norms that lose their beta to an Add behind them, with the beta.
        decomposed: Norms that are written out, by their last node.
        divided: Products that are divided by a norm's root.
        centred: Nodes of which an output is centred by nodes behind them, with the position of
            that and the axis.
        names: New names of nodes.
        rounding: What rounding did to each changed weight, by name.
    """

    steps: dict[Tensor, Steps] = field(default_factory=dict)
    biases: dict[NodeAt, NewBias] = field(default_factory=dict)
    copies: dict[Use, Copy] = field(default_factory=dict)
    skipped: dict[Tensor, str] = field(default_factory=dict)
    removed: set[NodeAt] = field(default_factory=set)
    ones: dict[Use, Array] = field(default_factory=dict)
    dropped: set[Use] = field(default_factory=set)
    ops: dict[NodeAt, tuple[str, str]] = field(default_factory=dict)
    betas: dict[NodeAt, str] = field(default_factory=dict)
    decomposed: dict[NodeAt, Decomposition] = field(default_factory=dict)
    divided: dict[NodeAt, Division] = field(default_factory=dict)
    centred: dict[NodeAt, tuple[int, int]] = field(default_factory=dict)
    names: dict[NodeAt, str] = field(default_factory=dict)
    rounding: dict[str, Rounding] = field(default_factory=dict)

    def add(self, root: Tensor, step: Step) -> None:
        """Add a step to what becomes of a weight."""
        self.steps[root] = (*self.steps.get(root, ()), step)

    def __bool__(self) -> bool:
        return bool(self.skipped or self.ones or self.ops or self.decomposed or self.removed)


@dataclass(frozen=True)
class Merges:
    """What merging does to a model.

    Attributes:
        norms: What becomes of each norm, in topological order.
        changes: The changes.
        nodes: The nodes of the file before and after, by type, where their number differs.
        outputs: What products are divided to in the file that was written, by the name of the norm
            whose row was divided before; none where nothing was written.
    """

    norms: tuple[MergedNorm, ...]
    changes: Changes
    nodes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    outputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def parts(self, part: NormPart) -> list[Part]:
        """What became of a part, of the norms that were asked for it."""
        found: Iterable[Part | None] = (getattr(norm, part) for norm in self.norms)
        return [one for one in found if one is not None]

    def count(self, part: NormPart, state: State) -> int:
        """How many norms have a part in a state."""
        return sum(one.state == state for one in self.parts(part))

    @cached_property
    def mean_free(self) -> frozenset[str]:
        """The names of the norms that lost their mean."""
        return frozenset(norm.name for norm in self.norms if norm.mean == Part("merged"))

    @cached_property
    def products(self) -> dict[str, ProductSize]:
        """The products that are divided now instead of a norm's row, by its name."""
        return {
            norm.name: norm.product
            for norm in self.norms
            if norm.division == Part("merged") and norm.product is not None
        }

    @property
    def deferred(self) -> frozenset[str]:
        """The names of the norms whose products are divided now."""
        return frozenset(self.products)

    @property
    def error(self) -> float:
        """The largest relative error of a weight that was rounded."""
        return max((one.relative for one in self.changes.rounding.values()), default=0.0)
