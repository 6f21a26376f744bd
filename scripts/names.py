"""Counts over addon/: names that say nothing of what they hold, class names that exist twice, and what is too long.

`names.py [--list] [PATH ...]`: a line for each rule with its count and its bound; with --list, every place as well.
Names are counted as Python's tokens, so prose does not count. Exit code 1: a count is over its bound.
"""

import argparse
import ast
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VAGUE = {("told", "said", "asked"): 39, ("found",): 199, ("place",): 79}
"""Names, counted together, and how often they may occur."""
FILE_LINES, CLASS_METHODS, FUNCTION_LINES = 300, 25, 40

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module:
    """A file of Python: where it is, its text, its tokens that are names, and its tree."""

    def __init__(self, path: Path) -> None:
        self.where = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        with tokenize.open(path) as file:
            self.lines = file.readlines()
        tokens = tokenize.generate_tokens(iter(self.lines).__next__)
        self.names = [(token.string, token.start[0]) for token in tokens if token.type == tokenize.NAME]
        self.nodes = list(ast.walk(ast.parse("".join(self.lines))))

    def vague(self, names: tuple[str, ...]) -> Iterator[str]:
        """Where one of these names occurs."""
        for name, line in self.names:
            if name in names:
                yield f"{self.where}:{line}: {name}"

    def public_classes(self) -> Iterator[tuple[str, str]]:
        """Names of classes without an underscore before them, and where they are."""
        for node in self.nodes:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield node.name, f"{self.where}:{node.lineno}"

    def large_classes(self) -> Iterator[str]:
        """Classes with more methods than a class may have."""
        for node in self.nodes:
            if isinstance(node, ast.ClassDef):
                methods = sum(isinstance(part, Function) for part in node.body)
                if methods > CLASS_METHODS:
                    yield f"{self.where}:{node.lineno}: {node.name}: {methods} methods"

    def long_functions(self) -> Iterator[str]:
        """Functions longer than a function may be, from `def` to the last line."""
        for node in self.nodes:
            if isinstance(node, Function):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    yield f"{self.where}:{node.lineno}: {node.name}: {lines} lines"


def repeated_classes(modules: list[Module]) -> Iterator[str]:
    """Public class names that exist more than once."""
    homes: defaultdict[str, list[str]] = defaultdict(list)
    for module in modules:
        for name, where in module.public_classes():
            homes[name].append(where)
    for name, wheres in sorted(homes.items()):
        if len(wheres) > 1:
            yield f"{name}: {', '.join(wheres)}"


def count(modules: list[Module]) -> Iterator[tuple[str, list[str], int]]:
    """Each rule in words, what is counted under it, and how many there may be."""
    for names, bound in VAGUE.items():
        yield f"named {', '.join(names)}", [where for module in modules for where in module.vague(names)], bound
    yield "public class names that exist twice", list(repeated_classes(modules)), 0
    files = [f"{module.where}: {len(module.lines)} lines" for module in modules if len(module.lines) > FILE_LINES]
    yield f"files over {FILE_LINES} lines", files, 0
    classes = [where for module in modules for where in module.large_classes()]
    yield f"classes over {CLASS_METHODS} methods", classes, 0
    functions = [where for module in modules for where in module.long_functions()]
    yield f"functions over {FUNCTION_LINES} lines", functions, 0


def main() -> int:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="every place under its count, and names by file")
    parser.add_argument("paths", nargs="*", type=Path, default=[ROOT / "addon"], help="files or folders (addon)")
    options = parser.parse_args()
    files = [file for path in options.paths for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))]
    modules = [Module(file.resolve()) for file in files]
    over = 0
    for rule, items, bound in count(modules):
        over += len(items) > bound
        print(f"{len(items):5} {rule} ({f'at most {bound}' if bound else 'none'}){' OVER' * (len(items) > bound)}")
        if options.list:
            for item, times in Counter(items).items():
                print(f"        {item}{f' ({times} times)' if times > 1 else ''}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
