"""The clients of the scenario "plane": each opens sessions, does in them what comes to its mind,
and leaves some of them; every outcome is judged by the oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proxy_actors.errors import ConnectError, DeadlineError, StreamClosedError
from proxy_actors.gateway.handle import UNCOUNTED_BYTES_MAX
from proxy_actors.policy.session_ledger import key_of
from tests.scripted_server import VERSION
from tests.sim.plane_oracle import Call, Known, Line, check_news
from tests.sim.virtual import Answer, call, initialize, note, request

if TYPE_CHECKING:
    from tests.sim.plane_scenario import Scene

BATCHES = "2025-03-26"
GOOD: tuple[tuple[str, ...], ...] = (
    ("json",), ("json",), ("chunked",), ("chunked 1",), ("until-close",), ("spaced",),
    ("sse", "answer", "end"), ("sse", "note", "answer", "end"), ("pause 3", "json"),
    ("sse", "prime", "note", "pause 2", "note", "answer", "end"), ("sse", "note", "answer"),
    ("sse", "pause 12", "note", "answer", "end"), ("sse", "note", "foreign", "answer", "end"),
    ("sse", "answer", "pause 2", "end"), ("sse", "answer", "reset"), ("error 200 -32000",),
)  # fmt: skip
BAD: tuple[tuple[str, ...], ...] = (
    ("close",), ("reset",), ("head", "half", "reset"), ("head", "half", "close"), ("garbage",),
    ("sse", "note", "reset"), ("sse", "half-event", "close"), ("sse", "note", "end"), ("500",),
    ("503 Retry-After: 1",), ("429",), ("wrong-id",), ("no-json",), ("401",),
    ("pause 310", "json"), ("sse", "note", "pause 310", "answer", "end"),
)  # fmt: skip
# The second answer may arrive when the connection carries another's call, which then fails.
STRAY = ("json", "extra")


class TurnedAway(Exception):
    """The proxy takes no more connections, or this client may not have a session."""


class Client:
    """One client."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.world = scene.world
        self.chance = scene.world.chance
        self._line: Line | None = None
        self._ids = 0
        self._standing: list[tuple[Line, Answer, Known]] = []

    def run(self) -> None:
        """Live through some sessions."""
        try:
            for _ in range(self.chance.randrange(1, 4)):
                self.live(self.open_session())
        except TurnedAway:
            self.scene.saw("client_was_turned_away")
        finally:
            self.close()

    def close(self) -> None:
        """Leave: the standing streams, and what was told on them, and the usual connection."""
        for line, answer, known in self._standing:
            line.close()
            check_news(answer.messages, known)
            self.world.seen["news_arrived"] += len(answer.messages)
        if self._line is not None:
            self._line.close()

    def live(self, known: Known) -> None:
        """Do in a session what comes to mind."""
        for _ in range(self.chance.randrange(2, 12)):
            self.world.pass_time(self.chance.random())
            action: Callable[[Known], None] = self.chance.choice(
                (self.call_once, self.call_once, self.call_once, self.call_badly, self.list_tools,
                 self.pipeline, self.cancel, self.leave, self.answer_question, self.stand,
                 self.read_slowly, self.send_slowly, self.batch, self.notify, self.look,
                 self.half_close, self.call_at_once)
            )  # fmt: skip
            action(known)
            if known.gone or known.deleted:
                break
        if not known.left and self.chance.random() < 0.6:
            self.delete(known)
        if known.deleted:
            self.call_once(known)

    # Connections.

    def connect(self) -> Line:
        """Open a connection, however long it takes."""
        while not self.scene.draining:
            try:
                line = Line(self.scene)
            except ConnectError:
                self.scene.saw("connection_was_refused")
                self.world.pass_time(1.0)
                continue
            self.scene.lines.append(line)
            return line
        raise TurnedAway

    def line(self) -> Line:
        """The client's usual connection."""
        if self._line is None or not self._line.usable:
            if self._line is not None:
                self._line.close()
            self._line = self.connect()
        return self._line

    def request(self, body: Any, known: Known, method: str = "POST") -> bytes:
        return request(body, method, known.id, fields={"MCP-Protocol-Version": known.version})

    def reading(self, line: Line, method: str = "POST") -> Answer:
        """Read an answer in a greenlet of its own."""
        answer = Answer()
        self.scene.at_work("client reader", lambda: line.receive(method, answer))
        return answer

    def await_end(self, line: Line, answer: Answer) -> None:
        """Wait until the answer is complete, or cannot become so."""
        while not answer.complete and not line.over:
            self.world.pass_time(0.5)
        self.world.pass_time(0.1)  # let the reader see it

    def new_call(
        self, known: Known, steps: tuple[str, ...], good: bool = True, method: str = "tools/call",
        **more: Any,
    ) -> tuple[Call, dict[str, Any]]:
        """Make a call; ids are the same for all clients, so that a mix-up shows."""
        self._ids += 1
        id = self._ids if self._ids % 3 else str(self._ids)
        n = self.scene.next_number()
        made = Call(n, id, known, steps, good, method != "tools/call", **more)
        made.began_s, made.after_delete = self.world.now_s(), known.deleted
        self.scene.oracle.calls.append(made)
        body = call(n, *steps, method=method, id=id)
        if n % 16 == 0:  # large enough to be counted among the bodies that the proxy holds
            body["params"]["arguments"]["padding"] = "x" * UNCOUNTED_BYTES_MAX
        return made, body

    # Sessions.

    def open_session(self) -> Known:
        for _ in range(10):
            version = self.chance.choice((VERSION, "2025-06-18", BATCHES))
            steps: tuple[str, ...] = self.chance.choice(
                ((), (), ("sse", "prime", "note", "answer", "end"), ("pause 2", "json"))
            )
            line = self.line()
            answer = line.ask(request(initialize(version, *steps)))
            known = self._judge_opening(line, answer, version)
            if known is not None:
                self.scene.known.append(known)
                self.notify(known, "notifications/initialized")
                return known
            self.world.pass_time(self.chance.random() * 5)
        raise TurnedAway

    def _judge_opening(self, line: Line, answer: Answer, version: str) -> Known | None:
        scene = self.scene
        line.keep_alive = answer.complete and answer.keep_alive
        if not answer.complete:
            excuse = line.excuse() or line.excuse_of_silence(line.used_s)
            assert excuse is not None, f"initialize was cut: {answer}"
            return None
        message = answer.message
        if "error" in message:
            assert message.get("id") in (0, None), message
            reason = scene.oracle.check_error(message["error"])
            scene.saw(f"initialize_failed_{reason}")
            assert not scene.calm or scene.draining or scene.evicts, message
            return None
        assert (message["id"], message["result"]["protocolVersion"]) == (0, version)
        id = answer.field(b"mcp-session-id")
        assert id is not None, answer
        rows = {row.session.key: row.session for row in scene.store.rows()}
        session = rows.get(key_of(id.decode()))
        if session is None:
            assert scene.evicts, "an id was given away that is not durable"
            return None
        assert session.upstream_session_id not in [x.upstream_id for x in scene.known]
        return Known(id.decode(), version, session.upstream_session_id)

    def delete(self, known: Known) -> None:
        line = self.line()
        began_s = self.world.now_s()
        known.left = True
        answer = line.ask(self.request(None, known, "DELETE"), "DELETE")
        line.keep_alive = answer.complete and answer.keep_alive
        if answer.complete and answer.status == 200:
            known.deleted = True
            self.scene.saw("session_deleted")
        elif not answer.complete:
            assert line.excuse() or line.excuse_of_silence(began_s), f"a DELETE was cut: {answer}"
        elif answer.status == 404:
            self.scene.saw("delete_came_too_late")
            known.gone = True
        else:
            self.scene.oracle.check_error(answer.message["error"])
            assert not self.scene.calm or self.scene.draining, answer

    # What a client does.

    def call_once(self, known: Known) -> None:
        self.ask(known, self.chance.choice(GOOD))

    def call_badly(self, known: Known) -> None:
        steps = self.chance.choice(BAD if self.scene.calm else (*BAD, STRAY))
        self.ask(known, steps, good=False)

    def list_tools(self, known: Known) -> None:
        good = self.chance.random() < 0.7
        steps = self.chance.choice(GOOD if good else BAD)
        self.ask(known, steps, good, "tools/list")

    def ask(
        self, known: Known, steps: tuple[str, ...], good: bool = True, method: str = "tools/call"
    ) -> Call:
        """Call on the usual connection."""
        line = self.line()
        made, body = self.new_call(known, steps, good, method)
        self.scene.oracle.judge(line, line.ask(self.request(body, known)), made)
        return made

    def pipeline(self, known: Known) -> None:
        """Send several requests at once: the answers come in their order."""
        line = self.line()
        calls = [self.new_call(known, self.chance.choice(GOOD)) for _ in range(3)]
        line.send(b"".join(self.request(body, known) for _, body in calls))
        for made, _ in calls:
            made.began_s = self.world.now_s()  # its turn has come
            self.scene.oracle.judge(line, line.receive(), made)
        self.scene.saw("pipelined")

    def cancel(self, known: Known) -> None:
        """Call, and cancel from another connection (MCP-X-3)."""
        line, other = self.connect(), self.connect()
        tail = self.chance.choice((("end",), ("answer", "end"), ("pause 20", "end")))
        made, body = self.new_call(known, ("sse", "note", "pause 5", *tail), cancelled=True)
        line.send(self.request(body, known))
        answer = self.reading(line)
        self.world.pass_time(self.chance.random() * 4)
        self._tell(other, note("notifications/cancelled", requestId=made.id), known)
        self.await_end(line, answer)
        self.scene.oracle.judge(line, answer, made)
        line.close()
        other.close()

    def call_at_once(self, known: Known) -> None:
        """Call several times at once, and perhaps delete the session meanwhile (MCP-S-7)."""
        running = []
        for _ in range(3):
            line = self.connect()
            made, body = self.new_call(known, self.chance.choice(GOOD))
            line.send(self.request(body, known))
            running.append((line, self.reading(line), made))
        self.world.pass_time(self.chance.random())
        if self.chance.random() < 0.2:
            self.delete(known)
            self.scene.saw("deleted_in_mid_call")
        for line, answer, made in running:
            self.await_end(line, answer)
            self.scene.oracle.judge(line, answer, made)
            line.close()

    def half_close(self, known: Known) -> None:
        """End the output after a call, and wait for its answer (FLT-C16)."""
        line = self.connect()
        made, body = self.new_call(known, self.chance.choice(GOOD))
        line.send(self.request(body, known))
        line.half_close()
        self.scene.oracle.judge(line, line.receive(), made)
        line.close()
        self.scene.saw("half_closed")

    def leave(self, known: Known) -> None:
        """Leave in mid-call: it runs to its end (MCP-S-21)."""
        line = self.connect()
        made, body = self.new_call(known, self.chance.choice(GOOD))
        line.send(self.request(body, known))
        self.world.pass_time(self.chance.random() * 5)
        if self.chance.random() < 0.5:
            line.close()
            self.scene.saw("left_in_mid_call")
        else:
            line.break_off()
            self.scene.saw("vanished_in_mid_call")

    def answer_question(self, known: Known) -> None:
        """Call a tool that asks, and answer on another connection (MCP-S-23)."""
        line, other = self.connect(), self.connect()
        steps = self.chance.choice((("sse", "ask", "answer", "end"),
                                    ("sse", "note", "ask", "note", "ask", "answer", "end")))
        answers = self.chance.random() < 0.8
        made, body = self.new_call(known, steps, good=answers, asks=True)
        line.send(self.request(body, known))
        answer = self.reading(line)
        answered = 0
        while not answer.complete and not line.over:
            self.world.pass_time(0.5)
            asked = [x["id"] for x in answer.messages if "id" in x and "method" in x]
            if answers and len(asked) > answered:
                reply = {"jsonrpc": "2.0", "id": asked[answered], "result": {"action": "accept"}}
                if not other.usable:
                    other.close()
                    other = self.connect()
                made.good &= self._tell(other, reply, known)
                answered += 1
        self.world.pass_time(0.1)
        self.scene.oracle.judge(line, answer, made)
        if answered and made.answered:
            self.scene.saw("question_was_answered")
        line.close()
        other.close()

    def stand(self, known: Known) -> None:
        """Open the session's standalone stream, and stay."""
        line = self.connect()
        line.send(self.request(None, known, "GET"))
        answer = self.reading(line, "GET")
        while answer.status is None and not line.over:
            self.world.pass_time(0.5)
        if answer.status == 200:
            known.stood = True
            self._standing.append((line, answer, known))
            self.scene.saw("stood")
            return
        self.await_end(line, answer)
        self._judge_no_standing(line, answer, known)
        line.close()

    def _judge_no_standing(self, line: Line, answer: Answer, known: Known) -> None:
        if not answer.complete:
            excuse = line.excuse() or line.excuse_of_silence(line.used_s)
            assert excuse is not None, f"a GET was cut: {answer}"
            return
        if answer.status == 404:
            self.scene.oracle.note_gone(known)
        self.scene.oracle.check_error(answer.message["error"])
        self.scene.saw(f"stand_refused_{answer.status}")
        if self.scene.calm and not self.scene.draining:
            share = answer.status == 429  # all are of one address, and few may listen
            assert share or answer.status == 409 and known.stood or known.gone, answer

    def read_slowly(self, known: Known) -> None:
        """Take nothing for a while: the proxy does not wait for ever (FLT-C5)."""
        line = self.connect()
        steps = ("sse", *["note 30000"] * 4, "answer", "end")
        made, body = self.new_call(known, steps, slow=True)
        line.send(self.request(body, known))
        self.world.pass_time(self.chance.choice((5.0, 60.0)))
        self.scene.oracle.judge(line, line.receive(), made)
        line.close()

    def send_slowly(self, known: Known) -> None:
        """Send byte by byte, or stop in the middle for a while (FLT-C4)."""
        line = self.line()
        made, body = self.new_call(known, self.chance.choice(GOOD))
        data = self.request(body, known)
        try:
            if self.chance.random() < 0.3:
                made.slow = bool(self.world.faults.stall)
                for at in range(len(data)):
                    line.stream.write((data[at:at + 1],), self.world.now_s() + 60.0)
            else:
                made.slow = True
                at = self.chance.randrange(len(data))
                line.send(data[:at])
                self.world.pass_time(self.chance.choice((1.0, 30.0)))
                line.send(data[at:])
        except (StreamClosedError, DeadlineError):
            pass
        self.scene.oracle.judge(line, line.receive(), made)

    def batch(self, known: Known) -> None:
        """Send an array (MCP-S-12): every request in it is answered, each once."""
        if known.version != BATCHES:
            return
        line = self.connect()
        calls = [self.new_call(known, self.chance.choice(GOOD)) for _ in range(3)]
        bodies = [body for _, body in calls]
        bodies.insert(1, note("notifications/progress", progressToken=0, progress=1))
        line.send(self.request(bodies, known))
        self.scene.oracle.judge(line, line.receive(), *[made for made, _ in calls])
        self.scene.saw("batched")
        line.close()

    def notify(self, known: Known, method: str = "notifications/roots/list_changed") -> None:
        self._tell(self.line(), note(method), known)

    def _tell(self, line: Line, message: Any, known: Known) -> bool:
        """Send what has no answer; say whether it was accepted."""
        began_s = self.world.now_s()
        answer = line.ask(self.request(message, known))
        excuse = line.excuse() or line.excuse_of_silence(began_s)
        line.keep_alive = answer.complete and answer.keep_alive
        line.used_s = self.world.now_s()
        if not answer.complete:
            assert excuse is not None, f"a notification was cut: {answer}"
            return False
        if answer.status == 202:
            return True
        if answer.status == 404:
            self.scene.oracle.note_gone(known)
        error = answer.message
        assert error.get("id") is None, error
        self.scene.oracle.check_error(error["error"])
        assert not self.scene.calm or self.scene.draining or known.gone, answer
        return False

    def look(self, known: Known) -> None:
        """Look at the pages for operators (FLT-O6)."""
        line = self.connect()
        for path in ("/health", "/ready"):
            answer = line.ask(request(None, "GET", path=path), "GET")
            if answer.complete:
                well = answer.status == 200 or path == "/ready" or self.scene.crowded
                assert well, answer
                self.scene.saw(f"{path.strip('/')}_{answer.status}")
            else:
                assert line.excuse() or self.scene.draining, f"{path} was cut: {answer}"
                break
            if not answer.keep_alive:
                break
        line.close()
