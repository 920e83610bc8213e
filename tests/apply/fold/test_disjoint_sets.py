"""Disjoint sets: members that were joined, through others too, have one root."""

from slanc_onnx.apply.fold.disjoint_sets import DisjointSets


def test_what_is_joined_has_one_root() -> None:
    sets: DisjointSets[str] = DisjointSets()
    for member in "abcdef":
        assert sets.add(member) == member
    sets.join(["a", "b"])
    sets.join(["c", "d"])
    sets.join(["d", "b"])
    sets.join(["e"])
    sets.join([])
    assert list(sets) == list("abcdef")
    assert len({sets.root(member) for member in "abcd"}) == 1
    assert len({sets.root(member) for member in sets}) == 3
