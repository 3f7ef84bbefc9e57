"""The access log: one line a request, off by default, and nothing of a client's in it.

THR-T14: no body, header, session id or query.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from proxy_actors.gateway.exchange import Exchange
from proxy_actors.gateway.response import Response
from tests.gateway.scene import Scene
from tests.sim.virtual import call, note, request

LINE = re.compile(
    r"request_served request=[0-9a-f]+ peer=127.0.0.1 principal=anonymous upstream=(\S+) "
    r"http=(\S+) mcp=(\S+) status=(\d+) seconds=\d+\.\d{4}"
)

NAMED = re.compile(r" request=([0-9a-f]+)")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [x.getMessage() for x in caplog.records if x.name == "proxy_actors.access"]


def send(scene: Scene, session: str) -> None:
    scene.ask(request(call(1, method="canary/secret" * 20), session=session))
    scene.ask(request(note("notifications/initialized"), session=session))
    scene.ask(request(None, "GET", path="/health?token=canary"), method="GET")
    scene.ask(request(call(2), session="v1.0.canary-unknown"))
    scene.ask(request(call(1, "sse", "note", "answer", "end"), session=session))


def test_every_request_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    scene = Scene()
    scene.plane.wiring.access_log = True
    session = scene.session()
    send(scene, session)
    matches = [LINE.fullmatch(line) for line in lines(caplog)]
    assert None not in matches, lines(caplog)
    told: list[Any] = [match.groups() for match in matches if match]
    assert [(x[0], x[1], x[3]) for x in told] == [
        ("default", "POST", "200"), ("default", "POST", "200"), ("default", "POST", "202"),
        ("-", "GET", "200"), ("default", "POST", "404"), ("default", "POST", "200"),
    ]
    assert told[0][2] == "initialize"
    assert len(told[1][2]) == 64
    text = "".join(lines(caplog))
    assert session not in text and "token" not in text and "unknown" not in text


def test_it_is_off_by_default(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    scene = Scene()
    send(scene, scene.session())
    assert lines(caplog) == []


def test_whatever_is_logged_of_a_request_names_it(caplog: pytest.LogCaptureFixture) -> None:
    """So that the id of an error leads to all that there is about it."""
    scene = Scene()
    scene.plane.wiring.access_log = True
    caplog.set_level("INFO")
    session = scene.session()
    created, *_ = [x.getMessage() for x in caplog.records if "session_created" in x.getMessage()]
    assert NAMED.findall(created)
    caplog.clear()
    dropped = scene.ask(request(call(1, "sse", "note", "event {nope", "close"), session=session))

    def fail(exchange: Exchange) -> Response:
        raise LookupError("planted")

    scene.plane.forwarder.call = fail  # type: ignore[method-assign]
    failed = scene.ask(request(call(2), session=session))
    told = [(x.getMessage().split()[0], NAMED.findall(x.getMessage())) for x in caplog.records]
    first, second = (answer.error["data"]["requestId"] for answer in (dropped, failed))
    assert told == [
        ("event_dropped", [first]), ("upstream_failed", [first]), ("request_served", [first]),
        ("request_failed", [second]), ("request_served", [second]),
    ]
