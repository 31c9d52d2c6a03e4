"""The demonstration, as `make demo` runs it."""

import hashlib
import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import duckdb
import httpx
import msgspec
import pytest

from wearable_pipeline.demo import State, demo_world, run_demo, state_file
from wearable_pipeline.orchestration import marts
from wearable_pipeline.settings import load_settings
from wearable_pipeline.settings import settings as cached_settings

# Groups come first: started last, the longest of all would keep one core waiting for it.
pytestmark = pytest.mark.xdist_group("demo")

PEOPLE = {"ada", "bo", "cleo", "dag", "esi", "finn"}


@pytest.fixture
def ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEARABLE_HOME", str(tmp_path / "home"))
    # The demo sets these for its process: name them, so that they are taken back.
    for name in ("FREESTYLE_LIBRE_BASE_URL", "WEBHOOK_URL", "WEBHOOK_SECRET"):
        monkeypatch.setenv(f"WEARABLE_{name}", "")
    # The demo runs no mart, and they are half of what the definitions take to load for every run.
    monkeypatch.setattr(marts, "is_dbt_installed", lambda: False)
    monkeypatch.setenv("DAGSTER_HOME", "")
    os.environ.pop("DAGSTER_HOME")
    yield tmp_path / "home"
    cached_settings.cache_clear()


def hashes(lake: Path) -> dict[str, str]:
    return {
        str(file.relative_to(lake)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(lake.rglob("*.parquet"))
    }


@pytest.mark.slow
def test_the_demo_shows_everybody_and_a_second_run_changes_nothing(
    home: Path, ports: tuple[int, int]
) -> None:
    first = run_demo(1, lambda stage, done: None, ports)
    assert set(first.names.values()) == PEOPLE
    assert {first.names[str(row["user_id"])] for row in first.rows} == PEOPLE
    assert first.deliveries["pending"] == 0
    assert first.deliveries["parked"] == 0
    assert first.received >= first.deliveries["delivered"] > 0
    assert first.quarantined == {}
    assert first.lag is not None
    # Everything but the age of the reading at the source is ours, and far below five minutes.
    assert first.lag.fetch + first.lag.lake + first.lag.delivery < 60
    live = [user for user, name in first.names.items() if name != "finn"]
    ages = [(first.now - at).total_seconds() for u in live if (at := first.newest[u])]
    assert len(ages) == 5
    assert sorted(ages)[2] < 300
    before = hashes(home / "lake")

    second = run_demo(1, lambda stage, done: None, ports)
    assert hashes(home / "lake") == before
    assert second.rows == first.rows
    assert second.received == 0
    assert second.deliveries == first.deliveries

    glob = f"{home}/lake/body/**/*.parquet"
    with duckdb.connect() as reader:
        counted = reader.execute(
            "select count(*), count(distinct (user_id, local_date))"
            f" from read_parquet('{glob}', hive_partitioning=true)"
        ).fetchone()
    assert counted == (sum(int(str(row["days"])) for row in first.rows),) * 2

    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("body"))
        assert event is not None
        made = event.asset_materialization
        assert made is not None
        assert {"dagster/row_count", "newest_reading", "preview", "glucose", "samples"} <= set(
            made.metadata
        )
        runs = instance.get_runs()
        assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
    assert json.loads((home / "demo.json").read_text())["sandbox_url"].endswith(str(ports[0]))


def test_the_demos_people_are_asked_for_at_its_sandbox_and_nowhere_else(
    home: Path, ports: tuple[int, int]
) -> None:
    home.mkdir()
    sandbox, receiver = (f"http://127.0.0.1:{port}" for port in ports)
    with demo_world(load_settings()) as nobody:
        assert nobody is None
        assert not load_settings().provider("freestyle_libre").base_url
    state = State(datetime(2026, 11, 20, 12, tzinfo=UTC), sandbox, receiver)
    state_file(load_settings()).write_bytes(msgspec.json.encode(state))
    with demo_world(load_settings()):
        # Another command meanwhile finds the servers of the first.
        with demo_world(load_settings()) as found:
            assert found == state
        base_url = load_settings().provider("freestyle_libre").base_url
        assert base_url == f"{sandbox}/libre/{{region}}"
        people = httpx.get(f"{sandbox}/control/people", trust_env=False)
        assert people.status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{sandbox}/control/people", trust_env=False)
