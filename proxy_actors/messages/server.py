"""The mailbox of the HTTP server."""

from __future__ import annotations

from typing import ClassVar

from proxy_actors.messages.base import Message


class DrainServer(Message, frozen=True):
    """Parent to server: accept no more, end idle connections, tell ServerDrained when none is
    left.
    """

    always_accepted: ClassVar[bool] = True


class ConnectionEnded(Message, frozen=True):
    """Connection to server: its greenlet is about to end."""

    always_accepted: ClassVar[bool] = True


class ServerDrained(Message, frozen=True):
    """Server to parent: no connection is left."""

    always_accepted: ClassVar[bool] = True
