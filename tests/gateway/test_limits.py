"""Which requests a rate limit counts, for whom, in which tier, and what a refusal looks like.

RELIABILITY 1.11, FLT-C14; PROTOCOL 8.3, MCP-P-2. Time is virtual: rates are so low that nothing
flows in during a test, unless it lets time pass.
"""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import pytest

from proxy_actors.gateway import limits, stack
from proxy_actors.gateway.keys import Identity, Keyring
from proxy_actors.gateway.limits import AddressTokens, LimitKey, Limits, Rate, Rule
from proxy_actors.messages.lifecycle import DescribeState
from tests.defects import Defect, planted
from tests.gateway.scene import Scene
from tests.sim.virtual import Answer, call, initialize, note, request

SLOW = 0.001
KEYS = {"ann": "default", "bob": "default", "cleo": "gold"}
KEYRING = Keyring(
    {hashlib.sha256(name.encode()).digest(): Identity(name, tier) for name, tier in KEYS.items()}
)


def limited(name: str = "rule", burst: int = 2, **wanted: Any) -> Rule:
    key = wanted.pop("key", LimitKey.PRINCIPAL)
    return Rule(name=name, key=key, rate=Rate(SLOW, burst), **wanted)


def as_(principal: str | None, **fields: str) -> dict[str, str | None]:
    """The fields of a request of this principal's."""
    shown: dict[str, str | None] = {**fields}
    return shown if principal is None else {**shown, "Authorization": f"Bearer {principal}"}


class Client:
    """A principal with a session of its own."""

    def __init__(self, scene: Scene, principal: str | None = None, **fields: str) -> None:
        self.scene = scene
        self.fields = as_(principal, **fields)
        answer = scene.ask(request(initialize(), fields=self.fields))
        id = answer.field(b"mcp-session-id")
        assert id is not None, answer
        self.session = id.decode()

    def send(self, body: Any, method: str = "POST") -> Answer:
        data = request(body, method, self.session, fields=self.fields)
        return self.scene.ask(data, method=method)

    def calls(self, tool: str = "t", method: str = "tools/call", times: int = 5) -> int:
        """Call so often; return how many were served."""
        body = call(1, method=method)
        body["params"]["name"] = tool
        statuses = [self.send(body).status for _ in range(times)]
        assert set(statuses) <= {200, 429}, statuses
        return statuses.count(200)


SCOPES: dict[str, tuple[dict[str, Any], list[tuple[str, str]], list[tuple[str, str]]]] = {
    # What the rule names; what it counts and what not, as (method, tool).
    "any request": ({}, [("tools/call", "t"), ("tools/list", "t")], []),
    "upstream": ({"upstream": "default"}, [("tools/call", "t"), ("ping", "t")], []),
    "other upstream": ({"upstream": "other"}, [], [("tools/call", "t")]),
    "method": ({"method": "tools/call"}, [("tools/call", "t")], [("tools/list", "t")]),
    "tool": (
        {"method": "tools/call", "tool": "costly"},
        [("tools/call", "costly")],
        [("tools/call", "t"), ("tools/list", "costly")],
    ),
}
WHO = {
    # By which key; the bursts of ann, of ann's second session, of bob, and of cleo in her tier.
    LimitKey.PRINCIPAL: (2, 0, 2, 4),
    LimitKey.SESSION: (2, 2, 2, 4),
    LimitKey.ADDRESS: (2, 0, 0, 4),
    LimitKey.HEADER: (2, 0, 2, 4),
    LimitKey.ALL: (2, 0, 0, 4),
}


@pytest.mark.parametrize(
    ("scope", "key"), [*itertools.product(SCOPES, WHO)], ids=lambda x: str(getattr(x, "value", x))
)
def test_rule_counts_its_scope_by_its_key_in_the_tier(scope: str, key: LimitKey) -> None:
    """The matrix: scope by key by tier."""
    names, counted, uncounted = SCOPES[scope]
    rule = limited(key=key, header=b"x-team", tiers={"gold": Rate(SLOW, 4)}, **names)
    for method, tool in counted or uncounted:
        scene = Scene(keyring=KEYRING, rules=[rule])
        ann = Client(scene, "ann", **{"X-Team": "red"})
        again = Client(scene, "ann", **{"X-Team": "red"})
        bob = Client(scene, "bob", **{"X-Team": "blue"})
        cleo = Client(scene, "cleo", **{"X-Team": "green"})
        served = tuple(client.calls(tool, method) for client in (ann, again, bob, cleo))
        assert served == (WHO[key] if counted else (5, 5, 5, 5)), (method, tool)
    if counted:
        for method, tool in uncounted:
            assert ann.calls(tool, method) == 5, f"{method} of {tool} was counted"


def test_refusal_tells_the_contract_and_when_to_come_back() -> None:
    scene = Scene(keyring=KEYRING, rules=[limited(burst=2)])
    ann = Client(scene, "ann")
    assert ann.calls(times=2) == 2
    answer = ann.send(call(7, id="mine"))
    assert answer.status == 429
    assert answer.field(b"retry-after") == b"1000"
    assert answer.field(b"ratelimit-policy") == b'"rule";q=2;w=2000'
    assert answer.field(b"ratelimit") == b'"rule";r=0;t=1000'
    assert answer.field(b"x-ratelimit-limit") is None
    assert answer.message["id"] == "mine"
    data = answer.error["data"]
    assert (data["reason"], data["executed"], data["retryable"]) == ("rate-limited", "no", True)
    assert scene.server.executions[7] == 0
    assert answer.keep_alive


def test_x_ratelimit_fields_come_when_switched_on() -> None:
    scene = Scene(keyring=KEYRING, rules=[limited(burst=2)], x_ratelimit=True)
    ann = Client(scene, "ann")
    ann.calls(times=2)
    answer = ann.send(call(7))
    names = (b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset")
    assert [answer.field(name) for name in names] == [b"2", b"0", b"1000"]


def test_tokens_flow_in_with_time() -> None:
    rule = Rule("rule", LimitKey.PRINCIPAL, Rate(0.1, 2))
    scene = Scene(rules=[rule])
    client = Client(scene)
    assert client.calls() == 2
    scene.run(10.0)
    assert client.calls() == 1


def test_all_rules_are_asked_and_none_is_drawn_from_by_a_refusal() -> None:
    scene = Scene(rules=[limited("wide", 4), limited("narrow", 1, tool="costly")])
    client = Client(scene)
    assert client.calls("costly") == 1
    assert client.calls("t") == 3, "refused calls have drawn from the wide rule"


@pytest.mark.parametrize(
    "body",
    [
        note("notifications/initialized"),
        note("notifications/cancelled", requestId=1),
        {"jsonrpc": "2.0", "id": 9, "result": {}},
        {"jsonrpc": "2.0", "id": 9, "error": {"code": 1, "message": "no"}},
    ],
    ids=["notification", "cancellation", "response", "error"],
)
def test_what_frees_or_answers_is_never_limited(body: Any) -> None:
    scene = Scene(rules=[limited(burst=1)], address=Rate(SLOW, 2))
    client = Client(scene)
    client.calls(times=3)
    assert client.send(call(1)).status == 429
    assert [client.send(body).status for _ in range(3)] == [202] * 3
    assert client.send(None, "DELETE").status == 200


def test_each_request_of_a_batch_counts() -> None:
    scene = Scene(rules=[limited(burst=3)])
    answer = scene.ask(request(initialize("2025-03-26")))
    session = (answer.field(b"mcp-session-id") or b"").decode()
    fields: dict[str, str | None] = {"MCP-Protocol-Version": None}
    batch = [call(n) for n in range(2)]
    statuses = [
        scene.ask(request(batch, session=session, fields=fields)).status for _ in range(2)
    ]
    assert statuses == [200, 429]
    assert scene.ask(request([call(5)], session=session, fields=fields)).status == 200


def test_initialize_has_a_rule_of_its_own_and_is_refused_with_503() -> None:
    """MCP-P-2: clients take other statuses for a server of another revision."""
    scene = Scene(keyring=KEYRING, rules=[limited(burst=1)], opening=Rate(SLOW, 2))
    for _ in range(2):
        Client(scene, "ann")
    answer = scene.ask(request(initialize(), fields=as_("ann")))
    assert (answer.status, answer.field(b"retry-after")) == (503, b"1000")
    assert answer.error["data"]["reason"] == "rate-limited"
    assert answer.message["id"] == 0
    Client(scene, "bob")


def test_address_is_limited_before_anything_else() -> None:
    scene = Scene(keyring=KEYRING, address=Rate(SLOW, 3))
    ann = Client(scene, "ann")
    assert ann.calls() == 2
    answer = scene.ask(request(call(1), session="v1.0.nobody", fields=as_("nobody")))
    assert answer.status == 429, "it was looked at before its address was"
    assert answer.message["id"] == 1
    assert answer.field(b"ratelimit-policy") == b'"address";q=3;w=3000'
    assert scene.ask(request(initialize(), fields=as_("bob"))).status == 503
    assert ann.send(None, "GET").status == 429
    assert scene.ask(request(None, "GET", path="/health"), method="GET").status == 200


def test_address_tokens_come_in_batches_and_never_too_many() -> None:
    """A busy connection asks once for many requests; what an idle one has drawn ahead is lost."""
    scene = Scene(address=Rate(1.0, 4000))
    tokens = AddressTokens(scene.plane.wiring.rates)

    def drain() -> int:
        granted = 0
        while tokens.take("10.0.0.1", scene.now_s()) is None:
            granted += 1
        return granted

    assert scene.do(drain) == 4000
    state = scene.do(
        lambda: scene.plane.limiter.ask(DescribeState(), scene.now_s() + 1.0)
    )
    assert (state.detail["granted"], state.detail["limited"]) == (1000, 2)
    scene.run(100.0)
    assert scene.do(drain) <= 102


def test_thousand_connections_at_the_boundary() -> None:
    """FLT-C14."""
    scene = Scene(address=Rate(SLOW, 50))
    rates = scene.plane.wiring.rates
    granted: list[bool] = []

    def client() -> None:
        tokens = AddressTokens(rates)
        granted.append(tokens.take("10.0.0.1", scene.now_s()) is None)

    for _ in range(1000):
        scene.spawn("client", client)
    scene.run(5.0)
    assert (len(granted), sum(granted)) == (1000, 50)


DEFECTS: list[tuple[Defect, Any]] = [
    (Defect("batches count once", Limits, "take",
            "for x in requests for", "for x in requests[:1] for"),
     test_each_request_of_a_batch_counts),
    (Defect("tiers are ignored", Limits, "_buckets", "rule.tiers.get(exchange.tier, rule.rate)",
            "rule.rate"),
     lambda: test_rule_counts_its_scope_by_its_key_in_the_tier("tool", LimitKey.PRINCIPAL)),
    (Defect("a batch is drawn for nothing", AddressTokens, "take", "tokens - 1, now_s", "0, now_s"),
     test_address_tokens_come_in_batches_and_never_too_many),
]


@pytest.mark.parametrize(("defect", "test"), DEFECTS, ids=[str(row[0]) for row in DEFECTS])
def test_these_tests_find_what_is_planted(defect: Defect, test: Any) -> None:
    with planted(defect), pytest.raises(AssertionError):
        test()


def test_names_of_the_proxys_own_rules_are_told_apart() -> None:
    names = {limits.ADDRESS_RULE, limits.INITIALIZE_RULE, limits.FAILURES_RULE}
    assert len(names) == 3
    assert stack.STEPS_OF_POST[0] is stack.take_address
