"""Where an event stream leaves messages for the greenlet that writes them to a client.

A subscriber is made by that greenlet, entered in the `Subscribers` under an id, and named by the
id in mail. The stream's actor pushes and never waits; the greenlet takes and waits. What has been
pushed and not taken is bounded in events and bytes: a client that reads too slowly is cut, and may
come back for what it has missed.

To wake a greenlet costs more than to write an event, and to keep one more than an idle stream. So
who waits with nothing unread may lend an outlet, through which a push goes to the client at once,
and end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from proxy_actors.actors.nap import Nap
from proxy_actors.errors import DeadlineError
from proxy_actors.policy.stream_limits import StreamLimits
from proxy_actors.world.base import Waiter, World


Outlet = Callable[[Sequence[bytes]], bool]
"""Takes messages and never waits; whether the client has all of them, and nothing is left to do."""


class Subscriber:
    """Messages on their way to one client.

    `cut` says that more have followed, or should have: it was too slow for them, they were lost, or
    they could not be had from the upstream. `slow` says that it was the first of these. `last` is
    the last that was taken.
    """

    __slots__ = (
        "_bytes", "_bytes_max", "_ended", "_events_max", "_messages", "_outlet", "_waiter",
        "_world", "cut", "last", "slow",
    )  # fmt: skip

    def __init__(self, world: World, limits: StreamLimits = StreamLimits()) -> None:
        self._world = world
        self._events_max = limits.unread_events_max
        self._bytes_max = limits.unread_bytes_max
        self._messages: list[bytes] = []
        self._bytes = 0
        self._ended = False
        self._waiter: Waiter | Nap | None = None
        # Lent as long as nothing is there to be done otherwise.
        self._outlet: Outlet | None = None
        self.cut = self.slow = False
        self.last = b""

    @property
    def ended(self) -> bool:
        """Whether nothing more will be pushed."""
        return self._ended

    @property
    def unread(self) -> int:
        """How many messages have not been taken."""
        return len(self._messages)

    def push(self, data: bytes) -> bool:
        """Leave a message; False, and the subscriber is cut, when too much is unread already."""
        return self.push_all((data,))

    def push_all(self, messages: Sequence[bytes]) -> bool:
        """Leave messages that came at once, as `push` does: perhaps only the first of them."""
        if self._outlet is not None:
            self.last = messages[-1]
            if not self._outlet(messages):
                self.wake()
            return True
        if self.cut:
            return False
        unread = self._messages
        for data in messages:
            if unread and (
                self._bytes + len(data) > self._bytes_max or len(unread) >= self._events_max
            ):
                self.cut = self.slow = True
                self.end()
                return False
            unread.append(data)
            self._bytes += len(data)
        self.wake()
        return True

    def leave_all(self, messages: list[bytes]) -> None:
        """Leave all that there will ever be, which is bounded already."""
        self._messages = messages
        self.end()

    def end(self) -> None:
        """Nothing more will be pushed. Idempotent."""
        self._ended = True
        self.wake()

    def abort(self) -> None:
        """Nothing more will be pushed, and what was and has not been taken is void. Idempotent."""
        self.cut = True
        self._messages, self._bytes = [], 0
        self.end()

    def take(self, deadline_s: float = math.inf) -> list[bytes]:
        """Take every message that is there, waiting for one; an empty list is the end.

        Raises:
            DeadlineError: none came by the deadline.
        """
        if not self._messages and not self._ended:
            waiter = self._waiter = self._world.waiter()
            try:
                waiter.wait(deadline_s)
            except DeadlineError:
                if not self._messages and not self._ended:
                    raise
            finally:
                self._waiter = None
        return self.take_unread()

    def take_unread(self) -> list[bytes]:
        """Take every message that is there, and what was lent."""
        self._waiter = self._outlet = None
        messages, self._messages, self._bytes = self._messages, [], 0
        if messages:
            self.last = messages[-1]
        return messages

    def lend(self, outlet: Outlet, wake: Callable[[], object]) -> None:
        """Lend an outlet where nothing is unread, and have `wake` called once when that is over.

        Then something is unread, the outlet has left something, or nothing more will come.
        """
        self._outlet, self._waiter = outlet, Nap(wake)

    def wake(self) -> None:
        """Have who waits go on, as if something was to be done."""
        self._outlet = None
        if self._waiter is not None:
            self._waiter.set()


class Subscribers:
    """The subscribers of this process by id."""

    def __init__(self, world: World, limits: StreamLimits = StreamLimits()) -> None:
        self._world = world
        self._limits = limits
        self._by_id: dict[int, Subscriber] = {}
        self._serial = 0

    def enter(self) -> tuple[int, Subscriber]:
        """Make a subscriber; whoever made it must `leave`."""
        self._serial += 1
        subscriber = Subscriber(self._world, self._limits)
        self._by_id[self._serial] = subscriber
        return self._serial, subscriber

    def leave(self, subscriber_id: int) -> None:
        """Forget a subscriber. Idempotent."""
        self._by_id.pop(subscriber_id, None)

    def find(self, subscriber_id: int) -> Subscriber | None:
        """Find a subscriber; None when it has left."""
        return self._by_id.get(subscriber_id)

    def __len__(self) -> int:
        return len(self._by_id)
