"""Bound: how large a norm's input can be, whatever the data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from slanc_onnx.prove.condition import Condition
from slanc_onnx.reasons import Reason, Unproved, Unread, reason


class NoBound(Exception):
    """Nothing bounds a tensor.

    Attributes:
        reason: Why.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@contextmanager
def damage_has_no_bound() -> Iterator[None]:
    """Work on nodes that may be damaged: whatever fails there says nothing of a tensor.

    Raises:
        NoBound: the work raised that, or anything else.
    """
    try:
        yield
    except NoBound:
        raise
    except np.linalg.LinAlgError as error:
        raise NoBound(Reason(Unproved.WEIGHTS_NOT_FINITE)) from error
    except Exception as error:
        raise NoBound(reason(Unread.FAILED, str(error)[:200])) from error


@dataclass(frozen=True)
class Bound:
    """How large a norm's input can be.

    Attributes:
        length: Upper bound of a row's L2 norm; None where there is none.
        conditions: What it asks of graph inputs, and of rows inside the model.
        reason: Why there is no bound; None where there is one.
        loose: Whether cheap norms of large matrices were used instead of tight ones.
        width: Elements per row.
        leans: The norms whose outputs it takes to be finite, by name.
    """

    length: float | None
    conditions: tuple[Condition, ...] = ()
    reason: Reason | None = None
    loose: bool = False
    width: int = 0
    leans: tuple[str, ...] = ()
