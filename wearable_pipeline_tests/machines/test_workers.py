"""A deployment of several machines: what sensors hand to workers arrives once, whoever dies on the way."""

import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from wearable_pipeline.destinations.delivery import deliver
from wearable_pipeline.registry import User
from wearable_pipeline.sandbox import people as sandbox_people
from wearable_pipeline.sandbox.receiver import Receiver
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.workspace import open_workspace, utc_now
from wearable_pipeline_tests.faults.cast import (
    Sample,
    cgm_of,
    connect_people,
    each_once,
    glob_body,
    received_rows,
)
from wearable_pipeline_tests.machines.cluster import Cluster
from wearable_pipeline_tests.servers.postgres import create_database

KILLS = int(os.environ.get("WEARABLE_TEST_KILLS", "3"))
SECRET = "signing-secret-of-the-tests"
NAMES = ("dag", "esi")
AFTER_CLAIMS = timedelta(minutes=11)
WORKERS = ("one", "two")
ENDED = {"SUCCESS", "FAILURE", "CANCELED"}
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.xdist_group("machines")]


@dataclass
class Site:
    """A running deployment and the world around it."""

    cluster: Cluster
    sandbox: SandboxProcess
    receiver: Receiver
    instance: dg.DagsterInstance
    users: dict[str, User]
    moments: list[datetime]

    @property
    def shown(self) -> datetime:
        """The moment at the providers."""
        return self.moments[-1]

    def pass_time(self, **parts: float) -> None:
        """New readings at the providers, and everybody due."""
        self.moments.append(self.shown + timedelta(**parts))
        self.sandbox.set_clock(self.shown)
        with open_workspace(self.cluster.settings()) as workspace:
            ids = [user.user_id for user in self.users.values()]
            workspace.registry.make_due(ids, workspace.now())

    def runs(self, **filters: Any) -> list[dg.RunRecord]:
        return list(self.instance.get_run_records(dg.RunsFilter(**filters)))

    def is_quiet(self) -> bool:
        """Nobody is due, nothing is touched, no run is on its way."""
        with open_workspace(self.cluster.settings()) as workspace:
            states = workspace.registry.load_states([u.user_id for u in self.users.values()])
            now = workspace.now()
            waiting = [one for one in states.values() if one.next_due_at <= now]
            return not (waiting or workspace.registry.touched() or self.runs(statuses=UNFINISHED))

    def status(self, run_id: str) -> dg.DagsterRunStatus:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run.status

    def first_day(self) -> date:
        """The day the first run asked for."""
        first = min(self.runs(), key=lambda record: record.create_timestamp)
        return date.fromisoformat(
            first.dagster_run.tags["dagster/asset_partition_range_start"].split("|")[0]
        )

    def assert_readings(self, found: list[Sample], name: str) -> None:
        """Each once: all that live runs asked for, and of older days nothing the provider has not."""
        start = datetime.combine(self.first_day() - timedelta(days=1), datetime.min.time(), UTC)
        who = sandbox_people.person(name)

        def shown_since(instant: datetime, at: datetime) -> set[Sample]:
            held = sandbox_people.truth(who, instant, at, at)
            return {(taken, float(value)) for taken, value in held}

        readings = each_once(found)
        live = {one for one in readings if one[0] >= start}
        assert live == shown_since(start, self.shown), name
        # History is fetched by other runs, at their own pace; the provider keeps so many days of it.
        oldest = self.moments[0] - timedelta(days=who.history_days)
        assert readings - live <= set().union(*(shown_since(oldest, at) for at in self.moments)), (
            name
        )

    def assert_complete(self) -> None:
        """Exactly the provider's readings in the lake and, claims of the dead once free, outside."""
        settings = self.cluster.settings()
        ids = [user.user_id for user in self.users.values()]
        with open_workspace(settings) as workspace:
            body = glob_body(workspace)
        for name, user in self.users.items():
            self.assert_readings(cgm_of(body, user.user_id), name)
        assert body.select("user_id", "local_date").is_duplicated().sum() == 0

        def is_all_delivered() -> bool:
            with open_workspace(settings, lambda: utc_now() + AFTER_CLAIMS) as workspace:
                deliver(workspace, "webhook", user_ids=ids)
                counts = workspace.registry.counts("webhook")
            assert counts.parked == 0
            return counts.pending == 0

        self.cluster.wait(is_all_delivered, "all rows delivered", 60, every=1.0)
        received = received_rows(self.receiver.posts())
        for name, user in self.users.items():
            told = [
                (datetime.fromisoformat(one["timestamp"]), one["blood_glucose_mg_per_dL"])
                for (user_id, _, kind), row in received.items()
                if (user_id, kind) == (user.user_id, "body")
                for one in row["glucose_data"]["blood_glucose_samples"]  # type: ignore[index]
                if one["sample_kind"] == "cgm" and one["blood_glucose_mg_per_dL"] is not None
            ]
            self.assert_readings(told, name)


@pytest.fixture(scope="module")
def site(
    postgres_server: str, redis_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    shown = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
    with (
        create_database(postgres_server) as postgres,
        SandboxProcess(now=shown) as sandbox,
        Receiver(SECRET) as receiver,
        pytest.MonkeyPatch.context() as patch,
    ):
        webhook = {
            "WEARABLE_WEBHOOK_URL": receiver.url,
            "WEARABLE_WEBHOOK_SECRET": SECRET,
            "WEARABLE_WEBHOOK_ALLOW_PRIVATE": "true",
        }
        folder = tmp_path_factory.mktemp("cluster")
        with Cluster(folder, postgres, redis_server, webhook) as cluster:
            for name, value in cluster.environment("test").items():
                if name.startswith("DAGSTER_"):
                    patch.setenv(name, value)
            cluster.start_code_server()
            cluster.start_daemon()
            for worker in WORKERS:
                cluster.start_worker(worker)
            with open_workspace(cluster.settings()) as workspace:
                users = connect_people(workspace, sandbox, NAMES)
            for worker in WORKERS:
                cluster.wait_for_worker(worker)
            with cluster.instance() as instance:
                yield Site(cluster, sandbox, receiver, instance, users, [shown])


def wait_for_started(site: Site, known: set[str]) -> str:
    """The id of a run that has begun and is none of `known`."""
    begun: list[str] = []

    def look() -> bool:
        begun.extend(
            record.dagster_run.run_id
            for record in site.runs(statuses=[dg.DagsterRunStatus.STARTED])
            if record.dagster_run.run_id not in known
        )
        return bool(begun)

    site.cluster.wait(look, "a run that has begun")
    return begun[0]


def test_a_run_that_sensors_start_is_done_by_a_worker_and_arrives_once(site: Site) -> None:
    site.cluster.wait(
        lambda: bool(site.runs(statuses=[dg.DagsterRunStatus.SUCCESS])), "the first run"
    )
    site.cluster.wait(site.is_quiet, "everything done", every=1.0)
    site.assert_complete()
    done = site.runs(statuses=[dg.DagsterRunStatus.SUCCESS])
    assert all("dagster-celery/task_id" in record.dagster_run.tags for record in done)
    assert site.runs(statuses=[dg.DagsterRunStatus.FAILURE]) == []


def test_whoever_is_killed_during_runs_nothing_is_lost_doubled_or_started_for_ever(
    site: Site,
) -> None:
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    ended: list[str] = []
    kinds = [kill_processes_that_execute, kill_workers, kill_workers_and_code_server]
    for number in range(KILLS):
        known = {record.dagster_run.run_id for record in site.runs()}
        site.pass_time(minutes=10)
        run_id = wait_for_started(site, known)
        # The moment is the point of it: nothing to inject here.
        time.sleep(rng.uniform(0, 0.8))
        revive = kinds[number % len(kinds)](site.cluster)
        what = f"the end of run {run_id} (round {number}, seed {seed})"
        site.cluster.wait(lambda run_id=run_id: site.status(run_id).value in ENDED, what, 60)  # type: ignore[misc]
        ended.append(site.status(run_id).value)
        revive()
    assert "FAILURE" in ended, (seed, ended)
    older = {record.dagster_run.run_id for record in site.runs()}
    site.pass_time(minutes=5)
    # Runs of what the killed ones left touched follow one another, each a tick apart.
    site.cluster.wait(site.is_quiet, f"everything done (seed {seed})", 300, every=1.0)
    site.assert_complete()
    unfinished = {record.dagster_run.run_id for record in site.runs(statuses=UNFINISHED)}
    assert not unfinished & older


def kill_processes_that_execute(cluster: Cluster) -> Callable[[], None]:
    """The worker that had one notices and starts another."""
    for worker in WORKERS:
        cluster.kill_child(worker)
    return lambda: None


def kill_workers(cluster: Cluster) -> Callable[[], None]:
    """Nobody is left who could tell that the run has ended."""
    for worker in WORKERS:
        cluster.kill(worker)
    # Started again at once: a worker of the same name must not be taken for the one that had the run.
    for worker in WORKERS:
        cluster.start_worker(worker)
    return lambda: None


def kill_workers_and_code_server(cluster: Cluster) -> Callable[[], None]:
    """The run must end while nobody knows its code."""
    cluster.kill("code")
    kill_workers(cluster)
    return cluster.start_code_server
