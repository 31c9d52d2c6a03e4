"""What sensors ask for, run as the daemon runs it: a run finds its people in the ledger itself."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import polars as pl
import pytest

from wearable_pipeline.connect import connect
from wearable_pipeline.definitions import build_defs
from wearable_pipeline.orchestration import marts
from wearable_pipeline.orchestration.local import run_requested
from wearable_pipeline.orchestration.resources import WorkspaceOpener
from wearable_pipeline.providers import get_provider
from wearable_pipeline.registry import History, Registry, SyncResult, Touched
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.settings import Settings
from wearable_pipeline.workspace import Workspace, open_workspace
from wearable_pipeline_tests.conftest import StandingClock

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with SandboxProcess(now=NOON) as running:
        yield running


class Daemon:
    """Evaluates a sensor and runs what it asks for."""

    def __init__(self, settings: Settings, clock: StandingClock, instance: dg.DagsterInstance):
        self.opener = WorkspaceOpener(settings, clock)
        self.defs = build_defs(settings, self.opener)
        self.instance = instance

    def tick(self, name: str) -> list[dict[str, dict[str, object]]]:
        """Metadata by asset of every run the sensor asked for."""
        context = dg.build_sensor_context(
            instance=self.instance, resources={"workspace": self.opener}
        )
        result = self.defs.resolve_sensor_def(name)(context)
        if isinstance(result, dg.SkipReason):
            return []
        return [
            run_requested(self.instance, self.defs, request).metadata
            for request in result.run_requests
        ]


@pytest.fixture
def home(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(cohorts=4, history_days=20)


@pytest.fixture
def daemon(
    home: Settings, clock: StandingClock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Daemon]:
    # No sensor asks for them, and they are half of what the definitions take to load.
    monkeypatch.setattr(marts, "is_dbt_installed", lambda: False)
    with dg.DagsterInstance.ephemeral() as instance:
        yield Daemon(home, clock, instance)


@pytest.fixture
def workspace(home: Settings, clock: StandingClock) -> Iterator[Workspace]:
    with open_workspace(home, clock) as opened:
        yield opened


def connect_people(
    workspace: Workspace, sandbox: SandboxProcess, names: Sequence[str] = ("dag", "esi")
) -> dict[str, str]:
    tokens = {str(person["name"]): str(person.get("token")) for person in sandbox.people()}
    return {
        name: connect(
            workspace,
            get_provider("nightscout"),
            {"base_url": sandbox.nightscout_url(name), "token": tokens[name]},
            reference_id=name,
        ).user_id
        for name in names
    }


def days_of(workspace: Workspace) -> dict[str, list[str]]:
    rows = pl.read_parquet(f"{workspace.settings.lake}/body/**/*.parquet", hive_partitioning=False)
    return {
        str(user_id): [str(day) for day in sorted(days)]
        for user_id, days in rows.group_by("user_id").agg("local_date").rows()
    }


def test_a_live_run_asks_for_those_who_are_due_when_it_starts(
    daemon: Daemon, workspace: Workspace, sandbox: SandboxProcess, clock: StandingClock
) -> None:
    people = connect_people(workspace, sandbox)
    later = clock() + timedelta(hours=1)
    workspace.registry.record_sync(
        [SyncResult(user_id=people["esi"], attempted_at=clock(), next_due_at=later)]
    )
    # Somebody's old import is no concern of a live run.
    workspace.registry.mark_touched([Touched("body", people["esi"], date(2025, 1, 1))])
    (metadata,) = daemon.tick("due_users")
    assert "raw/freestyle_libre" not in metadata
    assert metadata["raw/nightscout"]["users"] == 1
    found = days_of(workspace)
    assert set(found) == {people["dag"]}
    assert "2026-11-20" in found[people["dag"]]
    assert [str(mark.date) for mark in workspace.registry.touched()] == ["2025-01-01"]
    assert daemon.tick("due_users") == []
    (metadata,) = daemon.tick("touched_partitions")
    assert metadata["body"]["partitions"] == 1
    assert workspace.registry.touched() == []


@pytest.mark.slow
def test_history_is_read_to_its_end_and_the_live_schedule_stays(
    daemon: Daemon, workspace: Workspace, sandbox: SandboxProcess, clock: StandingClock
) -> None:
    people = connect_people(workspace, sandbox)
    daemon.tick("due_users")
    due = {
        user_id: state.next_due_at
        for user_id, state in workspace.registry.load_states(people.values()).items()
    }
    runs = 0
    while runs < 10 and daemon.tick("waiting_history"):
        runs += 1
    # Twenty days before the twentieth: one window to the eighth, one before it.
    assert runs == 2
    assert {one.status for one in workspace.registry.backfill_totals()} == {"done"}
    found = days_of(workspace)
    for user_id in people.values():
        assert found[user_id][0] <= "2026-10-31"
        assert set(found[user_id]) >= {f"2026-11-{day:02d}" for day in range(1, 21)}
    states = workspace.registry.load_states(people.values())
    for user_id, state in states.items():
        assert state.next_due_at is not None
        assert state.next_due_at <= due[user_id]
    assert workspace.registry.touched() == []


@pytest.mark.slow
def test_days_that_are_there_are_not_asked_for_again(
    daemon: Daemon,
    workspace: Workspace,
    sandbox: SandboxProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connect_people(workspace, sandbox, ["dag"])
    while daemon.tick("waiting_history"):
        pass
    sandbox.clear_requests()
    monkeypatch.setattr(Registry, "queue_newcomers", lambda *_: 0)
    day = date(2026, 11, 12)
    users = workspace.registry.find_users()
    workspace.registry.queue_history(
        History(user.user_id, user.provider, day, day) for user in users
    )
    (metadata,) = daemon.tick("waiting_history")
    assert metadata["raw/nightscout"]["users"] == 0
    assert sum(sandbox.requests().values()) == 0


def test_who_comes_back_after_days_has_the_days_between_put_in_line(
    daemon: Daemon, workspace: Workspace, sandbox: SandboxProcess, clock: StandingClock
) -> None:
    people = connect_people(workspace, sandbox)
    workspace.registry.queue_newcomers({"nightscout": 0}, clock().date())
    long_ago = clock() - timedelta(days=5)
    workspace.registry.record_sync(
        [SyncResult(user_id=people["dag"], attempted_at=long_ago, next_due_at=long_ago)]
    )
    daemon.tick("due_users")
    totals = {(one.status, one.users) for one in workspace.registry.backfill_totals()}
    assert totals == {("pending", 1), ("done", 1)}
    (metadata,) = daemon.tick("waiting_history")
    assert metadata["raw/nightscout"]["users"] == 1
    found = days_of(workspace)
    assert set(found[people["dag"]]) >= {f"2026-11-{day}" for day in range(15, 21)}
