"""The command line: what it hands to the service, what it refuses, and what it imports."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import proxy_actors
from proxy_actors.__main__ import main
from proxy_actors.errors import ConfigurationError, ConnectError, SpawnError
from proxy_actors.options import RunOptions, StdioMode, Transport


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The place of the service, which patches the process that imports it: `ran` gets options."""
    module = ModuleType("proxy_actors.service")
    module.ran = []  # type: ignore[attr-defined]

    def run(options: RunOptions) -> int:
        module.ran.append(options)
        return 0

    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "proxy_actors.service", module)
    monkeypatch.setattr(proxy_actors, "service", module, raising=False)
    return module


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run with wrong arguments; return what the user is told."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_a_command_is_run_with_the_defaults(service: ModuleType) -> None:
    """Loopback, a process for each session, nothing kept."""
    assert main(["run", "--", "server"]) == 0
    defaults = RunOptions("127.0.0.1", 8808, command=("server",), listen_given=False)
    assert service.ran == [defaults]


def test_every_option_reaches_the_service(
    service: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is lost or mixed up on the way."""
    monkeypatch.setenv("PASSED", "on")
    arguments = (
        "run --listen [::1]:9 --state-dir d --stdio pool --children 3 --env A=1 --env PASSED"
        " --log-level debug --logging l.ini --statsd h:1 -- server --listen x -- y"
    )
    assert main(arguments.split()) == 0
    assert service.ran == [
        RunOptions(
            listen_host="::1",
            listen_port=9,
            command=("server", "--listen", "x", "--", "y"),
            state_dir="d",
            stdio=StdioMode.POOL,
            children=3,
            env=(("A", "1"), ("PASSED", "on")),
            log_level="debug",
            logging_ini="l.ini",
            statsd="h:1",
        )
    ]


def test_files_of_tls_are_passed_on(service: ModuleType) -> None:
    """For a server of the command line, and for those of a client's file."""
    tls = ["--tls-certificate", "c", "--tls-key", "k"]
    assert main(["run", *tls, "https://a.test/mcp"]) == 0
    assert main(["run", *tls, "--mcp-json", "f"]) == 0
    assert [options.tls for options in service.ran] == [("c", "k"), ("c", "k")]


def test_a_url_is_run(service: ModuleType) -> None:
    """The other kind of server."""
    assert main(["run", "http://127.0.0.1:3000/mcp", "--listen", "127.0.0.1:0"]) == 0
    assert service.ran == [RunOptions("127.0.0.1", 0, url="http://127.0.0.1:3000/mcp")]


@pytest.mark.parametrize("transport", Transport)
def test_transport_of_a_url_is_passed_on(service: ModuleType, transport: Transport) -> None:
    assert main(["run", "--transport", transport, "http://a.test/sse"]) == 0
    (options,) = service.ran
    assert (options.url, options.transport) == ("http://a.test/sse", transport)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("run", "a COMMAND, a URL or a file"),
        ("run --", "a COMMAND, a URL or a file"),
        ("run http://a/ -- b", "not both"),
        ("run http://a/ http://b/", "one URL at a time"),
        ("run python -m server", "proxy-actors run -- python"),
        ("run --listne 127.0.0.1:1 -- a", "did you mean '--listen'?"),
        ("run --listen 8808 -- a", "not HOST:PORT"),
        ("run ftp://a/", "not an http:// or https:// URL"),
        ("run --stdio shared http://a/", "about a COMMAND"),
        ("run --env A=1 http://a/", "about a COMMAND"),
        ("run --children 3 -- a", "--stdio pool"),
        ("run --stdio pool --children 0 -- a", "1 to 256"),
        ("run --stdio single -- a", "invalid choice"),
        ("run --transport sse -- a", "--transport is about a URL"),
        ("run --transport sse --config f", "--transport is about a URL"),
        ("run --transport http http://a/", "invalid choice"),
        ("run --tls-key k -- a", "come together"),
        ("run --tls-certificate c http://a/", "come together"),
        ("run --tls-certificate c --tls-key k --config f", "as [tls]"),
        ("run --env NOT_SET_ANYWHERE -- a", "NOT_SET_ANYWHERE"),
        ("run --log-level loud -- a", "invalid choice"),
        ("run --statsd h -- a", "not HOST:PORT"),
        ("run --statsd h:0 -- a", "a statsd server has a port"),
        ("rnu -- a", "did you mean 'run'?"),
        ("frobnicate", "unknown verb 'frobnicate'"),
        ("", "name a verb"),
        ("--nope", "unrecognized arguments"),
        ("call http://a/", "are required: TOOL\n"),
        ("call --json", "are required: URL, TOOL\n"),
        ("call a tool", "not an http:// or https:// URL"),
        ("call http://a/ tool x", "'x' is not key=value"),
        ("call http://a/ tool x=1 x=2", "comes twice"),
        ("call http://a/ tool --timeout 0", "--timeout"),
        ("call http://a/ tool --timeout nan", "--timeout"),
        ("version now", "unrecognized arguments"),
    ],
)
def test_wrong_usage_is_told_with_its_remedy(
    service: ModuleType, capsys: pytest.CaptureFixture[str], arguments: str, told: str
) -> None:
    """Status 2, and the service is never reached."""
    assert told in refused(capsys, *arguments.split())
    assert service.ran == []


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (ConfigurationError("the setting\n is wrong"), 78),
        (ConnectError("taken"), 69),
        (SpawnError("missing"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_of_the_service_becomes_an_exit_code(
    service: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    exit_code: int,
) -> None:
    """One line for people, no traceback."""

    def run(_options: RunOptions) -> int:
        raise error

    monkeypatch.setattr(service, "run", run)
    assert main(["run", "--", "server"]) == exit_code
    told = capsys.readouterr().err
    assert told.count("\n") == (1 if str(error) else 0)


def test_a_bug_is_not_hidden(service: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only errors that were raised for people are shortened."""

    def run(_options: RunOptions) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(service, "run", run)
    with pytest.raises(ZeroDivisionError):
        main(["run", "--", "server"])


def test_the_exit_code_of_the_service_is_the_processs(
    service: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that could not drain says so."""
    monkeypatch.setattr(service, "run", lambda _options: 1)
    assert main(["run", "--", "server"]) == 1


@pytest.mark.parametrize("arguments", [["version"], ["--version"]])
def test_the_version_is_printed(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """Both ways that people try."""
    try:
        assert main(arguments) == 0
    except SystemExit as end:
        assert end.code == 0
    assert capsys.readouterr().out == f"proxy-actors {proxy_actors.__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    """Help is instant: argparse and what it brings, and nothing else of the package."""
    script = (
        "import sys, argparse, __future__, typing\n"
        "argparse.ArgumentParser().format_help()\n"
        "before = set(sys.modules)\n"
        "from proxy_actors.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted(set(sys.modules) - before), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    loaded = done.stderr.decode().strip()
    assert loaded == "['proxy_actors', 'proxy_actors.__main__']"


def test_nothing_that_gets_patched_is_imported_before_the_service() -> None:
    """The service patches the standard library; what was imported before kept the old one."""
    script = (
        "import sys\n"
        "sys.modules['proxy_actors.service'] = None\n"
        "from proxy_actors.__main__ import main\n"
        "try: main(['run', '--', 'server'])\n"
        "except ImportError: pass\n"
        "patched = {'threading', 'socket', 'ssl', 'subprocess', 'select', 'selectors', 'queue'}\n"
        "print(sorted(patched & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"[]\n"
