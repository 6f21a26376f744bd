"""HOST:PORT, as people write it and as it is shown: with brackets around an IPv6 address (RFC 3986 §3.2.2)."""


def joined(host: str, port: int) -> str:
    """HOST:PORT of a host without brackets."""
    return f"{bracketed(host)}:{port}"


def bracketed(host: str) -> str:
    """A host as it stands before a port."""
    return f"[{host}]" if ":" in host else host


def split(text: str) -> tuple[str, int]:
    """The host, without its brackets, and the port, 0 to 65535. What kind of host it is, is not judged. ValueError."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ValueError("it is no HOST:PORT")
    if host.startswith("[") != host.endswith("]"):
        raise ValueError("a bracket has no other")
    return (host[1:-1] if host.startswith("[") else host), int(port)
