"""Other converters to FP16, each as its documentation says to call it.

    python benchmarks/converters.py NAME MODEL.onnx OUT.onnx

This file needs nothing but the converter's own package, so that it runs in that one's environment.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import onnx


def _save(model: onnx.ModelProto, out: Path) -> None:
    onnx.save(model, out, save_as_external_data=True, location=f"{out.name}.data")


def _load_and_save(model: Path, out: Path) -> None:
    _save(onnx.load(model), out)


def _converter_common(model: Path, out: Path) -> None:
    from onnxconverter_common import float16

    _save(float16.convert_float_to_float16(onnx.load(model), keep_io_types=True), out)


def _of_runtime(model: Path, out: Path) -> None:
    from onnxruntime.transformers import float16

    _save(float16.convert_float_to_float16(onnx.load(model), keep_io_types=True), out)


def _autocast(model: Path, out: Path) -> None:
    from modelopt.onnx.autocast import convert_to_mixed_precision

    _save(convert_to_mixed_precision(str(model), low_precision_type="fp16"), out)


def _onnxslim(model: Path, out: Path) -> None:
    import onnxslim

    onnxslim.slim(str(model), str(out), save_as_external_data=True)


CONVERTERS: dict[str, tuple[str, Callable[[Path, Path], None]]] = {  # the package, and what to run
    "load + save": ("onnx", _load_and_save),
    "onnxconverter-common": ("onnxconverter-common", _converter_common),
    "onnxruntime.transformers": ("onnxruntime", _of_runtime),
    "modelopt autocast": ("nvidia-modelopt", _autocast),
    "onnxslim": ("onnxslim", _onnxslim),
}


def main() -> int:
    """Convert, or print the version of a converter's package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=CONVERTERS)
    parser.add_argument("files", nargs="*", type=Path, metavar="MODEL.onnx OUT.onnx")
    args = parser.parse_args()
    package, run = CONVERTERS[args.name]
    if not args.files:
        print(f"{package} {version(package)}")
        return 0
    if len(args.files) != 2 or not args.files[0].is_file():
        parser.error("give a MODEL.onnx that is there and an OUT.onnx")
    run(*args.files)
    return 0


if __name__ == "__main__":
    sys.exit(main())
