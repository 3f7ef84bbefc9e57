"""Contracts of `World.listen`, `Listener` and `World.connect`."""

from __future__ import annotations

from tests.contracts.staging import SHORT_S, Box, connected, pass_time, read_exactly, soon

from proxy_actors.errors import ConnectError, StreamClosedError
from proxy_actors.world.base import ByteStream, World


def contract_listener_names_the_port_that_it_got(world: World) -> None:
    listener = world.listen("127.0.0.1", 0, lambda stream: stream.close())
    host, port = listener.address
    assert host == "127.0.0.1"
    assert 0 < port < 65536
    listener.close()


def contract_each_connection_is_served_in_a_greenlet_of_its_own(world: World) -> None:
    def echo(stream: ByteStream) -> None:
        while data := stream.read(100, soon(world)):
            stream.write((data,), soon(world))
        stream.close()

    listener = world.listen("127.0.0.1", 0, echo)
    streams = [world.connect(*listener.address, soon(world)) for _ in range(100)]
    for number, stream in reversed(list(enumerate(streams))):
        text = f"{number:04}".encode()
        stream.write((text,), soon(world))
        assert read_exactly(world, stream, 4) == text
    for stream in streams:
        stream.close()
    listener.close()
    pass_time(world)


def contract_closed_listener_refuses_and_keeps_what_it_accepted(world: World) -> None:
    accepted = world.waiter()
    listener = world.listen("127.0.0.1", 0, accepted.set)
    near = world.connect(*listener.address, soon(world))
    far = accepted.wait(soon(world))
    listener.close()
    listener.close()
    _refused(world, listener.address)
    near.write((b"still here",), soon(world))
    assert read_exactly(world, far, 10) == b"still here"
    near.close()
    far.close()


def contract_connections_wait_while_nobody_serves(world: World) -> None:
    """So a listener that is started again has lost none."""
    box = Box(world)
    listener = world.listen("127.0.0.1", 0)
    for round in (1, 2):
        early = world.connect(*listener.address, soon(world))
        early.write((b"waiting",), soon(world))
        pass_time(world)
        assert len(box.mail) == 2 * (round - 1)
        listener.serve(box.tell)
        box.wait_for(2 * round - 1)
        late = world.connect(*listener.address, soon(world))
        served = box.wait_for(2 * round)[-2:]
        assert read_exactly(world, served[0], 7) == b"waiting"
        for stream in (early, late, *served):
            stream.close()
        listener.pause()
        listener.pause()
    listener.close()
    listener.pause()


def contract_closed_listener_ends_those_that_wait(world: World) -> None:
    listener = world.listen("127.0.0.1", 0)
    near = world.connect(*listener.address, soon(world))
    listener.close()
    try:
        assert near.read(1, soon(world)) == b""
    except StreamClosedError:
        pass
    near.close()


def contract_freed_port_can_be_bound_again_at_once(world: World) -> None:
    with connected(world) as (near, far):
        first = world.listen("127.0.0.1", 0, lambda stream: stream.close())
        address = first.address
        world.connect(*address, soon(world)).close()
        pass_time(world)
        first.close()
        again = world.listen(*address, lambda stream: stream.close())
        assert again.address == address
        again.close()


def contract_port_in_use_is_named_with_its_remedy(world: World) -> None:
    """FLT-P23."""
    listener = world.listen("127.0.0.1", 0, lambda stream: stream.close())
    try:
        world.listen(*listener.address, lambda stream: stream.close())
    except ConnectError as error:
        assert "in use" in str(error)
        assert str(listener.address[1]) in str(error)
    else:
        raise AssertionError("two listeners on one port")
    finally:
        listener.close()


def contract_failing_handler_closes_its_connection_and_no_other(world: World) -> None:
    def fail(stream: ByteStream) -> None:
        if stream.read(1, soon(world)) == b"!":
            raise LookupError("planted")
        stream.write((b"fine",), soon(world))
        stream.close()

    listener = world.listen("127.0.0.1", 0, fail)
    bad = world.connect(*listener.address, soon(world))
    good = world.connect(*listener.address, soon(world))
    bad.write((b"!",), soon(world))
    assert bad.read(1, soon(world)) == b""
    good.write((b"?",), soon(world))
    assert read_exactly(world, good, 4) == b"fine"
    bad.close()
    good.close()
    listener.close()


def contract_refused_connection_is_an_error_at_once(world: World) -> None:
    """FLT-N1."""
    listener = world.listen("127.0.0.1", 0, lambda stream: stream.close())
    listener.close()
    _refused(world, listener.address)


def contract_localhost_is_the_loopback(world: World) -> None:
    """RFC 6761 section 6.3: never asks the network."""
    box = Box(world)
    listener = world.listen("127.0.0.1", 0, box.tell)
    near = world.connect("localhost", listener.address[1], soon(world))
    far = box.wait_for(1)[0]
    near.close()
    far.close()
    listener.close()


def contract_name_that_does_not_exist_is_an_error(world: World) -> None:
    """FLT-N13; RFC 6761 section 6.4 keeps `invalid` for ever free of hosts."""
    _refused(world, ("nowhere.invalid", 80), SHORT_S)


def _refused(world: World, address: tuple[str, int], patience_s: float = 5.0) -> None:
    try:
        world.connect(*address, world.now_s() + patience_s).close()
    except ConnectError as error:
        assert address[0] in str(error)
        return
    raise AssertionError("connected to nobody")
