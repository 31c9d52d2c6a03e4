"""Sensors and schedules: ask the ledger whether somebody is due, and start runs. Nothing is fetched here.

A tick asks for counts by cohort, never for people: its cost and the size of what it starts do not grow
with the number of users. The run itself asks the ledger who is meant when it starts.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

import dagster as dg

from wearable_pipeline.orchestration.backfill import build_backfill_sensor
from wearable_pipeline.orchestration.decisions import (
    cover,
    lane_name,
    lane_of,
    share_out,
    slot_name,
)
from wearable_pipeline.orchestration.jobs import DELIVER, NORMALIZE, SYNC
from wearable_pipeline.orchestration.lanes import (
    Stages,
    all_stages,
    busy_lanes,
    positions,
    request_run,
    scoped,
)
from wearable_pipeline.orchestration.resources import Scope, SyncConfig, WorkspaceOpener
from wearable_pipeline.partitions import grid_start, last_day
from wearable_pipeline.providers import providers
from wearable_pipeline.raw.assets import LOOKAHEAD
from wearable_pipeline.registry import DueCohort

# Every key of a run costs milliseconds of events for each of its assets.
LIVE_KEYS = 1_000
SWEEP_KEYS = 2_000
# Users one live run takes: a minute or two of work. Who is left is the next run's, longest silence first.
LIVE_USERS = 20_000
SWEEP_USERS = 20_000
# Partitions one run normalizes besides the live ones, and rows looked at to see whether some wait.
TOUCHED_CELLS = 500
ROWS_LOOKED_AT = 5_000
TICK = timedelta(seconds=15)
# A live run clears the marks it makes and sends what it changes; what is older nobody is about to take.
GRACE = timedelta(minutes=2)


def polled_providers(longest: timedelta | None = None) -> list[str]:
    """Providers that can be polled, at least every `longest`."""
    return [
        name
        for name, provider in providers().items()
        if provider.fetch is not None and (longest is None or provider.poll_interval <= longest)
    ]


def build_sensors(
    destination_names: list[str], live_lanes: int = 1
) -> tuple[list[dg.SensorDefinition], list[dg.ScheduleDefinition]]:
    """All sensors and schedules, on by default."""
    stages = all_stages(destination_names)
    lanes = [lane_name(number, live_lanes) for number in range(live_lanes)]

    @dg.sensor(
        job_name=SYNC,
        minimum_interval_seconds=int(TICK.total_seconds()),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Users whose next reading is due: one run per live lane for all of them.",
    )
    def due_users(
        context: dg.SensorEvaluationContext, workspace: dg.ResourceParam[WorkspaceOpener]
    ) -> dg.SensorResult | dg.SkipReason:
        busy = busy_lanes(context.instance, lanes)
        if len(busy) == len(lanes):
            return dg.SkipReason("the last live run is still on its way")
        with workspace.open(writes=False) as opened:
            now = opened.now()
            found = opened.registry.due_cohorts(
                now, now + LOOKAHEAD, polled_providers(), opened.lake.scheme, LIVE_KEYS
            )
            if not any(one.due for one in found):
                return dg.SkipReason("nobody is due")
            order = positions(context.instance, opened, [one.cohort for one in found])
            key_of = opened.lake.scheme.key_of
        by_lane: dict[str, list[DueCohort]] = {}
        for one in found:
            place = order.get(key_of(one.cohort))
            if place is not None:
                lane = lanes[lane_of(place, len(order), live_lanes)]
                by_lane.setdefault(lane, []).append(one)
        requests = [
            _live_run(stages, lane, [(key_of(one.cohort), one) for one in some], order, now)
            for lane, some in sorted(by_lane.items())
            if lane not in busy and any(one.due for one in some)
        ]
        if not requests:
            return dg.SkipReason("who is due belongs to a lane whose run is still on its way")
        return dg.SensorResult(run_requests=requests)

    @dg.sensor(
        job_name=NORMALIZE,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Days that ingest has touched outside a live run: imports, late readings.",
    )
    def touched_partitions(
        context: dg.SensorEvaluationContext, workspace: dg.ResourceParam[WorkspaceOpener]
    ) -> dg.SensorResult | dg.SkipReason:
        busy = busy_lanes(context.instance, ["touched", *lanes])
        if "touched" in busy:
            return dg.SkipReason("the last run for touched days is on its way")
        with workspace.open(writes=False) as opened:
            now = opened.now()
            scheme = opened.lake.scheme
            cells = opened.registry.touched_cells(
                scheme,
                tables=stages.tables,
                until=now - GRACE if busy else None,
                limit=TOUCHED_CELLS,
            )
            if not cells:
                return dg.SkipReason("nothing is touched that a live run would not take along")
            order = positions(context.instance, opened, {cell.cohort for cell in cells})
            # The run takes the touched days of its cohorts; the rectangle is where it is shown.
            start = grid_start(scheme, opened.settings.start_date, now)
            shown = max(start, min(max(cell.date for cell in cells), last_day(now)))
            counts: dict[str, int] = {}
            for cell in cells:
                key = scheme.key_of(cell.cohort)
                counts[key] = counts.get(key, 0) + cell.users
        wanted = stages.of_tables(cell.table for cell in cells)
        slot = f"{max(cell.version for cell in cells)}-{slot_name(now)}"
        return dg.SensorResult(
            run_requests=[
                request_run(
                    rectangle,
                    "touched",
                    f"touched-{slot}-{number}",
                    NORMALIZE,
                    wanted,
                    scoped(Scope.TOUCHED, TOUCHED_CELLS),
                )
                for number, rectangle in enumerate(cover(counts, shown, shown, order, LIVE_KEYS))
            ]
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
        busy = busy_lanes(context.instance, ["retry", *lanes])
        if "retry" in busy:
            return dg.SkipReason("the last run for deliveries is on its way")
        with workspace.open(writes=False) as opened:
            now = opened.now()
            # What a live run has just made due is its own to send.
            until = now - GRACE if busy else now
            counts: dict[str, int] = {}
            for name in stages.destinations:
                waiting = opened.registry.cohorts_to_send(
                    name, until, opened.lake.scheme, ROWS_LOOKED_AT, LIVE_KEYS
                )
                for cohort, rows in waiting.items():
                    key = opened.lake.scheme.key_of(cohort)
                    counts[key] = counts.get(key, 0) + rows
            if not counts:
                return dg.SkipReason("nothing is due")
            order = positions(context.instance, opened, counts)
            day = now.date()
        first, *_ = [*cover(counts, day, day, order, LIVE_KEYS), None]
        if first is None:
            return dg.SkipReason("nothing is due")
        # One run sends what is due of everybody; the rectangle is where it is shown.
        return dg.SensorResult(
            run_requests=[
                request_run(
                    first,
                    "retry",
                    f"retry-{slot_name(now, TICK)}",
                    DELIVER,
                    stages.only_destinations,
                    scoped(Scope.TOUCHED),
                )
            ]
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
        with workspace.open(writes=False) as opened:
            now = opened.now()
            scheme = opened.lake.scheme
            found = opened.registry.connected_cohorts(polled_providers(), scheme)
            everybody = {cohort for counts in found.values() for cohort in counts}
            order = positions(context.instance, opened, everybody)
        by_days: dict[int, list[str]] = {}
        for name in found:
            by_days.setdefault(providers()[name].open_days, []).append(name)
        requests: list[dg.RunRequest] = []
        for days, names in sorted(by_days.items()):
            users: dict[str, int] = {}
            for name in names:
                for cohort, count in found[name].items():
                    users[scheme.key_of(cohort)] = users.get(scheme.key_of(cohort), 0) + count
            first = (now - timedelta(days=days)).date()
            rectangles = cover(users, first, last_day(now), order, SWEEP_KEYS, SWEEP_USERS)
            requests += [
                request_run(
                    rectangle,
                    "sweep",
                    f"sweep-{now:%Y%m%d}-{days}-{number}",
                    SYNC,
                    stages.after(names),
                    SyncConfig(),
                )
                for number, rectangle in enumerate(rectangles)
            ]
        return requests

    sensors = [due_users, touched_partitions, build_backfill_sensor(stages, polled_providers())]
    if stages.destinations:
        sensors.append(due_deliveries)
    return sensors, [daily_sweep]


def _live_run(
    stages: Stages,
    lane: str,
    found: list[tuple[str, DueCohort]],
    order: Mapping[str, int],
    now: datetime,
) -> dg.RunRequest:
    """The run of one lane: the rectangle with the longest silence, every provider its fair share."""
    # One column of the grid: the days beside it, where somebody's today may lie, are taken along as
    # touched, and every further key would cost its events.
    today = now.date()
    users: dict[str, int] = {}
    for key, one in found:
        users[key] = users.get(key, 0) + one.ready
    longest = next(key for key, one in found if one.due)
    rectangle = next(
        one for one in cover(users, today, today, order, LIVE_KEYS) if longest in one.keys
    )
    wanted: dict[str, int] = {}
    for key, one in found:
        if key in rectangle.keys:
            wanted[one.provider] = wanted.get(one.provider, 0) + one.ready
    return request_run(
        rectangle,
        lane,
        f"{lane}-{slot_name(now, TICK)}",
        SYNC,
        stages.after(wanted),
        scoped(Scope.DUE),
        limits=share_out(wanted, LIVE_USERS),
    )
