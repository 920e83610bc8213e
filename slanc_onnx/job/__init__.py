"""The job: find, decide, apply, write, validate.

Takes a file and options, and gives an `Outcome`; `in_memory` takes a model instead, and does not
validate. A file is written under a temporary name, validated from there, and then put in its place.
What cannot be done is refused before anything is written.
"""

from slanc_onnx.job.begin import check_files
from slanc_onnx.job.files import protect_file
from slanc_onnx.job.in_memory import carry_out, decide, protect, protect_and_tell
from slanc_onnx.job.model_folder import ModelFolder, read_model_folder

__all__ = [
    "ModelFolder",
    "carry_out",
    "check_files",
    "decide",
    "protect",
    "protect_and_tell",
    "protect_file",
    "read_model_folder",
]
