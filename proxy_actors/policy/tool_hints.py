"""Which tools of a server only read, or do twice what they do once, by what it says of them.

These are hints, and a client must not believe those of a server that it does not trust
(2025-06-18 schema, `ToolAnnotations`); so nobody asks this for an upstream whose operator has not
said that it is trusted. They are read in the answers to `tools/list` that pass, and forgotten when
the server says that its list has changed, when it may be another (a process of all sessions was
started, a session opened anew), or after a while. Owns a bounded number of names.
"""

from __future__ import annotations

import msgspec

TOOLS_MAX = 4096
# A server whose list changes says so on a stream, which perhaps nobody reads.
AGE_S_MAX = 600.0


class _Annotations(msgspec.Struct):
    readOnlyHint: bool = False
    idempotentHint: bool = False


class _Tool(msgspec.Struct):
    name: str
    annotations: _Annotations | None = None


class _List(msgspec.Struct):
    tools: list[_Tool]


class _Answer(msgspec.Struct):
    result: _List


_ANSWER = msgspec.json.Decoder(_Answer)


class ToolHints:
    """What is known of the tools of one upstream.

    Attributes:
        changes: how often the list was said to be another.
    """

    __slots__ = ("_known", "changes")

    def __init__(self) -> None:
        self.changes = 0
        self._known: dict[str, tuple[bool, float]] = {}

    def learn(self, answer: bytes, now_s: float, changes: int) -> None:
        """Read an answer to `tools/list`; what is none tells nothing.

        Args:
            changes: how many there were when the list was asked for. The answer may be of before
                the one that has come since.
        """
        if changes != self.changes:
            return
        try:
            tools = _ANSWER.decode(answer).result.tools
        except msgspec.DecodeError:
            return
        for tool in tools:
            hints = tool.annotations or _Annotations()
            self._known.pop(tool.name, None)
            if len(self._known) >= TOOLS_MAX:
                del self._known[next(iter(self._known))]  # the longest known
            repeats = hints.readOnlyHint or hints.idempotentHint
            self._known[tool.name] = repeats, now_s + AGE_S_MAX

    def repeats(self, tool: str, now_s: float) -> bool:
        """Whether a tool is known to do no harm when it is called twice."""
        repeats, until_s = self._known.get(tool, (False, 0.0))
        return repeats and now_s < until_s

    def forget(self) -> None:
        """The server's list has changed, or perhaps the server."""
        self.changes += 1
        self._known.clear()
