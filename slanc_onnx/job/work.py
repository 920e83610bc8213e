"""Work: a model on its way from file to file, and what was done to it so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from slanc_onnx.apply.convert import Conversion
from slanc_onnx.apply.fold import Fold
from slanc_onnx.apply.merge import Merges
from slanc_onnx.estimate import TensorRange
from slanc_onnx.graph import Draft, Tensor
from slanc_onnx.norms import ReadModel
from slanc_onnx.options import Options
from slanc_onnx.progress import Clock, Progress
from slanc_onnx.reasons import Failure, Next, Reason
from slanc_onnx.run import CannotRun, Feeds, run_apart
from slanc_onnx.scale import ScaledNorm
from slanc_onnx.verify import Audit, FirstRows, Fp32Nodes, Validation

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """A model with norms on its way from file to file."""

    read: ReadModel
    source: Path
    output: Path
    options: Options
    watched: list[Feeds]
    progress: Progress
    clock: Clock

    def draft(self) -> Draft:
        """The output, to be written."""
        return Draft(self.source, self.output, self.read.model, self.options.external_data)

    def isolated(self, work: Callable[[Progress], T]) -> T:
        """What work on ONNX Runtime gives; see `run.run_apart`."""
        return run_apart(work, self.progress, self.options, self.read.loaded, self.read.folder)

    def tried(
        self, work: Callable[[Progress], T], kind: Failure = Failure.NOT_RUN
    ) -> tuple[T | None, Reason | None]:
        """The same, or why it could not be done: of this kind, or for lack of memory."""
        try:
            return self.isolated(work), None
        except CannotRun as error:
            return None, Reason(kind, (str(error),))
        except MemoryError:
            return None, Reason(Failure.NO_MEMORY)


@dataclass
class Done:
    """What the job did so far."""

    norms: list[ScaledNorm]
    fold: Fold | None = None
    audits: list[Audit] = field(default_factory=list)
    first_rows: FirstRows | None = None
    not_enumerated: Reason | None = None
    validation: Validation | None = None
    not_validated: Reason | None = None
    fp32_nodes: Fp32Nodes | None = None
    not_searched: Reason | None = None
    notes: list[Reason] = field(default_factory=list)
    heals: Next | None = None
    conversion: Conversion | None = None
    merges: Merges | None = None
    ranges: dict[Tensor, TensorRange] | None = None
    written: ReadModel | None = None

    @property
    def merges_something(self) -> bool:
        """Whether a part of a norm is merged into weights."""
        return self.merges is not None and bool(self.merges.changes)

    @property
    def proved_in_file(self) -> bool:
        """Whether what was proved has to be proved of the file: its weights are not those read."""
        return self.merges_something or self.conversion is not None
