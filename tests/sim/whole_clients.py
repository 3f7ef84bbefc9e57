"""The clients of the scenario "whole", and what they may be told.

A client opens sessions at one upstream after another and does in them what comes to its mind. Each
request has one outcome: its own answer; an error that says truly whether it was executed; or its
connection ended, for a reason that the scene knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proxy_actors.errors import ConnectError
from proxy_actors.policy.session_ledger import key_of
from proxy_actors.world.sim_streams import SimStream
from tests.gateway.legacy_client import LegacyClient
from tests.sim.virtual import Answer, VirtualConnection, call, initialize, note, request
from tests.sim.whole_upstreams import ASKED_S_MAX, CALL_S_MAX, Server, Steps

if TYPE_CHECKING:
    from tests.sim.whole_scenario import Scene

# What a call may take beyond its time: waiting for a place, and a network that stalls or vanishes.
LATE_S_MAX = 100.0
# A server closes a connection that has been idle for so long; a request may cross it.
IDLE_S = 70.0
TRIES_MAX = 30


class GivenUp(Exception):
    """There is no proxy any more, or it takes nobody."""


@dataclass
class Session:
    """A session as its client knows it."""

    server: Server
    tag: str
    id: str
    known_by: int
    deleted: bool = False
    gone: bool = False
    asked_apart: bool = False
    """A question came on its standalone stream, where it is not answered."""

    @property
    def key(self) -> str:
        return key_of(self.id)


@dataclass
class Call:
    """A call, and what its client was told of it."""

    n: int
    id: int | str
    session: Session
    steps: Steps
    good: bool
    began_s: float
    told: str = ""
    cancelled: bool = False


class Line(VirtualConnection):
    """A client's connection; knows why it may have ended."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene.world)
        assert isinstance(self.stream, SimStream)
        self._scene = scene
        self._in, self._out = self.stream._in, self.stream._out
        self._tree = scene.trees
        self.keep_alive = True
        self.used_s = self.world.now_s()

    @property
    def usable(self) -> bool:
        """Whether another request may go out on it."""
        return self.keep_alive and self.stream.is_quiet()

    def excuse(self, began_s: float, answer: Answer) -> str | None:
        """Say why an answer may be missing; None when nothing has happened that explains it."""
        assert self._in is not None and self._out is not None
        if self._in._broken or self._in.truncated:
            return "network"
        if self._out.truncated:
            return "request_truncated"
        if self._scene.trees != self._tree or self._scene.over:
            return "proxy_ended"
        if answer.status is not None:
            # Nobody knows then what of the stream has gone out: it is visibly cut.
            return "stream_crashed" if self._scene.crashed["EventStream"] else None
        if not self.keep_alive or began_s - self.used_s > IDLE_S:
            return "unread"
        return "unread_in_a_drain" if self._scene.draining else None


class Client:
    """One client."""

    def __init__(self, scene: Scene, number: int) -> None:
        self.scene = scene
        self.world = scene.world
        self.chance = scene.world.chance
        self.number = number
        self._ids = 0
        self._line: Line | None = None
        self._lines: list[Line] = []

    def run(self) -> None:
        """Live through some sessions."""
        try:
            for _ in range(self.chance.randrange(1, 3)):
                self.world.pass_time(self.chance.random())
                server = self.chance.choice(self.scene.servers)
                if self.chance.random() < 0.15:
                    self.visit(server)
                    continue
                session = self.open(server)
                if session is not None:
                    self.use(session)
        except GivenUp:
            self.scene.saw("client_was_turned_away")
        finally:
            self.close()
            for made in self.scene.calls:
                if made.session.known_by == self.number and not made.told:
                    made.told = "left"

    def use(self, session: Session) -> None:
        """Do in a session what comes to mind."""
        acts = (self.call, self.call, self.call, self.call_badly, self.cancel, self.leave,
                self.call_at_once, self.stand)  # fmt: skip
        for _ in range(self.chance.randrange(2, 6)):
            self.world.pass_time(self.chance.random())
            self.chance.choice(acts)(session)
            if session.gone:
                return
        if self.chance.random() < 0.6:
            self.delete(session)

    # Connections.

    def connect(self) -> Line:
        """Open a connection, however often that takes."""
        for _ in range(TRIES_MAX):
            try:
                self._lines.append(Line(self.scene))
                return self._lines[-1]
            except ConnectError:
                self.scene.saw("connection_was_refused")
                if self.scene.over or self.scene.draining:
                    break
                self.world.pass_time(1.0)
        raise GivenUp

    def line(self) -> Line:
        """The client's usual connection."""
        if self._line is None or not self._line.usable:
            if self._line is not None:
                self._line.close()
            self._line = self.connect()
        return self._line

    # Sessions.

    def open(self, server: Server) -> Session | None:
        """Shake hands; None where that fails, which is told."""
        scene, line = self.scene, self.line()
        tag = scene.next_tag()
        message = initialize()
        message["params"]["clientInfo"]["name"] = tag
        message["params"]["capabilities"] = {"elicitation": {}}
        began_s = self.world.now_s()
        answer = line.ask(request(message, path=self.path(server)))
        self.note_use(line, answer)
        if not answer.complete:
            scene.check(line.excuse(began_s, answer), f"initialize was cut: {answer}")
            return None
        if "error" in answer.message:
            scene.check(not scene.sane, f"initialize was refused: {answer}")
            scene.saw("initialize_failed")
            return None
        id = answer.field(b"mcp-session-id")
        scene.check(id is not None, f"no session came with {answer}")
        assert id is not None
        session = Session(server, tag, id.decode(), self.number)
        scene.sessions.append(session)
        self.tell(session, note("notifications/initialized"))
        return session

    def delete(self, session: Session) -> None:
        """End a session."""
        session.gone = True
        line = self.line()
        began_s = self.world.now_s()
        answer = line.ask(self.request(session, None, "DELETE"), "DELETE")
        self.note_use(line, answer)
        if not answer.complete:
            self.scene.check(line.excuse(began_s, answer), f"DELETE was cut: {answer}")
        elif answer.status == 200:
            session.deleted = True
            self.scene.saw("session_deleted")
        else:
            self.scene.check(not self.scene.sane or answer.status == 404, f"DELETE got {answer}")

    def path(self, server: Server) -> str:
        return f"/mcp/{server.name}"

    def request(self, session: Session, body: Any, method: str = "POST") -> bytes:
        return request(body, method, session.id, path=self.path(session.server))

    def note_use(self, line: Line, answer: Answer) -> None:
        line.keep_alive = answer.complete and answer.keep_alive
        line.used_s = self.world.now_s()

    # Calls.

    def new_call(
        self, session: Session, good: bool = True, asks: bool = False
    ) -> tuple[Call, dict[str, Any]]:
        """Make a call; ids are the same for all clients, so that a mix-up shows.

        Args:
            asks: whether a question of the server will be answered; it may wait long for that.
        """
        server = session.server
        steps = self.chance.choice(
            [x for x in (server.good if good else server.bad) if asks or "ask" not in x]
        )
        self._ids += 1
        id: int | str = self._ids if self._ids % 3 else str(self._ids)
        n = self.scene.next_number()
        made = Call(n, id, session, steps, good, self.world.now_s())
        self.scene.calls.append(made)
        body = call(n, *steps, id=id)
        body["params"]["_meta"] = {"progressToken": n}
        body["params"]["arguments"]["tag"] = session.tag
        posts = self.chance.choice(server.posts)
        if posts:
            body["params"]["arguments"]["post"] = list(posts)
        return made, body

    def call(self, session: Session, good: bool = True) -> Call:
        """Call on the usual connection."""
        line = self.line()
        made, body = self.new_call(session, good, asks=True)
        if "ask" in made.steps:
            self.answering(made, line, body)
            return made
        self.judge(made, line, line.ask(self.request(session, body)))
        return made

    def call_badly(self, session: Session) -> None:
        """Call what the server does not do well."""
        if not self.scene.calm:
            self.call(session, good=False)

    def call_at_once(self, session: Session) -> None:
        """Call several times at once."""
        underway = []
        for _ in range(2):
            line = self.connect()
            made, body = self.new_call(session)
            line.send(self.request(session, body))
            underway.append((made, line, self.reading(line)))
        for made, line, answer in underway:
            self.await_end(line, answer)
            self.judge(made, line, answer)
            line.close()

    def answering(self, made: Call, line: Line, body: Any) -> None:
        """Call, and answer what is asked in the meantime from another connection (MCP-S-23)."""
        line.send(self.request(made.session, body))
        answer = self.reading(line)
        answered: set[Any] = set()
        while not self.over(line, answer):
            self.world.pass_time(1.0)
            for message in answer.messages if answer.is_stream else ():
                id = message.get("id") if "method" in message else None
                if id is not None and id not in answered:
                    answered.add(id)
                    params = message["params"]
                    about = {key: params[key] for key in ("n", "tag") if key in params}
                    result = {"action": "accept", "content": about}
                    reply = {"jsonrpc": "2.0", "id": id, "result": result}
                    made.good &= self.tell(made.session, reply, self.connect())
                    self.scene.saw("question_was_answered")
        made.good &= not made.session.asked_apart
        self.judge(made, line, answer)

    def cancel(self, session: Session) -> None:
        """Call, and cancel after a while (MCP-X-3)."""
        line = self.connect()
        made, body = self.new_call(session, self.scene.calm or self.chance.random() < 0.7)
        made.good, made.cancelled = False, True
        line.send(self.request(session, body))
        answer = self.reading(line)
        self.world.pass_time(self.chance.random() * 3)
        self.tell(session, note("notifications/cancelled", requestId=made.id))
        self.await_end(line, answer)
        self.judge(made, line, answer)
        line.close()

    def leave(self, session: Session) -> None:
        """Leave in mid-call: it runs to its end (MCP-S-21)."""
        line = self.connect()
        made, body = self.new_call(session)
        line.send(self.request(session, body))
        self.world.pass_time(self.chance.random() * 3)
        made.told = "left"
        self.scene.saw("left_in_mid_call")
        line.close()

    def stand(self, session: Session) -> None:
        """Read the session's standalone stream for a while, beside what else is done."""
        line = self.connect()
        line.send(self.request(session, None, "GET"))
        self.scene.at_work("stander", lambda: self._stand(session, line))

    def _stand(self, session: Session, line: Line) -> None:
        answer = Answer()
        began_s = self.world.now_s()
        self.scene.at_work("reader", lambda: self._read(line, answer, "GET"))
        until_s = began_s + self.chance.random() * 20
        while self.world.now_s() < until_s and not self.over(line, answer):
            self.world.pass_time(2.0)
        scene = self.scene
        if answer.status == 200:
            scene.saw("stood")
            for message in answer.messages:
                params = message.get("params") or {}
                data = params.get("data")
                about = data if isinstance(data, dict) else params
                scene.check(about.get("tag", session.tag) == session.tag, f"heard {message}")
                scene.check("method" in message, f"an answer on a standalone stream: {message}")
                session.asked_apart |= "id" in message
                scene.saw("news_arrived")
        elif answer.status == 404:
            self.note_gone(session)
        elif answer.status is None and self.over(line, answer):
            scene.check(line.excuse(began_s, answer), f"a GET was cut: {answer}")
        line.close()

    def tell(self, session: Session, message: Any, line: Line | None = None) -> bool:
        """Send what has no answer; say whether it was accepted."""
        own, line = line is not None, line or self.line()
        began_s = self.world.now_s()
        answer = line.ask(self.request(session, message))
        self.note_use(line, answer)
        if own:
            line.close()
        if not answer.complete:
            self.scene.check(line.excuse(began_s, answer), f"{message} was cut: {answer}")
        elif answer.status == 404:
            self.note_gone(session)
        return answer.status == 202

    # HTTP+SSE.

    def visit(self, server: Server) -> None:
        """Be a client of HTTP+SSE: the stream is the session."""
        lines: list[Line] = []

        def connect() -> Line:
            lines.append(self.connect())
            return lines[-1]

        began_s = self.world.now_s()
        try:
            legacy = LegacyClient(self.world, f"/sse/{server.name}", connect=connect, look_s=0.5)
            self._visit(legacy, server)
            stream, answer = lines[0], legacy.answer
            if legacy.gone and not answer.complete:
                self.scene.check(stream.excuse(began_s, answer), f"/sse was cut: {answer}")
        finally:
            for line in lines:
                line.close()

    def _visit(self, legacy: LegacyClient, server: Server) -> None:
        session = Session(server, self.scene.next_tag(), "", self.number)
        message = initialize()
        message["params"]["clientInfo"]["name"] = session.tag
        if not legacy.events or self._send(legacy, message, None) is None:
            self.scene.check(not self.scene.sane, f"/sse got {legacy.answer}")
            return
        legacy.post(note("notifications/initialized"))
        for _ in range(self.chance.randrange(1, 3)):
            made, body = self.new_call(session)
            final = self._send(legacy, body, made)
            if final is None:
                self.settle(made, "cut")
                break
            self.accept(made, final)
            self.scene.saw("legacy_call_ended")

    def _send(self, legacy: LegacyClient, body: Any, made: Call | None) -> Any:
        """Send a request; return its answer, or None where there is none."""
        accepted = legacy.post(body)
        if accepted.status != 202:
            if accepted.complete and "error" in accepted.message and made is not None:
                return accepted.message
            return None

        def final() -> Any:
            return next(
                (x for x in legacy.messages if "method" not in x and x.get("id") == body["id"]),
                None,
            )

        legacy.until(lambda: final() or legacy.gone or legacy.answer.complete)
        return final()

    # Judgement.

    def reading(self, line: Line) -> Answer:
        """Read an answer in a greenlet of its own."""
        answer = Answer()
        self.scene.at_work("reader", lambda: self._read(line, answer))
        return answer

    def _read(self, line: Line, answer: Answer, method: str = "POST") -> None:
        line.receive(method, answer)
        setattr(answer, "over", True)

    def over(self, line: Line, answer: Answer) -> bool:
        """Whether nothing more can come."""
        return getattr(answer, "over", False)

    def await_end(self, line: Line, answer: Answer) -> None:
        """Wait until nothing more can come."""
        while not self.over(line, answer):
            self.world.pass_time(1.0)

    def note_gone(self, session: Session) -> None:
        """A request was answered with 404."""
        scene = self.scene
        known = session.gone or session.server.lost() or scene.evicts
        # A session whose DELETE was cut may have been ended by it.
        scene.check(known, f"{session} is gone, and nobody ended it")
        session.gone = True

    def judge(self, made: Call, line: Line, answer: Answer) -> None:
        """Judge what a client got."""
        scene = self.scene
        self.note_use(line, answer)
        for message in answer.messages if answer.is_stream else ():
            if "method" in message:
                self.check_company(made, message)
        took_s = self.world.now_s() - made.began_s
        may_s = CALL_S_MAX + LATE_S_MAX + (ASKED_S_MAX if "ask" in made.steps else 0.0)
        scene.check(took_s <= may_s, f"{made} took {took_s} s")
        if took_s > ASKED_S_MAX:
            scene.saw("asked_in_vain")
        finals = [x for x in answer.messages if "method" not in x]
        scene.check(len(finals) <= 1, f"{made} has the answers {finals}")
        if finals:
            self.accept(made, finals[0], answer)
        elif answer.complete and answer.status == 200:
            scene.check(made.cancelled, f"{made} was never answered")
            self.settle(made, "ended_as_cancelled")
        else:
            excuse = line.excuse(made.began_s, answer)
            scene.check(excuse, f"{made} was cut, and nothing has happened: {answer}")
            scene.saw(f"cut_{excuse}")
            self.settle(made, "cut")

    def check_company(self, made: Call, message: Any) -> None:
        """Check that what came with an answer is about its call, or its session."""
        params = message.get("params") or {}
        data = params.get("data")
        about = data if isinstance(data, dict) else params
        check = self.scene.check
        check(params.get("progressToken", made.n) == made.n, f"{made} heard {message}")
        check(about.get("tag", made.session.tag) == made.session.tag, f"{made} heard {message}")

    def accept(self, made: Call, message: Any, answer: Answer | None = None) -> None:
        """Judge an answer."""
        scene = self.scene
        if "result" in message:
            result = message["result"]
            about = result.get("structuredContent") or {}
            texts = [x["text"] for x in result["content"]]
            right = about == {"n": made.n, "tag": made.session.tag} or texts == [f"n={made.n}"]
            scene.check(right and message["id"] == made.id, f"{made} got {message}")
            self.settle(made, "result")
            return
        data = message["error"].get("data") or {}
        scene.check(message["error"]["message"] != "internal error", f"{made} got {message}")
        if "n" in data:
            scene.check(data == {"n": made.n, "tag": made.session.tag}, f"{made} got {message}")
            self.settle(made, "result")
            return
        reason, executed = data.get("reason", "refused"), data.get("executed", "no")
        scene.check(message.get("id") in (made.id, None), f"{made} got {message}")
        ending = scene.draining or scene.over
        scene.check(reason != "draining" or ending, f"{made} got {message}")
        if answer is not None and answer.status == 404:
            self.note_gone(made.session)
        self.settle(made, f"{reason}_{executed}")

    def settle(self, made: Call, told: str) -> None:
        """Note the one outcome of a call."""
        scene = self.scene
        scene.check(not made.told, f"{made} was told {told} as well")
        made.told = told
        scene.saw(f"told_{told}")
        gone = made.session.gone or made.session.server.lost() and not scene.calm
        fine = told == "result" or not made.good or gone or made.cancelled
        scene.check(fine or not scene.sane, f"{made} was told {told}")

    def live(self, server: Server) -> None:
        """Open a session after all faults, and use it: everything must go well."""
        session = self.open(server)
        assert session is not None
        for _ in range(2):
            made = self.call(session)
            self.scene.check(made.told == "result", f"{made} after all faults have healed")
        self.delete(session)
        self.close()

    def close(self) -> None:
        """Close all connections."""
        for line in self._lines:
            line.close()
