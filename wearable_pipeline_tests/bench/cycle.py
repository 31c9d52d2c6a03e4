"""The whole five-minute cycle of CGM users: fetch, raw, `body` table, webhook.

A LibreLinkUp for a fleet of synthetic people and a counting webhook receiver stand beside the pipeline
on the same machine. Workers, one process per core over disjoint cohorts of up to 1,563 users (64 cohorts
at 100,000), run what the assets of a live run run: poll every user over HTTP, keep what is new verbatim,
bring the `body` table up to date, post every changed row. Measured is a cycle after twelve hours of
readings are there, with clocks moved on by five minutes, so that every user has a new reading.

`cohort_rss_mb` is the memory of a worker with one cohort as large as a million users make them.

`cgm_users_per_cycle` is users × 300 s / seconds of the cycle; its peer is the target. The cost per user
is CPU of our processes; its peer is the same at the smallest size, measured in the same run.
`python -m wearable_pipeline_tests.bench.cycle --users 100000` runs one size by itself.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

from wearable_pipeline.sandbox.fleet import FleetProcess
from wearable_pipeline.settings import Settings
from wearable_pipeline.workspace import open_workspace
from wearable_pipeline_tests.bench._figures import Figure, Scale
from wearable_pipeline_tests.bench._receiver import ReceiverProcess

MOST_COHORTS = 64
CYCLE_SECONDS = 300
TARGET_USERS = 100_000
TARGET_RSS_MB = 2_048
LARGEST_COHORT = 16_000
# All dates of the fleet's zones agree, and twelve hours of readings lie on one of them.
START = datetime(2026, 11, 20, 17, 30, tzinfo=UTC)
STAGES = ("poll", "ingest", "update_table", "deliver")
GROWTH = "cycle_cpu_users_"


@dataclass(slots=True)
class Cycle:
    """One measured cycle: seconds by the clock, CPU seconds per stage over all workers."""

    seconds: float
    cpu: dict[str, float]
    counts: dict[str, int]
    wall: dict[str, float]
    peak_mb: float
    fleet_cpu: float
    receiver_cpu: float
    failures: int


@dataclass(slots=True)
class Run:
    """The cycles of one size; the first one brought the history."""

    users: int
    workers: int
    seed: Cycle
    cycles: list[Cycle] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Median seconds of a cycle."""
        return median(cycle.seconds for cycle in self.cycles)

    @property
    def users_per_cycle(self) -> float:
        """How many users five minutes would do at this pace."""
        return self.users * CYCLE_SECONDS / self.seconds

    def cpu_ms(self, stage: str | None = None) -> float:
        """Median CPU milliseconds per user, of one stage or of all."""
        return (
            median(
                sum(cycle.cpu.values()) if stage is None else cycle.cpu[stage]
                for cycle in self.cycles
            )
            * 1000
            / self.users
        )

    @property
    def peak_mb(self) -> float:
        """Peak memory of the largest worker in any measured cycle."""
        return max(cycle.peak_mb for cycle in self.cycles)


class Workers:
    """Worker processes over disjoint cohorts; a context manager."""

    def __init__(self, count: int, cohorts: int, environment: dict[str, str]) -> None:
        edges = [cohorts * number // count for number in range(count + 1)]
        self._processes = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "wearable_pipeline_tests.bench._cycle",
                    str(first),
                    str(last),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for first, last in pairwise(edges)
        ]
        for process in self._processes:
            self._read(process)

    def cycle(self, at: datetime, stages: tuple[str, ...] = STAGES) -> tuple[float, list[Any]]:
        """Run one cycle in all workers at once; seconds until the last is done, and the answers."""
        started = time.perf_counter()
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps({"at": at.isoformat(), "stages": stages}) + "\n")
            process.stdin.flush()
        answers = [self._read(process) for process in self._processes]
        return time.perf_counter() - started, answers

    @staticmethod
    def _read(process: subprocess.Popen[str]) -> Any:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker died ({process.wait()})")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.terminate()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def run(
    users: int,
    *,
    workers: int = 2,
    cycles: int = 3,
    cohorts: int | None = None,
    folder: Path | None = None,
) -> Run:
    """Measure `cycles` cycles at that many users, in as many cohorts as 100,000 would have 64."""
    home = Path(tempfile.mkdtemp(prefix="cycle-", dir=folder))
    if cohorts is None:
        cohorts = min(MOST_COHORTS, max(workers, -(-users * MOST_COHORTS // TARGET_USERS)))
    try:
        with FleetProcess(users, now=START) as fleet, ReceiverProcess() as receiver:
            environment = {
                **{name: value for name, value in os.environ.items() if "WEARABLE" not in name},
                "WEARABLE_HOME": str(home),
                "WEARABLE_COHORTS": str(cohorts),
                "WEARABLE_FREESTYLE_LIBRE_BASE_URL": fleet.libre_base_url,
                "WEARABLE_WEBHOOK_URL": receiver.url,
                "WEARABLE_WEBHOOK_SECRET": "secret of a bench",
                "WEARABLE_WEBHOOK_ALLOW_PRIVATE": "true",
                "PYTHONWARNINGS": "ignore",
            }
            settings = Settings(_env_file=None, home=home, cohorts=cohorts)
            with open_workspace(settings, lambda: START) as workspace:
                fleet.register(workspace.registry, now=START)
            with Workers(workers, cohorts, environment) as crew:
                at = START
                measured = Run(users, workers, _cycle(crew, fleet, receiver, at))
                for _ in range(cycles):
                    at += timedelta(seconds=CYCLE_SECONDS)
                    fleet.set_clock(at)
                    measured.cycles.append(_cycle(crew, fleet, receiver, at))
                    _check(measured.cycles[-1], users)
        return measured
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _cycle(crew: Workers, fleet: FleetProcess, receiver: ReceiverProcess, at: datetime) -> Cycle:
    fleet_cpu, receiver_cpu = fleet.cpu_seconds(), receiver.counts().cpu_seconds
    seconds, answers = crew.cycle(at)
    names = ("open", *STAGES)
    return Cycle(
        seconds=seconds,
        cpu={name: sum(one["stages"][name]["cpu"] for one in answers) for name in names},
        counts={name: sum(one["stages"][name]["count"] for one in answers) for name in names},
        wall={name: max(one["stages"][name]["wall"] for one in answers) for name in names},
        peak_mb=max(one["peak_mb"] for one in answers),
        fleet_cpu=fleet.cpu_seconds() - fleet_cpu,
        receiver_cpu=receiver.counts().cpu_seconds - receiver_cpu,
        failures=sum(one["failures"] for one in answers),
    )


def _check(cycle: Cycle, users: int) -> None:
    """A cycle that did less than its work has no figure."""
    # Everybody's newest reading, and the one before it, now a point of the graph.
    wanted = {"poll": users, "ingest": 2 * users, "deliver": users}
    found = {name: cycle.counts[name] for name in wanted}
    if found != wanted or cycle.failures:
        raise RuntimeError(f"not a whole cycle: {found}, {cycle.failures} failures")


def measure(scale: Scale) -> list[Figure]:
    """Users per cycle, cost per user by stage, memory, growth of the cost with the number of users."""
    sizes = (25, 100) if scale.short else (1_000, 10_000, TARGET_USERS)
    found = figures([run(users, cycles=scale.rounds) for users in sizes])
    if not scale.short:
        found.append(memory_of_a_cohort())
    return found


def memory_of_a_cohort() -> Figure:
    """Peak of a worker whose whole cycle is one cohort of the largest size."""
    alone = run(LARGEST_COHORT, workers=1, cohorts=1, cycles=2)
    return Figure(
        "cohort_rss_mb",
        max(alone.seed.peak_mb, alone.peak_mb),
        "MB",
        "limit",
        TARGET_RSS_MB,
        better="lower",
        target="<= 1",
        note=f"one cohort of {LARGEST_COHORT:,} users, the cycle that brought twelve hours included",
    )


def figures(runs: Sequence[Run]) -> list[Figure]:
    """What runs of growing size say: the largest in full, the others as its peers."""
    small, large = runs[0], runs[-1]
    note = (
        f"{large.users} users, {large.workers} processes, cycle of {large.seconds:.1f} s; sandbox"
        f" {median(c.fleet_cpu for c in large.cycles) * 1000 / large.users:.2f} and receiver"
        f" {median(c.receiver_cpu for c in large.cycles) * 1000 / large.users:.2f} ms CPU per user"
        " come out of the same cores; starting the run and Dagster's own events are not in it"
    )
    return [
        Figure(
            "cgm_users_per_cycle",
            large.users_per_cycle,
            "users / 300 s",
            "target",
            TARGET_USERS,
            target=">= 1",
            note=note,
        ),
        Figure(
            "run_rss_mb",
            large.peak_mb,
            "MB",
            "limit",
            TARGET_RSS_MB,
            better="lower",
            target="<= 1",
            note="peak of one worker process, interpreter and libraries included",
        ),
        *(
            Figure(
                f"{GROWTH}{one.users}",
                one.cpu_ms(),
                "ms CPU / user",
                f"{small.users} users",
                small.cpu_ms(),
                better="lower",
                target="<= 1.2",
            )
            for one in runs
        ),
        *(
            Figure(
                f"cycle_cpu_{stage}",
                large.cpu_ms(stage),
                "ms CPU / user",
                f"{small.users} users",
                small.cpu_ms(stage),
                better="lower",
            )
            for stage in STAGES
        ),
    ]


def chart(figures: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a chart for the document: cost per user over the number of users."""
    points = {one["name"]: one["value"] for one in figures if one["name"].startswith(GROWTH)}
    users = ", ".join(f'"{int(name.removeprefix(GROWTH)):,}"' for name in points)
    return [
        "```mermaid",
        "xychart-beta",
        '    title "CPU per user and cycle"',
        f'    x-axis "users" [{users}]',
        f'    y-axis "ms" 0 --> {max(points.values()) * 1.3:.1f}',
        f"    line [{', '.join(f'{value:.2f}' for value in points.values())}]",
        "```",
    ]


def _print(run: Run) -> None:
    def show(name: str, cycle: Cycle) -> None:
        parts = " ".join(
            f"{stage} {cycle.cpu[stage] * 1000 / run.users:.3f}" for stage in cycle.cpu
        )
        walls = " ".join(f"{stage} {cycle.wall[stage]:.1f}" for stage in cycle.wall)
        print(  # noqa: T201
            f"{name}: {cycle.seconds:.1f} s; CPU ms/user {parts}; fleet"
            f" {cycle.fleet_cpu * 1000 / run.users:.3f} receiver"
            f" {cycle.receiver_cpu * 1000 / run.users:.3f}; wall s {walls}; peak {cycle.peak_mb:.0f} MB",
            flush=True,
        )

    show("history", run.seed)
    for number, cycle in enumerate(run.cycles, 1):
        show(f"cycle {number}", cycle)
    print(  # noqa: T201
        f"{run.users} users: {run.users_per_cycle:,.0f} users per {CYCLE_SECONDS} s,"
        f" {run.cpu_ms():.3f} ms CPU per user"
    )


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=[1_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cycles", type=int, default=3)
    parser.add_argument("--cohorts", type=int)
    parser.add_argument("--folder", type=Path, help="where the temporary lake goes")
    asked = parser.parse_args()
    for users in asked.users:
        _print(
            run(
                users,
                workers=asked.workers,
                cycles=asked.cycles,
                cohorts=asked.cohorts,
                folder=asked.folder,
            )
        )


if __name__ == "__main__":
    _main()
