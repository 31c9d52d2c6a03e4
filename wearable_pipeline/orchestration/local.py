"""Runs in this process: what commands use to run the same jobs the daemon runs, on the same instance."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import dagster as dg

from wearable_pipeline.definitions import build_defs
from wearable_pipeline.orchestration.decisions import cover
from wearable_pipeline.orchestration.instance import open_instance
from wearable_pipeline.orchestration.lanes import positions
from wearable_pipeline.orchestration.resources import SyncConfig, WorkspaceOpener
from wearable_pipeline.orchestration.sensors import SWEEP_KEYS
from wearable_pipeline.partitions import grid_start, last_day
from wearable_pipeline.providers import providers
from wearable_pipeline.workspace import Workspace

_QUIET = {"console": {"config": {"log_level": "CRITICAL"}}}


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run in this process reported: metadata per asset, failed checks, seconds per step."""

    run_id: str
    metadata: dict[str, dict[str, object]]
    failed_checks: list[str]
    step_seconds: dict[str, float]


def run_job(
    opener: WorkspaceOpener,
    workspace: Workspace,
    job_name: str,
    user_ids: Sequence[str],
    start: date,
    end: date,
) -> list[RunSummary]:
    """Run `job_name` for users and days in this process; one run per rectangle.

    Raw assets of providers none of them is connected to are left out.
    Days before the grid's first are fetched and normalized like the others, but are no cells in the UI.
    """
    settings = workspace.settings
    logging.getLogger("dagster").setLevel(logging.ERROR)
    whole = build_defs(settings, opener).resolve_job_def(job_name)
    asked = {user.provider for user in workspace.registry.find_users(user_ids=user_ids)}
    idle = {dg.AssetKey(["raw", name]) for name in providers() if name not in asked}
    job = whole.get_subset(asset_selection=set(whole.asset_layer.executable_asset_keys) - idle)
    ops = [node.name for node in job.graph.nodes]
    shown_end = min(end, last_day(workspace.now()))
    shown_start = min(
        max(start, grid_start(workspace.lake.scheme, settings.start_date, workspace.now())),
        shown_end,
    )
    summaries = []
    with open_instance(settings) as instance:
        scheme = workspace.lake.scheme
        order = positions(instance, workspace, user_ids)
        meant: dict[str, list[str]] = {}
        for user_id in sorted(user_ids):
            meant.setdefault(scheme.key_of(scheme.cohort_of(user_id)), []).append(user_id)
        counts = {key: len(users) for key, users in meant.items()}
        for rectangle in cover(counts, shown_start, shown_end, order, SWEEP_KEYS):
            named = [user_id for key in rectangle.keys for user_id in meant[key]]
            config = SyncConfig(user_ids=named, start=start.isoformat(), end=end.isoformat())
            result = job.execute_in_process(
                instance=instance,
                tags=rectangle.tags,
                run_config={
                    "ops": {op: {"config": dict(config)} for op in ops},
                    "loggers": _QUIET,
                },
            )
            summaries.append(_summarize(result, instance))
    return summaries


def run_requested(
    instance: dg.DagsterInstance, defs: dg.Definitions, request: dg.RunRequest
) -> RunSummary:
    """Run in this process what a sensor asked for, as the daemon has it run in another."""
    job = defs.resolve_job_def(str(request.job_name))
    chosen = job.get_subset(asset_selection=set(request.asset_selection or ()))
    result = chosen.execute_in_process(
        instance=instance,
        tags=request.tags,
        run_config={**request.run_config, "loggers": _QUIET},
        raise_on_error=False,
    )
    return _summarize(result, instance)


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
