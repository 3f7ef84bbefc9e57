"""The event streams of the scripted server: what has been said on each, and who is being sent it.

Where events have ids, a stream outlives its connections, whether it began with a GET or a POST: a
GET with Last-Event-ID gets what followed on that very stream, and goes on with it (MCP-S-15, S-16).
Without ids a stream ends with its connection, and what nobody has got is lost.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

ANSWER_WAIT_S = 60.0
EVENT_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


class Link(ABC):
    """One connection, as the server sees it. A reset raises ConnectionError."""

    @abstractmethod
    def receive(self) -> bytes:
        """Return some bytes, b"" at the end."""

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Send all."""

    @abstractmethod
    def close(self) -> None:
        """End cleanly."""

    @abstractmethod
    def reset(self) -> None:
        """End with a reset."""

    @abstractmethod
    def departed(self) -> bool:
        """Say whether the client has ended it, or the network has."""

    def vanish(self) -> None:
        """End without the farewell that there may be between TCP and HTTP."""
        self.close()


class Signal(ABC):
    """Something that one waits for and another sets."""

    @abstractmethod
    def set(self) -> None:
        """Let who waits go on."""

    @abstractmethod
    def wait(self, seconds: float) -> bool:
        """Wait; False when the time was up."""


class Over(Exception):
    """The connection cannot be used further."""


@dataclass
class Resumption:
    """How a server has its clients come back to a stream.

    Attributes:
        primes: whether a stream begins with an id and no data (MCP-S-19).
        primes_again: whether who comes back is told where it is, too.
        after_s: how long it takes to answer who comes back.
        retry_ms: the wait that it asks for there; None asks for none.
        unknown: the status for an id that names no stream; 200 is a stream that ends at once.
        again: how many events before the one that was named are sent once more.
        jealous: whether it refuses with 409 while the connection before stands.
        refusals: the statuses of its answers to the next who come back; a field may follow.
    """

    primes: bool = True
    primes_again: bool = False
    after_s: float = 0.0
    retry_ms: int | None = None
    unknown: int = 400
    again: int = 0
    jealous: bool = False
    refusals: list[int | str] = field(default_factory=list)


class ServerStream:
    """One event stream.

    Args:
        name: what its ids begin with; events of a stream without name have none.
        signal: makes what its reader waits for.
        ways: how one comes back to it.

    Attributes:
        link: the connection that it is sent over; None when there is none.
    """

    def __init__(
        self, name: str, signal: Callable[[], Signal], ways: Resumption = Resumption()
    ) -> None:
        self.name = name
        self.link: Link | None = None
        self._signal = signal
        self._ways = ways
        self._events: list[bytes] = []
        self._ended = False
        self._waiting: list[Signal] = []

    @property
    def said(self) -> int:
        """How many events there have been."""
        return len(self._events)

    def put(self, message: Any) -> None:
        """Say a message."""
        self.say(event(message))

    def say(self, data: bytes) -> None:
        """Say an event, encoded but for its id."""
        self._events.append(self.numbered(data))
        self._wake()

    def numbered(self, data: bytes) -> bytes:
        """Give an event the id of the next one."""
        return (f"id: {self.name}.{self.said + 1}\r\n".encode() if self.name else b"") + data

    def end(self) -> None:
        """Nothing more will be said."""
        self._ended = True
        self._wake()

    def primer(self, after: int = 0) -> bytes:
        """An event that tells where the stream is, and nothing else."""
        wait = self._ways.retry_ms
        retry = b"" if wait is None else b"retry: %d\r\n" % wait
        return b"id: %s.%d\r\n%sdata: \r\n\r\n" % (self.name.encode(), after, retry)

    def send(self, link: Link, after: int) -> int:
        """Send what followed an event, while the connection has the stream; return the last."""
        while after < self.said and self.link is link:
            link.send(chunk(self._events[after]))
            after += 1
        return after

    def follow(self, link: Link, after: int) -> None:
        """Take the stream over, and send what followed an event, until it ends or is let go.

        Raises:
            Over: another connection has taken it over.
            ConnectionError: this one has failed.
        """
        self.link = link
        self._wake()
        while True:
            ended = self._ended
            after = self.send(link, after)
            if ended or self.link is None:
                break
            if self.link is not link:
                raise Over
            if not self._wait(lambda: self.said > after or self._ended or self.link is not link):
                link.send(chunk(b": still here\r\n\r\n"))
        link.send(b"0\r\n\r\n")
        self.leave(link)

    def let_go(self) -> None:
        """End the connection that it is sent over, and not the stream."""
        self.link = None
        self._wake()

    def leave(self, link: Link | None) -> None:
        """A connection has ended: whatever is said waits for the next."""
        if self.link is link:
            self.link = None

    def _wait(self, until: Callable[[], bool]) -> bool:
        signal = self._signal()
        self._waiting.append(signal)
        try:
            return until() or signal.wait(ANSWER_WAIT_S)
        finally:
            self._waiting.remove(signal)

    def _wake(self) -> None:
        for signal in list(self._waiting):
            signal.set()


def event(message: Any) -> bytes:
    """One event, with the line ends of Python servers."""
    return b"event: message\r\ndata: %s\r\n\r\n" % json.dumps(message).encode()


def chunk(data: bytes) -> bytes:
    """One chunk of a body."""
    return b"%x\r\n%s\r\n" % (len(data), data)
