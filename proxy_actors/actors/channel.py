"""One channel to a server that carries all calls of a session, or of many: its calls, its streams.

Owns everything in flight on the channel. Its policy, the ledger, decides where each message goes;
its pipes move the bytes. What the channel is made of, how it is opened and how it ends is the
matter of its kinds: `actors/stdio_process.py` and `actors/sse_session.py`. When the channel has
ended every call is answered at once, the parent is told ProcessGone, and the actor ends as soon as
its streams have ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never

from proxy_actors.actors.base import LATER, Actor
from proxy_actors.actors.event_stream import EventStream
from proxy_actors.actors.pipes import Pipes
from proxy_actors.actors.refs import Reply, Slot
from proxy_actors.actors.stream_directory import CALL, STANDALONE, StreamDirectory
from proxy_actors.actors.subscriber import Subscribers
from proxy_actors.errors import Executed, FailedError, ProxyActorsError, Reason, RefusedError
from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.health import Verdict
from proxy_actors.messages.lifecycle import ChildStopped
from proxy_actors.messages.stdio_effects import LedgerEffect
from proxy_actors.messages.stream import (
    CallCancelled,
    ClientMoved,
    CloseStream,
    EventReceived,
    RequestOpened,
    SourceEnded,
    StreamOver,
)
from proxy_actors.policy.liveness import Liveness
from proxy_actors.policy.stdio_calls import cuts_streams_alone
from proxy_actors.policy.stdio_exclusive import ExclusivePolicy
from proxy_actors.policy.stdio_shared import SharedPolicy
from proxy_actors.policy.stream_bounds import StreamOwner
from proxy_actors.protocol.revisions import TOOLS_CHANGED
from proxy_actors.world.base import World

Failure = Callable[[int, bytes, FailedError], bytes]
"""Makes the JSON-RPC error that answers a call: of this exchange, under this request id."""
_LEDGER_MAIL = (
    m.SubmitCall,
    m.FrameReceived,
    m.SendMessage,
    m.AbandonCall,
    m.OpenStandalone,
    m.CallSweepDue,
    m.DrainProcess,
    m.SubmitOwn,
    m.PostFailed,
)


class Channel(Actor):
    """The actor of one channel.

    Args:
        name: its name, under which the data plane finds it.
        pipes: what it is made of.
        policy: the ledger, made for this channel.
        upstream: the upstream's name, for errors.
        streams: where its streams are listed.
        failure: makes the JSON-RPC error that answers a call.
    """

    mail_max = 10_000
    # What is told of the other side.
    ended_reason = Reason.PROCESS_EXITED
    has_ended = "the server process has ended"
    was_stopped = "the server process was stopped"
    does_not_read = "the server process does not read its input"

    def __init__(
        self,
        world: World,
        name: str,
        pipes: Pipes,
        policy: ExclusivePolicy | SharedPolicy,
        upstream: str,
        streams: StreamDirectory,
        subscribers: Subscribers,
        failure: Failure,
    ) -> None:
        super().__init__(world, name)
        self._pipes = pipes
        self._policy = policy
        self._liveness = Liveness()
        self._upstream = upstream
        self._streams = streams
        self._subscribers = subscribers
        self._failure = failure
        self._asks: dict[int, Reply] = {}
        self._pings: list[Reply] = []
        self._call_streams: dict[int, Slot] = {}
        self._standalone: Slot | None = None
        self._stopping = False
        self._gone = False
        self._dropped = 0

    def on_start(self) -> None:
        """Begin to open."""
        self._pipes.start(self.ref)

    def on_receive(self, message: Any) -> Any:  # Any: the vocabularies of channel and ledger
        """Apply the message; calls are answered when their first message has come."""
        if message.__class__ in _LEDGER_MAIL:
            return self._to_ledger(message)
        match message:
            case m.GarbageReceived(text):
                self._pipes.log_garbage(text)
                self._dropped += 1
            case m.PingServer():
                return self._ping()
            case m.LivenessDue(generation):
                self._apply(self._liveness.due(generation))
            case RequestOpened() | StreamOver():
                pass  # told by a stream of ours, which had it from the ledger
            case ClientMoved(stream, here):
                moved = m.CallClientMoved(self._call_of(stream), here)
                self._apply(self._policy.handle(moved, self.world.now_s()))
            case _:
                self._receive(message)
        return None

    def on_stop_requested(self) -> None:
        """Have the channel end."""
        if self._stopping:
            return
        self._stopping = True
        if self._gone:
            self.stop()
        else:
            self._begin_end()

    def on_child_stopped(self, message: ChildStopped) -> None:
        """A stream is over."""
        self._call_streams.pop(self._call_of(message.name), None)
        if self._standalone is not None and self._standalone.name == message.name:
            self._standalone = None
            self._policy.standalone_ended()
        self._stop_when_done()

    def on_crash(self) -> None:
        """End the channel, whose state nobody knows any more."""
        self.on_end()
        self._tell_parent(m.ProcessGone(self.name, "its actor crashed"))

    def on_end(self) -> None:
        """Leave no asker waiting, and the channel ended."""
        self._pipes.end()
        for slot in (*self._call_streams.values(), self._standalone):
            if slot is not None:
                self._streams.remove(slot.name)
        error = FailedError(
            self.ended_reason, self.was_stopped, executed=Executed.UNKNOWN, upstream=self._upstream
        )
        for reply in (*self._asks.values(), *self._pings):
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
            "calls": self._policy.calls,
            "streams": len(self._call_streams),
            "dropped": self._dropped,
        }

    # For the kinds of channels.

    def _receive(self, message: Any) -> None:  # Any: what the pipes of this kind tell
        """Apply what the pipes have told."""
        raise NotImplementedError

    def _begin_end(self) -> None:
        """Begin to end the channel; `_ended` follows, at once or later."""
        raise NotImplementedError

    def _drained(self) -> None:
        """No call runs in a drain any more."""
        self._tell_parent(m.ProcessDrained(self.name))

    def _begun(self) -> None:
        """The channel is open."""
        self._apply(self._policy.begin(self.world.now_s()))

    def _ended(self, reason: Reason, text: str) -> None:
        """The channel is no more."""
        self._gone = True
        unwritten = self._pipes.end()
        effects = self._policy.exited(reason, text, unwritten)
        cut = not self._stopping and cuts_streams_alone(effects, self._asks)
        self._apply(effects)
        self._tell_parent(m.ProcessGone(self.name, text, cut))
        self._stop_when_done()

    def _tell_parent(self, message: Any) -> None:  # Any: an upstream's vocabulary
        if self.parent is not None:
            self.parent.tell(message)

    def _ping(self) -> Any:  # Any: see on_receive
        """Say whether the server is alive: at once, or when it has said a word."""
        if self._gone:
            return Verdict.FAILED
        if self._policy.calls or self.asked_by is None:
            return Verdict.UNKNOWN
        self._pings.append(self.asked_by)
        self._apply(self._liveness.ask())
        return LATER

    # The ledger.

    def _to_ledger(self, message: Any) -> Any:  # Any: see on_receive
        asked = self.asked_by
        if isinstance(message, m.SubmitCall):
            if asked is None:
                raise ProxyActorsError("a call must be asked, not told")
            self._asks[message.call_id] = asked
        elif isinstance(message, m.OpenStandalone):
            if self._standalone is not None:
                return m.CallStreaming(self._standalone.name)
            full = self._streams.refusal(self._owner(message.session_key, message.owner))
            if full is not None:
                if asked is not None:
                    asked.fail(full)
                return LATER
        elif isinstance(message, m.AbandonCall):
            self._asks.pop(message.call_id, None)
        if self._gone:
            if isinstance(message, m.SubmitCall):
                error = FailedError(
                    self.ended_reason, self.has_ended, upstream=self._upstream
                )
                self._fail(message.call_id, error)
            self.on_undelivered(message)
            return LATER
        now_s = self.world.now_s()
        if isinstance(message, m.FrameReceived):
            pings, self._pings = self._pings, []
            for reply in pings:
                reply.set(Verdict.WELL)
            if self._liveness.heard(message.frame, now_s):
                return LATER  # to a question of ours, of which the ledger knows nothing
            if message.frame.method == TOOLS_CHANGED:
                self._streams.tools_changed(self._upstream)
        self._apply(self._policy.handle(message, now_s))
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
                case e.StreamCall():
                    self._stream_call(effect)
                case e.FailCall(call_id, reason, text, executed):
                    error = FailedError(reason, text, executed=executed, upstream=self._upstream)
                    self._fail(call_id, error)
                    if reason is Reason.UPSTREAM_TIMEOUT:
                        self._apply(self._liveness.call_expired(self.world.now_s()))
                case e.RefuseCall(call_id, text):
                    self._fail(call_id, RefusedError(400, text))
                case e.EndCall(call_id):
                    self._end_call(call_id)
                case _:
                    self._perform_rare(effect)

    def _perform_rare(self, effect: LedgerEffect) -> None:
        match effect:
            case e.StartStandalone(session_key, owner):
                self._start_standalone(session_key, owner)
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
                self._streams.tools_changed(self._upstream)  # it may be of another version
                self._tell_parent(m.ProcessReady(self.name, described))
            case e.TellUpstream(frame, sessions):
                self._tell_parent(m.NotificationReceived(frame, sessions))
            case e.TellOwnAnswered(own_id, result, error, reason):
                self._tell_parent(m.OwnAnswered(own_id, result, error, reason))
            case e.TellCallEnded(call_id):
                self._tell_parent(m.CallEnded(self.name, call_id))
            case e.AnnounceDrained():
                self._drained()
            case e.WakeLiveness(after_s, generation):
                self.world.timer(after_s, self.ref, m.LivenessDue(generation))
            case e.GiveUp(text):
                self._pipes.give_up(text)
            case _:
                assert_never(effect)  # type: ignore[arg-type]  # the others are in _apply

    def _shed(self, call_id: int | None) -> None:
        """The other side does not read: what would wait for it is refused (FLT-U8)."""
        self._dropped += 1
        if call_id is not None:
            abandon = m.AbandonCall(call_id, unwritten=True)
            self._apply(self._policy.handle(abandon, self.world.now_s()))
            self._fail(
                call_id,
                FailedError(Reason.OVERLOADED, self.does_not_read, upstream=self._upstream),
            )

    def _reply(self, call_id: int, answer: m.CallAnswered | m.CallStreaming) -> None:
        if call_id in self._asks:
            self._asks[call_id].set(answer)
            del self._asks[call_id]  # last: who crashes answers those that it has not forgotten

    def _fail(self, call_id: int, error: FailedError | RefusedError) -> None:
        stream = self._call_streams.get(call_id)
        if call_id in self._asks:
            self._asks[call_id].fail(error)
            del self._asks[call_id]
        elif stream is not None and isinstance(error, FailedError):
            stream.tell(SourceEnded(error.reason, error.text, error.executed))

    def _stream_call(self, call: e.StreamCall) -> None:
        owner = self._owner(call.session_key, call.owner)
        if self._streams.refusal(owner) is not None:
            refused = m.StreamRefused(call.call_id)
            self._apply(self._policy.handle(refused, self.world.now_s()))
            return
        name = f"{self.name}/{CALL}{self.world.token(12)}"
        stream = EventStream(
            self.world,
            name,
            self._subscribers,
            lambda error: self._failure(call.call_id, call.request_id, error),
            owner=owner,
            streams=self._streams,
            # A session with a channel of its own ends with the process.
            request_id=call.request_id if isinstance(self._policy, SharedPolicy) else None,
        )
        self.start_child(stream)  # first: what it is listed in it leaves at its end
        self._streams.enter_stream(stream.slot, owner)
        self._call_streams[call.call_id] = stream.slot
        self._reply(call.call_id, m.CallStreaming(name))

    def _call_of(self, stream: str) -> int:
        """Return the call of a stream; 0 for any other."""
        return next((id for id, slot in self._call_streams.items() if slot.name == stream), 0)

    def _end_call(self, call_id: int) -> None:
        """End a call that its client has cancelled, and that the server did not answer."""
        if call_id in self._call_streams:
            self._tell_stream(call_id, CallCancelled())
            self._tell_stream(call_id, SourceEnded())
            return
        self._fail(call_id, FailedError(
            Reason.UPSTREAM_CLOSED, "the call was cancelled", executed=Executed.UNKNOWN,
            upstream=self._upstream,
        ))

    def _tell_stream(self, call_id: int, message: Any) -> None:  # Any: a stream's vocabulary
        stream = self._call_streams.get(call_id)
        if stream is None or not stream.tell(message):
            self._dropped += 1

    def _start_standalone(self, session_key: str, owner: str) -> None:
        name = f"{self.name}/{STANDALONE}{self.world.token(12)}"
        whose = self._owner(session_key, owner)
        streams = self._streams
        stream = EventStream(self.world, name, self._subscribers, owner=whose, streams=streams)
        self.start_child(stream)
        streams.enter_stream(stream.slot, whose)
        self._standalone = stream.slot
        if self.asked_by is not None:
            self.asked_by.set(m.CallStreaming(name))

    def _owner(self, session_key: str, owner: str) -> StreamOwner:
        return StreamOwner(session_key, owner, self._upstream)

    def _stop_when_done(self) -> None:
        if self._gone and (self._stopping or not self.children):
            self.stop()
