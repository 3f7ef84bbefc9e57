"""The simulated world: one thread, a seeded scheduler, virtual time, virtual bytes with faults.

Owns every source of chance, so that a seed decides a whole run: which greenlet goes next, how bytes
are split and delayed, where a connection breaks, whether an ask is handled inline. Two runs of one
seed are the same to the last step (given a fixed PYTHONHASHSEED). Precedent: FoundationDB's and
TigerBeetle's simulators. Used by tests alone; the same contract suite as the real world's holds.
"""

from __future__ import annotations

import heapq
import logging
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

import greenlet

from proxy_actors.errors import ConnectError, ConnectFault, DeadlineError, SpawnError
from proxy_actors.messages.metrics import ProcessFigures
from proxy_actors.world.base import (
    ByteStream,
    ChildCommand,
    ExitStatus,
    Mailbox,
    TlsClient,
    TlsServer,
)
from proxy_actors.world.sim_metrics import SimSink
from proxy_actors.world.sim_streams import SimProcess, SimStream, start_process, stream_pair
from proxy_actors.world.sim_waits import SimTask, SimWaiter

BUSY_S_MAX = 0.05

logger = logging.getLogger("proxy_actors.world")


class Faults:
    """How often the virtual network and processes misbehave: chances from 0 to 1.

    `truncate` is how often a connection ends in good order in the midst of what was sent, and
    `vanish` how often a peer is gone without a word: what is sent is lost, until the kernel gives
    the connection up. `fragment` is how often a read gets one byte of what is there, which is no
    fault. `heal` ends all faults, for the liveness phase of a run.
    """

    def __init__(
        self,
        refuse: float = 0.0,
        reset: float = 0.0,
        stall: float = 0.0,
        stall_s_max: float = 5.0,
        latency_s_max: float = 0.01,
        spawn_fail: float = 0.0,
        fragment: float = 0.3,
        truncate: float = 0.0,
        vanish: float = 0.0,
    ) -> None:
        self.refuse = refuse
        self.reset = reset
        self.truncate = truncate
        self.vanish = vanish
        self.stall = stall
        self.stall_s_max = stall_s_max
        self.latency_s_max = latency_s_max
        self.spawn_fail = spawn_fail
        self.fragment = fragment

    def heal(self) -> None:
        """Misbehave no more."""
        self.refuse = self.reset = self.stall = self.spawn_fail = 0.0
        self.truncate = self.vanish = 0.0


class SimListener:
    """A virtual listening socket; connections wait while nobody serves it."""

    def __init__(self, world: SimWorld, address: tuple[str, int]) -> None:
        self._world = world
        self._accept: Callable[[ByteStream], None] | None = None
        self._waiting: list[SimStream] = []
        self.address = address
        self.kept = False

    def serve(self, accept: Callable[[ByteStream], None]) -> None:
        """Serve those that wait, and all that come."""
        self._accept = accept
        waiting, self._waiting = self._waiting, []
        for stream in waiting:
            self._start(stream, accept)

    def pause(self) -> None:
        """Have connections wait."""
        self._accept = None

    def close(self) -> None:
        """Accept no more; those that wait are reset."""
        self.pause()
        if self._world.listeners.get(self.address) is self:
            del self._world.listeners[self.address]
        waiting, self._waiting = self._waiting, []
        for stream in waiting:
            stream.reset()

    def take(self, stream: SimStream) -> None:
        """Serve a connection, or let it wait."""
        if self._accept is None:
            self._waiting.append(stream)
        else:
            self._start(stream, self._accept)

    def _start(self, stream: SimStream, accept: Callable[[ByteStream], None]) -> None:
        def serve() -> None:
            try:
                accept(stream)
            except BaseException:
                stream.close()
                raise

        self._world.spawn("connection", serve)


class SimWorld:
    """The port's World, simulated. Run it from outside with `run` or `run_until`."""

    def __init__(self, seed: int, faults: Faults | None = None) -> None:
        self.chance = random.Random(seed)
        self.faults = faults or Faults()
        self.steps = 0
        self.in_turn = 0
        self.errors: list[BaseException] = []
        self.listeners: dict[tuple[str, int], SimListener] = {}
        self.programs: dict[str, Callable[[SimProcess], int]] = {}
        self.after_step: list[Callable[[], None]] = []
        self.seen: Counter[str] = Counter()
        self.live: list[SimTask] = []
        self.sinks: list[SimSink] = []
        self.lag_watches: list[Callable[[float], None]] = []
        self.hosts: set[str] = set()
        self.wall_ahead_s = 0.0
        self._now_s = 1000.0
        self._ready: list[Callable[[], None]] = []
        # When, in which order among equals, what to run (empty when cancelled), and how.
        self._timers: list[
            tuple[float, int, list[Callable[[], None]], Callable[[], None]]
        ] = []
        self._alarms: deque[list[Callable[[], None]]] = deque()
        self._serial = 0
        self._main = greenlet.getcurrent()

    # The port.

    def now_s(self) -> float:
        """Virtual monotonic seconds."""
        return self._now_s

    def wall_s(self) -> float:
        """Virtual seconds since the epoch."""
        return 1_700_000_000.0 + self.wall_ahead_s + self._now_s

    def random(self) -> float:
        """Uniform in [0, 1), from the seed."""
        return self.chance.random()

    def token(self, random_bytes: int = 16) -> str:
        """A string as unguessable as the seed."""
        return f"{self.chance.getrandbits(8 * random_bytes):0{2 * random_bytes}x}"

    def waiter(self) -> SimWaiter:
        """A fresh one-shot waiter."""
        return SimWaiter(self)

    def timer(self, after_s: float, mailbox: Mailbox, message: Any) -> Callable[[], None]:
        """Tell `message` after `after_s` virtual seconds; timers tell in order of time."""
        alarm: list[Callable[[], None]] = [lambda: _tell(mailbox, message)]

        def due() -> None:
            self._alarms.append(alarm)
            self._ready.append(lambda: _run(self._alarms.popleft()))

        self._push(self._now_s + after_s, alarm, due)
        return alarm.clear

    def spawn(
        self,
        owner: str,
        function: Callable[[], None],
        on_exit: Callable[[BaseException | None], None] | None = None,
    ) -> SimTask:
        """Run `function` in a greenlet of the scheduler."""
        task = SimTask(self, owner)
        self.live.append(task)

        def run() -> None:
            error: BaseException | None = None
            try:
                function()
            except BaseException as caught:  # a killed task ends like any other
                error = caught
            self.live.remove(task)
            task.done = True
            if on_exit is not None:
                on_exit(error)
            elif error is not None and not isinstance(error, greenlet.GreenletExit):
                logger.error("task_failed owner=%s", owner, exc_info=error)
                self.errors.append(error)

        def start() -> None:
            if task.greenlet is not None:
                task.greenlet.switch()
            else:
                self.live.remove(task)
                task.done = True
                if on_exit is not None:
                    on_exit(greenlet.GreenletExit())

        task.greenlet = greenlet.greenlet(run, parent=self._main)
        self._ready.append(start)
        return task

    spawn_in_turn = spawn  # whose turn it is, is drawn in any case

    def tasks(self) -> Mapping[str, int]:
        """Count live greenlets by owner."""
        return Counter(task.owner for task in self.live)

    def may_inline(self) -> bool:
        """Draw: both ways of an ask must be right."""
        return self.chance.random() < 0.5

    def listen(
        self,
        host: str,
        port: int,
        accept: Callable[[ByteStream], None] | None = None,
        tls: TlsServer | None = None,
    ) -> SimListener:
        """Bind a virtual address. TLS is virtual as well: bytes stay as they are."""
        address = (host, port or 40_000 + len(self.listeners))
        if address in self.listeners:
            raise ConnectError(f"{address[0]}:{address[1]} is in use")
        listener = self.listeners[address] = SimListener(self, address)
        if accept is not None:
            listener.serve(accept)
        return listener

    def prepare_tls(self, tls: TlsClient) -> None:
        """There is nothing to prepare."""

    def connect(
        self, host: str, port: int, deadline_s: float, tls: TlsClient | None = None
    ) -> ByteStream:
        """Connect to a virtual address, or be refused, or stall to the deadline."""
        self.pass_time(self.latency_s(), deadline_s)
        listener = self.listeners.get(("127.0.0.1" if host == "localhost" else host, port))
        if listener is None or self.draw(self.faults.refuse, "connect_refused"):
            raise ConnectError(f"{host}:{port} refused the connection", ConnectFault.REFUSED)
        if tls is not None:
            self.pass_time(self.latency_s(), deadline_s)
            if self.draw(self.faults.refuse, "handshake_refused"):
                raise ConnectError(f"{host}:{port} refused the handshake", ConnectFault.TLS)
        near, far = stream_pair(self)
        listener.take(far)
        return near

    def spawn_child(
        self,
        command: ChildCommand,
        deadline_s: float,
        on_exit: Callable[[ExitStatus], None],
    ) -> SimProcess:
        """Run a virtual program, registered in `programs` under argv[0]."""
        self.pass_time(self.latency_s(), deadline_s)
        program = self.programs.get(command.argv[0])
        if program is None or self.draw(self.faults.spawn_fail, "spawn_failed"):
            raise SpawnError(f"{command.argv[0]}: command not found")
        return start_process(self, program, on_exit)

    def open_metrics(self, host: str, port: int, prefix: str, deadline_s: float) -> SimSink:
        """Open a virtual sink; a host of .invalid is unknown until it is among the `hosts`."""
        self.pass_time(self.latency_s(), deadline_s)
        unknown = host.endswith(".invalid") and host not in self.hosts
        if unknown or self.draw(self.faults.refuse, "unresolved"):
            raise ConnectError(f"cannot resolve {host!r}")
        return SimSink(self.sinks, prefix)

    def process_figures(self) -> ProcessFigures:
        """Describe a process that needs nothing."""
        return ProcessFigures(0, 0, 1, 0.0, (0, 0, 0), 0)

    def watch_lag(self, every_s: float, on_look: Callable[[float], None]) -> Callable[[], None]:
        """See `World.watch_lag`. Virtual time has no lag: tests tell it to `lag_watches`."""
        self.lag_watches.append(on_look)
        return lambda: self.lag_watches.remove(on_look)

    # The scheduler.

    def at(self, time_s: float, function: Callable[[], None]) -> Callable[[], None]:
        """Run `function` at a virtual time; the result cancels it."""
        entry = [function]
        self._push(time_s, entry, lambda: self._ready.append(lambda: _run(entry)))
        return entry.clear

    def soon(self, function: Callable[[], None]) -> None:
        """Run `function` at some later step of the present moment."""
        self._ready.append(function)

    def park(self) -> None:
        """Give way until something switches to this greenlet again."""
        if self.in_turn:
            error = AssertionError("an actor's turn must not switch greenlets")
            self.errors.append(error)  # the actor takes whatever is raised for its own crash
            raise error
        if greenlet.getcurrent() is self._main:
            raise AssertionError("the scheduler itself cannot wait: spawn what waits")
        self._main.switch()

    def kill(self, victim: greenlet.greenlet) -> None:
        """Throw GreenletExit into a parked greenlet."""
        self._ready.append(lambda: victim.throw() if victim else None)

    def pass_time(self, seconds: float, deadline_s: float = math.inf) -> None:
        """Park the calling greenlet for so long, or fail at the deadline as a connect does."""
        try:
            self.waiter().wait(min(self._now_s + seconds, deadline_s))
        except DeadlineError:
            if self._now_s >= deadline_s:
                raise ConnectError("not connected in time", ConnectFault.TIMEOUT) from None

    def draw(self, probability: float, name: str) -> bool:
        """Decide by chance whether a fault happens, and count it when it does."""
        happens = probability > 0.0 and self.chance.random() < probability
        if happens:
            self.seen[name] += 1
        return happens

    def latency_s(self) -> float:
        """Draw how long something takes: mostly short, now and then a stall."""
        if self.draw(self.faults.stall, "stalled"):
            return self.chance.random() * self.faults.stall_s_max
        return self.chance.random() * self.faults.latency_s_max

    def run(self, seconds: float) -> None:
        """Run until nothing is ready before that much virtual time has passed."""
        self.run_until(lambda: False, seconds)

    def run_until(self, condition: Callable[[], bool], seconds: float = 600.0) -> bool:
        """Run until `condition` holds; False when virtual time or all work runs out first."""
        end_s = self._now_s + seconds
        self._main = greenlet.getcurrent()
        while not condition():
            if self._ready:
                if self._is_slow():
                    self._advance()
                self._step()
            elif self._timers and self._timers[0][0] <= end_s:
                self._advance()
            else:
                self._now_s = max(self._now_s, end_s)
                return condition()
        return True

    def _is_slow(self) -> bool:
        """Draw: a busy loop reaches times that are due while it still has work at hand."""
        due = bool(self._timers) and self._timers[0][0] <= self._now_s + BUSY_S_MAX
        return due and self.chance.random() < 0.1

    def _step(self) -> None:
        place = self.chance.randrange(len(self._ready))
        self._ready[place], self._ready[-1] = self._ready[-1], self._ready[place]
        function = self._ready.pop()
        self.steps += 1
        function()
        for check in self.after_step:
            check()

    def _advance(self) -> None:
        time_s, _, entry, due = heapq.heappop(self._timers)
        if entry:
            self._now_s = max(self._now_s, time_s)
            due()

    def _push(
        self, time_s: float, entry: list[Callable[[], None]], due: Callable[[], None]
    ) -> None:
        self._serial += 1
        heapq.heappush(self._timers, (time_s, self._serial, entry, due))


def _run(entry: list[Callable[[], None]]) -> None:
    """Run what is scheduled, unless it was cancelled when its time had come already."""
    for function in entry:
        function()


def _tell(mailbox: Mailbox, message: Any) -> None:  # Any: see Mailbox.tell
    mailbox.tell(message)
