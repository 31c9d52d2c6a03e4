"""One worker of the cycle bench: a process that runs the stages of a cycle for some cohorts.

Started with the environment of an installation; told on standard input, one JSON line each, what to do,
and answers with a JSON line. The stages call what the Dagster assets call, with the same arguments.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wearable_pipeline.destinations.delivery import deliver
from wearable_pipeline.partitions import Partition, cohort_name
from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import Window
from wearable_pipeline.raw.poll import poll
from wearable_pipeline.raw.store import Appended, RawStore
from wearable_pipeline.sandbox.fleet import PROVIDER
from wearable_pipeline.tables.update import update_table
from wearable_pipeline.workspace import Workspace, open_workspace

# What a machine with its own agreement with the provider would allow; the pace is not what is measured.
CONCURRENCY = 64


@dataclass(slots=True)
class Stage:
    """What a stage took of this process."""

    wall: float = 0.0
    cpu: float = 0.0
    count: int = 0


@contextmanager
def timed(stage: Stage) -> Iterator[None]:
    """Add what the block takes to `stage`."""
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        stage.wall += time.perf_counter() - wall
        stage.cpu += time.process_time() - cpu


class Worker:
    """Cohorts from `first` up to `last` (not included)."""

    def __init__(self, first: int, last: int) -> None:
        self.cohorts = [cohort_name(number) for number in range(first, last)]
        self.now = datetime.now(UTC)

    def cycle(self, at: datetime, stages: tuple[str, ...]) -> dict[str, object]:
        """One cycle as of `at`; wall and CPU seconds per stage, peak memory."""
        self.now = at
        _reset_peak()
        taken = {name: Stage() for name in ("open", "poll", "ingest", "update_table", "deliver")}
        failures = 0
        with timed(taken["open"]):
            opening = open_workspace(now=lambda: self.now)
            workspace = opening.__enter__()
        try:
            cells = [Partition(at.date(), cohort) for cohort in self.cohorts]
            if "poll" in stages:
                failures = self._poll(workspace, cells, taken)
            if "update_table" in stages:
                with timed(taken["update_table"]):
                    updated = update_table(workspace, "body", cells)
                taken["update_table"].count = updated.rows
            if "deliver" in stages:
                with timed(taken["deliver"]):
                    users = workspace.users_in(cells, None)
                    report = deliver(
                        workspace, "webhook", user_ids=[user.user_id for user in users]
                    )
                taken["deliver"].count = report.delivered
        finally:
            opening.__exit__(None, None, None)
        return {
            "stages": {
                name: {"wall": one.wall, "cpu": one.cpu, "count": one.count}
                for name, one in taken.items()
            },
            "failures": failures,
            "peak_mb": peak_mb(),
        }

    def _poll(self, workspace: Workspace, cells: list[Partition], taken: dict[str, Stage]) -> int:
        provider = replace(
            get_provider(PROVIDER), max_concurrency=CONCURRENCY, requests_per_second=1e6
        )
        real = RawStore.append

        def append(*arguments: Any, **named: Any) -> Appended:
            with timed(taken["ingest"]):
                return real(*arguments, **named)

        RawStore.append = append  # type: ignore[method-assign]
        try:
            with timed(taken["poll"]):
                users = workspace.users_in(cells, PROVIDER)
                day = cells[0].date
                report = poll(workspace, provider, users, Window(day, day, self.now))
        finally:
            RawStore.append = real  # type: ignore[method-assign]
        taken["poll"].wall -= taken["ingest"].wall
        taken["poll"].cpu -= taken["ingest"].cpu
        taken["poll"].count = report.users
        taken["ingest"].count = report.appended.new
        return len(report.failures)


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Most memory this process has held, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _main() -> None:
    worker = Worker(int(sys.argv[1]), int(sys.argv[2]))
    answer: Callable[[object], None] = lambda what: print(json.dumps(what), flush=True)  # noqa: E731, T201
    answer("ready")
    for line in sys.stdin:
        asked = json.loads(line)
        answer(worker.cycle(datetime.fromisoformat(asked["at"]), tuple(asked["stages"])))


if __name__ == "__main__":
    _main()
