"""The metrics actor in a whole data plane: what arrives, and that nothing depends on it."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

from proxy_actors.actors import metrics as module
from proxy_actors.actors.metrics import Metrics, StatsdTarget
from proxy_actors.messages.lifecycle import Stop
from proxy_actors.messages.metrics import FlushDue
from proxy_actors.metrics import Figure, Kind
from proxy_actors.policy.metrics import REOPEN_S, REST_S, RETRY_S
from proxy_actors.world.sim_metrics import SimSink
from tests.defects import Defect, planted
from tests.gateway.scene import Scene
from tests.plane import UPSTREAM
from tests.sim.virtual import call, request

TARGET = StatsdTarget("localhost", 8125, "prefix")


class Statsd:
    """What a server would have made of all that came."""

    def __init__(self, *sinks: SimSink) -> None:
        self.counters: Counter[str] = Counter()
        self.gauges: dict[str, float] = {}
        self.times: Counter[str] = Counter()
        for sink in sinks:
            for flush in sink.flushes:
                for figure in flush:
                    self._take(figure)

    def _take(self, figure: Figure) -> None:
        match figure.kind:
            case Kind.COUNTER:
                self.counters[figure.name] += int(figure.values[0])
            case Kind.GAUGE:
                self.gauges[figure.name] = figure.values[0]
            case Kind.TIMER:
                self.times[figure.name] += round(len(figure.values) / figure.rate)


def of(method: str, name: str) -> str:
    return f"upstream.{UPSTREAM}.method.{method}.{name}"


@pytest.mark.parametrize("seed", range(20))
def test_figures_are_those_that_the_traffic_made(seed: int) -> None:
    """Whatever the order of things: each request is counted once, over all flushes together."""
    scene = Scene(seed, statsd=TARGET)
    session = scene.session()
    for n in range(30):
        steps = ["tool-error"] if n % 5 == 0 else []
        steps += ["error 200 -32601"] if n % 10 == 1 else ["json"]
        scene.ask(request(call(n, *steps), session=session))
        scene.run(0.3)
    scene.run(3.0)
    (sink,) = scene.sinks
    assert sink.prefix == "prefix"
    seen = Statsd(sink)
    assert seen.counters[of("tools_call", "requests")] == 30
    assert seen.counters[of("tools_call", "tool_errors")] == 6
    assert seen.counters[of("tools_call", "errors")] == 3
    assert seen.times[of("tools_call", "latency")] == 30
    assert seen.counters[f"upstream.{UPSTREAM}.errors.json-rpc"] == 3
    assert seen.counters["http.responses.2xx"] == 31
    assert seen.gauges["sessions.live"] == 1
    assert seen.gauges["actor.Metrics.count"] == seen.gauges["actor.Root.count"] == 1
    assert seen.gauges[f"upstream.{UPSTREAM}.pool.idle"] == 1
    assert seen.gauges[f"upstream.{UPSTREAM}.ready"] == 1
    assert seen.times["hub.lag"] > 50
    assert seen.counters["actor.SessionRegistry.restarts"] == 0
    assert len(sink.flushes) >= 10
    scene.rest()


def test_counts_of_the_last_moment_are_sent_at_the_end() -> None:
    scene = Scene(statsd=StatsdTarget("localhost", 8125, "prefix", interval_s=3600.0))
    session = scene.session()
    scene.ask(request(call(1), session=session))
    (sink,) = scene.sinks
    assert sink.flushes == []
    scene.plane.root.tell(Stop())
    scene.run(20.0)
    assert Statsd(sink).counters[of("tools_call", "requests")] == 1
    assert scene.sinks == [], "the sink was left open"
    assert not scene.tasks(), scene.tasks()
    assert not scene.errors


def test_proxy_serves_while_there_is_no_statsd(caplog: pytest.LogCaptureFixture) -> None:
    """It says so once, and tries again; what was counted meanwhile is not told later."""
    caplog.set_level(logging.INFO, "proxy_actors.metrics")
    scene = Scene(statsd=StatsdTarget("nowhere.invalid", 8125, "prefix"))
    session = scene.session()
    assert scene.ask(request(call(1), session=session)).status == 200
    scene.run(10 * RETRY_S)
    assert scene.sinks == []
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("statsd_not_reached error=")
    assert "nowhere.invalid" in record.getMessage()
    scene.rest()


def test_statsd_that_appears_is_found(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "proxy_actors.metrics")
    scene = Scene(statsd=StatsdTarget("later.invalid", 8125, "prefix"))
    session = scene.session()
    scene.run(2 * RETRY_S)
    scene.hosts.add("later.invalid")
    scene.run(2 * RETRY_S)
    (sink,) = scene.sinks
    scene.ask(request(call(1), session=session))
    scene.run(10.0)
    counters = Statsd(sink).counters
    assert counters[of("initialize", "requests")] == 0, "told later"
    assert counters[of("tools_call", "requests")] == 1
    assert [x.getMessage().split()[0] for x in caplog.records] == [
        "statsd_not_reached", "statsd_reached_again",
    ]  # fmt: skip


def test_packets_that_were_lost_are_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "proxy_actors.metrics")
    scene = Scene(statsd=TARGET)
    (sink,) = scene.sinks
    sink.failing = "full"
    scene.run(5.0)
    sink.failing = ""
    scene.run(5.0)
    assert 4 <= Statsd(sink).gauges["metrics.packets_lost"] <= 6
    assert [x.getMessage() for x in caplog.records] == [
        "statsd_not_reached error='full'", "statsd_reached_again",
    ]  # fmt: skip


def test_name_is_looked_up_again_now_and_then() -> None:
    """The old sink is used until there is another, and then closed."""
    scene = Scene(statsd=TARGET)
    (first,) = scene.sinks
    scene.run(REOPEN_S + 5.0)
    (second,) = scene.sinks
    assert second is not first and first.flushes and second.flushes
    scene.run(REOPEN_S + 5.0)
    assert len(scene.sinks) == 1


CRASH = Defect("crash", Metrics, "on_receive", "self._apply(", "assert not message, (")


@pytest.mark.parametrize("seed", range(10))
def test_crash_of_metrics_loses_no_count(seed: int) -> None:
    """What was counted waits for the successor, who tells nothing twice; no sink is left open."""
    scene = Scene(seed, statsd=TARGET)
    session = scene.session()
    scene.run(5.0)
    (first,) = scene.sinks
    ref = scene.plane.metrics.ref
    assert ref is not None
    with planted(CRASH):
        ref.tell(FlushDue())
        assert scene.run_until(lambda: not ref.is_alive(), 10.0)
    assert scene.ask(request(call(1), session=session)).status == 200
    scene.run(REST_S + 5.0)
    (second,) = scene.sinks
    assert second is not first
    seen = Statsd(first, second)
    assert seen.counters[of("tools_call", "requests")] == 1
    assert seen.counters[of("initialize", "requests")] == 1
    assert seen.counters["actor.SessionRegistry.restarts"] == 0
    assert seen.gauges["actor.Metrics.count"] == 1
    scene.rest()


def test_metrics_that_crash_for_ever_harm_nobody() -> None:
    """Each incarnation rests for so long that nobody above gives it up."""
    scene = Scene(statsd=TARGET)
    with planted(CRASH):
        session = scene.session()
        for n in range(20):
            assert scene.ask(request(call(n), session=session)).status == 200
            scene.run(REST_S)
    assert scene.plane.metrics.starts > 10
    assert scene.plane.root.ref is not None and scene.plane.root.ref.is_alive()
    scene.run(2 * REST_S)
    assert len(scene.sinks) == 1
    scene.rest()


def test_restart_of_an_actor_is_counted() -> None:
    """It is that of its kind; its successor counts from nothing."""
    scene = Scene(statsd=TARGET)
    scene.run(3.0)
    limiter = scene.plane.limiter.ref
    assert limiter is not None
    limiter.tell(FlushDue())  # which it does not know
    scene.run(3.0)
    (sink,) = scene.sinks
    assert Statsd(sink).counters["actor.Limiter.restarts"] == 1
    scene.errors.clear()


def test_walk_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large tree does not hold up who else runs: nobody answers more than so many at once."""
    monkeypatch.setattr(module, "ASKED_AT_ONCE", 2)
    gave_way = []
    give_way = Metrics._give_way
    monkeypatch.setattr(Metrics, "_give_way", lambda x: (gave_way.append(1), give_way(x)))
    scene = Scene(statsd=TARGET)
    scene.run(1.5)
    (sink,) = scene.sinks
    assert len(gave_way) >= 3
    assert Statsd(sink).gauges["actor.ConnectionPool.count"] == 1
    assert not scene.errors
