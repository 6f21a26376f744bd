"""All operations of all documents, with what the policy says of them: made once at load, asked for each request.

Law: what is found here is the most specific operation of the path as it was sent, or a refusal; a document or an entry
of the policy that cannot be taken whole stops the load. A path that a careless backend could read as a documented one
is not undocumented.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from keyswap.model import Code, Hint, Operation, Refuse, Upstream
from keyswap.operations.findings import Finding, pointer
from keyswap.operations.lookalikes import Lookalikes
from keyswap.operations.openapi.document import DescribedOperation, OpenApiDocument
from keyswap.operations.requirements import Override, required
from keyswap.operations.router import Index, NoMatch, OperationMatch
from keyswap.operations.template import Template, form_of, normal

_NOTHING = Template.parse("GET /")


class Mount(NamedTuple):
    """The way in which one document is served."""

    prefix: str
    strip_prefix: bool
    upstream: Upstream
    audience: str | None
    undocumented: str
    default_require: str
    security_lists: str


class OverrideRule(NamedTuple):
    """An entry of the policy's `operations`: exactly one of the three names what it is said of."""

    number: int
    override: Override
    match: str | None = None
    tag: str | None = None
    operation_id: str | None = None

    @property
    def name(self) -> str:
        """The entry as its author would call it."""
        return self.match or (f"tag {self.tag}" if self.tag is not None else f"operation_id {self.operation_id}")

    @property
    def form(self) -> str | None:
        """The template that the entry matches, with its parameters unnamed."""
        return form_of(self.match) if self.match is not None else None


class CatalogueEntry(NamedTuple):
    """An operation with all that it was made from."""

    template: Template
    operation: Operation
    described: DescribedOperation
    api: int


class Api(NamedTuple):
    """A document and how it is served."""

    document: OpenApiDocument
    mount: Mount


class OperationCatalogue:
    """The operations of a policy."""

    def __init__(self, apis: Sequence[Api], rules: Sequence[OverrideRule], mode: str) -> None:
        self.apis = tuple(apis)
        self.errors: list[Finding] = []
        self._mode = mode
        order = {False: 0, True: 1}  # what is said of one operation comes after what is said of many
        self.rules = sorted(rules, key=lambda rule: order[rule.tag is None] + order[rule.match is not None])
        self._used: set[int] = set()
        self._by_form: dict[str, list[int]] = {}
        self._by_tag: dict[str, list[int]] = {}
        self._by_id: dict[str, list[int]] = {}
        """Indexes of the rules by form, by tag, and by the operation's id."""
        for number, rule in enumerate(self.rules):
            if rule.match is not None:
                self._by_form.setdefault(rule.form or "", []).append(number)
            elif rule.tag is not None:
                self._by_tag.setdefault(rule.tag, []).append(number)
            elif rule.operation_id is not None:
                self._by_id.setdefault(rule.operation_id, []).append(number)
        self.entries = self._entries()
        self._judge_rules()
        self._judge_audiences()
        self.index: Index[Operation] = Index((entry.template, entry.operation) for entry in self.entries)
        self._missing = self._refusal()
        self._outside = tuple(_undocumented(api) for api in self.apis)
        self._behind: dict[Upstream, Lookalikes] = {}
        self._lookalikes = self._all() if any(api.mount.undocumented != "refuse" for api in self.apis) else None
        by_length = sorted(range(len(self.apis)), key=lambda number: -len(self.apis[number].mount.prefix))
        self._by_prefix = tuple((normal(self.apis[number].mount.prefix.encode()), number) for number in by_length)

    # ---- For each request

    def __call__(self, method: str, target: bytes) -> OperationMatch[Operation] | Refuse:
        """The operation of a request whose target has one reading."""
        path = target.partition(b"?")[0]
        match = self.index.find(method, path)
        if isinstance(match, NoMatch):
            return self._outside_of(path, match.allow)
        return match

    def _outside_of(self, path: bytes, allow: tuple[str, ...]) -> OperationMatch[Operation] | Refuse:
        """The match or the refusal of a path or method that no document has."""
        if allow:
            return Refuse(Code.METHOD_NOT_ALLOWED, "the path is documented, this method of it is not", allow=allow)
        plain = normal(path)
        for prefix, number in self._by_prefix:
            if plain == prefix or plain.startswith(prefix + b"/"):
                if self.apis[number].mount.undocumented == "refuse":
                    return self._missing
                meant = self._meant(path, self._outside[number].operation)
                if meant is None:
                    return self._outside[number]
                reason = f"nothing is documented so, but {meant} may be meant"
                return Refuse(Code.NO_SUCH_OPERATION, reason, hint=Hint.NEAR_DOCUMENTED)
        return self._missing

    def _meant(self, path: bytes, outside: Operation) -> str | None:
        """The operation that an undocumented path may be taken for, as it is sent or as its upstream gets it."""
        assert self._lookalikes is not None
        meant = self._lookalikes.name(path)
        if meant is not None or not outside.stripped:
            return meant
        behind = b"/" + b"/".join(path.split(b"/")[outside.stripped + 1 :])
        return self.behind(outside.upstream).name(behind, stripped=True)

    def behind(self, upstream: Upstream) -> Lookalikes:
        """The lookalikes of an upstream, whose operations are as it sees them."""
        lookalikes = self._behind.get(upstream)
        if lookalikes is None:
            mounts = [api.mount for api in self.apis if api.mount.upstream == upstream]
            closed = [mount.prefix for mount in mounts if mount.undocumented == "refuse" and not mount.strip_prefix]
            operations = [
                (entry.template.behind(entry.operation.stripped), entry.operation)
                for entry in self.entries
                if entry.operation.upstream == upstream
            ]
            lookalikes = self._behind[upstream] = Lookalikes(operations, closed)
        return lookalikes

    # ---- Made at load

    def _all(self) -> Lookalikes:
        """The lookalikes of every backend, of paths as callers send them."""
        closed = (api.mount.prefix for api in self.apis if api.mount.undocumented == "refuse")
        made = Lookalikes(((entry.template, entry.operation) for entry in self.entries), closed)
        for number, api in enumerate(self.apis):
            if api.mount.undocumented != "refuse" and self._outside[number].operation.stripped:
                self.behind(api.mount.upstream)  # now, not when the first request needs it
        return made

    def _refusal(self) -> Refuse:
        names = ", ".join(dict.fromkeys(api.document.name for api in self.apis))
        remedy = "add it to the document, or set openapi.undocumented to authenticated"
        return Refuse(Code.NO_SUCH_OPERATION, f"there is no such operation in {names}: {remedy}")

    def _entries(self) -> tuple[CatalogueEntry, ...]:
        entries: list[CatalogueEntry] = []
        seen: dict[tuple[str, str], CatalogueEntry] = {}
        for number, api in enumerate(self.apis):
            for described in api.document.operations:
                for prefix in described.prefixes:
                    entry = self._entry(number, api, described, api.mount.prefix + prefix)
                    if entry is None:
                        continue
                    key = entry.operation.method, entry.template.form
                    if key in seen:
                        self._twice(entry, seen[key])
                    seen.setdefault(key, entry)
                    entries.append(entry)
        return tuple(entries)

    def _concerning(self, form: str, described: DescribedOperation) -> Iterator[OverrideRule]:
        """The rules that are said of this operation, in their order, without a look at all others."""
        numbers = {*self._by_form.get(form, ()), *self._by_id.get(described.operation_id or "", ())}
        for tag in described.tags:
            numbers.update(self._by_tag.get(tag, ()))
        return (self.rules[number] for number in sorted(numbers))

    def _entry(self, number: int, api: Api, described: DescribedOperation, prefix: str) -> CatalogueEntry | None:
        path = prefix + described.path
        form = form_of(f"{described.method} {path}")
        override = Override()
        for rule in self._concerning(form, described):
            self._used.add(rule.number)
            override = override.under(rule.override)
        several = described.multi_segment if override.multi_segment is None else override.multi_segment
        try:
            template = Template.parse(f"{described.method} {path}", several)
            resource = _resource(override.resource, template)
        except ValueError as error:
            self.errors.append(
                Finding("bad-template", str(error), described.file, described.pointer.rpartition("/")[0], None, "")
            )
            return None
        return CatalogueEntry(
            template, self._operation(api, described, override, template, resource), described, number
        )

    def _operation(
        self,
        api: Api,
        described: DescribedOperation,
        override: Override,
        template: Template,
        resource: tuple[str, str] | None,
    ) -> Operation:
        mount = api.mount
        needs = required(described, override, mount.security_lists, mount.default_require)
        matrix = {
            parameter.name
            for parameter in described.parameters
            if parameter.where == "path" and parameter.style == "matrix"
        }
        return Operation(
            method=described.method,
            path=template.path,
            upstream=mount.upstream,
            audience=mount.audience,
            operation_id=described.operation_id,
            tags=described.tags,
            document=described.file,
            pointer=described.pointer,
            public=needs.public,
            require=needs.require,
            closed=needs.closed,
            source=needs.source,
            mode=override.mode or self._mode,
            cost=1 if override.cost is None else override.cost,
            resource=resource,
            encoded_slash=bool(override.encoded_slash),
            matrix=tuple(number for number, name in enumerate(template.names) if name in matrix),
            stripped=mount.prefix.count("/") if mount.strip_prefix else 0,
        )

    def _twice(self, entry: CatalogueEntry, other: CatalogueEntry) -> None:
        first, second = entry.described, other.described
        message = f"{entry.operation.name} and {other.operation.name} match the same requests"
        remedy = f"keep one of them; the other is {second.file}#{second.pointer}"
        if entry.api != other.api:
            remedy = f"give the documents prefixes of their own; the other is {second.file}#{second.pointer}"
        self.errors.append(Finding("same-shape", message, first.file, first.pointer, None, remedy))

    def _judge_rules(self) -> None:
        """Every entry of the policy is said of something."""
        for rule in sorted(self.rules, key=lambda rule: rule.number):
            if rule.number not in self._used:
                names = ", ".join(dict.fromkeys(api.document.name for api in self.apis))
                remedy = "write it as `keyswap check` lists it, with every prefix, or remove it"
                message = f"{rule.name} is no operation of {names}"
                self.errors.append(
                    Finding("override-unmatched", message, "", pointer("operations", rule.number), None, remedy)
                )

    def _judge_audiences(self) -> None:
        """A token for one upstream is none for another."""
        by_upstream: dict[Upstream, set[str | None]] = {}
        for api in self.apis:
            by_upstream.setdefault(api.mount.upstream, set()).add(api.mount.audience)
        if len(by_upstream) < 2:
            return
        audiences = [audience for several in by_upstream.values() for audience in several]
        if None in audiences or len(set(audiences)) < len(audiences):
            message = "several upstreams would accept each other's tokens"
            remedy = "give each entry of `openapi` an `audience` of its own upstream, and let that require it"
            self.errors.append(Finding("no-audience", message, "", "/openapi", None, remedy))


def _undocumented(api: Api) -> OperationMatch[Operation]:
    mount = api.mount
    stripped = mount.prefix.count("/") if mount.strip_prefix else 0
    return OperationMatch(Operation("", "", mount.upstream, mount.audience, stripped=stripped), _NOTHING, ())


def _resource(resource: tuple[str, str] | None, template: Template) -> tuple[str, str] | None:
    """The resource, if every parameter that its id names is the template's. Raises ValueError."""
    if resource is not None:
        for name in re.findall(r"\{([^{}]*)\}", resource[1]):
            if name not in template.names:
                known = ", ".join(template.names) or "none"
                raise ValueError(f"{template.path} has no parameter `{name}` for its resource's id: it has {known}")
    return resource
