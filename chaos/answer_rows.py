"""Answers of servers that are no good answers: RELIABILITY 6.3, N10, N11, N14 and N20."""

from __future__ import annotations

import gzip
import socket

from chaos.footing import rss_bytes
from chaos.http_rows import BROKEN, NO_HTTP
from chaos.ledger import ANSWERED
from chaos.scorecard import plays
from chaos.servers import NO_BREAKERS, http_upstream
from chaos.stage import Stage

MEGABYTE = 1 << 20
_HEAD = "HTTP/1.1 200 OK\r\n"
_JSON = "Content-Type: application/json\r\n"


def raw(text: str) -> str:
    """A step of the scripted server that sends this, each character a byte."""
    return "raw " + text.encode("unicode_escape").decode()


NOT_HTTP = (
    "\0\1\2 this is not HTTP\r\n\r\n",
    f"{_HEAD}X: {'x' * 40_000}\r\n\r\n",
    _HEAD + "X: x\r\n" * 200 + "\r\n",
    f"{_HEAD}Transfer-Encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n",
    f"{_HEAD}Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{{}}\r\n",
    f"{_HEAD}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}} ",
    f"{_HEAD}X: a\r\n b\r\nContent-Length: 2\r\n\r\n{{}}",
    "HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
    f"{_HEAD}X: a\0b\r\nContent-Length: 2\r\n\r\n{{}}",
    "HTTP/1.1 100 Continue\r\n\r\n" * 20,
)


@plays("N10", "what is no HTTP, in ten ways, and an answer of 17 MB")
def no_http(stage: Stage) -> None:
    """502, on connections that are not used again; memory is bounded."""
    stage.serve(http_upstream(stage.http_server().url, after=NO_BREAKERS))
    session = stage.session()
    before = rss_bytes(stage.proxy.pid)
    for text in stage.chance.sample(NOT_HTTP, len(NOT_HTTP)):
        stage.ends(stage.call(session, "t", do=[raw(text)]), NO_HTTP, "unknown")
        stage.ends(stage.call(session), {ANSWERED})
    stage.ends(stage.call(session, "t", do=["large 17000000", "json"]), NO_HTTP, "unknown")
    stage.figures["rss grew MB"] = round((rss_bytes(stage.proxy.pid) - before) / MEGABYTE)
    stage.recovered(0.5, session)


@plays("N11", "another answer behind the answer, at once or late, under load of others")
def extra_bytes(stage: Stage) -> None:
    """They answer nobody's call."""
    stage.serve(http_upstream(stage.http_server().url))
    session = stage.session()
    load = stage.load()
    for n in range(30):
        steps = [["json", "extra"], ["chunked", "extra"], ["json", "pause 0.01", "extra"]][n % 3]
        stage.ends(stage.call(session, "t", do=steps), {ANSWERED, *NO_HTTP, *BROKEN}, "unknown")
    load.stop()
    ended = {row.ended for row in load.rows}
    stage.require(ended <= {ANSWERED, *NO_HTTP, *BROKEN}, f"load ended with {ended}")
    stage.recovered(1.0, session)


@plays("N14", "301, 302, 307, 308 to another server, to a file, and to itself")
def redirects(stage: Stage) -> None:
    """Not followed: nobody else gets the credentials."""
    server = stage.http_server()
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0.2)
        stage.serve(http_upstream(server.url))
        session = stage.session()
        other = "http://127.0.0.1:{}/mcp".format(elsewhere.getsockname()[1])
        for status in (301, 302, 307, 308):
            for target in (other, "file:///etc/passwd", server.url):
                row = stage.call(session, "t", do=[f"{status} Location: {target}"])
                stage.ends(row, NO_HTTP)
        try:
            elsewhere.accept()
            stage.require(False, "a redirect was followed")
        except TimeoutError:
            pass
    stage.recovered(0.5, session)


@plays("N20", "a gzip bomb: 10 MB in 10 kB, ten times")
def bomb(stage: Stage) -> None:
    """Not asked for, not decoded, not passed on."""
    stage.serve(http_upstream(stage.http_server().url, after=NO_BREAKERS))
    session = stage.session()
    bomb = gzip.compress(b" " * 10_000_000).decode("latin-1")
    head = f"{_HEAD}{_JSON}Content-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n"
    for _ in range(10):
        stage.ends(stage.call(session, "t", do=[raw(head + bomb)]), NO_HTTP, "unknown")
    stage.recovered(0.5, session)
