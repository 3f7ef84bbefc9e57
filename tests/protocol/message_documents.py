"""Documents that nearly are JSON-RPC messages, spelled in every way that JSON allows.

Each is made from a seed: far more of them than a library of strategies would draw in the time.
"""

from __future__ import annotations

from random import Random
from typing import Any

from tests.protocol.message_oracle import ENVELOPE, ROUTING, Number, Pairs

NAMES = (
    *ENVELOPE, *ROUTING, "code", "message", "cursor", "x/y", "", "é", '"', "\\", "[{", "a\nb",
    "ID", "Method", "param\u017f", "RESULT", "Name", "_Meta", "progressto\u212aen", "Uri",
)  # fmt: skip
NUMBERS = ("0", "1", "-1", "-0", "1.0", "1e3", "-32600", "9" * 30, "2.0")
TEXTS = (
    "2.0", "ping", "tools/call", "", "a", "é", "\U0001f600", '"', "\\", "[{", "}]\\", "a\r\nb",
)  # fmt: skip
METHODS = (
    "ping", "tools/call", "resources/subscribe", "notifications/progress",
    "notifications/cancelled", "notifications/resources/updated",
)  # fmt: skip
# What makes of a document something that is none any more, mostly.
CORRUPTIONS = (
    b'"', b"\\", b"\\\\", b"\\u0061", b"\\u00", b"\\ud800", b"\\udc00", b"\\ud83d\\ude00",
    b"{", b"}", b"[", b"]", b"[[[[", b"]]]]", b",", b":", b" ", b"\n", b"\r", b"\r\n", b"\t",
    b"\0", b"\x0c", b"\x7f", b"\xff", b"\xc3", b"\xc3\xa9", b"\xed\xa0\x80", b"\xef\xbb\xbf",
    b"NaN", b"-", b"+", b"0", b"1", b".", b"e", b"null", b"true", b"",
)  # fmt: skip

_WHITE = (b" ", b"\n", b"\r\n", b"\r", b"\t", b"  ")
_SHORT = {'"': b'\\"', "\\": b"\\\\", "\n": b"\\n", "\r": b"\\r", "/": b"\\/"}


def document(seed: int) -> bytes:
    """Return a message or a batch, sound or nearly, with a few bytes corrupted or not."""
    chance = Random(seed)
    made: Any = _message(chance)
    if chance.random() < 0.15:
        elements = [_message(chance) for _ in range(chance.choice((0, 0, 1, 2)))]
        made = chance.choice(([made], [], elements, [made, *elements, _value(chance)]))
    data = spelled(made, chance)
    for _ in range(chance.choice((0, 0, 0, 1, 2))):
        at = chance.randint(0, len(data))
        data = data[:at] + chance.choice(CORRUPTIONS) + data[at + chance.randint(0, 2) :]
    return data


def _message(chance: Random) -> Pairs:
    members: list[tuple[str, Any]] = [("jsonrpc", "2.0")]
    kind = chance.choice(("request", "notification", "result", "error"))
    if kind != "notification":
        members.append(("id", _identifier(chance)))
    match kind:
        case "result":
            members.append(("result", _value(chance)))
        case "error":
            fault = (("code", Number("-32600")), ("message", "no"), ("data", _value(chance)))
            members.append(("error", _edited(Pairs(fault), chance)))
        case _:
            members.append(("method", chance.choice(METHODS)))
            members.append(("params", _params(chance)))
    return _edited(_edited(Pairs(members), chance), chance)


def _params(chance: Random) -> Any:
    if chance.random() < 0.2:
        return _value(chance)
    members = [(name, _identifier(chance)) for name in chance.sample(ROUTING, 3) if name != "_meta"]
    if chance.random() < 0.5:
        meta = (("progressToken", _identifier(chance)), ("x/y", _leaf(chance)))
        members.append(("_meta", _edited(Pairs(meta), chance)))
    return _edited(Pairs(members), chance)


def _edited(pairs: Pairs, chance: Random) -> Pairs:
    """Return the same members, or with one added, repeated, renamed, replaced or left out."""
    members = list(pairs)
    if chance.random() < 0.6 or not members:
        return pairs
    place = chance.randrange(len(members))
    name, value = members[place]
    match chance.choice(("add", "repeat", "twin", "rename", "replace", "omit", "turn")):
        case "add":
            members.insert(place, (chance.choice(NAMES), _value(chance)))
        case "repeat":
            members.append((name, chance.choice((value, _value(chance)))))
        case "twin":
            members.insert(place, (_other_case(name, chance), value))
        case "rename":
            members[place] = _other_case(name, chance), value
        case "replace":
            members[place] = name, _value(chance)
        case "omit":
            del members[place]
        case "turn":
            members.reverse()
    return Pairs(members)


def _other_case(name: str, chance: Random) -> str:
    kelvin_and_long_s = name.replace("k", "\u212a").replace("s", "\u017f")
    return chance.choice((name.upper(), name.lower(), name.title(), kelvin_and_long_s))


def _identifier(chance: Random) -> Any:
    if chance.random() < 0.1:
        return _value(chance)
    return chance.choice((Number("1"), Number(chance.choice(NUMBERS)), chance.choice(TEXTS)))


def _value(chance: Random, depth: int = 0) -> Any:
    kind = chance.random()
    if kind < 0.5 or depth > 4:
        return _leaf(chance)
    size = chance.randint(0, 2)
    if kind < 0.7:
        return [_value(chance, depth + 1) for _ in range(size)]
    return Pairs((chance.choice(NAMES), _value(chance, depth + 1)) for _ in range(size))


def _leaf(chance: Random) -> Any:
    number = Number(chance.choice(NUMBERS))
    return chance.choice((None, True, False, number, number, chance.choice(TEXTS)))


def spelled(value: Any, chance: Random) -> bytes:
    """Write JSON with white space anywhere, and any character escaped in any way."""

    def white() -> bytes:
        return chance.choice(_WHITE) if chance.random() < 0.05 else b""

    match value:
        case None | True | False:
            text = {None: b"null", True: b"true", False: b"false"}[value]
        case Number():
            text = value.text.encode()
        case str():
            text = _spelled_text(value, chance)
        case Pairs():
            members = (
                white() + _spelled_text(name, chance) + white() + b":" + spelled(member, chance)
                for name, member in value
            )
            text = b"{" + b",".join(members) + white() + b"}"
        case _:
            text = b"[" + b",".join(spelled(element, chance) for element in value) + b"]"
    return white() + text + white()


def _spelled_text(text: str, chance: Random) -> bytes:
    if text == "2.0":
        return b'"2.0"'  # admission knows one spelling of the version
    plain = chance.random() < 0.8
    return b'"%b"' % b"".join(_spelled_character(character, plain, chance) for character in text)


def _spelled_character(character: str, plain: bool, chance: Random) -> bytes:
    must = character in '"\\' or character < " "
    if not must and (plain or chance.random() < 0.5):
        return character.encode()
    if character in _SHORT and chance.random() < 0.5:
        return _SHORT[character]
    units = character.encode("utf-16-be").hex()
    if chance.random() < 0.5:
        units = units.upper()
    return b"".join(b"\\u" + units[at : at + 4].encode() for at in range(0, len(units), 4))
