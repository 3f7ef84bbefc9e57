"""The rules of outlier detection, in books of their own: RELIABILITY 1.1, word by word."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import msgspec

from proxy_actors.messages import health as m
from proxy_actors.messages.guard import CallFailed, CallSucceeded, Fault
from proxy_actors.messages.health import EjectionCause
from proxy_actors.policy.endpoint_state import EndpointState
from proxy_actors.policy.outliers import Ejection, OutlierLimits, Outliers
from tests.policy.search import Subject, check

DRAWN = 0.5
LIMITS = OutlierLimits(
    consecutive_failures=2, consecutive_gateway_failures=0, interval_s=10.0, base_ejection_s=10.0,
    max_ejection_s=25.0, ejected_percent_max=50, success_rate_factor=0.0,
)  # fmt: skip
SPLIT = msgspec.structs.replace(
    LIMITS, consecutive_gateway_failures=2, split_local=True, consecutive_local_failures=2,
    consecutive_failures=3, max_ejection_s=10.0, ejected_percent_max=100, interval_s=15.0,
)  # fmt: skip


class Sweep(msgspec.Struct, frozen=True):
    """The interval passes."""


class Restart(msgspec.Struct, frozen=True):
    """The guard is started anew."""


class Checked(msgspec.Struct, frozen=True):
    """An active check finds an endpoint well."""

    endpoint: str


class Books:
    """What the rules know of one endpoint."""

    def __init__(self) -> None:
        self.total = self.gateway = self.local = 0
        self.ejected_for: float | None = None  # seconds since, while it is ejected
        self.back_for: float | None = None  # seconds since it came back
        self.step = 0

    def reset(self) -> None:
        self.total = self.gateway = self.local = 0


class OutliersSubject(Subject):
    """A few endpoints that fail and succeed, and the sweeps of their guard."""

    def __init__(self, names: str = "ab", limits: OutlierLimits = LIMITS) -> None:
        self.limits = limits
        self.books = {name: Books() for name in names}
        self.states = {name: EndpointState(name) for name in names}
        self.ejections = {name: Ejection() for name in names}
        self.now_s = 100.0
        self.wakes: list[m.OutlierSweepDue] = []
        self.start()

    def start(self) -> None:
        self.policy = Outliers(self.limits, self.states, self.ejections, draw)
        self.wakes.clear()
        self.note(self.policy.begin())

    def moves(self) -> Iterator[Any]:
        first = next(iter(self.books))
        for name in self.books:
            every = self.limits.split_local and name == first
            for fault in (Fault.STATUS, Fault.GATEWAY, Fault.TIMEOUT)[: None if every else 1]:
                yield CallFailed(name, "", fault, 0.0)
            yield CallSucceeded(name, "", 0.0)
            yield Checked(name)
        yield Restart()
        yield Sweep()

    def make(self, move: Any) -> None:
        effects: list[Any] = []
        expected: dict[str, EjectionCause | None] = {}
        match move:
            case Restart():
                self.start()
                for book in self.books.values():
                    book.reset()
                self.check_state()
                return
            case Sweep():
                effects, expected = self.sweep()
            case Checked(name):
                effects = list(self.policy.check_succeeded(name, self.now_s))
                if self.limits.check_unejects and self.books[name].ejected_for is not None:
                    expected[name] = None
                    self.come_back(self.books[name])
            case CallSucceeded(name):
                if self.policy.watched(name):  # else nobody would tell
                    effects = self.policy.handle(move, self.now_s)
                self.books[name].reset()
            case CallFailed(name, _, fault):
                effects = self.policy.handle(move, self.now_s)
                cause = self.count(self.books[name], fault)
                if cause is not None and self.eject(self.books[name]):
                    expected[name] = cause
        self.note(effects)
        self.check_told(effects, expected)
        self.check_state()

    def sweep(self) -> tuple[list[Any], dict[str, EjectionCause | None]]:
        self.now_s += self.limits.interval_s
        for book in self.books.values():
            if book.ejected_for is not None:
                book.ejected_for += self.limits.interval_s
            if book.back_for is not None:
                book.back_for += self.limits.interval_s
        effects: list[Any] = []
        due, self.wakes = self.wakes, []
        for wake in due:
            effects += self.policy.handle(wake, self.now_s)
        expected: dict[str, EjectionCause | None] = {}
        for name, book in self.books.items():
            if book.ejected_for is not None and book.ejected_for >= self.lasts_s(book):
                expected[name] = None
                self.come_back(book)
            if book.ejected_for is None and book.back_for is not None:
                if book.back_for >= self.limits.interval_s:
                    book.step = max(book.step - 1, 0)
        return effects, expected

    def come_back(self, book: Books) -> None:
        book.ejected_for, book.back_for = None, 0.0
        book.reset()

    def lasts_s(self, book: Books) -> float:
        return min(self.limits.base_ejection_s * book.step, self.limits.max_ejection_s)

    def count(self, book: Books, fault: Fault) -> EjectionCause | None:
        """Count a failure; say which counter has reached its threshold, the last of them."""
        limits, fired = self.limits, None
        if limits.split_local and fault in (Fault.TIMEOUT,):
            book.local += 1
            if book.local == limits.consecutive_local_failures:
                book.local, fired = 0, EjectionCause.CONSECUTIVE_LOCAL_FAILURES
            return fired
        book.local = 0
        if limits.consecutive_gateway_failures:
            book.gateway = book.gateway + 1 if fault is Fault.GATEWAY else 0
            if book.gateway == limits.consecutive_gateway_failures:
                book.gateway, fired = 0, EjectionCause.CONSECUTIVE_GATEWAY_FAILURES
        book.total += 1
        if book.total == limits.consecutive_failures:
            book.total, fired = 0, fired or EjectionCause.CONSECUTIVE_FAILURES
        return fired

    def eject(self, book: Books) -> bool:
        if book.ejected_for is not None:
            return False
        ejected = sum(x.ejected_for is not None for x in self.books.values())
        fits = 100 * (ejected + 1) / len(self.books) <= self.limits.ejected_percent_max
        if not fits and (ejected > 0 or not self.limits.always_eject_one):
            return False
        limits = self.limits
        if book.step * limits.base_ejection_s < limits.max_ejection_s + limits.base_ejection_s:
            book.step += 1
        book.ejected_for = 0.0
        return True

    def note(self, effects: list[Any]) -> None:
        for effect in effects:
            if isinstance(effect, m.WakeOutlierSweep):
                check(effect.after_s == self.limits.interval_s, "a sweep follows in an interval")
                self.wakes.append(m.OutlierSweepDue(effect.generation))
        check(len(self.wakes) <= 1, "there is one sweep at a time")

    def check_told(
        self, effects: list[Any], expected: dict[str, EjectionCause | None]
    ) -> None:
        told: dict[str, EjectionCause | None] = {}
        for effect in effects:
            match effect:
                case m.ReportEjected(endpoint, cause, for_s, multiplier):
                    told[endpoint] = cause
                    book = self.books[endpoint]
                    check(for_s == self.lasts_s(book) and multiplier == book.step,
                          "it is told how long an ejection lasts")
                case m.ReportUnejected(endpoint):
                    told[endpoint] = None
        check(told == expected, "who is ejected, and who comes back, by the rules")

    def check_state(self) -> None:
        shared = sum(x.ejected for x in self.ejections.values())
        most = max(self.limits.ejected_percent_max * len(self.books) // 100,
                   int(self.limits.always_eject_one))
        check(shared <= most, "no more are ejected than may be")
        for name, book in self.books.items():
            ejection = self.ejections[name]
            check(ejection.ejected == (book.ejected_for is not None), "who is ejected is")
            check(ejection.multiplier == book.step, "the time grows and shrinks by steps")
            counted = bool(book.total or book.gateway or book.local)
            check(self.policy.watched(name) == counted, "successes matter after a failure only")
        wanted = any(x.step or x.ejected_for is not None for x in self.books.values())
        check(len(self.wakes) == wanted or self.wakes, "a sweep follows while one is needed")

    def key(self) -> Hashable:
        interval_s = self.limits.interval_s
        return (
            bool(self.wakes),
            *(
                (x.total, x.gateway, x.local, x.ejected_for, x.step,
                 None if x.back_for is None else min(x.back_for, interval_s))
                for x in self.books.values()
            ),
        )  # fmt: skip

    def settle(self) -> None:
        """Without failures all come back, and then nothing happens any more."""
        for _ in range(20):
            self.make(Sweep())
        check(not any(x.ejected for x in self.ejections.values()), "all come back")
        check(not self.wakes, "nothing happens where nothing fails")


def draw() -> float:
    """Chance, as these books know it."""
    return DRAWN
