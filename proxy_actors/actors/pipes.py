"""What carries the messages of a channel: the port between its actor and what it is made of.

`actors/child_pipes.py` has the pipes of a child process, `gateway/sse_pipes.py` the connections of
a session at a server of HTTP+SSE.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from proxy_actors.actors.refs import Ref


class Pipes(ABC):
    """What carries the messages of one channel. Its greenlets report to the channel by mail."""

    @abstractmethod
    def start(self, channel: Ref) -> None:
        """Begin."""

    @abstractmethod
    def write(self, data: bytes, call_id: int | None) -> bool:
        """Queue one message, the request of `call_id` if there is one; False: no room."""

    @abstractmethod
    def end(self) -> set[int]:
        """End all greenlets; return the calls whose requests never left. Idempotent."""

    @abstractmethod
    def log_garbage(self, text: str) -> None:
        """Log the head of what came and is no message."""

    @abstractmethod
    def give_up(self, text: str) -> None:
        """The other side is of no use: log why, and see that the channel ends."""
