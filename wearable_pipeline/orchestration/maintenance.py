"""Assets `compact/<table>`, `retention` and `erasure_sweep`: the lake kept in order, once a night.

In a lane of its own, behind everything else: nothing waits for it, and what it leaves undone only
costs readers time. What does the work is imported by the run: processes that only hold definitions and
evaluate sensors stay small.
"""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from wearable_pipeline.orchestration.jobs import LANE
from wearable_pipeline.orchestration.resources import WorkspaceOpener

GROUP = "maintenance"
MAINTENANCE = "maintenance"


def build_maintenance(table_names: Sequence[str], owners: Sequence[str]) -> dg.Definitions:
    """Assets, job and schedule, to be merged with the rest."""
    job = dg.define_asset_job(
        MAINTENANCE,
        selection=dg.AssetSelection.groups(GROUP),
        description="Compact closed months, let go what is too old, look for erased people.",
        executor_def=dg.in_process_executor,
        tags={LANE: MAINTENANCE, "dagster/priority": "-20"},
    )
    schedule = dg.ScheduleDefinition(
        name="nightly_maintenance",
        job=job,
        # After the daily sweep, which opens old days again.
        cron_schedule="47 4 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Once a night: compact closed months, let go what is too old.",
    )
    retention = _build_retention(table_names, owners)
    assets = [_build_compact(name, owners) for name in table_names]
    return dg.Definitions(
        assets=[*assets, retention, _build_sweep(owners)], jobs=[job], schedules=[schedule]
    )


def _build_compact(table_name: str, owners: Sequence[str]) -> dg.AssetsDefinition:
    @dg.asset(
        key=["compact", table_name],
        deps=[dg.AssetKey(table_name)],
        description=f"Closed months of {table_name} in few sorted files, for scans.",
        group_name=GROUP,
        kinds={"parquet"},
        owners=list(owners),
    )
    def compact_asset(workspace: dg.ResourceParam[WorkspaceOpener]) -> dg.MaterializeResult[Any]:
        from wearable_pipeline.lake.compact import compact

        with workspace.open() as opened:
            (report,) = compact(opened, [table_name], workspace.progress)
            return dg.MaterializeResult(
                metadata={
                    "dagster/row_count": report.rows,
                    "months": report.months,
                    "files_written": report.files,
                    "samples": report.samples,
                    "bytes_read": report.bytes_read,
                    "bytes_written": report.bytes_written,
                    "left_alone": report.is_left,
                }
            )

    return compact_asset


def _build_retention(table_names: Sequence[str], owners: Sequence[str]) -> dg.AssetsDefinition:
    @dg.asset(
        key=["retention"],
        # First the new compact files of a month, then its days that are too old.
        deps=[dg.AssetKey(["compact", name]) for name in table_names],
        description="Lets go what is older than the settings keep; by default nothing.",
        group_name=GROUP,
        kinds={"parquet"},
        owners=list(owners),
    )
    def retention(workspace: dg.ResourceParam[WorkspaceOpener]) -> dg.MaterializeResult[Any]:
        from wearable_pipeline.lake.retention import apply_retention

        with workspace.open() as opened:
            found = apply_retention(opened, dry_run=False)
            return dg.MaterializeResult(
                metadata={f"{kind}_files": expired.files for kind, expired in found.items()}
            )

    return retention


def _build_sweep(owners: Sequence[str]) -> dg.AssetsDefinition:
    @dg.asset(
        key=["erasure_sweep"],
        description="Erases again what a run on its way wrote of people erased in the last week.",
        group_name=GROUP,
        kinds={"parquet"},
        owners=list(owners),
    )
    def erasure_sweep(workspace: dg.ResourceParam[WorkspaceOpener]) -> dg.MaterializeResult[Any]:
        from wearable_pipeline.erase import sweep_erased

        with workspace.open() as opened:
            return dg.MaterializeResult(metadata={"users": len(sweep_erased(opened))})

    return erasure_sweep
