"""Children as processes: how many there are, how they start and fail to, and that none is left.

FLT-U2, U3, U5, U6, U13 to U16, and what /health and /ready say meanwhile.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import CHILDREN_AT_REST, FAR_APART
from .guardian_peer import FAMILY, wait_gone, watched
from .proxy_process import SCRIPTED, ProxyProcess, running
from .session_client import SessionClient, check_failure
from .waiting import PATIENCE_S, eventually

MODES = list(CHILDREN_AT_REST)
# A relative each, which has left the group, the session or even the sight of its parent.
KINDS = {"session": "daemon", "shared": "session", "pool": "hidden-session"}
QUICK_STEPS = {"proxy_actors.actors.stdio_process.STOP_STEP_S": 0.2}
RARELY = {"proxy_actors.policy.backoff.BackoffLimits": {"base_s": 1e6, "cap_s": 1e6}}
FEW = {
    "proxy_actors.config.upstreams.Upstream": {"sessions_max": 5},
    "proxy_actors.policy.stdio_children.ChildrenLimits": {"handshakes_max": 2},
}


def family(kind: str) -> tuple[str, ...]:
    """The command of a scripted child with a relative; both ignore EOF and TERM."""
    words = " ".join(f"'{word}'" for word in (*SCRIPTED, "stubborn"))
    return (sys.executable, "-I", "-S", "-c", FAMILY, kind, f"exec {words}")


def starts(proxy: ProxyProcess) -> int:
    return proxy.log().count(" child_started ")


# FLT-U5, U6: nothing is left.


@pytest.mark.parametrize("mode", MODES)
def test_proxy_killed_leaves_no_process(mode: str) -> None:
    """FLT-U6: whatever they ignore and wherever they have gone; no clock decides when."""
    with running("--stdio", mode, "--", *family(KINDS[mode])) as proxy:
        proxy.take_stock(2 * CHILDREN_AT_REST[mode])
        session = proxy.session()
        session.begin("silence").leave()
        if mode == "session":  # a spare takes the place of the child that the session has taken
            eventually(lambda: starts(proxy) == 2 and len(proxy.children()) == 4)
        with watched(proxy.descendants()) as pidfds:
            assert len(pidfds) >= 1 + 2 * CHILDREN_AT_REST[mode]
            proxy.signal(signal.SIGKILL)
            wait_gone(*pidfds)


@pytest.mark.parametrize("mode", MODES)
def test_proxy_asked_to_stop_leaves_no_process(mode: str) -> None:
    """FLT-U5: `running` asks, and sees to it; each step of the ladder is shorter here."""
    with running("--stdio", mode, "--", *family(KINDS[mode]), settings=QUICK_STEPS) as proxy:
        proxy.take_stock(2 * CHILDREN_AT_REST[mode])
        proxy.session()
        proxy.stop()
        assert proxy.log().count(" signal=9") >= CHILDREN_AT_REST[mode]


def test_end_of_a_session_leaves_nothing_of_its_child() -> None:
    """FLT-U5, MCP-I-4: and touches nobody else's."""
    with running("--", *family("daemon"), settings=QUICK_STEPS) as proxy:
        stock = proxy.take_stock(2)
        session, other = proxy.session(), proxy.session()
        child = session.call("echo").pid
        eventually(lambda: len(proxy.children()) == 6)
        assert session.delete().status == 200
        eventually(lambda: len(proxy.children()) == 4)
        assert child not in proxy.children()
        assert other.call("echo", n=1).value == {"n": 1}
        proxy.check_rest(stock)


# FLT-U13, U2, U3: what does not start.


@pytest.mark.parametrize(
    ("mode", "what"),
    [("session", "missing"), ("shared", "not executable"), ("pool", "missing"),
     ("session", "wrong cwd"), ("shared", "wrong cwd")],
)  # fmt: skip
def test_command_that_cannot_be_started_is_tried_again(
    tmp_path: Path, mode: str, what: str
) -> None:
    """FLT-U13: its upstream is not ready, the other serves; once it can be started, all is well."""
    folder = tmp_path / "folder"
    server = (tmp_path if what == "wrong cwd" else folder) / "server"
    script = "#!/bin/sh\nexec " + " ".join(f"'{word}'" for word in SCRIPTED) + "\n"
    if what == "wrong cwd":
        server.write_text(script)
        server.chmod(0o755)
    else:
        folder.mkdir()
        if what == "not executable":
            server.write_text(script)
    file = tmp_path / "config.toml"
    file.write_text(f"""
        default-upstream = "default"
        [upstreams.default]
        command = ["{server}"]
        cwd = "{folder}"
        stdio = "{mode}"
        [upstreams.other]
        command = {json.dumps(SCRIPTED)}
    """)
    with running("--config", str(file)) as proxy:
        proxy.errors.add("spawn_failed")
        eventually(lambda: "spawn_failed upstream=default " in proxy.log())
        eventually(lambda: proxy.pages() == (200, 200, 200))
        for _ in range(3):
            ready = proxy.get("/ready").message["upstreams"]
            assert ready == {"default": "not ready", "other": "ready"}
            check_failure(proxy.begin_session().answer(), 503, "upstream-unavailable", "no")
        assert proxy.begin_session(path="/mcp/other").answer().status == 200
        (line,) = {x.split(" error=")[1] for x in proxy.log().splitlines() if "spawn_failed" in x}
        assert line == {
            "missing": f"cannot start '{server}': No such file or directory; "
            "correct its path, or the #! line of the script",
            "not executable": f"cannot start '{server}': Permission denied; "
            "make it executable (chmod +x) and check its folders and noexec mounts",
            "wrong cwd": f"cannot start '{server}': its working directory '{folder}': "
            "No such file or directory; create or correct it",
        }[what]
        if what == "wrong cwd":
            folder.mkdir()
        else:
            server.write_text(script)
            server.chmod(0o755)
        eventually(lambda: proxy.get("/ready").message["upstreams"]["default"] == "ready")
        assert proxy.session().call("echo", n=1).value == {"n": 1}


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("proxy-actors-typo", "is not in PATH: install it or give its full path"),
        ("./typo", "is not there: correct its path"),
        ("./script", "is not executable: make it so: chmod +x"),
        (".//", "is not there: correct its path"),
    ],
)
def test_command_that_is_not_there_at_the_start_is_told_at_once(
    tmp_path: Path, program: str, told: str
) -> None:
    """FLT-U13: it is a slip of the pen, and no start that might succeed later."""
    (tmp_path / "script").write_text("#!/bin/sh\n")
    command = [sys.executable, "-m", "proxy_actors", "run", "--listen", "127.0.0.1:0", "--"]
    done = subprocess.run(
        [*command, program], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == f"proxy-actors: the command {program!r} {told}\n"


def test_command_is_looked_for_in_the_path_of_the_child(tmp_path: Path) -> None:
    """As the guardian does: the variable that the command gets is what counts."""
    script = tmp_path / "server-of-mine"
    script.write_text("#!/bin/sh\nexec " + " ".join(f"'{word}'" for word in SCRIPTED) + "\n")
    script.chmod(0o755)
    path = f"PATH={tmp_path}:{os.environ['PATH']}"
    with running("--env", path, "--", "server-of-mine") as proxy:
        assert proxy.session().call("echo", n=1).value == {"n": 1}


@pytest.mark.parametrize("mode", ["session", "pool"])
def test_crash_loop_is_slowed_down(mode: str) -> None:
    """FLT-U3: clients are refused at once and cause no start; the next one is days away here."""
    with running("--stdio", mode, "--", *SCRIPTED, "crash", settings=RARELY) as proxy:
        count = CHILDREN_AT_REST[mode]
        eventually(lambda: proxy.log().count(" code=3 ") == count)
        for _ in range(60):
            check_failure(proxy.begin_session().answer(), 503, "upstream-unavailable", "no")
        assert proxy.pages() == (200, 503, 200)
        assert starts(proxy) == count


@pytest.mark.parametrize("mode", ["session", "shared"])
def test_child_that_ends_in_the_handshake_fails_it(mode: str) -> None:
    """FLT-U2: and no session is opened."""
    with running("--stdio", mode, "--", *SCRIPTED, "quit") as proxy:
        answer = proxy.begin_session().answer()
        if mode == "session":
            # It is tried again, and perhaps there is no other process yet.
            reason = {502: "process-exited", 503: "upstream-unavailable"}[answer.status]
            check_failure(answer, answer.status, reason, "unknown")
        else:
            check_failure(answer, 503, "upstream-unavailable", "no")
            eventually(lambda: proxy.get("/ready").status == 503)
        assert answer.fields["Mcp-Session-Id"] is None
        assert proxy.get("/health").status == 200


# FLT-U14: what starts slowly.


@pytest.mark.parametrize("mode", ["session", "pool"])
def test_handshakes_wait_for_a_slow_start(tmp_path: Path, mode: str) -> None:
    """FLT-U14."""
    started = tmp_path / "started"
    command = (*SCRIPTED, "until", str(started))
    with running("--stdio", mode, "--", *command) as proxy:
        eventually(lambda: starts(proxy) == CHILDREN_AT_REST[mode])
        assert proxy.pages() == (200, 200 if mode == "session" else 503, 200)
        opening = [proxy.begin_session() for _ in range(5)]
        started.touch()
        answers = [call.answer() for call in opening]
        assert [answer.status for answer in answers] == [200] * 5
        assert len({answer.fields["Mcp-Session-Id"] for answer in answers}) == 5
        assert proxy.pages() == (200, 200, 200)


def test_calls_wait_for_a_slow_restart_in_bounded_number(tmp_path: Path) -> None:
    """FLT-U14: those beyond the bound come back later."""
    started = tmp_path / "started"
    started.touch()
    command = (*SCRIPTED, "until", str(started))
    settings = FAR_APART | {"proxy_actors.policy.stdio_calls.CALLS_MAX": 5}
    with running("--stdio", "shared", "--", *command, settings=settings) as proxy:
        session = proxy.session()
        started.unlink()
        before = starts(proxy)
        check_failure(session.call("die"), 502, "process-exited", "unknown")
        eventually(lambda: starts(proxy) > before)
        assert proxy.pages() == (200, 503, 200)
        calls = [session.begin("echo", n, n=n) for n in range(7)]
        eventually(lambda: sum(call.answered for call in calls) == 2)
        started.touch()
        answers = [call.answer() for call in calls]
        for n, answer in enumerate(answers):
            if answer.status == 503:
                check_failure(answer, 503, "overloaded", "no", n)
            else:
                assert answer.value == {"n": n}
        assert sum(answer.status == 503 for answer in answers) == 2


# FLT-U15: what the system has no room for.


@pytest.mark.parametrize(
    ("mode", "whose"), [("session", "proxy"), ("shared", "proxy"), ("shared", "guardian")]
)
def test_start_without_descriptors_is_tried_again(mode: str, whose: str) -> None:
    """FLT-U15: EMFILE here or there; nothing leaks, nothing spins, and it heals."""
    with running("--stdio", mode, "--", *SCRIPTED, settings=FAR_APART) as proxy:
        proxy.errors.add("spawn_failed")
        stock = proxy.take_stock(1)
        session = proxy.session()
        pid = proxy.pid if whose == "proxy" else proxy.descendants()[0]
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        too_few = len(os.listdir(f"/proc/{pid}/fd")) + 2
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (too_few, hard))
        if mode == "session":
            assert proxy.begin_session().answer().status == 200  # at the spare; none replaces it
        else:
            check_failure(session.call("die"), 502, "process-exited", "unknown")
        eventually(lambda: "Too many open files" in proxy.log())
        eventually(lambda: proxy.get("/ready").status == 503)
        check_failure(proxy.begin_session().answer(), 503, "upstream-unavailable", "no")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
        eventually(lambda: proxy.get("/ready").status == 200)
        assert proxy.session().call("echo", n=1).value == {"n": 1}
        if mode == "shared":
            proxy.check_rest(stock)


# FLT-U16: how many there are.


def test_session_longest_unused_makes_room() -> None:
    """FLT-U16: sessions beyond the cap get a child, and never are there more than it allows."""
    with running("--", *SCRIPTED, settings=FEW) as proxy:
        stock = proxy.take_stock(1)
        busy, listening = proxy.session(), proxy.session()
        call, stream = busy.begin("silence"), listening.listen()
        assert stream.head().status == 200
        others = []
        for _ in range(12):
            others.append(eventually(lambda: opened(proxy)))
            assert len(proxy.children()) <= 6 + 1
        assert [session.call("echo").status for session in others] == [404] * 10 + [200] * 2
        assert listening.call("echo", n=1).value == {"n": 1}
        call.leave()
        stream.leave()
        assert busy.call("echo", 2, n=2).value == {"n": 2}
        proxy.check_rest(stock)


def test_client_of_many_sessions_ends_its_own_and_no_other_client_s() -> None:
    """FLT-U16: the other's is unused for longest, and stays when all of this one's are in use."""
    with running("--", *SCRIPTED, settings=FEW) as proxy:
        stock = proxy.take_stock(1)
        other = SessionClient(proxy.address, {}, source="127.0.0.2")
        single = other.session()
        many = [eventually(lambda: opened(proxy)) for _ in range(7)]
        assert [session.call("echo").status for session in many] == [404] * 4 + [200] * 3
        streams = [session.listen() for session in many[4:]]
        assert [stream.head().status for stream in streams] == [200] * 3
        refused = proxy.begin_session().answer()
        assert (refused.status, int(refused.fields["Retry-After"]) >= 1) == (429, True)
        assert refused.message["error"]["data"]["reason"] == "rate-limited"
        assert single.call("echo", n=1).value == {"n": 1}
        for stream in streams:
            stream.leave()
        other.end_sessions()
        proxy.check_rest(stock)


def opened(proxy: ProxyProcess) -> object:
    """A session; None while the processes of those before it are on their way out."""
    answer = proxy.begin_session().answer()
    if answer.status == 200:
        return proxy.adopt(answer)
    check_failure(answer, 429, "rate-limited", "no")
    return None


def test_processes_that_do_not_end_count_against_the_cap() -> None:
    """FLT-U16: sessions that come and go leave no crowd of stubborn ones behind."""
    with running("--", *SCRIPTED, "stubborn", settings=FEW) as proxy:
        proxy.take_stock(1)
        statuses = []
        for _ in range(20):
            answer = proxy.begin_session().answer()
            statuses.append(answer.status)
            if answer.status == 200:
                proxy.adopt(answer).delete()
            assert len(proxy.children()) <= 6 + 1
        assert statuses == [200] * 6 + [429] * 14
        check_failure(answer, 429, "rate-limited", "no")
        proxy.signal(signal.SIGKILL)
        assert proxy.wait() == -signal.SIGKILL


def test_sessions_that_are_all_in_use_keep_their_processes() -> None:
    """FLT-U16: the next one of this client is refused; another client has one."""
    with running("--", *SCRIPTED, settings=FEW) as proxy:
        stock = proxy.take_stock(1)
        other = SessionClient(proxy.address, {}, source="127.0.0.2")
        sessions = [proxy.session() for _ in range(4)]
        streams = [session.listen() for session in sessions]
        assert [stream.head().status for stream in streams] == [200] * 4
        for _ in range(5):
            answer = proxy.begin_session().answer()
            assert (answer.status, int(answer.fields["Retry-After"]) >= 1) == (429, True)
            assert answer.message["error"]["data"]["reason"] == "rate-limited"
        single = other.session()
        assert single.call("echo", n=2).value == {"n": 2}
        other.end_sessions()
        assert [session.call("echo", n=1).value for session in sessions] == [{"n": 1}] * 4
        for stream in streams:
            stream.leave()
        proxy.check_rest(stock)
