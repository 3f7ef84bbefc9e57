"""What the data plane counts is taken once, and is bounded however much it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy_actors import metrics
from proxy_actors.actors.meters import OTHER, SAMPLES_MAX, Meters, Samples, UpstreamMeters
from proxy_actors.metrics import Row
from proxy_actors.protocol.revisions import CLIENT_METHODS


def taken(samples: Samples) -> Row | None:
    return next(iter(samples.take(metrics.CONNECT, "web")), None)


@given(st.integers(0, 5000))
def test_times_stand_for_all_that_there_were(count: int) -> None:
    """Few enough to be sent, evenly from all, and their share is a power of two."""
    samples = Samples()
    for number in range(1, count + 1):
        samples.add(number / 1000)
    row = taken(samples)
    assert taken(samples) is None
    if row is None:
        assert count == 0
        return
    stride = round(1 / row.rate)
    assert stride & (stride - 1) == 0
    assert row.values == pytest.approx([n for n in range(1, count + 1) if n % stride == 0])
    assert len(row.values) <= SAMPLES_MAX < (len(row.values) + 1) * 2 or stride == 1
    assert count - stride < len(row.values) * stride <= count


def test_times_begin_anew_when_taken() -> None:
    samples = Samples()
    for _ in range(SAMPLES_MAX * 4):
        samples.add(1.0)
    assert taken(samples) is not None
    samples.add(0.002)
    assert taken(samples) == Row(metrics.CONNECT, ("web",), (2.0,), 1.0)


def test_method_that_a_client_made_up_has_no_name() -> None:
    """RELIABILITY THR-T18."""
    meters = UpstreamMeters()
    for method in (*CLIENT_METHODS, "tools/evil:1|c\n", "", "x" * 1000):
        meters.of(method).requests += 1
    rows = {row.labels[1]: row.values for row in meters.take("web")}
    assert rows == {**dict.fromkeys(CLIENT_METHODS, (1,)), OTHER: (3,)}


def test_everything_is_taken_once() -> None:
    meters = Meters()
    assert meters.take() == []
    upstream = meters.upstream("web")
    assert meters.upstream("web") is upstream
    meter = upstream.of("tools/call")
    meter.requests, meter.errors, meter.tool_errors = 3, 2, 1
    meter.latency.add(0.5)
    meter.queue.add(0.25)
    meter.first_byte.add(0.125)
    upstream.errors["json-rpc"] += 2
    upstream.connect.add(1.0)
    meters.answers[2] = 3
    meters.refused["calls"] += 4
    meters.lag.add(0.001)
    call = ("web", "tools/call")
    wanted = [
        Row(metrics.HTTP_RESPONSES, ("2xx",), (3,)),
        Row(metrics.LIMITS_REFUSED, ("calls",), (4,)),
        Row(metrics.HUB_LAG, (), (1.0,)),
        Row(metrics.REQUESTS, call, (3,)),
        Row(metrics.ERRORS, call, (2,)),
        Row(metrics.TOOL_ERRORS, call, (1,)),
        Row(metrics.LATENCY, call, (500.0,)),
        Row(metrics.QUEUE, call, (250.0,)),
        Row(metrics.FIRST_BYTE, call, (125.0,)),
        Row(metrics.UPSTREAM_ERRORS, ("web", "json-rpc"), (2,)),
        Row(metrics.CONNECT, ("web",), (1000.0,)),
    ]
    assert meters.take() == wanted
    assert meters.take() == []
