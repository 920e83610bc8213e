"""Region: a part of a graph through which a scale of its input cancels, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import onnx_graphsurgeon as gs

from slanc_onnx.norms.reads import Read
from slanc_onnx.ops import Degree


@dataclass(frozen=True)
class Joined:
    """A constant of a region that is divided along with its input: epsilon, or a limit.

    Attributes:
        read: Where the node reads it; one of `ops.ATTRIBUTES` is an attribute.
        degree: The power of the scale that divides it.
    """

    read: Read
    degree: Degree


@dataclass(frozen=True)
class Region:
    """A part of a graph whose exits do not change when its input is divided.

    Attributes:
        x: The input.
        root: The node that sums squares.
        nodes: The nodes, in topological order.
        reads: Where they read the input, or a cast of it.
        exits: The tensors at which the scale is gone, those behind the root first.
        joined: The constants to divide.
        degrees: The degree of every tensor inside, by id.
        nearer: The region of the centred input, where the mean is subtracted inside this one.
        beside: The input, or what it is a cast of, where it reads what a weight makes of that, as
            of other data; None elsewhere.
    """

    x: gs.Tensor
    root: gs.Node
    nodes: tuple[gs.Node, ...]
    reads: tuple[Read, ...]
    exits: tuple[gs.Tensor, ...]
    joined: tuple[Joined, ...]
    degrees: dict[int, Degree]
    nearer: Region | None = None
    beside: gs.Tensor | None = None

    @cached_property
    def ends(self) -> list[gs.Node]:
        """The nodes that make the exits."""
        return list({id(t.inputs[0]): t.inputs[0] for t in self.exits}.values())

    @property
    def fractional(self) -> bool:
        """Whether a value inside is divided by a root of the scale, which is not exact."""
        made = (t for node in self.nodes for t in node.outputs)
        return any(self.degrees.get(id(t), Fraction(0)).denominator != 1 for t in made)
