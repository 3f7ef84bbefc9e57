"""Where in a file a key stands, for messages that name line and column.

No library tells (tomllib and json keep no positions), so the text is walked once more, known to be
valid by then. Owns nothing else: it never judges and never decodes a value.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from json.decoder import scanstring  # type: ignore[attr-defined]  # undocumented, but old
from typing import Any

import msgspec

Path = tuple[str | int, ...]

HIDDEN = "****"
_TOML_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_TOML_BARE = re.compile(r"[A-Za-z0-9_-]+")
_TOML_STRINGS = (
    re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}', re.S),
    re.compile(r"'''.*?'{3,5}", re.S),
    re.compile(r'"(?:[^"\\]|\\.)*"'),
    re.compile(r"'[^']*'"),
)
_TOML_SCALAR = re.compile(r"[^,\]}#\n]*")
_JSON_BLANK = re.compile(r"[ \t\r\n]*")
_JSON_SCALAR = re.compile(r"[^,\]}\s]*")


class Position(msgspec.Struct, frozen=True):
    """A place: line and column, both from 1, and how many characters are meant."""

    line: int
    column: int
    length: int = 1


class Positions:
    """The places of a text's keys and values, by path.

    Attributes:
        repeated: keys that stand more than once in one JSON object; the last one counts.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._keys: dict[Path, tuple[int, int]] = {}
        self._values: dict[Path, int] = {}
        self._scalars: list[tuple[int, int, Path]] = []
        self._renamed: dict[Path, Path] = {}
        self.repeated: list[Path] = []

    def rename(self, path: Path, stands_at: Path) -> None:
        """Say that what is called `path` from now on stands in the text at another one."""
        self._renamed[path] = stands_at

    def note_key(self, path: Path, start: int, end: int) -> None:
        """Note a key that stands from one offset to another; the first mention counts."""
        self._keys.setdefault(path, (start, end))

    def note_again(self, path: Path, start: int, end: int) -> None:
        """Note a key whose last mention counts, with what is below it."""
        if path in self._keys:
            self.repeated.append(path)
            self._keys = {key: x for key, x in self._keys.items() if key[: len(path)] != path}
        self._keys[path] = (start, end)

    def note_value(self, path: Path, start: int) -> None:
        """Note where a value begins; the last mention counts."""
        self._values[path] = start

    def note_scalar(self, path: Path, start: int, end: int) -> None:
        """Note from where to where a value stands that is no table and no array; in order."""
        self._scalars.append((start, end, path))

    def of_key(self, path: Path) -> Position:
        """Find a key, or the nearest table around it."""
        path = self.in_text(path)
        while path and path not in self._keys:
            path = path[:-1]
        start, end = self._keys.get(path, (0, 1))
        return self._position(start, end)

    def of_value(self, path: Path) -> Position:
        """Find the value of a key, or else the key."""
        start = self._values.get(self.in_text(path))
        return self.of_key(path) if start is None else self._position(start, start + 1)

    def quoted(self, place: Position, is_secret: Callable[[Path], bool]) -> tuple[str, str, str]:
        """Return the line of a place: what stands before it, what is meant, and what follows.

        Args:
            is_secret: whether the value at a path, as it is called in the text, is not to be shown.
        """
        line_start = self._line_starts[place.line - 1]
        line_end = self._text.find("\n", line_start)
        line = list(self._text[line_start : None if line_end < 0 else line_end])
        first = bisect_left(self._scalars, (line_start,))
        for start, end, path in self._scalars[max(0, first - 1) :]:
            if start >= line_start + len(line):
                break
            if end > line_start and is_secret(path):
                shown = slice(max(0, start - line_start), end - line_start)
                covered = len(line[shown])
                line[shown] = [HIDDEN, *[""] * (covered - 1)][:covered]
        at, behind = place.column - 1, place.column - 1 + place.length
        return "".join(line[:at]), "".join(line[at:behind]), "".join(line[behind:])

    def in_text(self, path: Path) -> Path:
        """Return what a path is called in the text."""
        for length in range(len(path), 0, -1):
            stands_at = self._renamed.get(path[:length])
            if stands_at is not None:
                return (*stands_at, *path[length:])
        return path

    def _position(self, start: int, end: int) -> Position:
        line = bisect_right(self._line_starts, start)
        return Position(line, start - self._line_starts[line - 1] + 1, end - start)


class _Toml:
    """Walks a valid TOML 1.0 text."""

    def __init__(self, text: str) -> None:
        self.positions = Positions(text)
        self._text = text
        self._at = 0
        self._arrays: dict[Path, int] = {}
        self._table: Path = ()

    def walk(self) -> Positions:
        while self._skip_blank():
            if self._text[self._at] == "[":
                self._read_header()
            else:
                self._read_pair(self._table)
        return self.positions

    def _skip_blank(self) -> bool:
        match = _TOML_BLANK.match(self._text, self._at)
        assert match is not None
        self._at = match.end()
        return self._at < len(self._text)

    def _read_header(self) -> None:
        is_array = self._text.startswith("[[", self._at)
        self._at += 2 if is_array else 1
        parts = self._read_key()
        self._at += 2 if is_array else 1
        path: Path = ()
        for number, (name, start, end) in enumerate(parts):
            path = (*path, name)
            last = number == len(parts) - 1
            self.positions.note_key(path, start, end)
            if last and is_array:
                self._arrays[path] = self._arrays.get(path, -1) + 1
            if path in self._arrays:
                path = (*path, self._arrays[path])
                self.positions.note_key(path, start, end)
        self._table = path

    def _read_pair(self, table: Path) -> None:
        path = table
        for name, start, end in self._read_key():
            path = (*path, name)
            self.positions.note_key(path, start, end)
        self._at += 1  # the equals sign
        self._read_value(path)

    def _read_key(self) -> list[tuple[str, int, int]]:
        """Read a dotted key up to what ends it."""
        parts = []
        while True:
            self._skip_blank()
            start = self._at
            end_of_string = self._end_of_string()
            self._at = end_of_string or self._end_of(_TOML_BARE)
            name = self._text[start:self._at]
            parts.append((_unquoted(name) if end_of_string else name, start, self._at))
            self._skip_blank()
            if self._text[self._at] != ".":
                return parts
            self._at += 1

    def _read_value(self, path: Path) -> None:
        self._skip_blank()
        self.positions.note_value(path, self._at)
        opening = self._text[self._at]
        if opening in "[{":
            self._at += 1
            index = 0
            while self._skip_blank() and self._text[self._at] not in "]}":
                if self._text[self._at] == ",":
                    self._at += 1
                elif opening == "{":
                    self._read_pair(path)
                else:
                    self._read_value((*path, index))
                    index += 1
            self._at += 1
        else:
            start = self._at
            self._at = self._end_of_string() or self._end_of(_TOML_SCALAR)
            end = start + len(self._text[start : self._at].rstrip())
            self.positions.note_scalar(path, start, end)

    def _end_of_string(self) -> int:
        for pattern in _TOML_STRINGS:
            match = pattern.match(self._text, self._at)
            if match is not None:
                return match.end()
        return 0

    def _end_of(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self._text, self._at)
        assert match is not None
        return match.end()


class _Json:
    """Walks a valid JSON text."""

    def __init__(self, text: str) -> None:
        self.positions = Positions(text)
        self._text = text
        self._at = 0

    def walk(self) -> Positions:
        self._read_value(())
        return self.positions

    def _next(self) -> str:
        match = _JSON_BLANK.match(self._text, self._at)
        assert match is not None
        self._at = match.end()
        return self._text[self._at]

    def _read_value(self, path: Path) -> None:
        opening = self._next()
        start = self._at
        self.positions.note_value(path, start)
        if opening == '"':
            self._read_string()
            self.positions.note_scalar(path, start, self._at)
        elif opening in "[{":
            self._at += 1
            index = 0
            while self._next() not in "]}":
                if self._next() == ",":
                    self._at += 1
                elif opening == "[":
                    self._read_value((*path, index))
                    index += 1
                else:
                    self._read_pair(path)
            self._at += 1
        else:
            match = _JSON_SCALAR.match(self._text, self._at)
            assert match is not None
            self._at = match.end()
            self.positions.note_scalar(path, start, self._at)

    def _read_pair(self, path: Path) -> None:
        start = self._at
        key = (*path, self._read_string())
        self.positions.note_again(key, start, self._at)
        self._next()
        self._at += 1  # the colon
        self._read_value(key)

    def _read_string(self) -> str:
        value: Any  # Any: json has no type hints for it
        value, self._at = scanstring(self._text, self._at + 1)
        return str(value)


def _unquoted(name: str) -> str:
    """Decode a quoted key: what its escapes mean is tomllib's to say."""
    return next(iter(tomllib.loads(f"{name} = 0")))


def of_toml(text: str) -> Positions:
    """Walk a text that tomllib has read."""
    return _Toml(text).walk()


def of_json(text: str) -> Positions:
    """Walk a text that json has read."""
    return _Json(text).walk()
