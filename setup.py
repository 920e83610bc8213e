"""The packages, by discovery: pyproject.toml cannot both discover them and map `passes/` into one.

`passes/` stands beside the package here and inside it in the wheel. This needs the adapters to be
leaves: they import slanc_onnx, and slanc_onnx never imports them.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["slanc_onnx", "slanc_onnx.*"]), "slanc_onnx.passes"],
    package_dir={"slanc_onnx.passes": "passes"},
)
