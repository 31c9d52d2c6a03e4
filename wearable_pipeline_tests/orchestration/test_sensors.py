from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pytest

from wearable_pipeline.definitions import build_defs
from wearable_pipeline.orchestration.jobs import LANE
from wearable_pipeline.orchestration.resources import WorkspaceOpener
from wearable_pipeline.registry import SyncResult, Touched, WantedRow
from wearable_pipeline.settings import Settings
from wearable_pipeline.workspace import Workspace, open_workspace


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(webhook_url="http://127.0.0.1:9/hook", webhook_secret="s" * 32)


@pytest.fixture
def workspace(settings: Settings, clock: Callable) -> Iterator[Workspace]:
    with open_workspace(settings, clock) as opened:
        yield opened


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def tick(settings: Settings, clock: Callable, instance: dg.DagsterInstance) -> Callable:
    opener = WorkspaceOpener(settings, clock)
    defs = build_defs(settings, opener)

    def run(name: str) -> dg.SensorResult | dg.SkipReason:
        context = dg.build_sensor_context(instance=instance, resources={"workspace": opener})
        return defs.resolve_sensor_def(name)(context)

    return run


def test_nobody_due_is_no_run(tick: Callable, workspace: Workspace) -> None:
    skipped = tick("due_users")
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == "nobody is due"


def test_all_due_users_go_into_one_run_over_today(
    tick: Callable, workspace: Workspace, instance: dg.DagsterInstance
) -> None:
    for name in ("u1", "u2", "u3"):
        workspace.registry.add_user("nightscout", user_id=name)
    (request,) = tick("due_users").run_requests
    assert request.job_name == "sync"
    assert request.tags["dagster/asset_partition_range_start"] == "2026-11-20|u1"
    assert request.tags["dagster/asset_partition_range_end"] == "2026-11-20|u3"
    assert request.tags[LANE] == "live"
    config = request.run_config["ops"]["raw__nightscout"]["config"]
    assert config["user_ids"] == ["u1", "u2", "u3"]
    assert instance.get_dynamic_partitions("users") == ["u1", "u2", "u3"]


def test_who_was_asked_is_due_again_when_the_time_has_come(
    tick: Callable, workspace: Workspace, clock: Callable
) -> None:
    workspace.registry.add_user("nightscout", user_id="u1")
    due = clock() + timedelta(minutes=5)
    workspace.registry.record_sync(
        [SyncResult(user_id="u1", attempted_at=clock(), next_due_at=due)]
    )
    assert isinstance(tick("due_users"), dg.SkipReason)
    clock.advance(minutes=5)
    assert len(tick("due_users").run_requests) == 1


def test_who_is_due_in_a_moment_comes_along_unless_the_last_try_failed(
    tick: Callable, workspace: Workspace, clock: Callable
) -> None:
    for name in ("due", "soon", "later", "failed"):
        workspace.registry.add_user("nightscout", user_id=name)
    in_a_moment = clock() + timedelta(seconds=20)
    results = [
        SyncResult(user_id="soon", attempted_at=clock(), next_due_at=in_a_moment),
        SyncResult(
            user_id="later", attempted_at=clock(), next_due_at=clock() + timedelta(minutes=2)
        ),
        SyncResult(
            user_id="failed", attempted_at=clock(), next_due_at=in_a_moment, error_class="transient"
        ),
    ]
    workspace.registry.record_sync(results)
    (request,) = tick("due_users").run_requests
    assert request.run_config["ops"]["body"]["config"]["user_ids"] == ["due", "soon"]


def test_a_lane_carries_one_run_at_a_time(
    tick: Callable, workspace: Workspace, instance: dg.DagsterInstance
) -> None:
    workspace.registry.add_user("nightscout", user_id="u1")
    run = instance.create_run_for_job(
        dg.GraphDefinition(name="sync").to_job(),
        tags={LANE: "live"},
        status=dg.DagsterRunStatus.STARTED,
    )
    skipped = tick("due_users")
    assert isinstance(skipped, dg.SkipReason)
    assert "on its way" in str(skipped.skip_message)
    instance.report_run_canceled(instance.get_run_by_id(run.run_id))
    assert len(tick("due_users").run_requests) == 1


def test_a_locked_out_user_is_left_alone_until_the_lock_ends(
    tick: Callable, workspace: Workspace, clock: Callable
) -> None:
    workspace.registry.add_user("freestyle_libre", user_id="u1")
    until = clock() + timedelta(minutes=5)
    workspace.registry.record_sync(
        [
            SyncResult(
                user_id="u1",
                attempted_at=clock(),
                next_due_at=clock(),
                error_class="rate_limited",
                error_message="locked",
                locked_until=until,
            )
        ]
    )
    assert isinstance(tick("due_users"), dg.SkipReason)
    clock.advance(minutes=6)
    assert len(tick("due_users").run_requests) == 1


def test_touched_days_far_outside_the_grid_are_taken_along(
    tick: Callable, workspace: Workspace
) -> None:
    workspace.registry.add_user("freestyle_libre", user_id="u1")
    workspace.registry.mark_touched([Touched("body", "u1", date(2019, 12, 5))])
    (request,) = tick("touched_partitions").run_requests
    assert request.job_name == "normalize"
    # Shown on the first day of the grid; the run itself reads the marks.
    assert request.tags["dagster/asset_partition_range_start"] == "2026-08-22|u1"
    assert request.run_config["ops"]["body"]["config"]["include_touched"] is True


def test_the_same_marks_do_not_make_the_same_run_twice_in_a_slot(
    tick: Callable, workspace: Workspace
) -> None:
    workspace.registry.add_user("freestyle_libre", user_id="u1")
    workspace.registry.mark_touched([Touched("body", "u1", date(2026, 11, 20))])
    first, second = tick("touched_partitions"), tick("touched_partitions")
    assert first.run_requests[0].run_key == second.run_requests[0].run_key


def test_a_row_waiting_for_its_next_try_is_sent_when_it_is_due(
    tick: Callable, workspace: Workspace, clock: Callable
) -> None:
    workspace.registry.add_user("nightscout", user_id="u1")
    row = WantedRow("body", "u1", "2026-11-20", date(2026, 11, 20), "hash")
    workspace.registry.want("webhook", [row])
    (claimed,) = workspace.registry.claim("webhook", clock(), 10)
    later = clock() + timedelta(minutes=1)
    workspace.registry.fail(claimed, "no answer", next_attempt_at=later)
    assert isinstance(tick("due_deliveries"), dg.SkipReason)
    clock.advance(minutes=1)
    (request,) = tick("due_deliveries").run_requests
    assert request.job_name == "deliver"
    assert set(request.run_config["ops"]) == {"destinations__webhook"}


def test_the_daily_sweep_reads_the_open_days_of_everybody(
    settings: Settings, clock: Callable, workspace: Workspace, tmp_path: Path
) -> None:
    workspace.registry.add_user("nightscout", user_id="u1")
    workspace.registry.add_user("freestyle_libre", user_id="u2")
    opener = WorkspaceOpener(settings, clock)
    schedule = build_defs(settings, opener).resolve_schedule_def("daily_sweep")
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        context = dg.build_schedule_context(
            instance=instance, scheduled_execution_time=clock(), resources={"workspace": opener}
        )
        data = schedule.evaluate_tick(context)
    (request,) = data.run_requests
    # Three open days before today, and today where it has already begun.
    assert request.tags["dagster/asset_partition_range_start"].startswith("2026-11-17|")
    assert request.tags["dagster/asset_partition_range_end"].startswith("2026-11-21|")
    assert request.run_config["ops"]["raw__nightscout"]["config"]["user_ids"] == ["u1", "u2"]
