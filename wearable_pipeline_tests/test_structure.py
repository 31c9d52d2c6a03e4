"""The shape of the code: which room may import what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

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
