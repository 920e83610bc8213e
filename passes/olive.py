"""SLaNC as a pass of Microsoft Olive, between what exports a model and what makes it FP16.

Olive finds passes in a package configuration, which a run takes as a whole. Olive's own with this
pass is what

    python -m slanc_onnx.passes.olive > packages.json
    olive run --config workflow.json --package-config packages.json

works with; in the workflow the pass is `{"type": "Slanc"}`.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, cast

import onnx
from olive.hardware.accelerator import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.package_config import OlivePackageConfig
from olive.passes import Pass
from olive.passes.pass_config import BasePassConfig, PassConfigParam
from onnx import TensorProto

from slanc_onnx import Options, Outcome, SlancError, protect_file
from slanc_onnx.graph import all_tensors
from slanc_onnx.options import ApplyRule, Certify, EstimateRule, To
from slanc_onnx.report import final_parts, write_report
from slanc_onnx.targets import DEFAULT, TARGETS, read_target

_logger = logging.getLogger(__name__)

# The entry of the package configuration: slanc_onnx.passes.olive.Slanc where this is installed.
ENTRY = {
    "module_path": f"{__spec__.name}.Slanc",
    "supported_providers": ["*"],
    "supported_accelerators": ["*"],
    "supported_precisions": ["*"],
}


class Slanc(Pass):  # type: ignore[misc, unused-ignore] # Olive has no types
    """Scale the norms of an ONNX model, so that they are safe in FP16.

    What comes out is validated as the command slanc-onnx does it, and the run ends where that
    fails. Its JSON report goes with the model, as slanc.json.
    """

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        def one_of(rule: Any, default: str | None, description: str) -> PassConfigParam:
            kind = rule | None if default is None else rule
            return PassConfigParam(type_=kind, default_value=default, description=description)

        return {
            "apply": one_of(
                ApplyRule, "div", "'div' for a Div before each norm, 'fold' to divide weights."
            ),
            "to": one_of(To, None, "'fp16' or 'bf16' for a file of 16 bits, which folds."),
            "target": PassConfigParam(
                type_=str,
                default_value=DEFAULT,
                description="The hardware: a name or a TOML file, as slanc-onnx --target.",
            ),
            "estimate": one_of(EstimateRule, "auto", "As slanc-onnx --estimate."),
            "certify": one_of(Certify, "auto", "As slanc-onnx --certify."),
            "validate_model": PassConfigParam(
                type_=bool, default_value=True, description="Whether to validate the result."
            ),
            "must_pass": PassConfigParam(
                type_=bool,
                default_value=True,
                description="Whether the run ends where slanc-onnx would end with status 1.",
            ),
        }

    def _run_for_config(
        self, model: ONNXModelHandler, config: type[BasePassConfig], output_model_path: str
    ) -> ONNXModelHandler:
        """Scale the norms from file to file; a model without norms is given back as it is."""
        given = cast("Any", config)
        source = Path(model.model_path)
        if model.external_initializers_file_name is not None:
            raise SlancError(
                f"{source}: its weights lie in {model.external_initializers_file_name!r}, which "
                "the ONNX file does not name. Run this pass before the one that takes them out."
            )
        output = Path(resolve_onnx_path(output_model_path, source.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        device = TARGETS.get(given.target) or read_target(Path(given.target))
        options = Options(
            apply=given.apply,
            to=given.to,
            accelerator=device,
            estimate=given.estimate,
            certify=given.certify,
            validate=given.validate_model,
            isolate=True,
        )
        outcome = protect_file(source, output, options, shown_options=given.model_dump())
        _logger.info("%s: %s", source, "; ".join(final_parts(outcome)))
        if given.must_pass and not outcome.passed:
            raise SlancError(f"{source}: {'; '.join(final_parts(outcome))}")
        return model if outcome.nothing_to_do else _handler(outcome, model)


def _handler(outcome: Outcome, model: ONNXModelHandler) -> ONNXModelHandler:
    """What was written, with its report, as Olive hands it on."""
    output, report = outcome.output, outcome.output.with_name("slanc.json")
    write_report(outcome.report, report)
    attributes = dict(model.model_attributes or {})
    attributes["additional_files"] = [*attributes.get("additional_files", ()), str(report)]
    written = onnx.load(output, load_external_data=False)
    if not any(t.data_location == TensorProto.EXTERNAL for t in all_tensors(written)):
        return ONNXModelHandler(output, model_attributes=attributes)
    return ONNXModelHandler(output.parent, output.name, model_attributes=attributes)


def package_config() -> dict[str, Any]:
    """Olive's package configuration, with this pass."""
    path = OlivePackageConfig.get_default_config_path()
    config: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    config["passes"]["Slanc"] = ENTRY
    return config


if __name__ == "__main__":
    print(json.dumps(package_config(), indent=1))
