"""Runs as commands start them: the real job, a real instance, the sandbox over HTTP."""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from wearable_pipeline.connect import connect
from wearable_pipeline.orchestration import marts
from wearable_pipeline.orchestration.instance import open_instance, prepare_dagster_home
from wearable_pipeline.orchestration.jobs import NORMALIZE, SYNC
from wearable_pipeline.orchestration.local import run_job
from wearable_pipeline.orchestration.resources import WorkspaceOpener
from wearable_pipeline.providers import get_provider
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.settings import Settings
from wearable_pipeline.workspace import open_workspace

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
FIRST, LAST = date(2026, 11, 19), date(2026, 11, 20)
PROVENANCE = ["user_id", "batch_ids", "first_seen_at", "updated_at"]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with SandboxProcess(now=NOON) as running:
        yield running


@pytest.fixture(autouse=True)
def no_marts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No run here makes them, and they are half of what the definitions take to load for every run."""
    monkeypatch.setattr(marts, "is_dbt_installed", lambda: False)


def sync(settings: Settings, sandbox: SandboxProcess) -> tuple[pl.DataFrame, list[str]]:
    """Rows of body after a sync of two people, and the keys Dagster saw materialized."""

    def now() -> datetime:
        return NOON

    with open_workspace(settings, now) as workspace:
        for name in ("dag", "esi"):
            connect(
                workspace,
                get_provider("nightscout"),
                {"base_url": sandbox.nightscout_url(name), "token": token_of(sandbox, name)},
                reference_id=name,
            )
        users = [user.user_id for user in workspace.registry.find_users()]
        opener = WorkspaceOpener(settings, now)
        (summary,) = run_job(opener, workspace, SYNC, users, FIRST, LAST)
        assert summary.metadata["raw/nightscout"]["users"] == 2
        assert [name for name in summary.metadata if name.startswith("raw/")] == ["raw/nightscout"]
        assert workspace.registry.touched() == []
        again = run_job(opener, workspace, NORMALIZE, users, LAST, LAST)
        assert again[0].metadata["body"]["partitions_rewritten"] == 0
    with open_instance(settings) as instance:
        keys = sorted(instance.get_materialized_partitions(dg.AssetKey("body")))
    rows = pl.read_parquet(f"{settings.home}/lake/body/**/*.parquet", hive_partitioning=True)
    return rows, keys


def token_of(sandbox: SandboxProcess, name: str) -> str:
    return next(str(person["token"]) for person in sandbox.people() if person["name"] == name)


def test_a_partition_per_user_and_shards_of_users_give_the_same_rows(
    make_settings: Callable[..., Settings], tmp_path: Path, sandbox: SandboxProcess
) -> None:
    exact, exact_keys = sync(make_settings(), sandbox)
    shards = make_settings(cohorts=2).model_copy(update={"home": tmp_path / "sharded"})
    sharded, sharded_keys = sync(shards, sandbox)
    users = sorted(set(exact["user_id"]))
    assert exact_keys == [f"2026-11-{d}|{user}" for d in (19, 20) for user in users]
    assert {key.split("|")[1] for key in sharded_keys} <= {"s00", "s01"}

    def content(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.drop(*PROVENANCE, "date", "user").sort("start_at")

    assert_frame_equal(content(exact), content(sharded))
    # Two people, every five minutes: two days and a bit, at most 288 readings each.
    assert exact.height >= 4
    assert exact["glucose_blood_glucose_samples"].list.len().max() <= 288 * 2


def test_the_dagster_home_is_made_once_and_keeps_what_the_person_changed(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings()
    home = prepare_dagster_home(settings)
    own = (home / "dagster.yaml").read_text() + "\n# mine\n"
    (home / "dagster.yaml").write_text(own)
    prepare_dagster_home(settings)
    assert (home / "dagster.yaml").read_text() == own
