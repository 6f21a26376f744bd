"""`check --workos` beside a gateway that stands in for WorkOS: the slugs of one machine's API, on its admin listener."""

from collections.abc import Callable

import pytest

from harness import Gateway, Home
from operators import TOKEN, Operator
from tests.operations.documents import PETS

Start = Callable[..., Gateway]


def test_check_agrees_with_the_admin_listener(start: Start, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the admin listener as `workos.base_url`, what is missing there is an error, --push creates it, and a key
    that then carries it passes."""
    monkeypatch.setenv("KEYSWAP_ADMIN_TOKEN", TOKEN)
    (home.folder / "api.yaml").write_text(PETS)
    operator = Operator(home, "openapi: {spec: api.yaml}\n")
    gateway = start("serve").ready()
    operator.ready()
    policy = home.folder / "checked.yaml"
    policy.write_text(
        f"{home.policy.read_text()}workos: {{base_url: 'http://{operator.address}', api_key_env: KEYSWAP_ADMIN_TOKEN}}\n"
    )
    words = ("check", "--workos", "--policy", str(policy))
    missing = ["pets:read", "pets:write", "pets:all", "pets:drop", "admin"]
    assert home.json(*words, code=1)["workos"] == {"missing": missing, "unused": [], "created": []}
    assert home.json(*words, "--push")["workos"] == {"missing": [], "unused": [], "created": missing}
    assert home.json(*words)["workos"] == {"missing": [], "unused": [], "created": []}
    _, value = home.key(permissions=["pets:read"])
    assert gateway.get("/pets", value).status == 200
    monkeypatch.setenv("KEYSWAP_ADMIN_TOKEN", TOKEN[::-1])
    assert "refuses our secret" in home.run(*words, code=3)
