"""Checks that look at time rather than at a write: is every connected person's glucose fresh?"""

from datetime import timedelta

import dagster as dg

from wearable_pipeline.orchestration.decisions import stale_users
from wearable_pipeline.orchestration.resources import WorkspaceOpener
from wearable_pipeline.orchestration.sensors import polled_providers

SHOWN = 50
CGM_INTERVAL = timedelta(minutes=15)


@dg.asset_check(
    asset=["body"],
    name="freshness",
    description="Every connected CGM user has a reading younger than WEARABLE_STALE_AFTER_MINUTES.",
)
def check_freshness(workspace: dg.ResourceParam[WorkspaceOpener]) -> dg.AssetCheckResult:
    """Names the stale users by id, longest silence first."""
    with workspace.open() as opened:
        now = opened.now()
        rows = opened.registry.staleness(now, polled_providers(CGM_INTERVAL))
        on_file = {
            user.user_id
            for user in opened.registry.find_users(status="connected")
            if user.config.get("import_only")
        }
        newest = {row.user_id: row.newest_reading_at for row in rows if row.user_id not in on_file}
        limit = timedelta(minutes=opened.settings.stale_after_minutes)
        stale = stale_users(newest, now, limit)
        ages = sorted((now - at).total_seconds() for at in newest.values() if at is not None)
        metadata: dict[str, dg.MetadataValue] = {
            "users": dg.MetadataValue.int(len(newest)),
            "stale": dg.MetadataValue.int(len(stale)),
        }
        if ages:
            metadata["age_p50_seconds"] = dg.MetadataValue.float(ages[len(ages) // 2])
            metadata["age_p95_seconds"] = dg.MetadataValue.float(ages[int(len(ages) * 0.95)])
            metadata["age_max_seconds"] = dg.MetadataValue.float(ages[-1])
        if stale:
            metadata["stale_users"] = dg.MetadataValue.md(
                "\n".join(f"- `{user_id}`" for user_id in stale[:SHOWN])
            )
        return dg.AssetCheckResult(
            passed=not stale,
            description=f"{len(stale)} of {len(newest)} users have no reading of the last"
            f" {opened.settings.stale_after_minutes} minutes"
            if stale
            else f"all {len(newest)} users are fresh",
            metadata=metadata,
        )
