"""Whatever is killed, whenever: starting again loses nothing and doubles nothing."""

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from wearable_pipeline.lake.storage import LocalStorage
from wearable_pipeline.registry import User
from wearable_pipeline.registry.database import Database
from wearable_pipeline.sandbox import people as sandbox_people
from wearable_pipeline.sandbox.receiver import Receiver
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.settings import Settings
from wearable_pipeline.workspace import Workspace, open_workspace
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.faults.cast import (
    NOW,
    cgm_of,
    each_once,
    glob_body,
    received_rows,
    sync,
)
from wearable_pipeline_tests.faults.conftest import SECRET, OpenHome
from wearable_pipeline_tests.faults.sync_once import sync_once
from wearable_pipeline_tests.servers.forked import Child, fork

KILLS = int(os.environ.get("WEARABLE_TEST_KILLS", "3"))
# A claim of a dead sender is free after ten minutes.
AFTER_CLAIMS = timedelta(minutes=11)
MIDNIGHT_BEFORE = datetime(2026, 11, 19, tzinfo=UTC)


class PowerCutError(BaseException):
    """Nothing survives it, so nothing may catch it as an error of its own."""


class Fuse:
    """Blows before the `at`-th durable operation; from then on none is possible."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.count = 0

    def __call__(self) -> None:
        self.count += 1
        if self.at is not None and self.count >= self.at:
            raise PowerCutError


@contextmanager
def fused(fuse: Fuse) -> Iterator[Fuse]:
    """Every write to lake and registry, and every post, goes through `fuse`."""

    def guard(function: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            fuse()
            return function(*args, **kwargs)

        return guarded

    with pytest.MonkeyPatch.context() as patch:
        for owner, names in (
            (LocalStorage, ("create", "replace", "put", "delete_many")),
            (Database, ("write",)),
            (httpx.HTTPTransport, ("handle_request",)),
        ):
            for name in names:
                patch.setattr(owner, name, guard(getattr(owner, name)))
        yield fuse


def expected_of(name: str, now: datetime) -> set[tuple[datetime, float]]:
    """The readings a person's source shows at `now`, since the day before yesterday for Nightscout."""
    who = sandbox_people.person(name)
    if who.source == "nightscout":
        return {(at, float(v)) for at, v in sandbox_people.truth(who, MIDNIGHT_BEFORE, now, now)}
    known = {at: float(v) for at, v in sandbox_people.polled(who, [now]).items()}
    instant = sandbox_people.epoch(now)
    first = instant - sandbox_people.LOGBOOK_WINDOW
    listed = [alarm.at for alarm in sandbox_people.alarms(who, first, instant + 1)]
    if who.device == "libre2":
        listed += sandbox_people.scans(who, first, instant + 1)
    for at in listed:
        known.setdefault(sandbox_people.moment(at), float(sandbox_people.measured(who, at)[0]))
    return set(known.items())


def assert_nothing_lost_or_doubled(
    workspace: Workspace, users: dict[str, User], receiver: Receiver, now: datetime = NOW
) -> None:
    body = glob_body(workspace)
    received = received_rows(receiver.posts())
    for name, user in users.items():
        expected = expected_of(name, now)
        assert expected
        assert each_once(cgm_of(body, user.user_id)) == expected, name
        told: list[tuple[datetime, float]] = []
        for (user_id, _, kind), row in received.items():
            if user_id == user.user_id and kind == "body":
                told += cgm_of_payload(row)
        assert each_once(told) == expected, name
    assert body.select("user_id", "local_date").is_duplicated().sum() == 0
    assert workspace.registry.touched() == []
    mine = [user.user_id for user in users.values()]
    rows = workspace.registry.deliveries("webhook", mine)
    assert {row.status for row in rows} == {"delivered"}
    lake = Path(workspace.lake.storage.url)
    strange = [
        path
        for path in lake.rglob("*")
        if path.is_file()
        and path.suffix != ".parquet"
        and path.name != "_lake.json"
        and not path.is_relative_to(lake / "_tmp")
        and not any(part.startswith((".", "_")) for part in path.relative_to(lake).parts)
    ]
    assert strange == []


def cgm_of_payload(row: Any) -> list[tuple[datetime, float]]:
    samples = row["glucose_data"]["blood_glucose_samples"]
    return [
        (datetime.fromisoformat(one["timestamp"]), one["blood_glucose_mg_per_dL"])
        for one in samples
        if one["sample_kind"] == "cgm" and one["blood_glucose_mg_per_dL"] is not None
    ]


def test_a_clean_run_brings_exactly_what_the_sandbox_has(
    workspace: Workspace, people: dict[str, User], receiver: Receiver
) -> None:
    sync(workspace, people.values(), days=0)
    assert_nothing_lost_or_doubled(workspace, people, receiver)


def test_a_power_cut_before_any_write_loses_and_doubles_nothing(
    copy_home: Callable[[str], Settings],
    people: dict[str, User],
    receiver: Receiver,
    clock: StandingClock,
) -> None:
    some = {"dag": people["dag"]}
    with fused(Fuse()) as whole, open_workspace(copy_home("whole"), clock) as workspace:
        sync(workspace, some.values(), days=0)
    assert whole.count > 20
    seed = random.randrange(10**6)
    places = random.Random(seed).sample(
        range(1, whole.count + 1), min(max(2, KILLS // 2), whole.count)
    )
    for at in sorted(places):
        receiver.forget()
        clock.at = NOW
        settings = copy_home(f"cut-{at}")
        with fused(Fuse(at)), pytest.raises(PowerCutError), open_workspace(settings, clock) as cut:
            sync(cut, some.values(), days=0)
        clock.at = NOW + AFTER_CLAIMS
        with open_workspace(settings, clock) as again:
            sync(again, some.values(), days=0)
            assert_nothing_lost_or_doubled(again, some, receiver)
        shutil.rmtree(settings.home)


def test_killed_at_random_moments_and_started_again_it_ends_complete(
    home_settings: Settings,
    open_home: OpenHome,
    people: dict[str, User],
    receiver: Receiver,
    sandbox: SandboxProcess,
    clock: StandingClock,
) -> None:
    some = {name: people[name] for name in ("bo", "dag", "esi")}
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    killed = 0
    for _ in range(KILLS):
        child = prepare_sync(home_settings, receiver, some, clock.at).begin()
        # The moment is the point of it: nothing to inject here.
        time.sleep(rng.uniform(0.02, 1.6))
        killed += child.process.is_alive()
        child.kill()
        clock.advance(seconds=20)
    assert killed > 0, seed
    clock.at = NOW + AFTER_CLAIMS
    with open_home() as workspace:
        sync(workspace, some.values(), days=0)
        assert_nothing_lost_or_doubled(workspace, some, receiver)


def prepare_sync(
    settings: Settings, receiver: Receiver, users: dict[str, User], now: datetime
) -> Child:
    """A process about to sync."""
    return fork(
        sync_once,
        [user.user_id for user in users.values()],
        now,
        environment={
            "WEARABLE_HOME": str(settings.home),
            "WEARABLE_WEBHOOK_URL": receiver.url,
            "WEARABLE_WEBHOOK_SECRET": SECRET,
            "WEARABLE_WEBHOOK_ALLOW_PRIVATE": "true",
        },
    )
