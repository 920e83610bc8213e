"""Notes of an earlier run, in metadata and behind names."""

import pytest
from onnx import NodeProto, helper

from slanc_onnx.norms.notes import drop_notes, notes_of, with_notes, without_notes

NOTED = {"slanc.scale": "128.0", "slanc.applied": "fold", "slanc.target": "FP16, a+b & c=d?"}


def node_of(name: str, **metadata: str) -> NodeProto:
    made = helper.make_node("Div", ["x", "s"], ["y"], name=name)
    for key, value in metadata.items():
        made.metadata_props.add(key=key, value=value)
    return made


@pytest.mark.parametrize("name", ["", "n", "/a/b_1", "what?", "a?slanc.b?c"])
def test_notes_behind_a_name_are_those_of_the_metadata(name: str) -> None:
    noted = node_of(name, **NOTED, other="kept")
    assert notes_of(noted) == NOTED
    behind = node_of(with_notes(noted))
    assert notes_of(behind) == NOTED
    assert without_notes(behind.name) == without_notes(name) == name
    assert with_notes(behind) == behind.name


def test_a_node_without_notes_has_none() -> None:
    for name in ("", "n", "?", "slanc.scale=2", "n?scale=2", "n?slanc.other=2", "n?slanc.scale"):
        assert notes_of(node_of(name, other="slanc.scale")) == {}
    assert with_notes(node_of("n", other="x")) == "n"


def test_metadata_counts_more_than_a_name() -> None:
    node = node_of("n?slanc.scale=2.0", **{"slanc.scale": "4.0"})
    assert notes_of(node) == {"slanc.scale": "4.0"}


def test_notes_are_taken_off_and_nothing_else() -> None:
    node = node_of("n?slanc.scale=2.0", **NOTED, other="kept")
    drop_notes(node)
    assert (node.name, [(p.key, p.value) for p in node.metadata_props]) == (
        "n",
        [("other", "kept")],
    )
    plain = node_of("n?")
    drop_notes(plain)
    assert plain == node_of("n?")
