"""The shape of the project, read from its imports: arrows go one way, modules stay small."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.module_graph import Module, find_cycle, internal_graph, reachable, read_modules

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("quant_engine", "sample_models", "dashboard")
PROJECT = {*PRODUCT, "benchmarks", "examples", "tests"}
MAX_LINES = 500

# What each package may import besides the standard library and itself.
ALLOWED = {
    "quant_engine": {"torch", "numpy", "scipy", "safetensors"},
    "sample_models": {"torch", "numpy", "safetensors"},
    "dashboard": {
        *("quant_engine", "sample_models"),
        *("streamlit", "plotly", "pandas", "torch", "numpy", "scipy", "safetensors"),
        "distributed",
        "starlette",  # what Streamlit serves with
    },
}
ONLY_PANDAS_MODULE = "dashboard.tables"
ONLY_CLUSTER_MODULE = "dashboard.cluster"
ONLY_CLOCK_MODULE = "quant_engine.timing"
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


each_module = pytest.mark.parametrize("module", MODULES.values(), ids=list(MODULES))


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


@pytest.mark.parametrize(
    "figure", [name for name in MODULES if name.startswith("dashboard.figures")] or [None]
)
def test_figures_never_reach_streamlit(figure: str | None) -> None:
    dashboard = of_package("dashboard")
    reached = reachable(internal_graph(dashboard), figure) if figure else set()

    guilty = [
        name
        for name in sorted(reached & dashboard.keys())
        if any(found.top == "streamlit" for found in dashboard[name].imports)
    ]

    assert not guilty, f"{figure} imports Streamlit by way of {guilty}"


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


@pytest.mark.parametrize("package", ["quant_engine", "sample_models"])
def test_importing_a_package_loads_no_dashboard_library(package: str) -> None:
    code = (
        f"import sys, {package}; "
        "print(*sorted({'streamlit', 'plotly', 'pandas', 'dashboard'} & sys.modules.keys()))"
    )

    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert loaded.stdout.split() == []


@each_module
def test_no_project_import_hides_in_a_function(module: Module) -> None:
    hidden = [
        f"{place(module, found.line)} imports {found.target}"
        for found in module.imports
        if found.is_inside_function and found.top in PROJECT
    ]

    assert not hidden


@each_module
def test_no_quantization_library_is_named(module: Module) -> None:
    named = [
        f"{place(module, number)}: {line.strip()}"
        for number, line in enumerate(module.source.splitlines(), start=1)
        if FORBIDDEN_NAMES.search(line)
    ]

    assert not named


@each_module
def test_module_is_short_and_says_what_it_is(module: Module) -> None:
    assert module.line_count <= MAX_LINES
    assert ast.get_docstring(module.tree), f"{place(module, 1)} has no module docstring"


@pytest.mark.parametrize("package", [n for n, m in MODULES.items() if m.path.stem == "__init__"])
def test_packages_export_nothing_named_like_a_module(package: str) -> None:
    # `from .search import search` would leave `package.search` a module or a function, by luck.
    clashes = [
        f"{place(MODULES[package], node.lineno)} exports {alias.name}"
        for node in MODULES[package].tree.body
        if isinstance(node, ast.ImportFrom) and node.module not in {None, package}
        for alias in node.names
        if f"{package}.{alias.asname or alias.name}" in MODULES
    ]

    assert not clashes
