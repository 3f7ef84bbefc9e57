"""The real statsd server shows the figures that the traffic made, to the last one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from peers.statsd_server import StatsdServer, statsd_server
from wire.proxy_process import ProxyProcess, running
from wire.socket_upstream import SocketUpstream
from wire.waiting import eventually

from proxy_actors import metrics
from proxy_actors.metrics import METRICS, Kind
from proxy_actors.transports.guardian import ProcessTable
from tests.sim.virtual import call, initialize, note, request

CALLS, TOOL_ERRORS, FAILED, REFUSED = 12, 3, 2, 5
WEB = "p.upstream.web"
CALLED = f"{WEB}.method.tools_call"
FILES = "p.upstream.files"

# What the traffic below has no occasion for. That of streams is counted in tests/gateway.
NOT_SEEN = {
    metrics.LIMITS_SHARED, metrics.ACTOR_UNDELIVERED, metrics.ACTOR_RESTARTS,
    metrics.PROCESS_LOG_DROPPED, metrics.STREAMS_REFUSED, metrics.STREAMS_RESUMED,
    metrics.STREAMS_GONE, metrics.STREAMS_CUT, metrics.STREAMS_CLOSED_EARLY, metrics.EVENTS_SENT,
    metrics.EVENTS_REPLAYED, metrics.EVENTS_LOST, metrics.EVENTS_UNSTORED, metrics.RINGS_TAKEN,
    metrics.HTTP_REFUSED, metrics.POOL_SHED, metrics.RETRIES, metrics.RETRIES_REFUSED,
    metrics.BREAKER_OPENED, metrics.BREAKER_HALF_OPENED, metrics.BREAKER_CLOSED,
    metrics.ENDPOINT_EJECTIONS, metrics.CHECKS_WELL, metrics.CHECKS_FAILED,
}  # fmt: skip


@pytest.fixture(scope="module")
def statsd(node_parts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StatsdServer]:
    with statsd_server(tmp_path_factory.mktemp("statsd")) as server:
        yield server


def configuration(statsd: StatsdServer, upstream: SocketUpstream) -> str:
    return f"""
        [upstreams.web]
        url = "{upstream.url}"
        [upstreams.files]
        command = ["{sys.executable}", "-m", "proxy_actors.demo"]
        stdio = "shared"
        [[rate-limits.rules]]
        name = "calls"
        upstream = "web"
        method = "tools/call"
        rate = 0.001
        burst = {CALLS}
        [streams]
        age-s-max = 1
        [metrics]
        statsd = "{statsd.address}"
        prefix = "p"
        flush-interval-s = 0.2
    """


def make_calls(proxy: ProxyProcess) -> str:
    """Call tools at the web upstream until some calls are refused; return the session."""
    with proxy.wire() as wire:
        opened = wire.ask(request(initialize(), path="/mcp/web"))
        session = (opened.field(b"mcp-session-id") or b"").decode()
        statuses = []
        for n in range(CALLS + REFUSED):
            steps = ["json"]
            if n < TOOL_ERRORS:
                steps = ["tool-error", "json"]
            elif n < TOOL_ERRORS + FAILED:
                steps = ["error 200 -32602"]
            body = call(n, *steps)
            statuses.append(wire.ask(request(body, session=session, path="/mcp/web")).status)
    assert statuses == [200] * CALLS + [429] * REFUSED
    return session


def kill_child(proxy: ProxyProcess) -> None:
    """Kill the server process, and wait for its successor."""
    _, child = ProcessTable().descendants(proxy.process.pid)
    os.kill(child, signal.SIGKILL)

    def replaced() -> bool:
        _, *others = ProcessTable().descendants(proxy.process.pid)
        return bool(others) and child not in others

    eventually(replaced)


def is_ready(proxy: ProxyProcess) -> bool:
    with proxy.wire() as wire:
        said = wire.ask(request(None, "GET", path="/ready"), "GET").message
        return bool(said["upstreams"] == {"web": "ready", "files": "ready"})


def test_figures_are_those_that_the_traffic_made(statsd: StatsdServer, tmp_path: Path) -> None:
    """Calls, failed tools, errors, refusals, a killed child: exactly; and every metric is seen."""
    file = tmp_path / "config.toml"
    with SocketUpstream() as upstream:
        file.write_text(configuration(statsd, upstream))
        with running("--config", str(file)) as proxy:
            eventually(lambda: is_ready(proxy))
            session = make_calls(proxy)
            with proxy.wire() as wire:
                body = note("notifications/initialized")
                wire.ask(request(body, session=session, path="/mcp/web"))
                wire.ask(request(b"{", session=session, path="/mcp/web"))
                wire.ask(request(None, "GET", path="/nowhere"), "GET")
            kill_child(proxy)
            eventually(lambda: is_ready(proxy))
            with proxy.wire() as listener:
                listener.send(request(None, "GET", session, "/mcp/web"))
                eventually(lambda: statsd.gauges().get(f"{WEB}.streams") == 1)
                assert statsd.gauges()[f"{WEB}.pool.streaming"] == 1
                assert statsd.gauges()["p.http.connections"] == 1
            eventually(lambda: statsd.gauges()[f"{WEB}.streams"] == 0)
            check_gauges(statsd.gauges())
            proxy.process.terminate()
            assert proxy.wait() == 0
    counters, timers = statsd.counters(), statsd.timers()
    check_counters(counters)
    assert len(timers[f"{CALLED}.latency"]) == CALLS + REFUSED
    assert len(timers[f"{CALLED}.first_byte"]) == CALLS
    assert 1 <= len(timers[f"{CALLED}.queue"]) <= CALLS
    assert timers[f"{WEB}.connect"]
    seen = {Kind.COUNTER: counters, Kind.GAUGE: statsd.gauges(), Kind.TIMER: timers}
    missing = {x for x in METRICS if not any(is_of(name, x.template) for name in seen[x.kind])}
    assert missing - {metrics.HTTP_PAUSED} == NOT_SEEN  # a machine may be slow
    known = [x.template for x in METRICS]
    for name in set().union(*seen.values()):
        if name.startswith("p."):
            assert any(is_of(name, template) for template in known), name
    assert session not in str(seen)


def check_counters(counters: dict[str, float]) -> None:
    wanted = {
        f"{CALLED}.requests": CALLS + REFUSED,
        f"{CALLED}.errors": FAILED + REFUSED,
        f"{CALLED}.tool_errors": TOOL_ERRORS,
        f"{WEB}.method.initialize.requests": 1,
        f"{WEB}.method.notifications_initialized.requests": 1,
        f"{WEB}.method._unread.requests": 1,
        f"{WEB}.method._unread.errors": 1,
        f"{WEB}.method._listen.requests": 1,
        f"{WEB}.errors.json-rpc": FAILED,
        f"{WEB}.errors.rate-limited": REFUSED,
        f"{WEB}.errors.refused": 1,
        "p.limits.calls.refused": REFUSED,
        "p.limits.calls.taken": CALLS,
        "p.limits.initialize.taken": 1,
        f"{FILES}.stdio.started": 2,
        f"{FILES}.stdio.crashed": 1,
        f"{FILES}.stdio.restarted": 1,
        "p.http.responses.4xx": REFUSED + 2,
    }
    assert {name: counters.get(name) for name in wanted} == wanted
    assert f"{WEB}.method.initialize.errors" not in counters
    # Nothing that is not told above was counted of the web upstream.
    calls = {x for x in counters if x.startswith(f"{WEB}.") and not x.endswith(".latency")}
    assert calls == {x for x in wanted if x.startswith(f"{WEB}.")}


def check_gauges(gauges: dict[str, float]) -> None:
    wanted = {
        f"{WEB}.ready": 1, f"{FILES}.ready": 1, f"{FILES}.stdio.running": 1,
        f"{FILES}.stdio.starting": 0, "p.sessions.live": 1, f"{WEB}.pool.waiting": 0,
        "p.actor.Root.count": 1, "p.actor.StdioProcess.count": 1, "p.actor.Metrics.count": 1,
    }  # fmt: skip
    assert {name: gauges.get(name) for name in wanted} == wanted
    assert gauges["p.process.rss"] > 10_000_000
    assert gauges["p.process.fds"] > 5


def is_of(name: str, template: str) -> bool:
    """Whether a name is one of a metric's."""
    parts, wanted = name.split(".")[1:], template.split(".")
    return len(parts) == len(wanted) and all(
        want.startswith("{") or part == want for part, want in zip(parts, wanted)
    )
