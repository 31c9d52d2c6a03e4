from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pytest

from wearable_pipeline.definitions import build_defs
from wearable_pipeline.orchestration.jobs import LANE
from wearable_pipeline.orchestration.resources import WorkspaceOpener
from wearable_pipeline.providers import get_provider
from wearable_pipeline.raw.assets import LOOKAHEAD
from wearable_pipeline.registry import SyncResult, Touched, WantedRow
from wearable_pipeline.settings import Settings
from wearable_pipeline.tables.normalize import tables_fed_by
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
    # Dead with its code server it would hold up everybody for as long as any run may take.
    assert request.tags["dagster/max_runtime"] == "600"
    # Nobody is named: the run asks the ledger when it starts.
    config = request.run_config["ops"]["raw__nightscout"]["config"]
    assert (config["user_ids"], config["scope"], config["limit"]) == ([], "due", 3)
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
    in_a_moment = clock() + timedelta(seconds=8)
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
    assert request.run_config["ops"]["raw__nightscout"]["config"]["limit"] == 2
    now = clock()
    due = workspace.registry.due_users(now, ["nightscout"], soon=now + LOOKAHEAD)
    assert [one.user_id for one in due] == ["due", "soon"]


def test_only_the_assets_that_matter_are_run(tick: Callable, workspace: Workspace) -> None:
    workspace.registry.add_user("nightscout", user_id="u1")
    (request,) = tick("due_users").run_requests
    chosen = {key.to_user_string() for key in request.asset_selection}
    fed = tables_fed_by(get_provider("nightscout"))
    assert chosen == {"raw/nightscout", *fed, "destinations/webhook"}
    assert set(request.run_config["ops"]) == {name.replace("/", "__") for name in chosen}


def test_more_than_one_run_takes_are_shared_out_between_the_providers(
    tick: Callable, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wearable_pipeline.orchestration.sensors.LIVE_USERS", 4)
    for number in range(6):
        workspace.registry.add_user("freestyle_libre", user_id=f"f{number}")
    workspace.registry.add_user("nightscout", user_id="n0")
    (request,) = tick("due_users").run_requests
    ops = request.run_config["ops"]
    assert ops["raw__nightscout"]["config"]["limit"] == 1
    assert ops["raw__freestyle_libre"]["config"]["limit"] == 3


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
    assert request.run_config["ops"]["body"]["config"]["scope"] == "touched"


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
    assert request.tags["dagster/asset_partition_range_end"].endswith("|u2")
    config = request.run_config["ops"]["raw__nightscout"]["config"]
    assert (config["user_ids"], config["scope"]) == ([], "all")


@pytest.fixture
def many(
    make_settings: Callable[..., Settings], clock: Callable, instance: dg.DagsterInstance
) -> Iterator[tuple[Callable, Workspace]]:
    """A tick of a lake in eight cohorts with two live lanes, and its workspace."""
    settings = make_settings(cohorts=8, live_lanes=2)
    opener = WorkspaceOpener(settings, clock)
    defs = build_defs(settings, opener)

    def run(name: str) -> dg.SensorResult | dg.SkipReason:
        context = dg.build_sensor_context(instance=instance, resources={"workspace": opener})
        return defs.resolve_sensor_def(name)(context)

    with open_workspace(settings, clock) as opened:
        yield run, opened


def span(request: dg.RunRequest) -> tuple[str, str]:
    tags = request.tags
    return tags["dagster/asset_partition_range_start"], tags["dagster/asset_partition_range_end"]


def test_each_live_lane_has_a_run_over_its_own_cohorts(
    many: tuple[Callable, Workspace], instance: dg.DagsterInstance
) -> None:
    tick, workspace = many
    for number in range(64):
        workspace.registry.add_user("nightscout", user_id=f"u{number}")
    first, second = tick("due_users").run_requests
    assert (first.tags[LANE], second.tags[LANE]) == ("live-0", "live-1")
    assert span(first) == ("2026-11-20|s00", "2026-11-20|s03")
    assert span(second) == ("2026-11-20|s04", "2026-11-20|s07")
    limits = [
        one.run_config["ops"]["raw__nightscout"]["config"]["limit"] for one in (first, second)
    ]
    assert sum(limits) == 64
    instance.create_run_for_job(
        dg.GraphDefinition(name="sync").to_job(),
        tags={LANE: "live-0"},
        status=dg.DagsterRunStatus.STARTED,
    )
    (only,) = tick("due_users").run_requests
    assert only.tags[LANE] == "live-1"


def test_touched_days_nobody_takes_along_are_not_starved_by_live_runs(
    tick: Callable, workspace: Workspace, instance: dg.DagsterInstance, clock: Callable
) -> None:
    workspace.registry.add_user("nightscout", user_id="u1")
    workspace.registry.mark_touched([Touched("body", "u1", date(2025, 1, 1))])
    instance.create_run_for_job(
        dg.GraphDefinition(name="sync").to_job(),
        tags={LANE: "live"},
        status=dg.DagsterRunStatus.STARTED,
    )
    assert isinstance(tick("touched_partitions"), dg.SkipReason)
    clock.advance(minutes=2)
    (request,) = tick("touched_partitions").run_requests
    assert request.tags["dagster/priority"] < "10"


def test_history_of_a_new_user_is_read_window_by_window_and_today_is_not_held_up(
    tick: Callable, workspace: Workspace, clock: Callable
) -> None:
    workspace.registry.add_user("nightscout", user_id="u1")
    (request,) = tick("waiting_history").run_requests
    assert request.tags[LANE] == "backfill"
    assert int(request.tags["dagster/priority"]) < 0
    config = request.run_config["ops"]["raw__nightscout"]["config"]
    # 2026-11-20 is day 739,940 of the calendar, 12 past a multiple of 28: there the window begins.
    assert (config["scope"], config["start"], config["end"]) == (
        "history",
        "2026-11-08",
        "2026-11-20",
    )
    assert span(request) == ("2026-11-08|u1", "2026-11-20|u1")
    assert len(tick("due_users").run_requests) == 1


def test_a_second_run_for_history_waits_for_the_first(
    tick: Callable, workspace: Workspace, instance: dg.DagsterInstance
) -> None:
    workspace.registry.add_user("nightscout", user_id="u1")
    instance.create_run_for_job(
        dg.GraphDefinition(name="sync").to_job(),
        tags={LANE: "backfill"},
        status=dg.DagsterRunStatus.STARTED,
    )
    assert isinstance(tick("waiting_history"), dg.SkipReason)
