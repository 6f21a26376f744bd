"""mitmproxy options that would open the gate."""

import http.client
import time
from collections.abc import Callable

import pytest

from harness import Backend, Gateway, Home, Web

Start = Callable[..., Gateway]

DANGEROUS = {
    "ignore_hosts": "ignore_hosts=.*",
    "allow_hosts": "allow_hosts=x",
    "tcp_hosts": "tcp_hosts=.*",
    "map_remote": "map_remote=|.*|http://127.0.0.1:9/",
    "map_local": "map_local=|.*|/tmp",
    "modify_headers": "modify_headers=/~q/X-User-Id/root",
    "modify_body": "modify_body=/~q/a/b",
    "upstream_auth": "upstream_auth=u:p",
    "stickyauth": "stickyauth=.*",
    "stickycookie": "stickycookie=.*",
    "proxyauth": "proxyauth=any",
    "block_list": "block_list=:~q:444",
    "validate_inbound_headers": "validate_inbound_headers=false",
    "stream_large_bodies": "stream_large_bodies=1m",
    "body_size_limit": "body_size_limit=1m",
    "store_streamed_bodies": "store_streamed_bodies=true",
    "ssl_insecure": "ssl_insecure=true",
    "proxy_debug": "proxy_debug=true",
    "keyswap_nonsense": "keyswap_nonsense=1",
}


@pytest.mark.parametrize("option", DANGEROUS)
def test_a_dangerous_option_stops_the_start(option: str, start: Start, backend: Backend) -> None:
    """Each option that opens the gate stops the start with one line that names it."""
    gateway = start("mitmdump", "--set", DANGEROUS[option])
    assert gateway.ended() == 1
    assert option in gateway.output and "Traceback" not in gateway.output
    assert backend.count == 0


@pytest.mark.parametrize("option", ["server_replay", "client_replay"])
def test_replays_stop_the_start(option: str, start: Start, home: Home) -> None:
    """Replaying recorded flows through the gateway is refused at the start."""
    flows = home.folder / "flows"
    flows.write_bytes(b"")
    gateway = start("mitmdump", "--set", f"{option}={flows}")
    assert gateway.ended() == 1 and option in gateway.output


@pytest.mark.parametrize(
    "mode", [["regular"], ["reverse:tcp://127.0.0.1:9"], ["reverse:http://127.0.0.1:9", "socks5@0"]]
)
def test_other_modes_stop_the_start(mode: list[str], start: Start) -> None:
    """Any mode but one reverse mode to an HTTP server stops the start."""
    gateway = start("mitmdump-bare", *[word for one in mode for word in ("--mode", one)])
    assert gateway.ended() == 1 and "mode" in gateway.output and "Traceback" not in gateway.output


@pytest.mark.parametrize("kind", ["mitmdump", "mitmweb"])
@pytest.mark.parametrize("word", ["keyswap_policy=a", "keyswap_state=a", "keyswap_state"])
def test_an_option_of_ours_that_cannot_be_read(
    word: str, kind: str, start: Start, home: Home, backend: Backend
) -> None:
    """An option of ours that is given twice, or the last time without a value, never leaves the gate out."""
    gateway = start(kind, "--set", word)
    refused = 0
    while gateway.process.poll() is None and refused < 20:
        try:
            status = gateway.get("/").status
        except (OSError, http.client.HTTPException):
            time.sleep(0.01)
        else:
            assert status in {401, 503}
            refused += 1
    assert refused == 20 or (gateway.ended() == 1 and "keyswap" in gateway.output)
    assert backend.count == 0


def test_dangerous_options_are_refused_at_run_time(start: Start, home: Home, backend: Backend) -> None:
    """mitmweb can change options while it runs: each dangerous change is refused and leaves the gate as it was."""
    _, value = home.key()
    gateway = start("mitmweb").ready()
    with Web(gateway) as web:
        assert web.set(termlog_verbosity="info") == 200, (
            "the way to change options is open, so a refusal below means something"
        )
        for options in OPENING:
            assert web.set(**options) == 400, options
            assert (gateway.get("/", value).status, gateway.get("/").status) == (200, 401), options
    assert all(not seen.values("x-user-id") for seen in backend.seen)


OPENING: tuple[dict[str, object], ...] = (
    {"modify_headers": ["/~q/X-User-Id/root"]},
    {"map_remote": ["|.*|http://127.0.0.1:9/"]},
    {"ignore_hosts": [".*"]},
    {"validate_inbound_headers": False},
    {"rawtcp": True},
    {"websocket": False},
    {"anticache": True},
    {"anticomp": True},
    {"keep_host_header": False},
    {"connection_strategy": "eager"},
    {"block_global": True},
    {"onboarding": True},
    {"mode": ["reverse:http://127.0.0.1:1"]},
    {"mode": ["reverse:http://127.0.0.1:9", "regular@0"]},
    {"ssl_insecure": True},
    {"intercept": "~all"},
    {"keyswap_policy": "/nope"},
    {"stream_large_bodies": "1"},
)
