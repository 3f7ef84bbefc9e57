"""The tables of docs/configuration.md: every setting, made from the model itself.

`python -m proxy_actors.config.reference FILE` (`make docs`) writes them into the file, between
marks; the prose around them stays. Nothing else uses this.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import msgspec

from proxy_actors.config.model import Config
from proxy_actors.config.section import SECRET, Section

# A unit is the last word of a name; a number that has none counts things.
_UNITS = {
    "_s": "seconds", "_s_max": "seconds", "_ms": "milliseconds", "bytes_max": "bytes",
    "_bytes_total_max": "bytes", "_percent": "percent",
}  # fmt: skip
_UNITS_OF = {
    "address_rate": "requests/s", "initialize_rate": "sessions/s", "rate": "requests/s",
    "failures_per_minute": "keys/minute", "body_rate_min": "bytes/s", "spread": "share",
    "success_rate_factor": "deviations", "ejected_percent_max": "percent",
    "failure_percentage": "percent",
}  # fmt: skip
_NUMBERS = {int: "number", float: "number", str: "text", bool: "`true` or `false`"}
_MARK = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->\n)", re.S)


class Setting(msgspec.Struct, frozen=True):
    """One setting: its name in the file, and what the tables say of it."""

    name: str
    kind: str
    unit: str
    default: str
    limits: str
    meaning: str


def sections() -> Iterator[tuple[str, type[Section]]]:
    """Yield the tables of the file, each under its header; "top" is the file itself."""
    yield from _sections("", Config)


def settings(section: type[Section]) -> list[Setting]:
    """List the settings of a table, without the tables below it."""
    return [
        _setting(section, field)
        for field in msgspec.structs.fields(section)
        if _section_of(field.type) is None
    ]


def rendered(text: str) -> str:
    """Return a text with the table behind each mark made anew.

    Raises:
        ValueError: a table has no mark, or a mark no table.
    """
    known = dict(sections())
    marks = {match[2] for match in _MARK.finditer(text)}
    if marks != known.keys():
        raise ValueError(f"marks and tables differ: {sorted(marks ^ known.keys())}")
    return _MARK.sub(lambda x: f"{x[1]}{_table(known[x[2]])}{x[3]}", text)


def _sections(header: str, section: type[Section]) -> Iterator[tuple[str, type[Section]]]:
    yield header or "top", section
    for field in msgspec.structs.fields(section):
        inner = _section_of(field.type)
        if inner is not None:
            path = f"{header}.{field.encode_name}" if header else field.encode_name
            named = get_origin(_bare(field.type)) is dict
            yield from _sections(f"{path}.NAME" if named else path, inner)


def _section_of(kind: Any) -> type[Section] | None:
    """Return the section that a type is, holds, or may be."""
    kind = _bare(kind)
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind
    if get_origin(kind) in (dict, tuple, Union, types.UnionType):
        return next(filter(None, map(_section_of, get_args(kind))), None)
    return None


def _table(section: type[Section]) -> str:
    rows = [
        f"| `{x.name}` | {x.kind} | {x.unit} | {x.default} | {x.limits} | {x.meaning} |"
        for x in settings(section)
    ]
    if not rows:
        return ""
    head = "| setting | type | unit | default | limits | meaning |\n|---|---|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def _setting(section: type[Section], field: msgspec.structs.FieldInfo) -> Setting:
    metas = list(_metas(field.type))
    meaning = " ".join(meta.description for meta in metas if meta.description)
    if field.name in SECRET:
        meaning += " Never shown."
    return Setting(
        field.encode_name,
        _kind(field.type),
        _unit(field.name, _bare(field.type)),
        "required" if field.required else _default(field.default),
        _limits(metas),
        meaning,
    )


def _metas(kind: Any) -> Iterator[msgspec.Meta]:
    while hasattr(kind, "__metadata__"):
        yield from kind.__metadata__
        kind = kind.__origin__


def _bare(kind: Any) -> Any:
    return kind.__origin__ if hasattr(kind, "__metadata__") else kind


def _kind(kind: Any) -> str:
    kind = _bare(kind)
    if get_origin(kind) is tuple:
        return "list of text"
    if get_origin(kind) is dict:
        return "table of text"
    if issubclass(kind, Enum):
        return " or ".join(f"`{choice.value}`" for choice in kind)
    return _NUMBERS[kind]


def _unit(name: str, kind: Any) -> str:
    by_end = (unit for end, unit in _UNITS.items() if name.endswith(end))
    return _UNITS_OF.get(name) or next(by_end, "count" if kind is int and name != "version" else "")


def _default(value: Any) -> str:
    if value in ("", (), msgspec.NODEFAULT):  # an empty table is made anew for each
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (int, float)):
        return f"`{value:_}`".replace(".0`", "`")
    return f"`{value.value if isinstance(value, Enum) else value}`"


def _limits(metas: list[msgspec.Meta]) -> str:
    said = []
    for meta in metas:
        if meta.gt is not None:
            said.append(f"more than {meta.gt:_}")
        if meta.ge is not None:
            said.append(f"from {meta.ge:_}")
        if meta.le is not None:
            said.append(f"to {meta.le:_}")
        if meta.pattern is not None:
            said.append(f"`{meta.pattern}`")
    return " ".join(said)


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(rendered(file.read_text(encoding="utf-8")), encoding="utf-8")
