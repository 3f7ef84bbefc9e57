"""The shell of metrics: gathers what was counted, asks the tree, sends to statsd.

Owns the sink, and the two greenlets that may wait for it: one resolves and opens a sink, one walks
the tree of actors, which are asked as an operator asks them. Both end when this actor has ended.
Nothing waits for this actor, and it never waits for anybody; sending is handing packets to the
kernel.
"""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import assert_never

import msgspec

from proxy_actors import metrics
from proxy_actors.actors.base import Actor
from proxy_actors.actors.meters import Meters
from proxy_actors.actors.refs import Ref, Slot
from proxy_actors.errors import (
    ActorStoppedError,
    ConnectError,
    DeadlineError,
    MailboxFullError,
)
from proxy_actors.messages import metrics as m
from proxy_actors.messages.lifecycle import ActorState, DescribeState
from proxy_actors.messages.metrics import MetricsEffect, MetricsMessage, SeenActor
from proxy_actors.metrics import Row
from proxy_actors.policy.metric_names import MetricNames
from proxy_actors.policy.metric_tree import TreeRows
from proxy_actors.policy.metrics import MetricsPolicy
from proxy_actors.world.base import MetricSink, Waiter, World

OPEN_S_MAX = 10.0
WALK_S_MAX = 5.0
ANSWER_S_MAX = 1.0
# Idle actors answer on the stack of who asks: so many of them, then it is the others' turn.
ASKED_AT_ONCE = 200

logger = logging.getLogger("proxy_actors.metrics")


class StatsdTarget(msgspec.Struct, frozen=True):
    """Where figures go: a statsd server, what all names begin with, how often, how many names."""

    host: str
    port: int
    prefix: str
    interval_s: float = 1.0
    names_max: int = 500


class Metrics(Actor):
    """The metrics of one process.

    Args:
        meters: what the data plane counts.
        root: the tree to be asked.
    """

    def __init__(
        self, world: World, slot: Slot, target: StatsdTarget, meters: Meters, root: Slot
    ) -> None:
        super().__init__(world, slot.name)
        self._target = target
        self._meters = meters
        self._root = root
        self._names = MetricNames(target.names_max)
        self._policy = MetricsPolicy(target.interval_s)
        self._tree = TreeRows(first=True)
        self._sink: MetricSink | None = None
        self._opened: MetricSink | None = None
        self._lost = 0
        self._sent = 0

    def on_start(self) -> None:
        """Begin, or begin again."""
        if self.incarnation > 1:
            self._policy = MetricsPolicy(self._target.interval_s, rests=True)
            self._tree = TreeRows(first=False)
        self._apply(self._policy.begin(self.world.now_s()))

    def on_receive(self, message: MetricsMessage) -> None:
        """Apply the message."""
        self._apply(self._policy.handle(message, self.world.now_s()))

    def on_stop(self) -> None:
        """Send what was counted last."""
        if self._sink is not None:
            self._sink.send(self._names.figures(self._meters.take()))
        self._close()

    def on_crash(self) -> None:
        """Leave nothing open; what was counted is the next incarnation's."""
        self._close()

    def describe(self) -> dict[str, object]:
        """State for operators."""
        return {"sending": self._sink is not None, "figures": self._sent}

    def _apply(self, effects: list[MetricsEffect]) -> None:
        for effect in effects:
            match effect:
                case m.WakeFlush(after_s):
                    self.world.timer(after_s, self.ref, m.FlushDue())
                case m.WakeLagProbe(after_s, due_s):
                    self.world.timer(after_s, self.ref, m.LagProbeDue(due_s))
                case m.NoteLag(lag_s):
                    self._meters.lag.add(lag_s)
                case m.OpenSink():
                    self.world.spawn("metrics sink", self._open)
                case m.UseSink():
                    self._use_opened()
                case m.DescribeTree():
                    self.world.spawn("metrics walk", self._walk)
                case m.Gather(actors):
                    self._tree.add(actors)
                case m.Send(complete):
                    self._send(complete)
                case m.Forget(complete):
                    self._take(complete)
                case m.LogUnreachable(text):
                    logger.warning("statsd_not_reached error=%r", text)
                case m.LogReachable():
                    logger.info("statsd_reached_again")
                case _:
                    assert_never(effect)

    def _send(self, complete: bool) -> None:
        assert self._sink is not None
        rows = [*self._take(complete), Row(metrics.PACKETS_LOST, (), (self._lost,))]
        figures = self._names.figures(rows)
        lost, error = self._sink.send(figures)
        self._lost += lost
        self._sent += len(figures)
        self._apply(self._policy.handle(m.FiguresSent(error), self.world.now_s()))

    def _take(self, complete: bool) -> list[Row]:
        """Take what was counted and told since the last time."""
        greenlets = sum(self.world.tasks().values())
        told = self._tree.rows(complete, self.world.process_figures(), greenlets)
        return told + self._meters.take()

    def _use_opened(self) -> None:
        if self._sink is not None:
            self._sink.close()
        self._sink, self._opened = self._opened, None

    def _close(self) -> None:
        for sink in (self._sink, self._opened):
            if sink is not None:
                sink.close()
        self._sink = self._opened = None

    # In greenlets of their own.

    def _open(self) -> None:
        target = self._target
        try:
            self._opened = self.world.open_metrics(
                target.host, target.port, target.prefix, self.world.now_s() + OPEN_S_MAX
            )
        except ConnectError as error:
            self.ref.tell(m.SinkFailed(str(error)))
            return
        except BaseException as error:
            self.ref.tell(m.SinkFailed(type(error).__name__))
            raise
        if not self.ref.tell(m.SinkOpened()):
            self._close()

    def _walk(self) -> None:
        complete = False
        try:
            complete = self._root.ref is not None and self._ask_all(self._root.ref)
        finally:
            self.ref.tell(m.TreeDescribed(complete))

    def _ask_all(self, root: Ref) -> bool:
        """Ask an actor and all below it, as far as there is time; whether all were asked."""
        late_s = self.world.now_s() + WALK_S_MAX
        complete = True
        seen: list[SeenActor] = []
        to_ask = [root]
        while to_ask and self.ref.is_alive():
            ref = to_ask.pop()
            deadline_s = min(self.world.now_s() + ANSWER_S_MAX, late_s)
            try:
                state: ActorState = ref.ask(DescribeState(), deadline_s)
            except ActorStoppedError:
                continue
            except (DeadlineError, MailboxFullError):
                complete = False
                continue
            seen.append(SeenActor(ref.incarnation, state))
            to_ask += ref.children()
            if len(seen) >= ASKED_AT_ONCE:
                self.ref.tell(m.ActorsDescribed(tuple(seen)))
                seen = []
                self._give_way()
        self.ref.tell(m.ActorsDescribed(tuple(seen)))
        return complete

    def _give_way(self) -> None:
        """Let whoever is ready run first."""
        waiter = self.world.waiter()
        self.world.spawn("metrics walk", partial(_resume, waiter))
        waiter.wait(math.inf)


def _resume(waiter: Waiter) -> None:
    waiter.set()
