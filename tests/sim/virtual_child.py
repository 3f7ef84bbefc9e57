"""Virtual MCP servers on pipes: they do with each call what the call says, and what they like.

A call says it in `params.arguments.do`, a list of steps; each step is a method `do_...` of `Work`.
What a server says of its own accord (its temper) is drawn by seed: it starts slowly or not at all,
prints garbage, ignores the end of its input or TERM. Everything that it says names the call and the
session that it is about, so whoever hears it can tell whether it was meant.

`Servers` keeps the books of one run: what was executed, and every rule of MCP that was broken
towards a server.
"""

from __future__ import annotations

import json
import math
from collections import Counter, deque
from typing import Any

from proxy_actors.errors import DeadlineError, StreamClosedError
from proxy_actors.options import StdioMode
from proxy_actors.world.sim_streams import SimProcess
from proxy_actors.world.sim_waits import SimWaiter
from proxy_actors.world.sim_world import SimWorld
from tests.scripted_server import VERSION
from tests.sim.upstream import LineReader

ASK_S_MAX = 20.0
GARBAGE = (
    b"Server listening on stdio\n",
    b"\xff\xfe not UTF-8 \x00\n",
    b'\xef\xbb\xbf{"jsonrpc":"2.0","method":"notifications/message","params":{}}\n',
    b"[]\n",
    b"\r\n",
    b'{"jsonrpc":"2.0","id":"nobody\'s","result":{}}\n',
    b'{"jsonrpc":"2.0","id":0,"result":{},"error":{"code":1,"message":"both"}}\n',
    b'{"jsonrpc":"2.0","error":{"code":-32700,"message":"what?"}}\n',
    b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":{}}}\n',
    b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"no"}}\n',
    b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":[]}}\n',
    b'{"jsonrpc":"2.0","method":"notifications/resources/updated"}\n',
)


class Servers:
    """All virtual servers of one run.

    Attributes:
        mode: how many sessions and calls a server may see at once.
        temper: how likely a server is to misbehave of its own accord, from 0 to 1.
        healed: whether what hangs goes on and nobody misbehaves any more.
        executions: how often each call was executed, by its number.
        works: what a server did for each call, by its number.
        broken: the rules that were broken.
    """

    def __init__(self, world: SimWorld, mode: StdioMode, temper: float) -> None:
        self.world = world
        self.mode = mode
        self.temper = temper
        self.healed = False
        self.executions: Counter[int] = Counter()
        self.works: dict[int, Work] = {}
        self.broken: list[str] = []
        self.all: list[VirtualServer] = []
        self._stuck: list[SimWaiter] = []

    def run(self, process: SimProcess) -> int:
        """Be a program of the simulated world."""
        server = VirtualServer(self, process)
        self.all.append(server)
        return server.serve()

    def running(self) -> list[VirtualServer]:
        """List the servers whose process has not ended."""
        return [server for server in self.all if server.process.running]

    def heal(self) -> None:
        """Let everybody be nice from now on, and what is stuck go on."""
        self.healed = True
        for waiter in self._stuck:
            waiter.set()

    def likes(self, factor: float = 1.0) -> bool:
        """Draw whether a server misbehaves."""
        odds = 0.0 if self.healed else self.temper * factor
        return odds > 0.0 and self.world.chance.random() < odds

    def wait_for_healing(self, waiter: SimWaiter | None = None) -> None:
        """Hang, until somebody sets the waiter, if there is one."""
        if not self.healed:
            waiter = waiter or self.world.waiter()
            self._stuck.append(waiter)
            waiter.wait(math.inf)

    def saw(self, name: str) -> None:
        self.world.seen[name] += 1


class VirtualServer:
    """One process.

    Attributes:
        tags: the sessions that it has heard of.
        asked: its questions that have not been answered.
        given_up: its questions that it does not want to have answered any more.
        frozen: whether it does nothing at all, as after SIGSTOP, or did so once.
    """

    def __init__(self, servers: Servers, process: SimProcess) -> None:
        self.servers = servers
        self.world = servers.world
        self.process = process
        self.tags: set[str] = set()
        self.frozen = False
        self.version = VERSION
        self.asked: dict[str, SimWaiter] = {}
        self.given_up: set[str] = set()
        self.calls: dict[Any, Work] = {}
        self.works: dict[Any, Work] = {}
        self._handshakes = 0
        self._queue: deque[SimWaiter] = deque()

    def serve(self) -> int:
        """Serve until the input ends, or longer."""
        servers, process = self.servers, self.process
        if servers.likes(0.5):
            servers.saw("server_exited_at_once")
            return 1
        if servers.likes():
            self.world.pass_time(self.world.chance.random() * 3)
        process.ignores_term = servers.likes()
        process.has_descendant = servers.likes()
        ignores_end = servers.likes(3.0 if process.ignores_term else 1.0)
        self.mutter()
        reader = LineReader(process.input)
        while line := reader.line(math.inf):
            self.thaw()
            self._receive(line)
        if ignores_end:
            servers.saw("server_ignored_the_end_of_its_input")
            self.world.waiter().wait(math.inf)
        if servers.likes():
            self.world.pass_time(self.world.chance.random())
        return 0

    @property
    def well(self) -> bool:
        """Whether it reads what it is sent."""
        return self.process.running and not self.frozen

    def thaw(self) -> None:
        """Wait while this process is frozen."""
        if self.frozen:
            self.servers.wait_for_healing()

    def mutter(self) -> None:
        """Print something that is no message, if it likes to."""
        if self.servers.likes():
            self.write(self.world.chance.choice(GARBAGE))
        if self.servers.likes():
            self.process.errors.write((b"warning: \x1b[31mred\n",), math.inf)

    def send(self, message: Any) -> None:
        """Print a message."""
        self.write(json.dumps(message).encode() + b"\n")

    def write(self, data: bytes) -> None:
        """Print, one after another: a pipe takes only so much at once."""
        turn = self.world.waiter()
        self._queue.append(turn)
        try:
            if self._queue[0] is not turn:
                turn.wait(math.inf)
            self.thaw()
            self.process.output.write((data,), math.inf)
        finally:
            self._queue.remove(turn)
            if self._queue:
                self._queue[0].set()

    def broken(self, text: str) -> None:
        """Note that a rule was broken."""
        self.servers.broken.append(f"process {self.process.pid}: {text}")

    def _receive(self, line: bytes) -> None:
        message = json.loads(line)
        method = message.get("method")
        if method is None:
            self._answered(message)
        elif method == "initialize":
            self._initialize(message)
        elif method == "notifications/cancelled":
            self._cancel(message["params"]["requestId"])
        elif "id" not in message:
            pass
        elif message["id"] in self.calls:
            self.broken(f"id {message['id']!r} is in use already (MCP-G-3)")
        elif method == "tools/call":
            work = self.calls[message["id"]] = self.works[message["id"]] = Work(self, message)
            at_once = sum(not other.cancelled for other in self.calls.values())
            if at_once > 1 and self.servers.mode is StdioMode.POOL:
                self.broken(f"it has {at_once} calls at once")
            self.world.spawn("server work", work.run)
        else:
            self._administer(message)

    def _initialize(self, message: Any) -> None:
        self._handshakes += 1
        if self._handshakes > 1:
            self.broken("it was initialized twice")
        self.note_tag(message["params"]["clientInfo"]["name"])
        servers = self.servers
        id, answer = message["id"], "result"
        value: Any = {
            "protocolVersion": self.version,
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "virtual", "version": "1"},
        }
        if servers.likes(0.5):
            servers.saw("server_exited_in_the_handshake")
            self.process.exit(3)
            return
        if servers.likes(0.3):
            servers.saw("server_never_answered_the_handshake")
            servers.wait_for_healing()
        if servers.likes(0.3):
            value["protocolVersion"] = "1999-01-01"
        elif servers.likes(0.3):
            answer, value = "error", {"code": -32000, "message": "not today"}
        self.send({"jsonrpc": "2.0", "id": id, answer: value})

    def note_tag(self, tag: str) -> None:
        """Note which session is served."""
        self.tags.add(tag)
        if self.servers.mode is StdioMode.SESSION and len(self.tags) > 1:
            self.broken(f"it serves the sessions {sorted(self.tags)}")

    def _cancel(self, id: Any) -> None:
        work = self.works.get(id)
        if work is not None:
            work.cancelled = True
            work.wake()
        elif self.servers.mode is not StdioMode.SESSION:  # else the client may say what it likes
            self.broken(f"the cancelled call {id!r} was never here")

    def _answered(self, message: Any) -> None:
        waiter = self.asked.pop(message["id"], None)
        if waiter is not None:
            waiter.set(message)
        elif message["id"] not in self.given_up:
            self.broken(f"it never asked {message['id']!r}")

    def _administer(self, message: Any) -> None:
        """Set a level, subscribe: what a server does for everybody."""
        if self.servers.likes(0.5):
            self.servers.saw("server_exited_before_it_answered_the_proxy")
            self.process.exit(4)
            return
        if self.servers.likes():
            fault = {"code": -32602, "message": "I will not"}
            self.send({"jsonrpc": "2.0", "id": message["id"], "error": fault})
            return
        self.send({"jsonrpc": "2.0", "id": message["id"], "result": {}})
        if message["method"] == "resources/subscribe":
            uri = message["params"]["uri"]
            self.send(note("notifications/resources/updated", uri=uri))


class Work:
    """One call on its way through its script.

    Attributes:
        cancelled: whether its cancellation has come.
        answered: whether the whole answer is in the pipe.
        ended_s: when the server was done with it.
    """

    def __init__(self, server: VirtualServer, message: Any) -> None:
        arguments = message["params"]["arguments"]
        self.server = server
        self.servers = server.servers
        self.world = server.world
        self.id = message["id"]
        self.n: int = arguments["n"]
        self.tag: str = arguments["tag"]
        self.steps: list[str] = arguments["do"]
        self.token = message["params"].get("_meta", {}).get("progressToken")
        self.cancelled = False
        self.answered = False
        self.ended_s: float | None = None
        self._asked = 0
        self._parked: SimWaiter | None = None
        server.note_tag(self.tag)
        self.servers.executions[self.n] += 1
        self.servers.works[self.n] = self

    def run(self) -> None:
        stops = self.world.chance.random() < 0.7
        try:
            for step in self.steps:
                self.server.thaw()
                if self.cancelled and stops:
                    self.servers.saw("server_stopped_a_cancelled_call")
                    break
                name, _, value = step.partition(" ")
                getattr(self, "do_" + name)(value)
        except StreamClosedError:
            pass  # the process has ended
        finally:
            self.ended_s = self.world.now_s()
            self.server.calls.pop(self.id, None)

    def wake(self) -> None:
        """Do not pause any longer."""
        if self._parked is not None:
            self._parked.set()

    # Steps.

    def do_pause(self, seconds: str) -> None:
        self._parked = self.world.waiter()
        try:
            self._parked.wait(self.world.now_s() + float(seconds))
        except DeadlineError:
            pass
        finally:
            self._parked = None

    def do_note(self, count: str) -> None:
        """Tell of progress, all at once."""
        if self.token is None:
            return
        self._send(*[
            note("notifications/progress", progressToken=self.token, progress=at, **self._about())
            for at in range(int(count or 1))
        ])

    def do_log(self, _: str) -> None:
        self._send(note("notifications/message", level="info", data=self._about()))

    def do_change(self, _: str) -> None:
        self._send(note("notifications/tools/list_changed"))

    def do_ask(self, _: str) -> None:
        """Ask the client, and go on when it has answered, or does not."""
        id = f"ask-{self.n}-{self._asked}"
        self._asked += 1
        waiter = self.server.asked[id] = self.world.waiter()
        params = {"message": "?", "requestedSchema": {}, **self._about()}
        self._send({"jsonrpc": "2.0", "id": id, "method": "elicitation/create", "params": params})
        try:
            answer = waiter.wait(self.world.now_s() + ASK_S_MAX)
        except DeadlineError:
            del self.server.asked[id]
            self.server.given_up.add(id)
            self.servers.saw("question_was_never_answered")
            if self.servers.mode is not StdioMode.SESSION and self.server.well:
                self.server.broken(f"question {id} was not refused at once")
            self._send(note("notifications/cancelled", requestId=id))
            return
        self.servers.saw("question_was_answered" if "result" in answer else "question_was_refused")
        if "result" in answer and answer["result"]["content"] != self._about():
            self.server.broken(f"question {id} was answered by {answer['result']['content']}")

    def do_garbage(self, _: str) -> None:
        self.server.write(self.world.chance.choice(GARBAGE))

    def do_large(self, size: str) -> None:
        """Print a line of that size, which is no message and may be the end of the process."""
        if self.servers.healed:
            return
        self.server.write(b"x" * int(size) + b"\n")

    def do_hang(self, _: str) -> None:
        """Do nothing, until the end of all faults, or a cancellation."""
        self._parked = self.world.waiter()
        self.servers.wait_for_healing(self._parked)
        self._parked = None

    def do_freeze(self, _: str) -> None:
        """Have the whole process do nothing."""
        if not self.servers.healed:
            self.server.frozen = True
            self.servers.saw("server_froze")

    def do_answer(self, _: str) -> None:
        self._send(self._answer())
        self.answered = True

    def do_twice(self, _: str) -> None:
        self._send(self._answer(), self._answer())

    def do_error(self, _: str) -> None:
        fault = {"code": -32000, "message": "no", "data": self._about()}
        self._send({"jsonrpc": "2.0", "id": self.id, "error": fault})

    def do_half(self, _: str) -> None:
        """Begin to answer."""
        if self.servers.healed:
            return
        self.server.write(json.dumps(self._answer()).encode()[:-7])

    def do_exit(self, code: str) -> None:
        """End the process in good order; what was printed is in the pipe."""
        if self._lives_on():
            return
        self.servers.saw("server_exited_in_a_call")
        self.server.process.exit(int(code))
        raise StreamClosedError("the process has ended")

    def do_die(self, _: str) -> None:
        if self._lives_on():
            return
        self.servers.saw("server_died_in_a_call")
        self.server.process.kill()
        raise StreamClosedError("the process has ended")

    # Inside.

    def _lives_on(self) -> bool:
        """Whether all faults have healed: then the call is answered, and nobody ends."""
        if self.servers.healed and not self.answered:
            self.do_answer("")
        return self.servers.healed

    def _about(self) -> dict[str, Any]:
        return {"n": self.n, "tag": self.tag}

    def _answer(self) -> dict[str, Any]:
        result = {"content": [], "structuredContent": self._about()}
        return {"jsonrpc": "2.0", "id": self.id, "result": result}

    def _send(self, *messages: Any) -> None:
        self.server.write(b"".join(json.dumps(message).encode() + b"\n" for message in messages))


def note(method: str, **params: Any) -> dict[str, Any]:
    """A notification."""
    return {"jsonrpc": "2.0", "method": method, "params": params}
