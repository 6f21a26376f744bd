"""A load and a backend of our own, for machines without wrk and nginx. Both are programs: `client` and `backend`.

The client keeps each connection busy with one request at a time, as wrk does, and prints how many were answered with
200, and of their latencies (seconds) the median and the 99th percentile. Neither parses more of HTTP than the other
side writes.
"""

import asyncio
import sys
import time
from itertools import chain

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n" + b'{"ok": true}'


class Backend(asyncio.Protocol):
    """Answers every request head with the same bytes; requests have no body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.waiting = transport, b""

    def data_received(self, data: bytes) -> None:
        """Answer each head that is whole."""
        *heads, self.waiting = (self.waiting + data).split(b"\r\n\r\n")
        self.transport.write(ANSWER * len(heads))


async def backend(port: int) -> None:
    """Serve until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Backend, "127.0.0.1", port)
    await server.serve_forever()


async def connection(port: int, head: bytes, until: float) -> list[float]:
    """One connection's requests; how long each took."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    took: list[float] = []
    while (began := time.monotonic()) < until:
        writer.write(head)
        answer = await reader.readuntil(b"\r\n\r\n")
        lines = answer.lower().split(b"\r\n")
        (length,) = (int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
        await reader.readexactly(length)
        if b" 200 " not in lines[0]:
            raise SystemExit(f"bench: answered {lines[0].decode('latin-1')}")
        took.append(time.monotonic() - began)
    writer.close()
    return took


async def client(port: int, seconds: float, connections: int, path: str, headers: list[str]) -> list[float]:
    """All connections' requests; how long each took, in order."""
    lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", *headers]
    head = "".join(f"{line}\r\n" for line in [*lines, ""]).encode()
    until = time.monotonic() + seconds
    return sorted(chain(*await asyncio.gather(*(connection(port, head, until) for _ in range(connections)))))


def main() -> None:
    """`backend PORT`, or `client PORT SECONDS CONNECTIONS PATH HEADER...`."""
    what, port, *words = sys.argv[1:]
    if what == "backend":
        return asyncio.run(backend(int(port)))
    seconds, connections, path, *headers = words
    took = asyncio.run(client(int(port), float(seconds), int(connections), path, headers))
    p50, p99 = (took[int(len(took) * part)] if took else 0.0 for part in (0.5, 0.99))
    print(len(took), p50, p99)
    return None


if __name__ == "__main__":
    main()
