"""DNS rebinding: which Host and which Origin may reach the proxy (THR-T3, MCP-H-2, H-3, H-5)."""

from __future__ import annotations

import pytest

from proxy_actors.errors import RefusedError
from proxy_actors.gateway.origins import AllowedNames

LOOPBACK = ["localhost", "localhost:8808", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8808", "[::1]",
            "[::1]:8808", "[0:0:0:0:0:0:0:1]:80"]
FOREIGN = ["evil.example.com", "evil.example.com:8808", "localhost.evil.example.com",
           "127.0.0.1.evil.example.com", "localhost:8808.evil.example.com", "127.0.0.1:",
           "[::1", "::1", "127.0.0.2", "localhost@evil.example.com", "[::2]"]
LITERALS = ["192.168.1.5", "192.168.1.5:8808", "10.0.0.1:80", "[fe80::1]:8808", "0.0.0.0"]


def host_is_served(listen_host: str, host: str) -> bool:
    try:
        AllowedNames(listen_host).check_host(host.encode())
    except RefusedError as error:
        assert error.status == 421
        assert error.close
        return False
    return True


def origin_is_allowed(listen_host: str, origin: str, host: str = "127.0.0.1:8808") -> bool:
    try:
        AllowedNames(listen_host).check_origin(origin.encode(), host.encode())
    except RefusedError as error:
        assert error.status == 403
        assert error.data is None
        return False
    return True


@pytest.mark.parametrize("host", LOOPBACK)
@pytest.mark.parametrize("listen_host", ["127.0.0.1", "localhost", "::1", "0.0.0.0", "192.0.2.1"])
def test_loopback_names_are_served_everywhere(listen_host: str, host: str) -> None:
    """With any port: port mappings are common."""
    assert host_is_served(listen_host, host)


@pytest.mark.parametrize("host", [x for x in FOREIGN if x != "127.0.0.1:"])
def test_foreign_names_are_not_served_on_loopback(host: str) -> None:
    assert not host_is_served("127.0.0.1", host)


def test_empty_port_is_no_port() -> None:
    """RFC 3986 section 3.2.3."""
    assert host_is_served("127.0.0.1", "127.0.0.1:")


@pytest.mark.parametrize("host", LITERALS)
def test_literal_addresses_are_served_where_every_address_is_listened_on(host: str) -> None:
    """A name can be rebound, a literal cannot."""
    assert host_is_served("0.0.0.0", host)
    assert host_is_served("::", host)
    assert not host_is_served("127.0.0.1", host)


@pytest.mark.parametrize("listen_host", ["0.0.0.0", "::"])
def test_foreign_names_are_not_served_on_every_address_either(listen_host: str) -> None:
    assert not host_is_served(listen_host, "evil.example.com")


def test_configured_address_is_served_in_any_spelling() -> None:
    assert host_is_served("192.0.2.1", "192.0.2.1:8808")
    assert host_is_served("2001:DB8::1", "[2001:db8:0:0::1]:8808")
    assert host_is_served("Proxy.Internal", "proxy.internal:80")
    assert not host_is_served("192.0.2.1", "192.0.2.2")


def test_client_without_host_is_served() -> None:
    """HTTP-H5: HTTP/1.0 needs none; browsers always send one."""
    assert host_is_served("127.0.0.1", "")


@pytest.mark.parametrize("authority", LOOPBACK)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_pages_of_loopback_are_allowed(scheme: str, authority: str) -> None:
    assert origin_is_allowed("127.0.0.1", f"{scheme}://{authority}")


@pytest.mark.parametrize("authority", [x for x in FOREIGN if x != "127.0.0.1:"])
def test_pages_from_elsewhere_are_not_allowed(authority: str) -> None:
    assert not origin_is_allowed("127.0.0.1", f"http://{authority}")


@pytest.mark.parametrize(
    "origin",
    ["null", "", "://", "http://", "localhost", "//localhost", "file://", "http://localhost/evil",
     "http://localhost evil", "http://evil.example.com/localhost", "http://localhost,http://evil",
     "http://localhost\x00", "http://localh\xf6st"],
)
def test_opaque_and_malformed_origins_are_not_allowed(origin: str) -> None:
    """RFC 6454 section 7.3: `null` is what a sandboxed page sends."""
    assert not origin_is_allowed("127.0.0.1", origin)
    assert not origin_is_allowed("0.0.0.0", origin)


def test_page_of_a_literal_address_is_allowed_at_its_own_only() -> None:
    """Pages are served from literal addresses too."""
    assert origin_is_allowed("0.0.0.0", "http://192.168.1.5:3000", "192.168.1.5:8808")
    assert not origin_is_allowed("0.0.0.0", "http://203.0.113.9", "192.168.1.5:8808")
    assert not origin_is_allowed("127.0.0.1", "http://192.168.1.5", "127.0.0.1")
