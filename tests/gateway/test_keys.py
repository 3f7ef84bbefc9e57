"""Whose request it is: API keys, and what becomes of wrong ones. MCP-A-8, A-10, Z-1; THR-T5."""

from __future__ import annotations

import hashlib

import pytest

from proxy_actors.gateway.keys import Identity, Keyring
from proxy_actors.gateway.limits import Rate
from proxy_actors.protocol.headers import Fields
from tests.gateway.scene import Scene
from tests.sim.virtual import call, initialize, request

SECRET = "pa_0123456789abcdefghijklmnopqrstuv"
ANN = Identity("ann", "gold")
KEYRING = Keyring({hashlib.sha256(SECRET.encode()).digest(): ANN})
CLOSED = Keyring({hashlib.sha256(SECRET.encode()).digest(): ANN}, anonymous=False)


@pytest.mark.parametrize(
    ("fields", "principal"),
    [
        ([], "anonymous"),
        ([(b"authorization", b"Bearer " + SECRET.encode())], "ann"),
        ([(b"authorization", b"bearer   " + SECRET.encode())], "ann"),
        ([(b"x-api-key", SECRET.encode())], "ann"),
        ([(b"x-api-key", b"wrong")], None),
        ([(b"x-api-key", b"")], None),
        ([(b"authorization", b"Bearer wrong")], None),
        ([(b"authorization", b"Basic " + SECRET.encode())], None),
        ([(b"authorization", SECRET.encode())], None),
        ([(b"x-api-key", SECRET.encode()), (b"x-api-key", SECRET.encode())], None),
        ([(b"x-api-key", SECRET.encode()), (b"authorization", b"Bearer wrong")], None),
        ([(b"x-api-key", SECRET.encode() * 1000)], None),
        ([(b"x-api-key", SECRET.upper().encode())], None),
        ([(b"cookie", SECRET.encode())], "anonymous"),
    ],
)
def test_key_says_whose_request_it_is(fields: Fields, principal: str | None) -> None:
    identity = KEYRING.identify(fields)
    assert (None if identity is None else identity.principal) == principal


def test_without_keys_what_is_shown_is_not_looked_at() -> None:
    identity = Keyring().identify([(b"authorization", b"Bearer anything")])
    assert identity == Identity("anonymous")


def test_key_is_needed_when_anonymous_requests_are_not_served() -> None:
    scene = Scene(keyring=CLOSED)
    answer = scene.ask(request(initialize()))
    assert answer.status == 401
    assert answer.field(b"www-authenticate") == b'Bearer realm="mcp"'
    assert answer.error["data"]["reason"] == "unauthorized"
    assert answer.message["id"] == 0
    fields: dict[str, str | None] = {"Authorization": f"Bearer {SECRET}"}
    assert scene.ask(request(initialize(), fields=fields)).status == 200
    assert scene.ask(request(None, "GET", path="/health"), method="GET").status == 200


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_wrong_key_is_401_whatever_the_method(method: str) -> None:
    """MCP-A-3, A-10: and nothing is looked up for it."""
    scene = Scene(keyring=KEYRING)
    session = scene.session()
    before = len(scene.server.seen)
    body = call(1) if method == "POST" else None
    fields: dict[str, str | None] = {"X-API-Key": "wrong"}
    answer = scene.ask(request(body, method, session, fields=fields), method=method)
    assert answer.status == 401
    assert answer.field(b"www-authenticate") == b'Bearer realm="mcp", error="invalid_token"'
    assert len(scene.server.seen) == before


def test_session_is_its_principals_alone() -> None:
    """MCP-Z-1."""
    scene = Scene(keyring=KEYRING)
    theirs: dict[str, str | None] = {"X-API-Key": SECRET}
    answer = scene.ask(request(initialize(), fields=theirs))
    session = (answer.field(b"mcp-session-id") or b"").decode()
    assert scene.ask(request(call(1), session=session)).status == 404
    assert scene.ask(request(call(1), session=session, fields=theirs)).status == 200


def test_key_is_not_sent_on() -> None:
    """THR-T9."""
    scene = Scene(keyring=KEYRING)
    fields: dict[str, str | None] = {"X-API-Key": SECRET}
    scene.ask(request(initialize(), fields=fields))
    fields = {"Authorization": f"Bearer {SECRET}"}
    scene.ask(request(initialize(), fields=fields))
    sent = [value for seen in scene.server.seen for _, value in seen.fields]
    assert sent and not [value for value in sent if SECRET in value]


def test_wrong_keys_are_limited_by_address_and_right_ones_are_not() -> None:
    keyring = Keyring(
        {hashlib.sha256(SECRET.encode()).digest(): ANN}, failures=Rate(0.001, 3)
    )
    scene = Scene(keyring=keyring)

    def status(key: str) -> int | None:
        fields: dict[str, str | None] = {"X-API-Key": key}
        return scene.ask(request(call(1), session="v1.0.x", fields=fields)).status

    assert [status(f"wrong-{n}") for n in range(5)] == [401, 401, 401, 429, 429]
    assert status(SECRET) == 404
    assert scene.ask(request(initialize())).status == 200


def test_missing_key_is_not_counted_as_a_wrong_one() -> None:
    keyring = Keyring(
        {hashlib.sha256(SECRET.encode()).digest(): ANN}, anonymous=False, failures=Rate(0.001, 2)
    )
    scene = Scene(keyring=keyring)
    assert [scene.ask(request(initialize())).status for _ in range(5)] == [401] * 5
