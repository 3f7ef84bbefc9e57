"""The systemd unit: known to systemd, closed to what it does not need, true to the command line."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import proxy_actors
from proxy_actors.__main__ import main
from proxy_actors.config.load import load_or_fail
from proxy_actors.options import RunOptions

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "proxy-actors.service"
SOCKET_UNIT = UNIT.with_suffix(".socket")
INSTALLED_BIN = "/opt/proxy-actors/bin/proxy-actors"
EXPOSURE_TENTHS_MAX = 20

systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists on any system in the place of ours."""
    path = tmp_path / UNIT.name
    text = UNIT.read_text()
    assert INSTALLED_BIN in text
    path.write_text(text.replace(INSTALLED_BIN, shutil.which("true") or ""))
    return path


@systemd
def test_systemd_knows_every_setting_of_the_unit(unit: Path) -> None:
    """A misspelt setting would only be warned of at boot."""
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    # It reports on other units of the system too; only what names ours is ours.
    assert [line for line in done.stderr.splitlines() if UNIT.name in line] == []


@systemd
def test_systemd_knows_every_setting_of_the_socket_unit(unit: Path) -> None:
    socket_unit = unit.with_suffix(".socket")
    socket_unit.write_text(SOCKET_UNIT.read_text())
    done = subprocess.run(
        ["systemd-analyze", "verify", str(socket_unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert [line for line in done.stderr.splitlines() if SOCKET_UNIT.name in line] == []


def test_socket_unit_listens_where_the_proxy_would() -> None:
    """One stream socket: more could not be served."""
    (stream,) = re.findall(r"^Listen\w+=(.*)$", SOCKET_UNIT.read_text(), re.M)
    example = UNIT.parents[1] / "proxy_actors.toml"
    assert stream == load_or_fail(example, {}).config.listen


@systemd
def test_the_unit_is_exposed_to_little(unit: Path) -> None:
    """A server without hardening has 9.6, on a scale to 10; this one stays below 2.0."""
    threshold = f"--threshold={EXPOSURE_TENTHS_MAX}"
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", threshold, str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_command_of_the_unit_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a valid `run`, of the file that the README puts there."""
    ran: list[RunOptions] = []
    service = SimpleNamespace(run=lambda options: ran.append(options) or 0)
    monkeypatch.setitem(sys.modules, "proxy_actors.service", service)
    monkeypatch.setattr(proxy_actors, "service", service, raising=False)
    command = re.search(rf"^ExecStart={INSTALLED_BIN} (.*)$", UNIT.read_text(), re.M)
    assert command is not None
    assert main(command[1].split()) == 0
    assert ran == [
        RunOptions(
            "127.0.0.1", 8808, config="/etc/proxy_actors/config.toml", listen_given=False
        )
    ]


def test_the_example_keeps_its_state_where_the_unit_lets_it(tmp_path: Path) -> None:
    """systemd names the directory of StateDirectory= in a variable."""
    assert "StateDirectory=proxy_actors\n" in UNIT.read_text()
    example = str(UNIT.parents[1] / "proxy_actors.toml")
    config = load_or_fail(example, {"STATE_DIRECTORY": str(tmp_path)}).config
    assert config is not None
    assert config.state_dir == str(tmp_path)
    assert load_or_fail(example, {}).config is not None  # and without systemd nowhere
