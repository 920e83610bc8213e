"""Epsilons: what became of those that were divided by the square of a scale."""

from __future__ import annotations

import numpy as np
from onnx import helper

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.norms import ReadModel, rounded, scaled_epsilon
from slanc_onnx.run import HALF


def rounded_epsilons(before: ReadModel, after: ReadModel, device: Accelerator) -> int:
    """How many norms have another epsilon than their scale asks for, exactly.

    It was rounded to the type in which the file has it, or raised to what the device keeps.
    """
    originals = {norm.name: norm for norm in before.norms}
    count = 0
    for norm in after.norms:
        original = originals.get(norm.name)
        place = norm.epsilon_place
        if original is None or original.scaled_by or not norm.scaled_by:
            continue
        exact = scaled_epsilon(original, norm.scaled_by)
        if exact is None or norm.epsilon is None:
            continue
        least = device.least_epsilon(norm.epsilon_power)
        if norm.epsilon == np.float32(least) > np.float32(exact):
            count += 1  # raised
        elif place is not None and place.element_type in HALF and exact != norm.epsilon:
            held = rounded(exact, np.dtype(helper.tensor_dtype_to_np_dtype(place.element_type)))
            count += norm.epsilon == float(held)
    return count
