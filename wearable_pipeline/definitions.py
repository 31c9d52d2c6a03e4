"""The one thing Dagster loads: every asset, check, job, sensor and schedule, and the resource they share.

Loads with no network, no secrets and no data; what needs those is opened when work starts.
"""

import os
import warnings

import dagster as dg

from wearable_pipeline.destinations import configured
from wearable_pipeline.destinations.assets import build_destination_asset
from wearable_pipeline.model import TABLES
from wearable_pipeline.orchestration.checks import check_freshness
from wearable_pipeline.orchestration.inbox import pushes, take_in_job
from wearable_pipeline.orchestration.jobs import deliver_job, normalize_job, sync_job
from wearable_pipeline.orchestration.maintenance import build_maintenance
from wearable_pipeline.orchestration.marts import build_marts
from wearable_pipeline.orchestration.resources import WorkspaceOpener
from wearable_pipeline.orchestration.sensors import build_sensors
from wearable_pipeline.partitions import Scheme, grid_definition, grid_start
from wearable_pipeline.providers import providers
from wearable_pipeline.raw.assets import build_raw_asset
from wearable_pipeline.settings import Settings, load_settings
from wearable_pipeline.tables.assets import TABLE_NAMES, build_table_asset
from wearable_pipeline.workspace import utc_now

OWNERS = ["team:data"]

# Two events a key, each a transaction of its own, is most of what a run over 64 cohorts costs. Every
# process that runs or queues one of ours loads this module; who set the variable is believed.
os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "1000")

# `backfill_policy` is beta in 1.13 and what a run over a rectangle needs; said once, not per asset.
warnings.filterwarnings("ignore", message=".*backfill_policy.*", category=dg.BetaWarning)
# Dagster copies sensors to attach jobs and warns about a parameter of its own.
warnings.filterwarnings("ignore", message=".*`owners`.*SensorDefinition", category=dg.BetaWarning)


def build_defs(
    settings: Settings | None = None, workspace: WorkspaceOpener | None = None
) -> dg.Definitions:
    """The definitions for `settings` (by default the environment's).

    `workspace` replaces the resource, for runs with another clock or another home.
    """
    settings = settings or load_settings()
    workspace = workspace or WorkspaceOpener()
    scheme = Scheme(settings.cohorts)
    grid = grid_definition(scheme, grid_start(scheme, settings.start_date, utc_now()))
    destinations = configured(settings)
    raw = [build_raw_asset(provider, grid, OWNERS) for provider in providers().values()]
    tables = [build_table_asset(TABLES[name], grid, OWNERS) for name in TABLE_NAMES]
    pushed = [
        build_destination_asset(destination, TABLE_NAMES, grid, OWNERS)
        for _, destination in sorted(destinations.items())
    ]
    sensors, schedules = build_sensors(sorted(destinations), settings.live_lanes)
    pipeline = dg.Definitions(
        assets=[*raw, *tables, *pushed],
        asset_checks=[check_freshness],
        jobs=[sync_job, normalize_job, take_in_job, *([deliver_job] if pushed else [])],
        sensors=[*sensors, pushes],
        schedules=schedules,
        resources={"workspace": workspace},
    )
    return dg.Definitions.merge(
        pipeline,
        build_marts(OWNERS, settings.source_priority),
        build_maintenance(TABLE_NAMES, OWNERS),
    )


defs = build_defs()
