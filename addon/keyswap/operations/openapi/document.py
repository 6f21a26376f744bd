"""An OpenAPI document (3.0 or 3.1) as values.

Law: these values are made by the reader alone, which has checked them; nothing here is a guess at what is missing.
"""

from collections.abc import Mapping
from typing import NamedTuple

from keyswap.model import Requirement
from keyswap.operations.findings import Finding
from keyswap.operations.openapi.references import DocumentNode, Library

SecurityAlternatives = tuple[Mapping[str, tuple[str, ...]], ...]
"""Security requirement objects: scheme → scopes. One object has to be fulfilled whole (OpenAPI 3.1 §4.8.30)."""


class Parameter(NamedTuple):
    """A parameter of an operation, as far as it is read."""

    name: str
    where: str
    style: str | None
    required: bool
    listed: tuple[str, str]
    """File and pointer of the entry among the parameters of its operation or path, which may be a reference."""
    written: tuple[str, str]
    """File and pointer of what that leads to."""


class DescribedOperation(NamedTuple):
    """An operation as the document describes it. `path` is as the document writes it, without prefixes."""

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
    """The owner of that `security`: operation, path, or document."""
    required: Requirement | None
    """`x-required-permissions`, of the operation or its path."""
    parameters: tuple[Parameter, ...]
    template: str
    """The path exactly as the document has it, and the objects of path and operation."""
    item: DocumentNode
    node: DocumentNode
    multi_segment: tuple[str, ...]
    """`x-multi-segment`: the path parameters that take several segments."""


class OpenApiDocument(NamedTuple):
    """A document that was read whole. `version` is (3, 0) or (3, 1)."""

    name: str
    title: str
    version: tuple[int, int]
    operations: tuple[DescribedOperation, ...]
    schemes: Mapping[str, str]
    """The declared security schemes, and the type of each."""
    scopes: tuple[tuple[str, str], ...]
    """The scopes that its schemes declare, each with its pointer."""
    warnings: tuple[Finding, ...]
    library: Library
