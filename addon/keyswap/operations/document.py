"""An OpenAPI document (3.0 or 3.1) → what it says of each operation.

Law: whatever in a document is read here and is not as OpenAPI has it, is an error with file, JSON pointer and remedy;
nothing is skipped in silence but what says nothing of who may call what.
"""

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote

from keyswap.model import METHODS, Requirement
from keyswap.operations.findings import DocumentError, Finding, pointer
from keyswap.operations.references import Library, Place
from keyswap.operations.servers import prefixes
from keyswap.operations.slugs import conjunction

MAX_OPERATIONS = 50_000
_ITEM_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")

SecurityAlternatives = tuple[Mapping[str, tuple[str, ...]], ...]
"""Security requirement objects: scheme → scopes. One object has to be fulfilled whole (OpenAPI 3.1 §4.8.30)."""


class Parameter(NamedTuple):
    """What is read of a parameter."""

    name: str
    where: str
    style: str | None
    required: bool


class Described(NamedTuple):
    """What the document says of an operation. `path` is as the document writes it, without prefixes."""

    method: str
    path: str
    prefixes: tuple[str, ...]
    operation_id: str | None
    tags: tuple[str, ...]
    file: str
    pointer: str
    security: SecurityAlternatives | None
    """None: it says nothing of security; (): there is an empty list."""
    security_at: str
    """Whose `security` that is: operation, path, or document."""
    required: Requirement | None
    """`x-required-permissions`, of the operation or its path."""
    parameters: tuple[Parameter, ...]
    template: str
    """The path exactly as the document has it, and the objects of path and operation."""
    item: Place
    place: Place
    multi_segment: tuple[str, ...]
    """`x-multi-segment`: the path parameters that take several segments."""


class Document(NamedTuple):
    """A document that was read whole. `version` is (3, 0) or (3, 1)."""

    name: str
    title: str
    version: tuple[int, int]
    operations: tuple[Described, ...]
    schemes: Mapping[str, str]
    """The declared security schemes, and the type of each."""
    scopes: tuple[tuple[str, str], ...]
    """The scopes that its schemes declare, each with its pointer."""
    warnings: tuple[Finding, ...]
    library: Library


def read(library: Library) -> Document:
    """Read a document. Raises DocumentError."""
    return _Reader(library).read()


class _Reader:
    def __init__(self, library: Library) -> None:
        self._library = library
        self._root = Place(library.documents[library.uri].data, library.uri, "")
        self._warnings: list[Finding] = []

    def read(self) -> Document:
        root = self._root
        if not isinstance(root.value, dict) or not ({"openapi", "swagger"} & set(root.value)):
            raise self._wrong(root, "no-openapi", "this is no OpenAPI document", "is it the right file or URL?")
        version = self._version(root)
        info = root.value.get("info")
        title = info.get("title") if isinstance(info, dict) else None
        operations: list[Described] = []
        paths = self._member(root, "paths", dict)
        for path, item in self._library.items(paths) if paths else ():
            if not path.startswith("x-"):
                operations += self._item(path, item)
            if len(operations) > MAX_OPERATIONS:
                raise self._wrong(item, "too-large", f"more than {MAX_OPERATIONS} operations", "split the document")
        name = self._library.names[root.uri]
        schemes, scopes = self._schemes(root)
        return Document(
            name,
            title if isinstance(title, str) else name,
            version,
            tuple(operations),
            schemes,
            scopes,
            tuple(self._warnings),
            self._library,
        )

    def _version(self, root: Place) -> tuple[int, int]:
        said = str(root.value.get("openapi", root.value.get("swagger")))
        if "swagger" in root.value or said.startswith("2"):
            place = Place(None, root.uri, "/swagger")
            remedy = "convert it to OpenAPI 3, for example with swagger2openapi"
            raise self._wrong(place, "openapi-2", f"OpenAPI {said} is not read", remedy)
        for version in ((3, 0), (3, 1)):
            if said == "{}.{}".format(*version) or said.startswith("{}.{}.".format(*version)):
                return version
        place = Place(None, root.uri, "/openapi")
        raise self._wrong(place, "openapi-version", f"OpenAPI {said} is not read", "write it as OpenAPI 3.0 or 3.1")

    def _schemes(self, root: Place) -> tuple[Mapping[str, str], tuple[tuple[str, str], ...]]:
        components = self._member(root, "components", dict)
        schemes = self._member(components, "securitySchemes", dict) if components else None
        types: dict[str, str] = {}
        scopes: dict[str, str] = {}
        for name, place in self._library.items(schemes) if schemes else ():
            scheme = self._library.follow(place)
            types[name] = str(scheme.value.get("type")) if isinstance(scheme.value, dict) else ""
            flows = self._member(scheme, "flows", dict)
            for _, flow in self._library.items(flows) if flows else ():
                declared = self._member(flow, "scopes", dict)
                for scope, where in self._library.items(declared) if declared else ():
                    scopes.setdefault(scope, where.pointer)
        return types, tuple(scopes.items())

    # ---- A path and its operations

    def _item(self, path: str, place: Place) -> list[Described]:
        if not path.startswith("/"):
            raise self._wrong(place, "bad-template", f"the path {path!r} does not begin with /", "write /" + path)
        item = self._library.follow(place)
        if not isinstance(item.value, dict):
            raise self._wrong(place, "bad-item", "a path item is an object", "write the path's methods into it")
        # A path item that is a reference may have members of its own beside it: those would be lost (OpenAPI 3.1).
        if item is not place and set(place.value) & set(_ITEM_METHODS):
            raise self._wrong(place, "ref-siblings", "methods beside a $ref", "put them into one path item")
        return [
            self._operation(path, item, method, Place(item.value[method], item.uri, item.pointer + pointer(method)))
            for method in _ITEM_METHODS
            if method in item.value and self._served(method, item)
        ]

    def _served(self, method: str, item: Place) -> bool:
        if method.upper() in METHODS:
            return True
        name = self._library.names[item.uri]
        where = item.pointer + pointer(method)
        remedy = "remove it from the document"
        self._warnings.append(Finding("never-served", "TRACE is never forwarded", name, where, None, remedy))
        return False

    def _operation(self, path: str, item: Place, method: str, place: Place) -> Described:
        if not isinstance(place.value, dict):
            raise self._wrong(place, "bad-operation", "an operation is an object", "write one, {} at least")
        security_at, security = self._security(item, place)
        servers = next((one.value["servers"] for one in (place, item, self._root) if one.value.get("servers")), None)
        try:
            begins = prefixes(servers, self._root.uri)
        except ValueError as error:
            raise self._wrong(place, "bad-server", str(error), "") from error
        parameters, several = self._parameters(item, place)
        tags = place.value.get("tags") or []
        operation_id = place.value.get("operationId")
        return Described(
            method.upper(),
            quote(path, safe="/{}!$&'()*+,=:@~-._;%?#[]"),
            begins,
            operation_id if isinstance(operation_id, str) else None,
            tuple(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else (),
            self._library.names[place.uri],
            place.pointer,
            security,
            security_at,
            self._required(item, place),
            parameters,
            path,
            item,
            place,
            several,
        )

    def _required(self, item: Place, place: Place) -> Requirement | None:
        for one in (place, item):
            if "x-required-permissions" in one.value:
                where = Place(None, one.uri, one.pointer + "/x-required-permissions")
                try:
                    return conjunction(one.value["x-required-permissions"])
                except ValueError as error:
                    raise self._wrong(where, "bad-permissions", str(error), "") from error
        return None

    def _security(self, item: Place, place: Place) -> tuple[str, SecurityAlternatives | None]:
        for level, one in (("operation", place), ("path", item), ("document", self._root)):
            if "security" in one.value:
                where = Place(one.value["security"], one.uri, one.pointer + "/security")
                return level, self._alternatives(where)
        return "", None

    def _alternatives(self, place: Place) -> SecurityAlternatives:
        remedy = "write a list of objects: [{scheme: [scope, ...]}]"
        if not isinstance(place.value, list):
            raise self._wrong(place, "bad-security", "`security` is no list", remedy)
        made = []
        for _, one in self._library.items(place):
            if not isinstance(one.value, dict):
                raise self._wrong(one, "bad-security", "a security requirement is an object", remedy)
            try:
                made.append(
                    {name: tuple(conjunction(scopes)[0]) if scopes else () for name, scopes in one.value.items()}
                )
            except (ValueError, TypeError) as error:
                raise self._wrong(one, "bad-security", str(error), remedy) from error
        return tuple(made)

    def _parameters(self, item: Place, place: Place) -> tuple[tuple[Parameter, ...], tuple[str, ...]]:
        found: dict[tuple[str, str], Parameter] = {}
        several: list[str] = []
        for level in (item, place):
            listed = level.value.get("x-multi-segment")
            several += [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
        for level in (item, place):
            listed = self._member(level, "parameters", list)
            for _, one in self._library.items(listed) if listed else ():
                value = self._library.follow(one).value
                if not (isinstance(value, dict) and isinstance(value.get("name"), str)):
                    raise self._wrong(one, "bad-parameter", "a parameter without a name", "write `name` and `in`")
                where = str(value.get("in"))
                if where == "path" and value.get("x-multi-segment") is True:
                    several.append(value["name"])
                style = value.get("style")
                found[value["name"], where] = Parameter(
                    value["name"],
                    where,
                    style if isinstance(style, str) else None,
                    value.get("required") is True,
                )
        return tuple(found.values()), tuple(dict.fromkeys(several))

    # ---- Places

    def _member(self, place: Place, name: str, kind: type) -> Place | None:
        """A member of an object, if it is there. Raises DocumentError when it is something else."""
        if not isinstance(place.value, dict) or place.value.get(name) is None:
            return None
        member = Place(place.value[name], place.uri, place.pointer + pointer(name))
        if not isinstance(member.value, kind):
            word = "object" if kind is dict else "list"
            raise self._wrong(member, "bad-member", f"`{name}` is no {word}", f"write {'{}' if kind is dict else '[]'}")
        return member

    def _wrong(self, place: Place, code: str, message: str, remedy: str) -> DocumentError:
        return self._library.error(place.uri, code, message, place.pointer, remedy)
