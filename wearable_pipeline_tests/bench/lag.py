"""From a reading's appearance at the source to the lake and to a webhook, by stage.

A fleet server shows a reading of every user each five minutes at a second of their own. The sensor
`due_users` is evaluated every 15 seconds as the daemon does, and what it asks for runs in this process
through Dagster, on an instance of its own: a warm worker, without the seconds a fresh process takes to
start (`launch` measures those). Work takes the time it takes; waits in which nobody is due are skipped on
the clocks of fleet and pipeline alike. `wait` is a reading's time until the run that fetches it begins,
`lake` from there until the table is written, `webhook` from there until the receiver has it. The peer of
each is the limit: 120 seconds for all three, in which the poll interval of five minutes is not contained
because polls are timed to the readings.

Everybody was polled a few times before, so that it is known when whose readings appear; the backlog of twelve
hours is worked off in the first runs and not measured.

`python -m wearable_pipeline_tests.bench.lag --users 10000 --seconds 600` runs it by itself.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from wearable_pipeline_tests.bench._figures import Figure, Scale

COHORTS = 64
TICK_SECONDS = 15.0
STEP_SECONDS = 300.0
# So many polls show at which second of a step a user's readings appear.
LEARNING_POLLS = 5
LIMIT_SECONDS = 120.0
CONCURRENCY = 64


@dataclass(slots=True)
class Clock:
    """Real time plus the waits that were skipped, and what it was ahead by since when."""

    ahead: float = 0.0
    moves: list[tuple[float, float]] = field(default_factory=lambda: [(0.0, 0.0)])

    def __call__(self) -> datetime:
        return datetime.fromtimestamp(time.time() + self.ahead, UTC)

    def skip(self, seconds: float) -> None:
        """Let `seconds` have passed."""
        self.ahead += seconds
        self.moves.append((time.time(), self.ahead))

    def at(self, real: float) -> float:
        """What this clock showed at a real instant."""
        place = bisect_right(self.moves, real, key=lambda move: move[0]) - 1
        return real + self.moves[place][1]


@dataclass(frozen=True, slots=True)
class Lag:
    """Seconds of one reading, by stage."""

    wait: float
    lake: float
    webhook: float

    @property
    def total(self) -> float:
        return self.wait + self.lake + self.webhook


def measure(scale: Scale) -> list[Figure]:
    """Figures of one stretch: 10,000 users for ten minutes, in short 30 in two cohorts for some readings."""
    users = scale.of(10_000, 30)
    enough = 30 if scale.short else None
    lags = follow(users, float(scale.of(600, 420)), enough, scale.of(COHORTS, 2))
    return figures_of(lags, users)


def figures_of(lags: Sequence[Lag], users: int) -> list[Figure]:
    """p50, p95 and p99 of all readings, the stages beside them in the note."""
    if len(lags) < 2:
        raise RuntimeError(f"only {len(lags)} readings came through")
    figures = []
    for share in (50, 95, 99):
        stages = {
            stage: _percentile([getattr(lag, stage) for lag in lags], share)
            for stage in ("wait", "lake", "webhook")
        }
        figures.append(
            Figure(
                f"lag_p{share}_s",
                _percentile([lag.total for lag in lags], share),
                "s",
                "limit",
                LIMIT_SECONDS,
                better="lower",
                target="p99 <= 120 s at 10,000 users",
                note=f"{len(lags):,} readings of {users:,} users; "
                + ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in stages.items()),
            )
        )
    return figures


def _percentile(values: Sequence[float], share: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1]


def follow(
    users: int, seconds: float, enough: int | None = None, cohorts: int = COHORTS
) -> list[Lag]:
    """Lags of the readings that appear in `seconds`, at most until there are `enough`."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        return _Stretch(stack, Path(folder), users, cohorts).run(seconds, enough)


class _Stretch:
    """Everything a stretch needs, started."""

    def __init__(self, stack: ExitStack, home: Path, users: int, cohorts: int) -> None:
        import dagster as dg

        from wearable_pipeline import definitions
        from wearable_pipeline.orchestration.resources import WorkspaceOpener
        from wearable_pipeline.sandbox.fleet import PROVIDER, FleetProcess
        from wearable_pipeline.settings import Settings
        from wearable_pipeline.settings import settings as cached
        from wearable_pipeline.workspace import open_workspace
        from wearable_pipeline_tests.bench._receiver import ReceiverProcess

        self.clock = Clock()
        self.fleet = stack.enter_context(FleetProcess(users))
        self.receiver = stack.enter_context(ReceiverProcess(record=True))
        before = os.environ.get(_BASE_URL)
        os.environ[_BASE_URL] = self.fleet.libre_base_url
        stack.callback(_restore, before)
        cached.cache_clear()
        settings = Settings(
            _env_file=None,
            home=home,
            cohorts=cohorts,
            history_days=0,
            webhook_url=self.receiver.url,
            webhook_secret="s" * 32,
            webhook_allow_private=True,
        )
        with open_workspace(settings, self.clock) as workspace:
            self.fleet.register(workspace.registry, now=self.clock())
        opener = WorkspaceOpener(settings, self.clock)
        known = dict(definitions.providers())
        # What a machine with its own agreement with the provider would allow; the pace is not measured.
        known[PROVIDER] = replace(
            known[PROVIDER], max_concurrency=CONCURRENCY, requests_per_second=1e6
        )
        self.provider = known[PROVIDER]
        real = definitions.providers
        definitions.providers = lambda: known  # type: ignore[assignment]
        try:
            self.defs = definitions.build_defs(settings, opener)
        finally:
            definitions.providers = real
        (home / "dagster").mkdir()
        self.instance = stack.enter_context(dg.DagsterInstance.local_temp(str(home / "dagster")))
        self.sensor = self.defs.resolve_sensor_def("due_users")
        self.opener = opener
        # Start of each run and the end of its table, on the clock.
        self.runs: list[tuple[float, float]] = []

    def tick(self) -> bool:
        """Evaluate the sensor and run what it asks for; whether it asked for something."""
        import dagster as dg

        from wearable_pipeline.orchestration.local import run_requested

        context = dg.build_sensor_context(
            instance=self.instance, resources={"workspace": self.opener}
        )
        decided = self.clock().timestamp()
        result = self.sensor(context)
        if isinstance(result, dg.SkipReason):
            return False
        for request in result.run_requests:
            begun = time.time()
            done = run_requested(self.instance, self.defs, request)
            written = begun
            for record in self.instance.get_run_step_stats(done.run_id):
                if record.step_key == "body" and record.end_time is not None:
                    written = record.end_time
            self.runs.append((decided, self.clock.at(written)))
        return True

    def run(self, seconds: float, enough: int | None) -> list[Lag]:
        """Ticks until the time is over; the lags of what appeared after the warm-up."""
        self._learn()
        behind = self.clock().timestamp()
        # The backlog, and a whole step in which everybody is on time again.
        while self.clock().timestamp() - behind < STEP_SECONDS:
            self._tick_on_time()
        start = self.clock().timestamp()
        while self.clock().timestamp() - start < seconds:
            self._tick_on_time()
            if enough is not None and len(self._lags(start)) >= enough:
                break
        return self._lags(start)

    def _tick_on_time(self) -> None:
        began = time.monotonic()
        self.tick()
        self._skip(max(0.0, TICK_SECONDS - (time.monotonic() - began)))

    def _learn(self) -> None:
        """Poll everybody a few times, a step apart."""
        from wearable_pipeline.providers._contract import Window
        from wearable_pipeline.raw.poll import poll

        for _ in range(LEARNING_POLLS):
            began = time.monotonic()
            with self.opener.open() as workspace:
                day = self.clock().date()
                users = workspace.registry.find_users(provider=self.provider.name)
                report = poll(workspace, self.provider, users, Window(day, day, self.clock()))
            if report.failures:
                raise RuntimeError(f"{len(report.failures)} users could not be polled")
            self._skip(max(0.0, STEP_SECONDS - (time.monotonic() - began)))

    def _skip(self, seconds: float) -> None:
        self.fleet.advance_clock(seconds)
        self.clock.skip(seconds)

    def _lags(self, start: float) -> list[Lag]:
        begins = [begun for begun, _ in self.runs]
        seen: set[tuple[str, datetime]] = set()
        lags = []
        for arrival in self.receiver.arrivals():
            newest = arrival.newest_at
            if newest is None or (arrival.user_id, newest) in seen:
                continue
            seen.add((arrival.user_id, newest))
            came, appeared = self.clock.at(arrival.received_at), newest.timestamp()
            if appeared < start:
                continue
            begun, written = self.runs[bisect_right(begins, came) - 1]
            # Whoever appears while a run is on its way may still be fetched by it.
            begun = max(begun, appeared)
            lags.append(Lag(begun - appeared, written - begun, came - written))
        return lags


_BASE_URL = "WEARABLE_FREESTYLE_LIBRE_BASE_URL"


def _restore(before: str | None) -> None:
    from wearable_pipeline.settings import settings as cached

    if before is None:
        os.environ.pop(_BASE_URL, None)
    else:
        os.environ[_BASE_URL] = before
    cached.cache_clear()


def main(arguments: Sequence[str]) -> int:
    """A stretch of any size; prints its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=600.0)
    asked = parser.parse_args(arguments)
    for figure in figures_of(follow(asked.users, asked.seconds), asked.users):
        sys.stdout.write(f"{figure.name}: {figure.value:.1f} s ({figure.note})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
