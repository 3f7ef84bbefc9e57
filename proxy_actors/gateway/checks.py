"""Active checks of an endpoint, made on the way that clients' calls take.

A check of an HTTP endpoint has a connection of its pool, drawn from what is reserved, so that it
never waits behind calls, and finds out how things are for calls. It is counted nowhere as a
client's. `ping` keeps a session of its own at the server, and opens another when that is lost.
"""

from __future__ import annotations

from proxy_actors import __version__
from proxy_actors.actors.directory import Directory
from proxy_actors.actors.refs import Slot
from proxy_actors.actors.upstream_guard import Checker, CheckResult
from proxy_actors.actors.upstream_use import UpstreamUse
from proxy_actors.errors import FailedError, GatewayError, ProxyActorsError, Reason
from proxy_actors.gateway.handshake import negotiated_version
from proxy_actors.gateway.http_fields import session_id_of
from proxy_actors.gateway.lease import IDLE_S_NEW, Pool
from proxy_actors.gateway.own_requests import OwnRequests
from proxy_actors.gateway.sse_pipes import SseServer
from proxy_actors.messages.health import Verdict
from proxy_actors.messages.pool import Purpose
from proxy_actors.messages.sessions import Session
from proxy_actors.messages.stdio import DescribeStart, PingServer, StartDescribed
from proxy_actors.options import CheckKind
from proxy_actors.protocol.revisions import INITIALIZE, INITIALIZED, LATEST, PING
from proxy_actors.world.base import World

# A drain waits for it, for so long at most.
END_S_MAX = 2.0
_WELL = CheckResult(Verdict.WELL)
_REFUSED = CheckResult(Verdict.REFUSED, "it refused the proxy's credentials")
_CREDENTIALS = frozenset({401, 403})
# How a server that has no Streamable HTTP refuses a POST.
_OLD = frozenset({400, 404, 405})


class HttpChecker(Checker):
    """Checks one HTTP endpoint.

    Args:
        pool: its connections.
        own: sends requests over them.
        kind: TCP, HTTP or PING.
        path: what is asked for with HTTP.
        sse: the server as one of HTTP+SSE, where it may be one.
    """

    def __init__(
        self,
        world: World,
        pool: Pool,
        own: OwnRequests,
        kind: CheckKind,
        path: str = "/",
        sse: SseServer | None = None,
    ) -> None:
        self._world = world
        self._pool = pool
        self._own = own
        self._kind = kind
        self._path = path.encode("ascii")
        self._sse = sse
        self._session: Session | None = None
        self._ended = False

    def check(self, deadline_s: float) -> CheckResult:
        """Make one check."""
        try:
            if self._kind is CheckKind.HTTP:
                return self._get(deadline_s)
            if self._kind is CheckKind.TCP or (self._sse is not None and self._sse.recognized):
                return self._connect(deadline_s)
            return self._ping(deadline_s)
        except GatewayError as error:
            refused = isinstance(error, FailedError) and error.answered in _CREDENTIALS
            return _REFUSED if refused else CheckResult(Verdict.FAILED, error.text)
        except ProxyActorsError as error:  # somebody of ours does not answer
            return _unmade(error)

    def probe(self, deadline_s: float) -> CheckResult:
        """Make one check, and end the session that was opened for it."""
        try:
            return self.check(deadline_s)
        finally:
            session, self._session = self._session, None
            if session is not None:
                own, gone = self._own, session
                self._world.spawn("session delete", lambda: own.delete(gone))

    def end_checks(self) -> None:
        """End the session at the server."""
        self._ended = True
        session, self._session = self._session, None
        if session is not None:
            self._own.delete(session, END_S_MAX)

    def _connect(self, deadline_s: float) -> CheckResult:
        """Have a connection opened, and leave it to calls."""
        own_id, now_s = self._own.sender.next_own_id(), self._world.now_s()
        lease = self._pool.checkout(own_id, Purpose.RESERVED, now_s, deadline_s, IDLE_S_NEW)
        lease.release(True)
        return _WELL

    def _get(self, deadline_s: float) -> CheckResult:
        """GET the path; any 2xx will do."""
        status = self._own.get(self._path, deadline_s)
        if status in _CREDENTIALS:
            return _REFUSED
        if 200 <= status < 300:
            return _WELL
        return CheckResult(Verdict.FAILED, f"it answered with status {status}")

    def _ping(self, deadline_s: float) -> CheckResult:
        """Ping within our session; open it if there is none (any more)."""
        if self._session is not None:
            try:
                self._own.ask(PING, None, self._session, deadline_s)
                return _WELL
            except FailedError as error:
                if error.reason is not Reason.SESSION_LOST:
                    raise
                self._session = None
        try:
            session = self._open(deadline_s)
        except GatewayError as error:
            if self._sse is not None and error.bare_status in _OLD:
                return CheckResult(Verdict.WELL, "it may be a server of HTTP+SSE")
            raise
        self._own.ask(PING, None, session, deadline_s)
        return _WELL

    def _open(self, deadline_s: float) -> Session:
        """Open a session of our own."""
        params = {
            "protocolVersion": LATEST,
            "capabilities": {},
            "clientInfo": {"name": "proxy-actors-check", "version": __version__},
        }
        answer, fields = self._own.ask(INITIALIZE, params, None, deadline_s)
        upstream = self._own.upstream
        if answer.is_error:
            text = "it answered initialize with an error"
            raise FailedError(Reason.UPSTREAM_PROTOCOL, text, upstream=upstream)
        session = Session(
            key="", principal="", upstream=upstream, endpoint="",
            upstream_session_id=session_id_of(fields),
            version=negotiated_version(answer, upstream), initialize_params=b"",
        )
        if self._ended:  # nobody will end it but us
            self._own.delete(session)
        else:
            self._session = session
        self._own.notify(INITIALIZED, session)
        return session


class SpareChecker(Checker):
    """Checks a stdio endpoint at which each session has a process of its own.

    What its processes do is each session's own matter; that another one starts is the endpoint's.

    Args:
        slot: the actor of the endpoint.
    """

    def __init__(self, slot: Slot) -> None:
        self._slot = slot

    def check(self, deadline_s: float) -> CheckResult:
        """Say how starting goes."""
        try:
            described: StartDescribed = self._slot.ask(DescribeStart(), deadline_s)
        except ProxyActorsError as error:
            return _unmade(error)
        return CheckResult(described.verdict, described.text)

    def end_checks(self) -> None:
        """Nothing has been left behind."""


class SharedChecker(SpareChecker):
    """Checks a stdio endpoint whose processes are shared by all sessions: one must answer a ping.

    Args:
        processes: its processes by name.
        use: whether they rest; None where they never do.
    """

    def __init__(
        self, world: World, slot: Slot, processes: Directory, use: UpstreamUse | None = None
    ) -> None:
        super().__init__(slot)
        self._world = world
        self._processes = processes
        self._use = use

    def check(self, deadline_s: float) -> CheckResult:
        """Ping the processes, one after the other, until one answers."""
        result = super().check(deadline_s)
        if result.verdict is not Verdict.WELL:
            return result
        if self._use is not None and self._use.rests:
            return _WELL  # the next call has them started; those that are ending say nothing
        result = CheckResult(Verdict.FAILED, "no server process answers a ping")
        running = [slot for slot in self._processes if slot.ref is not None]
        for place, slot in enumerate(running):
            now_s = self._world.now_s()
            until_s = now_s + (deadline_s - now_s) / (len(running) - place)
            try:
                verdict: Verdict = slot.ask(PingServer(), until_s)
            except ProxyActorsError:
                continue  # it says nothing, or ends just now
            if verdict is Verdict.WELL:
                return _WELL
            if verdict is Verdict.UNKNOWN:
                result = CheckResult(verdict, "the server processes are at work")
        return result


def _unmade(error: ProxyActorsError) -> CheckResult:
    """Say that the check could not be made; somebody of ours did not answer."""
    return CheckResult(Verdict.FAILED, f"it could not be checked: {type(error).__name__}")
