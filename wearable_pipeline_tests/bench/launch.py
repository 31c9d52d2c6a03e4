"""Launch: what a run costs before its first step, by Dagster's own launcher and by a warm Celery worker.

One run of `normalize` over one empty partition, state in Postgres: once in a process of its own, as Dagster
launches by default, and once by the launcher of `deploy/dagster.yaml`, where a worker has imported
everything before. `run_launch_s` is the time from handing the run over until it says it has started,
`run_total_s` until it has ended, `run_cpu_s` the processor time of the processes that served it.
Peer: Dagster's default launcher, same code server, same Postgres, taking turns.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import dagster as dg
import yaml
from dagster._cli.job import _create_run
from dagster._core.workspace.context import WorkspaceProcessContext, WorkspaceRequestContext
from dagster._core.workspace.load_target import GrpcServerTarget

from wearable_pipeline.orchestration.jobs import NORMALIZE
from wearable_pipeline_tests.bench._figures import Figure, Scale
from wearable_pipeline_tests.machines.cluster import Cluster, descendants
from wearable_pipeline_tests.servers import postgres, redis_broker
from wearable_pipeline_tests.servers.processes import Session

_TICKS = os.sysconf("SC_CLK_TCK")
_PATIENCE = 120.0


@dataclass(frozen=True, slots=True)
class Launched:
    """Seconds of one run."""

    launch: float
    total: float
    cpu: float


def measure(scale: Scale) -> list[Figure]:
    """Launch some runs by each launcher, in turns."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wearable-launch-")))
        session = Session(folder, os.getpid())
        stack.callback(session.stop)
        for name in ("postgres", "redis"):
            (folder / name).mkdir()
        server = postgres.start(session, folder / "postgres")["url"]
        database = stack.enter_context(postgres.create_database(server))
        redis = redis_broker.start(session, folder / "redis")["url"]
        cluster = stack.enter_context(
            Cluster(folder / "cluster", database, redis, {"WEARABLE_COHORTS": "1"})
        )
        stack.enter_context(mock.patch.dict(os.environ, cluster.environment("bench")))
        plain = folder / "plain"
        plain.mkdir()
        config = yaml.safe_load((cluster.dagster_home / "dagster.yaml").read_text())
        del config["run_launcher"]
        (plain / "dagster.yaml").write_text(yaml.safe_dump(config))
        warm = stack.enter_context(cluster.instance())
        default = stack.enter_context(dg.DagsterInstance.from_config(str(plain)))
        cluster.start_worker("worker")
        cluster.start_code_server()
        cluster.wait_for_worker("worker")
        target = GrpcServerTarget(
            host="127.0.0.1", port=cluster.code_port, socket=None, location_name="code"
        )
        found: dict[str, list[Launched]] = {"warm": [], "default": []}
        for number in range(scale.rounds + 1):
            for name, instance in (("warm", warm), ("default", default)):
                with WorkspaceProcessContext(instance, target) as process:
                    launched = _launch(instance, process.create_request_context(), cluster)
                if number:  # the first of each pays for what both do once
                    found[name].append(launched)
        return [
            _figure(
                "run_launch_s", found, lambda one: one.launch, "until the run says it has started"
            ),
            _figure("run_total_s", found, lambda one: one.total, "until the run has ended"),
            _figure("run_cpu_s", found, lambda one: one.cpu, "processor time, all processes"),
        ]


def _figure(
    name: str, found: dict[str, list[Launched]], of: Callable[[Launched], float], note: str
) -> Figure:
    warm, default = (
        statistics.median(of(one) for one in found[kind]) for kind in ("warm", "default")
    )
    return Figure(name, warm, "s", "Dagster's default launcher", default, "lower", "", note)


def _launch(
    instance: dg.DagsterInstance, workspace: WorkspaceRequestContext, cluster: Cluster
) -> Launched:
    location = workspace.code_locations[0]
    (repository,) = location.get_repositories().values()
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date()
    key = f"{yesterday}|s00"
    run = _create_run(
        instance=instance,
        code_location=location,
        remote_repo=repository,
        remote_job=repository.get_full_job(NORMALIZE),
        run_config={},
        tags={"dagster/asset_partition_range_start": key, "dagster/asset_partition_range_end": key},
        op_selection=None,
        run_id=None,
    )
    before = _processor_seconds(cluster)
    count = _process_count(cluster)
    handed = time.time()
    instance.launch_run(run.run_id, workspace)

    def has_ended() -> bool:
        told = instance.get_run_by_id(run.run_id)
        return told is not None and told.is_finished and _process_count(cluster) <= count

    cluster.wait(has_ended, f"the end of run {run.run_id}", _PATIENCE)
    told = instance.get_run_by_id(run.run_id)
    stats = instance.get_run_stats(run.run_id)
    if told is None or told.status != dg.DagsterRunStatus.SUCCESS or not stats.start_time:
        raise RuntimeError(f"run {run.run_id} ended as {told and told.status}\n{cluster.tails()}")
    return Launched(
        stats.start_time - handed,
        (stats.end_time or 0.0) - handed,
        _processor_seconds(cluster) - before,
    )


def _processes(cluster: Cluster) -> list[int]:
    return [
        pid
        for process in cluster.processes.values()
        for pid in (process.pid, *descendants(process.pid))
    ]


def _process_count(cluster: Cluster) -> int:
    return len(_processes(cluster))


def _processor_seconds(cluster: Cluster) -> float:
    """Processor time of the deployment so far, that of its ended children included."""
    ticks = 0
    for pid in _processes(cluster):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS
