"""What must not get out, and what must not get in: THR-T12, T13, T14; MCP-I-3, I-8.

What a server itself writes to stderr, or to stdout without it being a message, is its own: that
goes into the log as it is, but for control characters.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .proxy_process import SCRIPTED, ProxyProcess, running
from .session_client import Session
from .waiting import eventually

LOGGING = """
[loggers]
keys = root
[handlers]
keys = text, json
[formatters]
keys = text, json
[logger_root]
level = DEBUG
handlers = text, json
[handler_text]
class = StreamHandler
args = (sys.stderr,)
formatter = text
[handler_json]
class = FileHandler
args = ({json!r},)
formatter = json
[formatter_text]
class = proxy_actors.logs.TextFormatter
format = %(asctime)s %(levelname)s %(name)s %(message)s
[formatter_json]
class = proxy_actors.logs.JsonFormatter
"""
RECORD = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR) [a-z_.]+ \S")
POISON = (
    b"\x1b[31mred\x1b[0m \x1b]0;title\x07 \x08\x08\x08 \x7f \xc2\x9b31m \xe2\x80\xae \xe2\x80\xa8 "
    b"\xff\xfe \0 \r2026-01-01 00:00:00,000 ERROR proxy_actors forged\tby\x0bhand"
)
INHERITED = {"HOME", "LANG", "LOGNAME", "SHELL", "TERM", "TMPDIR", "USER"}


@pytest.fixture
def logging_option(tmp_path: Path) -> tuple[str, str]:
    """Everything is logged, as text and as JSON."""
    ini = tmp_path / "logging.ini"
    ini.write_text(LOGGING.format(json=str(tmp_path / "log.json")))
    return "--logging", str(ini)


def test_child_gets_a_minimal_environment() -> None:
    """THR-T12, MCP-I-8: what it needs to run, and what it was given by name."""
    secrets = {"API_TOKEN": "canary", "AWS_SECRET_ACCESS_KEY": "canary", "PATH_": "canary"}
    env = {**secrets, "LC_TIME": "C", "TZ": "UTC", "PASSED_ON": "passed on"}
    options = ("--env", "PASSED_ON", "--env", "GIVEN=a=b", "--env", "TZ=CET")
    with running(*options, "--", *SCRIPTED, env=env) as proxy:
        environment = proxy.session().call("environ").value
    own = {"GIVEN": "a=b", "PASSED_ON": "passed on", "TZ": "CET", "LC_TIME": "C"}
    assert {name: environment.pop(name) for name in own} == own
    assert environment.pop("PROXY_ACTORS_CHILD")
    rest = {name for name in os.environ if name.startswith("LC_")} | INHERITED | {"PATH"}
    assert environment == {name: os.environ[name] for name in environment if name in rest}


def test_output_of_a_child_cannot_forge_log_records(
    tmp_path: Path, logging_option: tuple[str, str]
) -> None:
    """THR-T13: that of stderr, and that of stdout which is no message."""
    with running(*logging_option, "--", *SCRIPTED) as proxy:
        session = proxy.session()
        data = base64.b64encode(POISON + b"\n" + b"y" * 5_000 + b"\n").decode()
        session.call("complain", data=data)
        session.call("say", text=POISON.decode("latin-1") + "\n")
        eventually(lambda: proxy.log().count("forged") == 2)
        proxy.stop()
        text = proxy.log().encode(errors="surrogateescape")
    as_json = (tmp_path / "log.json").read_bytes()
    for log in (text, as_json):
        assert not re.search(rb"[^\x20-\x7e\n]", log)
        assert log.count(b"forged") == 2
        assert b"y" * 400 in log and b"y" * 600 not in log
    lines = text.splitlines()
    assert all(RECORD.match(line) for line in lines)
    told = [json.loads(line)["message"] for line in as_json.splitlines()]
    assert len(told) == len(lines)
    stderr, stdout = (line for line in told if "forged" in line)
    assert stderr.startswith("stderr upstream=default pid=")
    assert stdout.startswith("stdout_garbage upstream=default pid=")
    assert r"\x1b[31mred" in stderr and r"\r2026" in stderr and r"\u202e" in stderr


class Canaries:
    """Secrets, one for each way in, to be looked for wherever something comes out."""

    def __init__(self) -> None:
        self._way_of: dict[str, str] = {}

    def __getitem__(self, way: str) -> str:
        """The secret that goes this way."""
        for secret, known in self._way_of.items():
            if known == way:
                return secret
        return self.note(way, f"canary{os.urandom(8).hex()}")

    def note(self, way: str, secret: str) -> str:
        """Look for a secret of somebody else's making, too."""
        self._way_of[secret] = way
        return secret

    def check_absent(self, what: str, data: bytes, but: frozenset[str] = frozenset()) -> None:
        """None stands in the data, save those that belong there."""
        found = {way for secret, way in self._way_of.items() if secret.encode() in data}
        assert found <= but, f"{what} tells {found - but}"


def provoke(session: Session, canaries: Canaries) -> Iterator[bytes]:
    """Make requests with secrets that fail in every way; yield the answers."""
    argument = canaries["argument"]
    broken = '{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":"%s"' % argument
    twice = '{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":"%s","a":1}}' % argument
    no_token = '{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"progressToken":["%s"]}}}'
    for body in (broken, twice, no_token % argument, argument, "[]"):
        yield session.post(body.encode()).answer().body
    call = '{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":"%s"}}' % argument
    for field in ("Mcp-Session-Id", "Content-Type", "Accept", "Host", "Origin"):
        yield session.post(call.encode(), **{field: canaries[field]}).answer().body
    for path in ("/nowhere", "/mcp", "/health"):
        yield session.proxy.get(f"{path}?token={canaries['query']}").body
    for text in ('{"jsonrpc":"2.0","id":<id>,"result":{"a":"%s"}', '[{"a":"%s"}]', '{"%s":1}'):
        yield session.call("say", text=text % argument + "\n").body


@pytest.mark.parametrize("mode", ["session", "shared", "pool"])
def test_secrets_stand_in_no_output(
    tmp_path: Path, mode: str, logging_option: tuple[str, str]
) -> None:
    """THR-T14: neither in logs, nor in files, errors, the process list or what USR2 tells."""
    canaries = Canaries()
    state = tmp_path / "state"
    options = ("--stdio", mode, "--state-dir", str(state), "--env", "TOKEN", *logging_option)
    with running(
        *options,
        "--",
        *SCRIPTED,
        env={"TOKEN": canaries["--env"], "SECRET": canaries["environment"]},
        fields={
            "Authorization": f"Bearer {canaries['Authorization']}",
            "Cookie": f"id={canaries['Cookie']}",
            "X-Api-Key": canaries["X-Api-Key"],
        },
    ) as proxy:
        session = proxy.session()
        canaries.note("session id", session.id.rpartition(".")[2])
        told = session.call("environ").value
        assert told["TOKEN"] == canaries["--env"] and "SECRET" not in told
        assert session.call("echo", password=canaries["argument"]).value
        for n, answer in enumerate(provoke(session, canaries)):
            canaries.check_absent(f"answer {n}", answer)
        stream = session.listen()
        assert stream.head().status == 200
        call = session.begin("silence", a=canaries["argument"])
        proxy.signal(signal.SIGUSR2)
        eventually(lambda: " name=server " in proxy.log())
        check_everything_written(proxy, tmp_path, canaries)
        stream.leave()
        call.leave()
        canaries.check_absent("failure", session.call("die", a=canaries["argument"]).body)
        proxy.signal(signal.SIGKILL)
        proxy.wait()
        check_files(proxy, tmp_path, canaries)
        assert (tmp_path / "log.json").stat().st_size and any(state.iterdir())


def check_files(proxy: ProxyProcess, directory: Path, canaries: Canaries) -> None:
    """Nothing is told by the log, or by the files below the directory."""
    canaries.check_absent("log", proxy.log().encode(errors="surrogateescape"))
    for path in directory.rglob("*"):
        if path.is_file():
            canaries.check_absent(path.name, path.read_bytes())


def check_everything_written(proxy: ProxyProcess, directory: Path, canaries: Canaries) -> None:
    """Nothing is told by what was written, or by what a process list shows."""
    check_files(proxy, directory, canaries)
    guardian, *children = proxy.descendants()
    for pid in (proxy.pid, guardian, *children):
        for name in ("cmdline", "comm"):
            canaries.check_absent(name, Path(f"/proc/{pid}/{name}").read_bytes())
    assert Path(f"/proc/{guardian}/environ").read_bytes() == b""
    for child in children:
        environ = Path(f"/proc/{child}/environ").read_bytes()
        canaries.check_absent("environ", environ, but=frozenset({"--env"}))
