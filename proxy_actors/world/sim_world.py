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
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import greenlet

from proxy_actors.errors import ConnectError, DeadlineError, SpawnError
from proxy_actors.world.base import ByteStream, ChildCommand, ExitStatus, Mailbox
from proxy_actors.world.sim_streams import SimProcess, start_process, stream_pair

logger = logging.getLogger("proxy_actors.world")


class Faults:
    """How often the virtual network and processes misbehave: chances from 0 to 1.

    `heal` ends all faults, for the liveness phase of a run.
    """

    def __init__(
        self,
        refuse: float = 0.0,
        reset: float = 0.0,
        stall: float = 0.0,
        stall_s_max: float = 5.0,
        latency_s_max: float = 0.01,
        spawn_fail: float = 0.0,
    ) -> None:
        self.refuse = refuse
        self.reset = reset
        self.stall = stall
        self.stall_s_max = stall_s_max
        self.latency_s_max = latency_s_max
        self.spawn_fail = spawn_fail

    def heal(self) -> None:
        """Misbehave no more."""
        self.refuse = self.reset = self.stall = self.spawn_fail = 0.0


class SimWaiter:
    """The port's Waiter on virtual time."""

    __slots__ = ("_cancel", "_error", "_parked", "_value", "_world", "is_set")

    def __init__(self, world: SimWorld) -> None:
        self._world = world
        self._parked: greenlet.greenlet | None = None
        self._value: Any = None  # Any: the value is the setter's
        self._error: Exception | None = None
        self._cancel: Callable[[], None] | None = None
        self.is_set = False

    def wait(self, deadline_s: float) -> Any:  # Any: the value is the setter's
        """Park until set, or until the virtual clock reaches the deadline."""
        if not self.is_set:
            if deadline_s <= self._world.now_s():
                raise DeadlineError
            self._parked = greenlet.getcurrent()
            if deadline_s < math.inf:
                self._cancel = self._world.at(deadline_s, self._expire)
            try:
                self._world.park()
            finally:
                self._parked = None
                if self._cancel is not None:
                    self._cancel()
        if self._error is not None:
            raise self._error
        return self._value

    def set(self, value: Any = None) -> bool:  # Any: the value is the setter's
        """Unpark with a value; only the first of set and fail has an effect."""
        return self._settle(value, None)

    def fail(self, error: Exception) -> bool:
        """Unpark with an error; only the first of set and fail has an effect."""
        return self._settle(None, error)

    def _settle(self, value: Any, error: Exception | None) -> bool:  # Any: see set
        if self.is_set:
            return False
        self.is_set = True
        self._value, self._error = value, error
        if self._parked is not None:
            self._world.unpark(self._parked)
        return True

    def _expire(self) -> None:
        if not self.is_set:
            self.is_set = True
            self._error = DeadlineError()
            if self._parked is not None:
                self._world.unpark(self._parked)


class SimTask:
    """A greenlet of the simulation."""

    def __init__(self, world: SimWorld, owner: str) -> None:
        self.owner = owner
        self.done = False
        self.greenlet: greenlet.greenlet | None = None
        self._world = world

    def kill(self) -> None:
        """Throw GreenletExit into it, as a fault: wherever it is parked, it ends there."""
        if not self.done and self.greenlet is not None and self.greenlet:
            self._world.kill(self.greenlet)
        elif not self.done:
            self.greenlet = None


class SimListener:
    """A virtual listening socket."""

    def __init__(
        self, world: SimWorld, address: tuple[str, int], accept: Callable[[ByteStream], None]
    ) -> None:
        self._world = world
        self.address = address
        self.accept = accept

    def close(self) -> None:
        """Accept no more."""
        self._world.listeners.pop(self.address, None)


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
        self._now_s = 1000.0
        self._ready: list[Callable[[], None]] = []
        self._timers: list[tuple[float, int, list[Callable[[], None]]]] = []
        self._serial = 0
        self._main = greenlet.getcurrent()

    # The port.

    def now_s(self) -> float:
        """Virtual monotonic seconds."""
        return self._now_s

    def wall_s(self) -> float:
        """Virtual seconds since the epoch."""
        return 1_700_000_000.0 + self._now_s

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
        """Tell `message` after `after_s` virtual seconds."""

        def ring() -> None:
            mailbox.tell(message)

        return self.at(self._now_s + after_s, ring)

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

    def tasks(self) -> Mapping[str, int]:
        """Count live greenlets by owner."""
        return Counter(task.owner for task in self.live)

    def may_inline(self) -> bool:
        """Draw: both ways of an ask must be right."""
        return self.chance.random() < 0.5

    def listen(
        self, host: str, port: int, accept: Callable[[ByteStream], None]
    ) -> SimListener:
        """Bind a virtual address."""
        address = (host, port or 40_000 + len(self.listeners))
        if address in self.listeners:
            raise ConnectError(f"{address[0]}:{address[1]} is in use")
        self.listeners[address] = SimListener(self, address, accept)
        return self.listeners[address]

    def connect(self, host: str, port: int, deadline_s: float) -> ByteStream:
        """Connect to a virtual address, or be refused, or stall to the deadline."""
        self.pass_time(self.latency_s(), deadline_s)
        listener = self.listeners.get((host, port))
        if listener is None or self.draw(self.faults.refuse, "connect_refused"):
            raise ConnectError("connection refused")
        near, far = stream_pair(self)
        self.spawn("connection", lambda: listener.accept(far))
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

    # The scheduler.

    def at(self, time_s: float, function: Callable[[], None]) -> Callable[[], None]:
        """Run `function` at a virtual time; the result cancels it."""
        self._serial += 1
        functions = [function]
        heapq.heappush(self._timers, (time_s, self._serial, functions))
        return functions.clear

    def soon(self, function: Callable[[], None]) -> None:
        """Run `function` at some later step of the present moment."""
        self._ready.append(function)

    def park(self) -> None:
        """Give way; whoever unparks this greenlet makes it ready again."""
        if self.in_turn:
            raise AssertionError("an actor's turn must not switch greenlets")
        if greenlet.getcurrent() is self._main:
            raise AssertionError("the scheduler itself cannot wait: spawn what waits")
        self._main.switch()

    def unpark(self, parked: greenlet.greenlet) -> None:
        """Make a parked greenlet ready."""
        self._ready.append(lambda: parked.switch() if parked else None)

    def kill(self, victim: greenlet.greenlet) -> None:
        """Throw GreenletExit into a parked greenlet."""
        self._ready.append(lambda: victim.throw() if victim else None)

    def pass_time(self, seconds: float, deadline_s: float = math.inf) -> None:
        """Park the calling greenlet for so long, or fail at the deadline as a connect does."""
        try:
            self.waiter().wait(min(self._now_s + seconds, deadline_s))
        except DeadlineError:
            if self._now_s >= deadline_s:
                raise ConnectError("not connected in time") from None

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
                self._step()
            elif self._timers and self._timers[0][0] <= end_s:
                self._advance()
            else:
                self._now_s = max(self._now_s, end_s)
                return condition()
        return True

    def _step(self) -> None:
        place = self.chance.randrange(len(self._ready))
        self._ready[place], self._ready[-1] = self._ready[-1], self._ready[place]
        function = self._ready.pop()
        self.steps += 1
        function()
        for check in self.after_step:
            check()

    def _advance(self) -> None:
        time_s, _, functions = heapq.heappop(self._timers)
        if functions:
            self._now_s = max(self._now_s, time_s)
            self._ready.extend(functions)
