"""What age lets go: by default nothing, else what the settings say and no day more."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import pytest
from typer.testing import CliRunner

from wearable_pipeline.cli import app
from wearable_pipeline.errors import UsageError
from wearable_pipeline.lake.catalog import run_query
from wearable_pipeline.lake.compact import compact_table
from wearable_pipeline.lake.layout import quarantine_path, table_path
from wearable_pipeline.lake.retention import Rules, apply_retention
from wearable_pipeline.model import TABLES
from wearable_pipeline.partitions import Partition
from wearable_pipeline.registry import PartitionResult
from wearable_pipeline.settings import Settings
from wearable_pipeline.workspace import Workspace, open_workspace
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.lake.rows import full_row, write_rows

# The standing clock shows 20 November 2026: 30 days back is 21 October, the oldest day kept.
KEPT, GONE, OLD = date(2026, 10, 21), date(2026, 10, 20), date(2026, 8, 1)


def fill(workspace: Workspace) -> None:
    storage, registry = workspace.lake.storage, workspace.registry
    row = full_row(TABLES["body"]) | {"user_id": "ann"}
    write_rows(storage, "body", [row | {"local_date": day} for day in (OLD, GONE, KEPT)])
    registry.add_user("nightscout", user_id="ann")
    for day in (OLD, GONE, KEPT):
        cell = Partition(day, "ann")
        storage.put(quarantine_path("body", cell), storage.read(table_path("body", cell)))
        storage.put(f"raw/nightscout/date={day}/user=ann/a.parquet", b"segment")
        registry.record_partitions(
            [
                PartitionResult(
                    user_id="ann",
                    provider="nightscout",
                    table="body",
                    date=day,
                    status="ok",
                    code_version="v1",
                )
            ]
        )
    compact_table(storage, "body", date(2026, 11, 20), after_days=3, file_bytes=10**9)


def with_settings(workspace: Workspace, settings: Settings) -> Workspace:
    return Workspace(settings, workspace.registry, workspace.lake, workspace.now)


def days_left(workspace: Workspace, root: str) -> set[date]:
    return {
        date.fromisoformat(entry.path.split("date=")[1][:10])
        for entry in workspace.lake.storage.list(root)
    }


def test_nothing_goes_by_default(workspace: Workspace) -> None:
    fill(workspace)
    before = [entry.path for entry in workspace.lake.storage.list()]
    found = apply_retention(workspace, dry_run=False)
    assert {kind: expired.files for kind, expired in found.items()} == {
        "tables": 0,
        "quarantine": 0,
        "compact": 0,
        "raw": 0,
    }
    assert [entry.path for entry in workspace.lake.storage.list()] == before
    assert workspace.registry.audit_trail() == []


def test_a_dry_run_tells_what_would_go_and_leaves_it(
    workspace: Workspace, make_settings: Callable[..., Settings]
) -> None:
    fill(workspace)
    before = [entry.path for entry in workspace.lake.storage.list()]
    old = with_settings(workspace, make_settings(tables_keep_days=30, raw_keep_days=60))
    found = apply_retention(old, dry_run=True)
    assert (found["tables"].files, found["tables"].oldest, found["tables"].newest) == (2, OLD, GONE)
    assert found["quarantine"].files == 2
    # Sixty days back is 21 September.
    assert (found["raw"].files, found["raw"].newest) == (1, OLD)
    assert {path.split("/")[2] for path in found["compact"].paths} == {"month=2026-08"}
    assert [entry.path for entry in workspace.lake.storage.list()] == before
    assert workspace.registry.audit_trail() == []


def test_what_is_too_old_goes_and_the_ledger_forgets_it(
    workspace: Workspace, make_settings: Callable[..., Settings]
) -> None:
    fill(workspace)
    old = with_settings(workspace, make_settings(tables_keep_days=30, raw_keep_days=60))
    apply_retention(old, dry_run=False)
    assert days_left(workspace, "body/") == {KEPT}
    assert days_left(workspace, "quarantine/body/") == {KEPT}
    assert days_left(workspace, "raw/") == {GONE, KEPT}
    assert [row.date for row in workspace.registry.partitions()] == [KEPT]
    [line] = workspace.registry.audit_trail()
    assert line.action == "retention"
    assert line.detail["tables"] == 2
    # October is compact as it was with the day that went: the view no longer believes it.
    _, rows = run_query(workspace.lake.storage, "SELECT local_date FROM body")
    assert rows == [(KEPT,)]
    storage = workspace.lake.storage
    done = compact_table(storage, "body", date(2026, 11, 20), after_days=3, file_bytes=10**9)
    assert done.rows == 1
    assert apply_retention(old, dry_run=False)["tables"].files == 0


def test_raw_is_never_let_go_before_the_rows_made_of_it() -> None:
    for rules in ((30, None), (30, 31)):
        with pytest.raises(UsageError, match="WEARABLE_TABLES_KEEP_DAYS"):
            Rules(*rules)
    assert Rules(30, 30).tables_days == 30
    assert Rules(None, 30).raw_days is None


def test_the_second_tree_goes_when_it_is_switched_off(
    workspace: Workspace, make_settings: Callable[..., Settings]
) -> None:
    fill(workspace)
    off = with_settings(workspace, make_settings(keep_compact=False))
    assert apply_retention(off, dry_run=False)["compact"].files > 0
    assert list(workspace.lake.storage.list("compact/")) == []
    assert days_left(workspace, "body/") == {OLD, GONE, KEPT}
    _, rows = run_query(workspace.lake.storage, "SELECT count(*) FROM body")
    assert rows == [(3,)]


def test_the_commands_compact_and_show_what_would_go(
    make_settings: Callable[..., Settings], clock: StandingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings()
    clock.at = datetime.now(UTC)
    with open_workspace(settings, clock) as opened:
        row = full_row(TABLES["body"]) | {"user_id": "ann"}
        long_ago = clock.at.date() - timedelta(days=400)
        write_rows(opened.lake.storage, "body", [row | {"local_date": long_ago}])
    monkeypatch.setenv("WEARABLE_HOME", str(settings.home))
    runner = CliRunner()
    done = runner.invoke(app, ["compact", "--table", "body", "--json"])
    assert done.exit_code == 0, done.output
    assert '"rows":1' in done.output
    refused = runner.invoke(app, ["compact", "--table", "blood"])
    assert refused.exit_code == 2
    monkeypatch.setenv("WEARABLE_TABLES_KEEP_DAYS", "30")
    shown = runner.invoke(app, ["retention", "--dry-run", "--json"])
    assert shown.exit_code == 0, shown.output
    assert '"dry_run":true' in shown.output
    assert f'"oldest":"{long_ago}"' in shown.output
    with open_workspace(settings, clock) as opened:
        assert days_left(opened, "body/") == {long_ago}
    monkeypatch.setenv("WEARABLE_RAW_KEEP_DAYS", "7")
    assert runner.invoke(app, ["retention"]).exit_code == 2
