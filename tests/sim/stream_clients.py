"""The clients of the scenario "streams": they lose their connections and come back for the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proxy_actors.errors import ConnectError
from proxy_actors.protocol.revisions import knows_priming
from proxy_actors.protocol.sse import Event, SseDecoder, encode_event
from tests.gateway.legacy_client import LegacyClient
from tests.scripted_server import VERSION
from tests.sim.plane_clients import Client, TurnedAway
from tests.sim.plane_oracle import Call, Known, Line, check_told
from tests.sim.virtual import Answer, initialize, note, request

if TYPE_CHECKING:
    from tests.sim.stream_scenario import StreamScene

# Scripts that are answered well, however often their connections are cut.
STREAMED: tuple[tuple[str, ...], ...] = (
    ("sse", "note", "leave", "note", "answer", "end"),
    ("sse", "leave", "pause 3", "note", "leave", "note", "pause 2", "answer", "end"),
    ("sse", "note", "leave reset", "note", "pause 5", "note", "answer", "end"),
    ("sse", "note", "half-event", "leave close", "pause 1", "note", "answer", "end"),
    ("sse", "note", "retry 2500", "leave", "note", "answer", "end"),
    ("sse", "note", "pause 4", "note", "pause 4", "note", "pause 4", "note", "answer", "end"),
    ("sse", "note", "pause 45", "note", "answer", "end"),  # in silence
    ("sse", "note", "foreign", "leave reset", "note", "answer", "end"),
    ("sse", "note", "note", "note", "answer", "end"),
)  # fmt: skip
# Those that are not: the stream ends without an answer, or there is none in time.
DOOMED: tuple[tuple[str, ...], ...] = (
    ("sse", "note", "leave"), ("sse", "note", "leave reset"), ("sse", "note", "end"),
    ("sse", "note", "leave", "pause 310", "answer", "end"),
)  # fmt: skip
BREAKS_MAX = 3
# How often a client tries to get what followed while it is refused.
TRIES_MAX = 30
EVENT_BYTES_MAX = 1 << 24


class StreamClient(Client):
    """One client."""

    scene: StreamScene

    def run(self) -> None:
        """Live through some sessions, or be a client of before there were any."""
        if self.chance.random() < 0.2:
            LegacyVisitor(self).run()
        else:
            super().run()

    def live(self, known: Known) -> None:
        for _ in range(self.chance.randrange(3, 10)):
            self.world.pass_time(self.chance.random())
            actions: list[Callable[[Known], object]] = [
                self.call_streamed, self.call_streamed, self.call_streamed, self.call_doomed,
                self.come_back, self.come_back, self.come_back, self.stand, self.stand,
                self.leave, self.call_once,
            ]  # fmt: skip
            if not self.scene.streams.connection_s_max:
                actions += [self.answer_question, self.cancel, self.list_tools]
            self.chance.choice(actions)(known)
            if known.gone or known.deleted:
                break
        if not known.left and self.chance.random() < 0.6:
            self.delete(known)

    def call_streamed(self, known: Known) -> None:
        self._follow(known, self.chance.choice(STREAMED))

    def call_doomed(self, known: Known) -> None:
        self._follow(known, self.chance.choice(DOOMED), good=False)

    def come_back(self, known: Known) -> None:
        """Lose the connection of a call now and then."""
        breaks = self.chance.randrange(1, BREAKS_MAX + 1)
        self._follow(known, self.chance.choice(STREAMED), breaks)

    def _follow(
        self, known: Known, steps: tuple[str, ...], breaks: int = 0, good: bool = True
    ) -> None:
        """Call, and come back for the rest as often as the connection ends before (MCP-S-16)."""
        made, body = self.new_call(known, steps, good)
        line = self.connect()
        line.send(self.request(body, known))
        answer = self.reading(line)
        events: list[Event] = []
        for _ in range(TRIES_MAX):
            why = self._read_for(line, answer, breaks)
            assert why is not None, f"{made} was cut, and nothing has happened: {answer}"
            breaks -= 1
            events += events_of(answer)
            last = next((x.id for x in reversed(events) if x.id), None)
            ended = answer.complete and not self._sent_away(answer, known)
            if ended or answers(events, made) or last is None or known.gone:
                break
            if answer.status not in (None, 200):
                break
            line = self.connect()
            line.send(self._get(known, last))
            answer = self.reading(line, "GET")
        self._judge_all(line, answer, events, made)

    def stand(self, known: Known) -> None:
        """Read the session's standalone stream for a while, beside what else is done."""
        self.scene.at_work("client stander", lambda: self._stand_for_a_while(known))

    def _stand_for_a_while(self, known: Known) -> None:
        events: list[Event] = []
        last: bytes | None = None
        try:
            for _ in range(self.chance.randrange(1, BREAKS_MAX + 1)):
                line = self.connect()
                known.stood = True
                line.send(self._get(known, last))
                answer = self.reading(line, "GET")
                why = self._read_for(line, answer, breaks=1)
                if answer.status not in (None, 200):
                    self._judge_no_standing(line, answer, known)
                    break
                events += events_of(answer)
                last = next((x.id for x in reversed(events) if x.id), None)
                if answer.complete and not self._sent_away(answer, known):
                    self._judge_end(known)
                elif why is None:
                    assert not self.scene.calm, f"{known} was cut, and nothing has happened"
                    self.scene.saw("standalone_stream_was_truncated")
        except TurnedAway:
            pass
        others = [x.upstream_id for x in self.scene.known if x is not known]
        check_told(events, known, others if self.scene.renews else None)
        self.world.seen["news_arrived"] += sum(bool(x.data) for x in events)

    def _sent_away(self, answer: Answer, known: Known) -> bool:
        """Whether the proxy may have ended the connection only (MCP-S-20)."""
        short = self.scene.streams.connection_s_max and knows_priming(known.version)
        if short and answer.is_stream and answer.body.endswith(b"data: \n\n"):
            self.scene.saw("was_sent_away")
            return True
        return False

    def _judge_end(self, known: Known) -> None:
        """A standalone stream ends in good order with its session, or when its actor is lost."""
        scene = self.scene
        kinds = ("EventStream", "NotedUpstream", "NotedPool")
        lost = any(self.world.seen[f"{how}_{x}"] for how in ("crashed", "killed") for x in kinds)
        ended = scene.oracle.may_be_gone(known) or scene.draining
        assert ended or lost, f"the stream of {known} has ended, and nothing has happened"
        scene.saw("standalone_stream_ended")

    def _get(self, known: Known, last: bytes | None) -> bytes:
        fields: dict[str, str | None] = {"MCP-Protocol-Version": known.version}
        if last is not None:
            fields["Last-Event-ID"] = last.decode()
        return request(None, "GET", known.id, fields=fields)

    def _read_for(self, line: Line, answer: Answer, breaks: int) -> str | None:
        """Read to the end, or for a while if the connection is to break; say why it ended.

        None means that nothing has happened to it, and that the answer is not complete.
        """
        began_s = self.world.now_s()
        until_s = self.world.now_s() + self.chance.random() * 15 if breaks > 0 else float("inf")
        while not answer.complete and not line.over and self.world.now_s() < until_s:
            self.world.pass_time(0.5)
        self.world.pass_time(0.1)  # let the reader see it
        if answer.complete:
            why = "complete"
        elif line.over:
            why = line.excuse() or (answer.status is None and line.excuse_of_silence(began_s))
        elif self.chance.random() < 0.5:
            line.break_off()
            self.scene.saw("client_lost_its_connection")
            why = "lost"
        else:
            why = "left"
        line.close()
        self.world.pass_time(0.1)
        return why or None

    def _judge_all(self, line: Line, answer: Answer, events: list[Event], made: Call) -> None:
        """Judge what came over all connections as if it had been one."""
        scene = self.scene
        if events and (answer.status in (None, 200)):
            ended = answer.complete or answers(events, made)
            whole = b"".join(encode_event(x.data, id=x.id) for x in events)
            fields = [(b"content-type", b"text/event-stream")]
            scene.oracle.judge(line, Answer(200, fields, whole, ended, False), made)
            scene.saw("came_back_for_an_answer")
            if scene.server.resumed[scene.server.stream_of.get(made.n, "")]:
                scene.saw("resumed_at_both_sides")
        elif events:
            if answer.status == 404:
                scene.oracle.note_gone(made.known)
            excused = scene.draining or made.known.gone
            assert not scene.calm or excused, f"the rest of {made} was refused: {answer}"
            if answer.complete:
                scene.oracle.check_error(answer.message["error"])
            scene.saw(f"rest_was_refused_{answer.status}")
        elif answer.complete:
            scene.oracle.judge(line, answer, made)
        else:
            scene.saw("lost_before_the_first_event")


class LegacyVisitor:
    """A client of HTTP+SSE: one stream that cannot be resumed, and what it is to carry."""

    def __init__(self, client: StreamClient) -> None:
        self._client = client
        self.scene = client.scene
        self.world = client.world

    def run(self) -> None:
        """Open the stream and a session, and call."""
        lines: list[Line] = []

        def connect() -> Line:
            lines.append(self._client.connect())
            return lines[-1]

        try:
            self._visit(LegacyClient(self.world, connect=connect))
        except (TurnedAway, ConnectError):
            self.scene.saw("client_was_turned_away")
        finally:
            for line in lines:
                line.close()

    def _visit(self, legacy: LegacyClient) -> None:
        known = Known("", VERSION, None)
        if not legacy.events or self._ask(legacy, initialize(), None) is None:
            assert not self.scene.calm or self.scene.draining, legacy.answer
            return
        legacy.post(note("notifications/initialized"))
        for _ in range(self._client.chance.randrange(1, 5)):
            steps = self._client.chance.choice(STREAMED)
            made, body = self._client.new_call(known, steps)
            final = self._ask(legacy, body, made)
            if final is None:
                break
            about = [x for x in legacy.messages if concerns(x, made)]
            data = b"".join(encode_event(json.dumps(x).encode()) for x in about)
            fields = [(b"content-type", b"text/event-stream")]
            line = legacy.stream
            assert isinstance(line, Line)
            self.scene.oracle.judge(line, Answer(200, fields, data, True, True), made)
            self.scene.saw("legacy_call_was_answered")

    def _ask(self, legacy: LegacyClient, body: Any, made: Call | None) -> Any:
        """Send a request; return its answer, or None if there will be none."""
        accepted = legacy.post(body)
        if accepted.status != 202:
            if accepted.complete:
                self.scene.oracle.check_error(accepted.message["error"], *[made] if made else [])
            return None

        def final() -> Any:
            return next((x for x in legacy.messages if answers_id(x, body["id"])), None)

        legacy.until(lambda: final() or legacy.gone or legacy.answer.complete)
        if final() is None:
            assert not self.scene.calm or self.scene.draining, legacy.answer
            self.scene.saw("legacy_stream_was_cut")
        return final()


def events_of(answer: Answer) -> list[Event]:
    """The events that have come whole."""
    return SseDecoder(EVENT_BYTES_MAX).feed(answer.body) if answer.is_stream else []


def answers(events: list[Event], made: Call) -> bool:
    """Whether the call's answer is among them."""
    return any(answers_id(json.loads(x.data), made.id) for x in events if x.data)


def answers_id(message: Any, id: int | str) -> bool:
    return "method" not in message and message.get("id") == id


def concerns(message: Any, made: Call) -> bool:
    """Whether this is the call's answer, or about it."""
    if "method" not in message:
        return bool(message.get("id") == made.id)
    return bool(message.get("params", {}).get("progressToken") == made.n)
