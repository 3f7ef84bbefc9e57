"""The oracle of the scenario "plane": what may become of a request, whatever happens meanwhile.

A request has one terminal outcome: it is answered, by its own answer; or refused or failed, with an
error under its own id that says truly whether it was executed; or its connection broke, for a
reason that the scene knows. `tools/call` is never executed twice. RELIABILITY 6.1, O1, O3, O5.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from proxy_actors.gateway.forwarder import CALL_S_MAX
from proxy_actors.policy.session_ledger import key_of
from proxy_actors.protocol.sse import Event
from proxy_actors.world.sim_streams import SimStream
from tests.sim.virtual import Answer, VirtualConnection

if TYPE_CHECKING:
    from tests.sim.plane_scenario import Scene

# What a call may take beyond its time: the way of its last bytes over a network that stalls.
LATE_S_MAX = 30.0
# The application's own error.
VERDICT = -32000
VERDICT_STEP = f"error 200 {VERDICT}"
# A server closes a connection that has been idle for so long; a request may cross it.
IDLE_S = 70.0


@dataclass
class Known:
    """A session as its client knows it."""

    id: str
    version: str
    upstream_id: str | None
    left: bool = False
    """A DELETE was sent, whatever became of it."""
    deleted: bool = False
    """A DELETE was confirmed."""
    gone: bool = False
    """A request was answered with 404."""
    stood: bool = False
    """A standalone stream was opened."""

    @property
    def key(self) -> str:
        return key_of(self.id)


@dataclass
class Call:
    """A request that the server counts under `n`, and what is known of it."""

    n: int
    id: int | str
    known: Known
    steps: tuple[str, ...]
    good: bool
    """Whether the server answers it well."""
    repeatable: bool = False
    cancelled: bool = False
    asks: bool = False
    slow: bool = False
    """Whether its client reads too slowly, or sends so."""
    began_s: float = 0.0
    after_delete: bool = False
    unexecuted: bool = False
    """Whether its client was told that it was not executed."""
    answered: bool = False

    @property
    def notes(self) -> int:
        """How many notes its server sends before it answers."""
        return sum(step.startswith("note") for step in self.steps)


class Line(VirtualConnection):
    """A client's connection."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene.world)
        assert isinstance(self.stream, SimStream)
        self._sim = self.stream
        self._incoming, self._outgoing = self.stream._in, self.stream._out
        self._scene = scene
        self.keep_alive = True
        self.used_s = self.world.now_s()

    @property
    def usable(self) -> bool:
        """Whether it looks as if another request could go out."""
        return self.keep_alive and self.stream.is_quiet()

    @property
    def over(self) -> bool:
        """Whether nothing more can come."""
        return self._incoming._eof or self._incoming._broken

    @property
    def closed(self) -> bool:
        """Whether the client has closed it."""
        return self._sim._closed

    def break_off(self) -> None:
        """Break it, as a network does."""
        self._sim.break_off()

    def excuse(self) -> str | None:
        """Say why an answer may have been cut; None when nothing has happened here."""
        if self._incoming._broken:
            return "reset"
        if self._outgoing in self._scene.killed:
            return "killed"
        return None

    def excuse_of_silence(self, began_s: float) -> str | None:
        """Say why a request may have been left unread on a connection that was ended."""
        if not self.keep_alive:
            return "unread_after_a_close"
        if self._scene.draining:
            return "unread_in_a_drain"
        if began_s - self.used_s > IDLE_S:
            return "unread_after_idling"
        return None


@dataclass
class Oracle:
    """Judges every outcome; `check_rest` sums up."""

    scene: Scene
    calls: list[Call] = field(default_factory=list)

    def judge(self, line: Line, answer: Answer, *calls: Call) -> None:
        """Judge what a client got for a request; for several calls if they were a batch."""
        scene = self.scene
        if not answer.complete:
            outcome = self._cut(line, answer, calls)
            for call in calls:
                check_progress(answer.messages, call)
        elif answer.status == 200:
            outcome = self._answered(answer, calls)
        else:
            outcome = self._refused(answer, calls)
        line.keep_alive = line.keep_alive and answer.complete and answer.keep_alive
        line.used_s = scene.world.now_s()
        scene.saw(f"call_{outcome}")
        if scene.calm and all(x.good and not x.cancelled and not x.slow for x in calls):
            excused = scene.draining or any(self.may_be_gone(x.known) for x in calls)
            excused |= outcome == "cut_unread_after_idling"  # the proxy's end of it crossed this
            assert outcome == "answered" or excused, (outcome, calls, answer)
        for call in calls:
            if not call.asks:
                took_s = scene.world.now_s() - call.began_s
                assert call.slow or took_s <= CALL_S_MAX + LATE_S_MAX, f"{call} took {took_s} s"

    def may_be_gone(self, known: Known) -> bool:
        """Whether a 404 is right in this session.

        One that is ending to make room for another cannot be used either, and may come back.
        """
        lost = known.upstream_id not in self.scene.server.sessions
        return known.left or known.gone or lost or self.scene.evicts

    def note_gone(self, known: Known) -> None:
        """A request in the session was answered with 404."""
        assert self.may_be_gone(known), f"{known} is gone, and nobody ended it"
        known.gone = True

    def check_error(self, error: Any, *calls: Call) -> str:
        """Judge a JSON-RPC error; return its reason."""
        assert error["message"] != "internal error", (error, calls)
        data = error.get("data") or {}
        reason = str(data.get("reason", "refused"))
        assert reason != "draining" or self.scene.draining, error
        if data.get("executed", "no") == "no":
            for call in calls:
                call.unexecuted = True
        return reason

    def check_rest(self) -> None:
        """Check what must hold of all calls once nothing is underway."""
        executions = self.scene.server.executions
        for call in self.calls:
            times = executions[call.n]
            if times > 1:
                self.scene.saw("list_was_sent_again")
            assert times <= (2 if call.repeatable else 1), f"{call} was executed {times} times"
            assert not call.unexecuted or not times, f"{call} was executed all the same"
            assert not call.answered or times, f"{call} was answered by nobody"

    def _answered(self, answer: Answer, calls: Sequence[Call]) -> str:
        finals = []
        for message in answer.messages:
            if "method" in message:
                check_company(message, calls)
            else:
                finals.append(message)
        for call in calls:
            check_progress(answer.messages, call)
        by_id = {(type(call.id), call.id): call for call in calls}
        outcome = "ended_as_cancelled" if not finals else "answered"
        for final in finals:
            call = by_id.pop((type(final["id"]), final["id"]), None)
            assert call is not None, f"{final} answers none of {calls}"
            assert not call.after_delete, f"{call.known} lives on"
            if "result" in final:
                text = final["result"]["content"][0]["text"]
                assert text == f"n={call.n}", f"{text} answers {call}"
                call.answered = True
                noted = check_progress(answer.messages, call)
                alone = self.scene.full and call.notes > noted == 0
                assert alone or noted == call.notes, f"{noted} notes of {call}"
                if alone:
                    self.scene.saw("answered_without_a_stream")
            elif final["error"]["code"] == VERDICT and VERDICT_STEP in call.steps:
                call.answered = True
            else:
                outcome = f"failed_{self.check_error(final['error'], call)}"
        assert all(call.cancelled for call in by_id.values()), f"no answer to {by_id}"
        return outcome

    def _refused(self, answer: Answer, calls: Sequence[Call]) -> str:
        message = answer.message
        if answer.field(b"ratelimit") is not None:
            assert self.scene.limits, answer
            self.scene.saw("limited_by_a_rule")
        ids = [calls[0].id, None] if len(calls) == 1 else [None]
        assert message.get("id") in ids, (message, calls)
        if answer.status == 404:
            self.note_gone(calls[0].known)
        if answer.status == 408:
            assert calls[0].slow, f"{calls} did not come slowly"
        return f"refused_{answer.status}_{self.check_error(message['error'], *calls)}"

    def _cut(self, line: Line, answer: Answer, calls: Sequence[Call]) -> str:
        excuse = line.excuse()
        if excuse is None and answer.status is None:
            excuse = line.excuse_of_silence(calls[0].began_s)
            if excuse is not None:
                for call in calls:
                    call.unexecuted = True
        if excuse is None and any(call.slow for call in calls):
            excuse = "too_slow"
        if excuse is None and len(calls) > 1 and self.scene.batch_was_killed:
            excuse = "batch_killed"
        assert excuse is not None, f"an answer was cut, and nothing has happened: {answer} {calls}"
        return f"cut_{excuse}"


def check_progress(messages: Sequence[Any], call: Call) -> int:
    """Check that what a call's server has noted came in order and once; return how much came."""
    params = [x["params"] for x in messages if x.get("method") == "notifications/progress"]
    numbers = [x["progress"] for x in params if x["progressToken"] == call.n]
    assert numbers == list(range(1, len(numbers) + 1)), f"{numbers} of {call}"
    return len(numbers)


def check_company(message: Any, calls: Sequence[Call]) -> None:
    """Check a notification or a request that came with an answer: it is about one of the calls."""
    params = message.get("params", {})
    if message["method"] == "notifications/progress":
        assert params["progressToken"] in [call.n for call in calls], (message, calls)
    else:
        assert message["method"] == "elicitation/create", message
        ns = [f"ask-{call.n}-" for call in calls]
        assert any(message["id"].startswith(n) for n in ns), (message, calls)


def check_told(
    events: Sequence[Event], known: Known, others: Sequence[str | None] | None = None
) -> None:
    """Check what one client was told on standalone streams, over all its connections.

    One stream of the proxy's carries one stream of the server's, without a gap from the first
    event on that the client got.

    Args:
        others: where lost sessions are opened anew, the server's ids of the other clients'.
    """
    last: dict[bytes, tuple[int, str, int]] = {}
    for event in events:
        stream, _, number = (event.id or b"").rpartition(b".")
        before = last.get(stream)
        if not event.data:
            assert before is None or before[0] == int(number), (event, before)
            continue
        message = json.loads(event.data)
        if others is not None and message.get("method", "").endswith("/list_changed"):
            assert before is None or int(number) == before[0] + 1, (message, before)
            last[stream] = int(number), "anew", 0
            continue
        assert message.get("method") == "notifications/news", message
        params = message["params"]
        own = params["session"] == known.upstream_id
        assert own or others is not None and params["session"] not in others, (message, known)
        now = int(number), params["stream"], params["nth"]
        if before is not None and before[1] != now[1] and others is not None:
            assert now[0] == before[0] + 1 and not own, (before, now)
        elif before is not None:
            assert now == (before[0] + 1, before[1], before[2] + 1), (before, now)
        last[stream] = now


def check_news(messages: Sequence[Any], known: Known) -> None:
    """Check what came on a standalone stream: this session's, in order, each once."""
    last = -math.inf
    for message in messages:
        assert message["method"] == "notifications/news", message
        assert message["params"]["session"] == known.upstream_id, (message, known)
        assert message["params"]["number"] > last, messages
        last = message["params"]["number"]
