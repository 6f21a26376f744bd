"""Types of single values of a policy: times, sizes, URLs, addresses, names.

Law: each has one way to be written, one range, and one message that says both.
"""

import ipaddress
import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, WithJsonSchema
from pydantic_core import PydanticCustomError

from keyswap import host_port
from keyswap.model import Upstream
from keyswap.request.hosts import named

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_TIME = r"\d+(?:ms|s|m|h|d)"
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")


def seconds(text: object) -> float:
    """`200ms`, `30s`, `5m`, `24h`, `30d` in seconds. Raises ValueError."""
    match = re.fullmatch(_TIME, text) if isinstance(text, str) else None
    if match is None or not isinstance(text, str):
        raise ValueError("a time is a whole number and a unit: 200ms, 30s, 5m, 24h or 30d")
    number, unit = re.findall(r"\d+|[a-z]+", text)
    return int(number) * _UNITS[unit]


_SIZES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE = r"\d+(?:B|KiB|MiB|GiB)"


def _size(text: object) -> int:
    match = re.fullmatch(r"(\d+)(B|KiB|MiB|GiB)", text) if isinstance(text, str) else None
    if match is None:
        raise PydanticCustomError("size", "a size is a whole number and a unit: 500B, 64KiB, 10MiB or 1GiB")
    return int(match[1]) * _SIZES[match[2]]


def _byte_rate(text: object) -> int:
    if not isinstance(text, str) or not re.fullmatch(_SIZE + "/s", text):
        raise PydanticCustomError("byte_rate", "a rate of bytes is a size a second: 500B/s or 1KiB/s; 0B/s: none")
    return _size(text.removesuffix("/s"))


def _wait(value_s: float) -> float:
    if not value_s > 0:
        raise PydanticCustomError("wait", "a time-out is longer than 0")
    return value_s


def _max_head(value: int) -> int:
    if not 1 << 10 <= value <= 1 << 20:
        raise PydanticCustomError("max_head", "a request's head is bounded by 1KiB to 1MiB")
    return value


def _time(text: object) -> float:
    try:
        return seconds(text)
    except ValueError as error:
        raise PydanticCustomError("time", str(error)) from error


def _ttl(value_s: float) -> float:
    if value_s != int(value_s) or not 1 <= value_s <= 3600:
        raise PydanticCustomError("ttl", "a token's life is whole seconds, from 1s to 1h")
    return value_s


def parse_upstream(url: str) -> Upstream:
    """`http[s]://HOST[:PORT]`. Raises ValueError: a path would change the path that was judged."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is no URL: {error}") from error
    if parts.path not in {"", "/"} and parts.hostname and parts.username is None:
        raise ValueError(
            f"{url!r} has a path, and a backend gets the path that was judged: write "
            f"{parts.scheme}://{parts.netloc}, without a path, and let callers and the "
            f"document say {parts.path} (`openapi.prefix: {parts.path}`)"
        )
    whole = parts.scheme in {"http", "https"} and parts.hostname and parts.username is None and port != 0
    if (
        not whole
        or parts.path not in {"", "/"}
        or parts.query
        or parts.fragment
        or not url.isascii()
        or not url.isprintable()
    ):
        raise ValueError(f"{url!r} is no upstream: write http://HOST[:PORT] or https://HOST[:PORT], without a path")
    return Upstream(parts.scheme, str(parts.hostname), port or {"http": 80, "https": 443}[parts.scheme])


def _upstream(url: str) -> str:
    try:
        parse_upstream(url)
    except ValueError as error:
        raise PydanticCustomError("upstream", "{why}", {"why": str(error)}) from error
    return url


def _issuer(url: str) -> str:
    try:
        parts = urlsplit(url)
        plain = url.isascii() and url.isprintable() and " " not in url and parts.username is None and parts.port != 0
    except ValueError as error:
        raise PydanticCustomError("issuer", "{why}: write an http(s) URL", {"why": str(error)}) from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or not plain:
        raise PydanticCustomError("issuer", "an issuer is an http(s) URL without query or fragment (RFC 8414 §2)")
    return url


def _cidr(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise PydanticCustomError("cidr", "{why}: write a CIDR like 10.0.0.0/8", {"why": str(error)}) from error
    return text


def parse_listen(text: str) -> tuple[str, int]:
    """`HOST:PORT`, with brackets around an IPv6 address. Raises ValueError."""
    try:
        host, port = host_port.split(text)
        if text.startswith("["):
            ipaddress.IPv6Address(host)
        if port and (text.startswith("[") or _HOST.fullmatch(host)):
            return host, port
    except ValueError:
        pass
    raise ValueError("an address to listen on is HOST:PORT, like 127.0.0.1:8089 or [::1]:8089")


def _listen(text: str) -> str:
    try:
        parse_listen(text)
    except ValueError as error:
        raise PydanticCustomError("listen", "{why}", {"why": str(error)}) from error
    return text


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise PydanticCustomError(
            "variable", "this names an environment variable, in capitals; the secret itself stands in no policy"
        )
    return name


def _header(name: str) -> str:
    if not _TOKEN.fullmatch(name):
        raise PydanticCustomError("header", "a header's name has no spaces, colons or control characters")
    return name.lower()


def _served_host(text: str) -> str:
    try:
        named(text)
    except ValueError as error:
        raise PydanticCustomError("host", "{why}", {"why": str(error)}) from error
    return text


def _kept_header(name: str) -> str:
    if "*" in name:
        raise PydanticCustomError("kept_header", "a header that is kept is named as it is, without a wildcard")
    return name


_TIME_SCHEMA = WithJsonSchema({"type": "string", "pattern": f"^{_TIME}$"})
Time = Annotated[float, BeforeValidator(_time), _TIME_SCHEMA]
TokenLife = Annotated[float, BeforeValidator(_time), AfterValidator(_ttl), _TIME_SCHEMA]
Wait = Annotated[float, BeforeValidator(_time), AfterValidator(_wait), _TIME_SCHEMA]
Size = Annotated[int, BeforeValidator(_size), WithJsonSchema({"type": "string", "pattern": f"^{_SIZE}$"})]
MaxHead = Annotated[Size, AfterValidator(_max_head)]
ByteRate = Annotated[int, BeforeValidator(_byte_rate), WithJsonSchema({"type": "string", "pattern": f"^{_SIZE}/s$"})]
UpstreamUrl = Annotated[str, AfterValidator(_upstream)]
Issuer = Annotated[str, AfterValidator(_issuer)]
Cidr = Annotated[str, AfterValidator(_cidr)]
Header = Annotated[str, AfterValidator(_header)]
ServedHost = Annotated[str, AfterValidator(_served_host)]
KeptHeader = Annotated[str, AfterValidator(_header), AfterValidator(_kept_header)]
Listen = Annotated[str, AfterValidator(_listen)]
Variable = Annotated[
    str, AfterValidator(_variable), WithJsonSchema({"type": "string", "pattern": f"^{_VARIABLE.pattern}$"})
]


class Section(BaseModel):
    """A mapping whose fields are all known: an unknown one is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
