"""API keys, permissions and the key set as WorkOS serves them, over the state directory (CONTRACT §7, WORKOS.md).

Law: a change is committed, every process of this machine can see it, and the audit log has it, before it is answered. A
value is in the answer of the request that made it, and nowhere else. What is deleted is in no list, and not found.

There is no table of organizations or users here: any id is that of one who may have no keys yet.
"""

from collections.abc import Mapping

from keyswap import audit
from keyswap.keys.format import checksum_holds
from keyswap.keys.key import Key
from keyswap.keys.local.permissions import Permission, Permissions, Taken
from keyswap.keys.local.reader import UnknownKey
from keyswap.keys.local.writer import KeyExpired, KeyUnusable, Ledger
from keyswap.keys.paging import PageRequest
from keyswap.keys.serialize import as_workos, audit_detail, iso
from keyswap.refusals import Answer
from keyswap.shell.admin.errors import Conflict, NotFound
from keyswap.shell.admin.executor import listed, opened, working
from keyswap.shell.admin.request_bodies import (
    Expiry,
    KeyToValidate,
    NewKey,
    NewPermission,
    NewUserKey,
    identifier,
    page_request,
    read,
)
from keyswap.shell.admin.responses import as_json, cacheable, nothing
from keyswap.shell.admin.routes import AdminRequest, Gateway, KeyStoreRef, Route

DELETED = "deleted over the admin listener"


def _list_of_organization(store: KeyStoreRef, request: AdminRequest, _now: float) -> Answer:
    page, _ = page_request(request.query)
    return _list(store, request, page, _named(request, "organization_id", "Organization"), None)


def _list_of_user(store: KeyStoreRef, request: AdminRequest, _now: float) -> Answer:
    page, also = page_request(request.query, "organization_id")
    return _list(store, request, page, also.get("organization_id") or None, _named(request, "user_id", "User"))


def _list(
    store: KeyStoreRef, request: AdminRequest, page: PageRequest, org_id: str | None, user_id: str | None
) -> Answer:
    with opened(store, Ledger) as ledger:
        keys = ledger.page(page, org_id, user_id)
        used = ledger.last_used(key.id for key in keys.data)
    return listed(keys, lambda key: as_workos(key, used.get(key.id)), request.request_id)


def _create_for_organization(store: KeyStoreRef, request: AdminRequest, now: float) -> Answer:
    org_id = _named(request, "organization_id", "Organization")
    return _create(store, request, read(NewKey, request.body, now), now, org_id, None)


def _create_for_user(store: KeyStoreRef, request: AdminRequest, now: float) -> Answer:
    user_id, new = _named(request, "user_id", "User"), read(NewUserKey, request.body, now)
    return _create(store, request, new, now, new.organization_id, user_id)


def _create(
    store: KeyStoreRef, request: AdminRequest, new: NewKey, now: float, org_id: str, user_id: str | None
) -> Answer:
    with opened(store, Ledger) as ledger:
        key, value = ledger.create(
            now=now,
            org_id=org_id,
            user_id=user_id,
            name=new.name,
            permissions=new.permissions,
            expires_at=new.expires_at,
        )
    audit.changed(store.state, audit.ADMIN, "key.created", key.id, **audit_detail(key))
    return as_json({**as_workos(key, None), "value": value}, request.request_id, 201)


def _validate(store: KeyStoreRef, request: AdminRequest, now: float) -> Answer:
    value = read(KeyToValidate, request.body, now).value
    valid: Mapping[str, object] | None = None
    with opened(store, Ledger) as ledger:
        key = ledger.find(value) if checksum_holds(value, store.prefix) else None
        # WorkOS' shape cannot say `allow_ip`: whoever asks would let the key in from everywhere.
        if key is not None and not key.allow_ip and ledger.state(key, now) == "active":
            valid = as_workos(key, ledger.last_used([key.id]).get(key.id))
    return as_json({"api_key": valid}, request.request_id)


def _delete(store: KeyStoreRef, request: AdminRequest, now: float) -> Answer:
    with opened(store, Ledger) as ledger:
        key = ledger.revoke(_there(ledger, request).id, DELETED, now)
    audit.changed(store.state, audit.ADMIN, "key.revoked", key.id, reason=DELETED)
    return nothing(request.request_id)


def _expire(store: KeyStoreRef, request: AdminRequest, now: float) -> Answer:
    expiry = read(Expiry, request.body, now)
    ends = expiry.expires_at if "expires_at" in expiry.model_fields_set else now
    with opened(store, Ledger) as ledger:
        try:
            key = ledger.expire(_there(ledger, request).id, ends, now)
        except KeyExpired:
            raise Conflict("api_key_already_expired", "This API key has expired already.") from None
        except KeyUnusable:  # deleted since it was looked up
            raise UnknownKey("") from None
        used = ledger.last_used([key.id]).get(key.id)
    audit.changed(store.state, audit.ADMIN, "key.updated", key.id, expires_at=key.expires_at)
    return as_json(as_workos(key, used), request.request_id)


def _there(ledger: Ledger, request: AdminRequest) -> Key:
    """The key that a path names, if it is not deleted."""
    key = ledger.get(identifier(request.named["id"]) or "")
    if key.revoked_at is not None:
        raise UnknownKey("")
    return key


def _named(request: AdminRequest, part: str, kind: str) -> str:
    object_id = identifier(request.named[part])
    if object_id is None:
        raise NotFound(f"{kind} not found.")
    return object_id


def _permissions(store: KeyStoreRef, request: AdminRequest, _now: float) -> Answer:
    page, _ = page_request(request.query)
    with opened(store, Permissions) as known:
        return listed(known.permissions(page), _permission, request.request_id)


def _create_permission(store: KeyStoreRef, request: AdminRequest, now: float) -> Answer:
    new = read(NewPermission, request.body, now)
    with opened(store, Permissions) as known:
        try:
            made = known.create(new.slug, new.name, new.description, new.resource_type_slug, now)
        except Taken as error:
            raise Conflict("permission_slug_conflict", f"{error}.".capitalize()) from None
    audit.changed(store.state, audit.ADMIN, "permission.created", made.slug)
    return as_json(_permission(made), request.request_id, 201)


def _permission(permission: Permission) -> dict[str, object]:
    """WorkOS' AuthorizationPermission object."""
    times = {"created_at": iso(permission.created_at), "updated_at": iso(permission.updated_at)}
    return {"object": "permission", **permission._asdict(), "system": False, **times}


async def _jwks(gateway: Gateway, request: AdminRequest) -> Answer:
    """The same for every client: there is one set of signing keys."""
    keys = await gateway.jwks()
    return cacheable(keys["body"].encode(), keys["etag"], keys["max_age_s"], request.request_id)


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
