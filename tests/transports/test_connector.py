"""Names whose servers fail: what they said last is true for a while (FLT-N13, RFC 8767).

The resolver is the test's; the connections are real.
"""

from __future__ import annotations

import _socket
import gc
import weakref
from collections.abc import Iterator

import gevent
import gevent.event
import pytest

from proxy_actors.errors import ConnectError, ConnectFault
from proxy_actors.transports import connector
from proxy_actors.world.base import Listener
from proxy_actors.world.gevent_world import GeventWorld
from tests.contracts.staging import pass_time

NAME = "victim.example"
FAILS = _socket.gaierror(_socket.EAI_FAIL, "the server failed")
NO_SUCH_NAME = _socket.gaierror(_socket.EAI_NONAME, "no such name")


class Resolver:
    """Says what the test has it say: an error, or that the name is on the loopback; or nothing."""

    def __init__(self) -> None:
        self.says: Exception | None = None
        self.silent = False
        self.never = gevent.event.Event()

    def getaddrinfo(self, host: str, port: int, *_: object) -> list[object]:
        if self.silent:
            self.never.wait()
        if self.says is not None:
            raise type(self.says)(*self.says.args)
        return [(_socket.AF_INET, _socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


@pytest.fixture
def world() -> GeventWorld:
    return GeventWorld()


@pytest.fixture
def resolver(world: GeventWorld, monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    resolver = Resolver()
    monkeypatch.setattr(gevent.get_hub(), "resolver", resolver)
    yield resolver
    resolver.silent = False
    resolver.never.set()
    pass_time(world)


@pytest.fixture
def listener(world: GeventWorld) -> Iterator[Listener]:
    listener = world.listen("127.0.0.1", 0, lambda stream: stream.close())
    yield listener
    listener.close()


def reach(world: GeventWorld, listener: Listener, patience_s: float = 20.0) -> None:
    world.connect(NAME, listener.address[1], world.now_s() + patience_s).close()


def test_address_of_before_is_used_while_the_name_servers_fail(
    world: GeventWorld, listener: Listener, resolver: Resolver, caplog: pytest.LogCaptureFixture
) -> None:
    reach(world, listener)
    resolver.says = FAILS
    reach(world, listener)
    assert "addresses_are_old host=victim.example" in caplog.text


def test_address_of_before_is_used_when_nobody_answers(
    world: GeventWorld,
    listener: Listener,
    resolver: Resolver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connector, "STALE_AFTER_S", 0.06)
    reach(world, listener)
    resolver.silent = True
    reach(world, listener, patience_s=float("inf"))


def test_name_that_is_no_more_is_not_remembered(
    world: GeventWorld, listener: Listener, resolver: Resolver
) -> None:
    """An answer, if not the one that was hoped for: another may have the address now."""
    reach(world, listener)
    resolver.says = NO_SUCH_NAME
    with pytest.raises(ConnectError) as raised:
        reach(world, listener)
    assert raised.value.fault is ConnectFault.UNKNOWN_NAME


def test_name_that_was_never_known_cannot_be_remembered(
    world: GeventWorld, listener: Listener, resolver: Resolver
) -> None:
    resolver.says = FAILS
    with pytest.raises(ConnectError):
        reach(world, listener)


def test_error_of_a_look_up_is_freed_at_its_end(
    world: GeventWorld, listener: Listener, resolver: Resolver
) -> None:
    resolver.says = FAILS
    causes: list[weakref.ref[BaseException]] = []
    gc.disable()
    try:
        try:
            reach(world, listener)
        except ConnectError as error:
            assert error.__cause__ is not None
            causes.append(weakref.ref(error.__cause__))
        pass_time(world)  # whoever has woken this greenlet is to end, too
        assert [cause() for cause in causes] == [None]
    finally:
        gc.enable()


def test_address_is_forgotten_in_time(
    world: GeventWorld,
    listener: Listener,
    resolver: Resolver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reach(world, listener)
    resolver.says = FAILS
    monkeypatch.setattr(connector, "STALE_S_MAX", 0.0)
    with pytest.raises(ConnectError):
        reach(world, listener)


def test_only_so_many_names_are_remembered(
    world: GeventWorld,
    listener: Listener,
    resolver: Resolver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one that was found longest ago goes."""
    monkeypatch.setattr(connector, "STALE_NAMES_MAX", 2)
    reach(world, listener)
    for other in ("one.example", "two.example"):
        world.connect(other, listener.address[1], world.now_s() + 20.0).close()
    resolver.says = FAILS
    with pytest.raises(ConnectError):
        reach(world, listener)
