"""The defects that the scenario "whole" must find: those of what holds the parts together.

What each part may do wrong by itself is looked for by its own scenario, and what is left half done
by a crash within a turn by the sweep.
"""

from __future__ import annotations

from proxy_actors.actors.base import Actor
from proxy_actors.actors.root import Root
from proxy_actors.actors.session_registry import SessionRegistry
from proxy_actors.actors.supervisor import Supervisor
from proxy_actors.gateway import rescue
from proxy_actors.policy.stream_bounds import StreamBooks
from proxy_actors.policy.supervision import SupervisionPolicy
from tests.defects import Defect

MUTANTS = (
    Defect("who asks an actor that crashes is not answered", Actor, "_turn",
           "reply.fail(ActorStoppedError(f\"{self.name} crashed\"))", "pass"),
    Defect("mail that was not handled is lost with its actor", Actor, "_bury",
           "self._guard(lambda: self.on_undelivered(mail.message))", "pass"),
    Defect("children outlive their parent", Actor, "_end", "self._stop_children()", "pass"),
    Defect("who has crashed is not started anew", Supervisor, "on_child_stopped",
           "self._supervise(message)", "pass"),
    Defect("there is no end to restarts", SupervisionPolicy, "_count_restart",
           "len(self._restarts) > self._budget.restarts_max", "False"),
    Defect("the registry begins without the rows of before", SessionRegistry, "on_start",
           "self._store.rows()", "()"),
    Defect("a crash counts as if nothing had been done", rescue, "classify",
           "Reason.OVERLOADED, text, executed=Executed.UNKNOWN, side=Side.PROXY",
           "Reason.OVERLOADED, text, executed=Executed.NO, side=Side.PROXY"),
    Defect("a stream stays in the books", StreamBooks, "leave",
           "self._write(stream, None, *row, -1)", "pass"),
    Defect("nobody hears of a drain", Root, "on_receive", "self.drain()", "pass"),
)  # fmt: skip
