"""One child process that speaks MCP on stdio: a channel of pipes, and the process behind it.

Owns the process from spawn to exit. Four greenlets move bytes: one spawns, one reads stdout, one
writes stdin, one drains stderr. They end when the process does.

The end. `Stop` closes stdin, then sends TERM, then KILL to the group, two seconds apart (2025-11-25
basic/lifecycle, "Shutdown"); the channel has ended when the exit has been seen. When the process
ends by itself its last words are heard first. One that is to rest ends likewise, but its actor
stays while there is a stream that a client may come back to.
"""

from __future__ import annotations

from typing import Any

from proxy_actors.actors.channel import Channel, Failure
from proxy_actors.actors.child_pipes import ChildPipes
from proxy_actors.actors.stream_directory import StreamDirectory
from proxy_actors.actors.subscriber import Subscribers
from proxy_actors.errors import ProxyActorsError, Reason
from proxy_actors.messages import stdio as m
from proxy_actors.policy.stdio_exclusive import ExclusivePolicy
from proxy_actors.policy.stdio_shared import SharedPolicy
from proxy_actors.world.base import ChildCommand, World

STOP_STEP_S = 2.0
# How long the end of an ended process's output is waited for, where a descendant holds the pipe.
LAST_WORDS_S = 0.5
SESSION_OVER = "the session has ended"


class StdioProcess(Channel):
    """The actor of one child process.

    Args:
        command: what to execute. The others are those of a channel.
    """

    def __init__(
        self,
        world: World,
        name: str,
        command: ChildCommand,
        policy: ExclusivePolicy | SharedPolicy,
        upstream: str,
        streams: StreamDirectory,
        subscribers: Subscribers,
        failure: Failure,
    ) -> None:
        self._child = ChildPipes(world, command, upstream)
        super().__init__(
            world, name, self._child, policy, upstream, streams, subscribers, failure
        )
        self._exit: str | None = None
        self._output_ended = False
        self._step = 0
        self._rests = self._session_over = False

    def on_stop_requested(self) -> None:
        """Have the process end, and all streams with it."""
        self._rests = False
        super().on_stop_requested()
        self._stop_when_done()

    def on_end(self) -> None:
        """Leave no asker waiting, and no process running."""
        self._child.kill()
        super().on_end()

    def describe(self) -> dict[str, object]:
        """State for operators."""
        return {
            "pid": self._child.pid,
            "running": self._child.pid is not None and not self._gone,
            **super().describe(),
        }

    def _receive(self, message: Any) -> None:  # Any: see Channel
        match message:
            case m.ProcessSpawned():
                self._spawned()
            case m.ProcessFailed(text):
                self._ended(Reason.UPSTREAM_UNAVAILABLE, text)
            case m.ProcessExited(code, signal):
                how = f"with code {code}" if signal is None else f"by signal {signal}"
                self._exit = f"the server process ended {how}"
                self._hear_last_words()
            case m.OutputEnded():
                self._output_ended = True
                if self._exit is None:  # it will say nothing more: a session must not be left to it
                    self._stop_step(self._step)
                self._hear_last_words()
            case m.LastWordsDue():
                self._output_ended = True
                self._hear_last_words()
            case m.EndChannel():
                self._session_over = True
                self.on_stop_requested()
            case m.RestProcess():
                if not self._stopping:
                    self._stopping = self._rests = True
                    self._begin_end()
            case m.FrameTooLong():
                self._child.kill()  # nothing after it can be trusted; the exit tells the rest
            case m.StopStepDue(generation):
                self._stop_step(generation)
            case _:
                raise ProxyActorsError(f"{self.name} does not understand {type(message).__name__}")

    def _stop_when_done(self) -> None:
        if not (self._rests and self.children):
            super()._stop_when_done()

    def _begin_end(self) -> None:
        """Close stdin, and see that the process ends."""
        self._stop_step(self._step)

    def _spawned(self) -> None:
        self._child.begin(self.ref)
        self._tell_parent(m.ProcessReady(self.name))
        if self._stopping:
            self._step = 0
            self._stop_step(0)
        else:
            self._begun()

    def _hear_last_words(self) -> None:
        """The end of the process and the end of its output come in either order."""
        if self._exit is None or self._gone:
            return
        if not self._output_ended:
            self.world.timer(LAST_WORDS_S, self.ref, m.LastWordsDue())
        elif self._session_over:
            self._ended(Reason.SESSION_LOST, SESSION_OVER)
        else:
            self._ended(Reason.PROCESS_EXITED, self._exit)

    def _stop_step(self, generation: int) -> None:
        if generation != self._step or self._gone:
            return
        (self._child.close_stdin, self._child.terminate, self._child.kill)[min(self._step, 2)]()
        self._step += 1
        self.world.timer(STOP_STEP_S, self.ref, m.StopStepDue(self._step))
