"""What the proxy's own limit of calls at once is made of, on real sockets."""

from __future__ import annotations

from pathlib import Path

from tests.wire.proxy_process import running
from tests.wire.socket_upstream import SocketUpstream


def test_every_call_of_a_busy_client_is_timed_where_the_limit_is_found_out(tmp_path: Path) -> None:
    """A connection that a client kept between calls would tell nothing, and the limit stay."""
    file = tmp_path / "config.toml"
    with SocketUpstream() as upstream:
        pool = "[upstreams.default.pool]\nconnections-max = 8\nadaptive-min = 2\n"
        file.write_text(f'[upstreams.default]\nurl = "{upstream.url}"\n{pool}')
        with running("--config", str(file)) as proxy:
            proxy.wait_ready()
            session = proxy.session()
            for n in range(3):
                assert session.call("t", n).status == 200
            gauges = proxy.pool()
            assert (gauges["leased"], gauges["limit"]) == (0, 2)
