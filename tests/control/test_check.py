"""`proxy-actors check`: all that is wrong with a file, in one run, and nothing that is secret."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxy_actors.__main__ import main
from tests.config.files import UPSTREAM


def check(capsys: pytest.CaptureFixture[str], path: Path) -> tuple[int, str, str]:
    """Run `check`; return its status and what it printed."""
    status = main(["check", str(path)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_file_that_can_be_served_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[upstreams.files]\ncommand = ["sh"]\n')
    assert check(capsys, path) == (0, "0 errors, 0 warnings\n", "")


def test_warnings_keep_nobody_from_starting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.toml"
    path.write_text('listen = "0.0.0.0:1"\nupstreams.files.command = ["sh"]\n')
    status, out, err = check(capsys, path)
    assert (status, err) == (0, "")
    assert out.startswith(f"{path}:1:1: warning: everybody who reaches this address")
    assert out.endswith("\n0 errors, 1 warning\n")


@pytest.mark.parametrize(
    ("upstream", "told"),
    [
        ('command = ["server-typo"]', "2:1: warning: the program is not in PATH"),
        ('command = ["./server"]', "2:1: warning: the program is not there"),
        ('command = ["/dev/null"]', "2:1: warning: the program is not there"),
        ('command = ["/etc/passwd"]', "2:1: warning: the program is not executable"),
        (
            'command = ["sh"]\nenv = { PATH = "/nowhere" }',
            "2:1: warning: the program is not in PATH",
        ),
        ('command = ["./sh"]\ncwd = "/nowhere"', "3:1: warning: there is no such directory"),
        ('command = ["sh"]\ncwd = "/bin"', ""),
        ('command = ["./sh"]\ncwd = "/bin"', ""),
        ('command = ["/bin/sh"]', ""),
    ],
)  # fmt: skip
def test_program_that_cannot_be_started_now_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], upstream: str, told: str
) -> None:
    """FLT-U13: where it stands in the file; it may be there when the proxy is started."""
    path = tmp_path / "config.toml"
    path.write_text(f"[upstreams.a]\n{upstream}\n")
    status, out, _ = check(capsys, path)
    assert status == 0
    if told:
        assert out.startswith(f"{path}:{told}\n")
    assert out.endswith(f"0 errors, {'1 warning' if told else '0 warnings'}\n")


def test_program_in_a_file_of_a_client_is_looked_for_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mcp.json"
    path.write_text('{"mcpServers": {"My a":\n {"command": "server-typo"}}}')
    assert f"{path}:2:3: warning: the program is not in PATH\n" in check(capsys, path)[1]


def test_all_errors_are_told_and_the_status_is_that_of_a_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.toml"
    path.write_text('listne = "x"\n' + UPSTREAM + "children = 0\nenv = { A = '${NOPE}' }")
    status, out, err = check(capsys, path)
    assert (status, err) == (78, "")
    assert len(re.findall(rf"^{path}:\d+:\d+: error: ", out, re.M)) == 4
    assert out.endswith("\n4 errors, 0 warnings\n")


def test_file_of_a_client_is_known_by_its_ending(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({"mcpServers": {"a": {"command": "x", "timeout": 1}}}))
    status, out, _ = check(capsys, path)
    assert status == 0
    assert 'warning: "timeout" of a is ignored' in out
    path.write_text("{")
    assert check(capsys, path)[0] == 78


@pytest.mark.parametrize("name", ["missing.toml", "missing.json", "."])
def test_file_that_cannot_be_read_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    status, out, err = check(capsys, tmp_path / name)
    assert (status, out) == (78, "")
    assert err.startswith("proxy-actors: ") and " cannot be read: " in err
    assert err.count("\n") == 1


def test_check_imports_nothing_of_what_serves() -> None:
    """It is to be instant: no event loop, no network, and none of the rooms that use them."""
    script = (
        "import sys\n"
        "from proxy_actors.__main__ import main\n"
        "main(['check', '/nowhere/config.toml'])\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    loaded = done.stdout.decode().split()
    heavy = {"gevent", "socket", "ssl", "subprocess", "peewee", "pykka", "httptools", "difflib"}
    assert heavy & set(loaded) == set()
    rooms = {name.split(".")[1] for name in loaded if name.startswith("proxy_actors.")}
    assert rooms <= {"__main__", "config", "control", "errors", "logs", "options", "policy"}


CANARY = "kanarienvogel"
PLACES = [
    f'listen = "{CANARY}"',
    f'upstreams.a.command = ["x", "{CANARY}"]\nupstreams.a.children = 1',
    f'upstreams.a = {{ command = ["x", "{CANARY}", 1] }}',
    f'upstreams.a = {{ command = "x {CANARY}" }}',
    f'upstreams.a = {{ command = ["npx", "{CANARY}"] }}',
    f'upstreams.a = {{ command = ["x"], env = {{ TOKEN = "{CANARY}", B = 1 }} }}',
    f'upstreams.a = {{ command = ["x"], env = "{CANARY}" }}',
    f'upstreams.a = {{ command = ["x"], envv = {{ TOKEN = "{CANARY}" }} }}',
    f'upstreams.a = "{CANARY}"',
    f'upstreams = "{CANARY}"',
    f'upstreams.a = {{ url = "http://x:{CANARY}@h/" }}',
    f'upstreams.a = {{ url = "http://x:{CANARY}/y@h/" }}',
    f'upstreams.a = {{ url = "ftp://h/?key={CANARY}" }}',
    f'upstreams.a = {{ url = "http://h/?key= {CANARY}" }}',
    f'upstreams.a = {{ url = "http://h/", headers = {{ "a b" = "{CANARY}", A = "\\n{CANARY}" }} }}',
    f'upstreams.a = {{ url = "http://h/", headers = {{ Authorization = "{CANARY}" }} }}',
    f'upstreams.a = {{ url = "http://h/", hedaers = {{ Authorization = "{CANARY}" }} }}',
    f'keys = [{{ id = "a", sha256 = "{CANARY}" }}]',
    f'keys = [{{ id = "a", key = "{CANARY}" }}]',
    f'api-key = """\n{CANARY}\n"""',
    f'api-key = {CANARY}',
    f'api-key = "{CANARY}',
    f'x = "\\{CANARY}"',
    f'[upstreams.a]\ncommand = ["x"]\nenv.A = "${{1:-{CANARY}}}"',
]  # fmt: skip


@pytest.mark.parametrize("text", PLACES)
def test_secret_in_the_file_is_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """THR-T12: wherever it stands, however wrong it is; but for settings that are none."""
    path = tmp_path / "config.toml"
    path.write_text(text + "\n")
    status, out, err = check(capsys, path)
    shown = out.replace(f'listen = "{CANARY}"', "")
    assert CANARY not in shown + err
    assert out.count(": error: ") + out.count(": warning: ") >= 1


@pytest.mark.parametrize(
    "setting",
    [
        'listen = "{}"', 'default-upstream = "{}"', 'upstreams.a.command = ["{}", 1]',
        'upstreams.a.url = "ftp://{}/"', 'upstreams.a.url = "http://h:{}/"',
        'upstreams.a.url = "http://{} /"', 'upstreams.a.stdio = "{}"',
        'upstreams.a.children = "{}"', 'upstreams.a.url = "http://h/"\n'
        'upstreams.a.headers.A = "{}\\n"', 'keys = [{{ id = "{}", sha256 = "{}", tier = "{}" }}]',
        'http.allowed-origins = ["{}"]', 'http.allowed-hosts = ["{}", 1]',
        'rate-limits.rules = [{{ name = "{}", rate = 1, burst = 1, upstream = "{}" }}]',
        'rate-limits.rules = [{{ name = "r", rate = 1, burst = 1, key = "{}", method = "{}" }}]',
        'rate-limits.rules = [{{ name = "r", rate = 1, burst = 1, tool = "t", method = "{}" }}]',
        'rate-limits.rules = [{{ name = "r", rate = 1, burst = 1, key="header", header = " {}" }}]',
        'version = "{}"', 'sessions.idle-timeout-s = "{}"', 'tls = "{}"', 'auth.anonymous = "{}"',
    ],
)  # fmt: skip
def test_secret_from_elsewhere_is_not_shown(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
) -> None:
    """Whatever setting it was put into by mistake."""
    monkeypatch.setenv("MISPLACED", CANARY)
    path = tmp_path / "config.toml"
    path.write_text(setting.replace("{}", "${MISPLACED}").replace("{{", "{").replace("}}", "}"))
    status, out, err = check(capsys, path)
    assert status == 78
    assert CANARY not in out + err


@pytest.mark.parametrize(
    "server",
    [
        {"command": "x", "args": ["npx", CANARY], "env": {"TOKEN": CANARY}},
        {"command": "x", "args": [CANARY, 1], "cwd": 3},
        {"command": [CANARY]}, {"url": f"http://a:{CANARY}@h/"}, {"type": CANARY}, CANARY, [CANARY],
        {"url": "http://h/", "headers": {"Authorization": CANARY, "a b": CANARY}},
        {"url": "http://h/", "token": CANARY, "oauth": {"clientSecret": CANARY}},
        {"url": "http://h/", "disabled": CANARY},
    ],
)  # fmt: skip
@pytest.mark.parametrize("indent", [None, 1])
def test_secret_in_the_file_of_a_client_is_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], server: object, indent: int | None
) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({"secret": CANARY, "mcpServers": {"a": server}}, indent=indent))
    _, out, err = check(capsys, path)
    assert ": warning: " in out
    assert CANARY not in out + err
