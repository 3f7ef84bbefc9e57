"""The base class of every actor: Pykka's vocabulary with a loop of our own.

Owns the life of an actor: its loop's greenlet, its box, its children, its last words. It never
decides anything about a domain, and nothing outside calls an actor's methods: mail goes through its
`Ref` or, across restarts, through the `Slot` that its parent keeps under its name.

Why not Pykka's loop (4.5, each tried): it answers an ask at once, raises from `tell` to a dead
actor, gives an error two fates, told and asked, lets a stray BaseException stop every actor, lists
all in a line, loses the mail of one that stops, and makes a lock of threads and a random id for
each. Of Pykka remain ActorRef, Envelope, Future and the hooks.

The rules of the loop, in order:

1. One turn at a time. A turn never switches greenlets; so an ask by a data-plane greenlet to an
   actor that is parked with an empty box may run on the asker's own stack (the inline turn).
2. What `on_receive` returns answers an ask, unless it is LATER: then the actor answers through the
   Reply that it kept, once; a second answer is dropped and counted.
3. Any exception out of `on_receive` or `on_start` is a crash, asked or told, GreenletExit and
   gevent.Timeout included: the asker is answered with ActorStoppedError, `on_crash` runs.
4. At its end the actor stops its children and waits for them, hands mail that was not handled to
   `on_undelivered`, or to its slot if it outlives a crash, then tells its parent ChildStopped.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import pykka
from pykka import messages as pykka_messages

from proxy_actors.actors.inbox import Inbox, Mail
from proxy_actors.actors.nap import Flag, Nap
from proxy_actors.actors.refs import Ref, Reply, Slot
from proxy_actors.errors import (
    ActorStoppedError,
    ConfigurationError,
    DeadlineError,
    MailboxFullError,
    ProxyActorsError,
)
from proxy_actors.messages.base import Message
from proxy_actors.messages.lifecycle import (
    ActorState,
    ChildStarted,
    ChildStopped,
    DescribeState,
    Stop,
    StopReason,
)
from proxy_actors.world.base import Mailbox, Waiter, World

LATER: Any = object()  # Any: it stands where every kind of answer may stand
TURN_S_WARN = 0.05
STOP_CHILDREN_S_MAX = 10.0
_LIFECYCLE = frozenset({Stop, DescribeState, ChildStarted, ChildStopped})
_PROXY_CALLS: frozenset[type] = frozenset(
    {pykka_messages.ProxyCall, pykka_messages.ProxyGetAttr, pykka_messages.ProxySetAttr}
)

logger = logging.getLogger("proxy_actors.actors")


class Actor(pykka.Actor):
    """Subclass, implement `on_receive`, and have a parent start it with `start_child`."""

    mail_max = 1000
    # Whether it keeps its greenlet while it has no mail: one of thousands does not.
    resident = True
    # What few instances ever change stays with the class, where thousands share it.
    late_replies = undelivered = 0
    _error = ""
    _unfinished: Mail | None = None

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = self.actor_urn = name
        self.actor_inbox: Inbox = self._create_actor_inbox()
        self.actor_stopped = Flag()  # type: ignore[assignment]  # what Pykka asks of it
        self.incarnation = 1
        self.parent: Mailbox | None = None
        self.slot = Slot(name)
        self._handled = 0
        self.children: dict[str, Ref] = {}
        self.actor_inbox.mail_max = self.mail_max
        self._actor_ref = Ref(self)
        self._ending: StopReason | None = None
        self._parked: Waiter | Nap | None = None
        self._room: list[Waiter] = []
        self._busy_s = self._turn_s_max = 0.0
        # The reply of the mail in hand, for an actor that answers LATER; None when told.
        self.asked_by: Reply | None = None

    # For subclasses.

    def on_start(self) -> None:
        """Set up, before the first mail. An exception here is a crash."""

    def on_receive(self, message: Any) -> Any:  # Any: each actor has its own vocabulary
        """Handle one mail; return the answer, or LATER."""
        raise NotImplementedError

    def on_child_started(self, message: ChildStarted) -> None:
        """A child's `on_start` has returned."""

    def on_child_stopped(self, message: ChildStopped) -> None:
        """A child has ended. By default a parent goes on without it."""

    def on_stop_requested(self) -> None:
        """The parent wants this actor to end: at once, or `stop` when what it owns has ended."""
        self.stop()

    def on_stop(self) -> None:
        """Clean up after an orderly stop; children have ended already. By default as `on_end`."""
        self.on_end()

    def on_crash(self) -> None:
        """Clean up after a crash, of `on_start` too; otherwise as `on_stop`."""
        self.on_end()

    def on_end(self) -> None:
        """Clean up, however the actor has ended."""

    def on_undelivered(self, message: Any) -> None:  # Any: see on_receive
        """A mail was accepted but not handled, or not to its end, and may have had an effect."""

    def describe(self) -> dict[str, object]:
        """State for operators; plain data, no secrets."""
        return {}

    @property
    def ref(self) -> Ref:
        """This incarnation's reference; after its end, one that is as dead."""
        return self._actor_ref or Ref(self)  # type: ignore[return-value]  # set in __init__

    def stop_order(self) -> list[list[str]]:
        """Name the children in the order of stopping; those of one group stop at once."""
        return [list(self.children)]

    def stop(self) -> None:
        """End after the present turn."""
        if self._ending is None:
            self._ending = StopReason.NORMAL

    def start_child(self, child: Actor, slot: Slot | None = None, incarnation: int = 1) -> Ref:
        """Start `child` under this actor, which will be told when it ends, and stop it at its end.

        `slot` is the stable name to occupy; without one the child gets its own.
        """
        assert slot is None or slot.name == child.name
        assert child.name not in self.children, f"{self.name} has a child {child.name} already"
        child.parent = self.ref
        child.incarnation = incarnation
        child.slot = slot or child.slot
        child.slot.enter(child.ref)
        self.children[child.name] = child.ref
        child.start_loop()
        return child.ref

    def start_loop(self) -> None:
        """Start the loop: `start_child` does, and the service for the root."""
        self._start_actor_loop()

    # Pykka's factory hooks.

    @staticmethod
    def _create_actor_inbox() -> Inbox:
        return Inbox()

    @staticmethod
    def _create_future() -> pykka.Future[Any]:
        raise NotImplementedError("asks go through proxy_actors.actors.base.Ref")

    def _start_actor_loop(self) -> None:
        self.world.spawn(f"actor {type(self).__name__}", self._run)

    def _go_on(self) -> None:
        self.world.spawn_in_turn(f"actor {type(self).__name__}", self._run)

    # The loop.

    def _run(self) -> None:
        if self._parked is None:  # else it goes on after a nap
            self._guard(self._start)
        self._parked = None
        while self._ending is None:
            mail = self.actor_inbox.take()
            if mail is not None:
                self._turn(mail)
            elif self.resident:
                self._park(math.inf)
            else:
                self._parked = Nap(self._go_on)
                return
        self._end()

    def _start(self) -> None:
        self.on_start()
        if self.parent is not None:
            self.parent.tell(ChildStarted(self.name, self.incarnation))

    def _turn(self, mail: Mail) -> None:
        message, reply = mail.message, mail.reply_to
        began_s = self.world.now_s()
        self.asked_by = reply
        try:
            answer = self._dispatch(message)
        except BaseException as error:  # one fate for every error (PYK-P1, P2)
            if reply is not None:
                reply.fail(ActorStoppedError(f"{self.name} crashed"))
            self._crash(error)
            self._unfinished = Mail(message, None, mail.posted_s)
        else:
            if reply is not None and answer is not LATER:
                reply.set(answer)
        finally:
            self.asked_by = None
        self._handled += 1
        if self._room:
            self._wake_sender()
        took_s = self.world.now_s() - began_s
        self._busy_s += took_s
        if took_s > self._turn_s_max:
            self._turn_s_max = took_s
            if took_s > TURN_S_WARN:
                logger.warning(
                    "turn_was_slow actor=%s message=%s seconds=%.3f",
                    self.name, type(message).__name__, took_s,
                )

    def _dispatch(self, message: Any) -> Any:  # Any: see on_receive
        if message.__class__ not in _LIFECYCLE:
            return self.on_receive(message)
        match message:
            case DescribeState():
                return self._state()
            case Stop():
                self.on_stop_requested()
            case ChildStopped():
                self._forget_child(message)
                self.on_child_stopped(message)
            case ChildStarted():
                self.on_child_started(message)
        return None

    def _guard(self, function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:  # see _turn
            self._crash(error)

    def _crash(self, error: BaseException) -> None:
        configuration = isinstance(error, ConfigurationError)
        self._ending = StopReason.CONFIGURATION if configuration else StopReason.CRASHED
        self._error = f"{type(error).__name__}: {error}"
        logger.error("actor_crashed actor=%s error=%r", self.name, self._error, exc_info=error)

    def _end(self) -> None:
        assert self._ending is not None
        self._stop_children()
        self.actor_stopped.set()
        if self.slot.ref is self.ref:
            self.slot.ref = None
        self._guard(self.on_stop if self._ending is StopReason.NORMAL else self.on_crash)
        if self._unfinished is not None:
            self._bury(self._unfinished)
        while (mail := self.actor_inbox.take()) is not None:
            self._bury(mail)
        for waiter in self._room:
            waiter.set()
        if self.parent is not None:
            self.parent.tell(ChildStopped(self.name, self.incarnation, self._ending, self._error))
        self._actor_ref = None  # type: ignore[assignment]  # which holds this actor

    def _stop_children(self) -> None:
        """Stop the children in their order and wait for their last words.

        Mail that comes meanwhile is undelivered at once: nobody waits for this actor's children.
        """
        deadline_s = self.world.now_s() + STOP_CHILDREN_S_MAX
        for group in self.stop_order():
            for name in group:
                if name in self.children:
                    self.children[name].tell(Stop())
            while late := self.children.keys() & group:
                mail = self.actor_inbox.take()
                if mail is not None:
                    if isinstance(mail.message, ChildStopped):
                        self._forget_child(mail.message)
                    else:
                        self._bury(mail)
                    self._wake_sender()
                elif not self._park(deadline_s):
                    logger.error("children_outlived_parent actor=%s children=%s",
                                 self.name, sorted(late))
                    for name in late:
                        del self.children[name]

    def _forget_child(self, stopped: ChildStopped) -> None:
        known = self.children.get(stopped.name)
        if known is not None and known.incarnation == stopped.incarnation:
            del self.children[stopped.name]

    def _park(self, deadline_s: float) -> bool:
        """Wait until there may be mail, or an inline turn was the last; False at the deadline."""
        self._parked = waiter = self.world.waiter()
        try:
            waiter.wait(deadline_s)
        except DeadlineError:
            return False
        except BaseException as error:  # a kill from outside is this actor's end, not all's
            self._crash(error)
        finally:
            self._parked = None
        return True

    def _bury(self, mail: Mail) -> None:
        if mail.reply_to is not None:
            mail.reply_to.fail(ActorStoppedError(f"{self.name} stopped"))
        kept = self.slot.keep(mail.message, crashed=mail is self._unfinished)
        if kept or mail.message.__class__ in _LIFECYCLE:
            return
        self.undelivered += 1
        self._guard(lambda: self.on_undelivered(mail.message))

    # Mail coming in, on the sender's stack.

    def post(self, mail: Mail) -> bool:
        """Put mail in the box, for `Ref` alone; False when it was not accepted."""
        if self.actor_stopped.is_set() or mail.message.__class__ in _PROXY_CALLS:
            return False
        if not self.actor_inbox.offer(mail):
            self.undelivered += 1
            return False
        if self._parked is not None:
            self._parked.set()
        return True

    def asked(self, message: Message, deadline_s: float) -> Any:  # Any: see Ref.ask
        """Handle an ask, for `Ref` alone: inline when this actor is idle, else through the box."""
        if self.actor_stopped.is_set():
            raise ActorStoppedError(f"{self.name} has stopped")
        if message.__class__ in _PROXY_CALLS:
            raise ProxyActorsError(f"{self.name} is spoken to by messages, not through a proxy")
        reply = Reply(self)
        mail = Mail(message, reply, self.world.now_s())
        if not self.handled_inline(mail) and not self.post(mail):
            raise MailboxFullError(f"{self.name} has a full box")
        return reply.wait(self.world, deadline_s)

    def handled_inline(self, mail: Mail) -> bool:
        """Take the turn on the sender's stack, for `Ref` alone, if this actor is parked.

        Then its box is empty: mail that comes in sets what it is parked on.
        """
        parked = self._parked
        if (
            parked is None
            or parked.is_set
            or self._ending is not None
            or mail.message.__class__ in _PROXY_CALLS
            or not self.world.may_inline()
        ):
            return False
        self._parked = None  # busy: what the turn sends to its own actor must go through the box
        self._turn(mail)
        self._parked = parked
        if self._ending is not None or not self.actor_inbox.empty():
            parked.set()  # the loop has the mail, or the last words to say
        return True

    def wait_for_room(self, deadline_s: float) -> None:
        """Park the calling greenlet until the box may have room, for `Ref` alone."""
        waiter = self.world.waiter()
        self._room.append(waiter)
        try:
            waiter.wait(deadline_s)
        except BaseException:
            if waiter in self._room:
                self._room.remove(waiter)
            else:
                self._wake_sender()  # woken, but late or killed: the room is the next one's
            raise

    def _wake_sender(self) -> None:
        if self._room and self.actor_inbox.has_room():
            self._room.pop(0).set()

    def _state(self) -> ActorState:
        oldest_s = self.actor_inbox.oldest_s()
        return ActorState(
            name=self.name, kind=type(self).__name__,
            mailbox_depth=len(self.actor_inbox),
            mailbox_age_s=0.0 if oldest_s is None else self.world.now_s() - oldest_s,
            handled=self._handled, undelivered=self.undelivered, late_replies=self.late_replies,
            busy_s=self._busy_s, turn_s_max=self._turn_s_max,
            children=tuple(self.children), detail=self.describe(),
        )
