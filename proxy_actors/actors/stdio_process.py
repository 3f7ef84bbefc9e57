"""One child process that speaks MCP on stdio: its pipes, its calls, its streams, its end.

Owns the process from spawn to exit and everything in flight at it. Its policy, the ledger, decides
where each line goes; four greenlets move bytes: one spawns, one reads stdout, one writes stdin, one
drains stderr. They end when the process does.

The end. `Stop` closes stdin, then sends TERM, then KILL to the group, two seconds apart (2025-11-25
basic/lifecycle, "Shutdown"); the actor ends when the exit has been seen. When the process ends by
itself its last words are heard; then every call is answered at once, the parent is told
ProcessGone, and the actor ends as soon as its streams have ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never

from proxy_actors.actors.base import LATER, Actor
from proxy_actors.actors.child_pipes import ChildPipes
from proxy_actors.actors.event_stream import EventStream
from proxy_actors.actors.refs import Reply, Slot
from proxy_actors.actors.stream_directory import CALL, STANDALONE, StreamDirectory
from proxy_actors.actors.subscriber import Subscribers
from proxy_actors.errors import (
    Executed,
    FailedError,
    ProxyActorsError,
    Reason,
    RefusedError,
)
from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.lifecycle import ChildStopped
from proxy_actors.messages.stdio_effects import LedgerEffect
from proxy_actors.messages.stream import (
    CallCancelled,
    CloseStream,
    EventReceived,
    RequestOpened,
    SourceEnded,
    StreamOver,
)
from proxy_actors.policy.stdio_exclusive import ExclusivePolicy
from proxy_actors.policy.stdio_shared import SharedPolicy
from proxy_actors.world.base import ChildCommand, World

STOP_STEP_S = 2.0
# How long the end of an ended process's output is waited for, where a descendant holds the pipe.
LAST_WORDS_S = 0.5
_LEDGER_MAIL = (
    m.SubmitCall,
    m.FrameReceived,
    m.SendMessage,
    m.AbandonCall,
    m.OpenStandalone,
    m.CallSweepDue,
    m.DrainProcess,
    m.SubmitOwn,
)


class StdioProcess(Actor):
    """The actor of one child process.

    Args:
        name: its name, under which the data plane finds it.
        command: what to execute.
        policy: the ledger, made for this child.
        upstream: the upstream's name, for errors.
        streams: where its streams are listed.
        failure: makes the JSON-RPC error that answers a call.
    """

    mail_max = 10_000

    def __init__(
        self,
        world: World,
        name: str,
        command: ChildCommand,
        policy: ExclusivePolicy | SharedPolicy,
        upstream: str,
        streams: StreamDirectory,
        subscribers: Subscribers,
        failure: Callable[[int, bytes, FailedError], bytes],
    ) -> None:
        super().__init__(world, name)
        self._policy = policy
        self._upstream = upstream
        self._streams = streams
        self._subscribers = subscribers
        self._failure = failure
        self._pipes = ChildPipes(world, command, upstream)
        self._asks: dict[int, Reply] = {}
        self._call_streams: dict[int, Slot] = {}
        self._standalone: Slot | None = None
        self._stopping = False
        self._exit: str | None = None
        self._output_ended = False
        self._gone = False
        self._step = 0
        self._dropped = 0

    def on_start(self) -> None:
        """Begin to spawn."""
        self._pipes.start(self.ref)

    def on_receive(self, message: Any) -> Any:  # Any: the vocabularies of child and ledger
        """Apply the message; calls are answered when their first message has come."""
        if message.__class__ in _LEDGER_MAIL:
            return self._to_ledger(message)
        match message:
            case m.ProcessSpawned():
                self._spawned()
            case m.ProcessFailed(text):
                self._exited(Reason.UPSTREAM_UNAVAILABLE, text)
            case m.ProcessExited(code, signal):
                how = f"with code {code}" if signal is None else f"by signal {signal}"
                self._exit = f"the server process ended {how}"
                self._hear_last_words()
            case m.OutputEnded() | m.LastWordsDue():
                self._output_ended = True
                self._hear_last_words()
            case m.GarbageReceived(text):
                self._pipes.log_garbage(text)
                self._dropped += 1
            case m.FrameTooLong():
                self._pipes.kill()  # nothing after it can be trusted; the exit tells the rest
            case m.StopStepDue(generation):
                self._stop_step(generation)
            case RequestOpened() | StreamOver():
                pass  # told by a stream of ours, which had it from the ledger
            case _:
                raise ProxyActorsError(f"{self.name} does not understand {type(message).__name__}")
        return None

    def on_stop_requested(self) -> None:
        """Close stdin, and see that the process ends."""
        if self._stopping:
            return
        self._stopping = True
        if self._gone:
            self.stop()
        else:
            self._stop_step(self._step)

    def on_child_stopped(self, message: ChildStopped) -> None:
        """A stream is over."""
        self._streams.remove(message.name)
        for call_id, slot in list(self._call_streams.items()):
            if slot.name == message.name:
                del self._call_streams[call_id]
        if self._standalone is not None and self._standalone.name == message.name:
            self._standalone = None
            self._policy.standalone_ended()
        self._stop_when_done()

    def on_crash(self) -> None:
        """Kill the process, whose state nobody knows any more."""
        self.on_end()
        self._tell_parent(m.ProcessGone(self.name, "its actor crashed"))

    def on_end(self) -> None:
        """Leave no asker waiting, and no process running."""
        self._pipes.kill()
        self._pipes.end()
        for slot in (*self._call_streams.values(), self._standalone):
            if slot is not None:
                self._streams.remove(slot.name)
        text = "the server process was stopped"
        error = FailedError(
            Reason.PROCESS_EXITED, text, executed=Executed.UNKNOWN, upstream=self._upstream
        )
        for reply in self._asks.values():
            if not reply.settled:  # the ask that was in hand at a crash has its answer
                reply.fail(error)
        self._asks.clear()

    def on_undelivered(self, message: Any) -> None:  # Any: see on_receive
        """Own calls of the upstream are always answered."""
        if isinstance(message, m.SubmitOwn):
            self._tell_parent(m.OwnAnswered(message.own_id))

    def describe(self) -> dict[str, object]:
        """State for operators."""
        return {
            "pid": self._pipes.pid,
            "running": self._pipes.pid is not None and not self._gone,
            "calls": self._policy.calls,
            "streams": len(self._call_streams),
            "dropped": self._dropped,
        }

    # The ledger.

    def _to_ledger(self, message: Any) -> Any:  # Any: see on_receive
        asked = self.asked_by
        if isinstance(message, m.SubmitCall):
            if asked is None:
                raise ProxyActorsError("a call must be asked, not told")
            self._asks[message.call_id] = asked
        elif isinstance(message, m.OpenStandalone) and self._standalone is not None:
            return m.CallStreaming(self._standalone.name)
        elif isinstance(message, m.AbandonCall):
            self._asks.pop(message.call_id, None)
        if self._gone:
            if isinstance(message, m.SubmitCall):
                text = "the server process has ended"
                error = FailedError(Reason.PROCESS_EXITED, text, upstream=self._upstream)
                self._fail(message.call_id, error)
            self.on_undelivered(message)
            return LATER
        self._apply(self._policy.handle(message, self.world.now_s()))
        return LATER

    def _apply(self, effects: list[LedgerEffect]) -> None:
        for effect in effects:
            match effect:
                case e.WriteFrame(data, call_id):
                    if not self._pipes.write(data, call_id):
                        self._shed(call_id)
                case e.AnswerCall(call_id, data):
                    self._reply(call_id, m.CallAnswered(data))
                case e.EmitToCall(call_id, data, kind, id, final):
                    self._tell_stream(call_id, EventReceived(data, kind, id, final))
                case e.StreamCall(call_id, request_id, session_key):
                    self._stream_call(call_id, request_id, session_key)
                case e.FailCall(call_id, reason, text, executed):
                    self._fail(call_id, FailedError(
                        reason, text, executed=executed, upstream=self._upstream,
                    ))
                case e.RefuseCall(call_id, text):
                    self._fail(call_id, RefusedError(400, text))
                case e.EndCall(call_id):
                    self._tell_stream(call_id, CallCancelled())
                    self._tell_stream(call_id, SourceEnded())
                case _:
                    self._perform_rare(effect)

    def _perform_rare(self, effect: LedgerEffect) -> None:
        match effect:
            case e.StartStandalone(session_key):
                self._start_standalone(session_key)
            case e.EmitToSession(_, data, kind, id):
                if self._standalone is None or not self._standalone.tell(
                    EventReceived(data, kind, id)
                ):
                    self._dropped += 1
            case e.CloseStandalone():
                if self._standalone is not None:
                    self._standalone.tell(CloseStream())
            case e.DropFrame():
                self._dropped += 1
            case e.WakeSweep(after_s, generation):
                self.world.timer(after_s, self.ref, m.CallSweepDue(generation))
            case e.AnnounceReady(described):
                self._tell_parent(m.ProcessReady(self.name, described))
            case e.TellUpstream(frame, sessions):
                self._tell_parent(m.NotificationReceived(frame, sessions))
            case e.TellOwnAnswered(own_id, result, error, reason):
                self._tell_parent(m.OwnAnswered(own_id, result, error, reason))
            case e.TellCallEnded(call_id):
                self._tell_parent(m.CallEnded(self.name, call_id))
            case e.AnnounceDrained():
                self._tell_parent(m.ProcessDrained(self.name))
            case e.GiveUp(text):
                self._pipes.log(text)
                self._pipes.kill()
            case _:
                assert_never(effect)  # type: ignore[arg-type]  # the others are in _apply

    def _shed(self, call_id: int | None) -> None:
        """The child does not read: what would wait for it is refused (FLT-U8)."""
        self._dropped += 1
        if call_id is not None:
            abandon = m.AbandonCall(call_id, unwritten=True)
            self._apply(self._policy.handle(abandon, self.world.now_s()))
            text = "the server process does not read its input"
            self._fail(call_id, FailedError(Reason.OVERLOADED, text, upstream=self._upstream))

    def _reply(self, call_id: int, answer: m.CallAnswered | m.CallStreaming) -> None:
        reply = self._asks.pop(call_id, None)
        if reply is not None:
            reply.set(answer)

    def _fail(self, call_id: int, error: FailedError | RefusedError) -> None:
        stream = self._call_streams.get(call_id)
        reply = self._asks.pop(call_id, None)
        if reply is not None:
            reply.fail(error)
        elif stream is not None and isinstance(error, FailedError):
            stream.tell(SourceEnded(error.reason, error.text, error.executed))

    def _stream_call(self, call_id: int, request_id: bytes, session_key: str) -> None:
        name = f"{self.name}/{CALL}{self.world.token(12)}"
        stream = EventStream(
            self.world,
            name,
            self._subscribers,
            lambda error: self._failure(call_id, request_id, error),
            session_key=session_key,
            streams=self._streams,
        )
        self._streams.enter(stream.slot)
        self._call_streams[call_id] = stream.slot
        self.start_child(stream)
        self._reply(call_id, m.CallStreaming(name))

    def _tell_stream(self, call_id: int, message: Any) -> None:  # Any: a stream's vocabulary
        stream = self._call_streams.get(call_id)
        if stream is None or not stream.tell(message):
            self._dropped += 1

    def _start_standalone(self, session_key: str) -> None:
        name = f"{self.name}/{STANDALONE}{self.world.token(12)}"
        stream = EventStream(
            self.world, name, self._subscribers, session_key=session_key, streams=self._streams
        )
        self._streams.enter(stream.slot)
        self._standalone = stream.slot
        self.start_child(stream)
        if self.asked_by is not None:
            self.asked_by.set(m.CallStreaming(name))

    # The process.

    def _spawned(self) -> None:
        self._pipes.begin(self.ref)
        self._tell_parent(m.ProcessReady(self.name))
        if self._stopping:
            self._step = 0
            self._stop_step(0)
        else:
            self._apply(self._policy.begin(self.world.now_s()))

    def _hear_last_words(self) -> None:
        """The end of the process and the end of its output come in either order."""
        if self._exit is None or self._gone:
            return
        if self._output_ended:
            self._exited(Reason.PROCESS_EXITED, self._exit)
        else:
            self.world.timer(LAST_WORDS_S, self.ref, m.LastWordsDue())

    def _exited(self, reason: Reason, text: str) -> None:
        """The process is no more."""
        self._gone = True
        unwritten = self._pipes.end()
        self._apply(self._policy.exited(reason, text, unwritten))
        self._tell_parent(m.ProcessGone(self.name, text))
        self._stop_when_done()

    def _stop_when_done(self) -> None:
        if self._gone and (self._stopping or not self.children):
            self.stop()

    def _stop_step(self, generation: int) -> None:
        if generation != self._step or self._gone:
            return
        (self._pipes.close_stdin, self._pipes.terminate, self._pipes.kill)[min(self._step, 2)]()
        self._step += 1
        self.world.timer(STOP_STEP_S, self.ref, m.StopStepDue(self._step))

    def _tell_parent(self, message: Any) -> None:  # Any: an upstream's vocabulary
        if self.parent is not None:
            self.parent.tell(message)
