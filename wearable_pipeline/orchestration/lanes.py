"""Lanes: which runs of ours are on their way, and how a run for a rectangle is asked for."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from wearable_pipeline.orchestration.decisions import Rectangle
from wearable_pipeline.orchestration.jobs import LANE
from wearable_pipeline.orchestration.resources import Scope, SyncConfig
from wearable_pipeline.partitions import USERS
from wearable_pipeline.providers import providers
from wearable_pipeline.tables.assets import TABLE_NAMES
from wearable_pipeline.tables.normalize import tables_fed_by
from wearable_pipeline.workspace import Workspace

PRIORITY: Mapping[str, int] = {
    "live": 10,
    "retry": 5,
    "touched": 0,
    "sweep": -10,
    "backfill": -20,
}

# A live run that died together with its code server holds up its lane no longer than this.
_LIVE_SECONDS = "600"
_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dataclass(frozen=True, slots=True)
class Stages:
    """Names of the assets of each stage, as they are defined."""

    raw: tuple[str, ...]
    tables: tuple[str, ...]
    destinations: tuple[str, ...]

    def after(self, provider_names: Iterable[str]) -> "Stages":
        """What a run has to do that asks these providers: them, the tables they feed, destinations."""
        known = providers()
        asked = sorted(set(provider_names) & set(self.raw))
        fed = {table for name in asked for table in tables_fed_by(known[name])}
        return Stages(
            tuple(asked),
            tuple(table for table in self.tables if table in fed),
            self.destinations,
        )

    def of_tables(self, table_names: Iterable[str]) -> "Stages":
        """What a run has to do that brings these tables in line with raw."""
        wanted = set(table_names)
        return Stages(
            (), tuple(table for table in self.tables if table in wanted), self.destinations
        )

    @property
    def only_destinations(self) -> "Stages":
        """What a run has to do that sends what waits."""
        return Stages((), (), self.destinations)

    @property
    def keys(self) -> list[dg.AssetKey]:
        """Keys of all of them."""
        return [
            *(dg.AssetKey(["raw", name]) for name in self.raw),
            *(dg.AssetKey([name]) for name in self.tables),
            *(dg.AssetKey(["destinations", name]) for name in self.destinations),
        ]


def all_stages(destination_names: Iterable[str]) -> Stages:
    """Every asset of the lattice."""
    return Stages(tuple(providers()), tuple(TABLE_NAMES), tuple(sorted(destination_names)))


def op_name(key: dg.AssetKey) -> str:
    """Name of an asset's op, under which run config names it."""
    return "__".join(key.path)


def busy_lanes(instance: dg.DagsterInstance, lanes: Sequence[str]) -> set[str]:
    """Those of `lanes` with a run on its way: the next tick takes what has come up by then."""
    found = instance.get_runs(dg.RunsFilter(tags={LANE: list(lanes)}, statuses=_UNFINISHED))
    return {run.tags[LANE] for run in found}


def positions(
    instance: dg.DagsterInstance, workspace: Workspace, cohorts: Iterable[str]
) -> dict[str, int]:
    """Position of every key in Dagster's dimension, after adding those of `cohorts` it has not yet."""
    scheme = workspace.lake.scheme
    all_cohorts = scheme.cohort_keys()
    if all_cohorts is not None:
        return {scheme.key_of(cohort): number for number, cohort in enumerate(all_cohorts)}
    known = instance.get_dynamic_partitions(USERS)
    missing = sorted(set(cohorts) - set(known))
    if missing:
        instance.add_dynamic_partitions(USERS, missing)
        known = instance.get_dynamic_partitions(USERS)
    return {key: position for position, key in enumerate(known)}


def request_run(
    rectangle: Rectangle,
    lane: str,
    run_key: str,
    job_name: str,
    stages: Stages,
    config: SyncConfig,
    *,
    limits: Mapping[str, int] | None = None,
) -> dg.RunRequest:
    """A run of `stages` over the rectangle. `limits` bound the users by provider."""
    kind = lane.partition("-")[0]
    keys = stages.keys
    configs = {op_name(key): config for key in keys}
    for provider, limit in (limits or {}).items():
        configs[op_name(dg.AssetKey(["raw", provider]))] = config.model_copy(
            update={"limit": limit}
        )
    return dg.RunRequest(
        run_key=run_key,
        job_name=job_name,
        run_config=dg.RunConfig(ops=dict(configs)),
        asset_selection=keys,
        tags={
            LANE: lane,
            "dagster/priority": str(PRIORITY[kind]),
            **({"dagster/max_runtime": _LIVE_SECONDS} if kind == "live" else {}),
            **rectangle.tags,
        },
    )


def scoped(scope: Scope, limit: int | None = None) -> SyncConfig:
    """Config of a run that asks the ledger itself."""
    return SyncConfig(scope=scope.value, limit=limit)
