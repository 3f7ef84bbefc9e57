"""The rules of an HTTP upstream's index of streams, in books of their own."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from proxy_actors.messages import http_upstream as m
from proxy_actors.messages.http_upstream import HttpUpstreamEffect, HttpUpstreamMessage
from proxy_actors.messages.pool import PoolDrained
from proxy_actors.messages.sessions import EndReason, Session, SessionEnded
from proxy_actors.messages.stream import RequestOpened, StreamOver
from proxy_actors.messages.upstream import DrainUpstream
from proxy_actors.policy.http_upstream import HttpUpstreamPolicy
from tests.policy.search import Subject, check

SESSIONS = ("a", "b")
CALL_IDS = (b"1", b"2")
REQUEST_IDS = (b"7", b"8")
STREAMS_MAX = 3


def session(key: str, upstream_id: str | None = "up") -> Session:
    """A session as the registry knows it."""
    return Session(key, "p", "default", "", upstream_id, "2025-11-25", b"{}")


# What the shell does, beside messages: reserve, open a standalone stream, open a call's.
Reserve = tuple[str, str, int]
Move = HttpUpstreamMessage | Reserve | tuple[str, str, bytes]


class HttpUpstreamSubject(Subject):
    """One upstream.

    `sloppy` peers use an id twice at once, which the protocol forbids: then an answer or a
    cancellation may reach either of those that it could mean, and none of the others. `open` are
    the requests of the server by the stream that they came on; `over` are the streams on which
    nothing happens any more, by session.
    """

    def __init__(
        self,
        sessions: tuple[str, ...] = SESSIONS,
        ids: int = 1,
        sloppy: bool = False,
        drains: bool = False,
        overs: int = 0,
    ) -> None:
        self.policy = HttpUpstreamPolicy()
        self.call_ids, self.request_ids = CALL_IDS[:ids], REQUEST_IDS[:ids]
        self.sessions = sessions
        self.sloppy = sloppy
        self.drains = drains
        self.overs = overs
        self.draining = self.pool_drained = self.drained = False
        self.ended: set[str] = set()
        self.serial = 0
        self.calls: dict[str, tuple[str, bytes]] = {}
        self.standalone: dict[str, str] = {}
        self.opening: dict[str, int] = {}
        self.open: dict[str, set[bytes]] = {}
        self.closing: set[str] = set()
        self.over: dict[str, str] = {}

    def moves(self) -> Iterator[Move]:
        streams = [*self.calls, *self.standalone.values()]
        for stream in self.over:
            yield m.StreamStopped(stream)
        for key in self.sessions:
            yield ("reserve", key, self.serial + 1)
            if key in self.opening:
                yield ("open", key, self.opening[key])
                yield m.ReleaseStandalone(key, self.opening[key])
            yield m.ReleaseStandalone(key, self.serial + 1)
            for call_id in self.call_ids if len(streams) + len(self.over) < STREAMS_MAX else ():
                if self.sloppy or (key, call_id) not in self.calls.values():
                    yield ("call", key, call_id)
            yield from (m.ClientCancelled(key, call_id) for call_id in self.call_ids)
            yield from (m.ClientAnswered(key, id) for id in self.request_ids)
            yield SessionEnded(session(key), EndReason.DELETED)
        for stream in streams:
            yield m.StreamStopped(stream)
            if len(self.over) < self.overs:
                yield StreamOver(stream)
            for id in self.request_ids:
                if self.sloppy or not self._asked(self._key_of(stream), id):
                    yield RequestOpened(stream, id)
        yield m.StreamStopped("nobody")
        yield RequestOpened("nobody", b"7")
        yield StreamOver("nobody")
        if self.drains and not self.draining:
            yield DrainUpstream()
        if self.draining and not self.pool_drained:
            yield PoolDrained()

    def make(self, move: Move) -> None:
        self.serial += 1
        if isinstance(move, tuple):
            effects = self._act(*move)
        else:
            effects = self.policy.handle(move)
            self._observe(move, effects)
        self._check_drain(effects)
        check(
            sorted(self.policy.streams()) == sorted(self._all()),
            "the streams that are there are known, and no others",
        )
        for key in self.sessions:
            check(self.policy.standing(key) == self.standalone.get(key), "who stands can be joined")
        known = {
            *self.standalone, *self.opening, *(key for key, _ in self.calls.values()),
            *self.over.values(),
        }  # fmt: skip
        check(set(self.policy._sessions) == known, "sessions without streams are forgotten")
        self.ended &= known
        drained = self.pool_drained and not self.calls and not self.drained
        check((m.AnnounceDrained() in effects) == drained, "a drain ends once, with the last call")
        self.drained |= drained

    def key(self) -> Hashable:
        names = {name: at for at, name in enumerate(self._all())}
        return (
            tuple(self.calls.values()), tuple(sorted(self.opening)),
            tuple((key, names[name]) for key, name in sorted(self.standalone.items())),
            tuple(tuple(sorted(self.open.get(name, ()))) for name in names), self.draining,
            tuple(name in self.closing for name in names), tuple(self.over.values()),
            tuple(sorted(self.ended)), self.pool_drained, self.drained,
            tuple(sorted(
                (key, id, names[name])
                for key, entry in self.policy._sessions.items()
                for id, name in [*entry.by_request.items(), *entry.by_call.items()]
            )),
        )  # fmt: skip

    def _act(self, what: str, key: str, value: int | bytes) -> list[HttpUpstreamEffect]:
        if isinstance(value, bytes):
            name = f"call-{self.serial}"
            self.policy.enter_call(name, key, value)
            self.calls[name] = (key, value)
            return []
        free = key not in self.standalone and self.opening.get(key, value) == value
        check(self.policy.reserve_standalone(key, value) == free, "one standalone stream at most")
        if free:
            self.opening[key] = value
        if what == "reserve":
            return []
        name = f"standalone-{self.serial}"
        del self.opening[key]
        self.standalone[key] = name
        effects = self.policy.enter_standalone(name, key)
        late = [m.TellClose(name)] if key in self.ended else []
        check(self.draining or effects == late, "what is opened for who has left is closed")
        return effects

    def _observe(self, move: HttpUpstreamMessage, effects: list[HttpUpstreamEffect]) -> None:
        match move:
            case m.ReleaseStandalone(key, exchange_id):
                if self.opening.get(key) == exchange_id:
                    del self.opening[key]
            case m.ClientCancelled(key, call_id):
                called = [x for x, call in self.calls.items() if call == (key, call_id)]
                self._check_told(called, [m.TellCancelled(name) for name in called], effects)
            case m.ClientAnswered(key, id):
                asked = self._asked(key, id)
                self._check_told(asked, [m.TellAnswered(name, id) for name in asked], effects)
                for effect in effects:
                    if isinstance(effect, m.TellAnswered):
                        self.open[effect.stream].discard(id)
            case RequestOpened(stream, id):
                if stream != "nobody":
                    self.open.setdefault(stream, set()).add(id)
            case m.StreamStopped(stream):
                self._end(stream)
                self.closing.discard(stream)
                self.over.pop(stream, None)
            case StreamOver(stream):
                if stream != "nobody":
                    self.over[stream] = self._key_of(stream)
                    self._end(stream)
            case SessionEnded():
                self._check_session_ended(move.session.key, effects)
            case DrainUpstream():
                self.draining = True
            case PoolDrained():
                self.pool_drained = True

    def _end(self, stream: str) -> None:
        self.open.pop(stream, None)
        self.calls.pop(stream, None)
        for key in [key for key, name in self.standalone.items() if name == stream]:
            del self.standalone[key]

    def _all(self) -> list[str]:
        return [*self.calls, *self.standalone.values(), *self.over]

    def _check_told(
        self,
        meant: list[str],
        possible: list[HttpUpstreamEffect],
        effects: list[HttpUpstreamEffect],
    ) -> None:
        check(len(effects) <= 1, "one stream at most is told")
        check(all(effect in possible for effect in effects), "only who is meant is told")
        check(self.sloppy or bool(effects) == bool(meant), "who is meant is told")

    def _asked(self, key: str, id: bytes) -> list[str]:
        """Which of a session's streams carried this request, not answered yet."""
        return [name for name in self._streams_of(key) if id in self.open.get(name, ())]

    def _key_of(self, stream: str) -> str:
        return next(key for key in self.sessions if stream in self._streams_of(key))

    def _check_session_ended(self, key: str, effects: list[HttpUpstreamEffect]) -> None:
        told = [effect.stream for effect in effects if isinstance(effect, m.TellClose)]
        over = [name for name, of in self.over.items() if of == key]
        check(sorted(told) == sorted(self._streams_of(key) + over), "a session takes all along")
        check(effects[-1] == m.DeleteUpstreamSession("up", "2025-11-25"), "upstream is told")
        self.closing.update(told)
        self.ended.add(key)

    def _check_drain(self, effects: list[HttpUpstreamEffect]) -> None:
        self.closing.update(x.stream for x in effects if isinstance(x, m.TellClose))
        if self.draining:
            busy = {key for key, _ in self.calls.values()}
            for key, name in self.standalone.items():
                check(key in busy or name in self.closing, "a drain leaves no stream without end")
            check(self.closing.issuperset(self.over), "nobody comes back in a drain")

    def _streams_of(self, key: str) -> list[str]:
        calls = [name for name, (of, _) in self.calls.items() if of == key]
        return [*calls, self.standalone[key]] if key in self.standalone else calls
