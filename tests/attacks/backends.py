"""Backends as people run them, which tell what they were asked and leave /slow unanswered: uvicorn and nginx."""

import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from harness import eventually, free_port
from raw import Got, connect

_APP = """
import json
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        body += event.get("body", b"")
        more = event.get("more_body", False)
    fields = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    seen = [scope["method"], scope["raw_path"].decode("latin-1"), fields]
    with open("seen.jsonl", "a") as file:
        file.write(json.dumps(seen) + chr(10))
    if scope["path"] == "/slow":
        await receive()
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""
_HEADERS = (
    "host",
    "authorization",
    "x-user-id",
    "x-org-id",
    "x-smuggled",
    "x-original-url",
    "forwarded",
    "x-real-ip",
    "te",
    "trailer",
)
_NGINX = """
daemon off; master_process off; worker_processes 1; pid nginx.pid; error_log stderr;
events {{ worker_connections 512; }}
http {{
  log_format seen escape=json '["$request_method", "$request_uri", [{fields}]]';
  access_log seen.jsonl seen;
  client_body_temp_path body; proxy_temp_path proxy;
  fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  underscores_in_headers on;
  server {{
    listen 127.0.0.1:{port};
    location / {{ return 200 ok; }}
    location = /slow {{ proxy_pass http://127.0.0.1:{silent}; }}
  }}
}}
"""
_OPEN = {"01", "03", "08"}
"""Of connections that stand, come or were closed by the other side alone."""


class Backend:
    """A process that writes a line for each request that it served."""

    def __init__(self, folder: Path, command: list[str], port: int, *silent: socket.socket) -> None:
        """`silent`: where nobody answers."""
        self._silent = silent
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        self._file = folder / "seen.jsonl"
        with (folder / "output").open("wb") as output:
            self._process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
        self._told = folder / "output"
        eventually(f"{command[0]} listens", self._listens)

    def _listens(self) -> bool:
        assert self._process.poll() is None, self._told.read_text()
        try:
            connect(self.port).close()
        except OSError:
            return False
        return True

    def seen(self, lingers: bool = False) -> list[Got]:
        """The requests so far, when all of its connections have ended: nginx tells of a request when that is over."""
        eventually("its connections have ended", lambda: not self._open(), 5)
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        made = []
        for line in lines:
            method, target, fields = json.loads(line)
            pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields if value]
            made.append(Got(method.encode(), target.encode("latin-1"), b"", pairs))
        return made

    def _open(self) -> int:
        """How many connections it has. Linux alone."""
        rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return len([row for row in rows if row[1].endswith(f":{self.port:04X}") and row[3] in _OPEN])

    def clear(self) -> None:
        """Forget them."""
        if self._file.exists():
            with self._file.open("r+") as file:
                file.truncate()

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)
        for one in self._silent:
            one.close()


def uvicorn(folder: Path) -> Backend:
    """A lean Python backend."""
    (folder / "app.py").write_text(_APP)
    port = free_port()
    words = ["--host", "127.0.0.1", "--port", str(port), "--http", "h11", "--log-level", "warning"]
    return Backend(folder, [sys.executable, "-m", "uvicorn", "app:app", *words], port)


def nginx(folder: Path) -> Backend | None:
    """nginx; None where it is not installed."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        return None
    port = free_port()
    fields = ", ".join(f'["{name}", "$http_{re.sub("-", "_", name)}"]' for name in _HEADERS)
    silent = socket.create_server(("127.0.0.1", 0), backlog=1024)
    text = _NGINX.format(port=port, fields=fields, silent=silent.getsockname()[1])
    (folder / "nginx.conf").write_text(text)
    return Backend(folder, [program, "-p", str(folder), "-c", str(folder / "nginx.conf")], port, silent)
