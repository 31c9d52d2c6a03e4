"""Assets `raw/<provider>`: a provider's verbatim records, per user and date."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import dagster as dg

from wearable_pipeline.orchestration.resources import (
    Scope,
    SyncConfig,
    WorkspaceOpener,
    cells_of,
    window_of,
)
from wearable_pipeline.partitions import Partition
from wearable_pipeline.providers._contract import Provider
from wearable_pipeline.raw.history import fetch_history
from wearable_pipeline.raw.poll import PollReport, poll
from wearable_pipeline.registry import DueUser, History
from wearable_pipeline.registry.backfills import slot_of
from wearable_pipeline.workspace import Workspace

# Who is due in a moment comes along: one run for all instead of one for each.
LOOKAHEAD = timedelta(seconds=10)


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
            report = fetch(
                opened,
                provider,
                cells_of(context, opened.lake.scheme),
                config,
                lambda done: workspace.progress(f"fetch {provider.title}", done),
            )
            for error_class, text in sorted(set(report.failures.values())):
                context.log.warning(f"{error_class}: {text}")
            return dg.MaterializeResult(metadata=describe_poll(report))

    return raw_records


def fetch(
    workspace: Workspace,
    provider: Provider,
    cells: Sequence[Partition],
    config: SyncConfig,
    progress: Callable[[int], None] = lambda done: None,
) -> PollReport:
    """Ask the provider for what the run's scope means, and report how that went."""
    now = workspace.now()
    window = window_of(cells, config, now)
    members = workspace.members_in(cells)
    if config.scope == Scope.HISTORY:
        slot = slot_of(window.start)
        return fetch_history(workspace, provider, slot, members, config.limit, progress)
    if config.scope == Scope.DUE:
        due = workspace.registry.due_users(
            now, [provider.name], config.limit, members=members, soon=now + LOOKAHEAD
        )
        found = workspace.registry.find_users(user_ids=[one.user_id for one in due])
        by_id = {user.user_id: user for user in found}
        # Longest silence first, should the run end before its time.
        users = [by_id[one.user_id] for one in due if one.user_id in by_id]
        report = poll(workspace, provider, users, window, progress)
        _queue_gaps(workspace, due, report, now)
        return report
    users = workspace.users_in(cells, provider.name, config.user_ids)
    return poll(workspace, provider, users, window, progress)


def _queue_gaps(
    workspace: Workspace, due: Sequence[DueUser], report: PollReport, now: datetime
) -> None:
    """Days a user who is back was not asked about are history to be read."""
    yesterday = now.date() - timedelta(days=1)
    workspace.registry.queue_history(
        History(one.user_id, one.provider, one.last_success_at.date(), yesterday)
        for one in due
        if one.last_success_at is not None
        and one.last_success_at.date() < yesterday
        and one.user_id not in report.failures
    )


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
