"""What `proxy-actors run` was asked to do, as values.

Owns the defaults, the limits and the reading of addresses; opens nothing, and imports nothing that
would slow the command line down. `__main__` makes the options, `service` acts on them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

from proxy_actors.errors import ConfigurationError

LISTEN_DEFAULT = "127.0.0.1:8808"
CHILDREN_DEFAULT = 4
CHILDREN_MAX = 256
PORT_MAX = 65535

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Whatever an HTTP request target cannot carry as it is (RFC 3986 section 2): spaces, controls and
# everything beyond ASCII must have been percent-encoded.
_NOT_IN_URL = re.compile(r"[^!-~]")


class StdioMode(StrEnum):
    """How client sessions are spread over the processes of a stdio server."""

    SESSION = "session"
    """One process for each client session: nothing is shared."""

    SHARED = "shared"
    """One process for all sessions."""

    POOL = "pool"
    """A fixed number of processes for all sessions, each for one call at a time."""


class StreamKeep(StrEnum):
    """Where events are kept for clients that come back to their streams."""

    MEMORY = "memory"
    """In memory: a restart of the proxy loses them."""

    SQLITE = "sqlite"
    """In a file of the state directory as well."""


class Transport(StrEnum):
    """What an MCP server at a URL speaks."""

    AUTO = "auto"
    """Streamable HTTP, or HTTP+SSE where the server turns out to know nothing newer."""

    STREAMABLE = "streamable"
    """Streamable HTTP, of 2025-03-26 and later."""

    SSE = "sse"
    """HTTP+SSE, of 2024-11-05."""


class OnSessionLost(StrEnum):
    """What becomes of a session that its HTTP server does not know any more."""

    END = "end"
    """Its client is told, and begins anew: what the server kept for it is gone."""

    REINITIALIZE = "reinitialize"
    """It is opened anew, for servers that keep nothing which matters."""


class Balance(StrEnum):
    """How an endpoint is chosen for a new session, where an upstream has several."""

    ROUND_ROBIN = "round-robin"
    """One after the other."""

    LEAST_PENDING = "least-pending"
    """The one with the fewest calls in flight."""

    TWO_CHOICES = "two-choices"
    """Of two drawn by chance, the one that answers faster and has less to do."""

    HASH = "hash"
    """The same one for the same principal, address or field, while it can be used."""


class Affinity(StrEnum):
    """What stays at one endpoint."""

    SESSION = "session"
    """A session, while its endpoint can be used."""

    NONE = "none"
    """Nothing, where the server gave the session no id and so keeps nothing for it."""


class CheckKind(StrEnum):
    """How the endpoints of an upstream are checked."""

    AUTO = "auto"
    """`ping` where there are several, not at all where there is one."""

    OFF = "off"
    """Not at all."""

    TCP = "tcp"
    """A connection is opened."""

    HTTP = "http"
    """A path is fetched; any 2xx will do."""

    PING = "ping"
    """An MCP ping is sent, in a session of the proxy's own."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """One listener in front of one server: a command on stdio, or an HTTP URL, never both.

    Args:
        listen_host: the address to bind; a wildcard only when the operator wrote one.
        listen_port: 0 to 65535; 0 lets the system choose.
        command: argv of the stdio server, not empty; None when something else is served.
        url: where an HTTP server's MCP endpoint is; None when something else is served.
        config: a configuration file of our own format; None when something else is served.
        mcp_json: an `mcpServers` file; None when something else is served.
        transport: what the server at the URL speaks.
        listen_given: whether the address was asked for, and goes before that of a file.
        state_dir: the directory of what outlives the process; None keeps it in memory.
        stdio: how sessions share the command's processes.
        children: the number of processes in the mode `pool`, 1 to 256.
        env: variables that the command gets beside the minimal environment, by name.
        tls: the files of the certificate and of its key, with which the listener speaks TLS; None
            where a file says it, or it does not.
        log_level: a level name of the standard library's logging; None leaves logging.ini's.
        logging_ini: a logging configuration that replaces the packaged one.
        statsd: HOST:PORT of a statsd server for figures; None leaves what a file says.

    Raises:
        ConfigurationError: not exactly one thing to serve, or a number out of range.
    """

    listen_host: str
    listen_port: int
    command: tuple[str, ...] | None = None
    url: str | None = None
    config: str | None = None
    mcp_json: str | None = None
    transport: Transport = Transport.AUTO
    listen_given: bool = True
    state_dir: str | None = None
    stdio: StdioMode = StdioMode.SESSION
    children: int = CHILDREN_DEFAULT
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # holds secrets
    tls: tuple[str, str] | None = None
    log_level: str | None = None
    logging_ini: str | None = None
    statsd: str | None = None

    def __post_init__(self) -> None:
        served = [self.command, self.url, self.config, self.mcp_json]
        if sum(map(bool, served)) != 1:
            raise ConfigurationError("give a COMMAND, a URL or a file, exactly one of them")
        if not 0 <= self.listen_port <= PORT_MAX:
            raise ConfigurationError(f"a port is from 0 to {PORT_MAX}, not {self.listen_port}")
        if not 1 <= self.children <= CHILDREN_MAX:
            raise ConfigurationError(
                f"a pool has 1 to {CHILDREN_MAX} processes, not {self.children}"
            )
        if self.statsd is not None:
            parse_statsd(self.statsd)


def parse_listen(text: str) -> tuple[str, int]:
    """Read HOST:PORT, where an IPv6 HOST stands in brackets (RFC 3986 section 3.2.2).

    Raises:
        ConfigurationError: the text is not of that form; the message says what is.
    """
    host, colon, port_text = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not (colon and host and port_text.isascii() and port_text.isdigit()):
        raise ConfigurationError(f"{text!r} is not HOST:PORT, such as {LISTEN_DEFAULT}")
    if ":" in host and not bracketed:
        raise ConfigurationError(f"{text!r}: write an IPv6 address in brackets: [::1]:8808")
    if len(port_text) > 5 or int(port_text) > PORT_MAX:
        raise ConfigurationError(f"{text!r}: a port is from 0 to {PORT_MAX}")
    return host[1:-1] if bracketed else host, int(port_text)


def parse_statsd(text: str) -> tuple[str, int]:
    """Read HOST:PORT of a statsd server.

    Raises:
        ConfigurationError: the text is not of that form, or names no port to send to.
    """
    host, port = parse_listen(text)
    if not port:
        raise ConfigurationError(f"{text!r}: a statsd server has a port, mostly 8125")
    return host, port


def parse_url(text: str) -> str:
    """Check the URL of an MCP endpoint and return it unchanged.

    Raises:
        ConfigurationError: not http or https, no host, a bad port, a fragment, or credentials
            inside (every process list and log would show them).
    """
    if _NOT_IN_URL.search(text):
        raise ConfigurationError(f"{text!r}: a URL has no spaces and no characters beyond ASCII")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:  # its text may quote a password
        raise ConfigurationError(f"{text!r} is not a URL with a host and a port") from error
    if parts.scheme not in ("http", "https"):
        raise ConfigurationError(f"{text!r} is not an http:// or https:// URL")
    if not parts.hostname or port == 0:
        raise ConfigurationError(f"{text!r} names no host and port that could be connected to")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("a URL must not hold a user name or password")
    if parts.fragment:
        raise ConfigurationError(f"{text!r}: a fragment is never sent to a server; leave it out")
    return text


def parse_env(text: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """Read NAME=VALUE, or NAME alone, whose value is then the one in `environment`.

    Raises:
        ConfigurationError: NAME is not a portable variable name (POSIX.1-2017 section 8.1), or has
            no value.
    """
    name, equals, value = text.partition("=")
    if not _ENV_NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} is not the name of an environment variable")
    if not equals and name not in environment:
        raise ConfigurationError(f"the environment variable {name} is to be passed on, but not set")
    return name, value if equals else environment[name]
