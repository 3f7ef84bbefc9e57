"""Rows of the scorecard that no campaign meets by chance, each played under seeds.

The proxy as it is, in the simulated world: who runs when, what a server gets first, and how far the
answers are cut, is drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from proxy_actors.config.resilience import Retries
from proxy_actors.config.upstreams import Outliers
from proxy_actors.gateway.limits import LimitKey, Rate, Rule
from proxy_actors.options import Affinity, Balance
from proxy_actors.policy.backoff import Backoff
from proxy_actors.policy.limiter import LimiterPolicy
from proxy_actors.policy.peak_ewma import PeakEwma
from proxy_actors.policy.reconnect import ReconnectLimits
from tests.defects import Defect, planted
from tests.gateway.endpoint_scene import EndpointScene
from tests.gateway.scene import Scene
from tests.scripted_streams import Resumption
from tests.sim.virtual import UPSTREAM, VirtualConnection, call, request

SEEDS = range(12)
STREAMS = 100


@pytest.mark.parametrize("seed", SEEDS)
def test_fast_failing_endpoint_gets_little_beside_slow_ones_that_are_good(seed: int) -> None:
    """FLT-N19: below 5 % of the calls after the first second, with nobody ejected."""
    scene = EndpointScene(
        "bad", "good", "well", seed=seed, sessions=False, affinity=Affinity.NONE,
        balance=Balance.TWO_CHOICES, outliers=Outliers(consecutive_failures=0),
        retries=Retries(attempts_max=0),
    )
    scene.servers["bad"].usual = ["500"]
    for name in ("good", "well"):
        scene.servers[name].usual = ["pause 0.2", "json"]
    session = scene.session()
    until_s = scene.now_s() + 31.0

    def client(n: int) -> None:
        connection = VirtualConnection(scene)
        while scene.now_s() < until_s:
            connection.ask(request(call(n), session=session))
        connection.close()

    for n in range(8):
        scene.spawn("client", partial(client, n))
    scene.run(1.0)
    before = Counter(scene.spread())
    scene.run(30.0)
    calls = Counter(scene.spread())
    calls.subtract(before)
    assert calls["bad"] < 0.05 * calls.total(), calls
    assert min(calls["good"], calls["well"]) > 0.2 * calls.total(), calls


@pytest.mark.parametrize("seed", SEEDS)
def test_no_more_is_let_through_than_the_bucket_holds_and_what_flows_in(seed: int) -> None:
    """FLT-C14: burst + rate x time, whoever comes when."""
    rule = Rule(name="r", key=LimitKey.ALL, method="tools/call", rate=Rate(10.0, 20))
    scene = Scene(rules=(rule,), seed=seed)
    sessions = [scene.session() for _ in range(20)]
    began_s = scene.now_s()
    taken_s: list[float] = []

    def client(session: str) -> None:
        connection = scene.connection()
        for n in range(10):
            scene.pass_time(scene.chance.random() * 0.2)
            if connection.ask(request(call(n), session=session)).status == 200:
                taken_s.append(scene.now_s())
        connection.close()

    for session in sessions:
        scene.spawn("client", partial(client, session))
    scene.run(10.0)
    for n, now_s in enumerate(sorted(taken_s), 1):
        assert n <= 20 + 10.0 * (now_s - began_s) + 1, (n, now_s - began_s)
    assert len(taken_s) >= 20


@pytest.mark.parametrize("seed", SEEDS)
def test_streams_that_are_cut_at_once_come_back_spread_and_once(seed: int) -> None:
    """FLT-P24: the network is away for a second; the wait of each is drawn from two seconds."""
    scene = Scene(
        resumption=Resumption(), seed=seed,
        reconnect=ReconnectLimits(base_s=2.0, cap_s=2.0, attempts_max=20, idle_s_max=300.0),
    )
    for _ in range(STREAMS):
        stream = request(None, "GET", scene.session())
        scene.do(lambda stream=stream: scene.begin(stream, "GET"))
    scene.run(5.0)
    links = [session.standalone.link for session in scene.server.sessions.values()]
    assert len([link for link in links if link is not None]) == STREAMS
    listener = scene.listeners.pop(UPSTREAM)
    for link in links:
        link._stream.break_off()
    scene.run(1.0)
    before_s, asked = scene.now_s(), len(scene.server.seen)
    scene.listeners[UPSTREAM] = listener
    came_s: list[float] = []
    while scene.now_s() < before_s + 10.0:
        scene.run(0.1)
        came = [x for x in scene.server.seen[asked:] if x.method == "GET"]
        came_s += [scene.now_s() - before_s] * (len(came) - len(came_s))
    assert len(came_s) == STREAMS
    assert max(Counter(came_s).values()) <= STREAMS // 5, Counter(came_s)


DEFECTS: list[tuple[Defect, Callable[[int], None]]] = [
    (Defect("fast failures look fast", PeakEwma, "fail", "observe(after_s", "observe(0.001"),
     test_fast_failing_endpoint_gets_little_beside_slow_ones_that_are_good),
    (Defect("tokens are not taken", LimiterPolicy, "_take", "level.tokens -= tokens", "pass"),
     test_no_more_is_let_through_than_the_bucket_holds_and_what_flows_in),
    (Defect("the wait is not drawn", Backoff, "failed", "self._random() * ", ""),
     test_streams_that_are_cut_at_once_come_back_spread_and_once),
]  # fmt: skip


@pytest.mark.parametrize(("defect", "test"), DEFECTS, ids=[str(row[0]) for row in DEFECTS])
def test_planted_defect_is_found(defect: Defect, test: Callable[[int], None]) -> None:
    with planted(defect), pytest.raises(AssertionError):
        for seed in SEEDS:
            test(seed)
