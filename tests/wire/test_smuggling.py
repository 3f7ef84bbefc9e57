"""Request smuggling, through a real proxy to a real upstream: C8, HTTP-H1 to H21.

For each payload, either the connection is refused and closed, or the upstream sees exactly the
requests and bodies that RFC 9112 framing gives, each framed in the one way that the proxy frames.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sim.virtual import Answer, call
from tests.wire.proxy_process import ProxyProcess, running
from tests.wire.smuggling import HIDDEN, SESSION, Payload, payloads
from tests.wire.socket_upstream import SocketUpstream

PAYLOADS = list(payloads())
FRAMING = ("content-length", "transfer-encoding", "te", "trailer", "connection", "upgrade")


@pytest.fixture(scope="module")
def upstream() -> Iterator[SocketUpstream]:
    with SocketUpstream(sessions=False) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def proxy(upstream: SocketUpstream) -> Iterator[ProxyProcess]:
    with running(upstream.url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def session(proxy: ProxyProcess) -> bytes:
    session = proxy.session_id().encode()
    assert len(session) == len(SESSION)
    return session


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: payload.name)
def test_upstream_sees_what_the_framing_gives(
    proxy: ProxyProcess, upstream: SocketUpstream, session: bytes, payload: Payload
) -> None:
    upstream.server.seen.clear()
    answers = answers_to(proxy, payload.data.replace(SESSION, session))
    served = [answer.message["id"] for answer in answers if is_result(answer)]
    assert served == list(payload.served)
    if payload.refused:
        assert answers[-1].status is not None and answers[-1].status >= 400
        assert not answers[-1].keep_alive
    seen = upstream.server.seen
    assert [request.body for request in seen] == [call(n) for n in payload.served]
    for request in seen:
        framing = [name.replace("_", "-") for name, _ in request.fields]
        assert [name for name in framing if name in FRAMING] == ["content-length"]


def answers_to(proxy: ProxyProcess, data: bytes) -> list[Answer]:
    """Send all, end, and read every answer to the end of the connection."""
    answers = []
    with proxy.wire() as wire:
        wire.send_what_is_taken(data)
        wire.end()
        while True:
            # No answer here has a body that an answer to HEAD would lack, but for HEAD's own.
            method = "HEAD" if data.startswith(b"HEAD ") and not answers else "POST"
            answer = wire.answer(method)
            if answer.status is None:
                return answers
            assert answer.complete
            answers.append(answer)


def is_result(answer: Answer) -> bool:
    return answer.status == 200 and b'"result"' in answer.body


def test_list_is_long_and_each_of_its_own() -> None:
    """At least 60 payloads; most hide a call, and the hidden one is never served."""
    assert len({payload.data for payload in PAYLOADS}) == len(PAYLOADS) >= 60
    assert len({payload.name for payload in PAYLOADS}) == len(PAYLOADS)
    assert not any(HIDDEN in payload.served for payload in PAYLOADS)
    hiding = [x for x in PAYLOADS if b'"n": %d' % HIDDEN in x.data]
    assert len(hiding) >= 60
