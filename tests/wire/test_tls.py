"""TLS on both sides of a real proxy: who is who, who may, what breaks, and what a cut looks like.

DESIGN 5; RELIABILITY N18. The peers are Python's own blocking TLS, with certificates made here.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from proxy_actors.gateway import http_forward
from proxy_actors.gateway.wiring import ConnectionLimits
from proxy_actors.policy.pool_limits import PoolLimits
from proxy_actors.world.base import TlsClient, TlsServer
from tests.certificates import LOCAL_NAMES, Authority
from tests.contracts.test_gevent_world import descriptors
from tests.sim.virtual import Answer, call, initialize, request
from tests.wire.http_client import Wire
from tests.wire.plane_thread import PlaneThread
from tests.wire.proxy_process import running
from tests.wire.socket_upstream import SocketUpstream
from tests.wire.waiting import PATIENCE_S, eventually

SOON_S = 0.1
HEALTH = request(None, "GET", path="/health")
READY = request(None, "GET", path="/ready")
STALLED = 50
CALLS = 200
LARGE = 3_000_000


@dataclass
class Files:
    """An authority, and a server's and a client's certificate of it."""

    authority: Authority
    certificate: Path
    key: Path
    client_certificate: Path
    client_key: Path

    def server(self, mutual: bool = False) -> ssl.SSLContext:
        """How a peer serves."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if mutual:
            context.load_verify_locations(self.authority.path)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(self, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
        """How a client connects."""
        context = ssl.create_default_context(cafile=str(self.authority.path))
        if certificate is not None:
            context.load_cert_chain(certificate, key)
        return context

    @property
    def listener(self) -> TlsServer:
        return TlsServer(str(self.certificate), str(self.key))

    @property
    def upstream(self) -> TlsClient:
        return TlsClient(str(self.authority.path))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    directory = tmp_path_factory.mktemp("certificates")
    authority = Authority(directory)
    return Files(authority, *authority.issue(*LOCAL_NAMES), *authority.issue("client"))


@pytest.fixture
def upstream() -> Iterator[SocketUpstream]:
    with SocketUpstream() as upstream:
        yield upstream


@pytest.fixture
def secure(files: Files) -> Iterator[SocketUpstream]:
    with SocketUpstream(tls=files.server()) as upstream:
        yield upstream


def write(directory: Path, text: str) -> Path:
    path = directory / "config.toml"
    path.write_text(text)
    return path


def listener_of(files: Files, client_ca: Path | str = "") -> str:
    return f"""
[tls]
certificate = "{files.certificate}"
key = "{files.key}"
client-ca = "{client_ca}"
"""


def session_of(answer: Answer) -> str:
    assert answer.status == 200, answer
    return (answer.field(b"mcp-session-id") or b"").decode()


def test_calls_go_from_tls_to_tls_and_both_sides_know_each_other(
    tmp_path: Path, files: Files
) -> None:
    """Client certificates both ways; every side verifies the other, and says farewell."""
    with SocketUpstream(tls=files.server(mutual=True)) as upstream:
        file = write(tmp_path, f"""
            [upstreams.web]
            url = "{upstream.url}"
            [upstreams.web.tls]
            ca = "{files.authority.path}"
            certificate = "{files.client_certificate}"
            key = "{files.client_key}"
            {listener_of(files, files.authority.path)}
        """)
        mutual = files.client(files.client_certificate, files.client_key)
        with running("--config", str(file), tls=mutual) as proxy:
            with proxy.wire() as wire:
                assert isinstance(wire.socket, ssl.SSLSocket)
                assert wire.socket.version() == "TLSv1.3"
                session = session_of(wire.ask(request(initialize())))
                for n in range(1, 6):
                    answer = wire.ask(request(call(n), session=session))
                    assert answer.message["result"]["content"][0]["text"] == f"n={n}"
                last = request(call(6), session=session, fields={"Connection": "close"})
                assert wire.ask(last).status == 200
                assert wire.has_ended  # which would raise without a close_notify
            proxy.process.terminate()
            assert proxy.wait() == 0
            announced = proxy.process.stdout
            assert announced is not None
            assert f"https://127.0.0.1:{proxy.address[1]}/mcp" in announced.read()
        for seen in upstream.server.seen:
            assert seen.field("x-forwarded-proto") == "https"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_must_show_a_certificate_of_the_right_authority(
    tmp_path: Path, files: Files, upstream: SocketUpstream, version: ssl.TLSVersion
) -> None:
    """It is told by an alert, and gets nothing else."""
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    stranger = files.client(*Authority(strangers, "stranger").issue("client"))
    file = write(tmp_path, f"""
        [upstreams.web]
        url = "{upstream.url}"
        {listener_of(files, files.authority.path)}
    """)
    good = files.client(files.client_certificate, files.client_key)
    with running("--config", str(file), tls=good) as proxy:
        for bad, alert in ((files.client(), "alert"), (stranger, "unknown ca")):
            bad.maximum_version = version
            with pytest.raises(ssl.SSLError, match=alert.replace(" ", "[ _]")):
                with Wire(proxy.address, tls=bad) as wire:
                    wire.send(HEALTH)
                    wire.answer("GET")
        good.maximum_version = version
        assert proxy.page("/health") == 200


def test_older_versions_are_refused_and_http_1_1_is_agreed(
    files: Files, upstream: SocketUpstream
) -> None:
    old, new = files.client(), files.client()
    with pytest.warns(DeprecationWarning):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    new.set_alpn_protocols(["h2", "http/1.1"])
    with PlaneThread(upstream.url, tls=files.listener, client_tls=new) as plane:
        with pytest.raises(ssl.SSLError):
            Wire(plane.address, tls=old)
        with plane.wire() as wire:
            assert isinstance(wire.socket, ssl.SSLSocket)
            assert wire.socket.selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize("sent", [HEALTH, request(b"x" * LARGE)], ids=["page", "upload"])
def test_plain_http_is_told_to_use_https(
    files: Files, upstream: SocketUpstream, sent: bytes
) -> None:
    """RFC 9112 section 9.6: what is still being sent does not turn the answer into a reset."""
    with PlaneThread(upstream.url, tls=files.listener) as plane, plane.wire() as wire:
        answer = wire.ask(sent, "GET")
        assert (answer.status, answer.keep_alive) == (400, False)
        assert answer.body == b"Use https:// for this address\n"
        assert wire.has_ended


def test_stalled_handshakes_disturb_nobody_and_count_as_connections(
    files: Files, secure: SocketUpstream
) -> None:
    with PlaneThread(
        secure.url, tls=files.listener, client_tls=files.client(), upstream_tls=files.upstream
    ) as plane:
        stalled = [Wire(plane.address) for _ in range(STALLED)]
        for wire in stalled[::2]:
            wire.send(b"\x16\x03\x01\x02\x00\x01")  # a ClientHello, begun
        eventually(lambda: len(plane.plane.wiring.clients) == STALLED)
        with plane.wire() as good:
            session = session_of(good.ask(request(initialize())))
            for n in range(CALLS):
                assert good.ask(request(call(n), session=session)).status == 200
            assert len(plane.plane.wiring.clients) == STALLED + 1
        for wire in stalled:
            wire.close()
        plane.rest()
    assert sum(secure.server.executions.values()) == CALLS + 1  # with the initialize


def test_stalled_handshakes_are_ended_at_their_deadline(
    files: Files, upstream: SocketUpstream
) -> None:
    limits = ConnectionLimits(handshake_s_max=SOON_S)
    with PlaneThread(upstream.url, limits, tls=files.listener) as plane:
        before = descriptors()
        stalled = [Wire(plane.address) for _ in range(STALLED)]
        for wire in stalled[::2]:
            wire.send(b"\x16\x03\x01\x02\x00\x01")
        for wire in stalled:
            assert wire.has_ended
            wire.close()
        plane.rest()
        eventually(lambda: descriptors() <= before)


def test_drain_does_not_wait_for_handshakes(
    tmp_path: Path, files: Files, upstream: SocketUpstream
) -> None:
    file = write(tmp_path, f"""
        [upstreams.web]
        url = "{upstream.url}"
        {listener_of(files)}
    """)
    with running("--config", str(file), tls=files.client()) as proxy:
        with Wire(proxy.address) as stalled:
            assert proxy.page("/health") == 200
            proxy.process.terminate()
            assert proxy.wait() == 0
            assert stalled.has_ended


def test_connection_too_many_is_told_so_in_tls(files: Files, upstream: SocketUpstream) -> None:
    """C12."""
    limits = ConnectionLimits(connections_max=1)
    with PlaneThread(
        upstream.url, limits, tls=files.listener, client_tls=files.client()
    ) as plane, plane.wire() as first:
        assert first.ask(HEALTH, "GET").status == 200
        with plane.wire() as second:
            answer = second.answer()
            assert (answer.status, answer.keep_alive) == (503, False)
            assert second.has_ended


def test_large_bodies_pass_whole_in_both_directions(files: Files, secure: SocketUpstream) -> None:
    """Thousands of records, none of which stays behind in a session."""
    with PlaneThread(
        secure.url, tls=files.listener, client_tls=files.client(), upstream_tls=files.upstream
    ) as plane, plane.wire() as wire:
        session = session_of(wire.ask(request(initialize())))
        for n, steps in enumerate((("json",), ("chunked 100000",), ("chunked 997",))):
            message = call(n, f"large {LARGE}", *steps)
            message["params"]["arguments"]["ballast"] = "x" * LARGE
            answer = wire.ask(request(message, session=session))
            assert answer.complete
            assert len(answer.message["result"]["content"][0]["text"]) == LARGE
            seen = secure.server.seen[-1].body["params"]["arguments"]["ballast"]
            assert seen == message["params"]["arguments"]["ballast"]


@pytest.mark.parametrize(
    ("steps", "complete"),
    [
        (("until-close",), True),
        (("raw HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\n"
          "Connection: close\\r\\n\\r\\n{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}", "vanish"),
         False),
        (("json", "vanish"), True),
        (("head", "half", "vanish"), False),
        (("head", "half", "close"), False),
        (("raw HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\n"
          "Transfer-Encoding: chunked\\r\\n\\r\\n2\\r\\n{}\\r\\n", "vanish"), False),
    ],
    ids=["farewell", "ragged", "length and ragged", "half and ragged", "half and farewell",
         "chunks and ragged"],
)
def test_answer_that_was_cut_off_is_never_taken_for_whole(
    files: Files, secure: SocketUpstream, steps: tuple[str, ...], complete: bool
) -> None:
    """HTTP-F7: where the end of the connection ends the body, only close_notify ends it."""
    with PlaneThread(secure.url, upstream_tls=files.upstream) as plane, plane.wire() as wire:
        session = session_of(wire.ask(request(initialize())))
        answer = wire.ask(request(call(7, *steps), session=session))
        if complete:
            assert (answer.status, answer.message["id"]) == (200, 7)
        else:
            assert (answer.status, answer.error["data"]["reason"]) == (502, "upstream-closed")
            assert answer.error["data"]["executed"] == "unknown"


def test_event_stream_that_was_cut_off_is_visibly_so(files: Files, secure: SocketUpstream) -> None:
    """The call gets its one answer all the same: an error that says what is known."""
    with PlaneThread(secure.url, upstream_tls=files.upstream) as plane, plane.wire() as wire:
        session = session_of(wire.ask(request(initialize())))
        answer = wire.ask(request(call(7, "sse", "note", "vanish"), session=session))
        note, failure = answer.messages
        assert note["method"] == "notifications/progress"
        assert failure["error"]["data"]["reason"] == "upstream-closed"


def test_idle_connection_that_was_sent_tickets_is_used(
    monkeypatch: pytest.MonkeyPatch, files: Files, secure: SocketUpstream
) -> None:
    """TLS 1.3 makes each fresh connection readable: two tickets follow the handshake."""
    monkeypatch.setattr(http_forward, "IDLE_S_MAX", PATIENCE_S)
    pool = PoolLimits(idle_timeout_s=PATIENCE_S)
    with PlaneThread(secure.url, pool=pool, upstream_tls=files.upstream) as plane:
        with plane.wire() as wire:
            eventually(lambda: wire.ask(READY, "GET").status == 200)
            for _ in range(3):
                assert wire.ask(request(initialize())).status == 200
        plane.rest()
        with plane.wire() as wire:
            assert wire.ask(request(initialize())).status == 200
    assert secure.accepted == 1


FAULTS = {
    "certificate-of-another-name": ("name", "hostname mismatch|IP address mismatch"),
    "certificate-expired": ("expired", "certificate has expired"),
    "certificate-of-an-unknown-authority": ("stranger", "self-signed certificate in"),
    "tls-handshake-failed": ("plain", "wrong version number"),
    "connection-refused": ("nobody", "Connection refused"),
    "timeout": ("silent", "in time"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_upstream_that_cannot_be_trusted_is_told_apart(
    tmp_path: Path, files: Files, fault: str
) -> None:
    """In the log and at /ready; the client learns that nothing was executed, and no detail."""
    kind, logged = FAULTS[fault]
    authority = files.authority
    if kind == "stranger":
        authority = Authority(tmp_path, "stranger")
    names = ("other.test",) if kind == "name" else LOCAL_NAMES
    certificate = authority.issue(*names, file=kind, days=-1 if kind == "expired" else 1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    late = {"proxy_actors.actors.connection_pool.CONNECT_S_MAX": SOON_S}
    with served(kind, context) as port, running(
        f"https://127.0.0.1:{port}/mcp", settings=late if kind == "silent" else {},
        env={"SSL_CERT_FILE": str(files.authority.path)},
    ) as proxy:
        ready = eventually(lambda: cause_of(proxy.get("/ready").message))
        assert ready == {"default": fault}
        answer = proxy.begin_session().answer()
        assert answer.status == 502
        error = answer.message["error"]
        assert error["message"] == "the upstream could not be connected to"
        assert (error["data"]["reason"], error["data"]["executed"]) == ("connect-failed", "no")
        assert any(text in proxy.log() for text in logged.split("|"))


@contextmanager
def served(kind: str, context: ssl.SSLContext) -> Iterator[int]:
    """Have a port at which there is something of a kind."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        if kind != "nobody":  # whose port stays taken, or another process could listen there
            listening.listen()
        match kind:
            case "nobody" | "silent":
                yield port
            case "plain":
                with refuser(listening):
                    yield port
            case _:
                with SocketUpstream(tls=context) as upstream:
                    yield upstream.port


@contextmanager
def refuser(listening: socket.socket) -> Iterator[None]:
    """Have everybody who connects refused in plain HTTP."""

    def refuse() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    thread = threading.Thread(target=refuse)
    thread.start()
    yield
    listening.shutdown(socket.SHUT_RDWR)
    thread.join(PATIENCE_S)


def cause_of(page: Any) -> dict[str, str] | None:
    """Return what /ready says of upstreams that are not; None while it says nothing."""
    causes: dict[str, str] | None = page.get("causes")
    return causes


@pytest.mark.parametrize("shown", ["none", "stranger"])
def test_upstream_that_wants_another_certificate_is_told_once(
    tmp_path: Path, files: Files, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    """TLS 1.3 refuses a client after the handshake: the call fails, and the log says why."""
    stranger = Authority(tmp_path, "stranger").issue("client", file="stranger-client")
    tls = TlsClient(str(files.authority.path))
    if shown == "stranger":
        tls = TlsClient(tls.ca, *map(str, stranger))
    with SocketUpstream(tls=files.server(mutual=True)) as upstream:
        with PlaneThread(upstream.url, upstream_tls=tls) as plane, plane.wire() as wire:
            for _ in range(2):
                answer = wire.ask(request(initialize()))
                assert answer.status == 502
                assert answer.error["data"]["reason"] == "upstream-closed"
        assert upstream.server.seen == []
    (line,) = [x.getMessage() for x in caplog.records if "tls_refused" in x.getMessage()]
    alert = "unknown ca" if shown == "stranger" else "certificate required"
    assert line.startswith(f"tls_refused host=127.0.0.1 port={upstream.port} error=")
    assert line.endswith(alert)


def test_files_of_the_command_line_are_used(files: Files, upstream: SocketUpstream) -> None:
    words = ["--tls-certificate", str(files.certificate), "--tls-key", str(files.key)]
    with running(*words, upstream.url, tls=files.client()) as proxy:
        assert proxy.page("/health") == 200


def test_bad_file_of_the_command_line_is_told(files: Files, upstream: SocketUpstream) -> None:
    words = ["--tls-certificate", str(files.certificate), "--tls-key", "/nowhere/key.pem"]
    command = [sys.executable, "-m", "proxy_actors", "run", *words, upstream.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout) == (78, "")
    told = "proxy-actors: key '/nowhere/key.pem': No such file or directory\n"
    assert done.stderr == told


def test_bad_files_are_told_and_nothing_is_started(tmp_path: Path, files: Files) -> None:
    """FLT-P: status 78, which keeps a service manager from trying again; no traceback."""
    _, other = files.authority.issue("other")
    text = f"""
        [upstreams.web]
        url = "http://127.0.0.1:1/mcp"
        [tls]
        certificate = "{files.certificate}"
        key = "{other}"
    """
    file = write(tmp_path, text)
    for words in (["check", str(file)], ["run", "--config", str(file)]):
        command = [sys.executable, "-m", "proxy_actors", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 78
        told = done.stdout + done.stderr
        assert f"{file}:6:15: error: this is not the key of the certificate" in told
        assert "Traceback" not in told
