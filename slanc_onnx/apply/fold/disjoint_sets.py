"""Disjoint sets, as trees: what is joined lies in one tree."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class DisjointSets(Generic[T]):
    """DisjointSets of members that were joined, directly or through others."""

    def __init__(self) -> None:
        self._parents: dict[T, T] = {}

    def __iter__(self) -> Iterator[T]:
        """All members, in the order in which they came."""
        return iter(self._parents)

    def add(self, member: T) -> T:
        """A member, in a set of its own if it is new."""
        self._parents.setdefault(member, member)
        return member

    def join(self, members: Sequence[T]) -> None:
        """Put the sets of some members into one."""
        for member in members:
            self._parents[self.root(member)] = self.root(members[0])

    def root(self, member: T) -> T:
        """The member that stands for a member's set."""
        parents = self._parents
        while parents[member] != member:
            parents[member] = parents[parents[member]]
            member = parents[member]
        return member
