"""The lake as analysts ask it: DuckDB through the catalog's views.

Glucose of 10,000 people over 90 days at 5-minute steps (259 million readings; 200 people in the short
form), laid out as the pipeline lays it out: a file per day and cohort, of 64 cohorts (short: 2). All 90
days lie in closed months and are compacted. Two questions: the full history of one person, and the
time in range of everybody.

The peer is what somebody would make by hand for just these two questions: one long file a month with
five columns, written by DuckDB, sorted by user and time, row groups of 122,880. "Base" figures ask
the base files alone, "open" ones leave the last month to them. `compact_mb_s` counts bytes of base
files; its peer is DuckDB sorting the same readings into long files, without a copy of the rows.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import polars as pl

from wearable_pipeline.lake.catalog import connect, create_statements
from wearable_pipeline.lake.compact import compact_table
from wearable_pipeline.lake.layout import table_path
from wearable_pipeline.lake.storage import LocalStorage
from wearable_pipeline.model import TABLES
from wearable_pipeline.partitions import Partition, Scheme
from wearable_pipeline.tables.refresh import encode_parquet
from wearable_pipeline_tests.bench._figures import Figure, Scale, medians

FIRST_DAY = date(2026, 8, 1)
DAYS = 90
TODAY = date(2026, 11, 21)
A_DAY = 288
FILE_BYTES = 128 * 1024 * 1024

_BODY = TABLES["body"]
_GLUCOSE = _BODY.column("glucose_blood_glucose_samples")
_VIEW = "body_glucose_samples"
_TARGET = "<= 2"


def measure(scale: Scale) -> list[Figure]:
    """Make the lake, compact it, ask it both ways; everything is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="wearable-bench-query-"))
    try:
        return _measure(scale, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(scale: Scale, folder: Path) -> list[Figure]:
    storage = LocalStorage(folder / "lake")
    users = write_lake(storage, scale.of(10_000, 200), Scheme(scale.of(64, 2)))
    base_bytes = sum(entry.size for entry in storage.list("body/"))
    started = time.perf_counter()
    report = compact_table(storage, "body", TODAY, after_days=3, file_bytes=FILE_BYTES)
    compact_seconds = time.perf_counter() - started
    assert report.samples == len(users) * DAYS * A_DAY
    peer_rate = _sort_with_duckdb(storage, folder / "sorted.parquet")
    _write_ideal(storage, folder / "ideal")

    started = time.perf_counter()
    views = connect(storage, [_VIEW])
    open_seconds = time.perf_counter() - started
    base = duckdb.connect()
    base.execute("SET TimeZone = 'UTC'")
    for statement in create_statements(storage, [_VIEW], use_compact=False):
        base.execute(statement)
    ideal = duckdb.connect()
    ideal.execute("SET TimeZone = 'UTC'")
    ideal.execute(f"CREATE VIEW {_VIEW} AS FROM read_parquet('{folder}/ideal/*.parquet')")
    listing = duckdb.connect()

    def list_files() -> object:
        pattern = f"{storage.url}/body/**/*.parquet"
        return listing.execute(f"SELECT count(*) FROM glob('{pattern}')").fetchone()

    connections = {"views": views, "ideal": ideal, "base": base}
    questions = {"user": _history_of(users[len(users) // 2]), "tir": _time_in_range()}
    answers = {
        (asked, name): connection.execute(sql).fetchall()
        for asked, sql in questions.items()
        for name, connection in connections.items()
    }
    for asked in questions:
        assert answers[asked, "views"] == answers[asked, "ideal"] == answers[asked, "base"], asked
    seconds = medians(
        scale.rounds,
        {
            **{
                f"{asked} {name}": _ask(connection, sql)
                for asked, sql in questions.items()
                for name, connection in connections.items()
            },
            "list": list_files,
        },
    )
    shutil.rmtree(folder / "lake" / "compact" / "body" / "month=2026-10")
    open_month = connect(storage, [_VIEW])
    seconds |= medians(
        scale.rounds,
        {f"{asked} open": _ask(open_month, sql) for asked, sql in questions.items()},
    )
    figures = []
    for asked, what in (("user", "history of one person"), ("tir", "time in range of all")):
        ideal_ms = 1000 * seconds[f"{asked} ideal"]
        for name, how, target in (
            ("", "through the views, all months compact", _TARGET),
            ("_open", "through the views, the last month in base files", ""),
            ("_base", "base files alone", ""),
        ):
            value = seconds[f"{asked} {name.removeprefix('_') or 'views'}"]
            figures.append(
                Figure(
                    f"query_{asked}{name}_ms",
                    1000 * value,
                    "ms",
                    "ideally sorted long files",
                    ideal_ms,
                    better="lower",
                    target=target,
                    note=f"{what}, {how}",
                )
            )
    compact_bytes = report.bytes_written
    return [
        *figures,
        Figure(
            "catalog_open_ms",
            1000 * open_seconds,
            "ms",
            "DuckDB listing the base files",
            1000 * seconds["list"],
            better="lower",
            note="making the view: which months are compact as the base files are now",
        ),
        Figure(
            "compact_mb_s",
            base_bytes / 1e6 / compact_seconds,
            "MB/s",
            "DuckDB sorting the samples alone",
            peer_rate,
            note=f"{base_bytes / 1e6:,.0f} MB of base files into {compact_bytes / 1e6:,.0f} MB of rows and"
            " long files",
        ),
    ]


def write_lake(storage: LocalStorage, count: int, scheme: Scheme) -> list[str]:
    """Base files of `count` people; returns their ids, sorted."""
    rng = np.random.default_rng(20261121)
    users = sorted(rng.bytes(16).hex() for _ in range(count))
    cohorts: dict[str, list[str]] = {}
    for user_id in users:
        cohorts.setdefault(scheme.cohort_of(user_id), []).append(user_id)
    for cohort, members in sorted(cohorts.items()):
        levels = rng.normal(140, 25, len(members))
        for day in range(DAYS):
            frame = _day_of(members, FIRST_DAY + timedelta(days=day), levels, rng)
            cell = Partition(FIRST_DAY + timedelta(days=day), cohort)
            file = Path(storage.uri(table_path("body", cell)))
            file.parent.mkdir(parents=True)
            file.write_bytes(encode_parquet(frame.to_arrow(), _BODY.arrow_schema()))
    return users


def _day_of(
    users: list[str], day: date, levels: np.ndarray, rng: np.random.Generator
) -> pl.DataFrame:
    """A day of everybody's readings: a slow wave with noise, whole mg/dL, whole seconds."""
    count = len(users)
    steps = np.arange(A_DAY)
    waves = 35 * np.sin(2 * np.pi * (steps / A_DAY * 3 + rng.random((count, 1))))
    noise = np.cumsum(rng.normal(0, 3, (count, A_DAY)), axis=1)
    values = np.clip(np.round(levels[:, None] + waves + noise), 40, 400).ravel()
    midnight = np.datetime64(datetime.combine(day, datetime.min.time()), "us")
    seconds = steps * 300 + rng.integers(0, 300, (count, 1))
    at = pl.Series("at", midnight + (seconds.ravel() * 1_000_000).astype("timedelta64[us]"))
    glucose = pl.col("value")
    known = {
        "timestamp": pl.col("at").dt.replace_time_zone("UTC"),
        "local_timestamp": pl.col("at") + pl.duration(hours=1),
        "blood_glucose_mg_per_dl": glucose,
        "native_value": glucose,
        "native_unit": pl.lit("mg/dL"),
        "sample_kind": pl.lit("cgm"),
        "trend_arrow": pl.when(glucose > 150).then(pl.lit("rising")).otherwise(pl.lit("flat")),
        "device_id": pl.col("device"),
    }
    devices = pl.Series("device", [f"sensor-{user[:6]}" for user in users])
    samples = (
        pl.DataFrame({"at": at, "value": values})
        .with_columns(devices.gather(np.repeat(np.arange(count), A_DAY)).alias("device"))
        .select(
            pl.struct(
                known.get(field.name, pl.lit(None, dtype=field.dtype)).alias(field.name)
                for field in _GLUCOSE.fields
            ).alias("sample")
        )["sample"]
    )
    lists = samples.reshape((count, A_DAY)).arr.to_list()
    start = datetime.combine(day, datetime.min.time(), UTC)
    return _BODY.conform(
        pl.DataFrame(
            {
                "user_id": users,
                "provider": "freestyle_libre",
                "local_date": day,
                "start_at": start,
                "utc_offset_seconds": 3600,
                "timezone": "Europe/Berlin",
                "tz_source": "provider",
                "revision": 1,
                _GLUCOSE.name: lists,
            }
        )
    )


def _sort_with_duckdb(storage: LocalStorage, file: Path) -> float:
    """MB of base files a second DuckDB makes into a sorted long file; some of the cohorts do."""
    files = [
        entry
        for entry in storage.list("body/")
        if "/user=s00/" in entry.path and "2026-08" in entry.path
    ]
    listed = ", ".join(f"'{storage.uri(entry.path)}'" for entry in files)
    with duckdb.connect() as connection:
        started = time.perf_counter()
        connection.execute(
            "COPY (SELECT user_id, provider, local_date, sample.* FROM (SELECT user_id, provider,"
            f' local_date, unnest("{_GLUCOSE.name}") AS sample FROM read_parquet([{listed}],'
            " hive_partitioning = false)) ORDER BY user_id, sample.timestamp)"
            f" TO '{file}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880)"
        )
        return sum(entry.size for entry in files) / 1e6 / (time.perf_counter() - started)


def _write_ideal(storage: LocalStorage, folder: Path) -> None:
    folder.mkdir()
    long = Path(storage.uri("compact")) / _VIEW
    with duckdb.connect() as connection:
        for month in sorted(path.name for path in long.iterdir()):
            connection.execute(
                "COPY (SELECT user_id, local_date, timestamp, blood_glucose_mg_per_dl AS value,"
                f" sample_kind FROM read_parquet('{long}/{month}/*.parquet')"
                f" ORDER BY user_id, timestamp) TO '{folder}/{month}.parquet'"
                " (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880)"
            )


def _history_of(user_id: str) -> str:
    return (
        f"SELECT timestamp, value FROM {_VIEW} WHERE user_id = '{user_id}' AND sample_kind = 'cgm'"
        " ORDER BY timestamp"
    )


def _time_in_range() -> str:
    last = FIRST_DAY + timedelta(days=DAYS - 1)
    return (
        "SELECT user_id, count(*), avg((value BETWEEN 70 AND 180)::INTEGER)"
        f" FROM {_VIEW} WHERE sample_kind = 'cgm' AND local_date BETWEEN '{FIRST_DAY}' AND '{last}'"
        " GROUP BY user_id ORDER BY user_id"
    )


def _ask(connection: duckdb.DuckDBPyConnection, sql: str) -> Callable[[], object]:
    def ask() -> object:
        return connection.execute(sql).to_arrow_table()

    return ask
