"""How nginx' configuration is written: blocks, words, times, names of variables.

Law: a text of the policy's stays one word.
"""

from collections.abc import Iterable, Iterator


def indented(lines: Iterable[str]) -> Iterator[str]:
    """Lines of a block."""
    return (f"    {line}" if line else "" for line in lines)


def block(head: str, lines: Iterable[str]) -> list[str]:
    """A block with its head."""
    return [f"{head} {{", *indented(lines), "}"]


def comment(text: str) -> str:
    """A text that ends no comment."""
    return text.encode("unicode_escape").decode()


def quoted(text: str) -> str:
    """A word, whatever is in it; variables in it stay variables."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def duration(seconds: float) -> str:
    """A time as nginx reads it."""
    return f"{max(1, round(seconds * 1000))}ms"


def variable(name: str) -> str:
    """The variable that keeps a field of an answer."""
    return "$keyswap_" + name.lower().replace("-", "_")


def buffers(size_kib: int) -> list[str]:
    """Room for an answer's head, and what nginx wants of its other buffers for that."""
    return [
        f"proxy_buffer_size {size_kib}k;",
        f"proxy_buffers 4 {size_kib}k;",
        f"proxy_busy_buffers_size {size_kib}k;",
    ]
