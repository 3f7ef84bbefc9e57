"""A real proxy that serves what files say: several upstreams, keys, limits; and tells no secret.

THR-T5, T9, T12.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from signal import SIGUSR2

import pytest

from tests.sim.virtual import Answer, call, initialize, request
from tests.wire.proxy_process import ProxyProcess, running
from tests.wire.socket_upstream import SocketUpstream
from tests.wire.waiting import PATIENCE_S, eventually

DEMO = json.dumps([sys.executable, "-m", "proxy_actors.demo"])
CANARY = "kanarienvogel"


@pytest.fixture
def upstream() -> Iterator[SocketUpstream]:
    with SocketUpstream() as upstream:
        yield upstream


def new_key(name: str) -> tuple[str, str]:
    """Have a key made; return it, and the lines for the file."""
    command = [sys.executable, "-m", "proxy_actors", "key", "new", "--id", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, _, rows = done.stdout.partition("\n\n")
    return first.split()[1], rows


def open_session(proxy: ProxyProcess, path: str, fields: Mapping[str, str | None]) -> Answer:
    with proxy.wire() as wire:
        return wire.ask(request(initialize(), path=path, fields=dict(fields)))


def server_of(answer: Answer) -> str:
    """Return the name of the server that has answered an initialize."""
    assert answer.status == 200, answer
    name: str = answer.message["result"]["serverInfo"]["name"]
    return name


def test_what_a_file_says_is_served(tmp_path: Path, upstream: SocketUpstream) -> None:
    """Two upstreams at their endpoints, for those who have a key, as often as their tier may."""
    (ann, ann_rows), (bob, bob_rows) = new_key("ann"), new_key("bob")
    (tmp_path / "token").write_text(f"{CANARY}\n")
    file = tmp_path / "config.toml"
    file.write_text(f"""
        state-dir = "{tmp_path}/state"
        default-upstream = "web"
        [upstreams.demo]
        command = {DEMO}
        stdio = "shared"
        [upstreams.web]
        url = "{upstream.url}"
        headers = {{ Authorization = "Bearer ${{file:{tmp_path}/token}}", X-Tenant = "blue" }}
        [auth]
        anonymous = false
        {ann_rows}
        {bob_rows}
        tier = "gold"
        [[rate-limits.rules]]
        name = "calls"
        upstream = "web"
        method = "tools/call"
        rate = 0.001
        burst = 1
        tiers = {{ gold = {{ rate = 0.001, burst = 3 }} }}
    """)
    with running("--config", str(file)) as proxy:
        proxy.wait_ready()
        with proxy.wire() as wire:
            def both_ready() -> bool:
                ready = wire.ask(request(None, "GET", path="/ready"), "GET").message
                return ready["upstreams"] == {"demo": "ready", "web": "ready"}

            eventually(both_ready)
        assert open_session(proxy, "/mcp", {}).status == 401
        assert open_session(proxy, "/mcp", {"X-API-Key": ann + "x"}).status == 401
        assert open_session(proxy, "/mcp/other", {"X-API-Key": ann}).status == 404
        by_bearer = {"Authorization": f"Bearer {ann}", "X_Tenant": "red", "X-Tenant": "red"}
        assert server_of(open_session(proxy, "/mcp/demo", by_bearer)) == "proxy-actors-demo"
        assert server_of(open_session(proxy, "/mcp/web", by_bearer)) == "scripted"
        allowed = [spend(proxy, {"X-API-Key": key}) for key in (ann, bob)]
        assert allowed == [1, 3]
        assert CANARY not in proxy.log() and ann not in proxy.log()
    for seen in upstream.server.seen:
        assert seen.field("authorization") == f"Bearer {CANARY}"
        assert [v for k, v in seen.fields if k in ("x-tenant", "x_tenant")] == ["blue"]
        assert ann not in str(seen) and bob not in str(seen)


def spend(proxy: ProxyProcess, fields: dict[str, str | None]) -> int:
    """Call at /mcp until it is refused; return how many calls were answered."""
    opened = open_session(proxy, "/mcp", fields)
    assert server_of(opened) == "scripted"
    session = (opened.field(b"mcp-session-id") or b"").decode()
    with proxy.wire() as wire:
        for n in range(1, 10):
            answer = wire.ask(request(call(n), session=session, fields=fields))
            if answer.status == 429:
                assert answer.error["data"]["reason"] == "rate-limited"
                assert (answer.field(b"ratelimit") or b"").startswith(b'"calls"')
                return n - 1
            assert answer.status == 200
    raise AssertionError("nothing was refused")


def test_one_connection_may_go_to_several_upstreams(tmp_path: Path) -> None:
    """Each is sent its own fields: neither the target nor a secret of another one."""
    with SocketUpstream() as a, SocketUpstream() as b:
        file = tmp_path / "config.toml"
        file.write_text(f"""
            [upstreams.a]
            url = "{a.url}"
            headers = {{ Authorization = "${{TOKEN:-{CANARY}}}" }}
            [upstreams.b]
            url = "{b.url}?b"
        """)
        with running("--config", str(file)) as proxy, proxy.wire() as wire:
            for name in ("a", "b", "a"):
                assert wire.ask(request(initialize(), path=f"/mcp/{name}")).status == 200
        assert [x.field("authorization") for x in a.server.seen] == [CANARY, CANARY]
        (seen,) = b.server.seen
        assert (seen.target, seen.field("host")) == ("/mcp?b", f"127.0.0.1:{b.port}")
        assert seen.field("authorization") is None


def test_file_of_a_client_is_served(tmp_path: Path, upstream: SocketUpstream) -> None:
    """What is ignored is told once, at the start."""
    program, *arguments = json.loads(DEMO)
    file = tmp_path / "mcp.json"
    file.write_text(json.dumps({"mcpServers": {
        "My Demo": {"command": program, "args": arguments, "timeout": 5},
        "off": {"command": "false", "disabled": True},
        "web": {"type": "http", "url": upstream.url, "headers": {"X-Token": CANARY}},
    }}))
    with running("--mcp-json", str(file)) as proxy:
        assert server_of(open_session(proxy, "/mcp", {})) == "proxy-actors-demo"
        assert server_of(open_session(proxy, "/mcp/my-demo", {})) == "proxy-actors-demo"
        assert server_of(open_session(proxy, "/mcp/web", {})) == "scripted"
        assert open_session(proxy, "/mcp/off", {}).status == 404
        assert proxy.log().count('warning: "timeout" of My Demo is ignored') == 1
        assert "off is disabled, and left out" in proxy.log()
        assert CANARY not in proxy.log()


def test_secrets_of_a_file_are_told_nowhere(tmp_path: Path, upstream: SocketUpstream) -> None:
    """THR-T12: not in the log, not in the tree of actors, not in a failure."""
    file = tmp_path / "config.toml"
    file.write_text(f"""
        [upstreams.web]
        url = "{upstream.url}?key={CANARY}"
        headers = {{ X-Token = "{CANARY}" }}
        [upstreams.demo]
        command = {DEMO.removesuffix("]")}, "{CANARY}"]
        env = {{ X = "{CANARY}" }}
        [upstreams.missing]
        command = ["/nowhere/server", "{CANARY}"]
        env = {{ TOKEN = "{CANARY}" }}
    """)
    with running("--config", str(file), "--log-level", "debug") as proxy:
        proxy.errors.add("spawn_failed")
        assert server_of(open_session(proxy, "/mcp/web", {})) == "scripted"
        assert server_of(open_session(proxy, "/mcp/demo", {})) == "proxy-actors-demo"
        failed = open_session(proxy, "/mcp/missing", {})
        assert failed.status >= 500 and CANARY not in str(failed)
        proxy.signal(SIGUSR2)
        eventually(lambda: " name=server " in proxy.log())
        assert "TOKEN is written in the file" in proxy.log()
        assert CANARY not in proxy.log()


@pytest.mark.parametrize("option", ["--config", "--mcp-json"])
@pytest.mark.parametrize(
    ("text", "told"),
    [("{", "error"), (None, "cannot be read"), ('{"listen": 1}', "error"), ("listen = 1", "error")],
)
def test_bad_file_is_told_and_nothing_is_started(
    tmp_path: Path, option: str, text: str | None, told: str
) -> None:
    """Status 78, which keeps a service manager from trying again."""
    file = tmp_path / "file"
    if text is not None:
        file.write_text(text)
    command = [sys.executable, "-m", "proxy_actors", "run", option, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout) == (78, "")
    assert told in done.stderr and str(file) in done.stderr
    assert "Traceback" not in done.stderr


def test_address_of_the_command_line_goes_before_that_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f'listen = "127.0.0.1:1"\n[upstreams.demo]\ncommand = {DEMO}')
    with running("--config", str(file)) as proxy:
        assert proxy.page("/health") == 200
