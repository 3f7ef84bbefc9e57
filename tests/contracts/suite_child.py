"""Contracts of `World.spawn_child` and `Child`.

The commands are those of any POSIX system. A simulated world has programs of the same names that
do what these do with these arguments.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.contracts.staging import SHORT_S, Box, pass_time, read_exactly, soon

from proxy_actors.errors import DeadlineError, SpawnError, StreamClosedError
from proxy_actors.world.base import Child, ChildCommand, ExitStatus, World

ENV: Mapping[str, str] = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
ECHO = ChildCommand(argv=("cat",), env=ENV)
NEVER_READS = ChildCommand(argv=("sleep", "60"), env=ENV)
ENDS_WITH_3 = ChildCommand(argv=("sh", "-c", "echo out; echo err >&2; exit 3"), env=ENV)
MISSING = ChildCommand(argv=("no-such-command",), env=ENV)


def contract_child_reads_and_writes_through_its_pipes(world: World) -> None:
    child, box = _start(world, ECHO)
    child.stdin.write((b"one\n", b"two\n"), soon(world))
    assert read_exactly(world, child.stdout, 8) == b"one\ntwo\n"
    child.stdin.close()
    assert child.stdout.read(1, soon(world)) == b""
    assert child.stderr.read(1, soon(world)) == b""
    assert box.wait_for(1) == [ExitStatus(code=0, signal=None)]
    _close(child)


def contract_exit_code_is_told_once_and_last_words_stay_readable(world: World) -> None:
    child, box = _start(world, ENDS_WITH_3)
    assert box.wait_for(1) == [ExitStatus(code=3, signal=None)]
    assert read_exactly(world, child.stdout, 100) == b"out\n"
    assert read_exactly(world, child.stderr, 100) == b"err\n"
    child.terminate()
    child.kill()
    pass_time(world)
    assert len(box.mail) == 1
    _close(child)


def contract_signals_end_a_child_and_close_nothing(world: World) -> None:
    for number, name in ((15, "terminate"), (9, "kill")):
        child, box = _start(world, ECHO)
        child.stdin.write((b"last\n",), soon(world))
        assert read_exactly(world, child.stdout, 5) == b"last\n"
        getattr(child, name)()
        assert box.wait_for(1) == [ExitStatus(code=None, signal=number)]
        assert child.stdout.read(1, soon(world)) == b""
        _close(child)


def contract_writing_to_an_ended_child_fails(world: World) -> None:
    """FLT-U1: EPIPE and no signal."""
    child, box = _start(world, ENDS_WITH_3)
    box.wait_for(1)
    try:
        child.stdin.write((b"anyone?\n",), soon(world))
    except StreamClosedError:
        _close(child)
        return
    raise AssertionError("nobody reads")


def contract_child_that_never_reads_holds_its_writer_until_the_deadline(world: World) -> None:
    """FLT-U8."""
    child, box = _start(world, NEVER_READS)
    deadline_s = world.now_s() + SHORT_S
    try:
        child.stdin.write((b"x" * 1024 * 1024,), deadline_s)
    except DeadlineError:
        assert world.now_s() >= deadline_s
    else:
        raise AssertionError("nobody read that")
    child.kill()
    assert box.wait_for(1) == [ExitStatus(code=None, signal=9)]
    _close(child)


def contract_pipes_have_one_direction(world: World) -> None:
    child, box = _start(world, ECHO)
    for act in (
        lambda: child.stdin.read(1, soon(world)),
        lambda: child.stdout.write((b"x",), soon(world)),
        lambda: child.stderr.write((b"x",), soon(world)),
    ):
        try:
            act()
        except StreamClosedError:
            continue
        raise AssertionError("the pipe has no such direction")
    child.stdin.close()
    box.wait_for(1)
    _close(child)


def contract_missing_command_is_a_spawn_error_that_names_it(world: World) -> None:
    """FLT-U13."""
    box = Box(world)
    try:
        world.spawn_child(MISSING, soon(world), box.tell)
    except SpawnError as error:
        assert "no-such-command" in str(error)
    else:
        raise AssertionError("there is no such command")
    pass_time(world)
    assert box.mail == []


def _start(world: World, command: ChildCommand) -> tuple[Child, Box]:
    box = Box(world)
    return world.spawn_child(command, soon(world), box.tell), box


def _close(child: Child) -> None:
    for stream in (child.stdin, child.stdout, child.stderr):
        stream.close()
