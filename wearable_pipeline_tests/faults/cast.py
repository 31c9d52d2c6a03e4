"""The sandbox's people connected to a workspace, and what lake and receiver hold of them afterwards."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta

import msgspec
import polars as pl

from wearable_pipeline.connect import connect
from wearable_pipeline.destinations import configured
from wearable_pipeline.destinations.delivery import deliver
from wearable_pipeline.partitions import Partition
from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import Window
from wearable_pipeline.raw.poll import PollReport, poll
from wearable_pipeline.registry import User
from wearable_pipeline.sandbox.receiver import Post
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.tables.update import update_table
from wearable_pipeline.workspace import Workspace

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
TABLES_FED = ("body", "nutrition")

Sample = tuple[datetime, float]


def rectangle(dates: Iterable[date], cohorts: Iterable[str]) -> list[Partition]:
    """The cells of dates × cohorts, in order."""
    columns = sorted(set(cohorts))
    return [Partition(day, cohort) for day in sorted(set(dates)) for cohort in columns]


def connect_people(
    workspace: Workspace, sandbox: SandboxProcess, names: Sequence[str]
) -> dict[str, User]:
    """Those of the cast who have an account, connected; by name."""
    found = {}
    for person in sandbox.people():
        name = str(person["name"])
        if name not in names:
            continue
        if person["provider"] == "nightscout":
            values = {"base_url": str(person["url"]), "token": str(person["token"])}
        else:
            values = {key: str(person[key]) for key in ("email", "password")}
        found[name] = connect(
            workspace, get_provider(str(person["provider"])), values, reference_id=name
        )
    return found


def poll_everybody(
    workspace: Workspace, users: Iterable[User], days: int = 1
) -> dict[str, PollReport]:
    """Ask every provider of `users` for the last `days` and today."""
    now = workspace.now()
    window = Window((now - timedelta(days=days)).date(), now.date(), now)
    fresh = {user.user_id: workspace.registry.get_user(user.user_id) for user in users}
    return {
        name: poll(
            workspace,
            get_provider(name),
            [user for user in fresh.values() if user.provider == name],
            window,
        )
        for name in sorted({user.provider for user in fresh.values()})
    }


def update_touched(workspace: Workspace, users: Iterable[User]) -> None:
    """Bring both tables up to date with whatever ingest has touched of `users`."""
    cohorts = [workspace.lake.scheme.cohort_of(user.user_id) for user in users]
    today = workspace.now().date()
    for table in TABLES_FED:
        update_table(workspace, table, rectangle([today], cohorts))


def sync(workspace: Workspace, users: Iterable[User], days: int = 1) -> dict[str, PollReport]:
    """Fetch, normalize, deliver, as a run does."""
    everybody = list(users)
    reports = poll_everybody(workspace, everybody, days)
    update_touched(workspace, everybody)
    for name in configured(workspace.settings):
        deliver(workspace, name, user_ids=[user.user_id for user in everybody])
    return reports


def glob_body(workspace: Workspace) -> pl.DataFrame:
    """What a reader without our code sees of the table."""
    found: pl.DataFrame = pl.read_parquet(
        f"{workspace.lake.storage.url}/body/**/*.parquet", hive_partitioning=False
    )
    return found


def cgm_of(body: pl.DataFrame, user_id: str) -> list[Sample]:
    """Sensor readings of a user, every one as often as it lies there."""
    sample = pl.col("glucose_blood_glucose_samples").struct
    rows = (
        body.filter(pl.col("user_id") == user_id)
        .explode("glucose_blood_glucose_samples", empty_as_null=False, keep_nulls=False)
        .select(
            timestamp=sample.field("timestamp"),
            value=sample.field("blood_glucose_mg_per_dl"),
            kind=sample.field("sample_kind"),
        )
        .filter((pl.col("kind") == "cgm") & pl.col("value").is_not_null())
        .sort("timestamp")
    )
    return [(at, value) for at, value, _ in rows.rows()]


def each_once(samples: Sequence[Sample]) -> set[Sample]:
    """`samples` as a set, after making sure none of them is there twice."""
    twice = [at for at, count in Counter(at for at, _ in samples).items() if count > 1]
    assert twice == []
    return set(samples)


def received_rows(posts: Iterable[Post]) -> dict[tuple[str, date, str], dict[str, object]]:
    """What a client that merges by key has: per user, day and type the newest payload.

    Posts that were answered with an error are not known to have been taken and are left out.
    """
    newest: dict[tuple[str, date, str], tuple[int, dict[str, object]]] = {}
    for post in posts:
        if post.status >= 300:
            continue
        event = msgspec.json.decode(post.body)
        kind = event["type"]
        if kind not in TABLES_FED:
            continue
        user_id = event["user"]["user_id"]
        order = int(event.get("ordering_timestamp") or post.headers.get("x-ordering", "0"))
        for row in event["data"]:
            day = date.fromisoformat(row["metadata"]["start_time"][:10])
            key = (user_id, day, kind)
            if key not in newest or newest[key][0] <= order:
                newest[key] = (order, row)
    return {key: row for key, (_, row) in newest.items()}


def cells_of(users: Iterable[User], days: Iterable[date]) -> list[Partition]:
    """Partitions of users and days in an exact lake."""
    return rectangle(days, [user.user_id for user in users])
