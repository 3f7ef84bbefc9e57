"""Where keys and values stand: found again for everything that the real parsers read."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy_actors.config.positions import Path, Position, Positions, of_json, of_toml

TOML = '''\
# a comment with [brackets] and "quotes"
top = 1
"quoted key" = "a # b" # after
'literal "key"' = \'\'
"esc\\u0061ped\\t" = """
[not.a.table]
a = "1" \\""" still \\\\"""
dotted . "in.ner" . last = \'\'\'
x = 'y' \'\'\'
"" = 0
list = [ # comment ] }
  1, [2, "],"], # more
  { inline = true, deep.er = [ {} ] }, ]
date = 1979-05-27 07:32:00 # local
float=-inf
[table]
key = 1
[ table . sub ]
key = { a = 1, b . c = "}" }
[[rows]]
id = 1
[[rows.inner]]
x = 1
[[rows.inner]]
x = 2
[rows.inner.table]
y = 3
[[rows]]
id = 2
[[rows.inner]]
quotes = """""a"" """""
literal = \'\'\'\'\'b\'\'\'\'\'
[late.super]
[late]
k = ""
'''


def keys_of(value: Any, path: Path = ()) -> list[Path]:
    """List the paths of everything that was read."""
    found = [path] if path else []
    if isinstance(value, dict):
        for name, inner in value.items():
            found += keys_of(inner, (*path, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            found += keys_of(inner, (*path, number))
    return found


def at(text: str, place: Position) -> str:
    """Return what stands at a place."""
    line = text.split("\n")[place.line - 1]
    return line[place.column - 1 : place.column - 1 + place.length]


def name_at(text: str, place: Position) -> str:
    """Return the key that stands at a place, decoded by another than the walker."""
    return next(iter(tomllib.loads(f"{at(text, place)} = 0")))


def check_toml(text: str) -> None:
    """Every key is found at a place where it stands, every plain value where it begins."""
    raw = tomllib.loads(text)
    places = of_toml(text)
    for path in keys_of(raw):
        named = next(part for part in reversed(path) if isinstance(part, str))
        assert name_at(text, places.of_key(path)) == named, path
        value = raw
        for part in path:
            value = value[part]
        if not isinstance(value, (dict, list)):
            check_toml_value(text, places.of_value(path), value)


def check_toml_value(text: str, place: Position, value: object) -> None:
    """The rest of the text begins with the value: tomllib reads it from there."""
    rest = "\n".join(text.split("\n")[place.line - 1 :])[place.column - 1 :]
    for end in range(1, len(rest) + 1):
        try:
            read = tomllib.loads(f"x = {rest[:end]}")["x"]
        except tomllib.TOMLDecodeError:
            continue
        if repr(read) == repr(value):
            return
    raise AssertionError(f"{value!r} does not begin at {place}")


def test_every_key_of_a_toml_text_is_found() -> None:
    check_toml(TOML)


@pytest.mark.parametrize(
    ("path", "line", "shown"),
    [
        (("top",), 2, "top"),
        (("quoted key",), 3, '"quoted key"'),
        (('literal "key"',), 4, "'literal \"key\"'"),
        (("escaped\t",), 5, '"esc\\u0061ped\\t"'),
        (("dotted", "in.ner", "last"), 8, "last"),
        (("",), 10, '""'),
        (("list", 2, "deep", "er"), 13, "er"),
        (("table", "sub", "key", "b", "c"), 19, "c"),
        (("rows",), 20, "rows"),
        (("rows", 0), 20, "rows"),
        (("rows", 1), 28, "rows"),
        (("rows", 0, "inner", 1, "x"), 25, "x"),
        (("rows", 0, "inner", 1, "table", "y"), 27, "y"),
        (("rows", 1, "inner", 0, "quotes"), 31, "quotes"),
        (("late",), 33, "late"),
        (("late", "k"), 35, "k"),
    ],
)
def test_key_is_found_where_it_stands_first(path: Path, line: int, shown: str) -> None:
    place = of_toml(TOML).of_key(path)
    assert (place.line, at(TOML, place)) == (line, shown)


def test_what_is_not_there_is_found_at_the_table_around_it() -> None:
    places = of_toml(TOML)
    assert places.of_key(("table", "sub", "missing", "deeper")) == places.of_key(("table", "sub"))
    assert places.of_value(("table", "missing")) == places.of_key(("table",))
    assert of_toml("").of_key(("missing",)) == Position(1, 1)


keys = st.one_of(
    st.from_regex(r"[A-Za-z0-9_-]{1,4}", fullmatch=True),
    st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=4),
)
scalars = st.one_of(
    st.integers(-9, 9), st.booleans(), st.text("ab \"'#]},=[{\\\n\t\u00e9", max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(keys, values, max_size=5)


def toml_string(text: str, style: int) -> str:
    if style == 1 and "'" not in text and "\n" not in text:
        return f"'{text}'"
    if style == 2 and "'''" not in text and not text.endswith("'"):
        return f"'''\n{text}'''"
    plain = json.dumps(text, ensure_ascii=False)[1:-1]
    return f'"""\n{plain}"""' if style == 3 else f'"{plain}"'


class Writer:
    """Writes values as TOML, in a style drawn for each."""

    def __init__(self, draw: Any) -> None:  # Any: hypothesis
        self._draw = draw

    def _one_of(self, *choices: Any) -> Any:
        return self._draw(st.sampled_from(choices))

    def key(self, name: str) -> str:
        bare = name.isascii() and name and all(x.isalnum() or x in "_-" for x in name)
        if bare and self._one_of(True, False):
            return name
        return toml_string(name, self._one_of(0, 1))

    def value(self, value: Any) -> str:
        blank = self._one_of("", " ", "\t")
        if isinstance(value, dict):
            pairs = (f"{self.key(k)}{blank}={self.value(v)}" for k, v in value.items())
            return f"{{{blank}{', '.join(pairs)}}}"
        if isinstance(value, list):
            gap = self._one_of(" ", "\n", " # ] }\n")
            return f"[{gap}{f',{gap}'.join(self.value(x) for x in value)}{gap}]"
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, str):
            return toml_string(value, self._one_of(0, 1, 2, 3))
        return str(value)

    def table(self, table: dict[str, Any], header: str = "") -> str:
        """Write a table, with inner ones under headers of their own, in dots, or inline."""
        plain, later = [], []
        for name, value in table.items():
            key = self.key(name)
            path = f"{header}.{key}" if header else key
            rows = isinstance(value, list) and value and all(isinstance(x, dict) for x in value)
            style = self._one_of("inline", "header", "dots")
            if isinstance(value, dict) and style == "header":
                later.append(f"[{path}]\n" + self.table(value, path))
            elif rows and style == "header":
                later += [f"[[ {path} ]]\n" + self.table(row, path) for row in value]
            elif isinstance(value, dict) and value and style == "dots":
                plain += [f"{key} . {self.key(k)} = {self.value(v)}\n" for k, v in value.items()]
            else:
                plain.append(f"{key} = {self.value(value)} # [x]\n")
        return "".join(plain + later)


@given(st.data(), documents)
def test_every_key_that_tomllib_reads_is_found(data: st.DataObject, document: Any) -> None:
    """Any document, in any of the styles of TOML."""
    text = Writer(data.draw).table(document)
    assert tomllib.loads(text) == document
    check_toml(text)


def check_json(text: str) -> None:
    """Every key and every plain value is found where it stands."""
    raw = json.loads(text)
    places = of_json(text)
    for path in keys_of(raw):
        value = raw
        for part in path:
            value = value[part]
        if isinstance(path[-1], str):
            assert json.loads(at(text, places.of_key(path))) == path[-1]
        place = places.of_value(path)
        rest = "\n".join(text.split("\n")[place.line - 1 :])[place.column - 1 :]
        assert json.JSONDecoder().raw_decode(rest)[0] == value


@given(documents, st.sampled_from([None, 0, 3, "\t"]), st.booleans())
def test_every_key_that_json_reads_is_found(document: Any, indent: Any, ascii: bool) -> None:
    check_json(json.dumps(document, indent=indent, ensure_ascii=ascii))


def test_repeated_key_of_json_is_noted_and_its_last_mention_counts() -> None:
    places = of_json('{"a": {"b": 1},\n "a": {"b": 2, "\\u0062": 3}, "c": [{"a": 1}]}')
    assert places.repeated == [("a",), ("a", "b")]
    assert places.of_key(("a",)) == Position(2, 2, 3)
    assert places.of_key(("a", "b")).column == 16
    assert places.of_value(("c", 0, "a")).line == 2


def test_what_was_renamed_is_found_under_its_name_in_the_text() -> None:
    places = of_json('{"mcpServers": {"My Files": {"args": ["x"]}}}')
    places.rename(("upstreams", "my-files"), ("mcpServers", "My Files"))
    places.rename(("upstreams", "my-files", "command", 1), ("mcpServers", "My Files", "args", 0))
    assert places.of_key(("upstreams", "my-files")).column == 17
    assert places.of_value(("upstreams", "my-files", "command", 1)).column == 39
    assert places.of_value(("upstreams", "my-files", "command", 0)).column == 17


def quoted(places: Positions, path: Path, *secret: Path) -> tuple[str, str, str]:
    return places.quoted(places.of_value(path), lambda x: x in secret)


def test_line_is_cut_where_the_place_is() -> None:
    places = of_toml("a = 1\nbc = 2 # end")
    assert quoted(places, ("bc",)) == ("bc = ", "2", " # end")
    assert places.quoted(places.of_key(("bc",)), lambda _: False) == ("", "bc", " = 2 # end")
    assert places.quoted(Position(2, 13), lambda _: True)[0] == "bc = **** # end"


def test_secret_is_not_on_its_line_however_it_is_written() -> None:
    text = 'a = { s = "canary", n = 12 }\ns = """\ncanary\nlast""" # x\nb = 12 # y'
    places = of_toml(text)
    secret = (("a", "s"), ("s",))
    assert quoted(places, ("a", "n"), *secret) == ("a = { s = ****, n = ", "1", "2 }")
    assert quoted(places, ("s",), *secret) == ("s = ", "****", "")
    shown = ["".join(places.quoted(Position(n, 1), lambda x: x in secret)) for n in range(1, 6)]
    assert shown == ["a = { s = ****, n = 12 }", "s = ****", "****", "**** # x", "b = 12 # y"]
    assert "".join(quoted(places, ("b",), ("b",))) == "b = **** # y"


def test_secret_of_json_is_not_on_its_line() -> None:
    places = of_json('{"a": "cana\\"ry", "n": 123, "l": [true, null]}')
    assert "".join(quoted(places, ("a",), ("a",), ("n",), ("l", 0))) == (
        '{"a": ****, "n": ****, "l": [****, null]}'
    )
