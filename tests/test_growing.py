"""Models as deep as they come: every stage ends, in sizes that recursion or 2^n walks would not."""

import sys
from collections.abc import Callable, Iterable

import numpy as np
import onnx
import pytest

from slanc_onnx import Options, SlancError, compute_scales, protect, validate
from slanc_onnx.reasons import Unproved
from slanc_onnx.report.wording import reasons_text
from tests.models.growing import (
    adds,
    circle,
    decoder,
    doubled,
    identities,
    nested_loops,
    relus,
    shifted,
)
from tests.models.small_graphs import between

# Made when a test asks: as long as they live, every garbage collection looks at them. All that are
# chains are deeper than Python's recursion; the slow ones are eight and three times as deep.
DEEP: dict[str, Callable[[], onnx.ModelProto]] = {
    "1 200 Relu": lambda: relus(1_200),
    "1 200 Add": lambda: adds(1_200),
    "a weight behind 1 200 Identity": lambda: identities(1_200),
    "x + x, 100 times": lambda: doubled(100),
    "x + c x, 200 times": lambda: shifted(200),
    "130 layers": lambda: decoder(130),
    "loops in loops, 6 deep": lambda: nested_loops(6),
    "10 000 Relu": lambda: relus(10_000),
    "10 000 Add": lambda: adds(10_000),
    "a weight behind 10 000 Identity": lambda: identities(10_000),
    "400 layers": lambda: decoder(400),
}
SLOW = ("10 000", "400 layers")
DEEPER = [title for title in DEEP if any(words in title for words in SLOW)]


def each(names: Iterable[str]) -> pytest.MarkDecorator:
    """One test for each of the models that are named."""
    marks = {True: (pytest.mark.slow,), False: ()}
    cases = [pytest.param(name, marks=marks[name in DEEPER]) for name in names]
    return pytest.mark.parametrize("name", cases)


SOME = ("a weight behind", "x + x", "layers")
each_of_some = each(name for name in DEEP if any(words in name for words in SOME))


def test_chains_are_deeper_than_recursion() -> None:
    deep = ("1 200 Relu", "1 200 Add", "a weight behind 1 200 Identity", "130 layers")
    assert all(len(DEEP[name]().graph.node) > sys.getrecursionlimit() for name in deep)


@each(DEEP)
def test_deep_models_are_scaled(name: str) -> None:
    decided = compute_scales(DEEP[name]())
    assert {norm.status for norm in decided} == {"scaled"}


@each(DEEP)
def test_deep_models_are_read_from_their_weights(name: str) -> None:
    decided = compute_scales(DEEP[name](), Options(estimate="weights"))
    assert {norm.status for norm in decided} == {"scaled"}


def test_a_loop_whose_rows_change_their_width_from_run_to_run_is_listed() -> None:
    model = nested_loops(2)
    del model.graph.input[0].type.tensor_type.shape.dim[1]  # of rank 2: no axis of channels
    inner, _ = compute_scales(model, Options(estimate="weights"))
    assert inner.status == "skipped"
    assert reasons_text(inner.reasons) == (
        "the trace stopped at its rows have (1, 8) channels, from run to run"
    )


@each_of_some
def test_deep_models_are_folded(name: str) -> None:
    model = DEEP[name]()
    decided = protect(model, Options(estimate="weights", apply="fold"))
    assert {norm.status for norm in decided} == {"scaled"}


@each_of_some
def test_deep_models_have_the_papers_scales(name: str) -> None:
    decided = compute_scales(DEEP[name](), Options(scale="paper"))
    assert {norm.status for norm in decided} == {"scaled"}


def test_a_deep_decoder_is_the_same_model_afterwards() -> None:
    model = decoder(20)
    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(model)
    protect(rewritten, Options(estimate="weights"))
    assert validate(model, rewritten).fp32_identical


def test_a_circle_is_refused_and_not_walked_forever() -> None:
    with pytest.raises(SlancError, match="the graph has a circle: a and b read"):
        compute_scales(circle())


def chain(first: str, step: str, last: str, count: int) -> onnx.ModelProto:
    """A model whose last norm reads the end of a chain that reads each step twice."""
    steps = " ".join(step.format(before=i, now=i + 1) for i in range(count))
    w = np.eye(8, dtype=np.float32) / 2
    return between(f"{first} {steps} {last.format(end=count)}", {"w": w})


@pytest.mark.parametrize(
    "step", ["a{now} = Mul(a{before}, a{before})", "a{now} = Mul(a{before}, x)"]
)
def test_products_of_products_are_bounded_in_time(step: str) -> None:
    model = chain("a0 = MatMul(x, w)", step, "total = Tanh(a{end})", 60)
    decided = compute_scales(model, Options(estimate="weights"))[-1]
    assert decided.certificate is not None and decided.certificate.bound.reason is not None
    assert decided.certificate.bound.reason.kind is Unproved.OVERFLOWS_BETWEEN


@pytest.mark.parametrize(
    ("step", "count"),
    [("c{now} = Add(c{before}, c{before})", 60), ("c{now} = Add(c{before}, w)", 3000)],
)
def test_constants_of_constants_are_not_read_for_ever(step: str, count: int) -> None:
    few = chain("c0 = Add(w, w)", step, "total = MatMul(x, c{end})", 5)
    many = chain("c0 = Add(w, w)", step, "total = MatMul(x, c{end})", count)
    assert compute_scales(few, Options(estimate="weights"))[-1].status == "scaled"
    decided = compute_scales(many, Options(estimate="weights"))[-1]
    assert decided.status == "skipped" and "Add (c" in reasons_text(decided.reasons)
