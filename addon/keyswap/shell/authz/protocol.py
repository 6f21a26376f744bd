"""Questions over HTTP/1.1: read by llhttp, answered in turn.

Law: a question's target is the bytes that came. A connection holds one question at a time: nothing more is read while
one waits for its answer. What is malformed, or larger than a question may be, ends its connection.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from http import HTTPStatus
from typing import Any, Protocol, cast

import httptools

from keyswap.refusals import Answer
from keyswap.request.forward_auth import Question, is_question
from keyswap.workos import webhook

MAX_HEAD = 2 << 20
"""Bytes of a question's head: twice what a policy may let a request have."""
MAX_FIELDS = 200
"""Fields of a question: twice what a request may have."""
MAX_STRANGERS_HEAD = 16 << 10
"""The same bytes for who may not ask."""
MAX_BODY = 64 << 20
"""Bytes of a question's body; what is judged of it is bounded by the policy. Who may not ask sends a webhook."""

_STATUS_LINES = {int(one): f"HTTP/1.1 {one.value} {one.phrase}\r\n".encode() for one in HTTPStatus}

Answers = Callable[[Question, bool], Coroutine[Any, Any, Answer]]


class Connections(Protocol):
    """Who is told of connections that open and close."""

    def opened(self, connection: "QuestionProtocol") -> bool:
        """Whether there is room for it."""

    def may_ask(self, connection: "QuestionProtocol") -> bool:
        """Whether whoever is at the other end may ask, by the policy in force."""

    def closed(self, connection: "QuestionProtocol") -> None:
        """It is closed."""


class QuestionProtocol(asyncio.Protocol):
    """One connection of a proxy."""

    def __init__(self, answers: Answers, connections: Connections, loop: asyncio.AbstractEventLoop) -> None:
        self._answers, self._connections, self._loop = answers, connections, loop
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._is_trusted = False
        self._asked: asyncio.Task[Answer] | None = None
        self._waiting: list[bytes] = []
        """What has come behind a question that waits for its answer."""
        self._behind: deque[tuple[Question, bool]] = deque()
        """Questions that came in one piece with it, and whether they are the last ones."""
        self._closes = False
        self._max_head = MAX_STRANGERS_HEAD
        self._target, self._fields, self._body = b"", list[tuple[bytes, bytes]](), list[bytes]()
        self._is_head = True
        self.begun: float | None = None
        """When the question began of which a part has come, by the loop's clock."""
        self._size = self._unread = 0

    @property
    def peer(self) -> str:
        """The address at the other end; empty for a socket in the file system."""
        peername = self._transport.get_extra_info("peername") if self._transport is not None else None
        return str(peername[0]) if isinstance(peername, tuple) else ""

    def cut(self) -> None:
        """Close it as it is: nothing can be answered any more, or in time."""
        if self._transport is not None:
            self._transport.abort()

    def drain(self) -> None:
        """Close it: at once, or behind the answer that it waits for."""
        self._closes = True
        if self._asked is None and self._transport is not None:
            self._transport.close()

    # ---- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._is_trusted = self._connections.may_ask(self)
        self._max_head = MAX_HEAD if self._is_trusted else MAX_STRANGERS_HEAD
        if not self._connections.opened(self):
            self._transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        """End: nobody waits for an answer any more."""
        self._connections.closed(self)
        if self._asked is not None:
            self._asked.cancel()
        self._transport = None

    def eof_received(self) -> bool:
        """Nothing more is asked: the question that waits is answered all the same."""
        if self._behind:
            self._behind.append((self._behind.pop()[0], True))
        else:
            self._closes = True
        return self._asked is not None

    def data_received(self, data: bytes) -> None:
        """Read on, unless a question waits for its answer."""
        if self._asked is not None:
            self._waiting.append(data)
            if self._transport is not None:
                self._transport.pause_reading()
            return
        self._unread = len(data) + (self._unread if self.begun is not None else 0)
        try:
            self._parser.feed_data(data)
            if self.begun is not None and self._is_head and self._unread > self._max_head:
                raise ValueError("a field is too long, of which the parser has told nothing yet")
        except httptools.HttpParserUpgrade as upgrade:  # of the request that is asked about: here nothing is upgraded
            self._parser = httptools.HttpRequestParser(self)
            if rest := data[upgrade.args[0] :]:
                self.data_received(rest)
        except (httptools.HttpParserError, ValueError):
            self._refuse()

    def pause_writing(self) -> None:
        """Answers are not taken: nothing more is asked."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """They are taken again."""
        if self._transport is not None and self._asked is None:
            self._transport.resume_reading()

    # ---- llhttp's side

    def on_message_begin(self) -> None:
        """A question begins."""
        self._target, self._fields, self._body, self._size = b"", [], [], 0
        self._is_head, self.begun = True, self._loop.time()

    def on_url(self, part: bytes) -> None:
        """A part of its target."""
        self._target += part
        self._count(len(part), self._max_head)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of its fields."""
        if not self._is_head or len(self._fields) >= MAX_FIELDS:
            raise ValueError("a trailer, or too many fields")
        self._fields.append((name, value))
        self._size += len(name) + len(value)
        if self._size > self._max_head:
            raise ValueError("a head is too large")

    def on_headers_complete(self) -> None:
        """Its head is whole."""
        self._is_head, self._size = False, 0
        asks = self._is_trusted and is_question(Question(b"", self._target, tuple(self._fields)))
        self._most = MAX_BODY if asks else webhook.MAX_BODY + 1

    def on_body(self, part: bytes) -> None:
        """A part of its body."""
        self._body.append(part)
        self._count(len(part), self._most)

    def on_message_complete(self) -> None:
        """It is whole: it is answered, or waits for those before it."""
        question = Question(self._parser.get_method(), self._target, tuple(self._fields), b"".join(self._body))
        is_last = not self._parser.should_keep_alive() or not self._is_trusted
        self.begun = None
        if self._asked is not None:
            self._behind.append((question, is_last))
        elif not self._closes:
            self._ask(question, is_last)

    def _ask(self, question: Question, is_last: bool) -> None:
        self._closes = self._closes or is_last
        # Most answers wait for nothing: such a task is done when it has been made.
        trusted = self._connections.may_ask(self)
        task = asyncio.Task(self._answers(question, trusted), loop=self._loop, eager_start=True)
        if task.done():
            self._write(task.result(), question.method)
        else:
            self._asked = task
            task.add_done_callback(partial(self._answered, question.method))

    def _count(self, size: int, most: int) -> None:
        self._size += size
        if self._size > most:
            raise ValueError("a question is too large")

    # ---- Answers

    def _answered(self, method: bytes, task: asyncio.Task[Answer]) -> None:
        self._asked = None
        if task.cancelled() or self._transport is None:
            return
        self._write(task.result(), method)
        while self._behind and self._asked is None and not self._closes:
            self._ask(*self._behind.popleft())
        if self._asked is None and not self._closes:
            waiting, self._waiting = b"".join(self._waiting), []
            self._transport.resume_reading()
            if waiting:
                self.data_received(waiting)

    def _write(self, answer: Answer, method: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        lines = [_STATUS_LINES[answer.status]]
        lines += [b"%b: %b\r\n" % field for field in answer.headers if field[0].lower() != b"content-length"]
        has_body = answer.status not in {204, 304}
        if has_body:
            lines.append(b"Content-Length: %d\r\n" % len(answer.body))
        lines.append(b"Connection: close\r\n\r\n" if self._closes else b"\r\n")
        if has_body and method != b"HEAD":
            lines.append(answer.body)
        transport.write(b"".join(lines))
        if self._closes:
            transport.close()

    def _refuse(self) -> None:
        self._closes = True
        if self._asked is None and self._transport is not None:
            self._transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self._transport.close()
