"""The reader of imports finds every form an import can take, or rules built on it cannot fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.module_graph import (
    find_cycle,
    internal_graph,
    reachable,
    read_modules,
    room_graph,
)

FILES = {
    "pack/__init__.py": "from pack.leaf import value\n",
    "pack/leaf.py": "import os.path\nvalue = 1\n",
    "pack/inner/__init__.py": "from . import deep\nfrom ..leaf import value\n",
    "pack/inner/deep.py": "from .. import leaf\nfrom ..leaf import value\nimport numpy as np\n",
    "pack/late.py": (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "class A:\n    def run(self):\n        from pack import leaf\n"
    ),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def targets(root: Path, module: str) -> list[str]:
    return [found.target for found in read_modules(root, "pack")[module].imports]


def test_modules_are_named_from_the_root(root: Path) -> None:
    assert set(read_modules(root, "pack", "absent")) == {
        "pack",
        "pack.leaf",
        "pack.inner",
        "pack.inner.deep",
        "pack.late",
    }


def test_relative_imports_become_absolute(root: Path) -> None:
    assert targets(root, "pack.inner") == ["pack.inner.deep", "pack.leaf"]
    assert targets(root, "pack.inner.deep") == ["pack.leaf", "pack.leaf", "numpy"]


def test_imports_under_conditions_and_in_methods_are_found(root: Path) -> None:
    late = read_modules(root, "pack")["pack.late"].imports

    assert [(found.target, found.is_inside_function) for found in late] == [
        ("typing", False),
        ("torch", False),
        ("pack.leaf", True),
    ]
    assert late[-1].line == 6


def test_graph_holds_only_the_given_modules(root: Path) -> None:
    graph = internal_graph(read_modules(root, "pack"))

    assert graph["pack"] == {"pack.leaf"}
    assert graph["pack.leaf"] == set()
    assert reachable(graph, "pack.inner") == {"pack.inner", "pack.inner.deep", "pack.leaf"}
    assert find_cycle(graph) == []


def test_a_cycle_is_found_and_drawn(root: Path) -> None:
    (root / "pack" / "leaf.py").write_text("from pack.inner import deep\n")

    cycle = find_cycle(internal_graph(read_modules(root, "pack")))

    assert cycle[0] == cycle[-1]
    assert set(cycle) == {"pack.leaf", "pack.inner.deep"}


def test_rooms_are_what_stands_directly_in_a_package(root: Path) -> None:
    rooms = room_graph(internal_graph(read_modules(root, "pack")))

    assert rooms["pack.inner"] == {"pack.leaf"}
    assert set(rooms) == {"pack", "pack.leaf", "pack.inner", "pack.late"}
