"""Contracts of `ByteStream`, as a connection opened with `listen` and `connect`."""

from __future__ import annotations

import math
from collections.abc import Callable

from tests.contracts.staging import SHORT_S, Box, connected, pass_time, read_exactly, soon

from proxy_actors.errors import DeadlineError, StreamClosedError
from proxy_actors.world.base import ByteStream, World

# More than both ends of a connection ever hold for a reader that does not read.
TOO_MUCH = b"x" * (32 * 1024 * 1024)


def contract_bytes_arrive_in_order_in_both_directions(world: World) -> None:
    with connected(world) as (near, far):
        near.write((b"one ", b"two ", b"", b"three"), soon(world))
        assert read_exactly(world, far, 13) == b"one two three"
        far.write((b"answer",), soon(world))
        assert read_exactly(world, near, 6) == b"answer"


def contract_read_returns_no_more_than_was_asked_for(world: World) -> None:
    with connected(world) as (near, far):
        near.write((b"0123456789",), soon(world))
        pass_time(world)
        assert read_exactly(world, far, 1) == b"0"
        taken = far.read(4, soon(world))
        assert 1 <= len(taken) <= 4
        assert taken + read_exactly(world, far, 9 - len(taken)) == b"123456789"


def contract_parked_reader_is_resumed_by_bytes(world: World) -> None:
    with connected(world) as (near, far):
        read = _outcome(world, lambda: far.read(100, math.inf))
        pass_time(world)
        near.write((b"late",), soon(world))
        assert read(world) == b"late"


def contract_end_of_input_comes_after_the_last_byte_and_stays(world: World) -> None:
    with connected(world) as (near, far):
        near.write((b"last words",), soon(world))
        near.close()
        assert read_exactly(world, far, 100) == b"last words"
        assert far.read(100, soon(world)) == b""
        assert far.read(100, soon(world)) == b""


def contract_read_that_is_late_leaves_the_stream_as_it_was(world: World) -> None:
    with connected(world) as (near, far):
        deadline_s = world.now_s() + SHORT_S
        _raises(DeadlineError, lambda: far.read(100, deadline_s))
        assert world.now_s() >= deadline_s
        near.write((b"after all",), soon(world))
        assert read_exactly(world, far, 9) == b"after all"
        far.write((b"heard",), soon(world))
        assert read_exactly(world, near, 5) == b"heard"


def contract_bytes_that_are_there_are_read_whatever_the_deadline(world: World) -> None:
    with connected(world) as (near, far):
        near.write((b"early",), soon(world))
        pass_time(world)
        assert far.read(5, world.now_s() - 1.0) == b"early"


def contract_write_waits_for_a_slow_reader(world: World) -> None:
    with connected(world) as (near, far):
        write = _outcome(world, lambda: near.write((b"<", TOO_MUCH, b">"), soon(world)))
        received = read_exactly(world, far, len(TOO_MUCH) + 2)
        assert received == b"<" + TOO_MUCH + b">"
        assert write(world) is None


def contract_rest_of_what_is_taken_at_once_can_be_written(world: World) -> None:
    with connected(world) as (near, far):
        near.write((b"before ",), soon(world))
        taken = near.write_now(b"at once")
        assert 0 <= taken <= 7
        near.write((b"at once"[taken:], b" after"), soon(world))
        assert read_exactly(world, far, 20) == b"before at once after"


def contract_what_is_not_taken_at_once_is_not_waited_for(world: World) -> None:
    """Whoever writes so may be an actor."""
    with connected(world) as (near, far):
        taken = near.write_now(TOO_MUCH)
        assert taken < len(TOO_MUCH)
        write = _outcome(world, lambda: near.write((TOO_MUCH[taken:], b">"), soon(world)))
        pass_time(world)
        assert near.write_now(b"in the middle of it") == 0
        assert read_exactly(world, far, len(TOO_MUCH) + 1) == TOO_MUCH + b">"
        assert write(world) is None


def contract_nothing_is_taken_at_once_by_who_has_gone(world: World) -> None:
    with connected(world) as (near, far):
        far.close()
        while near.write_now(b"x" * 65536):
            pass_time(world, 0.001)
        assert near.write_now(b"x") == 0
        near.close()
        assert near.write_now(b"x") == 0


def contract_write_to_a_peer_that_never_reads_ends_at_the_deadline(world: World) -> None:
    """FLT-C5, FLT-U8: nobody is held for ever by a peer that does not read."""
    with connected(world) as (near, _):
        deadline_s = world.now_s() + SHORT_S
        _raises(DeadlineError, lambda: near.write((TOO_MUCH,), deadline_s))
        assert world.now_s() >= deadline_s


def contract_reading_goes_on_while_a_write_waits(world: World) -> None:
    with connected(world) as (near, far):
        write = _outcome(world, lambda: near.write((TOO_MUCH,), soon(world)))
        pass_time(world)
        far.write((b"stop",), soon(world))
        assert read_exactly(world, near, 4) == b"stop"
        near.close()
        assert isinstance(write(world), StreamClosedError)


def contract_one_greenlet_reads_at_a_time(world: World) -> None:
    """Else each would get some of the bytes."""
    with connected(world) as (near, far):
        read = _outcome(world, lambda: far.read(100, soon(world)))
        pass_time(world)
        _raises(RuntimeError, lambda: far.read(100, soon(world)))
        near.write((b"for the first",), soon(world))
        assert read(world) == b"for the first"


def contract_one_greenlet_writes_at_a_time(world: World) -> None:
    with connected(world) as (near, _):
        write = _outcome(world, lambda: near.write((TOO_MUCH,), math.inf))
        pass_time(world)
        _raises(RuntimeError, lambda: near.write((b"second",), soon(world)))
        near.close()
        assert isinstance(write(world), StreamClosedError)


def contract_closing_resumes_a_parked_reader_and_writer(world: World) -> None:
    with connected(world) as (near, _):
        read = _outcome(world, lambda: near.read(1, math.inf))
        write = _outcome(world, lambda: near.write((TOO_MUCH,), math.inf))
        pass_time(world)
        steps = ["closing"]
        near.close()
        steps.append("closed")  # no switch: whoever closes may be an actor
        assert steps == ["closing", "closed"]
        assert isinstance(read(world), StreamClosedError)
        assert isinstance(write(world), StreamClosedError)


def contract_closed_stream_refuses_everything_and_may_be_closed_again(world: World) -> None:
    with connected(world) as (near, far):
        far.write((b"unread",), soon(world))
        pass_time(world)
        near.close()
        near.close()
        _raises(StreamClosedError, lambda: near.read(1, soon(world)))
        _raises(StreamClosedError, lambda: near.write((b"x",), soon(world)))
        assert not near.is_quiet()
        near.close_lingering(soon(world))


def contract_writing_to_a_peer_that_closed_fails(world: World) -> None:
    with connected(world) as (near, far):
        far.close()

        def write_on() -> None:
            for _ in range(1000):
                near.write((b"x" * 65536,), soon(world))
                pass_time(world, 0.001)

        _raises(StreamClosedError, write_on)


def contract_lingering_close_lets_the_peer_finish_and_see_the_answer(world: World) -> None:
    """HTTP-H: RFC 9112 section 9.6, an answer before the end of the request is not lost."""
    with connected(world) as (near, far):
        near.write((b"request, begun",), soon(world))
        far.write((b"refused",), soon(world))
        lingered = _outcome(world, lambda: far.close_lingering(soon(world)))
        for _ in range(16):
            near.write((b"x" * 65536,), soon(world))
        assert read_exactly(world, near, 100) == b"refused"
        near.close()
        assert lingered(world) is None
        _raises(StreamClosedError, lambda: far.read(1, soon(world)))


def contract_lingering_close_ends_at_the_deadline(world: World) -> None:
    with connected(world) as (near, far):
        far.close_lingering(world.now_s() + SHORT_S)
        _raises(StreamClosedError, lambda: far.read(1, soon(world)))
        assert near.read(1, soon(world)) == b""


def contract_stream_is_quiet_until_the_peer_sends_or_ends(world: World) -> None:
    """HTTP-F: a connection is reused only while the server has said nothing on it."""
    with connected(world) as (near, far):
        assert near.is_quiet()
        far.write((b"surplus",), soon(world))
        pass_time(world)
        assert not near.is_quiet()
        assert not near.is_quiet()
        assert read_exactly(world, near, 7) == b"surplus"
        assert near.is_quiet()
        far.close()
        pass_time(world)
        assert not near.is_quiet()
        assert near.read(1, soon(world)) == b""


def contract_departure_is_told_once_while_nobody_reads(world: World) -> None:
    """FLT-C1: the client leaves in the middle of its call."""
    with connected(world) as (near, far):
        box = Box(world)
        near.on_departure(lambda: _tell(box, "gone"))
        far.write((b"kept",), soon(world))
        pass_time(world)
        assert box.mail == []
        far.close()
        assert box.wait_for(1) == ["gone"]
        pass_time(world)
        assert box.mail == ["gone"]
        assert read_exactly(world, near, 100) == b"kept"


def contract_departure_before_it_was_asked_for_is_told(world: World) -> None:
    with connected(world) as (near, far):
        far.close()
        pass_time(world)
        box = Box(world)
        near.on_departure(lambda: _tell(box, "gone"))
        assert box.mail == []
        assert box.wait_for(1) == ["gone"]


def contract_departure_is_not_told_when_unset_or_closed_here(world: World) -> None:
    with connected(world) as (near, far), connected(world) as (own, _):
        box = Box(world)
        near.on_departure(lambda: _tell(box, "unset"))
        near.on_departure(None)
        own.on_departure(lambda: _tell(box, "own"))
        far.close()
        own.close()
        pass_time(world)
        assert box.mail == []


def contract_departure_that_a_reader_sees_is_not_told(world: World) -> None:
    with connected(world) as (near, far):
        box = Box(world)
        near.on_departure(lambda: _tell(box, "gone"))
        read = _outcome(world, lambda: near.read(1, soon(world)))
        pass_time(world)
        far.close()
        assert read(world) == b""
        pass_time(world)
        assert box.mail == []


def contract_nothing_is_lost_while_nobody_reads(world: World) -> None:
    with connected(world) as (near, far):
        sent = bytes(range(256)) * 4096
        write = _outcome(world, lambda: far.write((sent,), soon(world)))
        pass_time(world)
        assert read_exactly(world, near, 100) == sent[:100]
        pass_time(world)
        assert read_exactly(world, near, len(sent) - 100) == sent[100:]
        assert write(world) is None


def contract_input_is_told_and_read_without_waiting(world: World) -> None:
    with connected(world) as (near, far):
        told = _Told(world, near)
        assert near.read_now(100) is None
        pass_time(world)
        assert told.pieces == []
        for data in (b"one", b"another", TOO_MUCH[:100_000]):
            write = _outcome(world, lambda data=data: far.write((data,), soon(world)))
            assert told.wait_for(len(data)) == data
            assert write(world) is None
        assert max(map(len, told.pieces)) <= _Told.BYTES_MAX


def contract_input_that_was_there_before_is_told_to_its_end(world: World) -> None:
    """Not within the call that asks for it: whoever asks may be an actor."""
    with connected(world) as (near, far):
        far.write((b"first ", b"and last"), soon(world))
        far.close()
        pass_time(world)
        told = _Told(world, near)
        assert told.pieces == []
        assert told.wait_for(14) == b"first and last"
        assert told.wait_for_end() == b""


def contract_end_of_input_is_told(world: World) -> None:
    with connected(world) as (near, far):
        told = _Told(world, near)
        pass_time(world)
        far.close()
        assert told.wait_for_end() == b""


def contract_closing_is_told_to_who_waits_for_input(world: World) -> None:
    with connected(world) as (near, _):
        told = _Told(world, near)
        steps = ["closing"]
        near.close()
        steps.append("closed")  # no switch: whoever closes may be an actor
        assert steps == ["closing", "closed"]
        assert told.end is None
        assert isinstance(told.wait_for_end(), StreamClosedError)


def contract_input_is_told_no_more_when_unset(world: World) -> None:
    with connected(world) as (near, far):
        told = _Told(world, near)
        far.write((b"for the one ",), soon(world))
        assert told.wait_for(12) == b"for the one "
        near.on_input(None)
        far.write((b"for the other",), soon(world))
        assert read_exactly(world, near, 13) == b"for the other"
        box = Box(world)
        near.on_departure(lambda: _tell(box, "gone"))
        far.close()
        assert box.wait_for(1) == ["gone"]
        assert b"".join(told.pieces) == b"for the one "
        assert told.end is None


def contract_departure_is_not_told_to_who_waits_for_input(world: World) -> None:
    with connected(world) as (near, far):
        box = Box(world)
        near.on_departure(lambda: _tell(box, "gone"))
        told = _Told(world, near)
        far.close()
        assert told.wait_for_end() == b""
        pass_time(world)
        assert box.mail == []


def contract_peer_is_an_address_without_a_port(world: World) -> None:
    with connected(world) as (near, far):
        assert near.peer == far.peer == "127.0.0.1"


class _Told:
    """Reads what comes as the loop tells that it does, a little at a time."""

    BYTES_MAX = 1000

    def __init__(self, world: World, stream: ByteStream) -> None:
        self.pieces: list[bytes] = []
        self.end: bytes | StreamClosedError | None = None
        self._world = world
        self._stream = stream
        self._news = world.waiter()
        stream.on_input(self._on_input)

    def wait_for(self, size: int) -> bytes:
        """Wait for so many bytes more; return them."""
        begin = len(self.pieces)
        while sum(map(len, self.pieces[begin:])) < size:
            self._wait()
        return b"".join(self.pieces[begin:])

    def wait_for_end(self) -> bytes | StreamClosedError:
        """Wait for what ends the input."""
        while self.end is None:
            self._wait()
        return self.end

    def _wait(self) -> None:
        self._news = self._world.waiter()
        self._news.wait(soon(self._world))

    def _on_input(self) -> None:
        try:
            data = self._stream.read_now(self.BYTES_MAX)
        except StreamClosedError as error:
            self.end = error
        else:
            if data:
                self.pieces.append(data)
            else:
                self.end = data
        if self.end is not None:
            self._stream.on_input(None)
        self._news.set()


def _outcome(world: World, act: Callable[[], object]) -> Callable[[World], object]:
    """Start `act` in a greenlet; the result waits for what it returned or raised."""
    ended = world.waiter()

    def run() -> None:
        try:
            ended.set(act())
        except (DeadlineError, StreamClosedError) as error:
            ended.set(error)

    world.spawn("contract", run)
    return lambda world: ended.wait(soon(world))


def _raises(kind: type[Exception], act: Callable[[], object]) -> None:
    try:
        act()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")


def _tell(box: Box, message: object) -> None:
    box.tell(message)
