"""An MCP server on stdio that misbehaves as it is told. Run as a script; standard library only.

Words on its command line say how it starts:

    crash         it ends at once, with code 3
    quit          it ends when it is asked to initialize, without an answer
    until F       it looks for the file F, and reads its input once that is there
    stubborn      it ignores the end of its input, TERM, HUP and INT
    journal F     it takes the argument `n` of each call, appends it to the file F as a line before
                  it acts, and returns it as `n` beside the value

Later the tools of `TOOLS` do as their arguments say. Every result has `structuredContent` with the
process id and what the tool returns.
"""

from __future__ import annotations

import base64
import collections
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26")

Message = dict[str, Any]  # Any: JSON

LAST_LINES = 20

_lines: collections.deque[bytes] = collections.deque(maxlen=LAST_LINES)
_lines_read = 0
_held: list[Message] = []
_journal: list[int] = []
_writing = threading.Lock()


def main() -> None:
    global _lines_read
    words = iter(sys.argv[1:])
    stubborn = False
    for word in words:
        if word == "stubborn":
            stubborn = True
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
        else:
            start(word, words)
    for line in sys.stdin.buffer:
        _lines.append(line)
        _lines_read += 1
        serve(json.loads(line))
    if stubborn:
        stand_still()


def start(word: str, words: Iterator[str]) -> None:
    match word:
        case "crash":
            sys.exit(3)
        case "quit":
            sys.stdin.buffer.readline()
            sys.exit(0)
        case "until":
            path = next(words)
            while not os.path.exists(path):
                time.sleep(0.01)
        case "journal":
            _journal.append(os.open(next(words), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
        case _:
            raise ValueError(word)


def stand_still() -> NoReturn:
    while True:
        signal.pause()


def write(data: bytes) -> None:
    with _writing:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def respond(request: Message, value: object) -> None:
    content = {"pid": os.getpid(), "value": value}
    if "n" in request:
        content["n"] = request["n"]
    result = {"content": [], "structuredContent": content}
    answer = {"jsonrpc": "2.0", "id": request["id"], "result": result}
    write(json.dumps(answer).encode() + b"\n")


def serve(message: Message) -> None:
    if "id" not in message or "method" not in message:
        return
    method = message["method"]
    if method == "tools/call":
        params = message["params"]
        arguments = params.get("arguments", {})
        for file in _journal:
            message["n"] = arguments.pop("n", None)
            os.write(file, f"{message['n']}\n".encode())
        TOOLS[params["name"]](message, **arguments)
        return
    if method == "initialize":
        asked = message["params"]["protocolVersion"]
        result = {
            "protocolVersion": asked if asked in VERSIONS else VERSIONS[0],
            "capabilities": {"tools": {}, "logging": {}, "resources": {"subscribe": True}},
            "serverInfo": {"name": "scripted", "version": "1", "pid": os.getpid()},
        }
    else:
        result = {}
    answer = {"jsonrpc": "2.0", "id": message["id"], "result": result}
    write(json.dumps(answer).encode() + b"\n")


def echo(request: Message, **arguments: object) -> None:
    """Return the arguments."""
    respond(request, arguments)


def lines(request: Message) -> None:
    """Return how many lines were read so far and the last of them, this call's own included."""
    respond(request, [_lines_read, [line.decode("latin-1") for line in _lines]])


def environ(request: Message) -> None:
    """Return the environment."""
    respond(request, dict(os.environ))


def die(request: Message, code: int | None = None) -> None:
    """End without an answer: with a code, or by KILL."""
    if code is None:
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(code or 0)


def answer_and_die(request: Message, gate: str) -> None:
    """When the FIFO `gate` has been opened and closed by a writer, answer and end at once."""
    with open(gate, "rb") as opened:
        opened.read()
    respond(request, "last words")
    os._exit(0)


def silence(request: Message, **arguments: object) -> None:
    """Never answer, but go on."""


def after(request: Message, gate: str) -> None:
    """Answer when the FIFO `gate` was opened and closed by a writer; serve others meanwhile."""

    def wait() -> None:
        with open(gate, "rb") as opened:
            opened.read()
        respond(request, "after")

    threading.Thread(target=wait, daemon=True).start()


def stop(request: Message) -> None:
    """Hold still by STOP, as a debugger or a dead file system would have it."""
    os.kill(os.getpid(), signal.SIGSTOP)


def deaf(request: Message) -> None:
    """Answer and never read again."""
    respond(request, None)
    stand_still()


def say(request: Message, text: str, then: str = "answer") -> None:
    """Write `text` with the call's own <id> and progress <token> in it, then do as `then` says.

    `text` is Latin-1: each character is a byte.
    """
    data = text.encode("latin-1").replace(b"<id>", json.dumps(request["id"]).encode())
    token = request["params"].get("_meta", {}).get("progressToken")
    write(data.replace(b"<token>", json.dumps(token).encode()))
    match then:
        case "answer":
            respond(request, "said")
        case "die":
            os._exit(0)
        case "silence":
            pass
        case _:
            raise ValueError(then)


def huge(request: Message, megabytes: int, end: bool) -> None:
    """Write so much without a line end; with `end` it is the answer, else nothing known."""
    if end:
        respond(request, "x" * (megabytes << 20))
        return
    for _ in range(megabytes):
        write(b"x" * (1 << 20))
    stand_still()


def flood(request: Message, megabytes: int, line: str) -> None:
    """Write so much to stderr, `line` again and again, then answer."""
    data = line.encode() * max(1, (1 << 20) // len(line))
    for _ in range(megabytes):
        sys.stderr.buffer.write(data)
        sys.stderr.buffer.flush()
    respond(request, None)


def complain(request: Message, data: str) -> None:
    """Write these base64 bytes to stderr, then answer."""
    sys.stderr.buffer.write(base64.b64decode(data))
    sys.stderr.buffer.flush()
    respond(request, None)


def hold(request: Message, count: int, seed: int = 0, **arguments: object) -> None:
    """Wait for so many calls, then return the arguments of each, in an order drawn by `seed`."""
    _held.append(request)
    if len(_held) < count:
        return
    random.Random(seed).shuffle(_held)
    for held in _held:
        respond(held, held["params"]["arguments"])
    _held.clear()


TOOLS = {
    "echo": echo,
    "lines": lines,
    "environ": environ,
    "die": die,
    "answer-and-die": answer_and_die,
    "silence": silence,
    "after": after,
    "stop": stop,
    "deaf": deaf,
    "say": say,
    "huge": huge,
    "flood": flood,
    "complain": complain,
    "hold": hold,
}

if __name__ == "__main__":
    main()
