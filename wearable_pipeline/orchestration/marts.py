"""Assets `people` and `marts/<name>`: what dbt makes of the tables, as files in the lake.

Without the `dbt` extra there are no marts, and everything else works. Dagster reads the project
from `manifest.json`, which is rendered and committed; dbt itself starts only when marts are built.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import dagster as dg

from wearable_pipeline.lake.merged import PEOPLE, PEOPLE_COLUMNS, write_people
from wearable_pipeline.orchestration.resources import WorkspaceOpener

if TYPE_CHECKING:
    from dagster_dbt import DagsterDbtTranslator

GROUP = "marts"
MARTS = "marts"
TARGET = "dagster"

_PACKAGE = Path(__file__).parents[1]
# In a wheel the project lies inside the package, in a checkout beside it.
_PLACES = (_PACKAGE / "dbt_project", _PACKAGE.parent / "dbt_project")


def find_project() -> Path | None:
    """The dbt project that came with this package, or None."""
    return next((place for place in _PLACES if (place / "manifest.json").is_file()), None)


def is_dbt_installed() -> bool:
    """Whether the `dbt` extra is there; looks without importing it."""
    try:
        for name in ("dagster-dbt", "dbt-duckdb"):
            distribution(name)
    except PackageNotFoundError:
        return False
    return True


def build_marts(owners: Sequence[str], source_priority: Sequence[str] = ()) -> dg.Definitions:
    """Assets, job and schedule of the marts, to be merged with the rest; none where dbt is missing.

    `source_priority` is the order in which sources count in merged days, by default the catalog's.
    """
    project = find_project()
    if project is None or not is_dbt_installed():
        return dg.Definitions()
    job = dg.define_asset_job(
        MARTS,
        selection=dg.AssetSelection.groups(GROUP),
        description="Build the marts anew from the tables as they are.",
        executor_def=dg.in_process_executor,
    )
    schedule = dg.ScheduleDefinition(
        name="hourly_marts",
        job=job,
        cron_schedule="41 * * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Once an hour: build the marts anew.",
    )
    assets = [_build_people(owners), _build_dbt_assets(project, owners, source_priority)]
    return dg.Definitions(assets=assets, jobs=[job], schedules=[schedule])


def _build_people(owners: Sequence[str]) -> dg.AssetsDefinition:
    @dg.asset(
        key=[PEOPLE],
        description="Which users are one person: users of one reference id, under an opaque name.",
        group_name=GROUP,
        kinds={"parquet"},
        owners=list(owners),
        metadata={
            "dagster/column_schema": dg.TableSchema(
                [
                    dg.TableColumn(column.name, str(column.dtype), column.description)
                    for column in PEOPLE_COLUMNS
                ]
            )
        },
    )
    def people(workspace: dg.ResourceParam[WorkspaceOpener]) -> dg.MaterializeResult[Any]:
        with workspace.open() as opened:
            rows = write_people(
                opened.lake.storage,
                opened.registry.find_users(),
                partial(opened.registry.hash_account, "person"),
            )
            return dg.MaterializeResult(metadata={"dagster/row_count": rows})

    return people


def _build_dbt_assets(
    project: Path, owners: Sequence[str], source_priority: Sequence[str]
) -> dg.AssetsDefinition:
    from dagster_dbt import DbtCliResource, dbt_assets

    @dbt_assets(
        manifest=project / "manifest.json",
        select="fqn:wearable.marts",
        dagster_dbt_translator=_make_translator(owners),
        name="dbt_marts",
    )
    def dbt_marts(
        context: dg.AssetExecutionContext, workspace: dg.ResourceParam[WorkspaceOpener]
    ) -> Iterator[Any]:
        with workspace.open() as opened:
            # Said in full: dbt changes into its project, where a relative home is another one.
            lake_url = opened.lake.storage.url
        variables = {"lake_url": lake_url, "source_priority": list(source_priority)}
        dbt = DbtCliResource(
            project_dir=project,
            profiles_dir=project,
            target=TARGET,
            dbt_executable=Path(sys.executable).with_name("dbt"),
        )
        # The project may lie where nobody may write.
        with TemporaryDirectory() as target:
            invocation = dbt.cli(
                ["build", "--vars", json.dumps(variables)],
                context=context,
                target_path=Path(target),
            )
            yield from invocation.stream()

    return dbt_marts


def _make_translator(owners: Sequence[str]) -> "DagsterDbtTranslator":
    from dagster_dbt import DagsterDbtTranslator

    class Translator(DagsterDbtTranslator):
        """Sources are the tables' own assets; marts are named by their place in the lake."""

        def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
            name = dbt_resource_props["name"]
            is_source = dbt_resource_props["resource_type"] == "source"
            return dg.AssetKey([name] if is_source else [MARTS, name])

        def get_description(self, dbt_resource_props: Mapping[str, Any]) -> str:
            return str(dbt_resource_props["description"])

        def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str | None:
            return GROUP

        def get_owners(self, dbt_resource_props: Mapping[str, Any]) -> Sequence[str] | None:
            return owners

    return Translator()
