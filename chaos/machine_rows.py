"""Faults of the machine under the process: RELIABILITY 6.5, P5 to P14."""

from __future__ import annotations

import http.client
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path

from chaos.footing import cpu_s, rss_bytes
from chaos.ledger import ANSWERED
from chaos.name_server import SILENT, NameServer
from chaos.scorecard import plays
from chaos.servers import http_upstream
from chaos.stage import NotHere, Stage
from proxy_actors.storage.open import FILE_NAME
from tests.sim.virtual import request
from tests.wire.http_client import Wire

HEALTH = request(None, "GET", path="/health")
LATE = {"upstream-timeout", "deadline"}
MEGABYTE = 1 << 20


@plays("P5", "the limit of descriptors falls to 20 above what is open, a hundred clients come")
def no_descriptors(stage: Stage) -> None:
    """No spinning; who is connected is served; all is well when there is room again."""
    stage.isolated = stage.controlled = False
    stage.serve(http_upstream(stage.http_server().url))
    pid = stage.proxy.pid
    session = stage.session()
    with Wire(stage.proxy.address) as first:
        stage.require(first.ask(HEALTH, "GET").status == 200, "not served before")
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        room = stage.proxy.fds() + 20
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (room, limits[1]))
        others = [Wire(stage.proxy.address) for _ in range(100)]
        began_s, used_s = time.monotonic(), cpu_s(pid)
        for _ in range(10):
            stage.require(first.ask(HEALTH, "GET").status == 200, "who was there is not served")
            time.sleep(0.2)
        busy = (cpu_s(pid) - used_s) / (time.monotonic() - began_s)
        stage.figures["cpu %"] = round(100 * busy)
        stage.require(busy < 0.35, f"it takes {busy:.0%} of a core, the watchers included")
        for wire in others:
            wire.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    stage.recovered(5.0, session)


@contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """A file system of its own of 256 kB there."""
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", str(directory)],
        capture_output=True,
    )
    if mounted.returncode:
        raise NotHere("no file system can be mounted")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@plays("P6", "the state's file system of 256 kB is filled up under load, and emptied again")
def full_disk(stage: Stage) -> None:
    """Calls go on; `/ready` tells; what could not be kept was refused; well again with room."""
    state = stage.directory / "state"
    stage.errors.add("session_write_failed")
    stage.enter(small_disk(state))
    stage.serve(http_upstream(stage.http_server().url), words=("--state-dir", str(state)))
    session = stage.session()
    load = stage.load()
    filling = state / "filling"
    with filling.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    refused = 0
    for _ in range(60):
        refused += stage.initialize().status == 503
        if refused > 3:
            break
    stage.require(refused > 3, "nothing was refused")
    ready = stage.client().get("/ready")
    told = (ready.status, ready.message["sessions"])
    stage.require(told == (200, "not stored"), f"/ready says {told}")
    stage.ends(stage.call(session), {ANSWERED})
    filling.unlink()
    stage.until(lambda: stage.initialize().status == 200, 5.0, "sessions are kept again")
    stage.recovered(1.0)
    load.stop()
    stage.require({row.ended for row in load.rows} == {ANSWERED}, "calls were disturbed")
    stage.figures["initialize refused"] = refused


@plays("P7", "the file is locked by another, damaged before a start, and removed while it is used")
def bad_file(stage: Stage) -> None:
    """Nobody waits for it; what is damaged is set aside, loudly."""
    stage.isolated = stage.controlled = stage.footed = False
    stage.errors |= {"session_write_failed"}
    state = stage.directory / "state"
    stage.serve(http_upstream(stage.http_server().url), words=("--state-dir", str(state)))
    session = stage.session()
    with closing(sqlite3.connect(state / FILE_NAME, timeout=0.1)) as other:
        try:
            other.execute("BEGIN EXCLUSIVE")
            stage.figures["lock"] = "taken"
        except sqlite3.OperationalError:
            stage.figures["lock"] = "refused"
        stage.ends(stage.call(session), {ANSWERED})
    for path in state.iterdir():
        path.unlink()
    stage.ends(stage.call(session), {ANSWERED})
    stage.until(lambda: stage.initialize().status == 503, 5.0, "what cannot be kept is refused")
    stage.ends(stage.call(session), {ANSWERED})
    stage.stop_proxy()
    (state / FILE_NAME).write_bytes(b"no database" * 1000)
    stage.errors = {"session_file_set_aside"}
    stage.restart()
    stage.require(stage.call(stage.known_session(session.id)).status == 404, "out of nowhere")
    stage.recovered(1.0)
    stage.require((state / f"{FILE_NAME}.damaged-1").exists(), "it was not set aside")


@plays("P8", "strace has the n-th of a system call fail: EMFILE, ECONNRESET, EIO, ENOSPC, EINTR")
def failing_calls(stage: Stage) -> None:
    """No crash, and no call without an end."""
    if shutil.which("strace") is None:
        raise NotHere("no strace")
    stage.isolated = stage.controlled = False
    stage.ledger.cut_is_fair = True
    state = stage.directory / "state"
    stage.perhaps.add("session_write_failed")
    stage.serve(http_upstream(stage.http_server().url), words=("--state-dir", str(state)))
    session = stage.session()
    load = stage.load(clients=3)
    faults = [
        ("accept4", "EMFILE"), ("accept4", "ECONNABORTED"), ("socket", "EMFILE"),
        ("connect", "ENETUNREACH"), ("sendto", "EPIPE"), ("recvfrom", "ECONNRESET"),
        ("pwrite64", "ENOSPC"), ("fdatasync", "EIO"), ("epoll_wait", "EINTR"),
    ]  # fmt: skip
    pid = str(stage.proxy.pid)
    for call, error in stage.chance.sample(faults, len(faults)):
        n = stage.chance.randrange(1, 20)
        inject = f"inject={call}:error={error}:when={n}..{n + 2}"
        words = ["strace", "-f", "-qq", "-o", "/dev/null", "-p", pid, "-e", f"trace={call}"]
        said = _traced([*words, "-e", inject], stage)
        if b"ptrace" in said or b"invalid" in said:
            raise NotHere(said.decode().strip()[:100])
        stage.require(stage.proxy.lives, f"it died of {call} {error}")
        stage.recovered(6.0)
    load.stop()
    stage.figures["load"] = dict(Counter(row.ended for row in load.rows))
    stage.recovered(1.0, session)


def _traced(command: list[str], stage: Stage) -> bytes:
    """Open sessions while strace runs; return what it has said."""
    with subprocess.Popen(command, stderr=subprocess.PIPE) as tracer:
        try:
            for _ in range(3):
                time.sleep(0.1)
                try:
                    stage.initialize()
                except (OSError, http.client.HTTPException):
                    pass  # its connection is what failed
        finally:
            tracer.terminate()
        return tracer.communicate()[1]


CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(id, now);
    if (id == CLOCK_REALTIME) {
        FILE *file = fopen(PATH, "r");
        long ahead = 0;
        if (file) { if (fscanf(file, "%ld", &ahead) != 1) ahead = 0; fclose(file); }
        now->tv_sec += ahead;
    }
    return status;
}
"""


@plays("P9", "the wall clock jumps a day ahead, two back, and an hour (a preloaded clock_gettime)")
def jumping_clock(stage: Stage) -> None:
    """Calls, deadlines and sessions do not notice; Date is right again with the clock."""
    if shutil.which("cc") is None:
        raise NotHere("no compiler for a clock of its own")
    ahead, source = stage.directory / "ahead", stage.directory / "clock.c"
    source.write_text(CLOCK)
    library = stage.directory / "clock.so"
    path = f'-DPATH="{ahead}"'
    subprocess.run(
        ["cc", "-shared", "-fPIC", path, str(source), "-o", str(library), "-ldl"], check=True
    )
    stage.deadline_s = 1.5
    stage.serve(http_upstream(stage.http_server().url), env={"LD_PRELOAD": str(library)})
    session = stage.session()
    load = stage.load()
    for seconds in (86_400, -86_400, 3_600, 0):
        ahead.write_text(str(seconds))
        call = stage.begin(session, "t", do=["pause 5", "json"])
        row = call.row()
        stage.ends(row, LATE, "unknown")
        stage.require(row.took_s > 1.4, f"a deadline came after {row.took_s:.1f} s")
        date = stage.client().send("POST", "/mcp", b"{}").answer().fields["Date"]
        told_s = parsedate_to_datetime(date).timestamp()
        stage.require(abs(told_s - time.time() - seconds) < 3, f"Date says {date}")
        stage.ends(stage.call(session), {ANSWERED})
    load.stop()
    stage.require({row.ended for row in load.rows} == {ANSWERED}, "calls failed")


@plays("P10", "STOP to the proxy for 4 s under load, then CONT")
def suspended(stage: Stage) -> None:
    """What was due is told as late or answered; then all is well, and nothing comes in a herd."""
    stage.isolated = stage.controlled = False
    stage.deadline_s, stage.suspended_s = 2.0, 4.0
    server = stage.http_server()
    relay = stage.before(server.address)
    stage.serve(http_upstream(relay.url))
    session = stage.session()
    load = stage.load(clients=4)
    time.sleep(0.3)
    before = relay.accepted
    stage.proxy.signal(signal.SIGSTOP)
    time.sleep(stage.suspended_s)
    stage.proxy.signal(signal.SIGCONT)
    stage.recovered(1.0, session)
    time.sleep(0.5)
    load.stop()
    stage.figures["connections after"] = relay.accepted - before
    ended = {row.ended for row in load.rows}
    stage.require(ended <= {ANSWERED, *LATE, "upstream-closed"}, f"load ended with {ended}")
    stage.require(relay.accepted - before <= 10, "it reconnects in a herd")


@contextmanager
def cgroup(controller: str) -> Iterator[Path]:
    """A control group of its own; whoever is left in it at the end leaves."""
    root = Path("/sys/fs/cgroup") / controller
    group = root / f"chaos-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        raise NotHere(f"no control group of {controller} can be made") from None
    try:
        if not (group / "cgroup.procs").exists():
            raise NotHere(f"{controller} is no hierarchy of control groups")
        yield group
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            (root / "cgroup.procs").write_text(pid)
        group.rmdir()


@plays("P11", "a cgroup of 200 MB, and 25 bodies of 4 MB that are never finished")
def memory_pressure(stage: Stage) -> None:
    """From half of it on new connections are refused, and open ones served; then it recovers."""
    group = stage.enter(cgroup("memory"))
    (group / "memory.limit_in_bytes").write_text(str(200 * MEGABYTE))
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        stage.serve(http_upstream(stage.http_server().url), top="[overload]\nmemory-percent = 50\n")
    finally:
        (group.parent / "cgroup.procs").write_text(str(os.getpid()))
    session = stage.session()
    with Wire(stage.proxy.address) as first:
        stage.require(first.ask(HEALTH, "GET").status == 200, "not served before")
        body = b"[" + b" " * (4 * MEGABYTE - 10)
        fields = {"Content-Length": str(4 * MEGABYTE)}
        wires = []
        for _ in range(25):
            wires.append(Wire(stage.proxy.address))
            wires[-1].send_what_is_taken(request(None, path="/mcp/victim", fields=fields) + body)

        def refused() -> bool:
            with Wire(stage.proxy.address) as other:
                other.socket.settimeout(1.0)
                try:
                    return other.ask(HEALTH, "GET").status == 503
                except ConnectionError:
                    return True

        took_s = stage.until(refused, 5.0, "new connections are refused")
        stage.figures["refused after ms"] = round(took_s * 1e3)
        stage.figures["rss MB"] = rss_bytes(stage.proxy.pid) // MEGABYTE
        stage.require(first.ask(HEALTH, "GET").status == 200, "who was there is not served")
        for wire in wires:
            wire.close()
    stage.until(lambda: not refused(), 8.0, "new connections are served again")
    stage.recovered(1.0, session)


@plays("P12", "a cgroup gives the proxy a tenth of a core for 4 s, under load")
def starved(stage: Stage) -> None:
    """Health is answered, and deadlines hold."""
    group = stage.enter(cgroup("cpu"))
    stage.isolated = stage.controlled = False
    stage.serve(http_upstream(stage.http_server().url))
    session = stage.session()
    load = stage.load(clients=6, pause_s=0.0)
    (group / "cpu.cfs_period_us").write_text("100000")
    (group / "cpu.cfs_quota_us").write_text("10000")
    (group / "cgroup.procs").write_text(str(stage.proxy.pid))
    worst = 0.0
    for _ in range(20):
        began_s = time.monotonic()
        stage.require(stage.proxy.page("/health") == 200, "health was not answered")
        worst = max(worst, time.monotonic() - began_s)
        time.sleep(0.2)
    stage.within(2.0, worst, "health at the worst")
    (group.parent / "cgroup.procs").write_text(str(stage.proxy.pid))
    stage.recovered(2.0, session)
    load.stop()
    stage.require({row.ended for row in load.rows} == {ANSWERED}, "calls failed")


@plays("P13", "statsd: nobody listens, a name that nobody knows, a resolver that is silent")
def no_statsd(stage: Stage) -> None:
    """It starts and serves all the same."""
    way = stage.chance.choice(["closed port", "unknown name", "silent resolver"])
    stage.figures["statsd"] = way
    address, env = "127.0.0.1:9", {}
    name_server = NameServer()
    name_server.says = SILENT
    with name_server:
        if way != "closed port":
            address = "statsd.invalid:8125" if way == "unknown name" else "statsd.example:8125"
        if way == "silent resolver":
            env = {"GEVENTARES_SERVERS": name_server.address}
        metrics = f'[metrics]\nstatsd = "{address}"\nflush-interval-s = 0.1\n'
        stage.serve(http_upstream(stage.http_server().url), top=metrics, env=env)
        load = stage.load(clients=3)
        time.sleep(2.0)
        load.stop()
        stage.require({row.ended for row in load.rows} == {ANSWERED}, "calls failed")
        stage.stop_proxy()


@plays("P14", "the log goes into a pipe that is full and that nobody reads; every call is logged")
def blocked_log(stage: Stage) -> None:
    """Nobody waits for it, and the process ends as it should."""
    stage.footed = False
    reader, writer = os.pipe()
    stage.serve(
        http_upstream(stage.http_server().url, after="[logs]\naccess = true\n"), stderr=writer
    )
    os.set_blocking(writer, False)
    try:
        while os.write(writer, b"x" * 4096):
            pass
    except BlockingIOError:
        os.set_blocking(writer, True)
    os.close(writer)
    load = stage.load(clients=3)
    time.sleep(2.0)
    load.stop()
    stage.require({row.ended for row in load.rows} == {ANSWERED}, "calls failed")
    stage.leave()
    began_s = time.monotonic()
    stage.proxy.signal(signal.SIGTERM)
    status = stage.proxy.wait()
    stage.within(5.0, time.monotonic() - began_s, "ended")
    stage.require(status == 0, f"exit status {status}")
    os.close(reader)
