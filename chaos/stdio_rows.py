"""Faults of servers on standard input and output: RELIABILITY 6.2, U1 to U16."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from chaos.footing import cpu_s, rss_bytes
from chaos.ledger import ANSWERED
from chaos.scorecard import plays
from chaos.servers import shell_upstream, stdio_upstream
from chaos.stage import NotHere, Stage
from proxy_actors.transports.guardian import ProcessTable


DIED = {"process-exited"}
LATE = {"upstream-timeout"}
AWAY = {"process-exited", "upstream-unavailable"}
# What one child writes that is no message; each character is a byte.
GARBAGE = (
    "listening on stdio\n", "\xff\xfe\x80 caf\xe9\n", "\0\0\0\n", "\xef\xbb\xbf{}\n", "{}\n[]\n7\n",
    '{"jsonrpc":"2.0","id":<id>,"result"\n', "[" * 10_000 + "\n",
)  # fmt: skip
NOBODYS = (
    '{"jsonrpc":"2.0","id":"nobody","result":{}}\n', '{"jsonrpc":"2.0","id":987654,"result":{}}\n',
    '{"jsonrpc":"2.0","id":"<id>","result":{}}\n',
    '{"jsonrpc":"2.0","id":<id>,"result":{},"error":{"code":1,"message":"no"}}\n',
)  # fmt: skip
MEGABYTE = 1 << 20
# It ignores TERM, has left its group and session, and looks like nobody's child.
GRANDCHILD = "setsid sh -c 'trap \"\" TERM HUP INT; while :; do sleep 1; done' <&- >&- 2>&- &"


def drawn_mode(stage: Stage) -> str:
    """Draw whether sessions share a child."""
    mode = stage.chance.choice(["session", "shared"])
    stage.figures["mode"] = mode
    return mode


def gone(pids: list[int]) -> bool:
    """Whether none of them lives, not as a zombie either."""
    return not set(pids) & ProcessTable().processes.keys()


def wait_executed(stage: Stage, count: int) -> None:
    """Return when the victim has begun so many calls."""
    journal = stage.journal
    stage.until(
        lambda: journal.exists() and journal.read_text().count("\n") >= count, 5.0, "executed"
    )


@plays("U1", "`kill -9` of the child of a call, three times")
def killed(stage: Stage) -> None:
    """Answered within 100 ms of the death; the next call works within a second."""
    stage.serve(stdio_upstream(drawn_mode(stage), stage.journal))
    for _ in range(3):
        session = stage.session()
        pid = stage.call(session).pid
        before = len(stage.journal.read_text().split())
        call = stage.begin(session, "silence")
        wait_executed(stage, before + 1)
        began_s = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        row = call.row()
        stage.within(0.1, time.monotonic() - began_s, "answered")
        stage.ends(row, DIED, "unknown")
        stage.recovered(1.0, session)


@plays("U2", "the child exits with 0 behind an answer; then each new one exits at `initialize`")
def exits(stage: Stage) -> None:
    """The first is not noticed but by the session's end; the second is told, and over with it."""
    flag = stage.directory / "quit"
    first = f'[ -e {flag} ] && {{ read line; exit 0; }}'
    stage.serve(shell_upstream("shared", stage.journal, first))
    session = stage.session()
    for n in range(3):
        gate = stage.directory / f"gate-{n}"
        os.mkfifo(gate)
        call = stage.begin(session, "answer-and-die", gate=str(gate))
        gate.write_bytes(b"")
        stage.ends(call.row(), {ANSWERED})
        stage.recovered(1.0, session)
    flag.touch()
    os.kill(stage.call(session).pid, signal.SIGKILL)
    stage.until(lambda: not stage.call(session).outcome == ANSWERED, 2.0, "the death shows")
    stage.ends(stage.call(session), AWAY)
    flag.unlink()
    stage.recovered(6.0, session)


@plays("U3", "every start of the child ends at once, for 6 s")
def crash_loop(stage: Stage) -> None:
    """Told at once, no spinning, and well again within the longest wait."""
    flag, starts = stage.directory / "crash", stage.directory / "starts"
    first = f"echo >> {starts}\n[ -e {flag} ] && exit 3"
    stage.serve(shell_upstream("shared", stage.journal, first))
    session = stage.session()
    pid = stage.call(session).pid
    began_s, used_s = time.monotonic(), cpu_s(stage.proxy.pid)
    time.sleep(2.0)
    calm = (cpu_s(stage.proxy.pid) - used_s) / (time.monotonic() - began_s)
    flag.touch()
    os.kill(pid, signal.SIGKILL)
    time.sleep(2.0)
    before, began_s, used_s = starts.stat().st_size, time.monotonic(), cpu_s(stage.proxy.pid)
    for _ in range(4):
        row = stage.call(session)
        stage.ends(row, {"upstream-unavailable"}, "no")
        stage.within(0.1, row.took_s, "refused")
        time.sleep(1.0)
    more = (cpu_s(stage.proxy.pid) - used_s) / (time.monotonic() - began_s) - calm
    stage.figures["starts in 4 s"] = starts.stat().st_size - before
    stage.figures["cpu more %"] = round(100 * more, 1)
    stage.require(more < 0.05, f"the crash loop takes {more:.0%} of a core")
    stage.require(starts.stat().st_size - before < 20, "it is started too often")
    flag.unlink()
    stage.recovered(6.0, session)


@plays("U4", "`kill -STOP` of the child; its call, and the end of another session's stopped child")
def stopped(stage: Stage) -> None:
    """504 at the deadline; the server that hangs is found, killed and replaced."""
    stage.deadline_s = 1.5
    stage.serve(
        stdio_upstream("session", stage.journal),
        settings={
            "proxy_actors.policy.liveness.QUIET_S": 0.5, "proxy_actors.policy.liveness.PING_S": 1.0
        },
    )
    session, other = stage.session(), stage.session()
    pid, other_pid = stage.call(session).pid, stage.call(other).pid
    for each in (pid, other_pid):
        os.kill(each, signal.SIGSTOP)
    row = stage.call(session)
    stage.ends(row, LATE, "unknown")
    stage.figures["answered ms"] = round(row.took_s * 1e3)
    stage.require(other.delete().status == 200, "the other session could not be ended")
    stage.until(lambda: gone([other_pid]), 6.0, "a stopped child is killed with its session")
    stage.until(lambda: gone([pid]), 6.0, "a child that hangs is killed")
    stage.recovered(3.0, session)


@plays("U5", "a child that ignores EOF and TERM, with a grandchild in a session of its own")
def stubborn(stage: Stage) -> None:
    """Nobody of them is left, grace and a second after the session's end."""
    stage.settling_s = 5.0
    stage.serve(shell_upstream("session", stage.journal, GRANDCHILD, "stubborn"))
    for _ in range(3):
        before = set(stage.proxy.descendants())
        session = stage.session()
        pid = stage.call(session).pid
        stage.until(lambda: len(set(stage.proxy.descendants()) - before) >= 2, 3.0, "next child")
        groups = [pid, *ProcessTable().descendants(pid)]
        session.delete()
        took_s = stage.until(lambda: gone(groups), 5.0, "nobody is left")
        stage.figures["gone ms"] = round(took_s * 1e3)


@plays("U6", "`kill -9` of the proxy above such children")
def orphans(stage: Stage) -> None:
    """Nobody is left within 2 s."""
    stage.serve(shell_upstream("session", stage.journal, GRANDCHILD, "stubborn"))
    for session in [stage.session() for _ in range(3)]:
        stage.call(session)
    pids = stage.proxy.descendants()
    stage.require(len(pids) > 8, "too few descendants to prove anything")
    stage.figures["processes"] = len(pids)
    stage.kill_proxy()
    stage.figures["gone ms"] = round(1e3 * stage.until(lambda: gone(pids), 2.0, "nobody is left"))


@plays("U7", "non-UTF-8, NULs, BOM, no JSON, no message; then 64 MB without a line end")
def garbage(stage: Stage) -> None:
    """Dropped; the line costs its child, and others nothing."""
    stage.serve(stdio_upstream("session", stage.journal))
    session = stage.session()
    for text in stage.chance.sample(GARBAGE, len(GARBAGE)):
        stage.ends(stage.call(session, "say", text=text * 5), {ANSWERED})
    load = stage.load(clients=2)
    before = rss_bytes(stage.proxy.pid)
    stage.ends(stage.call(session, "huge", megabytes=64, end=False), DIED, "unknown")
    stage.figures["rss at the line MB"] = round((rss_bytes(stage.proxy.pid) - before) / MEGABYTE)
    load.stop()
    stage.require({row.ended for row in load.rows} == {ANSWERED}, "others were disturbed")
    stage.recovered(1.0)


@plays("U8", "a child stops reading; eight calls of 100 kB to it")
def deaf(stage: Stage) -> None:
    """What waits is bounded: refused at once, or late; then all is well again."""
    stage.deadline_s = 2.0
    stage.serve(
        stdio_upstream("session", stage.journal),
        settings={"proxy_actors.actors.child_pipes.UNWRITTEN_BYTES_MAX": 512 * 1024},
    )
    session = stage.session()
    pid = stage.call(session, "deaf").pid
    calls = [stage.begin(session, text="x" * 100_000) for _ in range(8)]
    ended = Counter(call.row().ended for call in calls)
    stage.require(set(ended) == {"overloaded", *LATE}, f"calls ended with {dict(ended)}")
    os.kill(pid, signal.SIGKILL)
    stage.until(lambda: gone([pid]), 2.0, "it is gone")
    stage.recovered(2.0, session)


@plays("U9", "200 MB to standard error, in lines and without an end")
def stderr_flood(stage: Stage) -> None:
    """Drained, and neither memory nor the log grows with it."""
    stage.deadline_s = 30.0
    stage.serve(stdio_upstream("session", stage.journal))
    session = stage.session()
    logged = len(stage.proxy.log())
    for line in ("noise\n", "x"):
        row = stage.call(session, "flood", megabytes=100, line=line)
        stage.ends(row, {ANSWERED})
        stage.figures["MB/s"] = round(100 / row.took_s)
    grown = len(stage.proxy.log()) - logged
    stage.figures["log kB"] = grown // 1000
    stage.require(grown < 500_000, f"the log has grown by {grown} bytes")


@plays("U10", "answers under unknown and retyped ids, with result and error, and each twice")
def nobodys(stage: Stage) -> None:
    """None is delivered; the answer comes once, to its own call."""
    stage.serve(stdio_upstream(drawn_mode(stage), stage.journal))
    session = stage.session()
    for text in stage.chance.sample(NOBODYS, len(NOBODYS)):
        stage.ends(stage.call(session, "say", text=text * 3), {ANSWERED})
    for _ in range(20):
        stage.ends(stage.call(session), {ANSWERED})


@plays("U11", "a hundred calls of two sessions, answered in a drawn order")
def out_of_order(stage: Stage) -> None:
    """Each to its owner."""
    stage.deadline_s = 20.0
    stage.serve(stdio_upstream("shared", stage.journal))
    sessions = [stage.session(), stage.session()]
    arguments = {"count": 100, "seed": stage.seed}
    calls = [stage.begin(session, "hold", **arguments) for _ in range(50) for session in sessions]
    for call in calls:
        stage.ends(call.row(), {ANSWERED})


@plays("U12", "half an answer, or one without its line end, then death")
def half_a_line(stage: Stage) -> None:
    """It is nobody's answer."""
    stage.serve(stdio_upstream(drawn_mode(stage), stage.journal))
    whole = '{"jsonrpc":"2.0","id":<id>,"result":{"content":[]}}'
    for text in (whole[:40], whole):
        session = stage.session()
        stage.ends(stage.call(session, "say", text=text, then="die"), DIED, "unknown")
        stage.recovered(1.0, session)


@plays("U13", "three servers: no such command, no right to execute it, no such directory")
def not_startable(stage: Stage) -> None:
    """Told as not ready; the others are up, and the process too."""
    locked = stage.directory / "locked"
    locked.write_text("#!/bin/sh\n")
    locked.chmod(0o600)
    victim = (
        f'command = ["{stage.directory / "missing"}"]\n'
        f'[upstreams.locked]\ncommand = ["{locked}"]\n'
        f'[upstreams.nowhere]\ncommand = ["true"]\ncwd = "{stage.directory / "none"}"\n'
    )
    stage.errors.add("spawn_failed")
    stage.serve(victim, warm=False)
    for name in ("victim", "locked", "nowhere"):
        answer = stage.initialize(f"/mcp/{name}")
        stage.require(answer.status in (502, 503), f"initialize at {name}: {answer.status}")
        data = answer.message["error"]["data"]
        stage.require(data["executed"] == "no" and data["upstream"] == name, f"{name}: {data}")
    ready = stage.client().get("/ready").message
    stage.figures["ready"] = ready["status"]
    wanted = dict.fromkeys(["victim", "locked", "nowhere"], "not ready") | {"bystander": "ready"}
    stage.require(ready["upstreams"] == wanted, f"/ready says {ready['upstreams']}")


@plays("U14", "the next start of the shared child takes until 40 calls wait for it")
def slow_start(stage: Stage) -> None:
    """They are queued and answered, or refused with 503."""
    stage.deadline_s = 10.0
    flag = stage.directory / "slow"
    first = f"while [ -e {flag} ]; do sleep 0.05; done"
    stage.serve(shell_upstream("shared", stage.journal, first))
    session = stage.session()
    pid = stage.call(session).pid
    flag.touch()
    os.kill(pid, signal.SIGKILL)
    stage.until(lambda: gone([pid]), 2.0, "it is gone")
    calls = [stage.begin(session) for _ in range(40)]
    time.sleep(2.0)
    flag.unlink()
    rows = [call.row() for call in calls]
    ended = Counter(row.ended for row in rows)
    stage.require(set(ended) <= {ANSWERED, *AWAY}, f"calls ended with {dict(ended)}")
    stage.require(all(row.executed == "no" for row in rows if row.ended != ANSWERED), "executed")
    stage.recovered(2.0, session)


@plays("U15", "the guardian has no descriptor left, then its cgroup no process")
def no_process_to_be_had(stage: Stage) -> None:
    """503, no half-open pipes, and well again when there is room."""
    group = Path("/sys/fs/cgroup/pids")
    if not os.access(group, os.W_OK) or not (group / "cgroup.procs").exists():
        raise NotHere("no cgroup of pids that may be written to")
    stage.errors.add("spawn_failed")
    stage.serve(stdio_upstream("session", stage.journal))
    guardian = stage.proxy.descendants()[0]
    limits = resource.prlimit(guardian, resource.RLIMIT_NOFILE)
    none_left = (3, limits[1])
    _refuse_sessions(
        stage, lambda: resource.prlimit(guardian, resource.RLIMIT_NOFILE, none_left)
    )
    resource.prlimit(guardian, resource.RLIMIT_NOFILE, limits)
    stage.recovered(8.0)
    own = group / f"chaos-{os.getpid()}"
    own.mkdir()
    try:
        (own / "cgroup.procs").write_text(str(guardian))
        _refuse_sessions(stage, lambda: (own / "pids.max").write_text("1"))
        (own / "pids.max").write_text("max")
        stage.recovered(8.0)
    finally:
        (own / "pids.max").write_text("max")
        for pid in (own / "cgroup.procs").read_text().split():
            (group / "cgroup.procs").write_text(pid)
        own.rmdir()


def _refuse_sessions(stage: Stage, exhaust: Callable[[], object]) -> None:
    exhaust()
    statuses = Counter(stage.initialize().status for _ in range(5))
    stage.figures["initialize"] = dict(statuses)
    stage.require(set(statuses) <= {200, 502, 503} and statuses[200] <= 2, f"{dict(statuses)}")


@plays("U16", "60 clients at once want a child each; `sessions-max` is 8")
def too_many_sessions(stage: Stage) -> None:
    """No more children than that; a refusal, or the end of the session unused for longest."""
    stage.deadline_s = 10.0
    stage.serve(stdio_upstream("session", stage.journal, sessions_max=8))
    most = 0
    statuses: Counter[int] = Counter()

    def want() -> None:
        statuses[stage.initialize().status] += 1

    threads = [threading.Thread(target=want, daemon=True) for _ in range(60)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most = max(most, len(stage.proxy.children()))
        time.sleep(0.02)
    stage.figures.update({"children at most": most, "initialize": dict(statuses)})
    stage.require(set(statuses) <= {200, 429, 503}, f"initialize: {dict(statuses)}")
    # Up to 16 more shake hands or are ending; a spare one, and the bystander's.
    stage.require(most <= 8 + 16 + 2, f"{most} children at once")
    stage.until(lambda: len(stage.proxy.children()) <= 8 + 2, 5.0, "eight sessions are left")
    stage.recovered(5.0)
