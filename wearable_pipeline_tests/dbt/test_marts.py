"""Marts as Dagster assets."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from wearable_pipeline.lake.merged import PEOPLE_PATH
from wearable_pipeline.lake.storage import Storage
from wearable_pipeline.model import TABLES
from wearable_pipeline.orchestration import marts
from wearable_pipeline.orchestration.marts import build_marts, find_project, is_dbt_installed
from wearable_pipeline.orchestration.resources import WorkspaceOpener
from wearable_pipeline.settings import Settings
from wearable_pipeline.workspace import open_workspace
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.lake.rows import USER, full_row, write_rows

# One worker: what dbt has parsed once, and the lake it built, serve all tests.
pytestmark = pytest.mark.xdist_group("dbt")

OWNERS = ["team:data"]


def specs() -> dict[str, dg.AssetSpec]:
    assets = build_marts(OWNERS).assets or ()
    return {
        spec.key.to_user_string(): spec
        for definition in assets
        if isinstance(definition, dg.AssetsDefinition)
        for spec in definition.specs
    }


def test_marts_stand_downstream_of_the_tables() -> None:
    found = specs()

    assert set(found) == {"people", "marts/daily_merged", "marts/glucose_daily"}
    upstream = {
        key: {dep.asset_key.to_user_string() for dep in spec.deps} for key, spec in found.items()
    }
    assert upstream == {
        "people": set(),
        "marts/daily_merged": {"daily", "people"},
        "marts/glucose_daily": {"body"},
    }


def test_marts_show_what_they_are() -> None:
    for key, spec in specs().items():
        assert spec.group_name == "marts"
        assert spec.owners == OWNERS
        assert spec.description
        assert spec.partitions_def is None
        if key != "people":
            assert spec.kinds == {"dbt", "duckdb"}
    schema = specs()["marts/glucose_daily"].metadata["dagster/column_schema"]
    assert isinstance(schema, dg.TableSchema)
    assert all(column.description for column in schema.columns)


def test_every_test_of_a_mart_is_a_check() -> None:
    checks = {
        check.name
        for definition in build_marts(OWNERS).assets or ()
        if isinstance(definition, dg.AssetsDefinition)
        for check in definition.check_specs
    }

    assert checks == {
        f"{mart}_{test}"
        for mart in ("daily_merged", "glucose_daily")
        for test in ("unique_key", "never_null", "within_bounds")
    }


def test_one_job_builds_all_marts_once_an_hour() -> None:
    definitions = dg.Definitions.merge(
        build_marts(OWNERS), dg.Definitions(resources={"workspace": WorkspaceOpener()})
    )

    job = definitions.resolve_job_def("marts")
    assert {node.name for node in job.nodes} == {"people", "dbt_marts"}
    (schedule,) = definitions.schedules or ()
    assert isinstance(schedule, dg.ScheduleDefinition)
    assert schedule.cron_schedule == "41 * * * *"
    assert schedule.job_name == "marts"


@pytest.mark.parametrize("missing", ["find_project", "is_dbt_installed"])
def test_without_dbt_there_are_no_marts_and_no_error(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marts, missing, lambda: None)

    definitions = build_marts(OWNERS)

    assert not definitions.assets
    assert not definitions.jobs
    assert not definitions.schedules


def test_the_project_is_found_in_a_checkout_and_in_a_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_dbt_installed()
    project = find_project()
    assert project is not None
    assert (project / "dbt_project.yml").is_file()
    inside = tmp_path / "dbt_project"
    inside.mkdir()
    monkeypatch.setattr(marts, "_PLACES", (inside, project))
    assert find_project() == project
    (inside / "manifest.json").touch()
    assert find_project() == inside


@pytest.mark.slow
def test_the_job_builds_marts_of_what_the_lake_holds(
    make_settings: Callable[..., Settings], clock: StandingClock
) -> None:
    settings = make_settings()
    with open_workspace(settings, clock) as workspace:
        workspace.registry.add_user("nightscout", reference_id="anna@example.org", user_id=USER)
        write_rows(workspace.lake.storage, "body", [full_row(TABLES["body"])])
        write_rows(workspace.lake.storage, "daily", [full_row(TABLES["daily"])])
    definitions = dg.Definitions.merge(
        build_marts(OWNERS),
        dg.Definitions(resources={"workspace": WorkspaceOpener(settings, clock)}),
    )

    result = definitions.resolve_job_def("marts").execute_in_process(
        instance=dg.DagsterInstance.ephemeral()
    )

    assert result.success
    checks = result.get_asset_check_evaluations()
    assert len(checks) == 6
    assert all(check.passed for check in checks)
    storage = Storage.open(settings.lake, settings)
    people = pl.read_parquet(storage.read(PEOPLE_PATH))
    ((user_id, person_id),) = people.rows()
    assert user_id == USER
    assert "anna" not in person_id
    assert person_id != USER
    merged = pl.read_parquet(storage.read("marts/daily_merged.parquet"))
    assert merged["person_id"].to_list() == [person_id]
    # The sensor's reading of 5; the scan of 6 a minute later is left out beside it.
    glucose = pl.read_parquet(storage.read("marts/glucose_daily.parquet"))
    assert glucose["mean_glucose_mg_per_dl"].to_list() == [5.0]
