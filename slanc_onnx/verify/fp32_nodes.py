"""FP32 nodes: a smallest list of nodes with which a model works when all others are rounded.

The list is found by trying: it begins with what leaves the format and whoever reads that, grows
until the emulated model does what the verdict asks for, and then all is left out of it that is not
needed: first norms as a whole, then single names. Nodes of the same name stay together, which a
list of names cannot tell apart.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from slanc_onnx.graph import Flow, Tensor, Use, read_flow, read_graph
from slanc_onnx.norms import ReadModel
from slanc_onnx.options import Options
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.reasons import OFF, Failure
from slanc_onnx.run import CannotRun, InputSet, as_float32, is_float
from slanc_onnx.verify.compare import Runs, compare
from slanc_onnx.verify.emulate import CONTAINERS, can_emulate, names_of
from slanc_onnx.verify.left import each_left
from slanc_onnx.verify.perplexity import perplexity
from slanc_onnx.verify.runs import Roundable, run_in_float32
from slanc_onnx.verify.tolerance import perplexity_tolerance
from slanc_onnx.verify.validate import without_excluded
from slanc_onnx.verify.validation import Validation

# What keeping nodes in FP32 may heal of a validation; where noise moves a model as far it may not,
# as a list that was chosen by a comparison which cannot tell is chosen by chance.
HEALED = frozenset(
    {
        Failure.LEFT_FORMAT,
        Failure.ROWS_LEFT_FORMAT,
        Failure.INPUT_LEFT_FORMAT,
        Failure.BECOMES_NOT_FINITE,
        Failure.ROWS_OVERFLOW,
        *OFF,
        Failure.OFF_WHERE_MASKED,
        Failure.OTHER_SHAPE,
        Failure.BECOMES_INFINITE,
    }
)
SHARE = 0.9  # of the time limit, so that the last try ends before it
Part = frozenset[str]  # names of nodes that stay in FP32 together


@dataclass(frozen=True)
class Fp32Nodes:
    """Which nodes stay in FP32.

    Attributes:
        names: In the order of the model; empty where none is needed, or where no list was found.
        op_types: The types of all whose nodes are among them, in that order.
        nodes: How many nodes compute with floats, of which these are some.
        works: Whether the model was seen to work with them.
        complete: Whether the search came to its end. Then, if it works, it was seen not to work
            without any one of them; if not, it was seen not to work with all nodes.
        tried: How many lists were run.
        rms_error: Of the outputs with this list, as `Validation.rounded_rms_error`.
    """

    names: tuple[str, ...]
    op_types: tuple[str, ...]
    nodes: int
    works: bool
    complete: bool
    tried: int
    rms_error: float = math.nan


def find_fp32_nodes(
    before: ReadModel,
    after: ReadModel,
    options: Options,
    inputs: Sequence[InputSet],
    validation: Validation,
    progress: Progress = no_progress,
) -> Fp32Nodes:
    """The nodes of a rewritten model that have to stay in FP32.

    Args:
        before: The original.
        after: The rewritten model.
        options: The accelerator, the tokens behind the inputs, and the time limit, of which the
            search takes `SHARE` at most.
        inputs: What the validation ran.
        validation: What it said; its tolerance and its outputs that are not compared hold here.
        progress: Called with the share of the time that is gone.

    Raises:
        CannotRun: ONNX Runtime cannot run the original on these inputs.
    """
    before, after = (without_excluded(read, options) for read in (before, after))
    parts = _Parts.of(after)
    judged = [inputs[0], *(one for one in inputs[1:] if one.counts)]
    search = _Search(before, after, options, judged, validation, parts, progress)
    try:
        found = search.found()
    except _OutOfTime:
        found = search.best
    return parts.result(found, search)


class _OutOfTime(Exception):
    """The time for trying is over."""


@dataclass(frozen=True)
class _Parts:
    """What can be kept of a model.

    Attributes:
        flow: Of the model in FP32.
        all: Each part, in the order of the model.
        by_name: The part that a name belongs to: of a norm that is spelled in several nodes, all.
        norms: The names of each norm.
        op_types: The types of the nodes of a name.
    """

    flow: Flow
    all: list[Part]
    by_name: dict[str, Part]
    norms: list[Part]
    op_types: dict[str, list[str]]

    @staticmethod
    def of(read: ReadModel) -> _Parts:
        """The parts of a model: nodes that compute or move floats that depend on the inputs."""
        flow = read_flow(read_graph(as_float32(read.model, read.folder)))
        norms = [frozenset(names_of(flow, norm)) for norm in filter(can_emulate, read.norms)]
        types: dict[str, list[str]] = {}
        for path, index in flow.order:
            node = flow.node(path, index)
            made = [Tensor(path, name) for name in node.output if name]
            floats = any(t not in flow.constants and is_float(flow, t) for t in made)
            if node.name and floats and node.op_type not in CONTAINERS:
                types.setdefault(node.name, []).append(node.op_type)
        by_name = {name: frozenset([name]) for name in types}
        for names in norms:
            whole = frozenset[str]().union(*(by_name[name] for name in names if name in types))
            by_name.update(dict.fromkeys(whole, whole))
        return _Parts(flow, list(dict.fromkeys(by_name.values())), by_name, norms, types)

    def making_or_reading(self, tensors: Iterable[str]) -> list[Part]:
        """The parts whose nodes make or read tensors of these names."""
        wanted, found = set(tensors), []
        for tensor, uses in self.flow.uses.items():
            if tensor.name in wanted:
                found += [self._part(use) for use in uses]
        for tensor, (path, index, position) in self.flow.makers.items():
            if tensor.name in wanted:
                found.append(self._part(Use(path, index, position)))
        return [part for part in dict.fromkeys(found) if part]

    def _part(self, at: Use) -> Part:
        return self.by_name.get(self.flow.node(at.path, at.node).name, Part())

    def names(self, parts: Iterable[Part]) -> list[str]:
        """The names in these, in the order of the model."""
        chosen = frozenset[str]().union(*parts)
        return [name for name in self.op_types if name in chosen]

    def inside(self, kept: Part) -> set[str]:
        """The tensors that nodes of norms make of which some nodes are kept and some are not."""
        split = [norm for norm in self.norms if norm & kept and norm - kept]
        makers = self.flow.makers.items()
        names = frozenset[str]().union(*split)
        return {t.name for t, (path, i, _) in makers if self.flow.node(path, i).name in names}

    def result(self, parts: Sequence[Part] | None, search: _Search) -> Fp32Nodes:
        """What a search found; None where no list works."""
        chosen = frozenset[str]().union(*(parts or ()))
        left = {op for name, ops in self.op_types.items() if name not in chosen for op in ops}
        types = (op for name, ops in self.op_types.items() if name in chosen for op in ops)
        return Fp32Nodes(
            names=tuple(self.names([chosen])),
            op_types=tuple(op for op in dict.fromkeys(types) if op not in left),
            nodes=sum(map(len, self.op_types.values())),
            works=parts is not None,
            complete=search.complete,
            tried=len(search.tried),
            rms_error=search.tried.get(chosen, math.inf),
        )


@dataclass
class _Search:
    """Tries lists on the inputs of a validation, each once."""

    before: ReadModel
    after: ReadModel
    options: Options
    judged: Sequence[InputSet]
    validation: Validation
    parts: _Parts
    progress: Progress
    tried: dict[Part, float] = field(default_factory=dict)  # RMS error; inf where it does not work
    best: list[Part] | None = None
    complete: bool = False

    def __post_init__(self) -> None:
        self._started = time.monotonic()
        self._rounded = Roundable(self.after, self.options, self.judged[0].feeds[0])
        self._ways = self._rounded.ways
        self._plain = [run_in_float32(self.before, self.options, s.feeds) for s in self.judged]

    def found(self) -> list[Part] | None:
        """A list that works and is minimal; None where none works."""
        if self.works([]):
            self.best, self.complete = [], True
            return self.best
        grown = self._grown()
        if grown is None:
            self.complete = True
            return None
        self.best = grown
        whole = shrink(grown, self._still_works)
        shrink([Part([name]) for name in self.parts.names(whole)], self._still_works)
        self.complete = True
        return self.best

    def _still_works(self, parts: Sequence[Part]) -> bool:
        if not self.works(parts):
            return False
        self.best = list(parts)
        return True

    def _grown(self) -> list[Part] | None:
        """What leaves the format with whoever reads it, or all where that is not enough."""
        beyond = [size.tensor for size in self.validation.tensors if size.largest > size.limit]
        if self.validation.beyond is not None:
            beyond += [*self.validation.beyond.names, self.validation.beyond.tensor]
        kept = set(self.parts.making_or_reading(beyond))
        while not self.works(kept):
            self._look_at_the_clock()
            left: list[str] = []
            with suppress(CannotRun):  # what is shown may be too much for it
                left = self._left(kept)
            more = set(self.parts.making_or_reading(left)) - kept
            if not more:
                break
            kept |= more
        else:
            return self._ordered(kept)
        return list(self.parts.all) if self.works(self.parts.all) else None

    def _ordered(self, parts: set[Part]) -> list[Part]:
        return [part for part in self.parts.all if part in parts]

    def _left(self, parts: Iterable[Part]) -> list[str]:
        kept = frozenset[str]().union(*parts)
        return [
            left.tensor
            for one in self.judged
            for found in each_left(self.after, self.options, one.feeds, kept=kept)
            for left in found
        ]

    def works(self, parts: Iterable[Part]) -> bool:
        """Whether the model does what the verdict asks for with these in FP32.

        Raises:
            _OutOfTime: there is no time left to try it.
        """
        kept = frozenset[str]().union(*parts)
        if kept not in self.tried:
            self._look_at_the_clock()
            self.tried[kept] = math.inf
            with suppress(CannotRun):
                self.tried[kept] = self._error(kept)
        return math.isfinite(self.tried[kept])

    def _look_at_the_clock(self) -> None:
        limit = self.options.time_limit
        if limit is None:
            return
        gone = time.monotonic() - self._started
        each = gone / len(self.tried) if self.tried else 0.0
        self.progress(f"trying nodes in FP32, list {len(self.tried) + 1}", gone / limit)
        if gone + each > SHARE * limit:
            raise _OutOfTime

    def _error(self, kept: Part) -> float:
        """The largest RMS error of the outputs; inf where something speaks against it."""
        errors, inside = [], self.parts.inside(kept)
        if inside and not inside.isdisjoint(self._left([kept])):
            return math.inf  # their rows are not shown
        judged = zip(self.judged, self._plain, strict=True)
        for (one, plain), way in product(judged, self._ways):
            rounded = self._rounded.run(one.feeds, kept, way)
            if not self._rows_stay(plain, rounded) or not self._likely(plain, rounded):
                return math.inf
            if any(left.what == "product" for left in rounded.left):  # a division may hide it
                return math.inf
            off = compare(plain, rounded, self.validation.unstable, floats_only=True)
            if off.reshaped is not None or not off.rms <= self.validation.rounded_tolerance:
                return math.inf
            errors.append(off.rms)
        return max(errors)

    def _rows_stay(self, plain: Runs, rounded: Runs) -> bool:
        """Whether no row overflows that is finite in FP32."""
        for name, rows in rounded.rows.items():
            sums = plain.rows.get(name)
            known = np.isfinite(sums) if sums is not None and sums.shape == rows.shape else True
            if (~np.isfinite(rows) & known).any():
                return False
        return True

    def _likely(self, plain: Runs, rounded: Runs) -> bool:
        """Whether the perplexity is right, where there are tokens."""
        if self.options.tokens is None:
            return True
        ratio = perplexity(rounded.losses) / perplexity(plain.losses)
        return abs(ratio - 1) <= perplexity_tolerance(self.validation.rounded_tolerance)


def shrink(parts: Sequence[Part], works: Callable[[Sequence[Part]], bool]) -> list[Part]:
    """What is left of parts that work when all are left out that can be, in halves and one by one.

    It ends when none can be left out alone: 1-minimal, which is not the smallest of all.

    Args:
        parts: They work.
        works: Whether some of them do, in the same order.
    """
    kept, size = list(parts), max(1, len(parts) // 2)
    while True:
        before, at = len(kept), 0
        while at < len(kept):
            rest = kept[:at] + kept[at + size :]
            if works(rest):
                kept = rest
            else:
                at += size
        if size > 1:
            size = (size + 1) // 2 if size > 2 else 1
        elif len(kept) == before:
            return kept
