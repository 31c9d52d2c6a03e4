"""The nightly lane: the second tree, retention, the sweep for erased people."""

from collections.abc import Callable, Iterator

import dagster as dg
import pytest

from wearable_pipeline.definitions import build_defs
from wearable_pipeline.lake.coverage import find_covered
from wearable_pipeline.model import TABLES
from wearable_pipeline.orchestration.jobs import LANE
from wearable_pipeline.orchestration.resources import WorkspaceOpener
from wearable_pipeline.settings import Settings
from wearable_pipeline.workspace import open_workspace
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.lake.test_compact import fill


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def test_the_nightly_job_compacts_and_says_what_it_did(
    make_settings: Callable[..., Settings], clock: StandingClock, instance: dg.DagsterInstance
) -> None:
    settings = make_settings()
    with open_workspace(settings, clock) as opened:
        fill(opened.lake.storage)
    job = build_defs(settings, WorkspaceOpener(settings, clock)).resolve_job_def("maintenance")
    assert job.tags[LANE] == "maintenance"
    assert int(job.tags["dagster/priority"]) < 0
    done = job.execute_in_process(instance=instance)
    assert done.success
    told = {
        made.asset_key.to_user_string(): made.metadata
        for event in done.get_asset_materialization_events()
        for made in [event.step_materialization_data.materialization]
    }
    assert told["compact/body"]["files_written"].value == 4
    assert told["compact/body"]["left_alone"].value is False
    assert told["retention"]["tables_files"].value == 0
    assert told["erasure_sweep"]["users"].value == 0
    with open_workspace(settings, clock) as opened:
        months = [month.month for month in find_covered(opened.lake.storage, TABLES["body"])]
    assert months == ["2026-09", "2026-10"]
