"""What could be wrong behind a stdio upstream: defects that the campaigns must find."""

from __future__ import annotations

from proxy_actors.actors.channel import Channel
from proxy_actors.actors.child_pipes import ChildPipes
from proxy_actors.actors.event_stream import EventStream
from proxy_actors.actors.inbox import Inbox
from proxy_actors.actors.session_channels import SessionChannels
from proxy_actors.actors.stdio_process import StdioProcess
from proxy_actors.actors.stdio_shared import StdioShared
from proxy_actors.gateway.stdio_forward import SharedForwarder
from proxy_actors.options import StdioMode
from proxy_actors.policy.stdio_calls import CallTable
from proxy_actors.policy.stdio_children import ChildrenPolicy
from proxy_actors.policy.stdio_exclusive import ExclusivePolicy
from proxy_actors.policy.stdio_sessions import SharedSessionsPolicy
from proxy_actors.policy.stdio_shared import SharedPolicy
from proxy_actors.policy.stdio_shared_children import SharedChildrenPolicy
from tests.defects import Defect

OF_EVERY_MODE = (
    Defect("a frame goes to the wrong call", CallTable, "find",
           "self._by_id.get(upstream_id)", "next(iter(self._by_id.values()), None)"),
    Defect("an exit leaves a call open", CallTable, "fail_all",
           "effects.append(e.FailCall(call.id, reason, text, executed))", "pass"),
    Defect("an exit leaves the calls of a child open", Channel, "_ended",
           "self._apply(effects)", "pass"),
    Defect("what was written counts as not executed", CallTable, "fail_all",
           "never = call.unsent or call.id in unwritten", "never = True"),
    Defect("a line is written twice", ChildPipes, "write",
           "append((frame, call_id))", "extend([(frame, call_id)] * 2)"),
    Defect("a process outlives its actor", StdioProcess, "on_end",
           "self._child.kill()", "pass"),
    Defect("a process that was spawned late outlives its actor", ChildPipes, "_spawn",
           "child.kill()", "pass"),
    Defect("a full box refuses the last message of a stream", Inbox, "offer",
           "and not message.always_accepted", ""),
    Defect("what a process said last is lost", StdioProcess, "_hear_last_words",
           "if not self._output_ended:", "if False:"),
    Defect("an end waits for the end of all descendants", StdioProcess, "_hear_last_words",
           "self.world.timer(LAST_WORDS_S, self.ref, m.LastWordsDue())", "pass"),
    Defect("an actor that crashes leaves its askers waiting", Channel, "on_end",
           "reply.fail(error)", "pass"),
    Defect("a stream that crashes ends as if all was well", EventStream, "on_end",
           "not self._ended", "False"),
    Defect("streams stay listed", EventStream, "on_end", "self._streams.remove(self.name)", "pass"),
    Defect("a cancelled call goes on", CallTable, "cancelled",
           "min(call.deadline_s, now_s + CANCELLED_S_MAX)", "call.deadline_s"),
    Defect("the end of a drain is not told", Channel, "_drained",
           "self._tell_parent(m.ProcessDrained(self.name))", "pass"),
)

OF_SESSION = (
    Defect("a stubborn process is not killed", StdioProcess, "_stop_step",
           "self._child.kill)", "self._child.terminate)"),
    Defect("a spare is handed out twice", ChildrenPolicy, "_take",
           "self._spare = None", "pass"),
    Defect("a child is not stopped when its session ends", ChildrenPolicy, "_session_ended",
           "self._end(child, effects)", "pass"),
    Defect("a child is kept though its handshake failed", ChildrenPolicy, "_release",
           "self._end(child, effects)", "pass"),
    Defect("a spare that ended is not replaced", ChildrenPolicy, "handle",
           "if generation == self._generation", "if False"),
    Defect("a cancel is lost", ExclusivePolicy, "_send",
           "effects.append(e.WriteFrame(sent.raw))",
           "sent.method == CANCELLED or effects.append(e.WriteFrame(sent.raw))"),
    Defect("an answer of the client is lost", ExclusivePolicy, "_send",
           "self._close_request(sent.id, now_s)",
           "self._close_request(sent.id, now_s)\n        return"),
    Defect("children of a crashed upstream stay listed", SessionChannels, "on_end",
           "self._channels.remove(name)", "pass"),
    Defect("a spare is left at rest", ChildrenPolicy, "_rest", "self._end(spare, effects)", "pass"),
    Defect("a spare rests beside sessions", ChildrenPolicy, "handle", "if self.children:",
           "if False:"),
    Defect("nobody wakes an upstream that rests", ChildrenPolicy, "_take",
           "self._wake(effects)", "pass"),
)

OF_SHARED = (
    Defect("a cancel names the wrong request", SharedPolicy, "_send",
           "jsonrpc_rewrite.cancelled_with_request_id(sent, call.upstream_id)", "sent.raw"),
    Defect("a progress token is not mapped back", SharedPolicy, "_notified",
           "jsonrpc_rewrite.notification_with_progress_token(frame, call.client_token)",
           "frame.raw"),
    Defect("an id is not mapped back", SharedPolicy, "_responded",
           "jsonrpc_rewrite.with_id(frame, call.client_id)", "frame.raw"),
    Defect("ids are not made unique", SharedPolicy, "_submit",
           "id = self._mint()", "id = request.id"),
    Defect("a question of the server is not refused", SharedPolicy, "_refuse",
           "effects.append(e.WriteFrame(data))", "pass"),
    Defect("everybody hears the log", SharedSessionsPolicy, "_concerned",
           "if frame.method in LIST_CHANGED:", "if True:"),
    Defect("a standalone stream outlives its session", SharedSessionsPolicy, "_end",
           "effects.append(e.CloseSessionStream(session_key))", "pass"),
    Defect("a child that ended is not replaced", SharedChildrenPolicy, "handle",
           "self._start_missing(effects)", "pass"),
    Defect("children and streams of a crashed upstream stay listed", StdioShared, "on_end",
           "self._unlist(child)", "pass"),
    Defect("a process rests under a call", StdioShared, "_idle_s", "self._use.calls or ", ""),
    Defect("a call is not counted as over", SharedForwarder, "call",
           "use.end(self._world.now_s())", "pass"),
    Defect("a call does not wake a process that rests", SharedForwarder, "call",
           "if use.rests:", "if False:"),
    Defect("who wakes a process pays for old failures", SharedChildrenPolicy, "_rest",
           "self._backoff.succeeded()", "pass"),
)

OF_POOL = (
    Defect("a cancel is lost", SharedPolicy, "_send",
           "data = jsonrpc_rewrite.cancelled_with_request_id(sent, call.upstream_id)", "return"),
    Defect("askers that gave up are remembered", StdioShared, "_note_asker",
           "self._asks.pop(id, None)", "pass"),
    Defect("an exit leaves a request of the proxy open", SharedSessionsPolicy, "handle",
           "self._asks.gone(child)", "()"),
    Defect("a restarted upstream is not told of the sessions", StdioShared, "on_end",
           "self._known.clear()", "pass"),
    Defect("sessions that have ended are known for ever", StdioShared, "_forget_ended",
           "self._known.discard(session_key)", "pass"),
    Defect("a child is given to two calls", SharedChildrenPolicy, "_serve",
           "self._free.pop()", "self._free[-1]"),
    Defect("processes rest once", SharedChildrenPolicy, "_wake",
           "self._watch_idle(self._limits.idle_stop_s, effects)", "pass"),
    Defect("a call's end does not free its child", SharedPolicy, "_note_ends",
           "effects += ended", "pass"),
)

# What is the same in every mode is looked for in the one that is run fastest.
MUTANTS = {
    StdioMode.SESSION: OF_EVERY_MODE + OF_SESSION,
    StdioMode.SHARED: OF_SHARED,
    StdioMode.POOL: OF_POOL,
}
