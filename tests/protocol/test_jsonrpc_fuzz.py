"""Admission against a second opinion that shares no code with it, over generated documents."""

from __future__ import annotations

import re
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy_actors.errors import INVALID_PARAMS, INVALID_REQUEST, PARSE_ERROR, MessageError
from proxy_actors.protocol import json_depth, jsonrpc, jsonrpc_batch, jsonrpc_names
from proxy_actors.protocol.stdio_framing import encode_frame
from tests.defects import Defect, planted
from tests.protocol.message_documents import CORRUPTIONS, document
from tests.protocol.message_oracle import NotAMessage, Verdict, judge, meaning, seen

DEPTH_MAX = 5
SEEDS = range(10_000)

IDS = re.compile(rb'"id":("[^"\\]{1,100}"|[0-9]{1,100})(?=[,}])')

# Answers to calls as they come by the million, and what is nearly one.
PLAIN = b'{"result":%b,"id":%b,"jsonrpc":"2.0"}'
RESULTS = (b"{}", b'{"a":[1]}', b'{"a":"]"}', b"[[[[[[1]]]]]]", b'{"a":\n1}', b'{"a":\r1}', b"{")
CALLS = (
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{}}}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{\n}}}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":[[[[[1]]]]]}}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"Name":"a","name":"b"}}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{"progressToken":[]}}}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{},"result":1}',
    b'{"jsonrpc":"2.1","id":1,"method":"tools/call","params":{}}',
)
# Likewise what servers say of themselves.
SAID = (
    b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":%b}}',
    b'{"method":"notifications/message","params":{"level":"info","logger":%b},"jsonrpc":"2.0"}',
    b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%b}}',
    b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":%b}}',
    b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%b}}',
    b'{"jsonrpc":"2.0","method":"notifications/message","params":{"Data":1,"name":%b}}',
    b'{"jsonrpc":"2.0","method":"notifications/message","params":{},"id":%b}',
    b'{"jsonrpc":"2.0","method":"notifications/message","params":{},"result":%b}',
    b'{"jsonrpc":"2.0","method":"notifications/message","params":{"data":1,"data":%b}}',
    b'{"jsonrpc":"2.0","method":"notifications/message","params":%b}',
)  # fmt: skip
ANSWERED = (b"0", b"7", b'"a"', b'"\\u0061"', b"1.0", b"null", b"[]", b"-0")

Judgement = list[Verdict] | Verdict | tuple[int, object]


@cache
def judged() -> list[tuple[int, bytes, Judgement]]:
    """Every seed, its document, and what the second opinion makes of it."""
    documents = [(seed, document(seed)) for seed in SEEDS]
    documents += [(-1, PLAIN % (result, id)) for result in RESULTS for id in ANSWERED]
    documents += [(-2, data) for data in CALLS]
    documents += [(-3, said % value) for said in SAID for value in (*ANSWERED, *RESULTS)]
    return [(seed, data, expected(data)) for seed, data in documents]


def expected(data: bytes) -> Judgement:
    try:
        return judge(data, DEPTH_MAX)
    except NotAMessage as error:
        return error.code, error.id


def admitted(data: bytes) -> Judgement:
    """What admission says; nothing but MessageError may be raised."""
    try:
        messages = jsonrpc.admit(data, depth_max=DEPTH_MAX)
    except MessageError as error:
        return error.code, None if error.request_id is None else meaning(error.request_id)
    if isinstance(messages, tuple):
        return [seen(message) for message in messages]
    return seen(messages)


def messages_of(data: bytes) -> tuple[jsonrpc.Message, ...]:
    try:
        messages = jsonrpc.admit(data, depth_max=DEPTH_MAX)
    except MessageError:
        return ()
    return messages if isinstance(messages, tuple) else (messages,)


def test_documents_are_judged_as_the_second_opinion_judges_them() -> None:
    """MCP-G-1, G-2, G-4, G-5, G-8, S-12; THR-T6; RELIABILITY 2.2, "JSON findings"."""
    for seed, data, judgement in judged():
        assert admitted(data) == judgement, f"document({seed})"


def test_the_documents_are_of_every_kind() -> None:
    """Else agreement would prove little."""
    judgements = [judgement for _, _, judgement in judged()]
    refused = [judgement for judgement in judgements if isinstance(judgement, tuple)]
    single = [judgement for judgement in judgements if isinstance(judgement, Verdict)]
    batches = [judgement for judgement in judgements if isinstance(judgement, list)]
    assert {code for code, _ in refused} == {PARSE_ERROR, INVALID_REQUEST, INVALID_PARAMS}
    assert any(id is not None for _, id in refused)
    assert {verdict.kind for verdict in single} == {"request", "notification", "response"}
    assert {len(verdicts) for verdicts in batches} >= {1, 2}
    assert any(verdict.token for verdict in single)
    assert any(verdict.cancelled for verdict in single)
    assert any(verdict.uri for verdict in single)
    assert any(verdict.is_error and verdict.id is None for verdict in single)
    assert len(single) > len(SEEDS) / 10


def test_what_is_admitted_is_one_line_and_is_admitted_again() -> None:
    """THR-T21: in any place that JSON has for it, white space ends no frame."""
    for _, data, _ in judged():
        for message in messages_of(data):
            assert encode_frame(message.raw).splitlines() == [message.raw]
            again = jsonrpc.admit(message.raw)
            assert isinstance(again, jsonrpc.Message)
            assert again.raw is message.raw
            assert seen(again) == seen(message)


def short_verdicts(data: bytes) -> list[Verdict]:
    """What the short way says of a document, whichever request it is taken to answer."""
    ids = {b"0", b'"a"', *IDS.findall(data)}
    found = (jsonrpc.plain_answer(data, id, depth_max=DEPTH_MAX) for id in ids)
    taken = [message for message in found if message is not None]
    assert all(len(message.raw.splitlines()) == 1 for message in taken)
    return [seen(message) for message in taken]


def test_the_short_way_never_says_anything_else() -> None:
    """And is taken often enough for that to mean something."""
    taken = 0
    for _, data, judgement in judged():
        for verdict in short_verdicts(data):
            assert verdict == judgement, data
            taken += 1
    assert taken > 20


@given(st.one_of(st.binary(max_size=40), st.lists(st.sampled_from(CORRUPTIONS)).map(b"".join)))
def test_any_bytes_are_judged_alike(data: bytes) -> None:
    """FLT-C9: no document raises anything else."""
    assert admitted(data) == expected(data)


DEFECTS = [
    Defect("what is plain may have line feeds", jsonrpc, "_is_plain", "10 in body or ", ""),
    Defect("what is plain may have carriage returns", jsonrpc, "_is_plain",
           " or 13 in body", ""),
    Defect("what is plain may be any bytes", jsonrpc, "_is_plain", "and body.isascii()", ""),
    Defect("what is plain may be of any depth", jsonrpc, "_is_plain",
           "and not json_depth.may_be_deeper(body, depth_max)", ""),
    Defect("half the brackets may be of any depth", json_depth, "may_be_deeper",
           'document.count(b"[") + document.count(b"{")', 'document.count(b"{")'),
    Defect("what is short may be of any depth", json_depth, "may_be_deeper",
           "2 * depth_max", "20 * depth_max"),
    Defect("plain requests take other members", jsonrpc, "_plain_call",
           "len(envelope) != (3 if given is None else 4) or", ""),
    Defect("plain requests take any version", jsonrpc, "_plain_call",
           'or envelope.get("jsonrpc") != _VERSION', ""),
    Defect("plain requests take escaped ids", jsonrpc, "_is_plain_identifier",
           r"""and b"\\" not in raw""", ""),
    Defect("plain requests take any params", jsonrpc, "_plain_call",
           "_PLAIN_NAMES.issuperset(params)", "True"),
    Defect("plain requests take what is read of params", jsonrpc, "_plain_call",
           "method not in _METHODS_READ", "True"),
    Defect("plain notifications take any progress token", jsonrpc, "_plain_call",
           """_is_plain_identifier(params.get("progressToken", _ABSENT))""", "True"),
    Defect("plain requests take repeated names", jsonrpc, "_plain_call",
           'and _ENCODER.encode({**envelope, "params": params}) == body', ""),
    Defect("the short way takes other members", jsonrpc, "plain_answer",
           "len(envelope) == 3", "True"),
    Defect("the short way takes requests", jsonrpc, "plain_answer", 'and "result" in envelope', ""),
    Defect("the short way takes any version", jsonrpc, "plain_answer",
           'and envelope.get("jsonrpc") == _VERSION', ""),
    Defect("the short way takes any id", jsonrpc, "plain_answer",
           """and bytes(envelope.get("id", b"")) == request_id""", ""),
    Defect("the short way takes repeated names", jsonrpc, "plain_answer",
           "and _ENCODER.encode(envelope) == body", ""),
    Defect("UTF-8 is not checked", jsonrpc, "_flattened", "body.decode()", "pass"),
    Defect("a line end in a string becomes a space", jsonrpc, "_flattened",
           "_DOCUMENT.decode(body)", "pass"),
    Defect("line ends stay", jsonrpc, "_flattened",
           "body.translate(_LINE_ENDS_TO_SPACES)", "body"),
    Defect("only LF is flattened", jsonrpc, "_flattened", "10 in body or 13 in body", "10 in body"),
    Defect("the depth of strings counts", json_depth, "is_deeper", "[::2]", ""),
    Defect("escaped quotes end strings", json_depth, "is_deeper",
           """.replace(b'\\\\"', b"")""", ""),
    Defect("escaped backslashes escape", json_depth, "is_deeper",
           """.replace(b"\\\\\\\\", b"")""", ""),
    Defect("one level more", jsonrpc, "admit",
           "is_deeper(document, depth_max)", "is_deeper(document, depth_max + 1)"),
    Defect("repeated names pass", jsonrpc_names, "repeats_a_name",
           'return b"\\\\" not in raw or', 'return b"\\\\" in raw and'),
    Defect("escaped repeated names pass", jsonrpc_names, "_repeats_an_escaped_name",
           "len(dict(pairs)) < len(pairs)", "False"),
    Defect("escaped repeated names of _meta pass", jsonrpc_names, "_repeats_an_escaped_name",
           ', params.member("_meta")', ""),
    Defect("any escape is a repetition", jsonrpc_names, "repeats_a_name",
           "or _repeats_an_escaped_name(raw)", "or True"),
    Defect("white space is a repetition", jsonrpc_names, "repeats_a_name",
           "msgspec.json.format(encoded, indent=-1) == msgspec.json.format(raw, indent=-1)",
           "False"),
    Defect("repeated names of _meta pass", jsonrpc_names, "repeats_a_name",
           'params if meta is None else {**params, "_meta": meta}', "params"),
    Defect("repeated names of an error pass", jsonrpc_names, "repeats_a_name",
           "fault is not None", "False"),
    Defect("other letter cases are of ASCII alone", jsonrpc_names, "other_cases",
           "folded = {name.casefold()", "folded = {name.lower()"),
    Defect("twins in the envelope pass", jsonrpc, "_message",
           "names.other_cases(envelope, _ENVELOPE_NAMES)", "False"),
    Defect("twins in params pass", jsonrpc, "_hides_a_name",
           "not others.isdisjoint(params)", "False"),
    Defect("a second _meta passes", jsonrpc, "_hides_a_name", '"_meta" in others', "False"),
    Defect("a second token passes", jsonrpc, "_hides_a_name",
           "bool(names.other_cases(meta, _TOKEN_NAMES))", "False"),
    Defect("an id may be null", jsonrpc, "_call",
           'if "id" in envelope:', 'if envelope.get("id", _ABSENT) != _ABSENT:'),
    Defect("minus zero is an integer", jsonrpc, "_is_integer", ' and text != b"-0"', ""),
    Defect("ids keep their escapes", jsonrpc, "_identifier", r'b"\\" in text', "False"),
    Defect("a result needs no id", jsonrpc, "_response", "is_error and given", "given"),
    Defect("both result and error", jsonrpc, "_response",
           'is_error == ("result" in envelope)', 'not is_error and "result" not in envelope'),
    Defect("an error's code is anything", jsonrpc, "_response",
           'not _is_integer(bytes(fault.get("code", b"")))', "False"),
    Defect("a request with a result", jsonrpc, "_call",
           '"result" in envelope or "error" in envelope', '"error" in envelope'),
    Defect("params are a scalar", jsonrpc, "_call", '.startswith(b"[")', ""),
    Defect("an empty batch", jsonrpc_batch, "elements", "if not found:", "if False:"),
    Defect("a token is anything", jsonrpc, "_unfit",
           "_is_no_identifier(message._token())", "False"),
    Defect("a cancelled id is anything", jsonrpc, "_unfit",
           '_is_no_identifier(params.get("requestId", _ABSENT))', "False"),
    Defect("a uri is anything", jsonrpc, "_unfit", '.startswith(b\'"\')', " is None"),
]  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    with planted(defect):
        assert any(errs(data, judgement) for _, data, judgement in judged())


def errs(data: bytes, judgement: Judgement) -> bool:
    """Whether admission errs, be it with an error that is none of its own."""
    try:
        if any(len(message.raw.splitlines()) != 1 for message in messages_of(data)):
            return True
        if any(verdict != judgement for verdict in short_verdicts(data)):
            return True
        return admitted(data) != judgement
    except Exception:
        return True
