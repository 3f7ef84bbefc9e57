"""A virtual client of a stdio server behind the proxy: sessions, calls, and a judge of each answer.

All clients count ids and progress tokens from 0 in the same way, so that whatever reaches the wrong
one looks right to it but for what is written in it: every message of a virtual server says which
call and which session it is about.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from proxy_actors.protocol.http1_response import ResponseParser
from proxy_actors.protocol.sse import SseDecoder
from proxy_actors.world.sim_world import SimWorld
from tests.scripted_server import VERSION
from tests.sim.virtual import Answer, VirtualConnection, note, request
from tests.sim.virtual_child import Servers

ENDINGS = (
    ["answer"], ["answer"], ["answer"], ["answer"], ["error"], ["twice"], ["hang", "answer"],
    ["exit 0"], ["answer", "exit 0"], ["half", "exit 1"], ["half", "die"], ["die"],
    ["freeze", "answer"], ["large 30000", "answer"],
)  # fmt: skip
ASIDES = (
    "pause 0.1", "pause 1", "pause 3", "pause 12", "note", "note", "note 3", "note 40", "note 40",
    "log", "change", "ask", "garbage",
)  # fmt: skip
CALM_ENDINGS = (["answer"], ["answer"], ["error"], ["twice"])
CALM_ASIDES = ("pause 0.1", "pause 1", "note", "note 3", "log", "change", "ask")
LEVELS = ("debug", "info", "warning", "error")
URIS = ("file:///a", "file:///b")
# How long requests may take once all faults have healed; the steps of a call take time.
PROMPT_S = 12.0
CALL_S = 80.0
# How long a line to a server may be underway, in a child's box and its pipe.
UNDERWAY_S_MAX = 5.0
# How long a stream may outlive its session: as long as its child takes to be ended.
ENDS_S_MAX = 8.0
PROXY_REASONS = frozenset({
    "deadline",
    "draining",
    "internal",
    "overloaded",
    "pool-exhausted",
    "process-exited",
    "rate-limited",
    "session-lost",
    "upstream-protocol",
    "upstream-timeout",
    "upstream-unavailable",
})


@dataclass
class Call:
    """One `tools/call`. `outcome` is set once: what became of it, in the client's eyes.

    Attributes:
        executed, reason: what the proxy said, if it answered with an error of its own.
        cancelled_s: when the proxy had accepted a cancellation, if a server was at the call.
    """

    n: int
    tag: str
    id: int | str
    steps: list[str]
    token: int | str | None
    began_s: float
    outcome: str | None = None
    executed: str | None = None
    reason: str | None = None
    left: bool = False
    ended_s: float | None = None
    cancelled: bool = False
    cancelled_s: float | None = None


@dataclass
class Book:
    """What all clients of a run have asked and got.

    Attributes:
        calls: by number.
        broken: the rules that were broken towards a client.
        lasting: whether a session ends only when its client wants it to.
        hasty: whether everybody begins at the same moment.
        closing: whether clients open no more sessions.
        healed_s: when all faults ended.
        left: every session, for who ends those that their clients have left.
        handshakes: how many `initialize` were sent.
        calm: whether clients ask for nothing that ends or stops a server, and are patient.
    """

    calm: bool
    lasting: bool
    hasty: bool
    calls: dict[int, Call] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    closing: bool = False
    healed_s: float = math.inf
    handshakes: int = 0
    sessions: int = 0
    left: list[Session] = field(default_factory=list)


class Line(VirtualConnection):
    """A connection whose events are heard as they come."""

    def __init__(self, world: SimWorld, hear: Callable[[Any], None] | None = None) -> None:
        super().__init__(world)
        self._hear = hear
        self._events = SseDecoder(1 << 24)
        self._heard = 0

    def _feed(self, parser: ResponseParser, data: bytes, answer: Answer) -> None:
        """Feed all at once: nothing is pipelined here."""
        if data:
            parser.feed(data)
        else:
            parser.end_of_input()
        if parser.head is not None:
            answer.status, answer.fields = parser.head.status, parser.head.fields
            answer.body += parser.take_body()
            answer.complete = parser.complete
        if self._hear is not None and answer.is_stream:
            for event in self._events.feed(answer.body[self._heard :]):
                if event.data:
                    self._hear(json.loads(event.data))
            self._heard = len(answer.body)


class StdioClient:
    """One client; `live` is its life."""

    def __init__(
        self, world: SimWorld, book: Book, servers: Servers, sessions_max: int, calls_max: int
    ) -> None:
        self.world = world
        self.chance = world.chance
        self.book = book
        self.servers = servers
        self._sessions_max = sessions_max
        self._calls_max = calls_max

    def saw(self, name: str) -> None:
        self.world.seen[name] += 1

    def live(self) -> None:
        """Have sessions, one after another."""
        for _ in range(self._sessions_max):
            if self.book.closing:
                break
            self.pause(0.02 if self.book.hasty else 2.0)
            session = self.open()
            if session is not None:
                session.use(self.chance.randrange(1, self._calls_max + 1))

    def open(self) -> Session | None:
        """Shake hands."""
        book = self.book
        book.sessions += 1
        book.handshakes += 1
        tag = f"s{book.sessions}"
        params = {
            "protocolVersion": VERSION,
            "capabilities": {"elicitation": {}},
            "clientInfo": {"name": tag, "version": "1"},
        }
        message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        answer = self.exchange(request(message))
        id = answer.field(b"mcp-session-id")
        if answer.status != 200 or "error" in answer.message:
            self.judge_refusal(answer, 0, "initialize")
            self.saw("initialize_failed")
            return None
        if id is None:
            self.broken(f"no session with {answer}")
            return None
        self.saw("session_opened")
        return Session(self, tag, id.decode())

    def exchange(self, data: bytes, method: str = "POST") -> Answer:
        """Send a request over a connection of its own, and wait for its whole answer."""
        line = Line(self.world)
        began_s = self.world.now_s()
        answer = line.ask(data, method)
        line.close()
        if not answer.complete:
            self.broken(f"an answer came to no end: {data!r} {answer}")
        if self.took_s(began_s) > PROMPT_S:
            self.broken(f"it took {self.took_s(began_s)} s to answer {data!r} with {answer}")
        return answer

    def took_s(self, began_s: float) -> float:
        """Say how long something has taken of the time without faults."""
        return self.world.now_s() - max(began_s, self.book.healed_s)

    def judge_refusal(self, answer: Answer, id: Any, what: str) -> str:
        """Check an answer that is an error; return what it says of the execution."""
        message = answer.message if answer.messages else None
        if message is None or "error" not in message:
            self.broken(f"{what} got {answer}")
            return "unknown"
        if message.get("id") != id or type(message.get("id")) is not type(id):
            self.broken(f"{what} with id {id!r} was refused as {message.get('id')!r}")
        data = message["error"].get("data") or {}
        if "reason" in data:
            self.saw(f"refused_{data['reason']}")
            if data["reason"] not in PROXY_REASONS or data["executed"] not in ("no", "unknown"):
                self.broken(f"{what} was refused with {data}")
            return str(data["executed"])
        return "no" if answer.status != 200 else "unknown"

    def pause(self, seconds_max: float) -> None:
        self.world.pass_time(self.chance.random() * seconds_max)

    def broken(self, text: str) -> None:
        self.book.broken.append(text)


class Session:
    """A session as its client sees it. `tag` is known to the server, `id` to the proxy."""

    def __init__(self, client: StdioClient, tag: str, id: str) -> None:
        self.client = client
        self.world = client.world
        self.chance = client.chance
        self.book = client.book
        self.tag = tag
        self.id = id
        self.over = False
        self.ending = False
        self.deleted_s: float | None = None
        self._ids = iter(range(100))
        self._text_ids = self.chance.random() < 0.3
        self._busy = 0
        self._idle = self.world.waiter()
        self.book.left.append(self)

    # Its life.

    def use(self, calls: int) -> None:
        """Use the session, then end it or leave it."""
        self.post(note("notifications/initialized"))
        for _ in range(self.chance.choice((0, 1, 1, 2))):
            self.go(self.stand)
        for _ in range(calls):
            if self.over:
                break
            act = self.chance.random()
            if act < 0.1:
                self.administer("logging/setLevel", level=self.chance.choice(LEVELS))
            elif act < 0.25:
                verb = self.chance.choice(("subscribe", "subscribe", "unsubscribe"))
                self.administer(f"resources/{verb}", uri=self.chance.choice(URIS))
            elif act < 0.6:
                self.go(self.call)
            else:
                self.call()
            self.client.pause(1.0)
        if self.chance.random() < 0.5:
            self.wait_until_idle()
        if self.chance.random() < 0.6:
            self.delete()

    def go(self, function: Callable[[], object]) -> None:
        """Do something at the same time."""
        self._busy += 1

        def run() -> None:
            try:
                function()
            finally:
                self._busy -= 1
                if not self._busy:
                    self._idle.set()

        self.world.spawn("client", run)

    def wait_until_idle(self) -> None:
        """Wait for what goes on at the same time, the standalone stream aside."""
        if self._busy:
            self._idle = self.world.waiter()
            try:
                self._idle.wait(self.world.now_s() + 5.0)
            except Exception:
                pass

    # Calls.

    def call(self, steps: list[str] | None = None, id: int | str | None = None) -> Call:
        """Call the tool, by chance or by these steps; now and then cancel, or leave."""
        call = self.new_call(steps, id)
        line = Line(self.world, lambda message: self.hear(message, call))
        if steps is None and id is None and not self.book.calm:
            self.disturb(call, line)
        self.judge(call, line.ask(self.request(call)), line)
        return call

    def call_in_two_halves(self, between: Callable[[], None]) -> Call:
        """Call, and have something happen while the request is underway."""
        call = self.new_call(["answer"], None)
        line = Line(self.world)
        data = self.request(call)
        line.send(data[:40])
        self.world.pass_time(1.0)
        between()
        line.send(data[40:])
        self.judge(call, line.receive(), line)
        return call

    def request(self, call: Call) -> bytes:
        pad = "x" * self.chance.choice((0, 0, 0, 15_000)) if not self.book.calm else ""
        arguments = {"n": call.n, "tag": self.tag, "do": call.steps, "pad": pad}
        params: dict[str, Any] = {"name": "t", "arguments": arguments}
        if call.token is not None:
            params["_meta"] = {"progressToken": call.token}
        message = {"jsonrpc": "2.0", "id": call.id, "method": "tools/call", "params": params}
        return request(message, session=self.id)

    def new_call(self, steps: list[str] | None, id: int | str | None) -> Call:
        number = len(self.book.calls)
        if id is None:
            id = str(next(self._ids)) if self._text_ids else next(self._ids)
        if steps is None:
            asides = CALM_ASIDES if self.book.calm else ASIDES
            endings = CALM_ENDINGS if self.book.calm else ENDINGS
            steps = [self.chance.choice(asides) for _ in range(self.chance.randrange(4))]
            steps += self.chance.choice(endings)
        token = id if self.chance.random() < 0.7 else None
        call = self.book.calls[number] = Call(
            number, self.tag, id, steps, token, self.world.now_s()
        )
        return call

    def disturb(self, call: Call, line: Line) -> None:
        """Cancel the call after a while, or leave; mostly not."""
        match self.chance.randrange(16):
            case 0 | 1 | 2:
                self.go(lambda: self.cancel(call))
            case 3:
                self.go(lambda: self.leave(call, line))
            case 4:
                self.go(lambda: self.call(id=call.id))

    def cancel(self, call: Call) -> None:
        """Cancel; a server that is at the call must be told."""
        self.client.pause(2.0)
        if call.ended_s is not None or call.left:
            return
        call.cancelled = True
        work = self.client.servers.works.get(call.n)
        status = self.post(note("notifications/cancelled", requestId=call.id))
        if status == 202 and work is not None:
            self.client.saw("cancelled")
            call.cancelled_s = self.world.now_s()
            if work.ended_s is None:
                self.world.pass_time(UNDERWAY_S_MAX)
                if work.server.well and not work.cancelled:
                    self.client.broken(f"nobody told the server that {call} was cancelled")

    def leave(self, call: Call, line: Line) -> None:
        self.client.pause(4.0)
        if call.ended_s is None:
            self.client.saw("left")
            call.left = True
            line.close()

    def hear(self, message: Any, call: Call | None) -> None:
        """Check a message of a stream, as it comes; answer a question."""
        params = message.get("params") or {}
        method = message.get("method")
        about = params.get("data", params) if method == "notifications/message" else params
        if "tag" in about and about["tag"] != self.tag:
            self.client.broken(f"{self.tag} hears {message}")
        if method == "notifications/progress":
            token = params["progressToken"]
            if call is None or about["n"] != call.n or call.token is None:
                self.client.broken(f"progress on the wrong stream: {message}")
            elif token != call.token or type(token) is not type(call.token):
                self.client.broken(f"token {call.token!r} came back as {token!r}")
        elif method == "elicitation/create":
            if self.chance.random() < 0.85:
                self.go(lambda: self.answer(message["id"], about))
        elif method is None and call is None:
            self.client.broken(f"an answer on the standalone stream: {message}")

    def answer(self, id: Any, about: Any) -> None:
        """Answer a question of the server, which must get the answer."""
        self.client.pause(2.0)
        content = {"n": about["n"], "tag": about["tag"]}
        result = {"action": "accept", "content": content}
        if self.post({"jsonrpc": "2.0", "id": id, "result": result}) == 202:
            self.world.pass_time(UNDERWAY_S_MAX)
            server = self.client.servers.works[about["n"]].server
            if server.well and id in server.asked:
                self.client.broken(f"the answer to {id} did not reach the server")

    def judge(self, call: Call, answer: Answer, line: Line) -> None:
        """Check what became of a call."""
        line.close()
        call.ended_s = self.world.now_s()
        if self.client.took_s(call.began_s) > CALL_S:
            self.client.broken(f"{call} took too long")
        if call.left:
            call.outcome = "left"
            return
        if not answer.complete:
            call.outcome = "truncated"
            seen = self.world.seen
            if not seen["EventStream_crashed"]:
                self.client.broken(f"call {call} came to no end: {answer}")
            return
        answers = [message for message in answer.messages if "method" not in message]
        if len(answers) > 1:
            self.client.broken(f"call {call} has two answers: {answers}")
        if answer.status == 200 and not answers:
            call.outcome = "ended"
            if not call.cancelled:
                self.client.broken(f"call {call} has no answer: {answer}")
            return
        (message,) = answers
        if answer.status == 200 and message.get("id") != call.id:
            self.client.broken(f"call {call} is answered by {message}")
        if type(message.get("id")) is not type(call.id):
            self.client.broken(f"the id of {call} came back as {message.get('id')!r}")
        data = message.get("error", {}).get("data") or {}
        if "result" in message:
            self.accept(call, "result", message["result"]["structuredContent"])
        elif "n" in data:
            self.accept(call, "error", data)
        else:
            call.outcome = "refused"
            call.executed = self.client.judge_refusal(answer, call.id, str(call))
            call.reason = data.get("reason")
            self.note_end(answer)

    def accept(self, call: Call, outcome: str, about: Any) -> None:
        call.outcome = outcome
        if about != {"n": call.n, "tag": call.tag}:
            self.client.broken(f"call {call} got the answer to {about}")

    # The rest.

    def stand(self) -> None:
        """Read the standalone stream until it ends, or for a while."""
        line = Line(self.world, lambda message: self.hear(message, None))
        gone: list[bool] = []

        def leave() -> None:
            self.client.pause(self.chance.choice((20.0, 60.0)))
            gone.append(True)
            line.close()

        self.go(leave)
        answer = line.ask(request(method="GET", session=self.id), "GET")
        line.close()
        if answer.status == 200:
            self.client.saw("standalone_opened")
        elif answer.complete:
            self.client.judge_refusal(answer, None, "a standalone stream")
        if self.deleted_s is not None and self.world.now_s() > self.deleted_s + ENDS_S_MAX:
            self.client.broken(f"{self.tag} was deleted long before its standalone stream ended")
        if not answer.complete and not gone:
            self.client.broken(f"a standalone stream came to no end: {answer}")

    def note_end(self, answer: Answer) -> None:
        """Note that the session is over; it must not be without a reason."""
        if answer.status == 404:
            self.over = True
            if self.book.lasting and not self.ending:
                self.client.broken(f"{self.tag} is over: {answer}")

    def administer(self, method: str, **params: Any) -> None:
        """Set a level, subscribe, unsubscribe."""
        id = next(self._ids)
        message = {"jsonrpc": "2.0", "id": id, "method": method, "params": params}
        answer = self.client.exchange(request(message, session=self.id))
        if answer.status == 200 and "result" in answer.message:
            if answer.message["id"] != id:
                self.client.broken(f"{method} {id} was answered by {answer.message}")
        else:
            self.client.judge_refusal(answer, id, method)
            self.note_end(answer)

    def post(self, message: Any) -> int:
        """Send a notification or an answer; return the status."""
        answer = self.client.exchange(request(message, session=self.id))
        self.note_end(answer)
        if answer.status not in (202, 404, 502, 503):
            self.client.broken(f"{message} got {answer}")
        return answer.status or 0

    def delete(self) -> None:
        """End the session."""
        self.ending = True
        answer = self.client.exchange(request(method="DELETE", session=self.id), "DELETE")
        if answer.status not in (200, 404, 503):
            self.client.broken(f"DELETE got {answer}")
        if answer.status == 200:
            self.deleted_s = self.world.now_s()
        self.over = self.over or answer.status != 503
