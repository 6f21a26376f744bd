"""`servers` → path prefixes: where the document's paths begin (OpenAPI 3.1 §4.8.5).

Law: only a server's path matters here, since the gateway's own name stands where the server's did. A variable with an
`enum` stands for each of its values; another one in the path is a parameter of its own, never empty. How many there are
is known before any is made.
"""

import re
from collections.abc import Iterator
from itertools import product
from math import prod
from typing import Any
from urllib.parse import urljoin, urlsplit

MAX_PREFIXES = 64
_AUTHORITY = re.compile(r"\A(?:[^/?#]*:)?//[^/?#]*")
_VARIABLE = re.compile(r"\{([^{}]*)\}")


def prefixes(servers: Any, base: str) -> tuple[str, ...]:
    """The path prefixes of a `servers` array, without a final slash, in order. Raises ValueError.

    `base` is the document's URI: relative servers are relative to it where it is a URL.
    """
    if not servers:
        return ("",)
    if not isinstance(servers, list):
        raise ValueError("`servers` is no array: write a list of objects with a `url`")
    paths: dict[str, None] = {}
    for server in servers:
        url = server.get("url") if isinstance(server, dict) else None
        if not isinstance(url, str):
            raise ValueError("a server without a `url`: write one, like /v1")
        for server_url in _expanded(url, server.get("variables") or {}):
            paths[_path(server_url, base)] = None
            if len(paths) > MAX_PREFIXES:
                raise ValueError(_TOO_MANY)
    return tuple(paths)


_TOO_MANY = f"more than {MAX_PREFIXES} paths of servers: remove those that are not served here"


def _expanded(url: str, variables: Any) -> Iterator[str]:
    """The URL with its variables' values, parameters left where any value may stand."""
    names = _VARIABLE.findall(url)
    authority = _AUTHORITY.match(url)
    path = url[authority.end() if authority else 0 :]
    choices = []
    for name in dict.fromkeys(names):
        variable = variables.get(name) if isinstance(variables, dict) else None
        if not isinstance(variable, dict) or not isinstance(variable.get("default"), str):
            raise ValueError(f"the server variable `{name}` has no `default`: add it under `variables`")
        values = variable.get("enum") or [variable["default"]]
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise ValueError(f"the `enum` of the server variable `{name}` is no list of texts")
        in_path = f"{{{name}}}" in path
        free = in_path and "enum" not in variable and "/" not in variable["default"] and variable["default"] != ""
        if not in_path:  # of names of hosts one is as good as another, unless a path follows in it
            values = [values[0], *(value for value in values[1:] if re.search(r"[/?#]", value))]
        choices.append([(name, f"{{server.{name}}}")] if free else [(name, value) for value in values])
    if prod(map(len, choices)) > MAX_PREFIXES:
        raise ValueError(_TOO_MANY)
    for chosen in product(*choices):
        values_of = dict(chosen)
        yield _VARIABLE.sub(lambda match, known=values_of: known[match[1]], url)  # type: ignore[misc]


def _path(url: str, base: str) -> str:
    if _AUTHORITY.match(url):
        path = _AUTHORITY.sub("", url)
    else:
        root = urlsplit(base).path if urlsplit(base).scheme in {"http", "https"} else "/"
        path = urlsplit(urljoin(f"http://server{root}", url)).path if not url.startswith("/") else url
    return "/" + path.partition("?")[0].partition("#")[0].strip("/") if path.strip("/") else ""
