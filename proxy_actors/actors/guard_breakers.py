"""The circuit breakers of an upstream's endpoints, as their guard has them.

A part of `UpstreamGuard`, not an actor: it does in that one's turns what `policy/breakers.py` says.
What has to be known without an ask, or by the next incarnation, it writes into the `EndpointState`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from proxy_actors.actors.meters import UpstreamMeters
from proxy_actors.messages import breaker as m
from proxy_actors.messages.base import Message
from proxy_actors.messages.breaker import BreakerEffect, BreakerMessage, BreakerState
from proxy_actors.messages.guard import CallFailed, CallSucceeded
from proxy_actors.policy.breaker import BreakerLimits
from proxy_actors.policy.breakers import EndpointBreakers
from proxy_actors.policy.endpoint_state import EndpointState
from proxy_actors.world.base import World

# What stands for all tools in the log, where there is one word for each thing.
ALL = "-"
TOOL_CHARACTERS_LOGGED = 100

logger = logging.getLogger("proxy_actors.health")


class GuardBreakers:
    """The breakers of one upstream.

    Args:
        upstream: its configured name.
        states: its endpoints by name.
        wake: tells the guard a message after so many seconds.
        probe: has an endpoint asked how it is, and told what that has shown.
        limits: of each breaker; None where there are none.
        meters: where changes are counted.
    """

    def __init__(
        self,
        world: World,
        upstream: str,
        states: Mapping[str, EndpointState],
        wake: Callable[[float, Message], None],
        probe: Callable[[str, int, float], None],
        limits: BreakerLimits | None,
        meters: UpstreamMeters,
    ) -> None:
        self._world = world
        self._upstream = upstream
        self._states = states
        self._wake = wake
        self._probe = probe
        self._meters = meters
        self._probe_s = 0.0 if limits is None else limits.probe_s
        self._breakers: dict[str, EndpointBreakers] = {}
        if limits is not None:
            self._breakers = {
                name: EndpointBreakers(limits, world.random, state.epoch + 1, state.opened)
                for name, state in states.items()
            }

    def begin(self) -> None:
        """Go on where another incarnation has ended."""
        for name, breakers in self._breakers.items():
            self._perform(name, breakers.begin(self._world.now_s()))

    def watches(self, endpoint: str) -> bool:
        """Whether it is of interest that a call succeeds."""
        breakers = self._breakers.get(endpoint)
        return breakers is not None and breakers.watches(self._world.now_s())

    def is_closed(self, endpoint: str) -> bool:
        """Whether an endpoint's own breaker lets everything pass."""
        breakers = self._breakers.get(endpoint)
        return breakers is None or breakers.state is BreakerState.CLOSED

    def admit(self, ask: m.AdmitCall) -> m.CallAdmitted | m.CircuitOpen:
        """Answer who asks whether a call may be sent."""
        breakers = self._breakers.get(ask.endpoint)
        if breakers is None:
            return m.CallAdmitted(0, False)
        answer, effects = breakers.admit(ask.tool, ask.reads, self._world.now_s())
        self._perform(ask.endpoint, effects)
        return answer

    def failed(self, call: CallFailed, counts: bool) -> None:
        """A call has failed; whether that is a failure of its own."""
        breakers = self._breakers.get(call.endpoint)
        if breakers is not None:
            self._perform(call.endpoint, breakers.failed(call, self._world.now_s(), counts))

    def succeeded(self, call: CallSucceeded) -> None:
        """A call has succeeded."""
        breakers = self._breakers.get(call.endpoint)
        if breakers is not None:
            self._perform(call.endpoint, breakers.succeeded(call, self._world.now_s()))

    def check_passed(self, endpoint: str) -> None:
        """A health check has succeeded."""
        breakers = self._breakers.get(endpoint)
        if breakers is not None:
            self._perform(endpoint, breakers.check_passed(self._world.now_s()))

    def handle(self, message: BreakerMessage) -> None:
        """Apply a message that is about nothing else."""
        breakers = self._breakers.get(message.endpoint)
        if breakers is not None:
            self._perform(message.endpoint, breakers.handle(message, self._world.now_s()))

    def describe(self, endpoint: str) -> dict[str, str]:
        """Say which are not closed, by tool."""
        breakers = self._breakers.get(endpoint)
        states = {} if breakers is None else breakers.states()
        return {tool or ALL: state.value for tool, state in states.items()}

    def _perform(self, endpoint: str, effects: list[BreakerEffect]) -> None:
        breakers, state = self._breakers[endpoint], self._states[endpoint]
        state.gated, state.epoch = breakers.gated, breakers.epoch
        for effect in effects:
            match effect:
                case m.WakeBreaker(tool, after_s, generation):
                    self._wake(after_s, m.BreakerDue(endpoint, tool, generation))
                case m.ProbeEndpoint(permit):
                    self._probe(endpoint, permit, self._world.now_s() + self._probe_s)
                case m.BreakerChanged(tool, now, why, after_s):
                    state.opened = breakers.opened()
                    self._meters.breakers[now] += 1
                    log = logger.info if now is BreakerState.CLOSED else logger.warning
                    log(
                        "breaker_changed upstream=%s endpoint=%s tool=%r state=%s cause=%r "
                        "seconds=%.3f",
                        self._upstream, endpoint, tool[:TOOL_CHARACTERS_LOGGED] or ALL,
                        now.value, why, after_s,
                    )
