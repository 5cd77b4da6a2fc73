"""Who imports whom: the import statements of Python files, read without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path


@dataclass(frozen=True)
class Import:
    """One imported module, by its absolute dotted name, and where the statement stands."""

    target: str
    line: int
    is_inside_function: bool

    @property
    def top(self) -> str:
        return self.target.partition(".")[0]


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name, its text and what it imports."""

    name: str
    path: Path
    source: str = field(repr=False)
    tree: ast.Module = field(repr=False)
    imports: tuple[Import, ...] = field(repr=False)


def read_modules(root: Path, *packages: str) -> dict[str, Module]:
    """All modules of the named packages under root, by dotted name. A missing package has none."""
    files = [
        path
        for package in packages
        for path in sorted((root / package).rglob("*.py"))
        if path.is_file()
    ]
    names = {_dotted_name(path.relative_to(root)): path for path in files}
    return {name: _read_module(name, path, frozenset(names)) for name, path in names.items()}


def internal_graph(modules: dict[str, Module]) -> dict[str, set[str]]:
    """For each module, the modules among these that it imports by name."""
    return {
        name: {found.target for found in module.imports if found.target in modules} - {name}
        for name, module in modules.items()
    }


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of imports, its first module repeated at the end; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Every module that importing `start` pulls in, itself included."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(graph.get(name, ()))
    return seen


def room_of(module: str) -> str:
    """The room a module belongs to: the file or folder directly in its package."""
    return ".".join(module.split(".")[:2])


def room_graph(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """For each room, the other rooms that its modules import."""
    rooms: dict[str, set[str]] = {room_of(module): set() for module in graph}
    for module, others in graph.items():
        rooms[room_of(module)] |= {room_of(other) for other in others} - {room_of(module)}
    return rooms


def _dotted_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _read_module(name: str, path: Path, known: frozenset[str]) -> Module:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source, filename=str(path))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return Module(name, path, source, tree, tuple(_imports(tree, package, known)))


def _imports(
    node: ast.AST, package: str, known: frozenset[str], inside: bool = False
) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        for target in _targets(child, package, known):
            yield Import(target, child.lineno, inside)  # type: ignore[attr-defined]
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _imports(child, package, known, inside or is_function)


def _targets(node: ast.AST, package: str, known: frozenset[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            ancestors = package.split(".")
            anchor = ".".join(ancestors[: len(ancestors) - node.level + 1])
            base = f"{anchor}.{base}" if base else anchor
        # `from package import name` asks for the submodule of that name, if there is one.
        for alias in node.names:
            submodule = f"{base}.{alias.name}"
            yield submodule if submodule in known else base
