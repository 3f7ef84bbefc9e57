"""The box of one actor: bounded, two lanes.

Owns the order in which mail is handled. The fast lane goes first, but the normal lane is served at
least once in `FAST_RUN_MAX` mails, so a flood of either starves nobody. It never waits: greenlets
that want to wait for room are parked by `actors/base.py`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from pykka._envelope import Envelope

if TYPE_CHECKING:
    from proxy_actors.actors.refs import Reply
    from proxy_actors.messages.base import Message

FAST_RUN_MAX = 64
FAST_MAIL_MAX = 1024
# Stands for a lane that nothing has come in through: an empty deque takes two thirds of a kilobyte.
_UNUSED: deque[Mail] = deque(maxlen=0)


class Mail(Envelope[Any]):  # Any: each actor has its own vocabulary
    """Pykka's envelope with the time of its posting, in seconds on the monotonic clock."""

    __slots__ = ("posted_s",)

    message: Message
    reply_to: Reply | None

    def __init__(self, message: Message, reply_to: Reply | None, posted_s: float) -> None:
        self.message = message
        self.reply_to = reply_to
        self.posted_s = posted_s


class Inbox:
    """Mail in order of handling. `mail_max` bounds the normal lane, FAST_MAIL_MAX the fast one."""

    __slots__ = ("_fast", "_fast_run", "_normal", "mail_max")

    def __init__(self, mail_max: int = 1000) -> None:
        self.mail_max = mail_max
        self._fast = self._normal = _UNUSED
        self._fast_run = 0

    def offer(self, mail: Mail) -> bool:
        """Take the mail in; False when its lane is full and it is not one to be always accepted."""
        message = mail.message
        lane, mail_max = (
            (self._fast, FAST_MAIL_MAX) if message.fast else (self._normal, self.mail_max)
        )
        if len(lane) >= mail_max and not message.always_accepted:
            return False
        if lane is _UNUSED:
            lane = deque()
            if message.fast:
                self._fast = lane
            else:
                self._normal = lane
        lane.append(mail)
        return True

    def take(self) -> Mail | None:
        """Remove and return the next mail; None when the box is empty."""
        if self._fast and (self._fast_run < FAST_RUN_MAX - 1 or not self._normal):
            self._fast_run += 1
            return self._fast.popleft()
        self._fast_run = 0
        if self._normal:
            return self._normal.popleft()
        self._fast = self._normal = _UNUSED
        return None

    def has_room(self) -> bool:
        """Whether the normal lane takes ordinary mail now."""
        return len(self._normal) < self.mail_max

    def __len__(self) -> int:
        return len(self._fast) + len(self._normal)

    def oldest_s(self) -> float | None:
        """When the oldest mail was posted; None when the box is empty."""
        heads = [lane[0].posted_s for lane in (self._fast, self._normal) if lane]
        return min(heads, default=None)

    # Pykka's names for the same, so that its ActorRef could use the box too.

    def put(self, envelope: Envelope[Any], /) -> None:
        """Refuse: mail comes in through `Ref`, which knows lanes and bounds."""
        raise NotImplementedError("mail is put through proxy_actors.actors.base.Ref")

    def get(self) -> Envelope[Any]:
        """Refuse: only the actor's own loop takes mail out."""
        raise NotImplementedError("mail is taken by the actor's own loop")

    def empty(self) -> bool:
        """Whether no mail is here."""
        return not self._fast and not self._normal
