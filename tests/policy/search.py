"""Breadth-first search through every order of messages that a small policy can get.

A `Subject` holds a policy together with a model that knows the rules and not the policy. States
that differ in nothing but names are one state, so that a search without a bound on its depth ends.
"""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any


class Violation(Exception):
    """A rule was broken."""


def check(condition: object, rule: str) -> None:
    """Say which rule was broken."""
    if not condition:
        raise Violation(rule)


class Subject(ABC):
    """A policy and its model, to be pickled."""

    @abstractmethod
    def moves(self) -> Iterable[Any]:
        """What can happen next; nothing when all is over."""

    @abstractmethod
    def make(self, move: Any) -> None:
        """Let it happen; raise Violation when a rule was broken."""

    @abstractmethod
    def key(self) -> Hashable:
        """Describe the state without names; times relative to now."""

    def settle(self) -> None:
        """Check what must be possible from every state. The subject is thrown away after."""


@dataclass
class Findings:
    """How much was explored; the first violation and the shortest trace to it."""

    states: int = 0
    moves: int = 0
    violation: Exception | None = None
    trace: tuple[Any, ...] = field(default=())


def search(begin: Callable[[], Subject], states_max: int = 200_000) -> Findings:
    """Explore from a fresh subject to the end, or to the first violation."""
    findings = Findings()
    try:
        subject = begin()
    except Violation as violation:
        findings.violation = violation
        return findings
    seen = {subject.key()}
    layer: list[tuple[bytes, tuple[Any, ...]]] = [(pickle.dumps(subject, 5), ())]
    while layer:
        following = []
        for frozen, path in layer:
            findings.trace = (*path, "settle")
            try:
                pickle.loads(frozen).settle()
                for move in list(pickle.loads(frozen).moves()):
                    findings.trace = (*path, move)
                    findings.moves += 1
                    next_subject: Subject = pickle.loads(frozen)
                    next_subject.make(move)
                    key = next_subject.key()
                    if key not in seen:
                        seen.add(key)
                        following.append((pickle.dumps(next_subject, 5), findings.trace))
            except Exception as error:  # a policy that raises is as wrong as one that decides so
                findings.violation = error
                return findings
        assert len(seen) < states_max, "the scope is too large"
        layer = following
    findings.states = len(seen)
    findings.trace = ()
    return findings
