"""The shape of the project, read from its imports: rooms, floors, and arrows that go one way."""

from __future__ import annotations

import ast
import fnmatch
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.module_graph import (
    Module,
    find_cycle,
    internal_graph,
    reachable,
    read_modules,
    room_graph,
    room_of,
)

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("quant_engine", "sample_models", "dashboard")
PROJECT = {*PRODUCT, "benchmarks", "examples", "tests"}
MAX_FUNCTION_LINES = 60  # without the docstring

# Rooms of the engine, and all rooms that they may import.
MAY_IMPORT = {
    "report": {"errors", "reading", "scheme"},
    "execution.kernels": {"errors", "scheme", "tensors"},
}

# What each package may import besides the standard library and itself.
ALLOWED = {
    "quant_engine": {"torch", "numpy", "scipy", "safetensors"},
    "sample_models": {"torch", "numpy", "safetensors"},
    "dashboard": {
        *("quant_engine", "sample_models"),
        *("streamlit", "plotly", "pandas", "torch", "numpy", "scipy", "safetensors"),
        "distributed",
        "starlette",  # what Streamlit serves with
        *("jinja2", "markupsafe"),  # the HTML report; markupsafe is what jinja2 escapes with
    },
}
PURE = ("dashboard.figures", "dashboard.facts", "dashboard.words")
ONLY_PANDAS_MODULE = "dashboard.export.tables"
ONLY_CLUSTER_MODULE = "dashboard.work.cluster"
ONLY_CLOCK_MODULE = "quant_engine.execution.clock"
CLOCKS = {"time", "datetime", "timeit"}

# The engine is ours: quantization libraries and torch's deprecated quantized tensors stay out.
FORBIDDEN_NAMES = re.compile(
    r"\btorch\.ao\b|\btorch\.quantization\b|\btorchao\b|\bquanto\b|\bonnxruntime\.quantization\b"
    r"|\bq(u)?int(8|32)\b|\bquantize_per_(tensor|channel)\b|\bquantize_dynamic\b"
)

MODULES = read_modules(ROOT, *PRODUCT)


def of_package(package: str) -> dict[str, Module]:
    return {name: module for name, module in MODULES.items() if name.split(".")[0] == package}


def place(module: Module, line: int) -> str:
    return f"{module.path.relative_to(ROOT)}:{line}"


def imports_of(package: str, *tops: str) -> list[str]:
    return [
        f"{place(module, found.line)} imports {found.target}"
        for module in of_package(package).values()
        for found in module.imports
        if found.top in tops
    ]


def floors_of(package: str) -> list[list[str]]:
    """The rooms of a package in the picture of `docs/architecture.md`, the lowest line first.

    What stands directly in a package, file or folder, is a room; `build_*` stands for several.
    """
    page = (ROOT / "docs/architecture.md").read_text()
    head, _, *lines = page.split("```")[1].strip().splitlines()
    lines = [line[head.index(package) :] for line in lines if not line.startswith("sample_models")]
    found = [re.match(r"[\w*]+( · [\w*]+)*", line) for line in reversed(lines)]
    return [match[0].split(" · ") for match in found if match is not None]


def rooms_of(package: str) -> dict[str, set[str]]:
    return room_graph(internal_graph(of_package(package)))


def imported_rooms(room: str) -> set[str]:
    """The rooms at the top of the engine that modules of `room` import, other than themselves."""
    graph = internal_graph(of_package("quant_engine"))
    targets = {
        target
        for name, others in graph.items()
        if name == room or name.startswith(f"{room}.")
        for target in others
        if target != room and not target.startswith(f"{room}.")
    }
    return {room_of(target) for target in targets}


def lines_without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno is not None
    length = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node) is not None:
        assert node.body[0].end_lineno is not None
        length -= node.body[0].end_lineno - node.body[0].lineno + 1
    return length


def test_the_engine_was_found() -> None:
    assert of_package("quant_engine")


@pytest.mark.parametrize("package", PRODUCT)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    allowed = ALLOWED[package] | {package} | sys.stdlib_module_names

    strangers = [
        f"{place(module, found.line)} imports {found.target}"
        for module in of_package(package).values()
        for found in module.imports
        if found.top not in allowed
    ]

    assert not strangers, f"{package} may import only {sorted(ALLOWED[package])}: {strangers}"


@pytest.mark.parametrize("package", PRODUCT)
def test_imports_do_not_run_in_circles(package: str) -> None:
    cycle = find_cycle(internal_graph(of_package(package)))

    assert not cycle, " -> ".join(cycle)


def test_figures_facts_and_words_never_reach_streamlit() -> None:
    dashboard = of_package("dashboard")
    graph = internal_graph(dashboard)
    pure = [n for n in dashboard if n.startswith(PURE)]

    guilty = [
        f"{name} imports Streamlit by way of {reached}"
        for name in pure
        for reached in sorted(reachable(graph, name) & dashboard.keys())
        if any(found.top == "streamlit" for found in dashboard[reached].imports)
    ]

    assert pure
    assert not guilty


def test_only_tables_imports_pandas() -> None:
    users = {
        name
        for name, module in MODULES.items()
        if any(found.top == "pandas" for found in module.imports)
    }

    assert users <= {ONLY_PANDAS_MODULE}


def test_only_the_cluster_module_imports_dask_and_only_when_asked() -> None:
    users = {
        name: found.is_inside_function
        for name, module in MODULES.items()
        for found in module.imports
        if found.top in {"dask", "distributed"}
    }

    assert users == {ONLY_CLUSTER_MODULE: True}


def test_only_timing_reads_the_clock() -> None:
    users = {
        name
        for name, module in of_package("quant_engine").items()
        if any(found.top in CLOCKS for found in module.imports)
    }

    assert users <= {ONLY_CLOCK_MODULE}


def test_dashboard_modules_hide_no_library() -> None:
    # `streamlit run dashboard/app.py` puts dashboard/ itself first on the import path.
    names = {
        path.stem
        for path in (ROOT / "dashboard").iterdir()
        if path.suffix == ".py" or (path.is_dir() and any(path.rglob("*.py")))
    } - {"__init__"}
    libraries = importlib.metadata.packages_distributions().keys() | sys.stdlib_module_names

    assert not names & (libraries | PROJECT)


def test_importing_engine_and_models_loads_no_dashboard_library() -> None:
    code = (
        "import sys, quant_engine, sample_models; "
        "print(*sorted({'streamlit', 'plotly', 'pandas', 'dashboard'} & sys.modules.keys()))"
    )

    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert loaded.stdout.split() == []


def test_no_project_import_hides_in_a_function() -> None:
    hidden = [
        f"{place(module, found.line)} imports {found.target}"
        for module in MODULES.values()
        for found in module.imports
        if found.is_inside_function and found.top in PROJECT
    ]

    assert not hidden


def test_no_quantization_library_is_named() -> None:
    named = [
        f"{place(module, number)}: {line.strip()}"
        for module in MODULES.values()
        for number, line in enumerate(module.source.splitlines(), start=1)
        if FORBIDDEN_NAMES.search(line)
    ]

    assert not named


def test_modules_say_what_they_are() -> None:
    silent = [place(m, 1) for m in MODULES.values() if not ast.get_docstring(m.tree)]

    assert not silent, f"without a module docstring: {silent}"


def test_packages_export_nothing_named_like_a_module() -> None:
    # `from .search import search` would leave `package.search` a module or a function, by luck.
    clashes = [
        f"{place(module, node.lineno)} exports {alias.name}"
        for package, module in MODULES.items()
        if module.path.stem == "__init__"
        for node in module.tree.body
        if isinstance(node, ast.ImportFrom) and node.module not in {None, package}
        for alias in node.names
        if f"{package}.{alias.asname or alias.name}" in MODULES
    ]

    assert not clashes


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_ground_room_of_the_engine_imports_only_what_it_may(room: str) -> None:
    found = imported_rooms(f"quant_engine.{room}")

    assert found
    assert found <= {f"quant_engine.{other}" for other in MAY_IMPORT[room]}


@pytest.mark.parametrize("package", ["quant_engine", "dashboard"])
def test_every_room_stands_on_a_floor_and_imports_only_from_lower_ones(package: str) -> None:
    rooms = rooms_of(package)
    found = rooms.keys() - {package}  # the package itself hands out what its rooms hold
    floor: dict[str, int] = {}
    for number, names in enumerate(floors_of(package)):
        for name in names:
            pictured = fnmatch.filter(found, f"{package}.{name}")
            assert pictured, f"the picture has {name}, which is not there"
            floor |= dict.fromkeys(pictured, number)

    wrong = [
        f"{room} imports {other}"
        for room in found
        for other in rooms[room]
        if floor[other] >= floor[room]
    ]

    assert found == floor.keys()
    assert not wrong


def test_no_page_imports_another() -> None:
    pages = internal_graph(
        {name: m for name, m in MODULES.items() if name.startswith("dashboard.views.")}
    )

    wrong = [
        f"{module} imports {other}"
        for module, others in pages.items()
        for other in others
        if module.split(".")[2] != other.split(".")[2]
    ]

    assert pages
    assert not wrong


def test_facts_do_not_draw() -> None:
    drawing = [
        place(module, found.line)
        for name, module in MODULES.items()
        if name.startswith(("dashboard.facts", "dashboard.words", "dashboard.data"))
        for found in module.imports
        if found.top == "plotly"
    ]

    assert not drawing


def test_the_dashboard_imports_public_names_of_the_engine() -> None:
    # `quant_engine` or one of its rooms, and of a folder only what its __init__ hands out.
    deep = [
        f"{place(module, found.line)} imports {found.target}"
        for module in of_package("dashboard").values()
        for found in module.imports
        if found.top == "quant_engine" and found.target.count(".") > 1
    ]

    assert not deep


def test_functions_are_short() -> None:
    long = [
        f"{place(module, node.lineno)} {node.name}: {length} lines"
        for module in MODULES.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := lines_without_docstring(node)) > MAX_FUNCTION_LINES
    ]

    assert not long


@pytest.mark.parametrize("document", sorted(ROOT.glob("docs/*.md")), ids=lambda path: path.name)
def test_documents_name_files_that_exist(document: Path) -> None:
    packages = "|".join(sorted(PROJECT))
    named = re.findall(rf"`((?:{packages})/[\w./]+)`", document.read_text())

    assert [path for path in named if not (ROOT / path).exists()] == []
