"""Assets `destinations/<name>`: rows whose content a destination has not yet acknowledged."""

from collections.abc import Sequence
from datetime import timedelta

import dagster as dg

from wearable_pipeline.destinations._contract import Target
from wearable_pipeline.destinations.delivery import DeliveryReport, deliver
from wearable_pipeline.orchestration.resources import (
    Scope,
    SyncConfig,
    WorkspaceOpener,
    cells_of,
)

# A slow receiver must not hold the run: what is left is sent by the next one.
LONGEST_DELIVERY = timedelta(minutes=4)
# Nor the next live run: what is left goes with the one after, or with a run of its own.
LIVE_DELIVERY = timedelta(seconds=60)


def build_destination_asset(
    target: Target,
    tables: Sequence[str],
    grid: dg.MultiPartitionsDefinition,
    owners: list[str],
) -> dg.AssetsDefinition:
    """The asset that pushes changed rows of `tables` to `target`, below those of them it takes."""

    @dg.asset(
        key=["destinations", target.name],
        deps=[dg.AssetKey([table]) for table in tables if target.filter.takes_table(table)],
        partitions_def=grid,
        backfill_policy=dg.BackfillPolicy.single_run(),
        description=describe_target(target),
        group_name="destinations",
        kinds={target.destination.kind, target.destination.name},
        owners=owners,
        check_specs=[
            dg.AssetCheckSpec(
                "parked",
                asset=["destinations", target.name],
                description="Rows given up on, waiting for somebody to look.",
            )
        ],
    )
    def delivered_rows(
        context: dg.AssetExecutionContext,
        workspace: dg.ResourceParam[WorkspaceOpener],
        config: SyncConfig,
    ) -> dg.MaterializeResult:
        with workspace.open() as opened:
            # Whoever sends, sends what waits, of everybody: rows are claimed, none goes twice. Only who
            # names people or cells gets no more than these.
            user_ids = None
            if config.scope == Scope.ALL:
                cells = cells_of(context, opened.lake.scheme)
                users = opened.users_in(cells, None, config.user_ids)
                user_ids = [user.user_id for user in users]
            longest = LIVE_DELIVERY if config.scope == Scope.DUE else LONGEST_DELIVERY
            report = deliver(
                opened, target.name, user_ids=user_ids, deadline=opened.now() + longest
            )
            parked = opened.registry.count_deliveries(target.name, "parked")
            return dg.MaterializeResult(
                metadata=describe_delivery(report),
                check_results=[
                    dg.AssetCheckResult(
                        check_name="parked",
                        passed=parked == 0,
                        description=f"{parked} rows parked: see `wearable-pipeline status`,"
                        f" then `wearable-pipeline destinations retry {target.name}`"
                        if parked
                        else "nothing parked",
                    )
                ],
            )

    return delivered_rows


def describe_target(target: Target) -> str:
    """What the target is and takes, for the Dagster UI."""
    chosen = target.filter
    takes = [
        f"{key} {', '.join(sorted(names))}"
        for key, names in (("types", chosen.types), ("providers", chosen.providers))
        if names
    ]
    if chosen.users:
        takes.append(f"users {len(chosen.users)} by id")
    return (
        f"{target.destination.title}. {target.destination.summary}\n\n"
        f"Takes {'; '.join(takes) or 'everything'}."
    )


def describe_delivery(report: DeliveryReport) -> dict[str, dg.MetadataValue]:
    """Counts and lag of a delivery for the Dagster UI."""
    metadata: dict[str, dg.MetadataValue] = {
        "dagster/row_count": dg.MetadataValue.int(report.delivered),
        "delivered": dg.MetadataValue.int(report.delivered),
        "failed": dg.MetadataValue.int(report.failed),
        "parked": dg.MetadataValue.int(report.parked),
        "remaining": dg.MetadataValue.int(report.remaining),
    }
    for name, share in (("lag_p50_seconds", 0.5), ("lag_p99_seconds", 0.99)):
        lag = report.lag_seconds(share)
        if lag is not None:
            metadata[name] = dg.MetadataValue.float(round(lag, 1))
    for text, count in report.errors.most_common(5):
        metadata[f"error: {text}"] = dg.MetadataValue.int(count)
    if report.next_attempt_at is not None:
        metadata["next_attempt"] = dg.MetadataValue.timestamp(report.next_attempt_at)
    return metadata
