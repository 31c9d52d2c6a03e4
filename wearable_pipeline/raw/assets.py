"""Assets `raw/<provider>`: a provider's verbatim records, per user and date."""

import dagster as dg

from wearable_pipeline.orchestration.resources import (
    SyncConfig,
    WorkspaceOpener,
    cells_of,
    window_of,
)
from wearable_pipeline.providers._contract import Provider
from wearable_pipeline.raw.poll import PollReport, poll


def build_raw_asset(
    provider: Provider, grid: dg.MultiPartitionsDefinition, owners: list[str]
) -> dg.AssetsDefinition:
    """The asset that polls `provider` for the users and dates of a run."""

    @dg.asset(
        key=["raw", provider.name],
        partitions_def=grid,
        backfill_policy=dg.BackfillPolicy.single_run(),
        description=f"{provider.summary}\n\nVerbatim, append-only. {provider.docs_url}",
        group_name="raw",
        kinds={"parquet", "json"},
        owners=owners,
        pool=provider.name,
        tags={"provider": provider.name},
    )
    def raw_records(
        context: dg.AssetExecutionContext,
        workspace: dg.ResourceParam[WorkspaceOpener],
        config: SyncConfig,
    ) -> dg.MaterializeResult:
        with workspace.open() as opened:
            cells = cells_of(context)
            users = opened.users_in(cells, provider.name, config.user_ids)
            report = poll(
                opened,
                provider,
                users,
                window_of(cells, config, opened.now()),
                lambda done: workspace.progress(f"fetch {provider.title}", done),
            )
            for error_class, text in sorted(set(report.failures.values())):
                context.log.warning(f"{error_class}: {text}")
            return dg.MaterializeResult(metadata=describe_poll(report))

    return raw_records


def describe_poll(report: PollReport) -> dict[str, dg.MetadataValue]:
    """Counts of a poll for the Dagster UI; user ids, no names and no values."""
    metadata: dict[str, dg.MetadataValue] = {
        "dagster/row_count": dg.MetadataValue.int(report.appended.new + report.appended.changed),
        "users": dg.MetadataValue.int(report.users),
        "users_failed": dg.MetadataValue.int(len(report.failures)),
        "pages": dg.MetadataValue.int(report.pages),
        "records_new": dg.MetadataValue.int(report.appended.new),
        "records_changed": dg.MetadataValue.int(report.appended.changed),
        "records_unchanged": dg.MetadataValue.int(report.appended.unchanged),
        "partitions_touched": dg.MetadataValue.int(
            sum(len(days) for days in report.appended.touched.values())
        ),
        "seconds": dg.MetadataValue.float(round(report.seconds, 3)),
    }
    if report.failures:
        metadata["failures"] = dg.MetadataValue.md(
            "| user | class | error |\n|---|---|---|\n"
            + "\n".join(
                f"| {user_id} | {error_class} | {text} |"
                for user_id, (error_class, text) in sorted(report.failures.items())[:50]
            )
        )
    return metadata
