"""Endpoints, their guard and its checks under seeds: whatever happens, all are used again after.

Calls fail, servers go away and come back, lose their sessions, refuse and hang; operators take
endpoints out; the guard, pools and upstreams crash at their messages. FLT-N16, N17, P15.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from proxy_actors.actors.base import Actor
from proxy_actors.config.resilience import Retries
from proxy_actors.config.upstreams import Checks, Outliers
from proxy_actors.messages.health import OperatorState
from proxy_actors.options import CheckKind, OnSessionLost
from proxy_actors.policy.health import HealthPolicy
from proxy_actors.policy.outliers import Outliers as OutlierPolicy
from tests.defects import Defect, planted
from tests.gateway.endpoint_scene import EndpointScene
from tests.sim.crashes import planted_crashes
from tests.sim.virtual import VirtualConnection, call, initialize, request

SEEDS = 24
STEADY_S = 8.0
NAMES = ("a", "b", "c")
STEPS = ("json", "json", "json", "500", "503", "429", "reset", "garbage", "pause 3", "tool-error")
FRAGILE = frozenset({"UpstreamGuard", "ConnectionPool", "HttpUpstream"})
PINGS: tuple[list[str] | None, ...] = (None, None, ["500"], ["401"], ["pause 30"], ["reset"])


class Trouble:
    """What happens in one run."""

    def __init__(self, seed: int) -> None:
        self.chance = chance = random.Random(seed)
        kind = chance.choice((CheckKind.PING, CheckKind.HTTP, CheckKind.TCP, CheckKind.OFF))
        self.scene = EndpointScene(
            *NAMES, seed=seed,
            checks=Checks(kind=kind, interval_s=3.0, down_interval_s=3.0),
            outliers=Outliers(
                base_ejection_s=10.0, max_ejection_s=30.0, check_unejects=bool(seed % 2)
            ),
            on_session_lost=chance.choice(list(OnSessionLost)),
            retries=Retries(attempts_max=0),
        )
        self.listeners = {name: self.scene.listeners[f"{name}.test", 80] for name in NAMES}
        self.answers: Counter[int | None] = Counter()
        self.sent = 0

    def client(self) -> None:
        """Call again and again, in a session that may be lost."""
        session: str | None = None
        for n in range(self.chance.randrange(5, 30)):
            self.scene.pass_time(self.chance.random() * 4.0)
            self.sent += 1
            connection = VirtualConnection(self.scene)
            if session is None:
                answer = connection.ask(request(initialize()))
                id = answer.field(b"mcp-session-id")
                session = None if id is None else id.decode()
            else:
                step = self.chance.choice(STEPS)
                steps = (step, "json") if step in ("pause 3", "tool-error") else (step,)
                answer = connection.ask(request(call(n, *steps), session=session))
                session = None if answer.status == 404 else session
            connection.close()
            self.answers[answer.status] += 1

    def happen(self) -> None:
        """Let one thing go wrong, or right."""
        name = self.chance.choice(NAMES)
        server = self.scene.servers[name]
        match self.chance.randrange(6):
            case 0:
                self.scene.listeners.pop((f"{name}.test", 80), None)
            case 1:
                self.scene.listeners[f"{name}.test", 80] = self.listeners[name]
            case 2:
                server.pinged = self.chance.choice(PINGS)
            case 3:
                server.health = self.chance.choice((200, 200, 503, 403))
            case 4:
                server.lose_sessions()
            case 5:
                self.scene.set(name, self.chance.choice(list(OperatorState)))

    def heal(self) -> None:
        for name, server in self.scene.servers.items():
            self.scene.listeners[f"{name}.test", 80] = self.listeners[name]
            server.pinged, server.health = None, 200
            self.scene.set(name, OperatorState.READY)


def test_endpoints_are_used_again_after_whatever_has_happened() -> None:
    seen: Counter[str] = Counter()
    for seed in range(SEEDS):
        run(seed, seen)
    assert seen["crashed_UpstreamGuard"] > 0 and seen["out"] > 0, seen


@pytest.mark.parametrize("defect", [
    Defect("a guard that is started anew checks nothing", HealthPolicy, "begin",
           "effects += self._checks.resume(name, now_s)", "pass"),
    Defect("a guard that is started anew lets nobody come back", OutlierPolicy, "begin",
           "return self._arm()", "return []"),
], ids=str)  # fmt: skip
def test_planted_defect_is_found(defect: Defect) -> None:
    with planted(defect), pytest.raises(AssertionError):
        for seed in range(SEEDS):
            run(seed, Counter())


def run(seed: int, seen: Counter[str]) -> None:
    trouble = Trouble(seed)
    scene = trouble.scene
    fragile = trouble.chance.choice((0.0, 0.02, 0.2))
    begun: dict[str, float] = {}

    def likely(actor: Actor) -> float:
        """Crash none so often that it is given up."""
        if type(actor).__name__ not in FRAGILE:
            return 0.0
        begun.setdefault(f"{actor.name} {actor.slot.starts}", scene.now_s())
        return fragile if scene.now_s() - max(begun.values()) > STEADY_S else 0.0

    with planted_crashes(scene, likely):
        for _ in range(3):
            scene.spawn("client", trouble.client)
        for _ in range(12):
            scene.run(trouble.chance.random() * 10.0)
            trouble.happen()
            seen["out"] += any(not x.takes for x in scene.states.values())
        scene.run(200.0)
        seen.update(scene.seen)
    trouble.heal()
    assert scene.run_until(lambda: all(x.takes for x in scene.states.values()), 120.0), (
        seed, {name: (x.takes, x.serves) for name, x in scene.states.items()},
    )  # fmt: skip
    scene.run(60.0)
    assert sum(trouble.answers.values()) == trouble.sent, (seed, trouble.answers)
    assert all(x.pending == 0 for x in scene.states.values()), seed
    answers: list[Any] = [scene.ask(call(1), scene.session()) for _ in NAMES]
    assert [x.status for x in answers] == [200] * 3, seed
