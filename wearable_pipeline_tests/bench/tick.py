"""What a sensor tick costs with 100,000 users, and a run of 64 keys.

A fresh process holds the definitions and the registry (SQLite) of 100,000 connected users in 64 cohorts, all
of them due, each with a touched day and a row to send, and their history waiting. Each sensor is
evaluated through Dagster, the workspace opened anew as in a daemon. The peer is the limit: a second, and 300
MB for the whole process. `run_of_64_keys_s` is a live run over 64 cohorts of an empty table, in process, on
SQLite: what Dagster itself takes of a cycle. Its peers are the same run over all assets with every event
stored by itself, and over all assets with events in batches.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from wearable_pipeline_tests.bench._figures import Figure, Scale

USERS = 100_000
COHORTS = 64
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
SENSORS = ("due_users", "touched_partitions", "due_deliveries", "waiting_history")
LIMIT_SECONDS = 1.0
LIMIT_MB = 300.0


def measure(scale: Scale) -> list[Figure]:
    """Seconds of the ticks, memory of the process they run in, seconds of a run's bookkeeping."""
    count = scale.of(USERS, 500)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), count)
        found = _in_a_process("ticks", folder, scale.rounds)
    figures += [
        Figure(
            "sensor_tick_s" if name == "due_users" else f"sensor_tick_{name}_s",
            found[name],
            "s",
            "limit",
            LIMIT_SECONDS,
            better="lower",
            target="< 1 s at 100,000 users",
            note=f"{count:,} users, all due; median, workspace opened anew",
        )
        for name in SENSORS
    ]
    figures.append(
        Figure(
            "sensor_rss_mb",
            found["rss_mb"],
            "MB",
            "limit",
            LIMIT_MB,
            better="lower",
            target="< 300 MB at 100,000 users",
            note=f"peak of the process, {found['rss_before_mb']:.0f} MB of it before the first tick",
        )
    )
    figures.append(
        Figure(
            "sensor_growth_mb",
            found["rss_mb"] - found["rss_before_mb"],
            "MB",
            "limit",
            LIMIT_MB,
            better="lower",
            note="what ticks add to the process that loaded the definitions",
        )
    )
    keys = scale.of(COHORTS, 1)
    with tempfile.TemporaryDirectory() as folder:
        seconds = _in_a_process("runs", folder, keys, 1 if scale.short else 2)
    figures += [
        Figure(
            "run_of_64_keys_s" if peer == "unbatched" else "run_of_64_keys_assets_s",
            seconds["live"],
            "s",
            "every asset, " + ("events in batches" if peer == "all" else "event by event"),
            seconds[peer],
            better="lower",
            note=f"{keys} keys; CPU {seconds['live_cpu']:.2f} s"
            f" against {seconds[f'{peer}_cpu']:.2f} s",
        )
        for peer in ("all", "unbatched")
    ]
    return figures


def _in_a_process(what: str, folder: str, *numbers: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", __name__, what, folder, *map(str, numbers)],
        env={**os.environ, "DAGSTER_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2_000:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def fill(home: Path, count: int) -> None:
    """A registry with `count` connected users, everybody due, touched and with a row to send."""
    from wearable_pipeline.registry import NewUser, Registry, Touched, WantedRow

    with Registry.open(settings_of(home), lambda: NOW - timedelta(minutes=10)) as registry:
        names = [f"user-{number:06d}" for number in range(count)]
        day = NOW.date()
        for first in range(0, count, 10_000):
            some = names[first : first + 10_000]
            registry.add_users(NewUser(user_id=name, provider="freestyle_libre") for name in some)
            registry.mark_touched(Touched("body", name, day) for name in some)
            registry.want(
                "webhook",
                [WantedRow("body", name, day.isoformat(), day, "0" * 32) for name in some],
            )
        registry.queue_newcomers({"freestyle_libre": 90}, day)


def settings_of(home: Path):  # type: ignore[no-untyped-def]
    """Settings of a sharded lake with a webhook."""
    from wearable_pipeline.settings import Settings

    return Settings(
        _env_file=None,
        home=home,
        cohorts=COHORTS,
        webhook_url="http://127.0.0.1:9/hook",
        webhook_secret="s" * 32,
        webhook_allow_private=True,
    )


def tick(home: Path, rounds: int) -> dict[str, float]:
    """Median seconds of each sensor, and the peak memory of this process."""
    import dagster as dg

    from wearable_pipeline.definitions import build_defs
    from wearable_pipeline.orchestration.resources import WorkspaceOpener

    settings = settings_of(home)
    opener = WorkspaceOpener(settings, lambda: NOW)
    defs = build_defs(settings, opener)
    found: dict[str, list[float]] = {name: [] for name in SENSORS}
    before = _peak_mb()
    (home / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(home / "dagster")) as instance:
        for _ in range(rounds):
            for name in SENSORS:
                sensor = defs.resolve_sensor_def(name)
                context = dg.build_sensor_context(
                    instance=instance, resources={"workspace": opener}
                )
                started = time.perf_counter()
                result = sensor.evaluate_tick(context)
                found[name].append(time.perf_counter() - started)
                if not result.run_requests:
                    raise RuntimeError(f"{name} asked for no run: {result.skip_message}")
    return {
        **{name: statistics.median(seconds) for name, seconds in found.items()},
        "rss_mb": _peak_mb(),
        "rss_before_mb": before,
    }


def run_keys(home: Path, keys: int, runs: int) -> dict[str, float]:
    """Seconds of a run over `keys` cohorts of today with nobody in them, of each kind; the last of `runs`."""
    import dagster as dg

    from wearable_pipeline.definitions import build_defs
    from wearable_pipeline.orchestration.resources import SyncConfig, WorkspaceOpener

    settings = settings_of(home).model_copy(update={"cohorts": keys})
    opener = WorkspaceOpener(settings, lambda: NOW)
    job = build_defs(settings, opener).resolve_job_def("sync")
    every = job.asset_layer.executable_asset_keys
    live = {key for key in every if key.to_user_string() in _LIVE}
    assert SyncConfig(scope="due")
    tags = {
        "dagster/asset_partition_range_start": f"{NOW:%Y-%m-%d}|s00",
        "dagster/asset_partition_range_end": f"{NOW:%Y-%m-%d}|s{keys - 1:02d}",
    }
    taken: dict[str, float] = {}
    (home / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(home / "dagster")) as instance:
        for name, chosen, batch in (
            ("live", live, "1000"),
            ("all", every, "1000"),
            ("unbatched", every, "0"),
        ):
            os.environ["DAGSTER_EVENT_BATCH_SIZE"] = batch
            subset = job.get_subset(asset_selection=chosen)
            config = {"ops": {"__".join(key.path): {"config": {"scope": "due"}} for key in chosen}}
            for _ in range(runs):
                started, cpu = time.perf_counter(), time.process_time()
                result = subset.execute_in_process(instance=instance, tags=tags, run_config=config)
                taken[name] = time.perf_counter() - started
                taken[f"{name}_cpu"] = time.process_time() - cpu
                if not result.success:
                    raise RuntimeError("the run failed")
    return taken


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


_LIVE = {"raw/freestyle_libre", "body", "destinations/webhook"}


if __name__ == "__main__":
    what, home, numbers = sys.argv[1], Path(sys.argv[2]), map(int, sys.argv[3:])
    answer = tick(home, *numbers) if what == "ticks" else run_keys(home, *numbers)
    sys.stdout.write(json.dumps(answer) + "\n")
