"""The sensor over the inbox: a run when something waits, one at a time."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import msgspec
import pytest

from wearable_pipeline.orchestration.inbox import JOB, pushes, take_in_job
from wearable_pipeline.orchestration.resources import WorkspaceOpener
from wearable_pipeline.partitions import Partition
from wearable_pipeline.providers import providers
from wearable_pipeline.raw.push import KeptPush, inbox_root
from wearable_pipeline.settings import Settings
from wearable_pipeline.workspace import open_workspace
from wearable_pipeline_tests.raw.postbox import DAY, make_postbox, note

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def opener(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> WorkspaceOpener:
    monkeypatch.setitem(providers(), "postbox", make_postbox())
    return WorkspaceOpener(make_settings(), lambda: NOW)


def asked(opener: WorkspaceOpener, instance: dg.DagsterInstance) -> int:
    context = dg.build_sensor_context(instance=instance, resources={"workspace": opener})
    result = pushes(context)
    return len(result.run_requests or []) if isinstance(result, dg.SensorResult) else 0


def test_a_run_is_asked_for_while_something_waits_and_empties_the_inbox(
    opener: WorkspaceOpener, tmp_path: Path
) -> None:
    with dg.DagsterInstance.ephemeral(str(tmp_path)) as instance:
        assert asked(opener, instance) == 0
        with opener.open() as workspace:
            hashed = workspace.registry.hash_account("postbox", "acc-1")
            user = workspace.registry.add_user("postbox", account_hash=hashed, credentials={})
            kept = KeptPush(NOW, "POST", {}, {}, msgspec.json.encode([note(1)]))
            workspace.lake.storage.create(
                f"{inbox_root('postbox')}20261120T120000-a.msgpack", msgspec.msgpack.encode([kept])
            )
        assert asked(opener, instance) == 1
        busy = instance.create_run_for_job(take_in_job, status=dg.DagsterRunStatus.STARTED)
        assert busy.job_name == JOB
        assert asked(opener, instance) == 0
        instance.delete_run(busy.run_id)
        result = take_in_job.execute_in_process(
            instance=instance, resources={"workspace": opener}, raise_on_error=True
        )
        assert result.success
        assert asked(opener, instance) == 0
    with open_workspace(opener.settings, opener.now) as workspace:
        cell = Partition(DAY, workspace.lake.scheme.cohort_of(user.user_id))
        assert workspace.lake.raw.read(["postbox"], [cell])["record_id"].to_list() == ["n1"]
        # What it touched is for the sensor of touched partitions; the postbox feeds no table.
        assert workspace.registry.touched(limit=10) == []
