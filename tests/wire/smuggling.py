"""Requests that two parsers might read differently, each with another request hidden in it.

Between a client and an upstream the two must agree on where each request ends. A payload says what
RFC 9112 framing gives: the calls that are served, and whether the connection is refused after them.
The hidden call is never among them, unless the framing says that it is a request of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from tests.sim.virtual import call

HIDDEN = 666
# Stands for the session's id, and is as long.
SESSION = b"v1.0." + b"s" * 32
CHUNKED = b"Transfer-Encoding: chunked"

_FIELDS = (
    b"Host: 127.0.0.1", b"Accept: application/json, text/event-stream",
    b"Content-Type: application/json", b"Mcp-Session-Id: " + SESSION,
)


@dataclass(frozen=True)
class Payload:
    """What is sent, and what must come of it.

    `served` are the numbers of the calls that the upstream must see, in order; `refused` says that
    the connection is closed behind them with a status of 400 or above.
    """

    name: str
    data: bytes
    served: tuple[int, ...] = ()
    refused: bool = True


def body(n: int) -> bytes:
    return json.dumps(call(n)).encode()


def length(size: int) -> bytes:
    return b"Content-Length: %d" % size


def post(
    *fields: bytes, content: bytes = b"", line: bytes = b"POST /mcp HTTP/1.1", end: bytes = b"\r\n"
) -> bytes:
    """A request with these fields beside those that every call has."""
    return end.join([line, *_FIELDS, *fields, b"", b""]) + content


def whole(n: int, *fields: bytes) -> bytes:
    """A call that nobody could misread."""
    return post(length(len(body(n))), *fields, content=body(n))


def chunks(*data: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (*data, b""))


def ok(name: str, data: bytes, *served: int) -> Payload:
    """The connection lives on."""
    return Payload(name, data, served, refused=False)


def payloads() -> Iterator[Payload]:
    """Yield all of them."""
    yield from _two_framings()
    yield from _transfer_encodings()
    yield from _lengths()
    yield from _chunks()
    yield from _trailers()
    yield from _line_ends()
    yield from _names()
    yield from _request_lines()
    yield from _bodies_of_others()
    yield from _connections()


_HIDDEN = whole(HIDDEN)


def _two_framings() -> Iterator[Payload]:
    """A length for one parser, chunks for the other (HTTP-H10): never both."""
    inner = chunks() + _HIDDEN
    by_length = length(len(inner))
    for name, fields in {
        "length, chunked": (by_length, CHUNKED),
        "chunked, length": (CHUNKED, by_length),
        "length 0, chunked": (length(0), CHUNKED),
        "length short of the chunks, chunked": (length(5), CHUNKED),
        "chunked, length, chunked": (CHUNKED, by_length, CHUNKED),
        "length, nominated chunked": (by_length, CHUNKED, b"Connection: Transfer-Encoding"),
        "chunked, nominated length": (CHUNKED, by_length, b"Connection: Content-Length"),
    }.items():
        yield Payload(name, post(*fields, content=inner))
    for coding in (
        b"Chunked", b"\tchunked", b"chunked\t", b"xchunked", b"chunked;q=1", b'"chunked"',
        b"identity", b"gzip", b"chunked, identity", b"identity, chunked", b"cow", b"", b",",
        b"chunked chunked", b"chunked\x0c", b"\x0bchunked", b"\xffchunked",
    ):
        fields = by_length, b"Transfer-Encoding: " + coding
        yield Payload(f"length, coding {coding!r}", post(*fields, content=inner))


def _transfer_encodings() -> Iterator[Payload]:
    """Codings that only one parser takes for chunked (HTTP-H11)."""
    content = chunks(body(1)) + whole(2)
    for coding in (b"chunked", b"CHUNKED", b"\tchunked", b"  chunked ", b", chunked"):
        fields = b"Transfer-Encoding:" + coding
        yield ok(f"coding {coding!r}", post(fields, content=content), 1, 2)
    inner = chunks(body(1)) + _HIDDEN
    for coding in (
        b"xchunked", b"chunked, chunked", b"gzip, chunked", b"chunked, gzip", b"identity",
        b"identity, chunked", b"chunked;q=1", b"chunked=1", b'"chunked"', b"chunke", b"",
        b"chun ked", b"chunked\x00", b"\x00chunked", b"chunked\x0b", b"\x0cchunked",
        b"chunked\xa0", b"\x85chunked",
        # RFC 9110 section 5.6.1 would allow these two, and nobody sends them.
        b"chunked,", b"chunked \t",
    ):
        yield Payload(
            f"coding {coding!r} alone", post(b"Transfer-Encoding: " + coding, content=inner)
        )
    for name, fields in {
        "chunked twice": (CHUNKED, CHUNKED),
        "chunked, identity": (CHUNKED, b"Transfer-Encoding: identity"),
        "identity, chunked on two lines": (b"Transfer-Encoding: identity", CHUNKED),
        "empty, chunked folded": (b"Transfer-Encoding:\r\n chunked",),
        "chunked folded behind another": (b"X: x\r\n Transfer-Encoding: chunked",),
    }.items():
        yield Payload(name, post(*fields, content=inner))
    old = post(CHUNKED, content=inner, line=b"POST /mcp HTTP/1.0")
    yield Payload("chunked from an old client", old)


def _lengths() -> Iterator[Payload]:
    """What int() of some language takes for a number, and others do not (HTTP-H12)."""
    size = len(body(1))
    for text in (b"%d", b"0%d", b"  %d", b"%d\t", b"00000000%d"):
        content = body(1) + whole(2)
        yield ok(f"length {text!r}", post(b"Content-Length:" + text % size, content=content), 1, 2)
    for text in (
        b"+%d", b"-%d", b"%d_0", b"0x%d", b"0o%d", b"%d.0", b"%de0", b"%d %d", b"%d, %d", b"%d,%d",
        b"%d;x", b"%dL", b"'%d'", b"\x00%d", b"%d\x00", b"\x0b%d", b"%d\x0c", b"\xb2%d", b"\xa0%d",
        b"9223372036854775807%d", b"18446744073709551616%d", b"0b%d", b"%d\xd9\xa1", b"",
    ):  # fmt: skip
        value = text % ((size,) * text.count(b"%d"))
        yield Payload(
            f"length {text!r}", post(b"Content-Length: " + value, content=body(1) + _HIDDEN)
        )
    for name, fields in {
        "two equal lengths": (length(size), length(size)),
        "two lengths": (length(size), length(size + len(_HIDDEN))),
        "length 0, then another": (length(0), length(size)),
        "length folded": (b"Content-Length:\r\n %d" % size,),
        "length continued": (b"Content-Length: 1\r\n %d" % size,),
    }.items():
        yield Payload(name, post(*fields, content=body(1) + _HIDDEN))
    # What is left over is no request, and is not looked through for one.
    yield Payload("length too short", post(length(size - 1), content=body(1) + _HIDDEN))
    yield Payload("length 0", post(length(0), content=body(1) + _HIDDEN))
    yield Payload("no length", post(content=body(1) + _HIDDEN))
    yield Payload("length too long", post(length(size + 10**6), content=body(1) + _HIDDEN))


def _chunks() -> Iterator[Payload]:
    """Sizes, extensions and line ends within chunks (HTTP-H13)."""
    data = body(1)
    last = b"0\r\n\r\n"

    def chunk(size_line: bytes, content: bytes = data, end: bytes = b"\r\n") -> bytes:
        return size_line % len(data) + content + end

    for name, content in {
        "zeros before the size": chunk(b"00000000%x\r\n") + last,
        "size in capitals": chunk(b"%X\r\n") + last,
        "extension": chunk(b'%x;a=b;c="d e"\r\n') + last,
        "extension behind a space": chunk(b"%x ;a\r\n") + last,
        "extension of the last": chunk(b"%x\r\n") + b"0;a=b\r\n\r\n",
        "last of many zeros": chunk(b"%x\r\n") + b"0000\r\n\r\n",
        "chunks of one byte": chunks(*[data[at : at + 1] for at in range(len(data))]),
    }.items():
        yield ok(f"chunk: {name}", post(CHUNKED, content=content + whole(2)), 1, 2)
    for name, content in {
        "prefixed size": chunk(b"0x%x\r\n") + last,
        "signed size": chunk(b"+%x\r\n") + last,
        "negative size": b"-1\r\n" + last,
        "size with underscore": chunk(b"0_%x\r\n") + last,
        "size behind a space": chunk(b" %x\r\n") + last,
        "size before a space": chunk(b"%x \r\n") + last,
        "size before a tab": chunk(b"%x\t\r\n") + last,
        "size in other digits": chunk(b"\xb2%x\r\n") + last,
        "empty size": b"\r\n" + data + b"\r\n" + last,
        "extension alone": chunk(b";%x\r\n") + last,
        "size beyond 64 bits": chunk(b"10000000000000000%x\r\n") + last,
        "size of 64 bits": b"ffffffffffffffff\r\n" + data,
        "size of 32 bits": chunk(b"1000000%02x\r\n") + last,
        "two sizes": chunk(b"%x %%x\r\n" % 0) + last,
        "size line in LF": chunk(b"%x\n") + last,
        "size line in CR": chunk(b"%x\r") + last,
        "size line in CR CR LF": chunk(b"%x\r\r\n") + last,
        "CR in an extension": chunk(b"%x;a\rb\r\n") + last,
        "LF in an extension": chunk(b"%x;a\n0\r\n\r\n" + b"\r\n") + last,
        "NUL in an extension": chunk(b"%x;\0\r\n") + last,
        "long extension": chunk(b"%x;" + b"a" * 2000 + b"\r\n") + last,
        "longer than its size": chunk(b"%x\r\n", data + b" ") + last,
        "shorter than its size": chunk(b"%x\r\n", data[:-1]) + last,
        "data without an end": chunk(b"%x\r\n", end=b"") + last,
        "data ends in LF": chunk(b"%x\r\n", end=b"\n") + last,
        "data ends in CR": chunk(b"%x\r\n", end=b"\r") + last,
        "data ends in LF CR": chunk(b"%x\r\n", end=b"\n\r") + last,
        "last in LF": chunk(b"%x\r\n") + b"0\n\n",
    }.items():
        yield Payload(f"chunk: {name}", post(CHUNKED, content=content + _HIDDEN))


def _trailers() -> Iterator[Payload]:
    """What follows the last chunk is dropped, whatever it is called (HTTP-H14)."""
    before = chunks(body(1))[: -len(b"\r\n")]
    for trailer in (
        b"X: x", b"Content-Length: 666", CHUNKED, b"Mcp-Session-Id: other", b"Host: evil", b"X:",
    ):
        content = before + trailer + b"\r\n\r\n" + whole(2)
        yield ok(f"trailer {trailer!r}", post(CHUNKED, content=content), 1, 2)
    for trailer in (
        b"X : x", b" X: x", b"X", b": x", b"X: a\nb", b"X: a\rb", b"X: \0", b"X: a\r\n b",
    ):
        content = before + trailer + b"\r\n\r\n" + _HIDDEN
        yield Payload(f"trailer {trailer!r}", post(CHUNKED, content=content))
    trailers = before + _HIDDEN
    yield Payload("last chunk without an end, request as trailers", post(CHUNKED, content=trailers))


def _line_ends() -> Iterator[Payload]:
    """Lines and heads that end for one parser only (HTTP-H1, H2, H3, H8, H9)."""
    hidden = length(len(body(HIDDEN)))
    content = body(1) + _HIDDEN
    size = length(len(body(1)))
    for name, field in {
        "field behind LF": b"X: x\n" + CHUNKED,
        "field behind CR": b"X: x\r" + CHUNKED,
        "field behind CR CR LF": b"X: x\r\r\n" + CHUNKED,
        "field behind NUL": b"X: x\0" + CHUNKED,
        "field behind LF CR": b"X: x\n\r" + CHUNKED,
        "request behind LF LF": b"X: x\n\n" + _HIDDEN,
        "request behind CR CR": b"X: x\r\r" + _HIDDEN,
        "folded by a space": b"X: x\r\n " + CHUNKED,
        "folded by a tab": b"X: x\r\n\t" + CHUNKED,
        "folded empty line": b"X: x\r\n \r\n" + _HIDDEN,
        "line without a colon": b"POST /mcp HTTP/1.1",
        "NUL alone": b"\0",
    }.items():
        yield Payload(name, post(field, size, content=content))
    yield Payload("lines in LF", post(size, content=content, end=b"\n"))
    yield Payload("lines in CR", post(size, content=content, end=b"\r"))
    spaced = post(size, content=content).replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\n ", 1)
    yield Payload("space before the first field", spaced)
    yield Payload("two empty lines before", b"\r\n\r\n" + _HIDDEN)
    yield Payload("LF before", b"\n" + _HIDDEN)
    yield Payload("two empty lines between", whole(1) + b"\r\n\r\n" + _HIDDEN, (1,))
    yield ok("empty line between", whole(1) + b"\r\n" + whole(2), 1, 2)
    yield Payload("NUL between", whole(1) + b"\0" + _HIDDEN, (1,))
    yield Payload("head without an end", post(hidden, end=b"\r\n")[:-2])


def _names() -> Iterator[Payload]:
    """Names of fields that one parser takes for the framing (HTTP-H7, H9)."""
    size = length(len(body(1)))
    content = body(1) + _HIDDEN
    for name in (
        b"Transfer-Encoding ", b"Transfer-Encoding\t", b" Transfer-Encoding",
        b"Transfer-Encoding\0", b"Transfer-Encoding\x0b", b"Transfer\xadEncoding",
        b"Transfer-Encoding\xa0", b"Transfer Encoding", b"Transfer\xe2\x80\x90Encoding",
        b"(Transfer-Encoding)", b"Transfer-Encoding:", b"",
    ):
        field = name + b": chunked"
        yield Payload(f"name {name!r}", post(field, size, content=content))
    for name in (
        b"Content-Length ", b"Content-Length\t", b"Content-Length\0", b"Content Length",
        b"\xefContent-Length",
    ):
        field = name + b": %d" % (len(body(1)) + len(_HIDDEN))
        yield Payload(f"name {name!r}", post(field, size, content=content))
    # Fields like any other here; what upstreams might take for another's must not reach them.
    for name in (b"Transfer_Encoding", b"X-Transfer-Encoding", b"TE", b"Transfer.Encoding"):
        yield ok(f"name {name!r}", whole(1, name + b": chunked") + whole(2), 1, 2)
    for name in (b"Content_Length", b"X-Content-Length", b"Content-Length-X"):
        yield ok(f"name {name!r}", whole(1, name + b": 0") + whole(2), 1, 2)


def _request_lines() -> Iterator[Payload]:
    """Request lines that end, or begin, elsewhere for another parser (HTTP-H4, H5, H6)."""
    size = length(len(body(HIDDEN)))
    for line in (
        b"POST  /mcp HTTP/1.1", b"POST\t/mcp\tHTTP/1.1", b" POST /mcp HTTP/1.1",
        b"POST /mcp HTTP/1.1 ", b"POST /mcp HTTP/1.1 HTTP/1.1", b"POST /mcp", b"POST /mcp HTTP/0.9",
        b"POST /mcp HTTP/1.2", b"POST /mcp HTTP/2.0", b"POST /mcp http/1.1",
        b"POST /mcp HTTP/1.10", b"POST /mcp HTTP/1,1", b"POST /mcp HTTP/1.1\r",
        b"POST /mcp\0 HTTP/1.1", b"POST /mcp\x0b HTTP/1.1", b"POST /mcp#x HTTP/1.1",
        b"POST mcp HTTP/1.1", b"POST http:///mcp HTTP/1.1", b"POST * HTTP/1.1",
        b"GPOST /mcp HTTP/1.1", b"post /mcp HTTP/1.1", b"PO\0ST /mcp HTTP/1.1",
        b"PRI * HTTP/2.0", b"CONNECT 127.0.0.1:80 HTTP/1.1",
    ):
        yield Payload(f"line {line!r}", post(size, content=body(HIDDEN), line=line))
    for target in (b"//127.0.0.1/mcp", b"/mcp%0d%0aX:%20x", b"/mcp%20HTTP/1.1", b"/./mcp"):
        line = b"POST %s HTTP/1.1" % target
        yield ok(f"target {target!r}", post(size, content=body(HIDDEN), line=line) + whole(2), 2)
    for host in (b"Host: 127.0.0.1", b"Host: evil.example.com", b"host:localhost"):
        yield Payload(f"second {host!r}", post(size, host, content=body(HIDDEN)))


def _bodies_of_others() -> Iterator[Payload]:
    """Bodies where some parsers expect none: they are read, and are no requests (HTTP-H21)."""
    size = length(len(_HIDDEN))
    for method in (b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"DELETE", b"PUT"):
        for path in (b"/health", b"/nowhere"):
            line = b"%s %s HTTP/1.1" % (method, path)
            name = line.decode()
            yield ok(f"length: {name}", post(size, content=_HIDDEN + whole(2), line=line), 2)
            content = chunks(_HIDDEN) + whole(2)
            yield ok(f"chunked: {name}", post(CHUNKED, content=content, line=line), 2)
    yield Payload("coded", post(size, b"Content-Encoding: gzip", content=_HIDDEN))


def _connections() -> Iterator[Payload]:
    """What the Connection field and its like may and may not do (HTTP-H18 to H20, F1)."""
    for name in (b"Content-Length", b"Mcp-Session-Id", b"Content-Type", b"Host", b"Accept"):
        nominated = whole(HIDDEN, b"Connection: close, " + name)
        yield Payload(f"nominated {name!r}", nominated)
    yield ok("nominated chunked", post(
        CHUNKED, b"Connection: Transfer-Encoding", content=chunks(body(1)) + whole(2)), 1, 2)
    yield ok("behind a close", whole(1, b"Connection: close") + _HIDDEN, 1)
    yield ok("behind a close of another", whole(1, b"Connection: x, CLOSE") + _HIDDEN, 1)
    old = whole(1, b"Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    yield ok("behind an old client", old + _HIDDEN, 1)
    yield ok("upgrade", whole(1, b"Connection: Upgrade", b"Upgrade: h2c") + whole(2), 1, 2)
    upgraded = whole(1, b"Connection: Upgrade", b"Upgrade: h2c")
    yield Payload("upgraded", upgraded + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _HIDDEN, (1,))
    yield ok("body without waiting", whole(1, b"Expect: 100-continue") + whole(2), 1, 2)
    yield Payload("another expectation", whole(1, b"Expect: 100-continue, x") + _HIDDEN)
    yield ok("pipelined", whole(1) + whole(2) + whole(3), 1, 2, 3)
