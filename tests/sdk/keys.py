"""What a team does with WorkOS' Python SDK, here against the admin listener: only the base URL is another.

Run by tests/process/test_workos_sdks.py in an environment that has the SDK and nothing of ours.
"""

import os
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

sdk: Any = import_module("workos")  # it is not in the environment in which types are checked
workos = sdk.WorkOSClient(api_key=os.environ["TOKEN"], client_id="client_1", base_url=os.environ["BASE_URL"])


def gateway(key: str) -> int:
    """What the gateway answers a key."""
    request = urllib.request.Request(os.environ["GATEWAY"], headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def refused(kind: type[Exception], act: Callable[..., object], *given: str, **named: str) -> Any:
    """The error that a call raises."""
    try:
        act(*given, **named)
    except kind as error:
        return error
    raise AssertionError(f"{kind} was not raised")


soon = datetime.now(UTC) + timedelta(days=30)
for owner in ("organization", "user"):
    made = []
    for number in range(25):
        named: dict[str, Any] = {"name": f"{owner} {number}", "permissions": ["posts:read", f"n:{number}"]}
        if owner == "organization":
            made.append(workos.api_keys.create_organization_api_key("org_py", **named))
        else:
            named |= {"organization_id": "org_py", "expires_at": soon}
            made.append(workos.user_management.create_user_api_key("user_py", **named))
    if owner == "organization":
        page = workos.api_keys.list_organization_api_keys("org_py", limit=10)
    else:
        page = workos.user_management.list_user_api_keys("user_py", limit=10, organization_id="org_py")
    assert len(page.data) == 10 and page.has_more()
    listed = [key.id for key in page.auto_paging_iter()]
    assert listed == sorted((key.id for key in made), reverse=True), listed
    key = made[7]
    assert key.owner.type == owner and key.permissions == ["posts:read", "n:7"]
    assert (key.expires_at is None) == (owner == "organization") and key.last_used_at is None
    assert gateway(key.value) == 200
    found = workos.api_keys.create_validation(value=key.value).api_key
    assert found is not None and (found.id, found.owner.type, found.name) == (key.id, owner, f"{owner} 7")
    later = workos.api_keys.create_api_key_expire(key.id, expires_at=soon)
    assert abs((later.expires_at - soon).total_seconds()) < 1 and gateway(key.value) == 200
    assert workos.api_keys.create_api_key_expire(key.id, expires_at=None).expires_at is None
    assert workos.api_keys.create_api_key_expire(key.id).expires_at is not None
    assert gateway(key.value) == 401 and workos.api_keys.create_validation(value=key.value).api_key is None
    assert refused(sdk.ConflictError, workos.api_keys.create_api_key_expire, key.id).code == "api_key_already_expired"
    other = made[8]
    assert gateway(other.value) == 200
    workos.api_keys.delete_api_key(other.id)
    assert gateway(other.value) == 401 and workos.api_keys.create_validation(value=other.value).api_key is None
    refused(sdk.NotFoundError, workos.api_keys.delete_api_key, other.id)

refused(sdk.UnprocessableEntityError, workos.api_keys.create_organization_api_key, "org_py", name="")
named_now = workos.authorization.create_permission(slug="py:read", name="Read", description="All of it")
assert named_now.slug == "py:read" and not named_now.system
refused(sdk.ConflictError, workos.authorization.create_permission, slug="py:read", name="Again")
assert "py:read" in [one.slug for one in workos.authorization.list_permissions().auto_paging_iter()]
(signing,) = workos.user_management.get_jwks("client_1").keys
assert (signing.alg, signing.use) == ("RS256", "sig") and signing.kid
print("done")
