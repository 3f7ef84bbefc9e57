"""What has ended is freed by counting references: the collector of cycles finds nothing.

RELIABILITY 6.1, O2; fault P22. Between two full collections garbage would lie about, with all that
was received. Each kind of life is played on one real proxy, whose collector does not run; when that
has come to rest, what the collector would have found is asked for.
"""

from __future__ import annotations

import ast
import re
import signal
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

from chaos.fault_proxy import FaultProxy
from chaos.footing import Footing, leaks, settled
from chaos.relay import RESET, Relay
from chaos.servers import stdio_upstream
from tests.certificates import LOCAL_NAMES, Authority
from tests.scripted_streams import Resumption, chunk, event
from tests.sim.virtual import call, request
from tests.wire.http_client import Wire
from tests.wire.legacy_listener import Listener
from tests.wire.proxy_process import ProxyProcess, running
from tests.wire.session_client import Answer, Session, SessionClient
from tests.wire.socket_upstream import OldUpstream, SocketUpstream
from tests.wire.waiting import eventually

TIMES = 3
LARGE = 3_000_000
SETTINGS = {
    "proxy_actors.policy.stdio_shared_children.STEADY_S": 0.0,
    "proxy_actors.policy.exits.ONE_EXIT_S": 1000.0,
}
# Two chunks at once: an event, and what is no chunk.
EVENT = event({"jsonrpc": "2.0", "method": "notifications/any"})
BROKEN = (chunk(EVENT) + b"what is this\r\n").decode().encode("unicode_escape").decode()
_FOUND = re.compile(r"garbage_found kinds=(\{.*\})\n")

T = TypeVar("T")
Arguments = dict[str, Any]  # Any: JSON


class Scene:
    """A proxy before servers of each kind, and what it has when nobody is there.

    Attributes:
        server: the one over HTTP.
        relay: what is between the two.
    """

    server: SocketUpstream
    relay: Relay

    def __init__(self, proxy: ProxyProcess) -> None:
        self.proxy = proxy
        self.before: Footing = settled(proxy, 0.5)
        self.garbage()  # what has come of the start
        self._serial = 0

    def session(self, upstream: str) -> Session:
        """Open one, of a client of its own, once the server is there (again)."""
        client, path = SessionClient(self.proxy.address, {}), f"/mcp/{upstream}"

        def opened() -> Answer | None:
            answer = client.begin_session(path=path).answer()
            return answer if answer.status == 200 else None

        return client.adopt(found(opened), path)

    def call(self, session: Session, *steps: str) -> int:
        """Call the tool that does what it is told; return the status."""
        return session.call("t", **self.arguments(*steps)).status

    def arguments(self, *steps: str) -> Arguments:
        """What tells it so, once."""
        return {"n": self.serial(), "do": steps}

    def serial(self) -> int:
        """A number for one call."""
        self._serial += 1
        return self._serial

    def check(self) -> None:
        """See that all is over, and that nothing of it is left."""
        assert leaks(self.proxy, self.before) == []
        assert self.garbage() == {}

    def garbage(self) -> dict[str, int]:
        """What the collector would have freed, by kind."""
        since = self.proxy.logged_bytes
        self.proxy.signal(signal.SIGUSR1)
        told = found(lambda: _FOUND.search(self.proxy.log(since)))
        kinds: dict[str, int] = ast.literal_eval(told[1])
        return kinds


def found(look: Callable[[], T | None]) -> T:
    """Look until there is something."""
    said = eventually(look)
    assert said is not None
    return said


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("garbage")
    with ExitStack() as stack:
        server = stack.enter_context(SocketUpstream(slow=True))
        streams = stack.enter_context(SocketUpstream(slow=True, resumption=Resumption()))
        old = stack.enter_context(OldUpstream())
        relay = stack.enter_context(FaultProxy(("127.0.0.1", server.port), 1))
        (directory / "journal").touch()
        tables = {
            # Which has two addresses.
            "http": f'url = "http://localhost:{relay.address[1]}/mcp"\ntransport = "streamable"',
            "renewed": f'url = "{server.url}"\ntransport = "streamable"\n'
            'on-session-lost = "reinitialize"',
            "streams": f'url = "{streams.url}"\ntransport = "streamable"',
            "old": f'url = "{old.url}"\ntransport = "sse"',
            "auto": f'url = "{old.url}"\ntransport = "auto"',
            "child": stdio_upstream("session", directory / "journal"),
            "shared": stdio_upstream("shared", directory / "journal"),
        }
        text = "[streams]\nage-s-max = 1\n"
        for name, table in tables.items():
            text += f"[upstreams.{name}]\nbreaker = {{ enabled = false }}\n{table}\n"
            if "url" in table:
                text += "pool = { idle-timeout-s = 0.2 }\n"
                text += "reconnect = { base-s = 0.02, cap-s = 0.05 }\n"
        (directory / "config.toml").write_text(text)
        config = str(directory / "config.toml")
        proxy = stack.enter_context(
            running("--config", config, settings=SETTINGS, module="chaos.garbage")
        )
        scene = Scene(proxy)
        scene.server, scene.relay = server, relay
        yield scene


def calls(scene: Scene) -> None:
    """With answers of every form."""
    session = scene.session("http")
    for steps in (
        ["json"], ["chunked 9"], ["until-close"], [f"large {LARGE}", "json"],
        ["error 400 -32602"], ["error 500 -32603"], ["tool-error", "json"],
        ["sse", "answer", "end"], ["sse", "note", "answer", "end"], ["sse", "note", "answer"],
    ):  # fmt: skip
        assert scene.call(session, *steps) == 200, steps
    session.proxy.end_sessions()


def failures(scene: Scene) -> None:
    """Of a server that breaks the protocol, or the connection, at every point."""
    session = scene.session("http")
    for steps in (
        ["reset"], ["head", "half", "reset"], ["garbage"], ["no-json"], ["wrong-id"],
        ["raw HTTP/1.1 503 No\r\n\r\n", "close"],
    ):  # fmt: skip
        assert scene.call(session, *steps) >= 400, steps
    for steps in ["reset"], ["half-event", "close"], ["raw what is this", "close"]:
        assert scene.call(session, "sse", "note", *steps) == 200, steps
    status = scene.call(session, "sse", "pause 0.05", f"raw {BROKEN}", "close")
    assert status in (200, 502)  # the latter where all of it has come at once
    session.proxy.end_sessions()


def retries(scene: Scene) -> None:
    """Of what found its connection closed, and of what could not be sent."""
    session, ended = scene.session("http"), scene.session("http")
    for tries in 1, 3:
        assert session.send("ping").answer().status == 200
        scene.server.server.firsts["tools/list"] = [["reset"]] * tries
        assert session.send("tools/list").answer().status == 200
    scene.relay.refuse()
    scene.relay.cut(RESET)
    assert scene.call(session, "json") == 502
    assert session.send("tools/list").answer().status == 502
    assert session.proxy.begin_session(path=session.path).answer().status == 502
    ended.proxy.end_sessions()
    scene.relay.accept()
    session.proxy.end_sessions()


def refusals(scene: Scene) -> None:
    """Of requests, sessions, and a session that its server has lost."""
    session = scene.session("http")
    for data in (b"nonsense\r\n\r\n", b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        with scene.proxy.wire() as wire:
            wire.ask(data)
    assert session.post(b"{nope").answer().status == 400
    assert Session(session.proxy, "unknown", session.path).call("t").status == 404
    scene.call(session, "lose", "json")
    assert scene.call(session, "json") == 404
    session.proxy.end_sessions()


def renewals(scene: Scene) -> None:
    """Of sessions that the server has lost, by what finds out."""
    session = scene.session("renewed")
    for method in "tools/list", "tools/call", "notifications/any":
        scene.call(session, "lose", "json")
        id = None if method.startswith("notifications") else 1
        answer = session.send(method, id=id).answer()
        assert answer.status == (200 if method == "tools/list" else 502)
    session.proxy.end_sessions()


def departures(scene: Scene) -> None:
    """Of clients, from whatever they have asked for."""
    for upstream in ("http", "streams", "child", "shared"):
        session = scene.session(upstream)
        waits = ["pause 0.05", "json"] if upstream in ("http", "streams") else []
        session.begin("echo", **scene.arguments(*waits)).leave()
        if upstream != "streams":
            stream = session.listen()
            stream.head()
            stream.leave()
        session.proxy.end_sessions()


def returns(scene: Scene) -> None:
    """To a stream: of the proxy to its server's, and of a client to the proxy's."""
    session = scene.session("streams")
    assert scene.call(session, "sse", "leave reset", "note", "answer", "end") == 200
    steps = ["sse", "note", "leave reset", "note", "leave close", "note", "answer", "end"]
    pending = session.begin("t", **scene.arguments(*steps))
    id = ""
    for line in iter(pending.head().readline, b""):
        if line.startswith(b"id:"):
            id = line[3:].strip().decode()
        elif line.startswith(b"data: {"):
            break
    pending.leave()
    fields = {"Mcp-Session-Id": session.id, "Last-Event-ID": id}
    again = session.proxy.send("GET", session.path, None, fields).answer()
    assert "result" in again.message
    session.proxy.end_sessions()


def processes(scene: Scene) -> None:
    """Of a session, and the one of all: they end, are killed, and say what is nothing."""
    for upstream in ("child", "shared"):
        session = scene.session(upstream)
        assert session.call("echo").status == 200
        assert session.call("say", text="nonsense\n").status == 200
        progress = '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1,'
        params = {"name": "say", "arguments": {"text": progress + '"progressToken":<token>}}\n'},
                  "_meta": {"progressToken": 1}}  # fmt: skip
        assert session.send("tools/call", params).answer().status == 200
        session.proxy.end_sessions()
        session = scene.session(upstream)
        assert session.call("die").status == 502
        session.proxy.end_sessions()


def old_clients(scene: Scene) -> None:
    """Of HTTP+SSE: with calls that are answered, that fail, and that nobody can cancel."""
    with scene.proxy.wire() as wire:
        listener = Listener(scene.proxy, wire)
        listener.initialize()
        for steps in ["json"], ["sse", "note", "answer", "end"], ["garbage"]:
            n = scene.serial()
            assert listener.post(call(n, *steps)).status == 202
            listener.until(lambda: any(x.get("id") == n for x in listener.messages))
        n = scene.serial()
        assert listener.post(call(n, "pause 0.2", "json")).status == 202
        scene.server.wait_for(n)
        scene.server.server.lose_sessions()


def old_servers(scene: Scene) -> None:
    """Of HTTP+SSE: calls, and messages that are not accepted."""
    for upstream in "old", "auto":
        session = scene.session(upstream)
        for post, status in ("202", 200), ("202", 200), ("500", 502), ("reset", 502):
            arguments = {**scene.arguments("note", "answer"), "post": [post]}
            assert session.call("t", **arguments).status == status
        session.proxy.end_sessions()


LIVES: list[Callable[[Scene], None]] = [
    calls, failures, retries, refusals, renewals, departures, returns, processes, old_clients,
    old_servers,
]  # fmt: skip


@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.__name__)
def test_nothing_waits_for_the_collector(scene: Scene, life: Callable[[Scene], None]) -> None:
    for _ in range(TIMES):
        life(scene)
    scene.check()


def test_nothing_of_tls_waits_for_the_collector(tmp_path: Path) -> None:
    """Neither of connections that serve, nor of those whose handshake fails."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue(*LOCAL_NAMES)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(authority.path))
    config = tmp_path / "config.toml"
    with SocketUpstream(tls=served) as upstream:
        config.write_text(f"""
            [tls]
            certificate = "{certificate}"
            key = "{key}"
            [upstreams.web]
            url = "{upstream.url}"
            transport = "streamable"
            tls = {{ ca = "{authority.path}" }}
            pool = {{ idle-timeout-s = 0.2 }}
        """)
        with running("--config", str(config), tls=trusting, module="chaos.garbage") as proxy:
            scene = Scene(proxy)
            for _ in range(TIMES):
                session = proxy.session_id()
                with proxy.wire() as wire:
                    for steps in ["json"], ["sse", "note", "answer", "end"], ["reset"]:
                        wire.ask(request(call(1, *steps), session=session))
                    wire.ask(request(None, "DELETE", session=session), "DELETE")
                with suppress(ssl.SSLError), Wire(proxy.address, tls=ssl.create_default_context()):
                    pass
            scene.check()
