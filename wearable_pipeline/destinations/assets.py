"""Assets `destinations/<name>`: rows whose content a destination has not yet acknowledged."""

from collections.abc import Sequence
from datetime import timedelta

import dagster as dg

from wearable_pipeline.destinations._contract import Destination
from wearable_pipeline.destinations.delivery import DeliveryReport, deliver
from wearable_pipeline.orchestration.resources import SyncConfig, WorkspaceOpener, cells_of

# A slow receiver must not hold the run: what is left is sent by the next one.
LONGEST_DELIVERY = timedelta(minutes=4)


def build_destination_asset(
    destination: Destination,
    tables: Sequence[str],
    grid: dg.MultiPartitionsDefinition,
    owners: list[str],
) -> dg.AssetsDefinition:
    """The asset that pushes changed rows of `tables` to `destination`."""

    @dg.asset(
        key=["destinations", destination.name],
        deps=[dg.AssetKey([table]) for table in tables],
        partitions_def=grid,
        backfill_policy=dg.BackfillPolicy.single_run(),
        description=destination.summary,
        group_name="destinations",
        kinds={destination.kind},
        owners=owners,
        check_specs=[
            dg.AssetCheckSpec(
                "parked",
                asset=["destinations", destination.name],
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
            users = opened.users_in(cells_of(context), None, config.user_ids)
            report = deliver(
                opened,
                destination.name,
                user_ids=[user.user_id for user in users],
                deadline=opened.now() + LONGEST_DELIVERY,
            )
            counts = opened.registry.counts(destination.name)
            return dg.MaterializeResult(
                metadata=describe_delivery(report),
                check_results=[
                    dg.AssetCheckResult(
                        check_name="parked",
                        passed=counts.parked == 0,
                        description=f"{counts.parked} rows parked: see `wearable-pipeline status`,"
                        f" then `wearable-pipeline destinations retry {destination.name}`"
                        if counts.parked
                        else "nothing parked",
                    )
                ],
            )

    return delivered_rows


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
