"""The names that `import quant_engine` offers."""

from __future__ import annotations

import ast
from pathlib import Path

import quant_engine


def test_public_names_exist_once_and_in_order() -> None:
    names = quant_engine.__all__
    assert all(hasattr(quant_engine, name) for name in names)
    assert len(set(names)) == len(names)
    constants = [name for name in names if name.isupper()]
    classes = [name for name in names if name[0].isupper() and not name.isupper()]
    functions = [name for name in names if name[0].islower()]
    assert names == sorted(constants) + sorted(classes) + sorted(functions)


def test_what_the_package_imports_is_public() -> None:
    tree = ast.parse(Path(quant_engine.__file__).read_text(encoding="utf-8"))
    imported = {
        alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == set(quant_engine.__all__)
