"""The circuit breakers of one endpoint: one of its own, and one for each tool that fails.

Owns which of them a call concerns, and the order of what happens to them. A tool that is too slow
says nothing of the others, so how long a call of a tool takes counts for the tool alone; that no
connection can be opened says nothing of a tool. All else counts for both.

Nobody is a probe whose call changes something. Where nobody else comes, or only such calls, the
proxy asks the server itself, once for all breakers that wait for it. A successful health check is
as good.

Tools have names that clients make up, so only so many have a breaker, those that failed of late.
The guard of the upstream (`actors/upstream_guard.py`) is the shell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import assert_never

from proxy_actors.messages import breaker as m
from proxy_actors.messages.breaker import BreakerEffect, BreakerMessage, BreakerState, Opened
from proxy_actors.messages.guard import CallFailed, CallSucceeded, Fault
from proxy_actors.policy.breaker import CLOSED, HALF_OPEN, OPEN, Breaker, BreakerLimits

TOOLS_MAX = 256
# The key of the endpoint's own breaker among those of its tools.
WHOLE = ""
# So long a half-open breaker waits for a client whose call can be its probe.
CLIENT_S = 1.0


class EndpointBreakers:
    """Decides for one endpoint.

    Args:
        random: draws uniformly from [0, 1).
        epoch: above all permits that were ever given.
        opened: what a predecessor knew of those that were not closed.

    Attributes:
        epoch: what a call has as its permit that begins now without asking for one.
    """

    def __init__(
        self,
        limits: BreakerLimits,
        random: Callable[[], float],
        epoch: int = 0,
        opened: Mapping[str, Opened] | None = None,
    ) -> None:
        self._limits = limits
        self._random = random
        self.epoch = epoch
        self._own: int | None = None
        self._since = epoch
        self._whole = Breaker(limits, random, epoch)
        self._breakers = {WHOLE: self._whole}
        for tool, known in (opened or {}).items():
            if tool != WHOLE:
                self._breakers[tool] = Breaker(limits, random, epoch)
            self._breakers[tool].restore(known)

    def begin(self, now_s: float) -> list[BreakerEffect]:
        """Go on where a predecessor has stopped."""
        return [
            m.WakeBreaker(tool, max(breaker.until_s - now_s, 0.0), breaker.generation)
            for tool, breaker in self._breakers.items()
            if breaker.state is OPEN
        ]

    @property
    def state(self) -> BreakerState:
        """Where the endpoint's own breaker stands."""
        return self._whole.state

    @property
    def gated(self) -> bool:
        """Whether calls have to ask."""
        return any(breaker.state is not CLOSED for breaker in self._breakers.values())

    def watches(self, now_s: float) -> bool:
        """Whether calls that succeed have to be told."""
        return self._limits.slow_call_s > 0 or not all(
            breaker.is_idle(now_s) for breaker in self._breakers.values()
        )

    def opened(self) -> dict[str, Opened]:
        """What a successor has to know."""
        return {
            tool: breaker.opened
            for tool, breaker in self._breakers.items()
            if breaker.state is not CLOSED
        }

    def states(self) -> dict[str, BreakerState]:
        """Where those stand that are not closed, by tool."""
        return {
            tool: breaker.state
            for tool, breaker in self._breakers.items()
            if breaker.state is not CLOSED
        }

    # Calls.

    def admit(
        self, tool: str, reads: bool, now_s: float
    ) -> tuple[m.CallAdmitted | m.CircuitOpen, list[BreakerEffect]]:
        """Let a call through, as a probe or not, or refuse it."""
        effects: list[BreakerEffect] = []
        waits: list[tuple[float, str]] = []
        concerned = [
            (key, self._breakers[key])
            for key in ((WHOLE, tool) if tool else (WHOLE,))
            if key in self._breakers and self._breakers[key].state is not CLOSED
        ]
        for key, breaker in concerned:
            if breaker.state is OPEN and now_s >= breaker.until_s:  # its timer is late
                effects += self._due(key, breaker, now_s)
            wait_s = breaker.wait_s(reads, now_s)
            if wait_s is not None:
                waits.append((wait_s, key))
        if waits:
            if not reads:
                for _, breaker in concerned:
                    effects += self._ask(breaker, now_s)
            wait_s, key = max(waits)
            return m.CircuitOpen(key, wait_s), effects
        if not concerned:
            return m.CallAdmitted(self.epoch, False), effects
        permit = self._mint()
        for _, breaker in concerned:
            breaker.take(permit, now_s)
        return m.CallAdmitted(permit, True), effects

    def failed(
        self, call: CallFailed, now_s: float, counts: bool = True
    ) -> list[BreakerEffect]:
        """A call has failed by the endpoint's fault.

        Args:
            counts: whether that is a failure of its own. If not, it is no news to a breaker that
                counts failures; but a probe that has failed has failed.
        """
        self._forget_idle(now_s)
        effects: list[BreakerEffect] = []
        connecting = call.fault is Fault.CONNECT
        for key in (WHOLE, call.tool) if call.tool else (WHOLE,):
            if call.tool and (connecting if key else call.fault is Fault.TIMEOUT):
                breaker = self._breakers.get(key)
                if breaker is not None:
                    breaker.released(call.permit)
                continue
            breaker = self._of(key) if counts else self._breakers.get(key)
            if breaker is not None and (counts or breaker.state is not CLOSED):
                seconds = call.seconds if key == call.tool else 0.0
                why = breaker.failed(connecting, seconds, call.permit, now_s)
                effects += self._changed(key, breaker, why, now_s)
        return effects

    def succeeded(self, call: CallSucceeded, now_s: float) -> list[BreakerEffect]:
        """A call was answered, by whatever the application had to say."""
        self._forget_idle(now_s)
        effects: list[BreakerEffect] = []
        for key in (WHOLE, call.tool) if call.tool else (WHOLE,):
            slow = 0.0 < self._limits.slow_call_s < call.seconds
            breaker = self._of(key) if slow else self._breakers.get(key)
            if breaker is not None:
                seconds = call.seconds if key == call.tool else 0.0
                why = breaker.succeeded(seconds, call.permit, now_s)
                effects += self._changed(key, breaker, why, now_s)
        return effects

    def check_passed(self, now_s: float) -> list[BreakerEffect]:
        """A health check has succeeded: it counts as a probe."""
        effects: list[BreakerEffect] = []
        for key, breaker in list(self._breakers.items()):
            if breaker.state is HALF_OPEN:
                effects += self._changed(key, breaker, breaker.close(now_s), now_s)
        return effects

    def handle(self, message: BreakerMessage, now_s: float) -> list[BreakerEffect]:
        """Apply one message and return what is to be done, in order."""
        match message:
            case m.PermitReleased(_, _, permit):
                for breaker in self._breakers.values():
                    breaker.released(permit)
                return []
            case m.ProbeEnded(_, permit, ok):
                return self._probed(permit, ok, now_s)
            case m.BreakerDue(_, tool, generation):
                breaker_or_none = self._breakers.get(tool)
                if breaker_or_none is None or breaker_or_none.generation != generation:
                    return []
                return self._due(tool, breaker_or_none, now_s)
            case _:
                assert_never(message)

    # Inside.

    def _due(self, key: str, breaker: Breaker, now_s: float) -> list[BreakerEffect]:
        """The time of an open breaker is up, or a half-open one has waited for long enough."""
        if breaker.state is OPEN:
            return self._changed(key, breaker, breaker.half_open(), now_s)
        breaker.give_up_late(now_s)
        breaker.generation += 1
        wake = m.WakeBreaker(key, self._limits.probe_s, breaker.generation)
        return [*self._ask(breaker, now_s), wake]

    def _ask(self, breaker: Breaker, now_s: float) -> list[BreakerEffect]:
        """Ask the server ourselves, if the breaker has a place for that."""
        if not breaker.has_place:
            return []
        if self._own is not None:
            breaker.take(self._own, now_s)
            return []
        self._own = self._mint()
        breaker.take(self._own, now_s)
        return [m.ProbeEndpoint(self._own)]

    def _probed(self, permit: int, ok: bool, now_s: float) -> list[BreakerEffect]:
        if permit != self._own:
            return []  # another incarnation's
        self._own = None
        effects: list[BreakerEffect] = []
        for key, breaker in list(self._breakers.items()):
            if breaker.state is HALF_OPEN:
                if ok:
                    why = breaker.succeeded(0.0, permit, now_s)
                else:
                    why = breaker.failed(False, 0.0, permit, now_s)
                effects += self._changed(key, breaker, why, now_s)
        return effects

    def _changed(
        self, key: str, breaker: Breaker, why: str, now_s: float
    ) -> list[BreakerEffect]:
        """Tell what has changed, if anything has."""
        if not why:
            return []
        self.epoch += 1
        state = breaker.state
        if state is CLOSED:  # for those as well that will have its place when it is forgotten
            breaker.since = self._since = self.epoch
            return [m.BreakerChanged(key, state, why)]
        wait_s = CLIENT_S if state is HALF_OPEN else breaker.until_s - now_s
        return [
            m.BreakerChanged(key, state, why, wait_s if state is OPEN else 0.0),
            m.WakeBreaker(key, wait_s, breaker.generation),
        ]

    def _mint(self) -> int:
        """Mint a permit that no other call has, nor will have."""
        self.epoch += 2
        return self.epoch - 1

    def _of(self, key: str) -> Breaker | None:
        """Return a tool's breaker, a new one if need be; None where all places are taken."""
        breaker = self._breakers.pop(key, None)
        if breaker is None:
            if len(self._breakers) > TOOLS_MAX and not self._make_room():
                return None
            breaker = Breaker(self._limits, self._random, self._since)
        self._breakers[key] = breaker  # the last to have failed is the last to go
        return breaker

    def _make_room(self) -> bool:
        for key, breaker in self._breakers.items():
            if key != WHOLE and breaker.state is CLOSED:
                del self._breakers[key]
                return True
        return False

    def _forget_idle(self, now_s: float) -> None:
        idle = [x for x, breaker in self._breakers.items() if breaker.is_idle(now_s)]
        for key in idle:
            if key != WHOLE:
                del self._breakers[key]
