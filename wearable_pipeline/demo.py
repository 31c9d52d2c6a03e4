"""The demonstration: sandbox, people, history, one live poll, deliveries, and what came of it.

Everything real but the people: HTTP over loopback, the ordinary commands' code, the ordinary lake. The
demo's clock stands where it stood the first time, so that running it again changes nothing.
"""

import io
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import msgspec
import polars as pl
from rich.console import Console
from rich.table import Table as Grid

from wearable_pipeline.connect import connect
from wearable_pipeline.errors import UsageError
from wearable_pipeline.lake.catalog import run_query
from wearable_pipeline.orchestration.jobs import NORMALIZE, SYNC
from wearable_pipeline.orchestration.local import RunSummary, run_job
from wearable_pipeline.orchestration.resources import WorkspaceOpener
from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import ImportOptions
from wearable_pipeline.raw.files import import_file
from wearable_pipeline.registry import User
from wearable_pipeline.sandbox.receiver import Receiver
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.settings import Settings, load_settings
from wearable_pipeline.settings import settings as cached_settings
from wearable_pipeline.workspace import Workspace, open_workspace

SANDBOX_PORT = 8097
RECEIVER_PORT = 8096
LIVE_STEP = timedelta(minutes=5)
SIGNING_SECRET = "demo-signing-secret"  # noqa: S105 - for the loopback only

# International consensus on time in range (Battelino 2019): 70 to 180 mg/dL, both ends inside. Every
# reading weighs the time to the next one, at most the usual step, so mixed steps do not skew the share.
TIME_IN_RANGE = """
with readings as (
    select user_id, value,
        epoch(lead(coalesce(timestamp::timestamp, local_timestamp)) over w
            - coalesce(timestamp::timestamp, local_timestamp)) as gap
    from body_glucose_samples
    where sample_kind = 'cgm' and value is not null
    window w as (partition by user_id order by coalesce(timestamp::timestamp, local_timestamp))
), usual as (select user_id, median(gap) as step from readings group by user_id),
weighed as (
    select user_id, value, least(coalesce(gap, step), step) as seconds
    from readings join usual using (user_id)
)
select user_id,
    sum(seconds) filter (where value between 70 and 180) / sum(seconds) as in_range,
    sum(seconds) filter (where value < 70) / sum(seconds) as below,
    sum(seconds) filter (where value > 180) / sum(seconds) as above,
    count(*) as readings
from weighed group by user_id order by user_id
"""
ROWS = """
select user_id, provider, count(*) as days,
    sum(len(coalesce(glucose_blood_glucose_samples, []))) as glucose,
    sum(len(coalesce(measurements_measurements, []))) as measurements
from body group by all order by provider, user_id
"""


class State(msgspec.Struct):
    """What the demo must find again the next time: its moment and the addresses people connected to."""

    now: datetime
    sandbox_url: str
    receiver_url: str


@dataclass(slots=True)
class Lag:
    """Seconds from a reading at the source to the webhook, by stage."""

    source: float
    fetch: float
    lake: float
    delivery: float

    @property
    def total(self) -> float:
        """All stages together."""
        return self.source + self.fetch + self.lake + self.delivery


@dataclass(slots=True)
class DemoReport:
    """What the demo shows."""

    home: str
    lake: str
    now: datetime
    names: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, object]] = field(default_factory=list)
    newest: dict[str, datetime | None] = field(default_factory=dict)
    ranges: list[dict[str, object]] = field(default_factory=list)
    deliveries: dict[str, int] = field(default_factory=dict)
    received: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)
    checks: list[str] = field(default_factory=list)
    lag: Lag | None = None
    seconds: float = 0.0

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    def _name(self, row: dict[str, object]) -> str:
        return self.names.get(str(row["user_id"]), str(row["user_id"]))

    def render(self, out: Console) -> None:
        """Print it for a person, with what to do next."""
        grid = Grid(
            "person", "user", "provider", "days", "glucose", "other", "newest reading", "age"
        )
        for row in sorted(self.rows, key=self._name):
            user_id = str(row["user_id"])
            newest = self.newest.get(user_id)
            grid.add_row(
                self.names.get(user_id, ""),
                user_id[:8],
                str(row["provider"]),
                str(row["days"]),
                str(row["glucose"]),
                str(row["measurements"]),
                f"{newest:%Y-%m-%d %H:%M}Z" if newest else "",
                f"{(self.now - newest).total_seconds() / 60:.1f} min" if newest else "",
            )
        out.print("[bold]body[/bold]: rows per person", grid)
        grid = Grid("person", "70-180 mg/dL", "below 70", "above 180", "readings")
        for row in sorted(self.ranges, key=self._name):
            grid.add_row(
                self.names.get(str(row["user_id"]), ""),
                *(f"{float(str(row[key] or 0)):.1%}" for key in ("in_range", "below", "above")),
                str(row["readings"]),
            )
        out.print("[bold]time in range[/bold]: share of recorded time", grid)
        told = ", ".join(f"{count} {key}" for key, count in self.deliveries.items())
        out.print(f"[bold]webhook[/bold]: {told}; {self.received} arrived in this run")
        out.print(f"[bold]quarantined[/bold]: {sum(self.quarantined.values())} records")
        for reason, count in self.quarantined.items():
            out.print(f"  {count} × {reason}", markup=False)
        if self.lag is not None:
            out.print(
                f"[bold]lag[/bold] of the live reading: {self.lag.total:.1f} s ="
                f" source {self.lag.source:.1f} + fetch {self.lag.fetch:.1f}"
                f" + lake {self.lag.lake:.1f} + delivery {self.lag.delivery:.1f}"
            )
        out.print(f"\nthe lake lies in {self.lake} (made in {self.seconds:.0f} s)\nnext:")
        glob = f"{self.lake}/body/**/*.parquet"
        counting = f"select count(*) from read_parquet('{glob}', hive_partitioning=true)"  # noqa: S608
        prefix = "" if self.home == str(Path("data").resolve()) else f"WEARABLE_HOME={self.home} "
        by_user = "select user_id, max(timestamp) from body_glucose_samples group by 1"
        for line in (
            f"{prefix}make ui                       # Dagster on this state, sandbox and sensors running",
            f"{prefix}.venv/bin/wearable-pipeline status",
            f'{prefix}.venv/bin/wearable-pipeline query "{by_user}"',
            f'duckdb -c "{counting}"',
        ):
            out.print(f"  {line}", markup=False)


def state_file(settings: Settings) -> Path:
    """Where the demo remembers itself."""
    return settings.home.resolve() / "demo.json"


def load_state(settings: Settings) -> State | None:
    """The demo's memory, or None before the first time."""
    try:
        return msgspec.json.decode(state_file(settings).read_bytes(), type=State)
    except FileNotFoundError:
        return None


def demo_environment(state: State) -> dict[str, str]:
    """What points providers at the sandbox and the webhook at the demo's receiver."""
    return {
        "WEARABLE_FREESTYLE_LIBRE_BASE_URL": f"{state.sandbox_url}/libre/{{region}}",
        "WEARABLE_WEBHOOK_URL": f"{state.receiver_url}/webhook",
        "WEARABLE_WEBHOOK_SECRET": SIGNING_SECRET,
    }


@contextmanager
def demo_world(settings: Settings) -> Iterator[State | None]:
    """Where the home holds the demo's people, point this process at their sandbox; yields its state.

    Without it they would be asked for at the real providers. Sandbox and receiver run meanwhile, unless
    another process has them running.
    """
    state = load_state(settings)
    if state is None:
        yield None
        return
    os.environ.update(demo_environment(state))
    cached_settings.cache_clear()
    with ExitStack() as stack:
        if not _taken_ports(state):
            stack.enter_context(demo_servers(state))
        yield state


@contextmanager
def demo_servers(state: State) -> Iterator[tuple[SandboxProcess, Receiver]]:
    """Sandbox and receiver on the ports people were connected to."""
    with ExitStack() as stack:
        sandbox = stack.enter_context(SandboxProcess(port=_port(state.sandbox_url)))
        receiver = stack.enter_context(Receiver(SIGNING_SECRET, _port(state.receiver_url)))
        yield sandbox, receiver


def _port(url: str) -> int:
    return int(url.rsplit(":", 1)[1])


def run_demo(
    days: int,
    progress: Callable[[str, int], None],
    ports: tuple[int, int] = (SANDBOX_PORT, RECEIVER_PORT),
) -> DemoReport:
    """Run the whole pipeline on the sandbox's people; report what came of it.

    Points this process's environment at the sandbox, as a person would who sets the variables. `ports` of
    sandbox and receiver count the first time; people stay connected to those addresses.
    """
    started = time.monotonic()
    state = load_state(load_settings())
    is_first = state is None
    if state is None:
        state = State(
            datetime.now(UTC).replace(microsecond=0),
            *(f"http://127.0.0.1:{port}" for port in ports),
        )
    taken = _taken_ports(state)
    if taken:
        raise UsageError(f"port {taken[0]} is taken: stop `make ui` or another demo first")
    os.environ.update(demo_environment(state))
    cached_settings.cache_clear()
    settings = load_settings()
    base = state.now

    def now() -> datetime:
        return base + timedelta(seconds=time.monotonic() - started)

    with (
        demo_servers(state) as (sandbox, receiver),
        open_workspace(settings, now) as workspace,
    ):
        report = DemoReport(str(settings.home.resolve()), workspace.settings.lake, base)
        opener = WorkspaceOpener(workspace.settings, now, progress)
        sandbox.set_clock(base - LIVE_STEP)
        people = _connect_people(workspace, sandbox, progress)
        report.names = {user.user_id: name for name, user in people.items()}
        if is_first:
            state_file(settings).write_bytes(msgspec.json.encode(state))
        polled = [user.user_id for user in people.values() if not user.config.get("import_only")]
        today = base.date()
        _import_export(workspace, sandbox, people, progress)
        runs = run_job(
            opener, workspace, NORMALIZE, [user.user_id for user in people.values()], today, today
        )
        runs += run_job(
            opener, workspace, SYNC, polled, today - timedelta(days=days), today + timedelta(days=1)
        )
        sandbox.set_clock(base)
        live = run_job(opener, workspace, SYNC, polled, today, today)
        runs += live
        _fill_report(report, workspace, receiver, runs)
        report.lag = _measure_lag(report, live)
    report.seconds = time.monotonic() - started
    return report


def _connect_people(
    workspace: Workspace, sandbox: SandboxProcess, progress: Callable[[str, int], None]
) -> dict[str, User]:
    found: dict[str, User] = {}
    for number, person in enumerate(sandbox.people(), start=1):
        name = str(person["name"])
        reference = f"demo-{name}"
        if person["provider"] == "freestyle_libre":
            values = {key: str(person[key]) for key in ("email", "password")}
            user = connect(
                workspace, get_provider("freestyle_libre"), values, reference_id=reference
            )
        elif person["provider"] == "nightscout":
            values = {"base_url": str(person["url"]), "token": str(person["token"])}
            user = connect(workspace, get_provider("nightscout"), values, reference_id=reference)
        else:
            known = workspace.registry.find_users(reference_id=reference)
            user = (
                known[0]
                if known
                else connect(
                    workspace,
                    get_provider("freestyle_libre"),
                    {},
                    reference_id=reference,
                    timezone=str(person["zone"]),
                    import_only=True,
                )
            )
        found[name] = user
        progress("connect people", number)
    return found


def _import_export(
    workspace: Workspace,
    sandbox: SandboxProcess,
    people: dict[str, User],
    progress: Callable[[str, int], None],
) -> None:
    """Download each exporting person's LibreView file and import it."""
    for person in sandbox.people():
        if "csv_url" not in person:
            continue
        user = people[str(person["name"])]
        body = httpx.get(str(person["csv_url"]), timeout=30, trust_env=False).raise_for_status()
        with TemporaryDirectory() as folder:
            file = Path(folder) / "glucose_export.csv"
            file.write_bytes(body.content)
            import_file(
                workspace,
                get_provider(user.provider),
                user,
                file,
                ImportOptions(user.timezone),
                lambda records: progress("import LibreView export", records),
            )


def _fill_report(
    report: DemoReport, workspace: Workspace, receiver: Receiver, runs: list[RunSummary]
) -> None:
    storage = workspace.lake.storage
    report.rows = _records(*run_query(storage, ROWS))
    report.ranges = _records(*run_query(storage, TIME_IN_RANGE))
    states = workspace.registry.load_states(list(report.names))
    report.newest = {user_id: state.newest_reading_at for user_id, state in states.items()}
    counts = workspace.registry.counts("webhook")
    report.deliveries = {
        "delivered": counts.delivered,
        "pending": counts.pending,
        "parked": counts.parked,
    }
    report.received = len({post.trace_id for post in receiver.posts()})
    report.quarantined = {
        str(row["reason"]): int(str(row["records"])) for row in _quarantine(workspace)
    }
    report.checks = sorted({check for run in runs for check in run.failed_checks})


def _quarantine(workspace: Workspace) -> list[dict[str, object]]:
    frames = [
        pl.read_parquet(io.BytesIO(workspace.lake.storage.read(entry.path)))
        for entry in workspace.lake.storage.list("quarantine/")
        if entry.path.endswith(".parquet")
    ]
    if not frames:
        return []
    counts = (
        pl.concat(frames)
        .unique(["user_id", "resource", "record_id", "reason"])
        .group_by("reason")
        .agg(records=pl.len())
        .sort("records", "reason", descending=[True, False])
    )
    return counts.to_dicts()


def _measure_lag(report: DemoReport, live: list[RunSummary]) -> Lag | None:
    """Where the seconds of the live poll went; the source's share is the newest reading's age."""
    ages = [
        (report.now - newest).total_seconds()
        for newest in report.newest.values()
        if newest is not None and report.now - newest < timedelta(minutes=30)
    ]
    if not ages or not live:
        return None

    def seconds(prefix: str) -> float:
        return sum(
            run.step_seconds[name]
            for run in live
            for name in run.step_seconds
            if name.startswith(prefix)
        )

    tables = sum(
        duration
        for run in live
        for name, duration in run.step_seconds.items()
        if not name.startswith(("raw__", "destinations__"))
    )
    return Lag(sorted(ages)[len(ages) // 2], seconds("raw__"), tables, seconds("destinations__"))


def _records(names: list[str], rows: list[tuple[object, ...]]) -> list[dict[str, object]]:
    return [dict(zip(names, row, strict=True)) for row in rows]


def _taken_ports(state: State) -> list[int]:
    """The ports of the demo's servers on which somebody listens."""
    taken = []
    for port in (_port(state.sandbox_url), _port(state.receiver_url)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                taken.append(port)
    return taken
