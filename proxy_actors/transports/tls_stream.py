"""Owns a TLS session over a connected socket, of a client or of a server.

The session lives in memory: bytes go through the socket's own stream, whose watchers, look-ahead
and deadlines stay as they are, and are decrypted where they are read. So nothing is ever forgotten
inside the session: a read takes what is decrypted first, then what the loop has read ahead, and
only then parks. Who reads never writes: what the protocol wants to answer goes with the next write,
or with the close.

A peer that ends without close_notify may have been cut off by anybody (RFC 8446 section 6.1): that
is an error here, and never an end of input.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import Any

from proxy_actors.errors import ConnectFault, HandshakeError, StreamClosedError
from proxy_actors.transports.reception import BUFFER, VIEW
from proxy_actors.transports.socket_stream import SocketStream

READ_BYTES_MAX = 65_536
RECORD_BYTES_MAX = 16_384
# Encrypted at once: a large body needs no second copy of itself.
WRITE_BYTES_MAX = 262_144
_CLOSED = "the stream is closed on this side"
_CUT_OFF = "the peer ended the connection within the TLS session"
# OpenSSL's names for the codes that X509_verify_cert_error_string(3) lists.
_FAULTS = {
    2: ConnectFault.CERTIFICATE_AUTHORITY,  # UNABLE_TO_GET_ISSUER_CERT
    9: ConnectFault.CERTIFICATE_DATE,  # CERT_NOT_YET_VALID
    10: ConnectFault.CERTIFICATE_DATE,  # CERT_HAS_EXPIRED
    18: ConnectFault.CERTIFICATE_AUTHORITY,  # DEPTH_ZERO_SELF_SIGNED_CERT
    19: ConnectFault.CERTIFICATE_AUTHORITY,  # SELF_SIGNED_CERT_IN_CHAIN
    20: ConnectFault.CERTIFICATE_AUTHORITY,  # UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    21: ConnectFault.CERTIFICATE_AUTHORITY,  # UNABLE_TO_VERIFY_LEAF_SIGNATURE
    62: ConnectFault.CERTIFICATE_NAME,  # HOSTNAME_MISMATCH
    64: ConnectFault.CERTIFICATE_NAME,  # IP_ADDRESS_MISMATCH
}
# What a client is told that speaks plain HTTP to a server that speaks TLS.
_PLAIN_HTTP_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 30\r\n"
    b"Connection: close\r\n\r\nUse https:// for this address\n"
)


class TlsStream:
    """A `ByteStream` whose bytes are those of a TLS session. Takes over the stream below it.

    Args:
        inner: the connected socket; nothing was read or written yet.
        context: made by `tls_context`.
        server_name: whom a client wants to speak to; None makes this side the server.
        verdict: called once with what came of the session, which a client of TLS 1.3 learns only
            after its handshake: "" with the first byte, or the alert that came in its place.
    """

    def __init__(
        self,
        inner: SocketStream,
        context: ssl.SSLContext,
        server_name: str | None = None,
        verdict: Callable[[str], None] | None = None,
    ) -> None:
        self.peer = inner.peer
        self._inner = inner
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._session = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_name is None,
            server_hostname=server_name,
        )
        self._verdict = verdict
        self._ahead = b""
        # Why there is no more input: None while there may be, "" for a clean end.
        self._input_end: str | None = None
        self._closed = False
        self._on_departure: Callable[[], None] | None = None
        self._on_input: Callable[[], None] | None = None

    def handshake(self, deadline_s: float) -> None:
        """See `ByteStream.handshake`; for a client too."""
        while True:
            try:
                self._session.do_handshake()
            except ssl.SSLWantReadError:
                self._send_records(deadline_s)
                self._take_in(self._inner.read(READ_BYTES_MAX, deadline_s))
            except ssl.SSLError as error:
                self._tell_failure(error)
                raise _failure(error) from error
            else:
                self._send_records(deadline_s)
                self._inner.on_ahead(self._look_ahead)
                return

    def read(self, bytes_max: int, deadline_s: float) -> bytes:
        """See `ByteStream.read`. What is decrypted comes first, whatever ended the input."""
        if bytes_max < 1:
            raise ValueError("bytes_max must be at least 1: no bytes mean the end of input")
        while (data := self._decrypted(bytes_max)) is None:
            self._take_in(self._inner.read(READ_BYTES_MAX, deadline_s))
        if not data:
            self.on_departure(None)  # who reads sees it: there is nobody to tell
        return data

    def read_now(self, bytes_max: int) -> bytes | None:
        """See `ByteStream.read_now`."""
        while (data := self._decrypted(bytes_max)) is None:
            records = self._inner.read_now(READ_BYTES_MAX)
            if records is None:
                return None
            self._take_in(records)
        if not data:
            self.on_departure(None)  # who reads sees it: there is nobody to tell
        return data

    def on_input(self, callback: Callable[[], None] | None) -> None:
        """See `ByteStream.on_input`. What has been decrypted, the stream below cannot tell."""
        self._on_input = callback
        self._inner.on_input(None if callback is None else self._announce_input)
        self._announce_input_left()

    def write(self, parts: Sequence[bytes], deadline_s: float) -> None:
        """See `ByteStream.write`."""
        if self._closed:
            raise StreamClosedError(_CLOSED)
        rest = memoryview(parts[0] if len(parts) == 1 else b"".join(parts))
        while rest:
            rest = rest[self._encrypt(rest[:WRITE_BYTES_MAX]):]
            self._send_records(deadline_s)

    def write_now(self, data: bytes) -> int:
        """See `ByteStream.write_now`. Nothing: a record is sent whole, and might have to wait."""
        return 0

    def close(self) -> None:
        """See `ByteStream.close`. Says close_notify, and does not wait for the peer's."""
        if not self._closed:
            self._end()
            self._inner.close()

    def close_lingering(self, deadline_s: float) -> None:
        """See `ByteStream.close_lingering`; what is discarded is not decrypted."""
        if not self._closed:
            self._end()
            self._inner.close_lingering(deadline_s)

    def is_quiet(self) -> bool:
        """See `ByteStream.is_quiet`. A session ticket says nothing."""
        if self._closed or self._ahead or self._input_end is not None:
            return False
        if not self._inner.is_quiet():
            data = self._inner.take_ahead()
            if not data:
                return False  # it has ended, is being read, or can be written no more
            self._incoming.write(data)
        try:
            self._ahead = self._decrypted(READ_BYTES_MAX) or b""
        except StreamClosedError:
            return False
        return not self._ahead and self._input_end is None and self._inner.looks_quiet

    @property
    def looks_quiet(self) -> bool:
        """See `ByteStream.looks_quiet`. Looks closer when something came: it may be a ticket."""
        if not self._inner.looks_quiet or self._incoming.pending or self._session.pending():
            return self.is_quiet()
        return not (self._ahead or self._closed) and self._input_end is None

    def on_departure(self, callback: Callable[[], None] | None) -> None:
        """See `ByteStream.on_departure`. A farewell is one, though the connection may last."""
        self._on_departure = callback
        self._inner.on_departure(None if callback is None else self._announce_departure)
        if callback is not None and self._input_end is not None:
            self._inner.call_soon(self._announce_departure)

    def _announce_departure(self) -> None:
        callback, self._on_departure = self._on_departure, None
        if callback is not None:
            callback()

    def _announce_input(self) -> None:
        if self._on_input is not None:
            self._on_input()
            self._announce_input_left()

    def _announce_input_left(self) -> None:
        """Tell of what is within the session, of which the stream below knows nothing."""
        if self._on_input is not None and (
            self._ahead
            or self._incoming.pending
            or self._session.pending()
            or self._input_end is not None
        ):
            self._inner.call_soon(self._announce_input)

    def _look_ahead(self) -> None:
        """See whether what came while nobody reads is the peer's farewell.

        No further than to the first byte of data: what lies behind it is bounded by the stream
        below, and seen when it is read.
        """
        if self._on_departure is not None and not self.is_quiet() and self._input_end is not None:
            self._announce_departure()

    def _decrypted(self, bytes_max: int) -> bytes | None:
        """Return decrypted bytes, b"" at the end of input, None when there are none yet."""
        if self._closed:
            raise StreamClosedError(_CLOSED)
        if self._ahead:
            taken, self._ahead = self._ahead[:bytes_max], self._ahead[bytes_max:]
            return taken
        if self._input_end is None:
            if not (self._incoming.pending or self._session.pending() or self._incoming.eof):
                return None  # asking the session would cost an error
            try:
                # Any: with a buffer it is a count, of which typeshed does not know
                count: Any = self._session.read(min(bytes_max, RECORD_BYTES_MAX), BUFFER)
                data = VIEW[:count].tobytes()
                if data:
                    if self._verdict is not None:
                        self._tell_verdict(self._verdict, "")
                    return data
                self._input_end = ""
            except ssl.SSLWantReadError:
                return None
            except ssl.SSLZeroReturnError:
                self._input_end = ""
            except ssl.SSLError as error:
                self._input_end = _text(error)
                if self._verdict is not None and "ALERT" in (error.reason or ""):
                    self._tell_verdict(self._verdict, self._input_end)
        if self._input_end:
            raise StreamClosedError(self._input_end)
        return b""

    def _tell_verdict(self, verdict: Callable[[str], None], text: str) -> None:
        self._verdict = None
        verdict(text)

    def _take_in(self, data: bytes) -> None:
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _encrypt(self, data: memoryview) -> int:
        try:
            return self._session.write(data)
        except ssl.SSLError as error:
            raise StreamClosedError(_text(error)) from error

    def _send_records(self, deadline_s: float) -> None:
        if self._outgoing.pending:
            self._inner.write((self._outgoing.read(),), deadline_s)

    def _tell_failure(self, error: ssl.SSLError) -> None:
        """Send the alert that says why there is no session, or say it to who knows no alerts."""
        if error.reason == "HTTP_REQUEST":
            self._outgoing.read()
            self._inner.write_now(_PLAIN_HTTP_ANSWER)
        elif self._outgoing.pending:
            self._inner.write_now(self._outgoing.read())

    def _end(self) -> None:
        self._end_output()
        self._closed = True
        self._ahead = b""
        self._on_departure = None

    def _end_output(self) -> None:
        """Say close_notify, or the alert that is due.

        Where a write was cut short it comes within a record, which no peer can read: to it the
        session was cut off, as it was.
        """
        try:
            self._session.unwrap()
        except ssl.SSLError:
            pass  # there was no session, it is broken, or the peer has not said it yet
        if self._outgoing.pending:
            self._inner.write_now(self._outgoing.read())


def _failure(error: ssl.SSLError) -> HandshakeError:
    """Say why a handshake failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        fault = _FAULTS.get(error.verify_code, ConnectFault.CERTIFICATE)
        return HandshakeError(f"the certificate is not valid: {error.verify_message}", fault)
    return HandshakeError(_text(error))


def _text(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLEOFError):
        return _CUT_OFF
    reason = (error.reason or "unknown error").lower().replace("_", " ")
    return f"the TLS session failed: {reason}"
