"""The contracts of the world's ports, run on the real world: sockets, pipes, clocks, children.

And what a simulation cannot show: the options of its sockets, and the other family of addresses.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

import gevent
import gevent.event
import pytest

from proxy_actors.errors import ConnectError
from proxy_actors.transports.guardian_client import GuardianClient
from proxy_actors.transports.socket_stream import SocketStream
from proxy_actors.world.base import World
from proxy_actors.world.gevent_world import GeventWorld
from tests.contracts.staging import Box, connected, pass_time, read_exactly, soon
from tests.contracts.suites import CONTRACTS, Contract

# Only ever waited out when a contract is broken.
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def guardian() -> Iterator[GuardianClient]:
    """Names are looked up as in production: by a resolver that holds up nobody."""
    gevent.config.resolver = "ares"
    guardian = GuardianClient.start()
    yield guardian
    guardian.close()


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS.keys())
def test_real_world_keeps(contract: Contract, guardian: GuardianClient) -> None:
    """What really happens must be able to happen in the simulator, and the reverse."""
    keep(contract, GeventWorld(guardian))


def test_what_a_contract_leaves_open_is_seen() -> None:
    """Else everything above would pass."""

    def leave_listener(world: World) -> None:
        left.append(world.listen("127.0.0.1", 0, lambda stream: stream.close()).close)

    def leave_greenlet(world: World) -> None:
        waiter = world.waiter()
        left.append(waiter.set)
        world.spawn("left behind", lambda: waiter.wait(soon(world)))

    left: list[Callable[[], object]] = []
    for contract, what in ((leave_listener, "socket:"), (leave_greenlet, "left behind")):
        with pytest.raises(AssertionError, match=what):
            keep(contract, GeventWorld())
    for end in left:
        end()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_small_writes_are_not_held_back_and_vanished_peers_are_noticed(host: str) -> None:
    """TCP_NODELAY on both sides, else an answer in two writes takes 40 ms; FLT-N3, FLT-C1."""

    def inspect(world: World) -> None:
        with connected(world, host) as ends:
            for stream in ends:
                assert isinstance(stream, SocketStream)
                assert stream.peer == host
                option = stream._socket.getsockopt
                assert option(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert option(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
                assert not stream._socket.getblocking()

    keep(inspect, GeventWorld())


def test_address_of_one_family_does_not_listen_on_the_other() -> None:
    """MCP-H-4: what was not asked for is not bound."""

    def inspect(world: World) -> None:
        listener = world.listen("::", 0, Box(world).tell)
        with pytest.raises(ConnectError):
            world.connect("127.0.0.1", listener.address[1], soon(world))
        listener.close()

    keep(inspect, GeventWorld())


def test_localhost_is_found_on_whichever_family_listens() -> None:
    """RFC 6761 section 6.3, and RFC 8305: one address that refuses is not the end."""

    def inspect(world: World) -> None:
        box = Box(world)
        listener = world.listen("::1", 0, box.tell)
        near = world.connect("localhost", listener.address[1], soon(world))
        far = box.wait_for(1)[0]
        far.write((b"here",), soon(world))
        assert read_exactly(world, near, 4) == b"here"
        near.close()
        far.close()
        listener.close()

    keep(inspect, GeventWorld())


def test_look_up_that_nobody_answers_ends_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others run meanwhile, and go on to; the sink of metrics is told that there is no address."""
    never = gevent.event.Event()

    class Silent:
        def getaddrinfo(self, *_: object) -> None:
            never.wait()
            raise OSError("at last")

    def look_up(world: World) -> None:
        passed = world.waiter()
        world.spawn("meanwhile", passed.set)
        with pytest.raises(ConnectError, match="in time"):
            world.open_metrics("statsd.example", 8125, "p", world.now_s() + 0.06)
        assert passed.is_set
        never.set()
        pass_time(world)

    monkeypatch.setattr(gevent.get_hub(), "resolver", Silent())
    keep(look_up, GeventWorld())


def keep(contract: Contract, world: GeventWorld) -> None:
    """Run the contract to its end, and see that it leaves nothing open."""
    before = descriptors()
    ended = world.waiter()
    world.spawn("contract", lambda: contract(world), ended.set)
    error = ended.wait(world.now_s() + PATIENCE_S)
    if error is not None:
        raise error
    assert dict(world.tasks()) == {}
    assert descriptors() - before == set()


def descriptors() -> set[str]:
    """What is open, by what it is."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            pass  # what the directory was read with
    return found
