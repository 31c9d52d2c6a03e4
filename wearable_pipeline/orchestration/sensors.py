"""Sensors and schedules: ask the ledger who is due, turn the answer into runs. Nothing is fetched here."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta

import dagster as dg

from wearable_pipeline.orchestration.decisions import Rectangle, cover, slot_name
from wearable_pipeline.orchestration.jobs import DELIVER, LANE, NORMALIZE, SYNC
from wearable_pipeline.orchestration.resources import SyncConfig, WorkspaceOpener
from wearable_pipeline.partitions import USERS, grid_start, last_day
from wearable_pipeline.providers import providers
from wearable_pipeline.workspace import Workspace

# Every key of a run costs tens of milliseconds of events.
LIVE_KEYS = 1_000
SWEEP_KEYS = 2_000
TOUCHED_AT_ONCE = 5_000
LOOKAHEAD = timedelta(seconds=30)

_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def polled_providers(longest: timedelta | None = None) -> list[str]:
    """Providers that can be polled, at least every `longest`."""
    return [
        name
        for name, provider in providers().items()
        if provider.fetch is not None and (longest is None or provider.poll_interval <= longest)
    ]


def lane_is_busy(instance: dg.DagsterInstance, lane: str) -> bool:
    """Whether a run of `lane` is still on its way: the next tick takes what is due then."""
    return bool(instance.get_runs(dg.RunsFilter(tags={LANE: lane}, statuses=_UNFINISHED), limit=1))


def add_missing_users(
    instance: dg.DagsterInstance, workspace: Workspace, user_ids: Iterable[str]
) -> dict[str, int]:
    """Position of every cohort in the partition dimension, after adding users it does not have yet."""
    keys = workspace.lake.scheme.cohort_keys()
    if keys is None:
        known = instance.get_dynamic_partitions(USERS)
        missing = sorted(set(user_ids) - set(known))
        if missing:
            instance.add_dynamic_partitions(USERS, missing)
            known = instance.get_dynamic_partitions(USERS)
        keys = list(known)
    return {key: position for position, key in enumerate(keys)}


def run_requests(
    rectangles: Sequence[Rectangle],
    lane: str,
    slot: str,
    job_name: str,
    ops: Sequence[str],
    *,
    include_touched: bool = True,
) -> Iterator[dg.RunRequest]:
    """One run per rectangle, its key the lane, the slot and its place."""
    for number, rectangle in enumerate(rectangles):
        config = SyncConfig(user_ids=list(rectangle.user_ids), include_touched=include_touched)
        yield dg.RunRequest(
            run_key=f"{lane}-{slot}-{number}",
            job_name=job_name,
            run_config=dg.RunConfig(ops=dict.fromkeys(ops, config)),
            tags={LANE: lane, "dagster/priority": _PRIORITY[lane], **rectangle.tags},
        )


_PRIORITY: Mapping[str, str] = {"live": "10", "retry": "5", "touched": "0", "sweep": "-10"}


def build_sensors(
    raw_ops: Sequence[str], table_ops: Sequence[str], destination_ops: Sequence[str]
) -> tuple[list[dg.SensorDefinition], list[dg.ScheduleDefinition]]:
    """All sensors and schedules, on by default; the names are those of the ops of each stage."""
    sync_ops = [*raw_ops, *table_ops, *destination_ops]

    @dg.sensor(
        job_name=SYNC,
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Users whose next reading is due: one run for all of them.",
    )
    def due_users(
        context: dg.SensorEvaluationContext, workspace: dg.ResourceParam[WorkspaceOpener]
    ) -> dg.SensorResult | dg.SkipReason:
        if lane_is_busy(context.instance, "live"):
            return dg.SkipReason("the last live run is still on its way")
        with workspace.open() as opened:
            now = opened.now()
            # Who is due in a moment comes along: one run for all instead of one for each.
            soon = opened.registry.due_users(now + LOOKAHEAD, polled_providers())
            if not any(one.next_due_at <= now for one in soon):
                return dg.SkipReason("nobody is due")
            # After a failure the time is a promise: a locked account is not asked a second early.
            users = [one.user_id for one in soon if one.next_due_at <= now or one.failures == 0]
            order = add_missing_users(context.instance, opened, users)
            # One column of the grid: the days beside it, where somebody's today may lie, are taken along
            # as touched, and every further key would cost its events.
            today = now.date()
            rectangles = cover(users, today, today, order, opened.lake.scheme, LIVE_KEYS)
            slot = f"{now:%Y%m%dT%H%M%S}"
            return dg.SensorResult(
                run_requests=list(run_requests(rectangles, "live", slot, SYNC, sync_ops))
            )

    @dg.sensor(
        job_name=NORMALIZE,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Days that ingest has touched outside a run's rectangle: imports, late readings.",
    )
    def touched_partitions(
        context: dg.SensorEvaluationContext, workspace: dg.ResourceParam[WorkspaceOpener]
    ) -> dg.SensorResult | dg.SkipReason:
        for lane in ("live", "touched"):
            if lane_is_busy(context.instance, lane):
                return dg.SkipReason(f"a {lane} run is on its way and may take them along")
        with workspace.open() as opened:
            marks = opened.registry.touched(limit=TOUCHED_AT_ONCE)
            if not marks:
                return dg.SkipReason("nothing is touched")
            users = sorted({mark.user_id for mark in marks})
            order = add_missing_users(context.instance, opened, users)
            # The run takes every touched day of its users along; the rectangle is where it is shown.
            start = grid_start(opened.lake.scheme, opened.settings.start_date, opened.now())
            shown = max(start, min(max(mark.date for mark in marks), last_day(opened.now())))
            rectangles = cover(users, shown, shown, order, opened.lake.scheme, LIVE_KEYS)
            slot = f"{max(mark.version for mark in marks)}-{slot_name(opened.now())}"
            return dg.SensorResult(
                run_requests=list(
                    run_requests(
                        rectangles, "touched", slot, NORMALIZE, [*table_ops, *destination_ops]
                    )
                )
            )

    @dg.sensor(
        job_name=DELIVER,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Rows a destination did not take, once their next try is due.",
    )
    def due_deliveries(
        context: dg.SensorEvaluationContext, workspace: dg.ResourceParam[WorkspaceOpener]
    ) -> dg.SensorResult | dg.SkipReason:
        for lane in ("live", "retry"):
            if lane_is_busy(context.instance, lane):
                return dg.SkipReason(f"a {lane} run is on its way")
        with workspace.open() as opened:
            now = opened.now()
            names = [name.removeprefix("destinations__") for name in destination_ops]
            users = sorted(
                {
                    one.user_id
                    for name in names
                    for one in opened.registry.pending(name, now, TOUCHED_AT_ONCE)
                }
            )
            if not users:
                return dg.SkipReason("nothing is due")
            order = add_missing_users(context.instance, opened, users)
            day = now.date()
            rectangles = cover(users, day, day, order, opened.lake.scheme, LIVE_KEYS)
            slot = f"{now:%Y%m%dT%H%M%S}"
            return dg.SensorResult(
                run_requests=list(run_requests(rectangles, "retry", slot, DELIVER, destination_ops))
            )

    @dg.schedule(
        job_name=SYNC,
        cron_schedule="17 3 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Once a day: read the open days of everybody again, for what came late.",
    )
    def daily_sweep(
        context: dg.ScheduleEvaluationContext, workspace: dg.ResourceParam[WorkspaceOpener]
    ) -> list[dg.RunRequest]:
        with workspace.open() as opened:
            now = opened.now()
            requests: list[dg.RunRequest] = []
            found = opened.registry.find_users(status="connected")
            order = add_missing_users(context.instance, opened, [user.user_id for user in found])
            open_days = {name: provider.open_days for name, provider in providers().items()}
            for days in sorted(set(open_days.values())):
                users = [
                    user.user_id
                    for user in found
                    if open_days.get(user.provider) == days and user.provider in polled_providers()
                ]
                first = (now - timedelta(days=days)).date()
                rectangles = cover(
                    users, first, last_day(now), order, opened.lake.scheme, SWEEP_KEYS
                )
                slot = f"{now:%Y%m%d}-{days}"
                requests += run_requests(rectangles, "sweep", slot, SYNC, sync_ops)
            return requests

    sensors = [due_users, touched_partitions]
    if destination_ops:
        sensors.append(due_deliveries)
    return sensors, [daily_sweep]
