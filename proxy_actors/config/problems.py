"""What is wrong with a configuration, in the words that its author reads."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from proxy_actors.config.section import SECRET
from proxy_actors.config.positions import Path, Position, Positions
from proxy_actors.logs import printable


class Severity(StrEnum):
    """An error keeps the proxy from starting; a warning is legal but looks wrong."""

    ERROR = "error"
    WARNING = "warning"


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong, and where. `hint` says how to mend it.

    The line of one that is not `quoted` is not shown.
    """

    severity: Severity
    position: Position
    text: str
    hint: str = ""
    quoted: bool = True


class Problems:
    """Everything that was found in one file.

    No text of a problem holds a value, and in the lines that are shown the values of settings that
    may be secret, and of those that nobody knows, are stars.

    Args:
        file: its name, as the author gave it.
        positions: where its keys stand.
    """

    def __init__(self, file: str, positions: Positions) -> None:
        self.file = file
        self.positions = positions
        self.found: list[Problem] = []
        self._wrong: set[Path] = set()
        self._unread: set[Path] = set()
        self._hidden: set[Path] = set()

    def error(self, path: Path, text: str, hint: str = "", at_value: bool = False) -> None:
        """Note an error at a key, or at its value."""
        self._wrong.add(path)
        self._note(Severity.ERROR, path, text, hint, at_value)

    def warn(self, path: Path, text: str, hint: str = "") -> None:
        """Note something legal but suspicious."""
        self._note(Severity.WARNING, path, text, hint, False)

    def syntax_error(self, place: Position, text: str) -> None:
        """Note where a text ends to be what it should be.

        Its line is not shown: nobody can tell what of it is a secret.
        """
        shown = f"{text[:1].lower()}{text[1:]}"
        self.found.append(Problem(Severity.ERROR, place, shown, quoted=False))

    def hide(self, path: Path) -> None:
        """Note that nobody knows what the value of a key is, so that it may be a secret."""
        self._hidden.add(self.positions.in_text(path))

    def note_unread(self, path: Path) -> None:
        """Note a row of an array that could not be read, and so is not in what was read."""
        self._unread.add(path)

    def is_read(self, path: Path) -> bool:
        """Whether a row of an array is in what was read."""
        return path not in self._unread

    def concern(self, path: Path) -> bool:
        """Whether there is an error at a path or below it."""
        return any(wrong[: len(path)] == path for wrong in self._wrong)

    @property
    def errors(self) -> int:
        """How many errors there are."""
        return sum(problem.severity is Severity.ERROR for problem in self.found)

    def render(self) -> str:
        """Say it all: file:line:column, what, and the line itself with a mark under the place."""
        blocks = [self._block(x) for x in sorted(self.found, key=_place)]
        warnings = len(self.found) - self.errors
        blocks.append(f"{_count(self.errors, 'error')}, {_count(warnings, 'warning')}")
        return "\n".join(blocks)

    def _note(
        self, severity: Severity, path: Path, text: str, hint: str, at_value: bool
    ) -> None:
        find = self.positions.of_value if at_value else self.positions.of_key
        self.found.append(Problem(severity, find(path), text, hint))

    def _block(self, problem: Problem) -> str:
        place = problem.position
        head = f"{self.file}:{place.line}:{place.column}: {problem.severity}: {problem.text}"
        hint = f" {problem.hint}" if problem.hint else ""
        if not problem.quoted:
            return printable(head + hint)
        parts = self.positions.quoted(place, self._is_secret)
        before, meant, after = (printable(part.replace("\t", " ")) for part in parts)
        number = f"{place.line}"
        mark = " " * len(before) + "^" * max(1, len(meant))
        return (
            f"{printable(head)}\n"
            f"  {number} | {before}{meant}{after}\n"
            f"  {' ' * len(number)} | {mark}{printable(hint)}"
        )

    def _is_secret(self, path: Path) -> bool:
        if any(part in SECRET for part in path):
            return True
        return any(path[:length] in self._hidden for length in range(1, len(path) + 1))


def dotted(path: Path) -> str:
    """Return a path as people write it."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return what was probably meant; empty when nothing is near."""
    import difflib  # only where there is something to suggest: `check` is to be quick

    close = difflib.get_close_matches(word, list(known), n=1)
    return f'did you mean "{close[0]}"?' if close else ""


def _place(problem: Problem) -> tuple[int, int]:
    return (problem.position.line, problem.position.column)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
