"""What may be set of how calls to an upstream fail: breakers, retries, timeouts."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from proxy_actors.config.section import Section, doc

_Short = Annotated[float, Meta(ge=0.001, le=3600)]


class Breaker(Section, frozen=True, kw_only=True):
    """[upstreams.NAME.breaker]: an endpoint or a tool that fails is left alone for a while."""

    enabled: Annotated[bool, doc("Whether there are any breakers.")] = True
    failures_max: Annotated[
        int, Meta(ge=0, le=1000),
        doc("Failures in a row that open one, to connect and others apart. 0: any number."),
    ] = 5
    failure_percent: Annotated[
        float, Meta(ge=0, le=100), doc("The share of calls that fail which opens one. 0: any.")
    ] = 85.0
    slow_call_s: Annotated[
        float, Meta(ge=0, le=86_400), doc("A call that takes longer is slow. 0: none is.")
    ] = 0.0
    slow_percent: Annotated[
        float, Meta(ge=1, le=100), doc("The share of slow calls that opens one.")
    ] = 80.0
    calls_min: Annotated[
        int, Meta(ge=1, le=1_000_000), doc("Calls of which a share is made at least.")
    ] = 50
    window_s: Annotated[
        float, Meta(ge=1, le=3600), doc("How old these may be, and how long a failure counts.")
    ] = 30.0
    base_s: Annotated[
        float, Meta(ge=0.01, le=3600),
        doc("It stays open for a time drawn from 0 to this; the bound doubles each time."),
    ] = 1.0
    cap_s: Annotated[float, Meta(ge=0.01, le=3600), doc("The most that it grows to.")] = 5.0
    probes_max: Annotated[
        int, Meta(ge=1, le=100), doc("Requests at once that find out whether it may close.")
    ] = 1
    probe_s: Annotated[
        _Short, doc("One that has not been answered after so long leaves its place to another.")
    ] = 5.0


class Retries(Section, frozen=True, kw_only=True):
    """[upstreams.NAME.retries]: requests that have failed are sent again where that is safe."""

    attempts_max: Annotated[
        int, Meta(ge=0, le=10), doc("How often one request is sent again. 0: never.")
    ] = 2
    budget_percent: Annotated[
        float, Meta(ge=0, le=100), doc("Retries at a time, as a share of what is in flight.")
    ] = 20.0
    budget_min: Annotated[
        int, Meta(ge=0, le=10_000), doc("So many at a time however little is in flight.")
    ] = 3
    base_ms: Annotated[
        int, Meta(ge=0, le=60_000),
        doc("The wait is drawn from 0 to this; the bound doubles with each retry."),
    ] = 25
    cap_ms: Annotated[int, Meta(ge=0, le=60_000), doc("The most that it grows to.")] = 250
    per_try_timeout_s: Annotated[
        float, Meta(ge=0, le=86_400),
        doc("What may be sent again is when no answer has begun after so long. 0: never."),
    ] = 0.0
    trust_annotations: Annotated[
        bool, doc("Whether readOnlyHint and idempotentHint of the server's tools are believed.")
    ] = False


class Timeouts(Section, frozen=True, kw_only=True):
    """[upstreams.NAME.timeouts]: how long its parts may take, all within call-timeout-s."""

    connect_s: Annotated[_Short, doc("To open a connection, with TLS.")] = 2.0
    pool_wait_s: Annotated[
        _Short, doc("To get a connection while all are in use.")
    ] = 5.0
    first_byte_s: Annotated[
        float, Meta(ge=0, le=86_400),
        doc("Until the answer's head has come; 0: call-timeout-s. HTTP servers only."),
    ] = 0.0
    initialize_s: Annotated[_Short, doc("To open a session, retries included.")] = 30.0
