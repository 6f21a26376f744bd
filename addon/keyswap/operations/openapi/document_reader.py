"""An OpenAPI document (3.0 or 3.1) → what it says of each operation.

Law: whatever in a document is read here and is not as OpenAPI has it, is an error with file, JSON pointer and remedy;
nothing is skipped in silence but what says nothing of who may call what.
"""

import difflib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from keyswap.model import METHODS, Requirement
from keyswap.operations.findings import Finding, pointer
from keyswap.operations.openapi.document import DescribedOperation, OpenApiDocument, SecurityAlternatives
from keyswap.operations.openapi.parameters import parameters_of
from keyswap.operations.openapi.references import DocumentNode, Library
from keyswap.operations.openapi.servers import prefixes
from keyswap.operations.slugs import conjunction, every

MAX_OPERATIONS = 50_000
_ITEM_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_ITEM_FIELDS = {*_ITEM_METHODS, "$ref", "summary", "description", "servers", "parameters", "security"}
_OURS = ("x-required-permissions", "x-multi-segment")
"""The fields that are this gateway's own."""


def read(library: Library) -> OpenApiDocument:
    """Read a document. Raises DocumentError."""
    return _DocumentReader(library).read()


class _DocumentReader:
    def __init__(self, library: Library) -> None:
        self._library = library
        self._root = DocumentNode(library.documents[library.uri].data, library.uri, "")
        self._warnings: list[Finding] = []
        self._prefixes: dict[int, tuple[str, ...]] = {}
        """The path prefixes of each list of servers: in some documents there are as many lists as operations."""
        self._served_paths = 0

    def read(self) -> OpenApiDocument:
        root = self._root
        if not isinstance(root.value, dict) or not ({"openapi", "swagger"} & set(root.value)):
            raise self._library.wrong(root, "no-openapi", "this is no OpenAPI document", "is it the right file or URL?")
        version = self._version(root)
        info = root.value.get("info")
        title = info.get("title") if isinstance(info, dict) else None
        operations: list[DescribedOperation] = []
        paths = self._library.member(root, "paths", dict)
        for path, item in self._library.items(paths) if paths else ():
            if not path.startswith("x-"):
                operations += self._item(path, item)
        self._misspelt(root, ())
        name = self._library.names[root.uri]
        schemes, scopes = self._schemes(root)
        return OpenApiDocument(
            name,
            title if isinstance(title, str) else name,
            version,
            tuple(operations),
            schemes,
            scopes,
            tuple(self._warnings),
            self._library,
        )

    def _version(self, root: DocumentNode) -> tuple[int, int]:
        declared = str(root.value.get("openapi", root.value.get("swagger")))
        if "swagger" in root.value or declared.startswith("2"):
            node = DocumentNode(None, root.uri, "/swagger")
            remedy = "convert it to OpenAPI 3, for example with swagger2openapi"
            raise self._library.wrong(node, "openapi-2", f"OpenAPI {declared} is not read", remedy)
        for version in ((3, 0), (3, 1)):
            if declared == "{}.{}".format(*version) or declared.startswith("{}.{}.".format(*version)):
                return version
        node = DocumentNode(None, root.uri, "/openapi")
        raise self._library.wrong(
            node, "openapi-version", f"OpenAPI {declared} is not read", "write it as OpenAPI 3.0 or 3.1"
        )

    def _schemes(self, root: DocumentNode) -> tuple[Mapping[str, str], tuple[tuple[str, str], ...]]:
        components = self._library.member(root, "components", dict)
        schemes = self._library.member(components, "securitySchemes", dict) if components else None
        types: dict[str, str] = {}
        scopes: dict[str, str] = {}
        for name, node in self._library.items(schemes) if schemes else ():
            scheme = self._library.follow(node)
            types[name] = str(scheme.value.get("type")) if isinstance(scheme.value, dict) else ""
            flows = self._library.member(scheme, "flows", dict)
            for _, flow in self._library.items(flows) if flows else ():
                declared = self._library.member(flow, "scopes", dict)
                for scope, where in self._library.items(declared) if declared else ():
                    scopes.setdefault(scope, where.pointer)
        return types, tuple(scopes.items())

    # ---- A path and its operations

    def _item(self, path: str, node: DocumentNode) -> list[DescribedOperation]:
        if not path.startswith("/"):
            raise self._library.wrong(
                node, "bad-template", f"the path {path!r} does not begin with /", "write /" + path
            )
        item, beside = self._target(node)
        levels = (item, *beside)
        for level in levels:
            self._fields(level)
            self._misspelt(level, _OURS)
        return [
            self._operation(
                path, levels, method, DocumentNode(item.value[method], item.uri, item.pointer + pointer(method))
            )
            for method in _ITEM_METHODS
            if method in item.value and self._served(method, item)
        ]

    def _target(self, node: DocumentNode) -> tuple[DocumentNode, list[DocumentNode]]:
        """The path item that a path leads to, and what stands beside each `$ref` on the way.

        OpenAPI 3.1 §4.8.9 lets a path item say more than what it refers to, but not another thing of the same name.
        """
        beside: list[DocumentNode] = []
        after: DocumentNode | None = node
        while after is not None:
            item = after
            if not isinstance(item.value, dict):
                raise self._library.wrong(
                    item, "bad-item", "a path item is an object", "write the path's methods into it"
                )
            after = self._library.hop(item)
            if after is not None:
                self._library.follow(item)  # ends, or is an error
                beside.append(item._replace(value={key: value for key, value in item.value.items() if key != "$ref"}))
            elif "$ref" in item.value:
                raise self._library.wrong(item, "bad-item", "a $ref that is no text", "write a path, or remove it")
        fields = set(item.value) - {"summary", "description"}
        for value in reversed(beside):
            lost = set(value.value) & (fields | {*_ITEM_METHODS, "parameters"})
            if lost:
                message = f"`{min(lost)}` beside a $ref, which would be lost"
                raise self._library.wrong(
                    value, "ref-siblings", message, "write it into the path item that the $ref leads to"
                )
            fields |= set(value.value) - {"summary", "description"}
        return item, list(reversed(beside))

    def _fields(self, item: DocumentNode) -> None:
        """Nothing in a path item looks like an operation and is none."""
        for key, value in item.value.items():
            if key in _ITEM_FIELDS or key.startswith("x-"):
                continue
            if key.strip().lower() in _ITEM_METHODS or (isinstance(value, dict) and "responses" in value):
                where = item._replace(pointer=item.pointer + pointer(key))
                remedy = f"a path item has {', '.join(_ITEM_METHODS)}, in small letters"
                raise self._library.wrong(where, "unknown-method", f"`{key}` is no method", remedy)

    def _misspelt(self, node: DocumentNode, read: tuple[str, ...]) -> None:
        """Say which fields look like one of our own and are not read here."""
        for key in node.value:
            meant = _meant(key)
            if meant is not None and key not in read:
                where = node.pointer + pointer(key)
                remedy = f"write `{meant}`, on a path or an operation"
                name = self._library.names[node.uri]
                self._warnings.append(Finding("not-read", f"`{key}` is not read here", name, where, None, remedy))

    def _served(self, method: str, item: DocumentNode) -> bool:
        if method.upper() in METHODS:
            return True
        name = self._library.names[item.uri]
        where = item.pointer + pointer(method)
        remedy = "remove it from the document"
        self._warnings.append(Finding("never-served", "TRACE is never forwarded", name, where, None, remedy))
        return False

    def _operation(
        self, path: str, item: tuple[DocumentNode, ...], method: str, node: DocumentNode
    ) -> DescribedOperation:
        """An operation. `item` is its path item, and what stands beside references to that."""
        node = self._written(node)
        self._misspelt(node, _OURS)
        levels = (node, *item)
        security_at, security = self._security(levels)
        begins = self._begins(levels)
        self._served_paths += len(begins)
        if self._served_paths > MAX_OPERATIONS:
            raise self._library.wrong(node, "too-large", f"more than {MAX_OPERATIONS} operations", "split the document")
        parameters, several = parameters_of(self._library, levels)
        self._body(node)
        operation_id = node.value.get("operationId")
        return DescribedOperation(
            method.upper(),
            quote(path, safe="/{}!$&'()*+,=:@~-._;%?#[]"),
            begins,
            operation_id if isinstance(operation_id, str) else None,
            self._tags(node),
            self._library.names[node.uri],
            node.pointer,
            security,
            security_at,
            self._required(levels),
            parameters,
            path,
            item[0],
            node,
            several,
        )

    def _written(self, node: DocumentNode) -> DocumentNode:
        """The operation itself: OpenAPI has no `$ref` for one, but where tools split documents there is one alone."""
        if isinstance(node.value, dict) and "$ref" in node.value:
            if len(node.value) > 1 or not isinstance(node.value["$ref"], str):
                remedy = "write it into the operation that the $ref leads to"
                raise self._library.wrong(node, "ref-siblings", "an operation's $ref stands alone", remedy)
            node = self._library.follow(node)
        if not isinstance(node.value, dict):
            raise self._library.wrong(node, "bad-operation", "an operation is an object", "write one, {} at least")
        return node

    def _begins(self, levels: tuple[DocumentNode, ...]) -> tuple[str, ...]:
        """The prefixes that the nearest `servers` say."""
        for level in (*levels, self._root):
            servers = level.value.get("servers")
            if not servers:
                continue
            if id(servers) not in self._prefixes:
                try:
                    self._prefixes[id(servers)] = prefixes(servers, self._root.uri)
                except ValueError as error:
                    where = level._replace(pointer=level.pointer + "/servers")
                    raise self._library.wrong(where, "bad-server", str(error), "") from error
            return self._prefixes[id(servers)]
        return ("",)

    def _tags(self, node: DocumentNode) -> tuple[str, ...]:
        listed = self._library.member(node, "tags", list)
        for _, tag in self._library.items(listed) if listed else ():
            if not isinstance(tag.value, str):
                raise self._library.wrong(
                    tag, "bad-tag", "a tag is a text", "write its name, in quotes if it is a number"
                )
        return tuple(listed.value) if listed else ()

    def _body(self, node: DocumentNode) -> None:
        """Whatever is said of the body is as OpenAPI has it: what cannot be read cannot be judged."""
        if "requestBody" in node.value:
            body = DocumentNode(node.value["requestBody"], node.uri, node.pointer + "/requestBody")
            if not isinstance(self._library.follow(body).value, dict):
                raise self._library.wrong(
                    body, "bad-body", "`requestBody` is no object", "write its `content`, or remove it"
                )

    def _required(self, levels: tuple[DocumentNode, ...]) -> Requirement | None:
        for level in levels:
            if "x-required-permissions" in level.value:
                where = DocumentNode(None, level.uri, level.pointer + "/x-required-permissions")
                try:
                    return conjunction(level.value["x-required-permissions"])
                except ValueError as error:
                    raise self._library.wrong(where, "bad-permissions", str(error), "") from error
        return None

    def _security(self, levels: tuple[DocumentNode, ...]) -> tuple[str, SecurityAlternatives | None]:
        names = ("operation", *("path" for _ in levels[1:]), "document")
        for owner, level in zip(names, (*levels, self._root), strict=True):
            if "security" in level.value:
                where = DocumentNode(level.value["security"], level.uri, level.pointer + "/security")
                return owner, self._alternatives(where)
        return "", None

    def _alternatives(self, node: DocumentNode) -> SecurityAlternatives:
        remedy = "write a list of objects: [{scheme: [scope, ...]}]"
        if not isinstance(node.value, list):
            raise self._library.wrong(node, "bad-security", "`security` is no list", remedy)
        made = []
        for _, requirement in self._library.items(node):
            if not isinstance(requirement.value, dict):
                raise self._library.wrong(requirement, "bad-security", "a security requirement is an object", remedy)
            try:
                made.append({name: every(scopes) if scopes else () for name, scopes in requirement.value.items()})
            except ValueError as error:
                raise self._library.wrong(requirement, "bad-security", str(error), remedy) from error
        return tuple(made)


@lru_cache(4096)
def _meant(field: Any) -> str | None:
    """The field of our own that a field is or looks like; None: it is something else."""
    plain = str(field).lower().replace("_", "-")
    return next(iter(difflib.get_close_matches(plain, _OURS, 1, 0.75)), None)
