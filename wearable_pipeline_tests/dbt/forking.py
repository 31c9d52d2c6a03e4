"""Commands of dbt, each in a process of its own, forked from one that has made the imports already.

Told on standard input, one JSON line each, the words, environment and file for the output; answers with a
line, the exit code. It only imports: it has no threads, and no connections its children could share.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import dbt.adapters.duckdb.impl  # noqa: F401 - this and the plugin would be imported in every child
from dbt.cli.main import cli

import wearable_pipeline.lake.dbt_plugin  # noqa: F401

PROJECT = Path(__file__).parents[2] / "dbt_project"


def run(task: dict[str, Any]) -> int:
    """The exit code of `dbt` with these words."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 70
    try:
        with Path(task["output"]).open("wb") as output:
            for stream in (1, 2):
                os.dup2(output.fileno(), stream)
        os.environ.clear()
        os.environ.update(task["environment"])
        os.chdir(PROJECT)
        sys.argv = ["dbt", *task["words"]]
        cli(task["words"])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001 - a child must not go on as its parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    for line in sys.stdin:
        print(run(json.loads(line)), flush=True)  # noqa: T201 - the answer
