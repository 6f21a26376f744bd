"""Parameters of an operation, as the document describes them.

Law: an operation's own parameter stands in place of its path's; one without a name is an error.
"""

from keyswap.operations.openapi.document import Parameter
from keyswap.operations.openapi.references import DocumentNode, Library


def parameters_of(library: Library, levels: tuple[DocumentNode, ...]) -> tuple[tuple[Parameter, ...], tuple[str, ...]]:
    """Parameters, an operation's own in place of its path's, and the names of those that take several segments."""
    parameters: dict[tuple[str, str], Parameter] = {}
    several = [name for level in reversed(levels) for name in _several(library, level)]
    for level in reversed(levels):
        listed = library.member(level, "parameters", list)
        for _, entry in library.items(listed) if listed else ():
            node = library.follow(entry)
            value = node.value
            if not (isinstance(value, dict) and isinstance(value.get("name"), str)):
                raise library.wrong(entry, "bad-parameter", "a parameter without a name", "write `name` and `in`")
            where, style = str(value.get("in")), value.get("style")
            if _takes_several(library, node) and where == "path":
                several.append(value["name"])
            style = style if isinstance(style, str) else None
            at = [(library.names[origin.uri], origin.pointer) for origin in (entry, node)]
            parameters[value["name"], where] = Parameter(
                value["name"], where, style, value.get("required") is True, *at
            )
    return tuple(parameters.values()), tuple(dict.fromkeys(several))


def _several(library: Library, level: DocumentNode) -> list[str]:
    """`x-multi-segment` of a path or operation."""
    listed = level.value.get("x-multi-segment", [])
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        where = level._replace(pointer=level.pointer + "/x-multi-segment")
        raise library.wrong(where, "bad-multi-segment", "`x-multi-segment` is no list of names", "write [path]")
    return listed


def _takes_several(library: Library, node: DocumentNode) -> bool:
    """`x-multi-segment` of a parameter. GitHub writes it of parameters in the query too, where it says nothing."""
    several = node.value.get("x-multi-segment", False)
    if not isinstance(several, bool):
        at = node._replace(pointer=node.pointer + "/x-multi-segment")
        raise library.wrong(at, "bad-multi-segment", "of a parameter it is true or false", "write true")
    return several
