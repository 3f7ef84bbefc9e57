"""Header fields: look-up, the hop-by-hop rules, and the few values that the proxy understands.

Owns the one representation of fields in this package: a list of (name, value) in the order of the
wire, names in lower case, values without surrounding white space. Never parses framing, and never
changes a value. The gateway and both HTTP/1.1 parsers use it.
"""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Iterator
from email.utils import parsedate_tz
from functools import lru_cache

from proxy_actors.errors import RefusedError

Fields = list[tuple[bytes, bytes]]

# RFC 9110 section 7.6.1, and what frames or negotiates the message of one hop only. Content-Length
# and Expect are among them because bodies are framed anew and buffered before they are forwarded.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

# A client that nominates one of these asks the proxy to strip what a previous hop may have added
# for the next one to trust.
_NEVER_NOMINATED = frozenset(
    {
        b"accept",
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"cookie",
        b"date",
        b"forwarded",
        b"host",
        b"last-event-id",
        b"location",
        b"origin",
        b"retry-after",
        b"set-cookie",
        b"traceparent",
        b"tracestate",
        b"via",
        b"www-authenticate",
    }
)
_NEVER_NOMINATED_PREFIXES = (b"mcp-", b"x-forwarded-", b"x-real-ip")

# What an answer says of the connection it came on, or of its origin: to clients that is the proxy.
_OF_THE_UPSTREAM = HOP_BY_HOP | {
    b"alt-svc", b"clear-site-data", b"content-encoding", b"content-type", b"date",
    b"mcp-session-id", b"server", b"set-cookie", b"strict-transport-security", b"www-authenticate",
    b"x-accel-buffering",
}  # fmt: skip
_OF_THE_UPSTREAM_PREFIXES = (b"access-control-", b"proxy-", b"x-accel-", b"x-proxy-actors-")

_LIST_MEMBER = re.compile(rb'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')
_QUALITY = re.compile(rb"[ \t]*[Qq]=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)[ \t]*")
_DELAY_S_DIGITS_MAX = 9


def first(fields: Fields, name: bytes) -> bytes | None:
    """Return the first value of a field, None when absent. `name` is in lower case."""
    for candidate, value in fields:
        if candidate == name:
            return value
    return None


def all_of(fields: Fields, name: bytes) -> list[bytes]:
    """Return every value of a field in the order of the wire."""
    return [value for candidate, value in fields if candidate == name]


def combined(fields: Fields) -> dict[bytes, bytes]:
    """Return one value a name: several lines are one list (RFC 9110 section 5.3).

    A second line of a field that is no list, such as Host, thereby makes its value malformed.
    """
    by_name = dict(fields)
    if len(by_name) != len(fields):
        by_name = {name: b", ".join(all_of(fields, name)) for name in by_name}
    return by_name


@lru_cache(maxsize=128)
def members(value: bytes) -> tuple[bytes, ...]:
    """Return the members of a comma-separated list of tokens, in lower case, without empty ones."""
    stripped = (member.strip(b" \t") for member in value.lower().split(b","))
    return tuple(member for member in stripped if member)


def returnable(fields: Fields) -> Fields:
    """Return what of an upstream's answer is passed on to the client, order kept (HTTP-F3).

    Everything but what is of the connection (RFC 9110 section 7.6.1), fields that its Connection
    names included, and of the upstream as an origin of its own: cookies, CORS, challenges.
    """
    nominated = members(b",".join(all_of(fields, b"connection")))
    return [
        (name, value)
        for name, value in fields
        if name not in _OF_THE_UPSTREAM
        and name not in nominated
        and not name.startswith(_OF_THE_UPSTREAM_PREFIXES)
    ]


def forwardable(fields: Fields) -> Fields:
    """Return what of a request may be sent to the next hop, order kept (RFC 9110 section 7.6.1).

    To be called before the proxy adds fields of its own.

    Raises:
        RefusedError: 400, when Connection nominates an end-to-end or a security field.
    """
    nominated = members(b",".join(all_of(fields, b"connection")))
    for name in nominated:
        if _is_end_to_end(name):
            raise RefusedError(400, "The Connection field names an end-to-end field.", close=True)
    dropped = HOP_BY_HOP.union(nominated) if nominated else HOP_BY_HOP
    return [field for field in fields if field[0] not in dropped]


def media_type(value: bytes) -> bytes:
    """Return a Content-Type without its parameters, in lower case."""
    return value.partition(b";")[0].strip(b" \t").lower()


@lru_cache(maxsize=128)
def accepts(value: bytes, needed: bytes) -> bool:
    """Say whether an Accept list admits a media type (RFC 9110 section 12.5.1).

    The most specific range that matches decides, and the highest of equal ones; a weight of 0
    refuses. Parameters other than `q` do not narrow a range, because clients send charsets that
    mean nothing for JSON; a member with a malformed weight is ignored.

    Args:
        value: the field's value, the lines of several joined with commas.
        needed: the media type in lower case, without parameters.
    """
    wildcards = {needed: 3, needed.partition(b"/")[0] + b"/*": 2, b"*/*": 1}
    best = (0, 0.0)
    for media_range, quality in _media_ranges(value):
        best = max(best, (wildcards.get(media_range, 0), quality))
    return best[0] > 0 and best[1] > 0


def retry_after_s(fields: Fields) -> float | None:
    """Return the seconds that Retry-After asks for, at least 0, None when absent or malformed.

    A date is counted from the response's own Date, so that no clock is needed and the sender's
    error cancels out (RFC 9110 section 10.2.3).
    """
    value = first(fields, b"retry-after")
    if value is None:
        return None
    if value.isdigit():
        return float(value) if len(value) <= _DELAY_S_DIGITS_MAX else None
    due_s = _date_s(value)
    sent_s = _date_s(first(fields, b"date"))
    return None if due_s is None or sent_s is None else max(0.0, due_s - sent_s)


def _is_end_to_end(name: bytes) -> bool:
    return name in _NEVER_NOMINATED or name.startswith(_NEVER_NOMINATED_PREFIXES)


def _media_ranges(value: bytes) -> Iterator[tuple[bytes, float]]:
    for member in _LIST_MEMBER.findall(value):
        media_range, *parameters = member.split(b";")
        quality = 1.0
        for parameter in parameters:
            if not parameter.lstrip(b" \t").lower().startswith(b"q="):
                continue
            match = _QUALITY.fullmatch(parameter)
            quality = float(match[1]) if match else -1.0
            break
        if quality >= 0:
            yield media_range.strip(b" \t").lower(), quality


def _date_s(value: bytes | None) -> float | None:
    """Return an HTTP date as seconds since the epoch; a missing zone is UTC."""
    if value is None:
        return None
    try:
        parts = parsedate_tz(value.decode("ascii"))
        return None if parts is None else float(timegm(parts[:6]) - (parts[9] or 0))
    except (ValueError, OverflowError):
        return None
