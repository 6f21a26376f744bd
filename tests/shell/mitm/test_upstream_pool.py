"""What upstream_pool.py counts on in mitmproxy, and that what it makes is what mitmproxy makes."""

import inspect

from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.http import Headers, Request
from mitmproxy.net.http.http1 import assemble_request_head
from mitmproxy.proxy import commands
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import http
from mitmproxy.proxy.layers.http import _http1
from mitmproxy.proxy.layers.http._events import RequestHeaders
from mitmproxy.test.tflow import tflow
from mitmproxy.test.tutils import treq

from keyswap.shell.mitm import upstream_http1, upstream_pool

NAMES = st.sampled_from([b"cookie", b"Cookie", b"host", b"x-a", b"accept", b"content-length"])
FIELDS = st.lists(st.tuples(NAMES, st.sampled_from([b"a=1", b"b=2", b"3", b""])), max_size=6)


def theirs(request: Request) -> bytes:
    """The head that mitmproxy sends for an HTTP/2 request."""
    context = _context()
    client = _http1.Http1Client(context)
    ours = vars(_http1.Http1Client.send).get("keyswap_beneath", {})
    original = ours.get(upstream_http1.send, _http1.Http1Client.send)
    (sent,) = original(client, RequestHeaders(1, request, end_stream=True))
    assert isinstance(sent, commands.SendData)
    return sent.data


def _context() -> Context:
    flow = tflow()
    context = Context(flow.client_conn, None)  # type: ignore[arg-type]
    context.server = flow.server_conn
    return context


@given(FIELDS, st.sampled_from([b"", b"a.example", b"a.example:8443"]))
def test_a_request_becomes_what_mitmproxy_makes_of_it(fields: list[tuple[bytes, bytes]], authority: bytes) -> None:
    """The same lines, in another order at most, and the request itself is as it was."""
    request = treq(http_version=b"HTTP/2.0", authority=authority, headers=Headers(fields), path=b"/a?b")
    before = request.copy().get_state()
    ours = upstream_http1._as_http1(request)
    assert request.get_state() == before and not ours.is_http2 and not ours.authority
    head = assemble_request_head(ours)
    assert head.partition(b"\r\n")[0] == b"GET /a?b HTTP/1.1"
    assert sorted(map(bytes.lower, head.split(b"\r\n"))) == sorted(map(bytes.lower, theirs(request).split(b"\r\n")))


def test_the_parts_are_where_they_are_changed() -> None:
    """mitmproxy finds connections, ends requests, and says that a backend has closed, where and as it is counted on."""
    ours = vars(http.HttpLayer.get_connection).get("keyswap_beneath", {})
    find = ours.get(upstream_pool.get_connection, http.HttpLayer.get_connection)
    assert list(inspect.signature(find).parameters) == ["self", "event", "reuse"]
    source = inspect.getsource(_http1)
    assert "self.request = self.response = None" in source and "self.stream_id = None" in source
    assert "self.command_sources.pop(event)" in inspect.getsource(http)
