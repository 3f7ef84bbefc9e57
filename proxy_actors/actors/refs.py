"""How mail reaches an actor: a reference to one incarnation, a stable name, a reply.

Owns nothing but the way: whoever holds a `Ref` or a `Slot` can tell and, from a greenlet of the
data plane, ask. Actors only tell; an actor that asked another could deadlock with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pykka

from proxy_actors.actors.inbox import Mail
from proxy_actors.errors import ActorStoppedError, DeadlineError
from proxy_actors.messages.base import Message
from proxy_actors.world.base import Waiter, World

if TYPE_CHECKING:
    from proxy_actors.actors.base import Actor


class Reply(pykka.Future[Any]):  # Any: the answer is the actor's vocabulary
    """The answer to one ask: set at most once."""

    __slots__ = ("_actor", "_error", "_value", "_waiter", "settled")

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self._value: Any = None  # Any: see the class
        self._error: Exception | None = None
        self._waiter: Waiter | None = None
        self.settled = False

    def set(self, value: Any = None) -> None:  # Any: see the class
        """Answer. A second answer is dropped and counted (PYK-P10)."""
        if self.settled:
            self._actor.late_replies += 1
            return
        self.settled = True
        self._value = value
        if self._waiter is not None:
            self._waiter.set(value)

    def fail(self, error: Exception) -> None:
        """Answer with an error, which the asker will see raised."""
        if self.settled:
            self._actor.late_replies += 1
            return
        self.settled = True
        if self._waiter is None:
            self._error = error
        else:
            self._waiter.fail(error)

    def wait(self, world: World, deadline_s: float) -> Any:  # Any: see the class
        """Return the answer or raise its error, parking until the deadline if need be.

        Raises:
            DeadlineError: no answer came in time. A later one is dropped and counted.
        """
        if not self.settled:
            self._waiter = world.waiter()
            try:
                return self._waiter.wait(deadline_s)
            except DeadlineError:
                self.settled = True
                raise
            finally:
                self._waiter = None  # as below
        if self._error is None:
            return self._value
        try:
            raise self._error
        finally:
            self._error = None  # its traceback holds the frames that hold this


class Ref(pykka.ActorRef["Actor"]):
    """A reference to one incarnation of an actor."""

    def __init__(self, actor: Actor) -> None:
        super().__init__(actor)
        self._own = actor

    @property
    def incarnation(self) -> int:
        """Which start of the actor this is, from 1."""
        return self._own.incarnation

    def children(self) -> list[Ref]:
        """List the actor's present children, for walking over the tree."""
        return list(self._own.children.values())

    def tell(self, message: Message) -> bool:  # type: ignore[override]  # ours never raises
        """Put `message` in the box. False when the actor has stopped or its box is full."""
        return self._own.post(Mail(message, None, self._own.world.now_s()))

    def deliver(self, message: Message) -> bool:
        """Like tell, for greenlets of the data plane alone: an idle actor handles it at once.

        Never from within an actor's turn, whose own turn would then have another within it.
        """
        own = self._own
        mail = Mail(message, None, own.world.now_s())
        return own.handled_inline(mail) or own.post(mail)

    def ask(  # type: ignore[override]  # Pykka's may block for ever; ours names its deadline
        self, message: Message, deadline_s: float
    ) -> Any:  # Any: the answer is the actor's vocabulary
        """Put `message` in the box and wait for its answer, for greenlets of the data plane only.

        Raises:
            DeadlineError: no answer by `deadline_s`; follow with the message that cancels.
            ActorStoppedError: the actor stopped or crashed before it answered.
            MailboxFullError: the box is full.
            Exception: whatever error the actor answered with.
        """
        return self._own.asked(message, deadline_s)

    def deliver_if_room(self, message: Message) -> bool:
        """Like deliver; False, with nothing done, where `deliver_when_room` would wait.

        So the loop may call it, which is nobody's turn either. To an actor that has stopped
        nothing is told.
        """
        own = self._own
        mail = Mail(message, None, own.world.now_s())
        if own.handled_inline(mail):
            return True
        if self.is_alive() and not own.actor_inbox.has_room():
            return False
        own.post(mail)
        return True

    def deliver_when_room(self, message: Message, deadline_s: float) -> bool:
        """Like deliver, but wait for room in a full box; for greenlets that move bytes only.

        Raises:
            DeadlineError: there was no room by `deadline_s`.
        """
        while self.is_alive() and not self._own.actor_inbox.has_room():
            self._own.wait_for_room(deadline_s)
        return self.deliver(message)


class Slot:
    """An actor's stable name: finds the present incarnation at the moment of sending.

    Owned by the actor's parent. Between two incarnations nobody lives here: `tell` says False and
    `ask` raises ActorStoppedError, so what must not be lost stays with the sender, save for mail
    that `outlives_crash`, which is kept here for the next incarnation. `starts` counts
    the incarnations that lived here, across restarts of the parent too: ids that mail to this name
    may bring back are told apart by it.
    """

    __slots__ = ("_feared", "_kept", "name", "ref", "starts")

    def __init__(self, name: str) -> None:
        self.name = name
        self.ref: Ref | None = None
        self.starts = 0
        self._kept: tuple[Message, ...] = ()
        self._feared: Message | None = None

    def enter(self, ref: Ref) -> None:
        """Have an incarnation live here, and hear what was kept for it first."""
        self.ref = ref
        self.starts += 1
        kept, self._kept = self._kept, ()
        for message in kept:
            ref.tell(message)

    def keep(self, message: Message, crashed: bool = False) -> bool:
        """Keep mail for the next incarnation; False when it is not such mail.

        Args:
            crashed: whether an incarnation has crashed over it. Such mail is kept once, as the next
                may crash over it as well.
        """
        if not message.outlives_crash or crashed and message is self._feared:
            return False
        if crashed:
            self._feared = message
        self._kept += (message,)
        return True

    def tell(self, message: Message) -> bool:
        """Tell the present incarnation; False when there is none, or it did not accept."""
        return self.keep(message) if self.ref is None else self.ref.tell(message)

    def deliver(self, message: Message) -> bool:
        """Tell the present incarnation as `Ref.deliver` does; False when there is none."""
        return self.ref is not None and self.ref.deliver(message)

    def ask(self, message: Message, deadline_s: float) -> Any:  # Any: see Ref.ask
        """Ask the present incarnation. Raises as `Ref.ask` does."""
        if self.ref is None:
            raise ActorStoppedError(f"{self.name} is not running")
        return self.ref.ask(message, deadline_s)

    def deliver_when_room(self, message: Message, deadline_s: float) -> bool:
        """Deliver to the present incarnation when it has room. Raises as `Ref` does."""
        return self.ref is not None and self.ref.deliver_when_room(message, deadline_s)
