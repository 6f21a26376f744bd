"""API keys, permissions and the key set as WorkOS serves them, over the state directory (CONTRACT §7, WORKOS.md).

Law: a change is committed, every process of this machine can see it, and the audit log has it, before it is answered. A
value is in the answer of the request that made it, and nowhere else. What is deleted is in no list, and not found.

There is no table of organizations or users here: any id is that of one who may have no keys yet.
"""

from collections.abc import Mapping

from keyswap import audit
from keyswap.keys import validate
from keyswap.keys.format import checksum_holds
from keyswap.keys.key import Key
from keyswap.keys.local.permissions import (
    MAX_DESCRIPTION,
    MAX_NAME,
    ORGANIZATION,
    Permission,
    Permissions,
    Taken,
    slug,
    text,
)
from keyswap.keys.local.reader import UnknownKey
from keyswap.keys.local.writer import Ended, Ledger, Unusable
from keyswap.keys.paging import Asked as PageAsked
from keyswap.keys.serialize import as_workos, iso, said
from keyswap.refusals import Answer
from keyswap.shell.admin.executor import Conflict, Missing, listed, opened, working
from keyswap.shell.admin.requests import OURS, Fields, asked_page, fields, identifier, name
from keyswap.shell.admin.responses import as_json, kept, nothing
from keyswap.shell.admin.routes import Asked, Gateway, Keeping, Route

DELETED = "deleted over the admin listener"


def _list_of_organization(keeping: Keeping, asked: Asked, _now: float) -> Answer:
    page, _ = asked_page(asked.head.query)
    return _list(keeping, asked, page, _named(asked, "organization_id", "Organization"), None)


def _list_of_user(keeping: Keeping, asked: Asked, _now: float) -> Answer:
    page, also = asked_page(asked.head.query, "organization_id")
    return _list(keeping, asked, page, also.get("organization_id") or None, _named(asked, "user_id", "User"))


def _list(keeping: Keeping, asked: Asked, page: PageAsked, org_id: str | None, user_id: str | None) -> Answer:
    with opened(keeping, Ledger) as ledger:
        found = ledger.page(page, org_id, user_id)
        used = ledger.last_used(key.id for key in found.data)
    return listed(found, lambda key: as_workos(key, used.get(key.id)), asked.request_id)


def _create_for_organization(keeping: Keeping, asked: Asked, now: float) -> Answer:
    org_id = _named(asked, "organization_id", "Organization")
    return _create(keeping, asked, fields(asked.body), now, org_id, None)


def _create_for_user(keeping: Keeping, asked: Asked, now: float) -> Answer:
    user_id, given = _named(asked, "user_id", "User"), fields(asked.body)
    return _create(keeping, asked, given, now, given.text("organization_id", name), user_id)


def _create(keeping: Keeping, asked: Asked, given: Fields, now: float, org_id: str, user_id: str | None) -> Answer:
    called, slugs = given.text("name", name), given.slugs("permissions")
    ends = given.time("expires_at", lambda at: validate.future(at, now))
    given.without(OURS)
    given.judged()
    with opened(keeping, Ledger) as ledger:
        key, value = ledger.create(
            now=now, org_id=org_id, user_id=user_id, name=called, permissions=slugs, expires_at=ends
        )
    audit.changed(keeping.state, audit.ADMIN, "key.created", key.id, **said(key))
    return as_json({**as_workos(key, None), "value": value}, asked.request_id, 201)


def _validate(keeping: Keeping, asked: Asked, now: float) -> Answer:
    given = fields(asked.body)
    value = given.text("value", str)
    given.judged()
    found: Mapping[str, object] | None = None
    with opened(keeping, Ledger) as ledger:
        key = ledger.find(value) if checksum_holds(value, keeping.prefix) else None
        # WorkOS' shape cannot say `allow_ip`: whoever asks would let the key in from everywhere.
        if key is not None and not key.allow_ip and ledger.state(key, now) == "active":
            found = as_workos(key, ledger.last_used([key.id]).get(key.id))
    return as_json({"api_key": found}, asked.request_id)


def _delete(keeping: Keeping, asked: Asked, now: float) -> Answer:
    with opened(keeping, Ledger) as ledger:
        key = ledger.revoke(_there(ledger, asked).id, DELETED, now)
    audit.changed(keeping.state, audit.ADMIN, "key.revoked", key.id, reason=DELETED)
    return nothing(asked.request_id)


def _expire(keeping: Keeping, asked: Asked, now: float) -> Answer:
    given = fields(asked.body)
    ends = given.time("expires_at", lambda at: at) if given.has("expires_at") else now
    given.without(OURS)
    given.judged()
    with opened(keeping, Ledger) as ledger:
        try:
            key = ledger.expire(_there(ledger, asked).id, ends, now)
        except Ended:
            raise Conflict("api_key_already_expired", "This API key has expired already.") from None
        except Unusable:  # deleted since it was looked up
            raise UnknownKey("") from None
        used = ledger.last_used([key.id]).get(key.id)
    audit.changed(keeping.state, audit.ADMIN, "key.updated", key.id, expires_at=key.expires_at)
    return as_json(as_workos(key, used), asked.request_id)


def _there(ledger: Ledger, asked: Asked) -> Key:
    """The key that a path names, if it is not deleted."""
    key = ledger.get(identifier(asked.named["id"]) or "")
    if key.revoked_at is not None:
        raise UnknownKey("")
    return key


def _named(asked: Asked, part: str, kind: str) -> str:
    found = identifier(asked.named[part])
    if found is None:
        raise Missing(f"{kind} not found.")
    return found


def _permissions(keeping: Keeping, asked: Asked, _now: float) -> Answer:
    page, _ = asked_page(asked.head.query)
    with opened(keeping, Permissions) as known:
        return listed(known.permissions(page), _permission, asked.request_id)


def _create_permission(keeping: Keeping, asked: Asked, now: float) -> Answer:
    given = fields(asked.body)
    wanted = given.text("slug", slug), given.text("name", lambda value: text(value, MAX_NAME))
    description = given.optional("description", lambda value: text(value, MAX_DESCRIPTION), null=True)
    kind = given.optional("resource_type_slug", slug) or ORGANIZATION
    given.judged()
    with opened(keeping, Permissions) as known:
        try:
            made = known.create(*wanted, description, kind, now)
        except Taken as error:
            raise Conflict("permission_slug_conflict", f"{error}.".capitalize()) from None
    audit.changed(keeping.state, audit.ADMIN, "permission.created", made.slug)
    return as_json(_permission(made), asked.request_id, 201)


def _permission(one: Permission) -> dict[str, object]:
    """WorkOS' AuthorizationPermission object."""
    times = {"created_at": iso(one.created_at), "updated_at": iso(one.updated_at)}
    return {"object": "permission", **one._asdict(), "system": False, **times}


async def _jwks(gateway: Gateway, asked: Asked) -> Answer:
    """The same for every client: there is one set of signing keys."""
    found = await gateway.jwks()
    known = asked.head.headers.get_list("If-None-Match")
    return kept(found["body"].encode(), found["etag"], found["max_age_s"], known, asked.request_id)


_ORGANIZATION = "/organizations/{organization_id}/api_keys"
_USER = "/user_management/users/{user_id}/api_keys"
_PERMISSIONS = "/authorization/permissions"

ROUTES: tuple[Route, ...] = (
    Route("GET", _ORGANIZATION, working(_list_of_organization)),
    Route("POST", _ORGANIZATION, working(_create_for_organization)),
    Route("GET", _USER, working(_list_of_user)),
    Route("POST", _USER, working(_create_for_user)),
    Route("POST", "/api_keys/validations", working(_validate)),
    Route("DELETE", "/api_keys/{id}", working(_delete)),
    Route("POST", "/api_keys/{id}/expire", working(_expire)),
    Route("GET", _PERMISSIONS, working(_permissions)),
    Route("POST", _PERMISSIONS, working(_create_permission)),
    Route("GET", "/sso/jwks/{client_id}", _jwks, token=False),
)
"""What WorkOS' SDKs find here."""
