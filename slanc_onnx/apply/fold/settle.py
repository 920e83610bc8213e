"""Settle: how one block meets the exponents of its groups, by weights or by leaving things be.

The model does not change here. A relation that no weight can satisfy stays as it is, step by step:
first its weights, then what it makes, then what it reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NamedTuple

from slanc_onnx.apply.fold.blocks import Block
from slanc_onnx.apply.fold.groups import Partition
from slanc_onnx.apply.fold.weights import Weights
from slanc_onnx.graph import Tensor, Use
from slanc_onnx.ops import Relation
from slanc_onnx.reasons import Reason, Undivided

# How a weight meets a demand: a node divides what is cut, when the model runs.
Way = Literal["keep", "divide", "copy", "cut", "fail"]


class Level(IntEnum):
    """How much of a relation stays as it is, because no weight could satisfy it."""

    NONE = 0
    WEIGHTS = 1  # what it makes has the exponents of what it reads
    OUTPUT = 2  # the same, for which it reads its first term with another exponent
    NODE = 3


@dataclass(frozen=True, eq=False)
class Asked:
    """The exponents that a model is asked to have.

    Attributes:
        parts: The groups.
        groups: The exponent of each group.
        norms: The exponent of each norm's input, by norm name.
    """

    parts: Partition
    groups: Sequence[int]
    norms: Mapping[str, int]


class Refusal(NamedTuple):
    """A weight that the relation at a position asked to divide, and why it is not divided."""

    relation: int
    weight: Tensor
    why: Reason


class Round(NamedTuple):
    """One look at all relations of a block.

    Attributes:
        failed: Position of the last relation that no weight could satisfy; -1 for none.
        refusals: What was refused up to the end.
    """

    failed: int
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True, eq=False)
class Divisors:
    """The exponents k of divisors 2^k; an exponent that is missing is 0.

    Attributes:
        produced: Exponents of runtime tensors as their node makes them.
        needed: Exponents of the reads of runtime tensors.
        divided: Exponents of weights that are rewritten in place.
        copied: Exponents of reads of small weights that others read undivided; each gets a copy.
        cut: Exponents of reads of constants that are divided when the model runs.
        nodes: Number of nodes that are inserted.
        bytes: Bytes of the weights that are rewritten or copied.
    """

    produced: dict[Tensor, int]
    needed: dict[Use, int]
    divided: dict[Tensor, int]
    copied: dict[Use, int]
    cut: dict[Use, int]
    nodes: int
    bytes: int


@dataclass(frozen=True, eq=False)
class Settled(Divisors):
    """The divisors in a block; its nodes are those that the cuts take.

    Attributes:
        failed: The relations that no weight could satisfy, by position.
        rounds: The looks at the block until no further relation failed.
    """

    failed: dict[int, Level]
    rounds: tuple[Round, ...]


NOTHING = Settled({}, {}, {}, {}, {}, 0, 0, {}, (Round(-1, ()),))  # all exponents are 0


def settle(
    asked: Asked,
    weights: Weights,
    least: Mapping[Tensor, int],
    block: Block,
    failed: Mapping[int, Level] | None = None,
) -> Settled:
    """Satisfy the relations of a block, by weights where possible.

    Args:
        asked: The exponents of groups and norms.
        weights: The model's weights.
        least: The least exponents of the tensors that would leave the format undivided.
        block: The relations and norms.
        failed: The relations that are known to fail, by position.
    """
    known = dict(failed or {})
    rounds: list[Round] = []
    while True:
        state = _State(asked, weights, block, known)
        new = {i: state.next_level(i, least) for i in state.active if state.bad(i)}
        rounds.append(Round(max(new, default=-1), tuple(state.refusals)))
        if not new:
            return state.settled(tuple(rounds))
        known |= new


class _State:
    """The exponents that all reads and weights need, if certain relations are known to fail."""

    def __init__(
        self, asked: Asked, weights: Weights, block: Block, failed: Mapping[int, Level]
    ) -> None:
        parts, groups = asked.parts, asked.groups
        self.parts, self.weights, self.failed = parts, weights, failed
        self.produced: dict[Tensor, int] = {}
        self.needed: dict[Use, int] = {}
        self.demands: dict[Use, int] = {}
        self.refusals: list[Refusal] = []
        self._how: dict[Use, Way] = {}
        self._asked_of: dict[Tensor, set[int]] = {}
        self._at = -1  # the relation that is looked at
        # Where all that a node reads and makes has exponent 0, it computes as before.
        touched = parts.touched
        self.active = [i for i in block.relations if any(groups[g] for g in touched[i])]
        for index in self.active:
            self._relate(index, groups)
        for site in (parts.sites[i] for i in block.sites):
            exponent = asked.norms[site.norm.name]
            self.needed.update(dict.fromkeys(site.uses, exponent))
            self.demands.update(dict.fromkeys(site.addends, exponent))
            if site.residual is not None:
                self.produced[site.residual] = exponent

    def _relate(self, index: int, groups: Sequence[int]) -> None:
        parts, level = self.parts, self.failed.get(index, Level.NONE)
        tie, made = parts.relations[index], parts.made[index]
        terms = {use: groups[parts.of_use[use]] for use in parts.read[index]}
        if level is Level.NODE:
            terms = dict.fromkeys(terms, 0)
        total = exponent = sum(terms.values())
        if tie.kind == "join":
            known = made and level is not Level.NODE
            total = exponent = groups[parts.of_output[made[0]]] if known else 0
        elif tie.kind == "product" and made and level in (Level.NONE, Level.OUTPUT):
            exponent = groups[parts.of_output[made[0]]]
        if level is Level.OUTPUT:
            terms[parts.read[index][0]] += exponent - total
            total = exponent
        self.needed.update(terms)
        if tie.kind == "absorb":
            self._demand(tie, -total)
            return
        self.produced.update(dict.fromkeys(made, exponent))
        self._demand(tie, exponent - total)
        self.demands.update({tie.use(p): exponent for p in tie.addends})

    def _demand(self, tie: Relation, exponent: int) -> None:
        places = [(p, exponent) for p in tie.factors] + [(p, -exponent) for p in tie.divisors]
        self.demands.update({tie.use(p): 0 for p, _ in places[1:]})
        if places:
            self.demands[tie.use(places[0][0])] = places[0][1]

    def next_level(self, index: int, least: Mapping[Tensor, int]) -> Level:
        """How much of a relation that is not satisfied has to stay as it is."""
        tie, made = self.parts.relations[index], self.parts.made[index]
        if index in self.failed or tie.kind == "absorb" or (tie.kind == "join" and not tie.terms):
            return Level.NODE
        if tie.kind == "product" and tie.terms and made:
            total = sum(self.needed[use] for use in self.parts.read[index])
            if least.get(made[0], 0) > total:
                return Level.OUTPUT
        return Level.WEIGHTS

    def bad(self, index: int) -> bool:
        """Whether a relation is not satisfied, and has not failed for good."""
        self._at = index
        tie, level = self.parts.relations[index], self.failed.get(index, Level.NONE)
        if level is Level.NODE:
            return False
        if tie.kind == "product" and level is Level.NONE and not (tie.factors or tie.divisors):
            made = self.parts.made[index]
            total = sum(self.needed[use] for use in self.parts.read[index])
            if made and self.produced[made[0]] != total:
                return True
        ways = [self.how(tie.use(p)) for p in tie.constants]
        if tie.kind == "join" and tie.terms:  # one node at the constant, instead of one per term
            self._how.update(
                {
                    tie.use(p): "cut"
                    for p in tie.addends
                    if "fail" in ways and self.how(tie.use(p)) == "fail"
                }
            )
            return False
        return "fail" in ways or (ways.count("cut") > 1 and tie.kind != "join")

    def how(self, use: Use) -> Way:
        """How a weight meets a demand: keep, divide, copy, cut or fail.

        A cut divides it by a node when the model runs. A vector may be copied or cut, which costs
        less than a node at an activation; a matrix may not.
        """
        if use not in self._how:
            self._how[use] = self._decide(use)
        return self._how[use]

    def _decide(self, use: Use) -> Way:
        exponent, flow, weights = self.demands.get(use, 0), self.parts.flow, self.weights
        tensor = flow.read(use)
        if not exponent or tensor is None:
            return "keep"
        root, small = weights.root(tensor), weights.is_vector(tensor)
        if root is None:
            self._refuse(tensor, Reason(Undivided.COMPUTED))
            return "cut" if small else "fail"
        if weights.is_zero(root):
            return "keep"
        if not weights.takes(root, exponent):
            loss = weights.loss(root, exponent).relative
            if not loss:  # nor would what a node makes of it be more
                self._refuse(root, Reason(Undivided.FADES))
                return "fail"
            self._refuse(root, Reason(Undivided.LOSES_BITS, (exponent, loss)))
            return "cut" if small else "fail"
        if self._wanted(root) == {exponent}:
            return "divide"
        self._refuse(root, Reason(Undivided.SHARED))
        if small and root == tensor:
            return "copy"
        return "cut" if small else "fail"

    def _wanted(self, root: Tensor) -> set[int]:
        """The exponents that all reads of a weight ask for."""
        if root not in self._asked_of:
            uses = self.weights.uses(root)
            self._asked_of[root] = {0 if u is None else self.demands.get(u, 0) for u in uses}
        return self._asked_of[root]

    def _refuse(self, weight: Tensor, why: Reason) -> None:
        self.refusals.append(Refusal(self._at, weight, why))

    def settled(self, rounds: tuple[Round, ...]) -> Settled:
        """The result, once no further relation fails."""
        flow = self.parts.flow
        divided: dict[Tensor, int] = {}
        copied: dict[Use, int] = {}
        cut: dict[Use, int] = {}
        for use, exponent in self.demands.items():
            way, tensor = self.how(use), flow.read(use)
            root = None if tensor is None else self.weights.root(tensor)
            if way == "divide" and root is not None:
                divided[root] = exponent
            elif way == "copy":
                copied[use] = exponent
            elif way != "keep":  # a demand that still fails is a norm's own
                cut[use] = exponent
        copies = {(flow.read(use), exponent) for use, exponent in copied.items()}
        size = sum(self.weights.bytes(root) for root in divided)
        size += sum(self.weights.bytes(tensor) for tensor, _ in copies if tensor is not None)
        return Settled(
            {t: e for t, e in self.produced.items() if e},
            {u: e for u, e in self.needed.items() if e},
            divided,
            copied,
            cut,
            len({(flow.read(use), exponent) for use, exponent in cut.items()}),
            size,
            dict(self.failed),
            rounds,
        )
