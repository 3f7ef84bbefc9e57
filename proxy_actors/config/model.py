"""Everything that can be set, as values: with unit, default, limits and what it is for.

Names of settings carry their unit last. The file has dashes where these have underscores. Nothing
here reads a file; `load` makes these structs, `app` reads them, nobody else does.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from proxy_actors.config.overload import Overload
from proxy_actors.config.section import Count, Name, Rate, Seconds, Section, doc
from proxy_actors.config.upstreams import Upstream
from proxy_actors.options import StreamKeep

VERSION = 1


class ListenerTls(Section, frozen=True, kw_only=True):
    """[tls]: the listener speaks TLS."""

    certificate: Annotated[
        str, doc("PEM file with the certificate, and those between it and its authority.")
    ]
    key: Annotated[str, doc("PEM file with the certificate's key, not encrypted.")]
    client_ca: Annotated[
        str, doc("PEM file; clients must show a certificate signed by one of these. Empty: none.")
    ] = ""
    handshake_s: Annotated[
        Seconds, doc("A handshake that takes longer is ended.")
    ] = 10.0


class Http(Section, frozen=True, kw_only=True):
    """[http]: bounds on clients' connections and requests."""

    connections_max: Annotated[Count, doc("Open connections in all.")] = 10_000
    connections_per_address_max: Annotated[
        Count, doc("Open connections of one client address.")
    ] = 10_000
    requests_max: Annotated[Count, doc("Requests on one connection.")] = 1_000_000
    idle_s_max: Annotated[Seconds, doc("Between two requests.")] = 75.0
    head_s_max: Annotated[
        Seconds, doc("From the first byte of a request to the end of its head.")
    ] = 10.0
    body_grace_s: Annotated[
        Seconds, doc("How long a body may take before its rate counts.")
    ] = 10.0
    body_rate_min: Annotated[
        int, Meta(ge=1, le=1 << 30), doc("Bytes a second that a body must then have come at.")
    ] = 1024
    body_bytes_max: Annotated[
        int, Meta(ge=1024, le=1 << 30), doc("Bytes of one request's body.")
    ] = 4 * 1024 * 1024
    body_bytes_total_max: Annotated[
        int, Meta(ge=1024, le=1 << 40), doc("Bytes of request bodies that the process holds.")
    ] = 256 * 1024 * 1024
    head_bytes_max: Annotated[
        int, Meta(ge=1024, le=1 << 20), doc("Bytes of a request's head.")
    ] = 32 * 1024
    fields_max: Annotated[int, Meta(ge=10, le=10_000), doc("Fields of a request.")] = 100
    allowed_hosts: Annotated[
        tuple[str, ...],
        doc("Further names in Host that are served, beside the loopback names and the address."),
    ] = ()
    allowed_origins: Annotated[
        tuple[str, ...],
        doc("Origins of web pages that may send requests, such as https://app.example.com."),
    ] = ()


class Sessions(Section, frozen=True, kw_only=True):
    """[sessions]: clients' sessions."""

    sessions_max: Annotated[
        Count,
        doc(
            "Sessions in all. One more, or one above a client's eight ninths, ends the longest "
            "unused of whoever has most."
        ),
    ] = 10_000
    idle_timeout_s: Annotated[Seconds, doc("A session ends when not used for so long.")] = 86_400.0
    lifetime_max_s: Annotated[
        Seconds, doc("A session ends at this age even when used.")
    ] = 30 * 86_400.0
    flush_interval_s: Annotated[
        Seconds, doc("How often times of last use are written down.")
    ] = 30.0


class Streams(Section, frozen=True, kw_only=True):
    """[streams]: event streams to clients, and what is kept for those that come back."""

    events_max: Annotated[
        int, Meta(ge=2, le=1_000_000),
        doc("Events kept of one stream. A client that is behind by half of them is cut off."),
    ] = 20_000
    bytes_max: Annotated[
        int, Meta(ge=1024, le=1 << 30),
        doc("Bytes of them. A client that is behind by half of that is cut off."),
    ] = 8 * 1024 * 1024
    age_s_max: Annotated[
        float, Meta(ge=1, le=86_400),
        doc("How old an event may be to be sent again; so long a stream waits for its client."),
    ] = 60.0
    retry_ms: Annotated[
        int, Meta(ge=0, le=3_600_000),
        doc("How long clients of 2025-11-25 are asked to wait before they come back."),
    ] = 1000
    connection_s_max: Annotated[
        float, Meta(ge=0, le=86_400),
        doc("Then their connections end early, and they come back for the rest. 0: never."),
    ] = 0.0
    ended_max: Annotated[
        Count, doc("Streams that are kept after their end, in all. The oldest go first.")
    ] = 1000
    bytes_total_max: Annotated[
        int, Meta(ge=1024, le=1 << 40),
        doc(
            "Bytes of the events kept of all streams. Those of whoever has most that nobody reads "
            "lose theirs first."
        ),
    ] = 256 * 1024 * 1024
    streams_max: Annotated[
        Count, doc("Open streams in all, read or not. A client may have eight ninths of them.")
    ] = 20_000
    streams_per_principal_max: Annotated[
        Count, doc("Of these, one principal's, or an anonymous address's.")
    ] = 20_000
    streams_per_session_max: Annotated[Count, doc("Of these, one session's.")] = 256
    store: Annotated[
        StreamKeep,
        doc("Where events are kept; those in a file, of state-dir, are there after a restart."),
    ] = StreamKeep.MEMORY


class Key(Section, frozen=True, kw_only=True):
    """[[keys]]: an API key, known by its digest. `proxy-actors key new` makes one."""

    id: Annotated[Name, doc("Whose key it is: the principal's name in limits and logs.")]
    sha256: Annotated[
        str, Meta(pattern=r"^[0-9a-fA-F]{64}$"), doc("SHA-256 of the key, hexadecimal.")
    ]
    tier: Annotated[str, doc("The tier of rate limits that it belongs to.")] = "default"


class Auth(Section, frozen=True, kw_only=True):
    """[auth]: who may use the proxy."""

    anonymous: Annotated[
        bool, doc("Whether requests without a key are served, as the principal anonymous.")
    ] = True
    failures_per_minute: Annotated[
        Rate, doc("Wrong keys that one address may show in a minute.")
    ] = 30.0
    failures_burst: Annotated[
        int, Meta(ge=1, le=1_000_000), doc("Wrong keys that one address may show at once.")
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

    rate: Annotated[Rate, doc("Requests a second.")]
    burst: Annotated[Count, doc("Requests at once.")]


class Rule(Section, frozen=True, kw_only=True):
    """[[rate-limits.rules]]: a rate limit. Whatever it does not name, it does not look at."""

    name: Annotated[Name, doc("Its name in answers and metrics.")]
    key: Annotated[
        LimitKey, doc("Who has a bucket of its own: a principal, an address, a session, ...")
    ] = LimitKey.PRINCIPAL
    header: Annotated[str, doc("The field whose value counts, with key = header.")] = ""
    upstream: Annotated[str, doc("Only requests to this upstream. Empty: to any.")] = ""
    method: Annotated[
        str, doc("Only this MCP method, such as tools/call. Empty: any request.")
    ] = ""
    tool: Annotated[str, doc("Only calls of this tool. Empty: any.")] = ""
    rate: Annotated[Rate, doc("Requests a second.")]
    burst: Annotated[Count, doc("Requests at once.")]
    tiers: Annotated[
        dict[str, TierRate], doc("Other rates for principals of a tier.")
    ] = {}


class RateLimits(Section, frozen=True, kw_only=True):
    """[rate-limits]: how much of whom is served."""

    address_rate: Annotated[
        Rate, doc("Requests a second of one address, before anything else is looked at.")
    ] = 50_000.0
    address_burst: Annotated[Count, doc("Requests at once of one address.")] = 100_000
    initialize_rate: Annotated[
        Rate, doc("Sessions a second that one principal may open.")
    ] = 100.0
    initialize_burst: Annotated[Count, doc("Sessions at once that one principal may open.")] = 1000
    buckets_max: Annotated[
        Count, doc("Buckets in memory, those of the longest unused go first.")
    ] = 100_000
    x_ratelimit: Annotated[
        bool, doc("Whether refusals carry the X-RateLimit fields as well.")
    ] = False
    rules: tuple[Rule, ...] = ()


class Metrics(Section, frozen=True, kw_only=True):
    """[metrics]: figures to a statsd server."""

    statsd: Annotated[str, doc("HOST:PORT of a statsd server, UDP. Empty: none.")] = ""
    prefix: Annotated[
        str, Meta(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$", max_length=200),
        doc("What every name begins with, up to 200 characters."),
    ] = "proxy_actors"
    flush_interval_s: Annotated[
        Annotated[float, Meta(ge=0.1, le=3600)], doc("How often figures are sent.")
    ] = 1.0
    names_max: Annotated[
        int, Meta(ge=10, le=100_000),
        doc("Distinct names of a family; further ones are counted as _other."),
    ] = 500


class Logs(Section, frozen=True, kw_only=True):
    """[logs]: what is written beside what logging.ini says."""

    access: Annotated[bool, doc("Whether every request is logged.")] = False


class Config(Section, frozen=True, kw_only=True):
    """The file."""

    version: Annotated[
        int, Meta(ge=VERSION, le=VERSION), doc("The version of this format.")
    ] = VERSION
    listen: Annotated[
        str, doc("HOST:PORT to serve at, unless systemd passes a socket.")
    ] = "127.0.0.1:8808"
    state_dir: Annotated[
        str, doc("Where sessions outlive a restart. Empty: they do not.")
    ] = ""
    default_upstream: Annotated[
        str, doc("The upstream at /mcp. Empty: the first one.")
    ] = ""
    tls: ListenerTls | None = None
    upstreams: dict[Name, Upstream] = {}
    http: Http = Http()
    overload: Overload = Overload()
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
