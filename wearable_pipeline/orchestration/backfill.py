"""The backfill lane: old days in small runs of their own, one at a time, after everything that is live."""

from collections.abc import Sequence

import dagster as dg

from wearable_pipeline.orchestration.decisions import cover
from wearable_pipeline.orchestration.jobs import SYNC
from wearable_pipeline.orchestration.lanes import Stages, busy_lanes, positions, request_run
from wearable_pipeline.orchestration.resources import Scope, SyncConfig, WorkspaceOpener
from wearable_pipeline.partitions import Scheme, grid_start
from wearable_pipeline.providers import providers
from wearable_pipeline.registry import Waiting
from wearable_pipeline.registry.backfills import WINDOW_DAYS, window_days
from wearable_pipeline.workspace import Workspace

LANE_NAME = "backfill"
# A run this small ends within a minute or two, and what is live gets its turn.
BACKFILL_KEYS = 18 * WINDOW_DAYS
BACKFILL_USERS = 2_000
_WINDOWS_LOOKED_AT = 1_000


def history_days(workspace: Workspace, provider_names: Sequence[str]) -> dict[str, int]:
    """Days of history a new user's provider is asked for: what the settings want and it can give."""
    most = workspace.settings.history_days
    return {
        name: min(most, most if known is None else known)
        for name in provider_names
        for known in [providers()[name].history_days]
    }


def choose_window(
    waiting: Sequence[Waiting], scheme: Scheme
) -> tuple[int, dict[str, int], set[str]]:
    """The window to read next, its users by Dagster's key, and their providers.

    The one that has waited longest, and the same window of every other cohort along with it.
    """
    slot = waiting[0].slot
    users: dict[str, int] = {}
    for one in waiting:
        if one.slot == slot:
            key = scheme.key_of(one.cohort)
            users[key] = users.get(key, 0) + one.users
    return slot, users, {one.provider for one in waiting if one.slot == slot}


def build_backfill_sensor(stages: Stages, provider_names: Sequence[str]) -> dg.SensorDefinition:
    """The sensor that turns waiting history into runs, and puts that of new users in line."""

    @dg.sensor(
        job_name=SYNC,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="History of new users and what `backfill` was asked for: one small run at a time.",
    )
    def waiting_history(
        context: dg.SensorEvaluationContext, workspace: dg.ResourceParam[WorkspaceOpener]
    ) -> dg.SensorResult | dg.SkipReason:
        with workspace.open(writes=False) as opened:
            now = opened.now()
            scheme = opened.lake.scheme
            opened.registry.queue_newcomers(history_days(opened, provider_names), now.date())
            if busy_lanes(context.instance, [LANE_NAME]):
                return dg.SkipReason("the last run for history is on its way")
            waiting = opened.registry.waiting_history(now, scheme, _WINDOWS_LOOKED_AT)
            if not waiting:
                return dg.SkipReason("no history is waiting")
            slot, users, names = choose_window(waiting, scheme)
            order = positions(context.instance, opened, {one.cohort for one in waiting})
            grid = grid_start(scheme, opened.settings.start_date, now)
        first, last = window_days(slot)
        last = min(last, now.date())
        # Days before the grid are read all the same; they are no cells in the UI.
        shown = (max(first, min(grid, last)), last)
        longest = scheme.key_of(waiting[0].cohort)
        rectangles = cover(users, *shown, order, BACKFILL_KEYS, BACKFILL_USERS)
        rectangle = next((one for one in rectangles if longest in one.keys), None)
        if rectangle is None:
            return dg.SkipReason("no history is waiting")
        config = SyncConfig(
            scope=Scope.HISTORY.value,
            start=first.isoformat(),
            end=last.isoformat(),
            limit=BACKFILL_USERS,
        )
        return dg.SensorResult(
            run_requests=[
                request_run(
                    rectangle,
                    LANE_NAME,
                    f"{LANE_NAME}-{now:%Y%m%dT%H%M%S}",
                    SYNC,
                    stages.after(names),
                    config,
                )
            ]
        )

    return waiting_history
