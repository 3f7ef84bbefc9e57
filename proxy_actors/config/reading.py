"""From the tables of a file to the structs of the model, with all mistakes found in one go.

msgspec stops at the first mistake and does not say under which name of a map it was; so every table
is walked here, and msgspec judges the single values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, get_args, get_origin

import msgspec

from proxy_actors.config.interpolation import interpolate, refers
from proxy_actors.config.section import Section
from proxy_actors.config.positions import Path
from proxy_actors.config.problems import Problems, dotted, suggestion
from proxy_actors.errors import ConfigurationError

_PATH_OF_MSGSPEC = re.compile(r" - at `\$.*`$")
# What no command, no path and no field can hold.
_UNSENDABLE = re.compile("[\0\ud800-\udfff]")


class Missing(Exception):
    """A value could not be read; its problem has been noted."""


class Reader:
    """Reads tables into structs.

    Args:
        problems: where mistakes are noted.
        environment: for references in values.
    """

    def __init__(self, problems: Problems, environment: Mapping[str, str]) -> None:
        self._problems = problems
        self._environment = environment

    def section(self, kind: type[Section], table: object, path: Path) -> Any:
        """Read one table; what is wrong with it is noted, and left at its default.

        Raises:
            Missing: it is no table, or a value is missing that has no default.
        """
        if not isinstance(table, dict):
            raise self._no_table(path)
        fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        for key in table.keys() - fields.keys():
            self._problems.hide((*path, key))
            where = f" in {dotted(path)}" if path else ""
            self._problems.error(
                (*path, key), f'unknown key "{key}"{where}', suggestion(key, fields)
            )
        values: dict[str, Any] = {}
        for name, field in fields.items():
            if name not in table:
                if field.required:
                    where = dotted(path) or "the file"
                    self._problems.error(path, f'"{name}" is missing in {where}')
                continue
            try:
                values[field.name] = self._value(field.type, table[name], (*path, name))
            except Missing:
                pass
        if any(field.required and field.name not in values for field in fields.values()):
            raise Missing
        return kind(**values)

    def _value(self, kind: Any, value: Any, path: Path) -> Any:
        bare = _bare(kind)
        section = _section_of(bare)
        if section is not None:
            return self.section(section, value, path)
        if get_origin(bare) is dict:
            key_kind, value_kind = get_args(bare)
            return self._map(key_kind, value_kind, value, path)
        if get_origin(bare) is tuple and isinstance(value, list):
            (item, _) = get_args(bare)
            rows = ((n, item, x, (*path, n)) for n, x in enumerate(value))
            return tuple(x for _, x in self._all(rows))
        return self._leaf(kind, value, path)

    def _map(self, key_kind: Any, value_kind: Any, value: Any, path: Path) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._no_table(path)
        names = list(value)
        for name in names:
            try:
                msgspec.convert(name, key_kind)
            except msgspec.ValidationError:
                text = f'"{name}" is no name: lower-case letters, digits, - and _'
                self._problems.error((*path, name), text)
        items = ((name, value_kind, value[name], (*path, name)) for name in names)
        return dict(self._all(items))

    def _all(self, items: Any) -> list[tuple[Any, Any]]:
        """Read every one that can be read, so that the mistakes of all are found."""
        read = []
        for name, kind, value, path in items:
            try:
                read.append((name, self._value(kind, value, path)))
            except Missing:
                self._problems.note_unread(path)
        return read

    def _leaf(self, kind: Any, value: Any, path: Path) -> Any:
        try:
            from_elsewhere = isinstance(value, str) and refers(value)
            if isinstance(value, str):
                value = interpolate(value, self._environment)
                if _UNSENDABLE.search(value):
                    raise ConfigurationError("this has a NUL, or half of a character")
            return msgspec.convert(value, kind, strict=not from_elsewhere)  # "8808" is a number
        except ConfigurationError as error:
            self._problems.error(path, f"{dotted(path)}: {error}", at_value=True)
        except msgspec.ValidationError as error:
            self._note_unfit(kind, value, path, error)
        raise Missing

    def _no_table(self, path: Path) -> Missing:
        self._problems.hide(path)
        self._problems.error(path, f"{dotted(path)} must be a table", at_value=True)
        return Missing()

    def _note_unfit(
        self, kind: Any, value: object, path: Path, error: msgspec.ValidationError
    ) -> None:
        bare = _bare(kind)
        if isinstance(bare, type) and issubclass(bare, Enum):
            choices = [str(choice.value) for choice in bare]
            text, hint = f"must be one of {', '.join(choices)}", suggestion(str(value), choices)
        else:
            told = _PATH_OF_MSGSPEC.sub("", str(error)).replace("`", "")
            text, hint = f"{told[0].lower()}{told[1:]}", ""
            if isinstance(value, dict) and get_origin(bare) is tuple:
                hint = f"write [[{dotted(path)}]]"
        self._problems.error(path, f"{dotted(path)}: {text}", hint, at_value=True)


def _bare(kind: Any) -> Any:
    """Return a type without its annotations."""
    return kind.__origin__ if hasattr(kind, "__metadata__") else kind


def _section_of(kind: Any) -> type[Section] | None:
    """Return the section among the alternatives of a type."""
    for alternative in (kind, *get_args(kind)):
        if isinstance(alternative, type) and issubclass(alternative, Section):
            if get_origin(kind) not in (dict, tuple):
                return alternative
    return None
