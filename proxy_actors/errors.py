"""The one tree of errors.

Every error that can reach a client carries whose fault it is, whether the upstream application may
have executed the request, and the HTTP status and JSON-RPC code of its answer. Retry decisions and
answers are made from those fields alone; only `gateway/rescue.py` turns an error into a response.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypeVar

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
UNSUPPORTED_PROTOCOL_VERSION = -32022
# So many errors that have led to one are looked at.
_CAUSES_MAX: Final = 16

E = TypeVar("E", bound=BaseException)


class Side(StrEnum):
    """Who caused an error."""

    CLIENT = "client"
    UPSTREAM = "upstream"
    PROXY = "proxy"


class Executed(StrEnum):
    """Whether the upstream application may have acted on the request."""

    NO = "no"
    UNKNOWN = "unknown"


class Reason(StrEnum):
    """The closed list of failure reasons that clients are told, each with one HTTP status."""

    POOL_EXHAUSTED = "pool-exhausted"
    OVERLOADED = "overloaded"
    CIRCUIT_OPEN = "circuit-open"
    DRAINING = "draining"
    UPSTREAM_UNAVAILABLE = "upstream-unavailable"
    CONNECT_FAILED = "connect-failed"
    UPSTREAM_CLOSED = "upstream-closed"
    UPSTREAM_PROTOCOL = "upstream-protocol"
    UPSTREAM_TIMEOUT = "upstream-timeout"
    DEADLINE = "deadline"
    PROCESS_EXITED = "process-exited"
    SESSION_LOST = "session-lost"
    RATE_LIMITED = "rate-limited"
    TOO_LARGE = "too-large"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    INTERNAL = "internal"


STATUS_OF_REASON: dict[Reason, int] = {
    Reason.POOL_EXHAUSTED: 503,
    Reason.OVERLOADED: 503,
    Reason.CIRCUIT_OPEN: 503,
    Reason.DRAINING: 503,
    Reason.UPSTREAM_UNAVAILABLE: 503,
    Reason.CONNECT_FAILED: 502,
    Reason.UPSTREAM_CLOSED: 502,
    Reason.UPSTREAM_PROTOCOL: 502,
    Reason.UPSTREAM_TIMEOUT: 504,
    Reason.DEADLINE: 504,
    Reason.PROCESS_EXITED: 502,
    Reason.SESSION_LOST: 404,
    Reason.RATE_LIMITED: 429,
    Reason.TOO_LARGE: 413,
    Reason.UNAUTHORIZED: 401,
    Reason.FORBIDDEN: 403,
    Reason.INTERNAL: 500,
}


def let_go(error: E) -> E:
    """Have an error hold no frames any more, nor the errors that have led to it; return it.

    Its traceback holds the frames that it went through, and all that called them. One that has it
    in a variable makes that a cycle, which would hold what was received, 16 MB at most, until the
    collector comes by. So who keeps an error beyond its `except` lets go of it first, and who ends
    one that may have been raised from a variable does so at last.
    """
    chain: list[BaseException] = [error]
    for each in chain:  # which grows meanwhile
        each.__traceback__ = None
        for before in (each.__cause__, each.__context__):
            if before is not None and before not in chain and len(chain) < _CAUSES_MAX:
                chain.append(before)
    return error


class ProxyActorsError(Exception):
    """Root of every error that this package raises on purpose."""


class DeadlineError(ProxyActorsError):
    """A wait reached its deadline. The waiter decides what that means for its client."""


class StreamClosedError(ProxyActorsError):
    """A byte stream was closed or reset while it was being read or written.

    A clean end of input is not an error: `ByteStream.read` returns b"" for it.
    """


class ConnectFault(StrEnum):
    """The closed list of what keeps a connection from being opened; fit for anybody to see."""

    REFUSED = "connection-refused"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    UNKNOWN_NAME = "unknown-name"
    TLS = "tls-handshake-failed"
    CERTIFICATE = "certificate-invalid"
    CERTIFICATE_NAME = "certificate-of-another-name"
    CERTIFICATE_DATE = "certificate-expired"
    CERTIFICATE_AUTHORITY = "certificate-of-an-unknown-authority"


class ConnectError(ProxyActorsError):
    """A connection could not be opened: refused, unreachable, unresolvable, not secure, or late."""

    def __init__(self, text: str, fault: ConnectFault = ConnectFault.UNREACHABLE) -> None:
        super().__init__(text)
        self.fault = fault


class HandshakeError(StreamClosedError):
    """The two ends of a stream could not agree on a TLS session; nothing of it was used."""

    def __init__(self, text: str, fault: ConnectFault = ConnectFault.TLS) -> None:
        super().__init__(text)
        self.fault = fault


class SpawnError(ProxyActorsError):
    """A child process could not be started: command missing, not executable, limits reached."""


class ActorStoppedError(ProxyActorsError):
    """The actor asked had stopped, or crashed, before it answered."""


class MailboxFullError(ProxyActorsError):
    """The actor's inbox refused the mail because it is full."""


class ConfigurationError(ProxyActorsError):
    """A setting is missing, unknown or out of range. Never retried. The text names the fix."""


class ConfigurationFileError(ConfigurationError):
    """A configuration file has errors. The text is all of them, in printable lines."""


class TlsFileError(ConfigurationError):
    """A file of certificates or keys cannot be used.

    Args:
        setting: the setting that names it, as files of configuration spell it.
        path: the file.
        text: what is wrong with it, without its name.
    """

    def __init__(self, setting: str, path: str, text: str) -> None:
        super().__init__(f"{setting} {path!r}: {text}")
        self.setting = setting
        self.text = text


class MessageError(ProxyActorsError):
    """Bytes that are no acceptable JSON-RPC message.

    Towards a client it becomes a 400; from an upstream it is the upstream's breach of protocol.

    Args:
        text: what is wrong, without quoting the message.
        code: the JSON-RPC code: PARSE_ERROR, INVALID_REQUEST or INVALID_PARAMS.
        request_id: the raw JSON id of the request refused, when it could be read.
    """

    def __init__(
        self, text: str, *, code: int = INVALID_REQUEST, request_id: bytes | None = None
    ) -> None:
        super().__init__(text)
        self.text = text
        self.code = code
        self.request_id = request_id


class FrameTooLargeError(ProxyActorsError):
    """A peer sent a line or an event beyond its bound; nothing more can be read from it."""


class GatewayError(ProxyActorsError):
    """An error with an answer: HTTP status, JSON-RPC code, fault, and what is known of execution.

    `close` says that the client's connection cannot be used for another request. `headers` are
    added to the answer. The text must be fit for a client: no path, address or secret.

    Attributes:
        bare_status: the HTTP status with which an upstream has refused the request without a word
            of JSON-RPC, if that is what happened.
    """

    side = Side.PROXY
    executed = Executed.NO
    status = 500
    code = INTERNAL_ERROR
    retryable = False
    bare_status: int | None = None

    def __init__(
        self,
        text: str,
        *,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        close: bool = False,
    ) -> None:
        super().__init__(text)
        self.text = text
        self.headers = headers
        self.close = close


class RefusedError(GatewayError):
    """A request that breaks a rule of HTTP or MCP: the client's fault, nothing was executed.

    Args:
        status: the HTTP status, 400 to 599.
        text: what is wrong, for the client.
        code: the JSON-RPC code of the body.
        data: the JSON-RPC error's `data`, if the specification names one.
    """

    side = Side.CLIENT

    def __init__(
        self,
        status: int,
        text: str,
        *,
        code: int = INVALID_REQUEST,
        data: dict[str, object] | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        close: bool = False,
    ) -> None:
        super().__init__(text, headers=headers, close=close)
        self.status = status
        self.code = code
        self.data = data


class FailedError(GatewayError):
    """A request that the proxy or the upstream failed, under the error contract.

    Args:
        reason: one of the closed list; decides the HTTP status.
        text: one sentence for the client.
        executed: NO only when the request provably did not reach the application.
        upstream: the upstream's configured name, never its address.
        retryable: whether repeating the very same request is safe and may help.
        retry_after_s: when to repeat it, in seconds, if that is known.
        status: overrides the reason's status (a session lost is 404 in the session era only).
        answered: the HTTP status with which the upstream has answered, if it has.
        headers: added to the answer.
    """

    def __init__(
        self,
        reason: Reason,
        text: str,
        *,
        executed: Executed = Executed.NO,
        upstream: str | None = None,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
        status: int | None = None,
        answered: int | None = None,
        side: Side = Side.UPSTREAM,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        close: bool = False,
    ) -> None:
        super().__init__(text, headers=headers, close=close)
        self.reason = reason
        self.status = STATUS_OF_REASON[reason] if status is None else status
        self.executed = executed
        self.upstream = upstream
        self.retryable = executed is Executed.NO if retryable is None else retryable
        self.retry_after_s = retry_after_s
        self.answered = answered
        self.side = side


class StreamsFullError(FailedError):
    """No more event streams may be opened. A call can be answered without one."""


class FramingError(ProxyActorsError):
    """Bytes that break the grammar or the limits of HTTP/1.1, read or about to be written.

    It never leaves `protocol/` when read: the parser of a side knows whose fault the bytes are, and
    raises `RefusedError(status)` or `FailedError` in its place.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class CallFailedError(ProxyActorsError):
    """A call from the command line got an error, or something that is not an answer.

    The text is for the person who made the call; it tells the error contract's fields, if any.
    """
