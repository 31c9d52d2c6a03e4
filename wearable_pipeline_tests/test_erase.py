"""Erasing a person: nothing of them is anywhere, and nothing of anybody else has changed."""

import io
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import duckdb
import polars as pl
import pytest
from typer.testing import CliRunner

from wearable_pipeline.cli import app
from wearable_pipeline.destinations.delivery import deliver
from wearable_pipeline.erase import erase_user, find_mentions, sweep_erased
from wearable_pipeline.errors import StorageError, TransientError, UsageError
from wearable_pipeline.lake.catalog import run_query
from wearable_pipeline.lake.compact import compact
from wearable_pipeline.lake.coverage import find_covered
from wearable_pipeline.lake.merged import write_people
from wearable_pipeline.lake.storage import Storage
from wearable_pipeline.model import TABLES
from wearable_pipeline.partitions import Partition
from wearable_pipeline.raw.store import Arrival
from wearable_pipeline.settings import Settings
from wearable_pipeline.tables.update import rebuild, update_table
from wearable_pipeline.workspace import Workspace, open_workspace
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.faults.entries import entry, split

ANN = "ann-0b6b2f0e6f5f"
BOB = "bob-5f0c9d3e2222"
TWIN = "ann-2-7d0b4a539c"  # another connection of Ann's
DAYS = [date(2026, 10, 1), date(2026, 10, 2), date(2026, 11, 19)]
FETCHED = datetime(2026, 11, 20, tzinfo=UTC)


class Filled(NamedTuple):
    """Where three users have readings, and how the lake is cut."""

    home: Path
    cohorts: int | None


@pytest.fixture(scope="module", params=[None, 2], ids=["exact", "cohorts"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """A home with everything in it, made once; tests work on copies."""
    home = tmp_path_factory.mktemp("filled") / "home"
    settings = Settings(_env_file=None, home=home, cohorts=request.param)  # type: ignore[call-arg]
    with open_workspace(settings, StandingClock()) as opened:
        fill(opened)
    return Filled(home, request.param)


@pytest.fixture
def workspace(
    filled: Filled, make_settings: Callable[..., Settings], clock: StandingClock
) -> Iterator[Workspace]:
    settings = make_settings(cohorts=filled.cohorts)
    shutil.copytree(filled.home, settings.home)
    with open_workspace(settings, clock) as opened:
        # A copied file is another one to those that were made of it.
        compact(opened, ["body"])
        yield opened


def fill(workspace: Workspace) -> None:
    """Three users with readings, one of them bad, in every place of the lake."""
    registry = workspace.registry
    registry.add_user("nightscout", user_id=ANN, reference_id="person-1")
    registry.add_user("nightscout", user_id=TWIN, reference_id="person-1")
    registry.add_user("nightscout", user_id=BOB)
    for user_id in (ANN, TWIN, BOB):
        ingest(workspace, user_id)
    cells = {
        Partition(day, workspace.lake.scheme.cohort_of(user))
        for day in DAYS
        for user in (ANN, TWIN, BOB)
    }
    update_table(workspace, "body", cells)
    compact(workspace, ["body"])
    build_marts(workspace)


def ingest(workspace: Workspace, user_id: str, batch: str = "b1") -> None:
    documents = [
        entry(datetime(day.year, day.month, day.day, 12, minute, tzinfo=UTC), 100 + minute)
        for day in DAYS
        for minute in (0, 5, 10)
    ]
    documents.append(entry(datetime(2026, 10, 1, 13, tzinfo=UTC), 5000))  # goes to quarantine
    workspace.lake.raw.append(
        "nightscout",
        [Arrival(user_id, split(documents, FETCHED), FETCHED)],
        batch_id=f"{batch}{user_id[:5]}",
        door="poll",
        before_write=lambda touched: None,
    )


def build_marts(workspace: Workspace) -> None:
    """A mart by user and one by person, in the shapes dbt gives them."""
    storage = workspace.lake.storage
    write_people(
        storage,
        workspace.registry.find_users(),
        partial(workspace.registry.hash_account, "person"),
    )
    people = dict(pl.read_parquet(storage.read("people/part.parquet")).rows())
    users = sorted(people)
    put(storage, "marts/glucose_daily.parquet", pl.DataFrame({"user_id": users, "mean": 100.0}))
    merged = pl.DataFrame(
        {
            "person_id": [people[ANN], people[BOB]],
            "local_date": DAYS[:2],
            "sources": [
                [{"user_id": ANN, "provider": "n"}, {"user_id": TWIN, "provider": "n"}],
                [{"user_id": BOB, "provider": "n"}],
            ],
        }
    )
    put(storage, "marts/daily_merged.parquet", merged)


def put(storage: Storage, path: str, frame: pl.DataFrame) -> None:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    storage.put(path, buffer.getvalue())


def files_mentioning(workspace: Workspace, user_id: str) -> set[str]:
    """Found without the code under test: by path, and in every text of every Parquet file."""
    root = Path(workspace.lake.storage.url)
    found = set()
    for file in root.rglob("*"):
        path = str(file.relative_to(root))
        if not file.is_file() or path.startswith(".storage"):
            continue
        if (
            user_id in path
            or user_id.encode() in file.read_bytes()
            or (file.suffix == ".parquet" and user_id in read_as_text(file))
        ):
            found.add(path)
    return found


def read_as_text(file: Path) -> str:
    frame = pl.read_parquet(file, hive_partitioning=False)
    return repr(frame.to_dicts())


def rows_of(workspace: Workspace, user_id: str) -> list[pl.DataFrame]:
    storage = workspace.lake.storage
    frames = []
    for listed in sorted(storage.list(), key=lambda one: one.path):
        if listed.path.endswith(".parquet"):
            frame = pl.read_parquet(storage.read(listed.path))
            if "user_id" in frame.columns:
                own = frame.filter(user_id=user_id)
                if not own.is_empty():
                    frames.append(own)
    return frames


def test_an_erased_user_is_in_no_file_and_nobody_elses_rows_change(workspace: Workspace) -> None:
    places = {path.split("/")[0] for path in files_mentioning(workspace, ANN)}
    assert places == {"raw", "body", "quarantine", "compact", "marts", "people"}
    bobs = rows_of(workspace, BOB)
    twins = rows_of(workspace, TWIN)

    report = erase_user(workspace, ANN)

    assert report.rewritten > 0
    assert report.scanned > 0
    assert files_mentioning(workspace, ANN) == set()
    for before, after in ((bobs, rows_of(workspace, BOB)), (twins, rows_of(workspace, TWIN))):
        assert len(before) == len(after) > 6
        assert all(a.equals(b) for a, b in zip(before, after, strict=True))
    assert workspace.registry.find_users(user_ids=[ANN]) == []
    actions = [row.action for row in workspace.registry.audit_trail(ANN)]
    assert actions == ["user erased", "lake erased"]
    assert ANN not in str(workspace.registry.audit_trail())
    # The person's merged day is gone until marts are built again; Bob's stands.
    merged = pl.read_parquet(workspace.lake.storage.read("marts/daily_merged.parquet"))
    assert merged["person_id"].to_list() == [BOB]


def test_views_stay_right_and_compact_files_come_back_after_an_erasure(
    workspace: Workspace,
) -> None:
    storage = workspace.lake.storage
    assert [month.month for month in find_covered(storage, TABLES["body"])] == ["2026-10"]
    erase_user(workspace, ANN)

    question = "SELECT user_id, count(*) FROM body_glucose_samples GROUP BY 1 ORDER BY 1"
    expected = sorted([(TWIN, 9), (BOB, 9)])
    assert run_query(storage, question)[1] == expected
    (again,) = compact(workspace, ["body"])
    assert again.files == 2
    assert [month.month for month in find_covered(storage, TABLES["body"])] == ["2026-10"]
    assert run_query(storage, question)[1] == expected
    with duckdb.connect() as connection:
        pattern = f"{storage.url}/compact/body_glucose_samples/**/*.parquet"
        bare = connection.execute(f"SELECT count(*) FROM '{pattern}'").fetchone()
    assert bare == (12,)
    assert files_mentioning(workspace, ANN) == set()


def test_tables_rebuilt_after_an_erasure_are_the_same_bytes(workspace: Workspace) -> None:
    erase_user(workspace, ANN)
    storage = workspace.lake.storage
    before = {one.path: storage.read(one.path) for one in storage.list("body/")}
    rebuild(workspace, ["body"], None, None)
    after = {one.path: storage.read(one.path) for one in storage.list("body/")}
    assert after == before
    assert files_mentioning(workspace, ANN) == set()


def test_a_broken_off_erasure_is_finished_by_the_same_command(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def stop(storage: Storage, original: Callable[..., object], *arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return original(storage, *arguments)

    with monkeypatch.context() as patch:
        for name in ("replace", "delete_many"):
            original = getattr(type(workspace.lake.storage), name)
            patch.setattr(
                type(workspace.lake.storage),
                name,
                lambda self, *a, original=original: stop(self, original, *a),
            )
        with pytest.raises(KeyboardInterrupt):
            erase_user(workspace, ANN)
    assert files_mentioning(workspace, ANN) != set()
    report = erase_user(workspace, ANN)
    assert set(report.registry.values()) == {0}
    assert files_mentioning(workspace, ANN) == set()


def test_what_a_run_on_its_way_wrote_after_is_found_by_the_sweep(
    workspace: Workspace, clock: StandingClock
) -> None:
    # Files are dated by the machine, erasures by the clock of the workspace.
    clock.at = datetime.now(UTC)
    assert sweep_erased(workspace) == {}
    erase_user(workspace, ANN)
    assert sweep_erased(workspace) == {}
    ingest(workspace, ANN, "late")
    update_table(workspace, "body", [Partition(DAYS[0], workspace.lake.scheme.cohort_of(ANN))])
    assert files_mentioning(workspace, ANN) != set()
    assert list(sweep_erased(workspace)) == [ANN]
    assert files_mentioning(workspace, ANN) == set()
    assert len(rows_of(workspace, BOB)) > 6


def test_data_of_users_the_registry_does_not_know_are_not_swept_unless_they_were_erased(
    workspace: Workspace, clock: StandingClock
) -> None:
    clock.at = datetime.now(UTC)
    erase_user(workspace, ANN)
    ingest(workspace, "somebody-restored", "late")
    assert sweep_erased(workspace) == {}
    assert files_mentioning(workspace, "somebody-restored") != set()


def test_a_run_that_keeps_writing_is_told_of(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wearable_pipeline.erase._rewrite", lambda *arguments: None)
    monkeypatch.setattr(type(workspace.lake.storage), "delete_many", lambda self, paths: None)
    with pytest.raises(StorageError, match="keep mentioning"):
        erase_user(workspace, ANN)


def test_an_id_that_is_part_of_anothers_is_not_a_mention(workspace: Workspace) -> None:
    storage = workspace.lake.storage
    assert find_mentions(storage, "ann", storage.list()) == []
    assert find_mentions(storage, ANN[:-1], storage.list()) == []


def test_a_file_replaced_meanwhile_is_looked_into_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = workspace.lake.storage
    path = "people/part.parquet"
    original = type(storage).replace
    met: list[str] = []

    def overtaken(self: Storage, name: str, data: bytes, expected: str | None) -> str:
        if name == path and not met:
            met.append(name)
            self.put(name, self.read(name))
        return original(self, name, data, expected)

    monkeypatch.setattr(type(storage), "replace", overtaken)
    erase_user(workspace, ANN)
    assert met == [path]
    assert files_mentioning(workspace, ANN) == set()
    assert sorted(pl.read_parquet(storage.read(path))["user_id"]) == sorted([BOB, TWIN])


@pytest.fixture
def with_database(
    tmp_path: Path, make_settings: Callable[..., Settings], clock: StandingClock
) -> Iterator[Workspace]:
    """A lake whose rows are delivered to a database."""
    described = tmp_path / "destinations.toml"
    described.write_text(
        f'[warehouse]\nkind = "sql"\nurl = "sqlite:///{tmp_path}/warehouse.sqlite"\ntimeout_seconds = 1\n'
    )
    with open_workspace(make_settings(destinations_file=described), clock) as opened:
        fill(opened)
        assert deliver(opened, "warehouse").parked == 0
        yield opened


def bytes_of(path: Path) -> bytes:
    with sqlite3.connect(path) as database:
        return "\n".join(database.iterdump()).encode()


def test_what_destinations_have_is_withdrawn_before_the_ledger_forgets(
    with_database: Workspace, tmp_path: Path
) -> None:
    before = bytes_of(tmp_path / "warehouse.sqlite")
    assert before.count(ANN.encode()) > 3
    report = erase_user(with_database, ANN)
    assert report.withdrawn == {"warehouse": len(DAYS)}
    assert report.deleted + report.rewritten > 0
    actions = [row.action for row in with_database.registry.audit_trail(ANN)]
    assert {"user erased", "lake erased"} <= set(actions)
    after = bytes_of(tmp_path / "warehouse.sqlite")
    assert after.count(BOB.encode()) == before.count(BOB.encode())
    # Only that these days were withdrawn, so that nothing late brings them back.
    with sqlite3.connect(tmp_path / "warehouse.sqlite") as database:
        kept = database.execute(
            "select user_id, sum(is_deleted) from wearable_revisions where user_id = ?", [ANN]
        ).fetchall()
        rows = database.execute("select count(*) from wearable_body where user_id = ?", [ANN])
        assert rows.fetchone() == (0,)
    assert kept == [(ANN, len(DAYS))]
    assert files_mentioning(with_database, ANN) == set()
    assert deliver(with_database, "warehouse").delivered == 0


def test_a_destination_that_takes_no_withdrawal_stops_the_erasure_and_keeps_the_ledger(
    with_database: Workspace, tmp_path: Path
) -> None:
    database = sqlite3.connect(tmp_path / "warehouse.sqlite")
    database.execute("begin immediate")
    with pytest.raises(TransientError, match=r"warehouse: 3 rows .* --keep-delivered"):
        erase_user(with_database, ANN)
    database.rollback()
    database.close()
    assert with_database.registry.get_user(ANN).status == "disconnected"
    actions = [row.action for row in with_database.registry.audit_trail(ANN)]
    assert "lake erased" in actions
    assert "user erased" not in actions
    report = erase_user(with_database, ANN, withdraws=False)
    assert report.withdrawn == {}
    assert files_mentioning(with_database, ANN) == set()


def test_a_destination_nobody_has_configured_any_more_is_named(
    with_database: Workspace, make_settings: Callable[..., Settings], clock: StandingClock
) -> None:
    with (
        open_workspace(make_settings(), clock) as opened,
        pytest.raises(UsageError, match=r"warehouse: .* not configured any more"),
    ):
        erase_user(opened, ANN)
    assert with_database.registry.get_user(ANN).status == "connected"


def test_a_destination_that_never_got_anything_is_not_asked(
    tmp_path: Path, make_settings: Callable[..., Settings], clock: StandingClock
) -> None:
    described = tmp_path / "destinations.toml"
    described.write_text(f'[warehouse]\nkind = "sql"\nurl = "sqlite:///{tmp_path}/w.sqlite"\n')
    with open_workspace(make_settings(destinations_file=described), clock) as opened:
        fill(opened)
    with open_workspace(make_settings(), clock) as opened:
        assert opened.registry.deliveries("warehouse", [ANN])
        assert erase_user(opened, ANN).withdrawn == {}
        assert files_mentioning(opened, ANN) == set()


def test_the_command_asks_first_and_tells_what_it_did(
    make_settings: Callable[..., Settings], clock: StandingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings()
    with open_workspace(settings, clock) as opened:
        fill(opened)
    monkeypatch.setenv("WEARABLE_HOME", str(settings.home))
    runner = CliRunner()
    mistyped = runner.invoke(app, ["users", "erase", "ann-0b6b2f0e6f50", "--yes"])
    assert "there was no user ann-0b6b2f0e6f50" in mistyped.output
    refused = runner.invoke(app, ["users", "erase", ANN], input="n\n")
    assert refused.exit_code == 1
    with open_workspace(settings, clock) as opened:
        assert files_mentioning(opened, ANN) != set()
    done = runner.invoke(app, ["users", "erase", ANN, "--yes"])
    assert done.exit_code == 0
    assert "mentions the user" in done.output
    with open_workspace(settings, clock) as opened:
        assert files_mentioning(opened, ANN) == set()
