"""The defects that the scenario "plane" must find: one at each place where something is given back,
ended, told once or kept apart."""

from __future__ import annotations

from proxy_actors.actors.event_stream import EventStream
from proxy_actors.actors.session_registry import SessionRegistry
from proxy_actors.actors.supervisor import Supervisor
from proxy_actors.gateway.client_table import ClientTable
from proxy_actors.gateway.handle import ClientConnection
from proxy_actors.gateway.http_exchange import HttpExchange
from proxy_actors.gateway.http_source import HttpSource
from proxy_actors.gateway.http_send import HttpSender
from proxy_actors.gateway.lease import Keeper, Lease, Pool
from proxy_actors.gateway.relay import Reader
from proxy_actors.gateway.session_use import SessionHolder
from proxy_actors.policy.event_stream import EventStreamPolicy
from proxy_actors.policy.sessions import SessionPolicy
from tests.defects import Defect

MUTANTS = (
    Defect("a lease is not given back", Lease, "release",
           "pool.give_back(self.id, reusable, idle_s_max, self._kept)", "pass"),
    Defect("an ask that was given up is not cancelled", Pool, "checkout",
           "if not answered and", "if False and"),
    Defect("a connection in mid-message is used again", HttpExchange, "_release",
           "self._written and parser.reusable", "True"),
    Defect("a kept lease is used though it was taken back", Keeper, "take",
           "if until_s is None:", "if False:"),
    Defect("what a client has kept is not given back", Keeper, "close",
           "self._give_back(pool, lease)", "pass"),
    Defect("a call is sent again", HttpSender, "send",
           "not repeatable or not closed", "not closed"),
    Defect("an answer to nothing is passed on", HttpSource, "_received",
           "continue  # an answer", "pass  # an answer"),
    Defect("an event is told twice", EventStream, "_perform",
           "self._push(effect.messages)", "self._push(effect.messages * 2)"),
    Defect("a stream's crash leaves its call without an answer", EventStream, "on_end",
           "if self._failure is not None and", "if False and"),
    Defect("a standalone stream outlives its reader", EventStreamPolicy, "_client_moved",
           "self._wake(self._wait_s_max, effects)", "pass"),
    Defect("a stream that is over stays listed", EventStream, "on_end",
           "self._streams.remove(self.name)", "pass"),
    Defect("a reader that has left stays listed", Reader, "leave",
           "self._wiring.subscribers.leave(self._id)", "pass"),
    Defect("bodies stay counted", ClientConnection, "_end", "self._hold(0)", "pass"),
    Defect("a session is given away before it is durable", SessionPolicy, "_create",
           "return self._write(writes)",
           "entry.asks.clear()\n    return (m.Accept(ask_id, front_id, session),"
           " *self._write(writes))"),
    Defect("the use of a session is not ended", SessionHolder, "close",
           "self._registry.deliver(EndUse(exchange_id=use_id))", "pass"),
    Defect("a deleted session is used on", SessionRegistry, "_submit",
           "self._uses.revoke(write.key)", "pass"),
    Defect("uses of before a crash are trusted", SessionRegistry, "on_start",
           "self._uses.clear()", "pass"),
    Defect("a drain ends connections in mid-call", ClientTable, "close_idle",
           "connection.close_if_idle()", "connection.close()"),
    Defect("a part that is started anew does not drain", Supervisor, "_supervise",
           "if self._draining:", "if False:"),
)
