"""The settings of upstreams: the tables below [upstreams.NAME].

Like `model`, of which it is a part: with unit, default, limits and what each is for.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from proxy_actors.config.resilience import Breaker, Retries, Timeouts
from proxy_actors.config.section import Count, Name, Seconds, Section, doc
from proxy_actors.options import (
    Affinity,
    Balance,
    CheckKind,
    OnSessionLost,
    StdioMode,
    Transport,
)

Times = Annotated[int, Meta(ge=1, le=1000)]
TimesOrNone = Annotated[int, Meta(ge=0, le=1000)]
Percent = Annotated[int, Meta(ge=0, le=100)]
Interval = Annotated[float, Meta(ge=0.1, le=86_400)]


class UpstreamTls(Section, frozen=True, kw_only=True):
    """[upstreams.NAME.tls]: how an https upstream is verified, and what it is shown."""

    ca: Annotated[
        str, doc("PEM file with the authorities to trust. Empty: those of the system.")
    ] = ""
    certificate: Annotated[
        str, doc("PEM file with the client certificate to show. Empty: none.")
    ] = ""
    key: Annotated[
        str, doc("PEM file with the client certificate's key, not encrypted.")
    ] = ""
    server_name: Annotated[
        str, doc("The name to ask for and to verify. Empty: the host of the URL.")
    ] = ""


class Pool(Section, frozen=True, kw_only=True):
    """[upstreams.NAME.pool]: connections to an HTTP upstream."""

    connections_max: Annotated[
        int, Meta(ge=1, le=10_000), doc("Connections for calls.")
    ] = 64
    reserve: Annotated[
        int, Meta(ge=1, le=100),
        doc("Further connections for what must never wait behind calls."),
    ] = 4
    streams_max: Annotated[
        int,
        Meta(ge=1, le=20_000),
        doc("Connections that carry a stream. A client may listen on eight ninths of them."),
    ] = 1024
    waiters_max: Annotated[
        int, Meta(ge=1, le=100_000),
        doc("Requests that may wait for a connection. Who has most of them is refused first."),
    ] = 1024
    idle_min: Annotated[
        int, Meta(ge=0, le=10_000), doc("Connections kept open without demand.")
    ] = 0
    idle_timeout_s: Annotated[
        Seconds,
        doc("An idle connection is closed after so long. Servers close after 5 s commonly."),
    ] = 4.0
    lifetime_max_s: Annotated[
        Seconds, doc("A connection older than this is closed when next idle.")
    ] = 3600.0
    adaptive_min: Annotated[
        int, Meta(ge=0, le=10_000),
        doc(
            "How many calls may be underway is found out from how long they take: between this "
            "and connections-max. 0: always connections-max."
        ),
    ] = 0


class Reconnect(Section, frozen=True, kw_only=True):
    """[upstreams.NAME.reconnect]: event streams of an HTTP upstream that break are opened anew."""

    base_s: Annotated[
        float, Meta(ge=0.01, le=60),
        doc("The wait is drawn from 0 to this; the bound doubles with each attempt."),
    ] = 1.0
    cap_s: Annotated[
        float, Meta(ge=0.01, le=3600),
        doc("The most that it grows to. What the server's `retry` says is waited in any case."),
    ] = 60.0
    attempts_max: Annotated[
        int, Meta(ge=1, le=1000),
        doc("Attempts in a row that bring no event; then clients are told."),
    ] = 5
    idle_s_max: Annotated[
        float, Meta(ge=1, le=86_400),
        doc("A stream on which nothing comes for so long, no comment either, is opened anew."),
    ] = 300.0


class Checks(Section, frozen=True, kw_only=True):
    """[upstreams.NAME.checks]: its endpoints are asked how they are."""

    kind: Annotated[
        CheckKind,
        doc("How: by MCP ping, by a path, by a connection; `auto` is ping for several endpoints."),
    ] = CheckKind.AUTO
    path: Annotated[
        str, Meta(pattern=r"^/[!-~]*$", max_length=1000),
        doc("What is fetched with kind = http; any 2xx will do."),
    ] = "/health"
    interval_s: Annotated[Interval, doc("From the end of a check to the next one.")] = 5.0
    fast_interval_s: Annotated[
        Interval, doc("The same, while it is being found out whether an endpoint is up or down.")
    ] = 1.0
    down_interval_s: Annotated[Interval, doc("The same, while an endpoint is down.")] = 5.0
    spread: Annotated[
        float, Meta(ge=0, le=0.5), doc("The share of an interval that chance adds or takes away.")
    ] = 0.2
    timeout_s: Annotated[
        float, Meta(ge=0.1, le=300), doc("A check that takes longer has failed.")
    ] = 3.0
    rise: Annotated[Times, doc("Checks in a row that bring an endpoint up again.")] = 2
    fall: Annotated[Times, doc("Checks in a row that fail and bring an endpoint down.")] = 3


class Outliers(Section, frozen=True, kw_only=True):
    """[upstreams.NAME.outliers]: endpoints whose calls fail get no new sessions for a while."""

    consecutive_failures: Annotated[
        TimesOrNone, doc("Calls in a row that fail by the endpoint's fault. 0: they do not matter.")
    ] = 5
    consecutive_gateway_failures: Annotated[
        TimesOrNone, doc("The same of 502, 503, 504, and what is like them. 0: not apart.")
    ] = 0
    split_local: Annotated[
        bool,
        doc("Whether failures without an answer are counted apart: no connection, reset, timeout."),
    ] = False
    consecutive_local_failures: Annotated[
        TimesOrNone, doc("These in a row, where they are. 0: they do not matter.")
    ] = 5
    interval_s: Annotated[
        float, Meta(ge=0.1, le=3600), doc("How often it is looked who may come back.")
    ] = 10.0
    base_ejection_s: Annotated[
        float, Meta(ge=0.1, le=3600),
        doc("The first ejection; the n-th of late lasts n times as long."),
    ] = 30.0
    max_ejection_s: Annotated[Interval, doc("The most that an ejection grows to.")] = 300.0
    ejection_jitter_s: Annotated[
        float, Meta(ge=0, le=3600), doc("What chance adds to an ejection at most.")
    ] = 0.0
    ejected_percent_max: Annotated[
        Percent, doc("The share of the endpoints that may be ejected at the same time, percent.")
    ] = 50
    always_eject_one: Annotated[
        bool, doc("Whether one may be in any case, however few there are.")
    ] = True
    success_rate_factor: Annotated[
        float, Meta(ge=0, le=10),
        doc("Standard deviations below the mean of all success rates. 0: they do not matter."),
    ] = 1.9
    success_rate_endpoints_min: Annotated[
        Times, doc("Endpoints with enough calls in an interval, for success rates to matter.")
    ] = 5
    success_rate_calls_min: Annotated[Count, doc("Calls in an interval that are enough.")] = 100
    failure_percentage: Annotated[
        Percent, doc("The share of calls in an interval that fail. 0: it does not matter.")
    ] = 0
    failure_percentage_endpoints_min: Annotated[
        Times, doc("Endpoints with enough calls in an interval, for that share to matter.")
    ] = 5
    failure_percentage_calls_min: Annotated[
        Count, doc("Calls in an interval that are enough.")
    ] = 50
    check_unejects: Annotated[
        bool, doc("Whether a check that succeeds ends an ejection at once, as Envoy has it.")
    ] = False


class Endpoint(Section, frozen=True, kw_only=True):
    """[upstreams.NAME.endpoints.NAME]: one of several servers, a command or a URL."""

    url: Annotated[str, doc("The MCP endpoint of an HTTP server.")] = ""
    command: Annotated[
        tuple[str, ...], doc("The program of a stdio server and its arguments; no shell.")
    ] = ()
    env: Annotated[
        dict[str, str], doc("Variables that the command gets beside those of the upstream.")
    ] = {}
    cwd: Annotated[
        str, doc("The directory that the command is started in. Empty: the upstream's.")
    ] = ""
    weight: Annotated[
        int, Meta(ge=1, le=1000), doc("Its share of new sessions beside that of the others.")
    ] = 1
    backup: Annotated[
        bool, doc("Whether it is used only while none of the others can be.")
    ] = False


class Upstream(Section, frozen=True, kw_only=True):
    """[upstreams.NAME]: one MCP server, a command or a URL; or several that do the same."""

    command: Annotated[
        tuple[str, ...], doc("The program of a stdio server and its arguments; no shell.")
    ] = ()
    env: Annotated[
        dict[str, str], doc("Variables that the command gets beside a minimal environment.")
    ] = {}
    cwd: Annotated[
        str, doc("The directory that the command is started in. Empty: the proxy's.")
    ] = ""
    stdio: Annotated[
        StdioMode,
        doc("A process for each client session, one for all, or a pool of them."),
    ] = StdioMode.SESSION
    children: Annotated[
        int, Meta(ge=1, le=256), doc("Processes of the mode pool.")
    ] = 4
    idle_stop_s: Annotated[
        float, Meta(ge=0, le=86_400 * 30),
        doc(
            "Processes end when nobody has used them for so long, in the mode session when there "
            "has been no session; the next call, or session, starts them. 0: never."
        ),
    ] = 0.0
    sessions_max: Annotated[
        int, Meta(ge=1, le=10_000),
        doc(
            "Sessions of the mode session; each has a process. A client may have eight ninths."
        ),
    ] = 48
    url: Annotated[str, doc("The MCP endpoint of an HTTP server.")] = ""
    transport: Annotated[
        Transport,
        doc("What the server speaks: Streamable HTTP, HTTP+SSE of 2024-11-05, or find it out."),
    ] = Transport.AUTO
    headers: Annotated[
        dict[str, str],
        doc("Fields sent with every request to the URL, such as Authorization."),
    ] = {}
    call_timeout_s: Annotated[
        Seconds, doc("A call is answered with 504 after so long.")
    ] = 300.0
    streams_max: Annotated[
        Count,
        doc("Open event streams to its clients, read or not. A client may have eight ninths."),
    ] = 20_000
    on_session_lost: Annotated[
        OnSessionLost,
        doc(
            "When the HTTP server has lost a session: its client is told and begins anew, or it is "
            "opened anew, for servers whose sessions hold nothing that matters."
        ),
    ] = OnSessionLost.END
    endpoints: dict[Name, Endpoint] = {}
    balance: Annotated[
        Balance, doc("How an endpoint is chosen for a new session, where there are several.")
    ] = Balance.ROUND_ROBIN
    hash_on: Annotated[
        str, doc("What balance = hash goes by: principal, address, session or header:NAME.")
    ] = "principal"
    affinity: Annotated[
        Affinity,
        doc("Whether sessions stay at one endpoint, or only those to which the server gave an id."),
    ] = Affinity.SESSION
    slow_start_s: Annotated[
        float, Meta(ge=0, le=86_400),
        doc("How long an endpoint that is back gets less than its share. 0: not at all."),
    ] = 0.0
    panic_percent: Annotated[
        float, Meta(ge=0, le=100),
        doc("With fewer than this of the endpoints healthy, ejected ones are used too. 0: never."),
    ] = 50.0
    checks: Checks = Checks()
    outliers: Outliers = Outliers()
    requests_max: Annotated[
        Count, doc("Requests in flight at an endpoint; further ones are refused with 503.")
    ] = 4096
    breaker: Breaker = Breaker()
    retries: Retries = Retries()
    timeouts: Timeouts = Timeouts()
    pool: Pool = Pool()
    reconnect: Reconnect = Reconnect()
    tls: UpstreamTls = UpstreamTls()

    @property
    def check_kind(self) -> CheckKind:
        """How its endpoints are checked, AUTO decided."""
        kind = self.checks.kind
        if kind is not CheckKind.AUTO:
            return kind
        return CheckKind.PING if len(self.endpoints) > 1 else CheckKind.OFF

    def servers(self) -> dict[str, Upstream]:
        """Return each endpoint by its name, with all settings; itself under "" where it is one."""
        return {name: self._with(endpoint) for name, endpoint in self.endpoints.items()} or {
            "": self
        }

    def _with(self, endpoint: Endpoint) -> Upstream:
        return msgspec.structs.replace(
            self, endpoints={}, url=endpoint.url, command=endpoint.command,
            env={**self.env, **endpoint.env}, cwd=endpoint.cwd or self.cwd,
        )
