"""Admission of JSON-RPC messages, rule by rule; test_jsonrpc_fuzz has the second opinion."""

from __future__ import annotations

import json

import msgspec
import pytest
from msgspec import Raw

from proxy_actors.errors import INVALID_PARAMS, INVALID_REQUEST, PARSE_ERROR, MessageError
from proxy_actors.protocol import jsonrpc, jsonrpc_names
from proxy_actors.protocol.jsonrpc import (
    DEPTH_MAX,
    ID_BYTES_MAX,
    MEMBERS_MAX,
    Kind,
    Message,
    admit,
)
from proxy_actors.protocol.jsonrpc_batch import BATCH_MAX

CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":%b}'
NOTICE = b'{"jsonrpc":"2.0","method":"notifications/message","params":%b}'
ANSWER = b'{"jsonrpc":"2.0","id":1,"result":%b}'
FAULT = b'{"jsonrpc":"2.0","id":1,"error":%b}'
HIDDEN = b'{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"delete_all"}}'


def one(document: bytes) -> Message:
    message = admit(document)
    assert isinstance(message, Message)
    return message


def several(document: bytes) -> tuple[Message, ...]:
    messages = admit(document)
    assert isinstance(messages, tuple)
    return messages


def refusal(document: bytes) -> MessageError:
    with pytest.raises(MessageError) as refused:
        admit(document)
    return refused.value


# What a message is.


def test_request_shows_the_members_that_a_proxy_reads() -> None:
    params = b'{"name":"add","arguments":{"a":1},"_meta":{"progressToken":"t","x/y":[1]}}'
    message = one(CALL % params)
    assert message.kind is Kind.REQUEST
    assert message.raw == CALL % params
    assert (message.id, message.method, message.is_error) == (b"1", "tools/call", False)
    assert list(message.envelope) == ["jsonrpc", "id", "method", "params"]
    assert bytes(message.params["arguments"]) == b'{"a":1}'
    assert {name: bytes(value) for name, value in message.meta.items()} == {
        "progressToken": b'"t"',
        "x/y": b"[1]",
    }


def test_notification_is_what_has_a_method_and_no_id() -> None:
    """MCP-G-4."""
    message = one(NOTICE % b'{"level":"info","data":null}')
    assert (message.kind, message.id, message.method) == (
        Kind.NOTIFICATION, None, "notifications/message",
    )  # fmt: skip


def test_responses_name_no_method_and_have_no_parameters() -> None:
    """Whatever a result holds is nobody's business here."""
    message = one(ANSWER % b'{"method":"x","_meta":{"progressToken":1}}')
    assert (message.kind, message.id, message.method, message.is_error) == (
        Kind.RESPONSE, b"1", None, False,
    )  # fmt: skip
    assert (message.params, message.meta) == ({}, {})
    error = one(FAULT % b'{"code":-32601,"message":"no"}')
    assert (error.kind, error.id, error.is_error) == (Kind.RESPONSE, b"1", True)


@pytest.mark.parametrize("params", [b"[]", b'[1,{"_meta":{}}]', b"{}"])
def test_parameters_may_be_an_array_or_absent(params: bytes) -> None:
    """JSON-RPC section 4.2; what is in an array has no names to read."""
    message = one(CALL % params)
    assert (message.params, message.meta) == ({}, {})
    absent = one(b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
    assert (absent.params, absent.meta) == ({}, {})


@pytest.mark.parametrize("meta", [b"null", b"[]", b"7", b'"_meta"'])
def test_meta_that_is_no_object_is_passed_on_unread(meta: bytes) -> None:
    """MCP-G-8."""
    message = one(CALL % b'{"_meta":%b}' % meta)
    assert message.meta == {}
    assert bytes(message.params["_meta"]) == meta


@pytest.mark.parametrize(
    "document",
    [
        b"{}",
        b"null",
        b"true",
        b'"2.0"',
        b"17",
        b'{"id":1,"method":"ping"}',
        b'{"jsonrpc":"1.0","id":1,"method":"ping"}',
        b'{"jsonrpc":2.0,"id":1,"method":"ping"}',
        b'{"jsonrpc":null,"id":1,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":1}',
        b'{"jsonrpc":"2.0","id":1,"params":{}}',
        b'{"jsonrpc":"2.0","id":1,"method":null}',
        b'{"jsonrpc":"2.0","id":1,"method":1}',
        b'{"jsonrpc":"2.0","id":1,"method":["ping"]}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":null}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":"x"}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":3}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","error":{"code":1,"message":""}}',
        b'{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}',
        b'{"jsonrpc":"2.0","id":1,"result":null,"error":null}',
        b'{"id":1,"result":{}}',
        b'{"jsonrpc":"2.0","id":1,"error":null}',
        b'{"jsonrpc":"2.0","id":1,"error":"broken"}',
        b'{"jsonrpc":"2.0","id":1,"error":[]}',
        b'{"jsonrpc":"2.0","id":1,"error":{}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":"-32601","message":""}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":1.5,"message":""}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":null,"message":""}}',
    ],
)
def test_json_that_is_no_message_is_an_invalid_request(document: bytes) -> None:
    """FLT-U10: both a result and an error is neither."""
    assert refusal(document).code == INVALID_REQUEST


# Ids.

IDS = [
    b"0", b"1", b"-1", b"7", b"9007199254740993", b"9" * ID_BYTES_MAX,
    b'"7"', b'""', b'" "', b'"a/b"', '"žluťoučký"'.encode(), '"\U0001f600"'.encode(),
    b'"' + b"x" * (ID_BYTES_MAX - 2) + b'"',
]  # fmt: skip


@pytest.mark.parametrize("id", IDS)
def test_ids_keep_type_and_value(id: bytes) -> None:
    """MCP-G-1: 7 is not "7", and no integer is too large to be kept."""
    assert one(b'{"jsonrpc":"2.0","id":%b,"method":"ping"}' % id).id == id
    assert one(b'{"jsonrpc":"2.0","id":%b,"result":{}}' % id).id == id


@pytest.mark.parametrize(
    ("spelled", "id"),
    [
        (rb'"\u0041"', b'"A"'),
        (rb'"\/"', b'"/"'),
        (rb'"\u017e"', '"ž"'.encode()),
        (rb'"\ud83d\ude00"', '"\U0001f600"'.encode()),
        (rb'"\u0022\u005c"', rb'"\"\\"'),
        (rb'"\u000a"', rb'"\n"'),
    ],
)
def test_one_id_has_one_spelling(spelled: bytes, id: bytes) -> None:
    """MCP-G-1: or the answer of a peer that spells it otherwise would find no request."""
    assert one(b'{"jsonrpc":"2.0","id":%b,"method":"ping"}' % spelled).id == id


@pytest.mark.parametrize(
    "id",
    [
        b"null", b"true", b"false", b"[]", b"[1]", b"{}", b"1.0", b"1.5", b"1e3", b"1E0",
        b"-0", b"0.0", b"9" * (ID_BYTES_MAX + 1), b'"' + b"x" * (ID_BYTES_MAX - 1) + b'"',
    ],
)  # fmt: skip
def test_what_is_no_string_and_no_integer_is_no_id(id: bytes) -> None:
    """MCP-G-2: null makes neither a request nor a notification."""
    for document in (
        b'{"jsonrpc":"2.0","id":%b,"method":"ping"}' % id,
        b'{"jsonrpc":"2.0","id":%b,"result":{}}' % id,
    ):
        error = refusal(document)
        assert (error.code, error.request_id) == (INVALID_REQUEST, None)


@pytest.mark.parametrize("id", [b'"id":null,', b""])
def test_error_may_name_no_request(id: bytes) -> None:
    """PROTOCOL section 2: whoever could not read the id answers so; a result needs one."""
    error = one(b'{"jsonrpc":"2.0",%b"error":{"code":-32700,"message":""}}' % id)
    assert (error.kind, error.id) == (Kind.RESPONSE, None)
    assert refusal(b'{"jsonrpc":"2.0",%b"result":{}}' % id).code == INVALID_REQUEST


@pytest.mark.parametrize(
    ("document", "id"),
    [
        (b'{"id":"a","method":"ping"}', b'"a"'),
        (b'{"jsonrpc":"2.0","id":4,"method":5}', b"4"),
        (b'{"jsonrpc":"2.0","id":4,"method":"ping","params":5}', b"4"),
        (b'{"jsonrpc":"2.0","id":4,"method":"ping","result":5}', b"4"),
        (CALL % b'{"name":"a","Name":"b"}', b"1"),
        (CALL % b'{"_meta":{"progressToken":{}}}', b"1"),
        (ANSWER.replace(b"2.0", b"3.0") % b"{}", None),
    ],
)
def test_refusal_of_a_request_names_its_id(document: bytes, id: bytes | None) -> None:
    """PROTOCOL section 2: an id that can be read is echoed; nothing is answered to a response."""
    assert refusal(document).request_id == id


# JSON (RELIABILITY 2.2, "JSON findings"; FLT-C9).

NO_JSON = {
    "unclosed object": b'{"a":1',
    "unclosed array": b"[1",
    "unclosed string": b'"a',
    "trailing comma": b'{"a":1,}',
    "trailing comma in array": b"[1,]",
    "no comma": b'{"a":1 "b":2}',
    "no colon": b'{"a" 1}',
    "name without quotes": b"{a:1}",
    "single quotes": b"{'a':1}",
    "comment": b"/**/1",
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "-Infinity": b"-Infinity",
    "plus sign": b"+1",
    "leading zero": b"01",
    "minus alone": b"-",
    "no digit before the point": b".5",
    "no digit after the point": b"1.",
    "no digit in the exponent": b"1e+",
    "hexadecimal": b"0x1",
    "underscore": b"1_0",
    "arabic digit": "\u0661".encode(),
    "True": b"True",
    "half a word": b"nul",
    "form feed": b"\x0c1",
    "no-break space": "\xa01".encode(),
    "next line": "\x851".encode(),
    "NUL outside": b"1\0",
    "NUL in a string": b'"\0"',
    "tab in a string": b'"\t"',
    "LF in a string": b'"\n"',
    "CR in a string": b'"\r"',
    "CRLF in a string": b'"a\r\nb"',
    "escape of no kind": rb'"\x41"',
    "escape of a line end": b'"\\\n"',
    "short escape": rb'"\u12"',
    "escape with a sign": rb'"\u+123"',
    "capital escape": rb'"\U00000041"',
    "lone high surrogate": rb'"\ud800"',
    "lone low surrogate": rb'"\udc00"',
    "two high surrogates": rb'"\ud800\ud800"',
    "surrogate before a letter": rb'"\ud800\u0041"',
    "surrogate before an escape": rb'"\ud800\n\udc00"',
    "byte order mark": b"\xef\xbb\xbf1",
    "UTF-16": '"a"'.encode("utf-16-le"),
    "invalid byte": b'"\xff"',
    "half a character": b'"\xc3"',
    "overlong": b'"\xc0\xaf"',
    "encoded surrogate": b'"\xed\xa0\x80"',
    "beyond Unicode": b'"\xf4\x90\x80\x80"',
}


@pytest.mark.parametrize("text", NO_JSON.values(), ids=list(NO_JSON))
def test_no_json_is_a_parse_error_at_any_depth(text: bytes) -> None:
    """MCP-G-5: what nobody here looks into reaches readers that do, so all of it is checked."""
    for document in (
        text,
        CALL % (b'{"arguments":%b}' % text),
        CALL % (b'{"arguments":{"a":[%b]}}' % text),
        CALL % (b'{"_meta":{"x":%b}}' % text),
        NOTICE % (b"[%b]" % text),
        ANSWER % text,
        FAULT % (b'{"code":1,"message":"","data":%b}' % text),
        b'{"jsonrpc":"2.0","id":1,"method":"ping"}%b' % text,
        b"[%b]" % (ANSWER % text),
    ):
        assert refusal(document).code == PARSE_ERROR, document


@pytest.mark.parametrize("white", [b"", b" ", b"\n", b" \t\r\n"])
def test_nothing_is_no_json(white: bytes) -> None:
    for document in (white, ANSWER % white, CALL % white, b"[%b,%b]" % (ANSWER % b"{}", white)):
        assert refusal(document).code == PARSE_ERROR, document


@pytest.mark.parametrize("name", [b'"\xff"', rb'"\ud800"', b'"\n"', rb'"\q"', b"1", b"null"])
def test_names_of_members_are_checked_as_well(name: bytes) -> None:
    for document in (
        b'{"jsonrpc":"2.0","id":1,"method":"ping",%b:1}' % name,
        CALL % (b"{%b:1}" % name),
        CALL % (b'{"arguments":{"a":{%b:1}}}' % name),
        ANSWER % (b"{%b:1}" % name),
    ):
        assert refusal(document).code == PARSE_ERROR, document


@pytest.mark.parametrize(
    "text",
    [
        b"0", b"-0", b"1e999999", b"-1E-999999", b"9" * 10_000, b"0." + b"3" * 10_000,
        b'""', rb'"\u0000\u001f\u007f"', '"\x7f\u2028\u2029\x85\ufeff\ufffe"'.encode(),
        rb'"\ud83d\ude00"', "\"\U0001f600žš\"".encode(), rb'"\"\\\/\b\f\n\r\t"',
    ],
)  # fmt: skip
def test_json_of_any_value_leaves_as_it_came(text: bytes) -> None:
    """MCP-G-5, MCP-G-8: numbers are not read, so none is too large and none is rounded."""
    for document in (CALL % (b'{"arguments":{"a":[%b]}}' % text), ANSWER % text):
        assert one(document).raw == document


@pytest.mark.parametrize("unit", [b"[", b'{"a":', b'[{"a":'])
def test_endless_nesting_is_refused_before_the_stack_ends(unit: bytes) -> None:
    """RecursionError is no DecodeError."""
    for document in (unit * 100_000, CALL % (b'{"arguments":%b' % (unit * 100_000))):
        assert refusal(document).code == INVALID_REQUEST


# Depth.


def nested(depth: int, unit: tuple[bytes, bytes]) -> bytes:
    return CALL % (b'{"arguments":%b1%b}' % (unit[0] * (depth - 2), unit[1] * (depth - 2)))


@pytest.mark.parametrize("unit", [(b"[", b"]"), (b'{"a":', b"}"), (b'{"[{\\"":', b"}")])
def test_depth_is_bounded_exactly(unit: tuple[bytes, bytes]) -> None:
    assert one(nested(DEPTH_MAX, unit))
    error = refusal(nested(DEPTH_MAX + 1, unit))
    assert (error.code, str(DEPTH_MAX) in error.text) == (INVALID_REQUEST, True)


def test_array_of_a_batch_counts_as_one_level() -> None:
    unit = (b"[", b"]")
    assert several(b"[%b]" % nested(DEPTH_MAX - 1, unit))
    assert refusal(b"[%b]" % nested(DEPTH_MAX, unit)).code == INVALID_REQUEST


@pytest.mark.parametrize(
    "text", [b"[" * 500, b'\\"[' * 500, b"\\\\" * 500 + b"[{" * 100, rb"\\\"{" * 100]
)
def test_brackets_within_strings_are_no_depth(text: bytes) -> None:
    assert one(CALL % (b'{"arguments":["%b","[","",["%b"]]}' % (text, text)))


@pytest.mark.parametrize("text", [rb"\\", rb"\\\\\"", rb"\"\\", b""])
def test_strings_end_where_they_end(text: bytes) -> None:
    """A backslash counted wrongly would hide the brackets that follow the string."""
    deep = b'"%b",%b%b' % (text, b"[" * DEPTH_MAX, b"]" * DEPTH_MAX)
    assert refusal(CALL % (b'{"arguments":[%b]}' % deep)).code == INVALID_REQUEST


def test_broad_messages_are_not_deep() -> None:
    assert one(CALL % (b'{"arguments":[%b0]}' % (b"[{}]," * 1000)))


# Names (THR-T6).

# Where a name decides something: what stands before it, and a member that may not be repeated.
EXAMINED = {
    "envelope": (b'{"jsonrpc":"2.0","method":"ping",%b}', b"id"),
    "envelope, unknown": (b'{"jsonrpc":"2.0","id":1,"method":"ping",%b}', b"x-other"),
    "params": (CALL % b'{"arguments":{},%b}', b"name"),
    "params, unknown": (CALL % b'{"name":"a",%b}', b"cursor"),
    "_meta": (CALL % b'{"_meta":{"x":[],%b}}', b"progressToken"),
    "_meta, unknown": (CALL % b'{"_meta":{"progressToken":1,%b}}', b"traceparent"),
    "error": (FAULT % b'{"message":"",%b}', b"code"),
    "error, unknown": (FAULT % b'{"code":1,"message":"",%b}', b"data"),
}


def spellings(name: bytes) -> list[bytes]:
    """Other ways to write the same name."""
    last = name[-1:]
    return [
        name,
        name[:-1] + b"\\u%04x" % ord(last),
        name[:-1] + b"\\u%04X" % ord(last),
        b"".join(b"\\u%04x" % letter for letter in name),
    ]


@pytest.mark.parametrize("place", EXAMINED)
def test_name_occurs_once_however_it_is_spelled(place: str) -> None:
    """THR-T6: one reader takes the first, another the last."""
    document, name = EXAMINED[place]
    for white in (b"", b" ", b"\r\n\t"):
        for first in spellings(name):
            single = b'"%b"%b:%b1' % (first, white, white)
            assert one(document % single), single
            for second in spellings(name):
                for value in (b"1", b"2"):
                    twice = single + b',%b"%b":%b' % (white, second, value)
                    assert refusal(document % twice).code == INVALID_REQUEST, twice
                    apart = single + b',"y":[]%b,"%b":%b' % (white, second, value)
                    assert refusal(document % apart).code == INVALID_REQUEST, apart


LARGE = b'"a/large":"%b"' % (b"x" * 70_000)


@pytest.mark.parametrize("place", EXAMINED)
def test_name_occurs_once_in_a_large_message_too(place: str) -> None:
    """There it is looked for in what is examined alone; white space does not matter."""
    document, name = EXAMINED[place]
    for white in (b"", b" ", b"\t ", b"\r\n"):
        single = b'"%b"%b:%b1%b' % (name, white, white, white)
        for members in (b"%b,%b" % (single, LARGE), b"%b,%b%b" % (LARGE, white, single)):
            document_there = b"%b%b" % (white, document % members)
            assert one(document_there + white), white
            for twin in (b',"%b":1', b',%b"%b":2' % (white, b"%b")):
                twice = members + twin % name
                assert refusal(document % twice).code == INVALID_REQUEST, twice[:100]


def test_value_of_a_large_message_is_found_where_it_stands() -> None:
    """A value that is the beginning of another, or stands in a string, ends where it ends."""
    for value in (b"1", b"12", b'"1"', b'"]"', b'"}"', b"{}", b"[]", b"null", b'"\\""', b"1e5"):
        members = b'{"a": %b, "b": %b%b , "c" :[%b], %b}' % (value, value, b" ", value, LARGE)
        assert one(CALL % members).params["b"] == Raw(value)
        assert one(FAULT % (b'{"code": 1, "data": %b, %b}' % (value, LARGE))).is_error


@pytest.mark.parametrize("place", ["params", "_meta"])
def test_object_given_twice_is_refused_whatever_it_holds(place: str) -> None:
    twice = b'"%b":{"a":1},"%b":{"b":1}'
    if place == "params":
        document = b'{"jsonrpc":"2.0","id":1,"method":"ping",%b}' % (twice % (b"params", b"params"))
    else:
        document = CALL % (b"{%b}" % (twice % (b"_meta", b"\\u005fmeta")))
    assert refusal(document).code == INVALID_REQUEST


@pytest.mark.parametrize(
    "document",
    [
        CALL % b'{"arguments":{"a":1,"a":2,"A":3}}',
        CALL % b'{"_meta":{"x":{"a":1,"a":2}}}',
        ANSWER % b'{"content":[],"content":[{}],"Content":0}',
        FAULT % b'{"code":1,"message":"","data":{"a":1,"a":2}}',
        CALL % b'{"arguments":{"jsonrpc":"1.0","Method":1,"id":null,"ID":2}}',
    ],
)
def test_names_are_free_where_they_decide_nothing(document: bytes) -> None:
    """MCP-G-8: what is the application's goes to the application as it is."""
    assert one(document).raw == document


def test_values_do_not_make_two_names_one() -> None:
    """A name in a value is no name, and another order of members is no repetition."""
    assert one(CALL % b'{"name":"\\"name\\":1","arguments":{"name":"name"},"a":"a"}')
    assert one(b' { "result" : { } , "id" : 1 , "jsonrpc" : "2.0" } ')


@pytest.mark.parametrize(
    "twin",
    [
        "Id", "ID", "Method", "METHOD", "Params", "Result", "Error", "JSONRPC", "JsonRpc",
        "re\u017fult", "param\u017f",
    ],
)  # fmt: skip
def test_envelope_has_no_member_in_another_letter_case(twin: str) -> None:
    """THR-T6: Go's decoder takes "Method" for "method", and U+017F for "s" with it."""
    spelled = [twin.encode(), b"".join(b"\\u%04x" % ord(letter) for letter in twin)]
    for name in spelled:
        for value in (b"1", b'"ping"', b"{}"):
            beside = b'{"jsonrpc":"2.0","id":1,"method":"ping","%b":%b}' % (name, value)
            assert refusal(beside).code == INVALID_REQUEST
            alone = b'{"jsonrpc":"2.0","%b":%b}' % (name, value)
            assert refusal(alone).code == INVALID_REQUEST


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("name", "Name"), ("name", "NAME"), ("arguments", "Arguments"), ("uri", "URI"),
        ("requestId", "requestid"), ("requestId", "RequestID"), ("taskId", "TaskId"),
        ("protocolVersion", "protocolversion"), ("progressToken", "progressto\u212aen"),
    ],
)  # fmt: skip
def test_parameters_name_nothing_in_two_letter_cases(name: str, twin: str) -> None:
    """THR-T6 (GHSA-4gph-2hhr-5mwg): the checked "name" was not the one that was executed."""
    for pair in ((name, twin), (twin, name)):
        members = ",".join(f'"{member}":"x"' for member in pair).encode()
        assert refusal(CALL % (b"{%b}" % members)).code == INVALID_REQUEST
        assert refusal(NOTICE % (b"{%b}" % members)).code == INVALID_REQUEST
    assert one(CALL % f'{{"{twin}":"x"}}'.encode()), "alone it stands for nothing that is read"


@pytest.mark.parametrize(
    "params",
    [
        b'{"_Meta":{"progressToken":1}}',
        b'{"_META":1}',
        b'{"_meta":{},"_Meta":{}}',
        b'{"_meta":{"ProgressToken":1}}',
        b'{"_meta":{"progressToken":2,"progresstoken":1}}',
        '{"_meta":{"progre\u017fsToken":1}}'.encode(),
        rb'{"_meta":{"\u0050rogressToken":1}}',
    ],
)
def test_progress_token_has_no_second_way_in(params: bytes) -> None:
    """THR-T4: a token that is not rewritten on a shared child may be another client's."""
    assert refusal(CALL % params).code == INVALID_REQUEST


def test_members_are_bounded_where_they_are_examined() -> None:
    """A hostile object would be kept at many times its size."""

    def members(count: int) -> bytes:
        return b",".join(b'"%x":0' % number for number in range(count))

    most = members(MEMBERS_MAX)
    for document in (CALL % b"{%b}", CALL % b'{"_meta":{%b}}'):
        assert one(document % most)
        assert refusal(document % (most + b',"x":0')).code == INVALID_REQUEST
    assert one(CALL % (b'{"arguments":{%b}}' % members(5 * MEMBERS_MAX)))
    for document in (b'{"jsonrpc":"2.0","method":"a",%b}', FAULT % b'{"code":1,%b}'):
        assert refusal(document % most).code == INVALID_REQUEST


@pytest.mark.parametrize("name", [b'"%x":0', b'"":0', b'"id" :0'], ids=["many", "one", "known"])
@pytest.mark.parametrize("place", ["envelope", "params", "_meta", "error"])
def test_hostile_members_are_counted_before_any_is_built(
    place: str, name: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """THR-T17: a megabyte of them would hold the loop for a tenth of a second."""
    members = b",".join(name % number if b"%" in name else name for number in range(20_000))
    built: list[int] = []

    class Watched:
        def decode(self, document: bytes) -> dict[str, Raw]:
            found: dict[str, Raw] = msgspec.json.decode(document, type=dict[str, Raw])
            built.append(len(found))
            return found

    monkeypatch.setattr(jsonrpc, "_OBJECT", Watched())
    document = {
        "envelope": b'{"jsonrpc":"2.0","method":"a",%b}', "params": CALL % b"{%b}",
        "_meta": CALL % b'{"_meta":{%b}}', "error": FAULT % b'{"code":1,%b}',
    }[place]  # fmt: skip
    error = refusal(document % members)
    assert (error.code, str(MEMBERS_MAX) in error.text) == (INVALID_REQUEST, True)
    assert sum(built) < 10
    assert jsonrpc_names._AnyName.left == -1, "counting went on"


def test_needless_escapes_in_names_are_for_small_messages() -> None:
    """Which parser could tell them from repeated names costs too much for large ones."""
    filler = b'"%b"' % (b"\\\\" * 40_000)
    assert one(CALL % (b'{"name":"x","arguments":%b}' % filler))
    error = refusal(CALL % (rb'{"n\u0061me":"x","arguments":%b}' % filler))
    assert error.code == INVALID_REQUEST


# Line ends (THR-T21): legal white space, but on a pipe and in an event stream they end a frame.


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n", b"\n\r", b"\r\r\n\n"])
@pytest.mark.parametrize(
    "document",
    [
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":$%b$}}',
        b'{"jsonrpc":"2.0","method":"a","params":[$%b$]}',
        b'{"jsonrpc":"2.0","id":1,"result":$%b$}',
        b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"a":$%b$}]}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"","data":$%b$}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"a/b":$%b$}}}',
        b'[{"jsonrpc":"2.0","method":"a"},$%b$]',
        b"[$%b$]",
        b"$%b$",
    ],
)
def test_message_hidden_on_a_line_of_its_own_is_no_message(document: bytes, end: bytes) -> None:
    """THR-T21, MCP-I-1: every message leaves as one line with the same meaning."""
    sent = (document % HIDDEN).replace(b"$", end)
    assert HIDDEN in sent.replace(b"\r", b"\n").split(b"\n")
    admitted = admit(sent)
    messages = admitted if isinstance(admitted, tuple) else (admitted,)
    meant = json.loads(sent) if isinstance(admitted, tuple) else [json.loads(sent)]
    assert [json.loads(message.raw) for message in messages] == meant
    for message in messages:
        assert len(message.raw.splitlines()) == 1
        assert message.raw.strip() != HIDDEN or meant[-1]["id"] == 9
        for member in message.envelope.values():
            assert b"\n" not in bytes(member) and b"\r" not in bytes(member)


def test_escaped_line_ends_in_strings_stay() -> None:
    """MCP-G-5: flattening reaches white space alone."""
    document = CALL % b'{"arguments":{"text":"a\\r\\nb\\n"},\n"name":"x"}'
    assert one(document).raw == document.replace(b"\n", b" ")


def test_message_without_line_ends_is_not_copied() -> None:
    """What is large is forwarded as it came."""
    document = CALL % b'{"arguments": {"a" : "\\n"} }'
    assert one(document).raw is document


# Batches (MCP-S-12).


def test_batch_keeps_order_and_bytes() -> None:
    """MCP-S-12: each message as if it had come alone."""
    elements = [
        CALL % b'{"name": "x"}', NOTICE % b"{}", ANSWER % b'"\xc3\xa9"', FAULT % b'{"code":1}',
    ]  # fmt: skip
    for comma in (b",", b" , ", b"\r\n,\t"):
        messages = several(b" [ %b ] " % comma.join(elements))
        assert [message.raw for message in messages] == elements
        assert [message.kind for message in messages] == [
            Kind.REQUEST, Kind.NOTIFICATION, Kind.RESPONSE, Kind.RESPONSE,
        ]  # fmt: skip


def test_batch_of_one_is_a_batch() -> None:
    """MCP-S-13: later revisions refuse it by that."""
    assert len(several(b"[%b]" % HIDDEN)) == 1


def test_batch_has_a_bounded_number_of_messages() -> None:
    assert len(several(b"[%b]" % b",".join([HIDDEN] * BATCH_MAX))) == BATCH_MAX
    assert refusal(b"[%b]" % b",".join([HIDDEN] * (BATCH_MAX + 1))).code == INVALID_REQUEST
    assert refusal(b"[%b0]" % (b"0," * 100_000)).code == INVALID_REQUEST


@pytest.mark.parametrize(
    "element",
    [
        b"1", b"null", b'"x"', b"[]", b"[%b]" % HIDDEN, b"{}",
        b'{"jsonrpc":"2.0","id":null,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":1,"id":1,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","Method":"x"}',
    ],
)  # fmt: skip
def test_batch_with_a_bad_element_is_refused_whole(element: bytes) -> None:
    """Nothing of it is executed, so nothing is executed that was judged in other company."""
    for elements in ((element,), (HIDDEN, element), (element, HIDDEN)):
        assert refusal(b"[%b]" % b",".join(elements)).code == INVALID_REQUEST


def test_empty_batch_is_refused() -> None:
    """JSON-RPC section 6."""
    for document in (b"[]", b"[ ]", b"[\n]"):
        assert refusal(document).code == INVALID_REQUEST


# What a message tells.


@pytest.mark.parametrize(
    ("meta", "token"),
    [
        (b"{}", None),
        (b'{"progressToken":null}', None),
        (b'{"progressToken":0}', b"0"),
        (b'{"progressToken":-7}', b"-7"),
        (b'{"progressToken":"0"}', b'"0"'),
        (rb'{"progressToken":"\u0041"}', b'"A"'),
        (rb'{"progress\u0054oken":1}', b"1"),
    ],
)
def test_progress_token_of_a_request_is_in_its_meta(meta: bytes, token: bytes | None) -> None:
    """MCP-X-6, MCP-G-1."""
    assert one(CALL % (b'{"_meta":%b,"progressToken":5}' % meta)).progress_token() == token


def test_progress_token_of_progress_is_in_its_params() -> None:
    """MCP-X-6."""
    progress = (
        b'{"jsonrpc":"2.0","method":"notifications/progress",'
        b'"params":{"progressToken":"t","progress":1,"_meta":{"progressToken":2}}}'
    )
    assert one(progress).progress_token() == b'"t"'
    assert one(progress.replace(b'"progressToken":"t",', b"")).progress_token() is None
    request = progress.replace(b'"method"', b'"id":1,"method"')
    assert one(request).progress_token() == b"2", "a request is answered with that of its meta"


def test_cancellation_names_a_request() -> None:
    """MCP-X-3."""
    cancelled = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":%b}'
    assert one(cancelled % b'{"requestId":"a"}').cancelled_request_id() == b'"a"'
    assert one(cancelled % b'{"requestId":1}').cancelled_request_id() == b"1"
    assert one(cancelled % b'{"requestId":null}').cancelled_request_id() is None
    assert one(cancelled % b"{}").cancelled_request_id() is None
    assert one(cancelled % b"[]").cancelled_request_id() is None
    assert one(CALL % b'{"requestId":1}').cancelled_request_id() is None


@pytest.mark.parametrize(
    "method",
    ["resources/subscribe", "resources/unsubscribe", "notifications/resources/updated"],
)
def test_resource_is_named_by_its_uri(method: str) -> None:
    document = '{"jsonrpc":"2.0","id":1,"method":"%s","params":%s}'
    assert one((document % (method, r'{"uri":"file:///\u0041"}')).encode()).uri() == "file:///A"
    for params in ("{}", "[]", '{"uri":null}', '{"uri":1}', '{"uri":["x"]}', '{"URI":"x"}'):
        error = refusal((document % (method, params)).encode())
        assert (error.code, error.request_id) == (INVALID_PARAMS, b"1")
    assert one((document % ("resources/read", '{"uri":1}')).encode()).uri() is None


@pytest.mark.parametrize("identifier", [b"1.5", b"true", b"[]", b"{}", b"-0", b"1e3"])
def test_message_that_could_not_be_read_later_is_refused_now(identifier: bytes) -> None:
    """An actor that asks a message for its token gets one, or None, and never an error."""
    assert refusal(CALL % (b'{"_meta":{"progressToken":%b}}' % identifier)).code == INVALID_PARAMS
    notice = b'{"jsonrpc":"2.0","method":"notifications/%b","params":{"%b":%b}}'
    for method, name in ((b"progress", b"progressToken"), (b"cancelled", b"requestId")):
        error = refusal(notice % (method, name, identifier))
        assert (error.code, error.request_id) == (INVALID_PARAMS, None)
    assert one(CALL % (b'{"requestId":%b}' % identifier)), "these names mean nothing elsewhere"


def test_refusals_quote_nothing_of_the_message() -> None:
    """THR-T14: what was sent may be a secret, and the text goes to the log."""
    secret = b"s3cr3t-c4n4ry"
    for document in (
        secret,
        b'{"%b":1}' % secret,
        CALL % (b'{"name":"%b","name":"%b"}' % (secret, secret)),
        CALL % (b'{"_meta":{"progressToken":["%b"]}}' % secret),
        CALL % (b'{"arguments":"%b\x01"}' % secret),
        b'{"jsonrpc":"2.0","id":1,"method":["%b"]}' % secret,
        b'"%b\xff"' % secret,
    ):
        assert secret.decode() not in str(refusal(document))
