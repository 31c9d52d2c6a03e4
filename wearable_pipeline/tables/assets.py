"""Assets `<table>`: canonical rows, per user and date, with the checks that come with every write.

What does the work is imported by the run: processes that only hold definitions and evaluate sensors stay
small.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from wearable_pipeline.model import TABLES
from wearable_pipeline.model.columns import Table
from wearable_pipeline.orchestration.resources import (
    Scope,
    SyncConfig,
    WorkspaceOpener,
    cells_of,
    window_of,
)
from wearable_pipeline.partitions import Partition
from wearable_pipeline.providers import get_provider
from wearable_pipeline.settings import Settings
from wearable_pipeline.tables.normalize import providers_feeding
from wearable_pipeline.workspace import Workspace

if TYPE_CHECKING:
    from wearable_pipeline.tables.update import Updated

PREVIEW_ROWS = 8
# Days before today a live run looks at: late readings of yesterday, and zones where it still is that day.
LIVE_DAYS = timedelta(days=2)


def build_table_asset(
    table: Table,
    grid: dg.MultiPartitionsDefinition,
    owners: list[str],
) -> dg.AssetsDefinition:
    """The asset that normalizes what raw holds into `table`."""
    feeding = providers_feeding(table.name)

    @dg.asset(
        key=[table.name],
        deps=[dg.AssetKey(["raw", provider]) for provider in feeding],
        partitions_def=grid,
        backfill_policy=dg.BackfillPolicy.single_run(),
        description=f"{table.description}\n\nOne row per {', '.join(table.row_key)}. Read it with"
        f" `read_parquet('<lake>/{table.name}/**/*.parquet', hive_partitioning=true)`.",
        group_name="tables",
        kinds={"parquet", "polars"},
        owners=owners,
        metadata={"dagster/column_schema": column_schema(table)},
        check_specs=[
            dg.AssetCheckSpec("schema", asset=[table.name], description="Files as declared."),
            dg.AssetCheckSpec(
                "quarantine_share",
                asset=[table.name],
                description="Share of records left out, below the limit of the settings.",
            ),
            dg.AssetCheckSpec(
                "gaps", asset=[table.name], description="Silences inside a day of readings."
            ),
        ],
    )
    def table_rows(
        context: dg.AssetExecutionContext,
        workspace: dg.ResourceParam[WorkspaceOpener],
        config: SyncConfig,
    ) -> dg.MaterializeResult:
        from wearable_pipeline.tables.quality import read_schema_faults
        from wearable_pipeline.tables.update import update_table

        with workspace.open() as opened:
            cells = cells_of(context, opened.lake.scheme)
            include_touched = config.include_touched
            if config.scope != Scope.ALL:
                cells, include_touched = touched_in(opened, table.name, cells, config), False
            report = update_table(
                opened,
                table.name,
                cells,
                user_ids=config.user_ids,
                include_touched=include_touched,
                progress=lambda done: workspace.progress(f"normalize {table.name}", done),
            )
            faults = read_schema_faults(opened.lake.storage, table, cells)
            return dg.MaterializeResult(
                metadata=describe_update(report, table),
                check_results=[
                    check_schema(table, faults),
                    check_quarantine(report, opened.settings),
                    check_gaps(report, table),
                ],
            )

    return table_rows


def touched_in(
    workspace: Workspace, table_name: str, cells: Sequence[Partition], config: SyncConfig
) -> list[Partition]:
    """Partitions a run with a scope normalizes: those its cohorts' records have touched.

    A live run takes the newest days only: years of somebody's import would hold up everybody's reading.
    """
    start, end = None, None
    if config.scope == Scope.DUE:
        start = workspace.now().date() - LIVE_DAYS
    if config.scope == Scope.HISTORY:
        window = window_of(cells, config, workspace.now())
        start, end = window.start - timedelta(days=1), window.end + timedelta(days=1)
    touched = workspace.registry.touched_cells(
        workspace.lake.scheme,
        tables=[table_name],
        members=workspace.members_in(cells),
        start=start,
        end=end,
        limit=config.limit if config.scope == Scope.TOUCHED else None,
    )
    return [Partition(cell.date, cell.cohort) for cell in touched]


def column_schema(table: Table) -> dg.TableSchema:
    """The declared columns as the Dagster UI shows them."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                type=str(column.dtype) if not column.fields else "List(Struct)",
                description=f"{column.description} [{column.unit}]"
                if column.unit
                else column.description,
            )
            for column in table.columns
        ]
    )


def describe_update(report: "Updated", table: Table) -> dict[str, dg.MetadataValue]:
    """Counts, a preview without values, and the shape of the latest glucose, without a scale."""
    metadata: dict[str, dg.MetadataValue] = {
        "dagster/row_count": dg.MetadataValue.int(report.rows),
        "users": dg.MetadataValue.int(len(report.users)),
        "samples": dg.MetadataValue.int(report.samples),
        "records": dg.MetadataValue.int(report.records),
        "records_merged": dg.MetadataValue.int(report.merged),
        "records_quarantined": dg.MetadataValue.int(report.rejected),
        "partitions": dg.MetadataValue.int(report.partitions),
        "partitions_rewritten": dg.MetadataValue.int(report.written),
    }
    if report.newest_at is not None:
        metadata["newest_reading"] = dg.MetadataValue.timestamp(report.newest_at)
    if report.reasons:
        metadata["quarantine"] = dg.MetadataValue.md(
            "| reason | records |\n|---|---:|\n"
            + "\n".join(
                f"| {reason} | {count} |" for reason, count in report.reasons.most_common(20)
            )
        )
    if not report.latest_rows.is_empty():
        metadata["preview"] = dg.MetadataValue.md(_preview(report.latest_rows, table))
        from wearable_pipeline.tables.quality import sparkline

        lines = sparkline(report.latest_rows)
        if lines:
            metadata["glucose"] = dg.MetadataValue.md("```\n" + "\n".join(lines) + "\n```")
    return metadata


def _preview(rows: pl.DataFrame, table: Table) -> str:
    """The newest rows: who, when, how many samples. Values stay in the lake."""
    lists = [
        column.name for column in table.lists if rows[column.name].list.len().fill_null(0).sum() > 0
    ]
    shown = rows.tail(PREVIEW_ROWS).select(
        "user_id",
        "provider",
        "local_date",
        "tz_source",
        *(pl.col(name).list.len().fill_null(0) for name in lists),
    )
    header = "| " + " | ".join(shown.columns) + " |\n|" + "---|" * shown.width
    return "\n".join([header, *("| " + " | ".join(map(str, row)) + " |" for row in shown.rows())])


def check_schema(table: Table, faults: Sequence[str]) -> dg.AssetCheckResult:
    """Red when a file's columns differ from the declaration."""
    return dg.AssetCheckResult(
        check_name="schema",
        passed=not faults,
        metadata={"faults": dg.MetadataValue.md("\n".join(f"- {fault}" for fault in faults[:20]))},
        description=f"{len(faults)} files differ from the declared columns of {table.name}"
        if faults
        else "every file has the declared columns",
    )


def check_quarantine(report: "Updated", settings: Settings) -> dg.AssetCheckResult:
    """Red when too large a share of the records was left out."""
    share = report.rejected / report.records if report.records else 0.0
    return dg.AssetCheckResult(
        check_name="quarantine_share",
        passed=share <= settings.quarantine_share,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{report.rejected} of {report.records} records left out"
        f" ({share:.1%}, limit {settings.quarantine_share:.1%})",
        metadata={"share": share, "limit": settings.quarantine_share},
    )


def check_gaps(report: "Updated", table: Table) -> dg.AssetCheckResult:
    """Yellow when readings are missing inside a day; sensor changes and signal loss do that."""
    steps = {
        name: step
        for name in providers_feeding(table.name)
        if (step := get_provider(name).sample_step) is not None
    }
    from wearable_pipeline.tables.quality import find_gaps

    gaps = find_gaps(report.latest_rows, steps)
    longest = max((gap.length for gap in gaps), default=None)
    return dg.AssetCheckResult(
        check_name="gaps",
        passed=not gaps,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(gaps)} gaps, the longest {longest}" if gaps else "no gaps",
        metadata={
            "gaps": dg.MetadataValue.md(
                "| user | from | to | minutes |\n|---|---|---|---:|\n"
                + "\n".join(
                    f"| {gap.user_id} | {gap.start:%Y-%m-%d %H:%M} | {gap.end:%Y-%m-%d %H:%M} |"
                    f" {gap.length.total_seconds() / 60:.0f} |"
                    for gap in gaps[:50]
                )
            )
        },
    )


TABLE_NAMES = sorted(
    name for name, table in TABLES.items() if providers_feeding(name) and table.is_dated
)
