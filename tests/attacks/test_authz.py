"""The path corpus, asked of an authorizer: a proxy is told the same of each target as a caller of the other engines."""

from collections.abc import Iterator

import pytest

from harness import Home
from questions import Authz, values
from tests.attacks.test_paths import DOCUMENT, OPERATIONS, ROWS, forwarded, named

pytestmark = pytest.mark.slow
ASKED = [row for row in ROWS if not row[0].endswith(b" ")]
"""A blank at the end of a target is none of it for llhttp, and is sent by no proxy."""


@pytest.fixture(
    scope="module", params=["", "openapi: {spec: api.yaml, undocumented: refuse}\n"], ids=["any path", "document"]
)
def asked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Authz, str, str, bool]]:
    """An authorizer, a key with the permission of the page, another key, and whether a document says what there is."""
    home = Home(tmp_path_factory.mktemp("asked"), "http://127.0.0.1:9000")
    (home.folder / "api.yaml").write_text(DOCUMENT)
    home.write_policy(f"audience: api\n{request.param}{OPERATIONS}")
    admin, other = home.key(permissions=["admin:users"])[1], home.key(permissions=["pets:read"])[1]
    running = Authz(home)
    try:
        yield running.ready(), admin, other, bool(request.param)
    finally:
        running.stop()


@pytest.mark.parametrize(("target", "expected"), [pytest.param(*row, id=named(row[0])) for row in ASKED])
def test_a_target_is_judged_as_by_the_other_engines(
    target: bytes, expected: str, asked: tuple[Authz, str, str, bool]
) -> None:
    """What is refused there is refused here, with the same status (a target that is none is an ambiguous path); without a document all else goes
    on, with one nobody without the permission is let through to the page."""
    running, admin, other, has_document = asked
    for key in (admin, other):
        heard = running.ask("GET", target.decode("latin-1"), key)
        if not forwarded(expected):
            assert heard.status == int(expected[:3]) and heard.code in {expected[4:], "ambiguous-path", None}, heard
        elif not has_document:
            assert heard.status == 200 and values(heard, "authorization")
        elif expected.startswith("forwarded: itself"):
            assert heard.status == (200 if key == admin else 403)
        else:
            assert heard.status != 200 or key == admin or b"/admin" not in target.lower()
