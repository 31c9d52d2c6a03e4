"""Running dbt as a person would, on small lakes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("dbt.adapters.duckdb", reason="the dbt extra is not installed")

PROJECT = Path(__file__).parents[2] / "dbt_project"
PROGRAM = str(Path(sys.executable).with_name("dbt"))


@dataclass(frozen=True)
class Build:
    """What a dbt command did."""

    code: int
    output: str
    statuses: dict[str, str]


RunDbt = Callable[..., Build]


@pytest.fixture(scope="session")
def forking() -> Iterator[subprocess.Popen[str]]:
    """A process that has imported dbt, and forks one for every command."""
    command = [sys.executable, "-m", "wearable_pipeline_tests.dbt.forking"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT.parent
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="session")
def run_dbt(tmp_path_factory: pytest.TempPathFactory, forking: subprocess.Popen[str]) -> RunDbt:
    """Runs dbt in its project with these settings.

    What it has parsed once it keeps, by `parsed`: another target or other variables are read anew.
    """
    folder = tmp_path_factory.mktemp("dbt")

    def run(
        *arguments: str, is_program: bool = False, parsed: str = "usual", **settings: str
    ) -> Build:
        target = folder / parsed
        results = target / "run_results.json"
        results.unlink(missing_ok=True)
        words = [
            *("--no-use-colors", "--log-level-file", "none"),
            *arguments,
            *("--threads", "1"),
            *("--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT)),
            *("--target-path", str(target), "--log-path", str(target)),
        ]
        own = {
            name: value for name, value in os.environ.items() if not name.startswith("WEARABLE_")
        }
        environment = own | settings | {"DO_NOT_TRACK": "1"}
        if is_program:
            done = subprocess.run(
                [PROGRAM, *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                cwd=PROJECT,
                env=environment,
            )
            code, output = done.returncode, done.stdout
        else:
            file = folder / "output.txt"
            task = {"words": words, "environment": environment, "output": str(file)}
            assert forking.stdin is not None
            assert forking.stdout is not None
            forking.stdin.write(json.dumps(task) + "\n")
            forking.stdin.flush()
            code, output = int(forking.stdout.readline()), file.read_text()
        found = json.loads(results.read_text())["results"] if results.exists() else []
        statuses = {one["unique_id"].split(".")[2]: one["status"] for one in found}
        return Build(code, output, statuses)

    return run
