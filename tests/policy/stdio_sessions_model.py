"""The rules of sessions that share children, and everything that can happen to them.

The world beside the policy: clients, who know what they were told; servers, who apply what they
are asked in order, refuse it, or fall silent; children that end and are started anew.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from proxy_actors.errors import Executed, Reason
from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.sessions import SessionEnded
from proxy_actors.messages.stdio_effects import SharedSessionsEffect
from proxy_actors.policy.stdio_sessions import (
    LEVELS,
    LIST_CHANGED,
    UPDATED,
    SharedSessionsMessage,
    SharedSessionsPolicy,
)
from proxy_actors.protocol import jsonrpc, jsonrpc_rewrite
from proxy_actors.protocol.revisions import SET_LEVEL, SUBSCRIBE, UNSUBSCRIBE
from tests.policy.search import Subject, check
from tests.policy.stdio_frames import DESCRIBED, ended, notification, request, session

URI = "test://a"
SESSIONS_MAX = 2
QUEUE_MAX = 2
OK = b"{}"
FAULT = b'{"code":-32601,"message":"no"}'
LOG_MESSAGE = "notifications/message"
FRAMES = {
    "list": notification(LIST_CHANGED[0]),
    "updated": notification(UPDATED, uri=URI),
    "log": notification(LOG_MESSAGE, level="warning", data="x"),
}


@dataclass(frozen=True)
class Answer:
    """A child answers its oldest ask: well, badly, or not in time, having done it or not."""

    child: str
    how: str


@dataclass(frozen=True)
class StreamEnds:
    """The session's client has closed its stream."""

    key: str


Move = SharedSessionsMessage | Answer | StreamEnds


@dataclass
class Client:
    """A session as its client knows it."""

    key: str
    level: str | None = None
    uris: set[str] = field(default_factory=set)
    stream_open: bool = False
    missed: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Call:
    """A call that the children are asked; `withdrawn` if its client wants nothing of it."""

    id: int
    key: str
    method: str
    value: str
    left: int = 0
    waited_for: bool = True
    withdrawn: bool = False
    results: list[bytes | None] = field(default_factory=list)
    errors: list[bytes | None] = field(default_factory=list)
    reason: Reason = Reason.PROCESS_EXITED


@dataclass
class Asked:
    """An ask at a child; of a call, or the proxy's own."""

    own_id: int
    method: str
    value: str
    call: Call | None


@dataclass
class Child:
    """A server's own state, and what it has been asked and not answered."""

    name: str
    level: str | None = None
    uris: set[str] = field(default_factory=set)
    queue: list[Asked] = field(default_factory=list)

    def apply(self, asked: Asked) -> None:
        if asked.method == SET_LEVEL:
            self.level = asked.value
        elif asked.method == SUBSCRIBE:
            self.uris.add(asked.value)
        else:
            self.uris.discard(asked.value)


class SharedSessionsSubject(Subject):
    """An upstream of so many children; `levels`, `uris` and `frames` are what clients deal with.

    Where servers may refuse, clients may also give up waiting.
    """

    def __init__(
        self,
        children: int,
        levels: tuple[str, ...] = (),
        uris: tuple[str, ...] = (),
        frames: tuple[str, ...] = (),
        refuses: bool = False,
        calls_max: int = 2,
    ) -> None:
        self.children_max, self.calls_max = children, calls_max
        self.levels, self.uris, self.frames = levels, uris, frames
        self.refuses = refuses
        self.children: dict[str, Child] = {}
        self.clients: dict[str, Client] = {}
        self.calls: dict[int, Call] = {}
        self.numbers = self.starts = 0
        self.gone_asks: list[int] = []
        self.last_key = "nobody"
        self.wanted: set[str | None] = set()
        self.policy = SharedSessionsPolicy(children)

    # What can happen.

    def moves(self) -> Iterator[Move]:
        for child in self.children.values():
            if child.queue:
                yield from (Answer(child.name, how) for how in self._answers(child.queue[0]))
            yield m.ProcessGone(child.name, "gone")
        if any(len(child.queue) >= QUEUE_MAX for child in self.children.values()):
            return
        if len(self.children) < self.children_max:
            yield m.ProcessReady(f"child {self.starts}", DESCRIBED)
        if len(self.clients) < SESSIONS_MAX:
            key = f"session {self.numbers}"
            yield m.SessionSeen(session(key))
            if self.levels or self.uris:
                level = self.levels[0] if self.levels else None
                yield m.SessionSeen(session(key, level=level, subscriptions=self.uris))
        for call in self.calls.values():
            if call.waited_for and self.refuses:
                yield m.AbandonCall(call.id)
        for client in self.clients.values():
            yield ended(client.key)
            if len(self.calls) < self.calls_max:
                yield from self._submissions(client.key)
            if self.frames:
                if client.stream_open:
                    yield StreamEnds(client.key)
                yield m.OpenStandalone(client.key)
        yield from (m.NotificationReceived(FRAMES[name]) for name in self.frames)

    def _answers(self, asked: Asked) -> Iterator[str]:
        yield "ok"
        if self.refuses and asked.call is not None and asked.method != UNSUBSCRIBE:
            yield from ("error", "late, but done", "late and not done")

    def _submissions(self, key: str) -> Iterator[m.SubmitCall]:
        for level in self.levels:
            yield self._submission(key, request(b'"x"', SET_LEVEL, level=level))
        for uri in self.uris:
            for method in (SUBSCRIBE, UNSUBSCRIBE):
                yield self._submission(key, request(b"0", method, uri=uri))

    def _submission(self, key: str, call: jsonrpc.Message) -> m.SubmitCall:
        return m.SubmitCall(self.numbers + 1, key, call, 300.0)

    def make(self, move: Move) -> None:
        match move:
            case StreamEnds(key):
                self.policy.stream_ended(key)
                self.clients[key].stream_open = False
            case Answer(name, how):
                self._answer(self.children[name], how)
            case _:
                self._tell(move)

    def settle(self) -> None:
        """When all is answered, the children know what is wanted, and nothing else."""
        self._ignores_nonsense()
        for _ in range(50):
            busy = [child for child in self.children.values() if child.queue]
            if not busy:
                break
            self._answer(busy[0], "ok")
        check(not busy, "the children are asked for ever")
        check(not self.calls or not self.children, "a call is never answered")
        wanted = {uri for client in self.clients.values() for uri in client.uris}
        level = verbose([client.level for client in self.clients.values()])
        for child in self.children.values():
            check(child.uris == wanted, f"subscribed to {child.uris}, wanted are {wanted}")
            check(level in (None, child.level), f"the level is {child.level}, wanted is {level}")
        for name in FRAMES:
            for key in (*self.clients, "of an ended session"):
                self._tell(m.NotificationReceived(FRAMES[name], frozenset({key})))

    def key(self) -> Hashable:
        place = {key: number for number, key in enumerate(self.clients)}
        calls = {call_id: number for number, call_id in enumerate(self.calls)}
        return (
            tuple(
                (x.level, tuple(sorted(x.uris)), x.stream_open, tuple(x.missed.items()))
                for x in self.clients.values()
            ),
            tuple(
                (place.get(x.key), x.method, x.value, x.left, x.waited_for, x.withdrawn,
                 x.reason if not x.results else "", any(x.results), any(x.errors))
                for x in self.calls.values()
            ),
            tuple(
                (x.level, tuple(sorted(x.uris)), tuple(
                    (y.method, y.value, None if y.call is None else calls[y.call.id])
                    for y in x.queue
                ))
                for x in self.children.values()
            ),
            self.starts >= self.children_max,
            self.policy._asks.told_level, tuple(sorted(self.policy._asks.told_uris)),
        )  # fmt: skip

    # What must become of it.

    def _tell(self, message: SharedSessionsMessage) -> None:
        self._note_wanted()
        effects = self.policy.handle(message)
        expected: list[SharedSessionsEffect] = []
        match message:
            case m.SubmitCall():
                self.numbers += 1
                expected = self._submitted(message, effects)
            case m.AbandonCall(call_id):
                self.calls[call_id].waited_for = False
            case m.SessionSeen(seen):
                self.numbers += 1
                self.last_key = seen.key
                self.clients[seen.key] = Client(seen.key, seen.log_level, set(seen.subscriptions))
            case SessionEnded(gone):
                expected = self._ended(gone.key)
            case m.OpenStandalone(key):
                expected = self._opened(self.clients[key])
            case m.NotificationReceived(frame, at_work_for):
                name = next(x for x in FRAMES if FRAMES[x] is frame)
                expected = self._notified(name, at_work_for)
            case m.ProcessReady(name):
                expected = self._became_ready(name)
            case m.ProcessGone(name):
                expected = self._gone(self.children.pop(name))
            case _:
                raise AssertionError(message)
        self._check(message, effects, expected)

    def _answer(self, child: Child, how: str) -> None:
        asked = child.queue.pop(0)
        if how in ("ok", "late, but done"):
            child.apply(asked)
        answer = m.OwnAnswered(asked.own_id, reason=Reason.UPSTREAM_TIMEOUT)
        if how == "ok":
            answer = m.OwnAnswered(asked.own_id, OK)
        elif how == "error":
            answer = m.OwnAnswered(asked.own_id, None, FAULT)
        self._note_wanted()
        effects = self.policy.handle(answer)
        self._check(answer, effects, self._answered(asked, answer))

    def _submitted(
        self, submit: m.SubmitCall, effects: list[SharedSessionsEffect]
    ) -> list[SharedSessionsEffect]:
        assert submit.request.method is not None and submit.request.id is not None
        (raw,) = submit.request.params.values()
        value = json.loads(bytes(raw))
        call = Call(submit.call_id, submit.session_key, submit.request.method, value)
        client = self.clients[call.key]
        here = e.AnswerOwn(call.id, jsonrpc_rewrite.result(submit.request.id, {}))
        others = [other for other in self.clients.values() if other is not client]
        if call.method == UNSUBSCRIBE:
            client.uris.discard(value)
            for other in self.calls.values():
                if (other.key, other.method, other.value) == (call.key, SUBSCRIBE, value):
                    other.withdrawn = True
            if not self.children or self._is_wanted(value):
                return [here]
            if not any(child.uris or child.queue for child in self.children.values()):
                return [here]
            if here in effects:  # what no child was told needs no asking, which settle() checks
                return [here]
        elif call.method == SUBSCRIBE and any(value in other.uris for other in (client, *others)):
            client.uris.add(value)
            return [here]
        elif not self.children:
            reason, text = Reason.UPSTREAM_UNAVAILABLE, "no server process is ready"
            return [e.FailOwn(call.id, reason, text, Executed.NO)]
        self.calls[call.id] = call
        call.left = len(self.children)
        return []

    def _ended(self, key: str) -> list[SharedSessionsEffect]:
        client = self.clients.pop(key)
        for call in self.calls.values():
            call.withdrawn = call.withdrawn or call.key == key
        return [e.CloseSessionStream(key)] if client.stream_open else []

    def _opened(self, client: Client) -> list[SharedSessionsEffect]:
        if client.stream_open:
            return [e.JoinSessionStream(client.key)]
        client.stream_open = True
        missed, client.missed = client.missed, {}
        return [
            e.StartSessionStream(client.key),
            *(e.EmitToSessionStream(client.key, data) for data in missed.values()),
        ]

    def _notified(self, name: str, at_work_for: frozenset[str]) -> list[SharedSessionsEffect]:
        frame = FRAMES[name]
        effects: list[SharedSessionsEffect] = []
        clients = [client for client in self.clients.values() if self._concerns(client, name)]
        if name == "log" and not at_work_for <= self.clients.keys():
            clients = []
        for client in clients:
            if client.stream_open:
                effects.append(e.EmitToSessionStream(client.key, frame.raw))
            elif name == "log":
                why = "notification without a stream to its client"
                effects.append(e.DropFrame(why))
            else:
                client.missed[str(frame.method)] = frame.raw
        if not clients:
            effects.append(e.DropFrame("notification that concerns nobody"))
        return effects

    def _concerns(self, client: Client, name: str) -> bool:
        match name:
            case "updated":
                return URI in client.uris
            case "log":
                loud = client.level is None or LEVELS.index("warning") >= LEVELS.index(client.level)
                return len(self.clients) == 1 and loud
            case _:
                return True

    def _became_ready(self, name: str) -> list[SharedSessionsEffect]:
        self.children[name] = Child(name)
        self.starts += 1
        effects: list[SharedSessionsEffect] = []
        if self.starts > self.children_max:
            for client in self.clients.values():
                for method in LIST_CHANGED:
                    data = jsonrpc_rewrite.notification(method)
                    if client.stream_open:
                        effects.append(e.EmitToSessionStream(client.key, data))
                    else:
                        client.missed[method] = data
        return effects

    def _gone(self, child: Child) -> list[SharedSessionsEffect]:
        effects: list[SharedSessionsEffect] = []
        for asked in child.queue:
            self.gone_asks.append(asked.own_id)
            effects += self._answered(asked, m.OwnAnswered(asked.own_id))
        return effects

    def _answered(self, asked: Asked, answer: m.OwnAnswered) -> list[SharedSessionsEffect]:
        call = asked.call
        if call is None:
            return []
        call.left -= 1
        call.results.append(answer.result)
        call.errors.append(answer.error)
        call.reason = answer.reason
        if call.left:
            return []
        del self.calls[call.id]
        client = self.clients.get(call.key)
        if any(call.results) and client is not None and not call.withdrawn:
            if call.method == SUBSCRIBE:
                client.uris.add(call.value)
            elif call.method == SET_LEVEL:
                client.level = call.value
        return [self._outcome(call)] if call.waited_for else []

    def _outcome(self, call: Call) -> SharedSessionsEffect:
        id = b'"x"' if call.method == SET_LEVEL else b"0"
        if any(call.results):
            return e.AnswerOwn(call.id, jsonrpc_rewrite.result(id, {}))
        if any(call.errors):
            return e.AnswerOwn(call.id, b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (id, FAULT))
        late = call.reason is Reason.UPSTREAM_TIMEOUT
        text = "the upstream did not answer in time"
        if not late:
            text = "the server process ended before it answered"
        return e.FailOwn(call.id, call.reason, text, Executed.UNKNOWN)

    def _check(
        self,
        message: SharedSessionsMessage,
        effects: list[SharedSessionsEffect],
        expected: list[SharedSessionsEffect],
    ) -> None:
        others = [effect for effect in effects if not isinstance(effect, e.AskChild)]
        if isinstance(message, m.NotificationReceived):
            others.sort(key=repr)  # who hears first is nobody's business
            expected.sort(key=repr)
        check(others == expected, f"{others} where {expected} is right")
        asks = [effect for effect in effects if isinstance(effect, e.AskChild)]
        call = None
        if isinstance(message, m.SubmitCall):
            call = self.calls.get(message.call_id)
            check((call is not None) == bool(asks), "a call is asked or answered")
        for ask in asks:
            child = self.children.get(ask.child)
            check(child is not None, "a child was asked that is not ready")
            assert child is not None
            (value,) = json.loads(ask.params).values()
            child.queue.append(Asked(ask.own_id, ask.method, value, call))
            self._check_ask(ask.method, value)
        if call is not None:
            check([ask.child for ask in asks] == list(self.children), "every child is asked")
            check({ask.method for ask in asks} == {call.method}, "another thing was asked")
            told = {next(iter(json.loads(ask.params).values())) for ask in asks}
            check(told == {self._told_for(call)}, "the children were told something else")

    def _told_for(self, call: Call) -> str | None:
        """What the caller wants, or what others want who want more of it."""
        if call.method != SET_LEVEL:
            return call.value
        others = [client.level for client in self.clients.values() if client.key != call.key]
        pending = [x for x in self.calls.values() if x.method == SET_LEVEL and not x.withdrawn]
        asked = [x.value for x in pending if x.key != call.key]
        return verbose([call.value, *others, *asked])

    def _check_ask(self, method: str, value: str) -> None:
        """The children are told what is wanted and nothing else."""
        if method == SUBSCRIBE:
            check(self._is_wanted(value), "subscribed to what nobody wants")
        elif method == UNSUBSCRIBE:
            check(not self._is_wanted(value), "unsubscribed from what somebody wants")
        else:
            check(value in self.wanted | self._levels(), "a level that nobody wants")
            replaced = {call.key for call in self.calls.values() if call.method == SET_LEVEL}
            kept = [x.level for x in self.clients.values() if x.key not in replaced]
            loudest = verbose([value, *kept])
            check(loudest == value, "less verbose than somebody wants")

    def _note_wanted(self) -> None:
        """What ends with a child ends one after another, and each may be wanted in between."""
        self.wanted = self._levels()

    def _levels(self) -> set[str | None]:
        pending = [x for x in self.calls.values() if x.method == SET_LEVEL and not x.withdrawn]
        return {x.value for x in pending} | {x.level for x in self.clients.values()}

    def _is_wanted(self, uri: str) -> bool:
        pending = any(
            (call.method, call.value) == (SUBSCRIBE, uri) and not call.withdrawn
            for call in self.calls.values()
        )
        return pending or any(uri in client.uris for client in self.clients.values())

    def _ignores_nonsense(self) -> None:
        """What comes twice, late, or speaks of nobody changes nothing."""
        before = self.key()
        known = next(iter(self.clients), "nobody")
        nonsense: list[SharedSessionsMessage] = [
            m.AbandonCall(-1), m.OwnAnswered(-1, OK), ended("nobody"), m.ProcessReady("runs"),
            m.ProcessGone("nobody", "gone"), m.SessionSeen(session(known, level="debug"))
            if known in self.clients else m.AbandonCall(-1),
            *(m.OwnAnswered(own_id, OK) for own_id in self.gone_asks[-1:]),
        ]  # fmt: skip
        if self.last_key not in self.clients and self.last_key != "nobody":
            nonsense += [m.SessionSeen(session(self.last_key)), ended(self.last_key)]
        for message in nonsense:
            effects = self.policy.handle(message)
            check(not effects, f"{message} had the effects {effects}")
            check(self.policy.sessions == len(self.clients), "sessions are counted wrongly")
        for key in {"nobody", self.last_key} - self.clients.keys():
            (refused,) = self.policy.handle(m.OpenStandalone(key))
            check(isinstance(refused, e.RefuseSessionStream), "nobody has a stream")
            submit = m.SubmitCall(-1, key, request(b"0", SUBSCRIBE, uri=URI), 300.0)
            (failed,) = self.policy.handle(submit)
            check(isinstance(failed, e.FailOwn), "nobody subscribes")
        check(self.key() == before, "nonsense changed something")


def verbose(levels: list[str | None]) -> str | None:
    wanted = [level for level in levels if level is not None]
    return min(wanted, key=LEVELS.index, default=None)
