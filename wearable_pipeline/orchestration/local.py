"""Runs in this process: what commands use to run the same jobs the daemon runs, on the same instance."""

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import dagster as dg

from wearable_pipeline.definitions import build_defs
from wearable_pipeline.orchestration.decisions import cover
from wearable_pipeline.orchestration.resources import SyncConfig, WorkspaceOpener
from wearable_pipeline.orchestration.sensors import SWEEP_KEYS, add_missing_users
from wearable_pipeline.partitions import grid_start, last_day
from wearable_pipeline.settings import Settings
from wearable_pipeline.workspace import Workspace

INSTANCE_FILE = Path(__file__).with_name("dagster.yaml")


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run in this process reported: metadata per asset, failed checks, seconds per step."""

    run_id: str
    metadata: dict[str, dict[str, object]]
    failed_checks: list[str]
    step_seconds: dict[str, float]


def prepare_dagster_home(settings: Settings) -> Path:
    """The Dagster home, with its `dagster.yaml` and databases made once.

    Two processes that open a fresh SQLite home together can break it for good, so the first opening is
    done under a lock.
    """
    home = settings.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".prepare.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "dagster.yaml").exists():
            shutil.copy(INSTANCE_FILE, home / "dagster.yaml")
        if not (home / ".prepared").exists():
            with dg.DagsterInstance.from_config(str(home)) as instance:
                instance.get_runs_count()
                instance.get_dynamic_partitions("users")
            (home / ".prepared").touch()
    return home


@contextmanager
def open_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance of this home."""
    home = prepare_dagster_home(settings)
    os.environ.setdefault("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def run_job(
    opener: WorkspaceOpener,
    workspace: Workspace,
    job_name: str,
    user_ids: Sequence[str],
    start: date,
    end: date,
) -> list[RunSummary]:
    """Run `job_name` for users and days in this process; one run per rectangle.

    Days before the grid's first are fetched and normalized like the others, but are no cells in the UI.
    """
    settings = workspace.settings
    logging.getLogger("dagster").setLevel(logging.ERROR)
    job = build_defs(settings, opener).resolve_job_def(job_name)
    ops = [node.name for node in job.graph.nodes]
    shown_end = min(end, last_day(workspace.now()))
    shown_start = min(
        max(start, grid_start(workspace.lake.scheme, settings.start_date, workspace.now())),
        shown_end,
    )
    summaries = []
    with open_instance(settings) as instance:
        order = add_missing_users(instance, workspace, user_ids)
        for rectangle in cover(
            user_ids, shown_start, shown_end, order, workspace.lake.scheme, SWEEP_KEYS
        ):
            config = SyncConfig(
                user_ids=list(rectangle.user_ids), start=start.isoformat(), end=end.isoformat()
            )
            result = job.execute_in_process(
                instance=instance,
                tags=rectangle.tags,
                run_config={
                    "ops": {op: {"config": dict(config)} for op in ops},
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                },
            )
            summaries.append(_summarize(result, instance))
    return summaries


def _summarize(result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance) -> RunSummary:
    metadata: dict[str, dict[str, object]] = {}
    for event in result.get_asset_materialization_events():
        made = event.step_materialization_data.materialization
        name = made.asset_key.to_user_string()
        # A range run reports the same metadata for every cell.
        metadata.setdefault(name, {key: value.value for key, value in made.metadata.items()})
    failed = [
        f"{check.asset_key.to_user_string()}: {check.check_name}: {check.description or ''}"
        for check in result.get_asset_check_evaluations()
        if not check.passed
    ]
    seconds = {
        step.step_key: step.end_time - step.start_time
        for step in instance.get_run_step_stats(result.run_id)
        if step.start_time is not None and step.end_time is not None
    }
    return RunSummary(result.run_id, metadata, failed, seconds)
