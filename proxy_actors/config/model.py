"""Everything that can be set, as values: with unit, default, limits and what it is for.

Names of settings carry their unit last. The file has dashes where these have underscores. Nothing
here reads a file; `load` makes these structs, `app` reads them, nobody else does.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from proxy_actors.options import OnSessionLost, StdioMode, StreamKeep, Transport

VERSION = 1
NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
# What may hold a secret, with everything below it: it is never shown. `args` is that of mcpServers.
SECRET = frozenset({"args", "command", "env", "headers", "sha256", "url"})

Seconds = Annotated[float, Meta(gt=0, le=86_400 * 366)]
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Rate = Annotated[float, Meta(ge=0.001, le=1_000_000)]


def _doc(text: str) -> Meta:
    """Say what a setting is for, in the words that docs/configuration.md shows."""
    return Meta(description=text)


class Section(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True):
    """A table of the file."""

    def __repr__(self) -> str:
        """Show everything but what may be secret."""
        shown = (
            f"{name}={'****' if name in SECRET else repr(getattr(self, name))}"
            for name in self.__struct_fields__
        )
        return f"{type(self).__name__}({', '.join(shown)})"


class ListenerTls(Section, frozen=True, kw_only=True):
    """[tls]: the listener speaks TLS."""

    certificate: Annotated[
        str, _doc("PEM file with the certificate, and those between it and its authority.")
    ]
    key: Annotated[str, _doc("PEM file with the certificate's key, not encrypted.")]
    client_ca: Annotated[
        str, _doc("PEM file; clients must show a certificate signed by one of these. Empty: none.")
    ] = ""
    handshake_s: Annotated[
        Seconds, _doc("A handshake that takes longer is ended.")
    ] = 10.0


class UpstreamTls(Section, frozen=True, kw_only=True):
    """[upstreams.NAME.tls]: how an https upstream is verified, and what it is shown."""

    ca: Annotated[
        str, _doc("PEM file with the authorities to trust. Empty: those of the system.")
    ] = ""
    certificate: Annotated[
        str, _doc("PEM file with the client certificate to show. Empty: none.")
    ] = ""
    key: Annotated[
        str, _doc("PEM file with the client certificate's key, not encrypted.")
    ] = ""
    server_name: Annotated[
        str, _doc("The name to ask for and to verify. Empty: the host of the URL.")
    ] = ""


class Pool(Section, frozen=True, kw_only=True):
    """[upstreams.NAME.pool]: connections to an HTTP upstream."""

    connections_max: Annotated[
        int, Meta(ge=1, le=10_000), _doc("Connections for calls.")
    ] = 64
    reserve: Annotated[
        int, Meta(ge=1, le=100),
        _doc("Further connections for what must never wait behind calls."),
    ] = 4
    streams_max: Annotated[
        int, Meta(ge=1, le=20_000), _doc("Connections that carry an event stream.")
    ] = 1024
    waiters_max: Annotated[
        int, Meta(ge=1, le=100_000), _doc("Requests that may wait for a connection.")
    ] = 1024
    idle_min: Annotated[
        int, Meta(ge=0, le=10_000), _doc("Connections kept open without demand.")
    ] = 0
    idle_timeout_s: Annotated[
        Seconds,
        _doc("An idle connection is closed after so long. Servers close after 5 s commonly."),
    ] = 4.0
    lifetime_max_s: Annotated[
        Seconds, _doc("A connection older than this is closed when next idle.")
    ] = 3600.0


class Reconnect(Section, frozen=True, kw_only=True):
    """[upstreams.NAME.reconnect]: event streams of an HTTP upstream that break are opened anew."""

    base_s: Annotated[
        float, Meta(ge=0.01, le=60),
        _doc("The wait is drawn from 0 to this; the bound doubles with each attempt."),
    ] = 1.0
    cap_s: Annotated[
        float, Meta(ge=0.01, le=3600),
        _doc("The most that it grows to. What the server's `retry` says is waited in any case."),
    ] = 60.0
    attempts_max: Annotated[
        int, Meta(ge=1, le=1000),
        _doc("Attempts in a row that bring no event; then clients are told."),
    ] = 5
    idle_s_max: Annotated[
        float, Meta(ge=1, le=86_400),
        _doc("A stream on which nothing comes for so long, no comment either, is opened anew."),
    ] = 300.0


class Upstream(Section, frozen=True, kw_only=True):
    """[upstreams.NAME]: one MCP server, a command or a URL."""

    command: Annotated[
        tuple[str, ...], _doc("The program of a stdio server and its arguments; no shell.")
    ] = ()
    env: Annotated[
        dict[str, str], _doc("Variables that the command gets beside a minimal environment.")
    ] = {}
    cwd: Annotated[
        str, _doc("The directory that the command is started in. Empty: the proxy's.")
    ] = ""
    stdio: Annotated[
        StdioMode,
        _doc("A process for each client session, one for all, or a pool of them."),
    ] = StdioMode.SESSION
    children: Annotated[
        int, Meta(ge=1, le=256), _doc("Processes of the mode pool.")
    ] = 4
    sessions_max: Annotated[
        int, Meta(ge=1, le=10_000), _doc("Sessions of the mode session; each has a process.")
    ] = 48
    url: Annotated[str, _doc("The MCP endpoint of an HTTP server.")] = ""
    transport: Annotated[
        Transport,
        _doc("What the server speaks: Streamable HTTP, HTTP+SSE of 2024-11-05, or find it out."),
    ] = Transport.AUTO
    headers: Annotated[
        dict[str, str],
        _doc("Fields sent with every request to the URL, such as Authorization."),
    ] = {}
    call_timeout_s: Annotated[
        Seconds, _doc("A call is answered with 504 after so long.")
    ] = 300.0
    streams_max: Annotated[Count, _doc("Open event streams to its clients, read or not.")] = 20_000
    on_session_lost: Annotated[
        OnSessionLost,
        _doc(
            "When the HTTP server has lost a session: its client is told and begins anew, or it is "
            "opened anew, for servers whose sessions hold nothing that matters."
        ),
    ] = OnSessionLost.END
    pool: Pool = Pool()
    reconnect: Reconnect = Reconnect()
    tls: UpstreamTls = UpstreamTls()


class Http(Section, frozen=True, kw_only=True):
    """[http]: bounds on clients' connections and requests."""

    connections_max: Annotated[Count, _doc("Open connections in all.")] = 10_000
    connections_per_address_max: Annotated[
        Count, _doc("Open connections of one client address.")
    ] = 10_000
    requests_max: Annotated[Count, _doc("Requests on one connection.")] = 1_000_000
    idle_s_max: Annotated[Seconds, _doc("Between two requests.")] = 75.0
    head_s_max: Annotated[
        Seconds, _doc("From the first byte of a request to the end of its head.")
    ] = 10.0
    body_grace_s: Annotated[
        Seconds, _doc("How long a body may take before its rate counts.")
    ] = 10.0
    body_rate_min: Annotated[
        int, Meta(ge=1, le=1 << 30), _doc("Bytes a second that a body must then have come at.")
    ] = 1024
    body_bytes_max: Annotated[
        int, Meta(ge=1024, le=1 << 30), _doc("Bytes of one request's body.")
    ] = 4 * 1024 * 1024
    body_bytes_total_max: Annotated[
        int, Meta(ge=1024, le=1 << 40), _doc("Bytes of request bodies that the process holds.")
    ] = 256 * 1024 * 1024
    head_bytes_max: Annotated[
        int, Meta(ge=1024, le=1 << 20), _doc("Bytes of a request's head.")
    ] = 32 * 1024
    fields_max: Annotated[int, Meta(ge=10, le=10_000), _doc("Fields of a request.")] = 100
    allowed_hosts: Annotated[
        tuple[str, ...],
        _doc("Further names in Host that are served, beside the loopback names and the address."),
    ] = ()
    allowed_origins: Annotated[
        tuple[str, ...],
        _doc("Origins of web pages that may send requests, such as https://app.example.com."),
    ] = ()


class Sessions(Section, frozen=True, kw_only=True):
    """[sessions]: clients' sessions."""

    sessions_max: Annotated[
        Count, _doc("Sessions in all. One more ends the one unused for longest.")
    ] = 10_000
    idle_timeout_s: Annotated[Seconds, _doc("A session ends when not used for so long.")] = 86_400.0
    lifetime_max_s: Annotated[
        Seconds, _doc("A session ends at this age even when used.")
    ] = 30 * 86_400.0
    flush_interval_s: Annotated[
        Seconds, _doc("How often times of last use are written down.")
    ] = 30.0


class Streams(Section, frozen=True, kw_only=True):
    """[streams]: event streams to clients, and what is kept for those that come back."""

    events_max: Annotated[
        int, Meta(ge=2, le=1_000_000),
        _doc("Events kept of one stream. A client that is behind by half of them is cut off."),
    ] = 20_000
    bytes_max: Annotated[
        int, Meta(ge=1024, le=1 << 30),
        _doc("Bytes of them. A client that is behind by half of that is cut off."),
    ] = 8 * 1024 * 1024
    age_s_max: Annotated[
        float, Meta(ge=1, le=86_400),
        _doc("How old an event may be to be sent again; so long a stream waits for its client."),
    ] = 60.0
    retry_ms: Annotated[
        int, Meta(ge=0, le=3_600_000),
        _doc("How long clients of 2025-11-25 are asked to wait before they come back."),
    ] = 1000
    connection_s_max: Annotated[
        float, Meta(ge=0, le=86_400),
        _doc("Then their connections end early, and they come back for the rest. 0: never."),
    ] = 0.0
    ended_max: Annotated[
        Count, _doc("Streams that are kept after their end, in all. The oldest go first.")
    ] = 1000
    bytes_total_max: Annotated[
        int, Meta(ge=1024, le=1 << 40),
        _doc("Bytes of the events kept of all streams. Those that nobody reads lose theirs first."),
    ] = 256 * 1024 * 1024
    streams_max: Annotated[Count, _doc("Open streams in all, read or not.")] = 20_000
    streams_per_principal_max: Annotated[Count, _doc("Of these, one principal's.")] = 20_000
    streams_per_session_max: Annotated[Count, _doc("Of these, one session's.")] = 256
    store: Annotated[
        StreamKeep,
        _doc("Where events are kept; those in a file, of state-dir, are there after a restart."),
    ] = StreamKeep.MEMORY


class Key(Section, frozen=True, kw_only=True):
    """[[keys]]: an API key, known by its digest. `proxy-actors key new` makes one."""

    id: Annotated[Name, _doc("Whose key it is: the principal's name in limits and logs.")]
    sha256: Annotated[
        str, Meta(pattern=r"^[0-9a-fA-F]{64}$"), _doc("SHA-256 of the key, hexadecimal.")
    ]
    tier: Annotated[str, _doc("The tier of rate limits that it belongs to.")] = "default"


class Auth(Section, frozen=True, kw_only=True):
    """[auth]: who may use the proxy."""

    anonymous: Annotated[
        bool, _doc("Whether requests without a key are served, as the principal anonymous.")
    ] = True
    failures_per_minute: Annotated[
        Rate, _doc("Wrong keys that one address may show in a minute.")
    ] = 30.0
    failures_burst: Annotated[
        int, Meta(ge=1, le=1_000_000), _doc("Wrong keys that one address may show at once.")
    ] = 10


class LimitKey(StrEnum):
    """What a rate limit counts by."""

    PRINCIPAL = "principal"
    ADDRESS = "address"
    SESSION = "session"
    HEADER = "header"
    ALL = "all"


class TierRate(Section, frozen=True, kw_only=True):
    """[rate-limits.rules.tiers.NAME]: what a tier gets in place of the rule's own rate."""

    rate: Annotated[Rate, _doc("Requests a second.")]
    burst: Annotated[Count, _doc("Requests at once.")]


class Rule(Section, frozen=True, kw_only=True):
    """[[rate-limits.rules]]: a rate limit. Whatever it does not name, it does not look at."""

    name: Annotated[Name, _doc("Its name in answers and metrics.")]
    key: Annotated[
        LimitKey, _doc("Who has a bucket of its own: a principal, an address, a session, ...")
    ] = LimitKey.PRINCIPAL
    header: Annotated[str, _doc("The field whose value counts, with key = header.")] = ""
    upstream: Annotated[str, _doc("Only requests to this upstream. Empty: to any.")] = ""
    method: Annotated[
        str, _doc("Only this MCP method, such as tools/call. Empty: any request.")
    ] = ""
    tool: Annotated[str, _doc("Only calls of this tool. Empty: any.")] = ""
    rate: Annotated[Rate, _doc("Requests a second.")]
    burst: Annotated[Count, _doc("Requests at once.")]
    tiers: Annotated[
        dict[str, TierRate], _doc("Other rates for principals of a tier.")
    ] = {}


class RateLimits(Section, frozen=True, kw_only=True):
    """[rate-limits]: how much of whom is served."""

    address_rate: Annotated[
        Rate, _doc("Requests a second of one address, before anything else is looked at.")
    ] = 50_000.0
    address_burst: Annotated[Count, _doc("Requests at once of one address.")] = 100_000
    initialize_rate: Annotated[
        Rate, _doc("Sessions a second that one principal may open.")
    ] = 100.0
    initialize_burst: Annotated[Count, _doc("Sessions at once that one principal may open.")] = 1000
    buckets_max: Annotated[
        Count, _doc("Buckets in memory, those of the longest unused go first.")
    ] = 100_000
    x_ratelimit: Annotated[
        bool, _doc("Whether refusals carry the X-RateLimit fields as well.")
    ] = False
    rules: tuple[Rule, ...] = ()


class Metrics(Section, frozen=True, kw_only=True):
    """[metrics]: figures to a statsd server."""

    statsd: Annotated[str, _doc("HOST:PORT of a statsd server, UDP. Empty: none.")] = ""
    prefix: Annotated[
        str, Meta(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$", max_length=200),
        _doc("What every name begins with, up to 200 characters."),
    ] = "proxy_actors"
    flush_interval_s: Annotated[
        Annotated[float, Meta(ge=0.1, le=3600)], _doc("How often figures are sent.")
    ] = 1.0
    names_max: Annotated[
        int, Meta(ge=10, le=100_000),
        _doc("Distinct names of a family; further ones are counted as _other."),
    ] = 500


class Logs(Section, frozen=True, kw_only=True):
    """[logs]: what is written beside what logging.ini says."""

    access: Annotated[bool, _doc("Whether every request is logged.")] = False


class Config(Section, frozen=True, kw_only=True):
    """The file."""

    version: Annotated[
        int, Meta(ge=VERSION, le=VERSION), _doc("The version of this format.")
    ] = VERSION
    listen: Annotated[str, _doc("HOST:PORT to serve at.")] = "127.0.0.1:8808"
    state_dir: Annotated[
        str, _doc("Where sessions outlive a restart. Empty: they do not.")
    ] = ""
    default_upstream: Annotated[
        str, _doc("The upstream at /mcp. Empty: the first one.")
    ] = ""
    tls: ListenerTls | None = None
    upstreams: dict[Name, Upstream] = {}
    http: Http = Http()
    sessions: Sessions = Sessions()
    streams: Streams = Streams()
    auth: Auth = Auth()
    keys: tuple[Key, ...] = ()
    rate_limits: RateLimits = RateLimits()
    metrics: Metrics = Metrics()
    logs: Logs = Logs()

    @property
    def default(self) -> str:
        """The name of the upstream at /mcp."""
        return self.default_upstream or next(iter(self.upstreams))
