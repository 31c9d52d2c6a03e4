"""Running dbt as a person would, on small lakes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("dbt.adapters.duckdb", reason="the dbt extra is not installed")

PROJECT = Path(__file__).parents[2] / "dbt_project"


@dataclass(frozen=True)
class Build:
    """What a dbt command did."""

    code: int
    output: str
    statuses: dict[str, str]


RunDbt = Callable[..., Build]


@pytest.fixture(scope="session")
def run_dbt(tmp_path_factory: pytest.TempPathFactory) -> RunDbt:
    """Runs dbt in its project with these settings; what it has parsed once it keeps."""
    target = tmp_path_factory.mktemp("dbt")

    def run(*arguments: str, cwd: Path = PROJECT, **settings: str) -> Build:
        results = target / "run_results.json"
        results.unlink(missing_ok=True)
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("WEARABLE_")
        }
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("dbt")),
                "--no-use-colors",
                *arguments,
                *("--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT)),
                *("--target-path", str(target), "--log-path", str(target)),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
            env=environment | settings | {"DO_NOT_TRACK": "1"},
        )
        found = json.loads(results.read_text())["results"] if results.exists() else []
        statuses = {one["unique_id"].split(".")[2]: one["status"] for one in found}
        return Build(done.returncode, done.stdout + done.stderr, statuses)

    return run
