"""Two processes doing the same work at the same time leave what one would have left."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from wearable_pipeline.registry import User
from wearable_pipeline.sandbox import people as sandbox_people
from wearable_pipeline.sandbox.receiver import Receiver
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.faults.cast import NOW, cgm_of, each_once, glob_body, sync
from wearable_pipeline_tests.faults.conftest import SECRET, OpenHome
from wearable_pipeline_tests.faults.test_kills import (
    AFTER_CLAIMS,
    assert_nothing_lost_or_doubled,
    prepare_sync,
)


def test_two_processes_polling_the_same_people_at_once_leave_each_reading_once(
    home_settings: Settings,
    open_home: OpenHome,
    people: dict[str, User],
    receiver: Receiver,
    sandbox: SandboxProcess,
    clock: StandingClock,
) -> None:
    some = {name: people[name] for name in ("cleo", "dag")}
    running = [prepare_sync(home_settings, receiver, some, NOW) for _ in range(2)]
    for child in running:
        child.begin()
    for child in running:
        told = child.listen()
        assert (told, child.process.exitcode) == (["done"], 0), told
    clock.at = NOW + AFTER_CLAIMS
    with open_home() as workspace:
        sync(workspace, some.values(), days=0)
        assert_nothing_lost_or_doubled(workspace, some, receiver)


def test_a_killed_command_is_finished_by_the_next_one(
    home_settings: Settings,
    open_home: OpenHome,
    people: dict[str, User],
    receiver: Receiver,
    sandbox: SandboxProcess,
) -> None:
    """The command line itself, Dagster run and all, on the wall clock."""
    sandbox.set_clock(None)
    user = people["dag"]
    command = [
        str(Path(sys.executable).with_name("wearable-pipeline")),
        *("sync", "--user", user.user_id, "--json"),
        *("--start", datetime.now(UTC).date().isoformat()),
    ]
    environment = {
        **os.environ,
        "WEARABLE_HOME": str(home_settings.home),
        "WEARABLE_WEBHOOK_URL": receiver.url,
        "WEARABLE_WEBHOOK_SECRET": SECRET,
        "WEARABLE_WEBHOOK_ALLOW_PRIVATE": "true",
    }

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    killed = start()
    raw = home_settings.home / "lake" / "raw"
    while killed.poll() is None and not raw.exists():
        time.sleep(0.002)
    killed.kill()
    killed.communicate()
    finished = start()
    out, err = finished.communicate(timeout=180)
    assert finished.returncode == 0, err.decode()[-2000:]
    assert json.loads(out)["failed"] == {}
    until = datetime.now(UTC)
    with open_home() as workspace:
        found = each_once(cgm_of(glob_body(workspace), user.user_id))
        assert workspace.registry.touched() == []
    who = sandbox_people.person("dag")
    since = datetime(until.year, until.month, until.day, tzinfo=UTC)
    readings = {(at, float(value)) for at, value in sandbox_people.truth(who, since, until, until)}
    today = {one for one in found if one[0] >= since}
    assert today
    # What came out while the command was running may or may not be in it.
    newest = max(at for at, _ in today)
    assert today == {one for one in readings if one[0] <= newest}
    assert len(readings - today) <= 2
