"""A decision as JSON is the decision: there and back, whatever it holds."""

import json
import math
from collections import Counter
from dataclasses import fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slanc_onnx import Options, ScaledNorm, SlancError, apply_scales, compute_scales
from slanc_onnx.estimate import Estimate
from slanc_onnx.feed import Ids, Normal, Range
from slanc_onnx.prove import Affine, Certificate, Condition
from slanc_onnx.prove.bound import Bound
from slanc_onnx.reasons import Kind, Reason
from slanc_onnx.scale import Assumption
from slanc_onnx.targets import Change
from slanc_onnx.trace import Term
from tests.places import SAMPLES

KINDS = [kind for enum in get_args(Kind) for kind in enum]
floats = st.floats(allow_nan=False)
names = st.text(max_size=9)
facts = st.one_of(
    names,
    floats,
    st.integers(-(2**70), 2**70),
    st.lists(st.integers(), max_size=3).map(tuple),
    st.tuples(names, names),
    st.tuples(names, st.integers()),
)
reasons = st.recursive(
    st.builds(Reason, st.sampled_from(KINDS), st.lists(facts, max_size=3).map(tuple), names, names),
    lambda inner: st.builds(replace, inner, behind=inner),
    max_leaves=3,
)
conditions = st.builds(
    Condition, names, st.sampled_from(["range", "made", "length"]), floats, floats
)
some = st.none() | floats
bounds = st.builds(Bound, some, st.tuples(conditions), st.none() | reasons, st.booleans())
estimates = st.builds(
    Estimate, floats, floats, floats, st.sampled_from(["probe", "weights"]), st.none(), some
)
feeds = st.one_of(
    st.builds(Range, floats, floats), st.builds(Ids, st.integers(), st.integers()),
    st.builds(Normal, floats, floats),
)  # fmt: skip
REAL = {
    path.stem: compute_scales(onnx.load(path), Options(exclude="layers.1"))
    for path in sorted(SAMPLES.glob("*.onnx"))
}


def again(decided: ScaledNorm) -> ScaledNorm:
    """By way of a file that other programs read too."""
    text = json.dumps(decided.to_json(), allow_nan=False)
    return ScaledNorm.from_json(json.loads(text, parse_constant=lambda name: 1 / 0))


@pytest.mark.parametrize("sample", REAL)
def test_real_decisions_come_back(sample: str) -> None:
    for decided in REAL[sample]:
        assert again(decided) == decided


@st.composite
def decisions(draw: st.DrawFn) -> ScaledNorm:
    one = draw(st.sampled_from(REAL["bert_like"]))
    scale = draw(st.none() | floats)
    status = draw(st.sampled_from(["scaled", "unchanged", "skipped"]))
    counts = scale if status == "scaled" and scale is not None else 1.0
    affine = st.builds(Affine, floats, floats, floats)
    proof = st.builds(
        Certificate, st.booleans(), st.none() | reasons, bounds, some, some,
        st.none() | affine, st.tuples(conditions), some, st.just(counts),
    )  # fmt: skip
    terms = st.builds(
        Term,
        st.sampled_from(["norm", "gated MLP"]),
        names,
        st.tuples(st.tuples(names, names)),
        st.none() | names,
    )
    norm = replace(one.norm, name=draw(names), path=draw(st.just(()) | st.just(((3, "body"),))))
    norm = replace(norm, epsilon=draw(some), skip_reason=draw(st.none() | reasons))
    return ScaledNorm(
        norm=norm,
        scale=scale,
        estimate=draw(st.none() | estimates),
        rule=draw(st.tuples(terms)),
        sources=draw(st.lists(names, max_size=2)),
        status=status,  # type: ignore[arg-type]
        reasons=tuple(draw(st.lists(reasons, max_size=2))),
        certificate=draw(st.none() | proof),
        affine=draw(st.none() | affine),
        safe_radius=draw(some),
        most_elements=draw(st.none() | st.integers(1)),
        assumed=draw(st.tuples(st.builds(Assumption, names, st.tuples(feeds)))),
        certified_with=tuple(draw(st.lists(st.sampled_from(list(Change)), max_size=2))),
    )


@given(decisions())
def test_a_decision_comes_back(decided: ScaledNorm) -> None:
    found = again(decided)
    assert found == decided
    assert types_in(found) == types_in(decided)


def types_in(value: object) -> object:
    """The types of all parts: 1 == 1.0 == True, and a list is no tuple."""
    if isinstance(value, tuple | list):
        return type(value), [types_in(one) for one in value]
    if hasattr(value, "__dataclass_fields__"):
        return type(value), [types_in(getattr(value, f.name)) for f in fields(value)]  # type: ignore[arg-type]
    return type(value)


def test_a_kind_is_known_by_its_value() -> None:
    twice = [value for value, count in Counter(kind.value for kind in KINDS).items() if count > 1]
    assert twice == []
    assert all(isinstance(kind, Enum) for kind in KINDS)


def test_a_scale_that_is_changed_in_the_form_has_no_certificate() -> None:
    (decided, *_) = [d for d in REAL["llama_like"] if d.certificate and d.certificate.certified]
    form = decided.to_json()
    form["scale"] = 2 * form["scale"]
    found = ScaledNorm.from_json(form)
    assert (found.certificate, found.safe_radius, found.certified_with) == (None, None, ())
    assert replace(again(decided), scale=2.0**20).certificate is None


def test_numbers_that_json_does_not_have_come_back() -> None:
    (decided, *_) = REAL["llama_like"]
    for odd in (math.inf, -math.inf):
        assert again(replace(decided, safe_radius=odd)).safe_radius == odd


def test_decisions_from_a_file_are_applied(tmp_path: Path) -> None:
    path = SAMPLES / "llama_like.onnx"
    file = tmp_path / "decided.json"
    decided = compute_scales(onnx.load(path))
    file.write_text(json.dumps([one.to_json() for one in decided]))
    read = [ScaledNorm.from_json(form) for form in json.loads(file.read_text())]
    one, other = onnx.load(path), onnx.load(path)
    assert apply_scales(one, decided) and apply_scales(other, read)
    assert one == other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": "two"}, "scale: 'two' is not the form"),
        ({"status": "done"}, "status: 'done' is not the form"),
        ({"reasons": [{"kind": "odd"}]}, "kind: 'odd' is not the form"),
        ({"other": 1}, "other is not known, or is missing"),
        ({"norm": None}, "norm: 'None' is not the form"),
        ({"norm": {}}, "norm: "),
    ],
)
def test_another_form_is_refused(change: dict[str, Any], message: str) -> None:
    form = {**REAL["llama_like"][0].to_json(), **change}
    with pytest.raises(SlancError) as error:
        ScaledNorm.from_json(form)
    assert message in str(error.value)
