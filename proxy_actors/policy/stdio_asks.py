"""What the children of all sessions are asked in the proxy's name, and what they were told last.

A part of `stdio_sessions.py`, which decides what to ask. Owns the list of children that are ready,
the asks that are underway for clients, and what was told last: the level that every child has, and
the URIs that some child may be subscribed to. An ask goes to every child that is ready and is over
when the last of them has answered or ended; it went well if one of them said so, since one that
ended meanwhile is replaced by one that is told anew.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from proxy_actors.errors import Executed, Reason
from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.stdio_effects import SharedSessionsEffect
from proxy_actors.protocol import jsonrpc_rewrite
from proxy_actors.protocol.revisions import SET_LEVEL, SUBSCRIBE


class Ask:
    """A client's request that the children run; `withdrawn` if it wants none of it any more."""

    __slots__ = (
        "call_id", "client_id", "error", "left", "method", "reason", "result", "session_key",
        "value", "withdrawn",
    )  # fmt: skip

    def __init__(self, submit: m.SubmitCall, value: str) -> None:
        assert submit.request.id is not None and submit.request.method is not None
        self.call_id: int | None = submit.call_id  # None when nobody waits for the answer
        self.client_id = submit.request.id
        self.session_key = submit.session_key
        self.method = submit.request.method
        self.value = value
        self.withdrawn = False
        self.left = 0
        self.result: bytes | None = None
        self.error: bytes | None = None
        self.reason = Reason.PROCESS_EXITED

    def outcome(self, call_id: int) -> SharedSessionsEffect:
        """Tell the client what came of it."""
        if self.result is not None:
            data = jsonrpc_rewrite.result(self.client_id, msgspec.Raw(self.result))
            return e.AnswerOwn(call_id, data)
        if self.error is not None:
            id, fault = msgspec.Raw(self.client_id), msgspec.Raw(self.error)
            data = msgspec.json.encode({"jsonrpc": "2.0", "id": id, "error": fault})
            return e.AnswerOwn(call_id, data)
        text = "the server process ended before it answered"
        if self.reason is Reason.UPSTREAM_TIMEOUT:
            text = "the upstream did not answer in time"
        return e.FailOwn(call_id, self.reason, text, Executed.UNKNOWN)


class ChildrenAsks:
    """The asks at the children of one upstream."""

    def __init__(self) -> None:
        self.told_level: str | None = None  # or nobody knows
        self.told_uris: set[str] = set()
        self._children: list[str] = []
        self._asks: dict[int, tuple[Ask, str]] = {}
        self._serial = 0

    @property
    def possible(self) -> bool:
        """Whether there is a child that could answer."""
        return bool(self._children)

    def pending(self, method: str) -> list[Ask]:
        """List the asks that are still wanted; one may be in it more than once."""
        return [
            ask for ask, _ in self._asks.values() if ask.method == method and not ask.withdrawn
        ]

    def ask(
        self, submit: m.SubmitCall, value: str, told: str, effects: list[SharedSessionsEffect]
    ) -> None:
        """Ask for a client; the children are told `told` where it has said `value`."""
        ask = Ask(submit, value)
        asked = self.tell(ask.method, told, effects)
        self._asks.update((own.own_id, (ask, own.child)) for own in asked)
        ask.left = len(asked)

    def tell(
        self, method: str, value: str, effects: list[SharedSessionsEffect]
    ) -> list[e.AskChild]:
        """Tell every child, whatever it answers."""
        self._note(method, value)
        asked = [self._request(child, method, value) for child in self._children]
        effects.extend(asked)
        return asked

    def abandon(self, call_id: int) -> None:
        """The client waits no more; what the children make of it counts all the same."""
        for ask, _ in self._asks.values():
            if ask.call_id == call_id:
                ask.call_id = None

    def withdraw(self, session_key: str, uri: str | None = None) -> set[str]:
        """The session wants nothing more of what it has asked for, or not this subscription.

        Returns:
            The URIs that it had asked to be subscribed to.
        """
        withdrawn = set()
        for ask, _ in self._asks.values():
            subscribes = ask.method == SUBSCRIBE and uri in (None, ask.value)
            if ask.session_key == session_key and (uri is None or subscribes):
                ask.withdrawn = True
                if subscribes:
                    withdrawn.add(ask.value)
        return withdrawn

    def answered(self, answer: m.OwnAnswered) -> Ask | None:
        """Return the ask that is over with this answer."""
        ask, _ = self._asks.pop(answer.own_id, (None, ""))
        if ask is None:
            return None
        ask.left -= 1
        ask.reason = answer.reason
        if ask.result is None:
            ask.result = answer.result
        if ask.error is None:
            ask.error = answer.error
        if ask.left:
            return None
        if ask.method == SET_LEVEL and ask.result is None:
            self.told_level = None
        return ask

    def became_ready(
        self,
        child: str,
        level: str | None,
        uris: list[str],
        effects: list[SharedSessionsEffect],
    ) -> None:
        """Tell the child what the others know."""
        self._children.append(child)
        if len(self._children) > 1 and level != self.told_level:
            self.told_level = None  # some are being told another one
        else:
            self.told_level = level
        if level is not None:
            effects.append(self._request(child, SET_LEVEL, level))
        for uri in uris:
            self._note(SUBSCRIBE, uri)
            effects.append(self._request(child, SUBSCRIBE, uri))

    def gone(self, child: str) -> Iterator[Ask]:
        """Yield the asks that are over with this child: one after another, as answers come."""
        if child in self._children:
            self._children.remove(child)
        owed = [own_id for own_id, (_, asked) in self._asks.items() if asked == child]
        for own_id in owed:
            ask = self.answered(m.OwnAnswered(own_id))
            if ask is not None:
                yield ask

    def _note(self, method: str, value: str) -> None:
        if method == SET_LEVEL:
            self.told_level = value
        elif method == SUBSCRIBE:
            self.told_uris.add(value)
        else:
            self.told_uris.discard(value)

    def _request(self, child: str, method: str, value: str) -> e.AskChild:
        self._serial += 1
        name = "level" if method == SET_LEVEL else "uri"
        return e.AskChild(child, self._serial, method, msgspec.json.encode({name: value}))
