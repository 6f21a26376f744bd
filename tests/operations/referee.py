"""openapi-core as the referee: which operation does it take a request for?"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from jsonschema_path import SchemaPath
from openapi_core.templating.paths.exceptions import PathError
from openapi_core.templating.paths.finders import APICallPathFinder
from openapi_core.templating.paths.iterators import TemplatePathsIterator

from harness import ROOT
from keyswap.operations.openapi.parsing import parse

HOST = "http://referee.example"


def real(name: str, required: bool = False) -> Path:
    """A real document; where it cannot be had the test is skipped, and says so, or fails if it is `required`."""
    words = [sys.executable, str(ROOT / "scripts" / "documents.py"), name]
    done = subprocess.run(words, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0 or not required, done.stderr
    if done.returncode:
        pytest.skip(done.stderr.strip())
    return Path(done.stdout.strip())


def data_of(file: Path) -> dict[str, Any]:
    """The document's data."""
    data: dict[str, Any] = parse(file.read_bytes(), file.name, time.monotonic() + 60).data
    return data


class WholePaths(TemplatePathsIterator):
    """openapi-core's own iterator looks at the end of a URL alone: here the whole path has to match."""

    def __call__(self, name: str, spec: SchemaPath, base_url: str | None = None) -> Iterator[Any]:
        for found in super().__call__(name, spec, base_url):
            server = name.rsplit(found.path_result.resolved, 1)[0]
            if server == HOST:
                yield found


class Finder(APICallPathFinder):
    """openapi-core's finder for paths from the root of the host, whatever the document's servers are."""

    paths_iterator = WholePaths("paths")


def at_the_root(data: dict[str, Any]) -> dict[str, Any]:
    """A document without servers, whoever names them."""
    plain: dict[str, Any] = json.loads(json.dumps(data))
    for item in (plain, *plain["paths"].values()):
        for one in (item, *(value for value in item.values() if isinstance(value, dict))):
            if isinstance(one.get("servers"), list):
                del one["servers"]
    return plain


def finder(data: dict[str, Any]) -> Finder:
    """The referee for a document that is served at the root."""
    return Finder(SchemaPath.from_dict(data), base_url=HOST)


def verdict(judge: APICallPathFinder, method: str, path: str) -> str | None:
    """The template that the referee takes a path for; None: none."""
    try:
        found = judge.find(method.lower(), HOST + unquote(path))
    except PathError:
        return None
    return str(found.path_result.name if hasattr(found.path_result, "name") else found.path_result.pattern)


def filled(template: str, value: str = "value-1") -> str:
    """A request path of a template."""
    return re.sub(r"\{[^}]*\}", value, template)
