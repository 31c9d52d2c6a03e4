"""Checks that look at time rather than at a write: is every connected person's glucose fresh?"""

from datetime import timedelta

import dagster as dg

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
    with workspace.open(writes=False) as opened:
        settings = opened.settings
        limit = timedelta(minutes=settings.stale_after_minutes)
        found = opened.registry.freshness(
            opened.now(), polled_providers(CGM_INTERVAL), limit, SHOWN
        )
    metadata: dict[str, dg.MetadataValue] = {
        "users": dg.MetadataValue.int(found.users),
        "stale": dg.MetadataValue.int(found.stale),
    }
    for name, age in (("p50", found.age_p50), ("p95", found.age_p95), ("max", found.age_max)):
        if age is not None:
            metadata[f"age_{name}_seconds"] = dg.MetadataValue.float(age.total_seconds())
    if found.longest_silent:
        metadata["stale_users"] = dg.MetadataValue.md(
            "\n".join(f"- `{user_id}`" for user_id in found.longest_silent)
        )
    return dg.AssetCheckResult(
        passed=not found.stale,
        description=f"{found.stale} of {found.users} users have no reading of the last"
        f" {settings.stale_after_minutes} minutes"
        if found.stale
        else f"all {found.users} users are fresh",
        metadata=metadata,
    )
