"""What cannot be followed says so: shapes that do not fit, and indices that are not there."""

import numpy as np
import pytest

from slanc_onnx.ops import (
    CannotFollow,
    axis_of,
    broadcast,
    common_shape,
    damage_cannot_be_followed,
    reshaped,
    taken_along,
)
from slanc_onnx.ops.movement import reshape
from slanc_onnx.reasons import Reason, Unread


def test_arrays_that_broadcast_do() -> None:
    assert common_shape((2, 1), (3,)) == (2, 3)
    assert np.array_equal(broadcast(np.arange(3), (2, 3)), [[0, 1, 2], [0, 1, 2]])
    assert np.array_equal(
        taken_along(np.arange(6).reshape(2, 3), np.array([2, 0]), 1), [[2, 0], [5, 3]]
    )
    assert np.array_equal(
        reshape({}, [np.array([3, -1])])[0](np.arange(6)), [[0, 1], [2, 3], [4, 5]]
    )


def test_arrays_that_do_not_fit_cannot_be_followed() -> None:
    for call, expected in (
        (lambda: common_shape((2,), (3,)), Reason(Unread.SHAPES_DIFFER, ((2,), (3,)))),
        (
            lambda: broadcast(np.zeros((2, 3)), (3, 2)),
            Reason(Unread.SHAPES_DIFFER, ((2, 3), (3, 2))),
        ),
        (
            lambda: taken_along(np.zeros((1, 4)), np.array([0, 5]), 0),
            Reason(Unread.OUT_OF_RANGE, (1, 0)),
        ),
        (
            lambda: reshaped(np.zeros(6), 4, -1),
            Reason(Unread.NO_FIT, ((6,), (4, -1))),
        ),
        (lambda: axis_of(2, 2), Reason(Unread.NO_AXIS, (2, 2))),
        (
            lambda: taken_along(np.zeros((2, 2**20)), np.zeros(2**10, np.int64), 0),
            Reason(Unread.TOO_LARGE, (2**30,)),
        ),
    ):
        with pytest.raises(CannotFollow) as told:
            call()
        assert told.value.reason == expected


def test_whatever_fails_on_a_damaged_node_cannot_be_followed() -> None:
    with pytest.raises(CannotFollow) as told, damage_cannot_be_followed():
        _ = [2, 3][7]
    assert told.value.reason == Reason(Unread.FAILED, ("list index out of range",))
    with pytest.raises(CannotFollow) as told, damage_cannot_be_followed():
        raise CannotFollow(Unread.NO_RULE)
    assert told.value.reason == Reason(Unread.NO_RULE)
