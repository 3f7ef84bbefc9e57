"""What is written of event streams to outlive the process, and what is read back.

A stream is known by what the ids of its events begin with; whose it is, by its session's key.
"""

from __future__ import annotations

from proxy_actors.messages.base import Message


class StoredStream(Message, frozen=True):
    """What is stored of a stream.

    Attributes:
        id: what the ids of its events begin with.
        session_key: whose clients may read it.
        request_id: the raw JSON id of the call that it answers; empty where it answers none.
    """

    id: str
    session_key: str
    request_id: bytes = b""


class OpenStream(Message, frozen=True):
    """Write: there is a stream, without an event yet."""

    stream: StoredStream


class KeepEvent(Message, frozen=True):
    """Write: an event has come; those before the `first` are not kept any more."""

    stream: StoredStream
    number: int
    first: int
    data: bytes


class TrimStream(Message, frozen=True):
    """Write: the events before the `first` are not kept any more."""

    stream: StoredStream
    first: int


class LeaveStream(Message, frozen=True):
    """Write: the stream's actor is no more; what is kept may be asked for, for a while."""

    stream: StoredStream


class ForgetStream(Message, frozen=True):
    """Write: nobody can come back to the stream."""

    stream: StoredStream


StreamWrite = OpenStream | KeepEvent | TrimStream | LeaveStream | ForgetStream


class FoundStream(Message, frozen=True):
    """What followed an event of a stream whose actor is no more.

    Attributes:
        stream: whose it is.
        events: all that followed, in order; None where not all of it is there.
        newest: the last event that is stored.
        next: the session's next standalone stream that is stored; "" where there is none.
    """

    stream: StoredStream
    events: tuple[bytes, ...] | None
    newest: bytes
    next: str = ""
