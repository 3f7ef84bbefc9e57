"""A channel that ends cuts all calls on it short: to the guard that is one failure.

FLT-U1; RELIABILITY 1.2. Calls whose clients wait for the first word are told by their failures;
those that have become streams, by nobody but the channel.
"""

from __future__ import annotations

from typing import Any

import pytest

from proxy_actors.config.resilience import Breaker, Retries
from proxy_actors.options import StdioMode, Transport
from proxy_actors.policy.breakers import WHOLE
from tests.gateway.channel_scene import COMMAND, OLD_URL, ChannelScene, called

SHARED = {"command": COMMAND, "stdio": StdioMode.SHARED}
OLD = {"url": OLD_URL, "transport": Transport.SSE}
FOUND = {"url": OLD_URL, "transport": Transport.AUTO}


def scene_of(settings: dict[str, Any]) -> ChannelScene:
    return ChannelScene(retries=Retries(attempts_max=0), breaker=Breaker(), **settings)


def failures(scene: ChannelScene) -> int:
    """How many the endpoint's breaker has counted."""
    guard = scene.forwarder._guard.ref
    assert guard is not None
    (breakers,) = vars(guard._own)["_breakers"]._breakers.values()
    return int(breakers._breakers[WHOLE]._failures)


def streaming(n: int, *steps: str) -> Any:
    return called(n, "note", *steps)


@pytest.mark.parametrize("others", [0, 1, 3])
def test_process_that_ends_with_streams_has_failed_once(others: int) -> None:
    scene = scene_of(SHARED)
    answers = scene.begin(*[streaming(n) for n in range(others)], streaming(9, "end"))
    assert len(answers) == others + 1
    assert all(x.error["data"]["executed"] == "unknown" for x in answers)
    assert failures(scene) == 1
    assert not scene.errors


def test_process_that_ends_with_streams_and_other_calls_has_failed_once() -> None:
    scene = scene_of(SHARED)
    answers = scene.begin(streaming(1), streaming(2), called(3, "end"))
    assert len(answers) == 3
    assert failures(scene) == 1


def test_process_that_ends_with_nothing_in_hand_has_not_failed() -> None:
    """Of the answers that are streams the clients have all."""
    scene = scene_of(SHARED)
    assert scene.call(1, "note", "answer", "end").message["result"]
    scene.run(1.0)
    assert failures(scene) == 0


@pytest.mark.parametrize("settings", [OLD, FOUND], ids=["sse", "auto"])
def test_session_of_an_old_server_that_ends_with_streams_has_failed_once(
    settings: dict[str, Any]
) -> None:
    scene = scene_of(settings)
    hanging = [streaming(n, "nothing") for n in range(3)]
    answers = scene.begin(*hanging)
    assert not answers and failures(scene) == 0
    scene.do(lambda: scene.old.session.link.reset())
    scene.run(1.0)
    assert len(answers) == 3
    assert failures(scene) == 1


@pytest.mark.parametrize("settings", [OLD, FOUND], ids=["sse", "auto"])
def test_session_that_its_client_ends_has_not_failed(settings: dict[str, Any]) -> None:
    scene = scene_of(settings)
    answers = scene.begin(streaming(1, "nothing"))
    assert scene.ask(None, "DELETE").status in (200, 204)
    scene.run(5.0)
    assert len(answers) == 1
    assert failures(scene) == 0
