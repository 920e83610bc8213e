"""The beginning of a job on a file: all that is refused before anything is decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slanc_onnx.errors import SlancError
from slanc_onnx.graph import check_data, check_output, load_model, real_path
from slanc_onnx.job.refusals import check_set_names, given_data, refuse_broken
from slanc_onnx.norms import ReadModel, read_model
from slanc_onnx.options import Options
from slanc_onnx.run import Feeds, check_norms, observed_feeds, with_checked_inputs
from slanc_onnx.verify import vocabulary
from slanc_onnx.weights import check_weights


@dataclass(frozen=True)
class Beginning:
    """A model that a job can begin with, how, and the inputs on which it is to be audited."""

    read: ReadModel
    options: Options
    watched: list[Feeds]


def begin(source: Path, output: Path, options: Options) -> Beginning:
    """Read a file and hold what is asked for against it.

    Raises:
        SlancError: bad input.
    """
    options = options.implied()
    loaded = load_model(source)
    check_output(source, output)
    read = read_model(loaded, source.parent, isolate=options.isolate)
    if options.validate:
        refuse_broken(read)
    options = with_checked_inputs(options, read.specs)
    watched = observed_feeds(read.specs, options)
    if options.certify == "tokens":
        vocabulary(read.specs)
    return Beginning(read, options, watched)


def check_files(files: Sequence[tuple[Path, Path]], options: Options) -> None:
    """Whether the jobs on several files can all be done, before the first of them is.

    What is found only in the work itself is not: a disk that is full, too little memory, a scale by
    hand that the type of a norm's input does not hold.

    Args:
        files: The model and the output of each.
        options: How; for all of them.

    Raises:
        SlancError: bad input, or one would write what belongs to another.
    """
    taken = {real_path(path): source for source, path in files}
    copies: dict[Path, Path] = {}
    for source, output in files:
        try:
            begun = begin(source, output, options)
            check_norms(begun.read.norms)
            check_set_names([norm.name for norm in begun.read.norms], options)
            given_data(begun.read, begun.options)
            if begun.read.norms:
                check_weights(begun.read.model, source.parent)
            may_move = options.to is not None  # then hardly any data is left to copy
            found = check_data(source, output, begun.read.loaded, {} if may_move else copies)
        except SlancError as error:
            named = str(source) in str(error)
            raise error if named else SlancError(f"{source}: {error}") from error
        for target, data in found.items():
            for place in (real_path(target), real_path(data)):
                if place in taken:
                    raise SlancError(
                        f"{target}: is data of {source}, and what {taken[place]} becomes would be "
                        "written there. Give another -o."
                    )
