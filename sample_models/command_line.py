"""The command line that the builders of sample models share."""

import argparse
from pathlib import Path
from typing import Protocol, get_args

from sample_models.graph_builder import FloatName, Norms
from sample_models.weights import MissingPackageError


class Build(Protocol):
    """A builder: writes a model to a path."""

    def __call__(self, path: Path, *, norms: Norms, dtype: FloatName) -> None: ...


def main(build: Build, description: str | None, norms: Norms = "decomposed") -> None:
    """Parse the arguments and build one model.

    Args:
        build: the builder to call.
        description: what `--help` prints.
        norms: how the norms are written if the user does not say.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="ONNX file; the weights go beside it, in .data")
    parser.add_argument("--norms", choices=get_args(Norms), default=norms)
    parser.add_argument("--dtype", choices=get_args(FloatName), default="float32")
    arguments = parser.parse_args()
    try:
        build(arguments.output, norms=arguments.norms, dtype=arguments.dtype)
    except MissingPackageError as error:
        parser.exit(2, f"ERROR: {error}\n")
    except OSError as error:  # a folder that is not there, a full disk
        parser.exit(2, f"ERROR: {arguments.output}: {error.strerror or error}\n")
    print(arguments.output)
