"""Run models on ONNX Runtime: as they are written, unless its optimisations are asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from slanc_onnx.errors import says_no_memory
from slanc_onnx.graph import Array
from slanc_onnx.run.aligned import with_weights_in_place
from slanc_onnx.run.isolation import CannotRun, short_of_memory, stopped_in_time

Feeds = Mapping[str, Array]
_NO_KERNEL = re.compile(r"NOT_IMPLEMENTED : Could not find an implementation for (\w+)")


class Session:
    """An ONNX Runtime CPU session, with graph optimisation off where nothing else is asked for.

    Optimisation is off because it changes the order of sums (a Div stops fusions) and removes the
    casts that emulate FP16.

    Args:
        model: The model.
        folder: Where its external data lies.
        packs: Whether ONNX Runtime may keep a copy of the weights, packed for its kernels. It is
            as large as they are, a few short runs are not faster with it, and sums with it may
            have another order: outputs are compared to the bit with one of the two.
        optimised: Whether graph optimisation is at ONNX Runtime's default level.
        in_order: Whether nodes run in the order of the file where they can, so that a tensor that
            is only shown as a number does not stay in memory; not in segments.
        at_odd_bytes: See `with_weights_in_place`; not in segments.

    Attributes:
        outputs: The names of the outputs.
        types: Their types as ONNX Runtime calls them; some have none in NumPy.

    Raises:
        CannotRun: ONNX Runtime's CPU provider does not take the model.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        folder: Path | None,
        *,
        packs: bool = False,
        optimised: bool = False,
        in_order: bool = False,
        at_odd_bytes: bool = False,
    ) -> None:
        import onnxruntime as ort  # slow to import; --help and --version do without

        options = ort.SessionOptions()
        if not optimised:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if in_order:
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = False
        # A run is short, and other work waits for the processors.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not packs:
            options.add_session_config_entry("session.disable_prepacking", "1")
        placed = with_weights_in_place(model, folder, at_odd_bytes=at_odd_bytes)
        if placed.folder is not None:
            key = "session.model_external_initializers_file_folder_path"
            options.add_session_config_entry(key, str(placed.folder))
        read = placed.weights.items()
        self._weights = {name: ort.OrtValue.ortvalue_from_numpy(w) for name, w in read}
        for name, weight in self._weights.items():  # which has to live as long as the session
            options.add_initializer(name, weight)
        try:
            self._session = ort.InferenceSession(
                placed.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise _cannot("load", error) from error
        self._run_options = ort.RunOptions
        self.types = {o.name: str(o.type) for o in self._session.get_outputs()}
        self.outputs = list(self.types)
        self._inputs = {i.name: str(i.type) for i in self._session.get_inputs()}

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """The tensors among the outputs by name; sequences and maps are left out.

        What a model does not take of `feeds` is not passed on, and values are converted for an
        input that is FP32 or FP16, BF16 too.

        Raises:
            CannotRun: ONNX Runtime fails on these inputs, or is not done in time.
        """
        taken = {n: _fitting(v, self._inputs[n]) for n, v in feeds.items() if n in self._inputs}
        options = self._run_options()
        with stopped_in_time(options):
            try:
                values = self._session.run(self.outputs, taken, options)
            except Exception as error:
                raise _cannot("run", error) from error
        # Copies: what ONNX Runtime gives keeps all memory of its session.
        return {
            n: np.array(v)
            for n, v in zip(self.outputs, values, strict=True)
            if isinstance(v, (np.ndarray, np.generic))
        }


def _fitting(value: Array, declared: str) -> Array:
    half = value.dtype.itemsize == 2 and value.dtype.kind in "fV"
    if half and declared == "tensor(float)":
        return value.astype(np.float32)
    if (half or value.dtype in (np.float32, np.float64)) and declared == "tensor(float16)":
        return value.astype(np.float16)
    if value.dtype == np.float64 and declared == "tensor(float)":
        return value.astype(np.float32)
    return value


def lacking_kernel(told: str) -> str | None:
    """The op that ONNX Runtime's CPU provider does not compute in these types, if it says so.

    That is no fault of the file: its types were found right before.
    """
    found = _NO_KERNEL.search(told)
    return None if found is None else found[1]


def _cannot(do: str, error: Exception) -> CannotRun:
    text = str(error)
    if says_no_memory(text) and (short := short_of_memory()) is not None:
        return short
    first = (text.strip() or type(error).__name__).splitlines()[0]
    return CannotRun(f"ONNX Runtime cannot {do} the model: {first[:300]}")
