"""The shape of the code: which room may import what."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = Path(__file__).parents[1] / "wearable_pipeline"
PURE = (
    "model",
    "providers",
    "raw",
    "tables",
    "lake",
    "exports",
    "destinations",
    "registry",
    "sandbox",
)


@cache
def _imports(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", PURE)
def test_dagster_stays_outside_the_rooms(room: str) -> None:
    with_dagster = [
        str(file.relative_to(PACKAGE))
        for file in (PACKAGE / room).rglob("*.py")
        if file.name != "assets.py" and "dagster" in _imports(file)
    ]
    assert with_dagster == []


def _comes_with(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> None:
    """Add to `seen` what installing a distribution with these extras installs."""
    if (name, extras) in seen:
        return
    seen.add((name, extras))
    try:
        wanted = requires(name) or []
    except PackageNotFoundError:
        return  # of another platform
    for requirement in map(Requirement, wanted):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": one}) for one in ("", *extras)):
            _comes_with(canonicalize_name(requirement.name), frozenset(requirement.extras), seen)


def _extras() -> Iterator[str]:
    for requirement in map(Requirement, requires("wearable-pipeline") or []):
        for part in str(requirement.marker or "").split("extra == ")[1:]:
            yield part.split('"')[1]


def test_whatever_is_imported_comes_with_the_package_or_one_of_its_extras() -> None:
    """Else it is there only because the tests' tools bring it."""
    installed: set[tuple[str, frozenset[str]]] = set()
    _comes_with("wearable-pipeline", frozenset(_extras()), installed)
    names = {name for name, _ in installed}
    imported = {name for file in PACKAGE.rglob("*.py") for name in _imports(file)}
    distributions = packages_distributions()
    missing = {
        name
        for name in imported - sys.stdlib_module_names
        if not names & {canonicalize_name(one) for one in distributions.get(name, [name])}
    }
    assert missing == set()


def test_the_environment_is_read_in_one_place() -> None:
    readers = [
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if "getenv" in file.read_text() or "os.environ[" in file.read_text()
    ]
    assert readers == []


def test_modules_dagster_reads_types_from_do_not_defer_annotations() -> None:
    deferring = [
        str(file.relative_to(PACKAGE))
        for file in [*PACKAGE.rglob("assets.py"), *(PACKAGE / "orchestration").glob("*.py")]
        if "from __future__ import annotations" in file.read_text()
    ]
    assert deferring == []


def test_commands_that_need_no_dagster_do_not_pay_for_it() -> None:
    code = (
        "import sys, wearable_pipeline.cli, wearable_pipeline.tables.inspect;"
        "sys.exit('dagster' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_sensor_process_loads_no_library_that_only_runs_need() -> None:
    code = (
        "import sys, wearable_pipeline.orchestration.marts as marts;"
        "marts.is_dbt_installed = lambda: False;"  # dbt's adapter brings DuckDB along
        "import wearable_pipeline.definitions;"
        "sys.exit(', '.join({'duckdb', 'fastapi', 'numpy', 'pandera', 'pyarrow'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr[-200:]) == (0, "")
