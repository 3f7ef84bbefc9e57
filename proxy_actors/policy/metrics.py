"""When figures are gathered and sent, and to whom: the rhythm of the metrics actor.

Owns the flush, the state of the sink, and what has been said about it. A flush asks the actors
first, which takes a while, and sends when they have told; one that comes due meanwhile is left out.

The sink is a matter of its own: it is opened beside everything else, opened anew now and then,
since the name of a server may come to mean another address, and tried again after a failure. One
that is in use goes on until another has been opened. While none can be opened, what was counted is
forgotten flush by flush, as it would be on the way to a server that is not there: a sum over an
hour, told as that of a second, would mislead. What goes wrong is said once, until it has been well
for a while: a refusal of UDP shows one packet late, and not every time.

An incarnation after a crash rests first, for so long that its supervisor's budget of restarts is
never spent: figures are not worth the proxy.
"""

from __future__ import annotations

from typing import assert_never

from proxy_actors.messages import metrics as m
from proxy_actors.messages.metrics import MetricsEffect, MetricsMessage

REOPEN_S = 60.0
RETRY_S = 5.0
LAG_PROBE_S = 0.1
SOUND_FLUSHES = 3
REST_S = 15.0


class MetricsPolicy:
    """Decides for one incarnation of the metrics actor.

    Args:
        interval_s: from flush to flush, 0.1 to 3600 seconds.
        rests: whether there was a crash before.
    """

    def __init__(self, interval_s: float, rests: bool = False) -> None:
        self._interval_s = interval_s
        self._rests = rests
        self._due_s = 0.0
        self._describing = False
        self._opening = False
        self._has_sink = False
        self._open_at_s = 0.0
        self._complained = False
        self._sound = 0

    def begin(self, now_s: float) -> list[MetricsEffect]:
        """Open the sink and start the clock, or rest up to the first flush."""
        if self._rests:
            self._due_s = now_s + REST_S
            return [m.WakeFlush(REST_S)]
        self._opening = True
        self._due_s = now_s + self._interval_s
        return [m.OpenSink(), m.WakeFlush(self._interval_s)]

    def handle(self, message: MetricsMessage, now_s: float) -> list[MetricsEffect]:
        """Apply one message and return what is to be done, in order."""
        match message:
            case m.FlushDue():
                return self._flush(now_s)
            case m.LagProbeDue(due_s):
                return [m.NoteLag(max(now_s - due_s, 0.0)), *self._probe(now_s)]
            case m.ActorsDescribed(actors):
                return [m.Gather(actors)]
            case m.TreeDescribed(complete):
                self._describing = False
                return [m.Send(complete) if self._has_sink else m.Forget(complete)]
            case m.SinkOpened():
                probes = [] if self._has_sink else self._probe(now_s)
                self._opening, self._has_sink = False, True
                self._open_at_s = now_s + REOPEN_S
                return [m.UseSink(), *probes]
            case m.SinkFailed(text):
                self._opening = False
                self._open_at_s = now_s + RETRY_S
                return [] if self._has_sink else self._unsound(text)
            case m.FiguresSent(error):
                return self._unsound(error) if error else self._sounds()
            case _:
                assert_never(message)

    def _flush(self, now_s: float) -> list[MetricsEffect]:
        self._due_s += self._interval_s
        if self._due_s <= now_s:  # the process was held up: what was missed is not made up for
            self._due_s = now_s + self._interval_s
        effects: list[MetricsEffect] = [m.WakeFlush(self._due_s - now_s)]
        if not self._opening and now_s >= self._open_at_s:
            self._opening = True
            effects.append(m.OpenSink())
        awaited = self._opening and not self._has_sink  # what was counted waits for it
        if not self._describing and not awaited:
            self._describing = True
            effects.append(m.DescribeTree())
        return effects

    def _probe(self, now_s: float) -> list[MetricsEffect]:
        return [m.WakeLagProbe(LAG_PROBE_S, now_s + LAG_PROBE_S)]

    def _unsound(self, text: str) -> list[MetricsEffect]:
        self._sound = 0
        if self._complained:
            return []
        self._complained = True
        return [m.LogUnreachable(text)]

    def _sounds(self) -> list[MetricsEffect]:
        self._sound += 1
        if not self._complained or self._sound < SOUND_FLUSHES:
            return []
        self._complained = False
        return [m.LogReachable()]
