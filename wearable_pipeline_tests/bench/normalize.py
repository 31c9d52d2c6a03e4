"""Provider JSON to validated Parquet.

Bodies of LibreLinkUp (every five minutes a graph point, and the live reading it was first seen as) and of
Nightscout (sensor entries), as raw keeps them: one body per record, some revised, some broken. *Ours* is
everything right of raw: exact repeats dropped, latest revision, reading, reject rules, mapping, twins
merged, pandera, one encoded Parquet file per partition. It runs in a process of its own, once with one
polars thread and once with two.

Peers, in the same process and on the same bodies: `orjson.loads` and nothing else; a per-row Python pipeline
(`json.loads`, loops that check bounds, keep the newest, merge twins and sort, pyarrow writes the same sample
columns); `pandas.json_normalize` to Parquet without any check; dlt to Parquet files, also unchecked. The slow
ones get a share of the bodies; every rate is in MB of the bodies it was given.

Rates are per second of CPU where one thread works, so that a neighbour on the machine does not count.
`normalize_rss_mb` is the peak memory of a process that refreshes partitions as large as 100,000 users in 64
cohorts make them, beside the 2 GB any run may take.

Where the CPU time of *ours* goes (one thread, 300 users of each provider, in a process that has warmed up):

| stage | share |
| --- | --- |
| JSON to typed columns (bodies of one pattern: 17 %) | 30 % |
| Parquet, encoded by partition | 17 % |
| twins merged, lists built | 11 % |
| provenance of every row: record ids, batches, ends of the day | 10 % |
| reject rules, mapping | 9 % |
| texts of times read | 7 % |
| latest revision of every record | 6 % |
| resources told apart, users and days numbered | 5 % |
| canonical validation | 4 % |

The bodies here are what machines write: nearly all keep to a few dozen patterns (same keys, same order,
values of equal length), and those are read side by side without a parser, in two fifths of the time
`orjson.loads` takes. Bodies that share no pattern are decoded by DuckDB as before, in 0.9 of that time or
more, and gain nothing.

No stage bounds it any more. Half the rate of `orjson.loads` would take typed columns for a third of what they
cost now and all else as it is. Ten times the per-row pipeline would be 0.45 of `orjson.loads`. What is left
is spread over passes of polars and Parquet, which copy, hash and sort texts; up to a quarter of the time is
the system's, which hands out fresh memory for the copies, the more of it the longer the process was idle.
"""

import hashlib
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from wearable_pipeline.partitions import Partition, Scheme
from wearable_pipeline_tests.bench._figures import Figure, Scale

DAY = date(2026, 11, 20)
MIDNIGHT = datetime(2026, 11, 20, tzinfo=UTC)
STEP = timedelta(minutes=5)
READINGS = 288
MEMORY_LIMIT_MB = 2048
TABLE = "body"
COHORTS = 64
USERS_PER_COHORT = 1_560
_US_TIME = "%-m/%-d/%Y %-I:%M:%S %p"
_US_CLOCK = "%m/%d/%Y %I:%M:%S %p"


def measure(scale: Scale) -> list[Figure]:
    """Rates beside those of the peers, and the peak memory of a refresh."""
    with tempfile.TemporaryDirectory() as folder:
        users = scale.of(1_500, 200)
        raw = raw_frame(users, users)
        raw.write_parquet(f"{folder}/raw.parquet", compression="lz4")
        one, two = (
            _in_process(folder, "rates", threads, scale.rounds, with_slow)
            for threads, with_slow in ((1, 1), (2, 0))
        )
        partitions, cohort = scale.of(4, 1), scale.of(USERS_PER_COHORT, 400)
        megabytes = _write_lake(folder, partitions, cohort)
        memory = _in_process(folder, "memory", 2)
    ours, ours_two = one["ours"], two["ours"]
    return [
        Figure(
            "normalize_mb_s",
            ours["mb_s"],
            "MB/s",
            "orjson.loads",
            one["orjson"]["mb_s"],
            target=">= 0.5",
            note="one thread, per second of CPU; three tenths of it read JSON, see the table of stages",
        ),
        Figure(
            "normalize_mb_s_2",
            ours_two["wall_mb_s"],
            "MB/s",
            "orjson.loads",
            two["orjson"]["wall_mb_s"],
            target=">= 0.5",
            note="two threads, per second of the clock",
        ),
        Figure(
            "normalize_rows_s",
            ours["records_s"],
            "records/s",
            "orjson.loads",
            one["orjson"]["records_s"],
            target=">= 0.5",
        ),
        *(
            Figure(name, ours["mb_s"], "MB/s", peer, one[key]["mb_s"], target=target)
            for name, peer, key, target in (
                ("normalize_vs_rows_python", "per-row Python", "rows", ">= 10"),
                ("normalize_vs_json_normalize", "pandas.json_normalize", "pandas", ""),
                ("normalize_vs_dlt", "dlt to Parquet", "dlt", ">= 20"),
            )
        ),
        Figure(
            "normalize_refresh_mb_s",
            megabytes / memory["cpu_s"],
            "MB/s",
            "orjson.loads",
            one["orjson"]["mb_s"],
            note="two threads, per second of CPU: files read, table and quarantine written",
        ),
        Figure(
            "normalize_rss_mb",
            memory["rss_mb"],
            "MB",
            "limit of a run",
            MEMORY_LIMIT_MB,
            better="lower",
            target="<= 1",
            note=f"refresh of {partitions} partitions of {cohort:,} users, {megabytes:,.0f} MB of JSON",
        ),
    ]


# --- bodies


def raw_frame(libre_users: int, nightscout_users: int, first_user: int = 0) -> pl.DataFrame:
    """A day of raw records of so many users, unsorted as segments hold them."""
    from wearable_pipeline.raw.store import RAW_SCHEMA

    libre = _grid("freestyle_libre", libre_users, first_user)
    night = _grid("nightscout", nightscout_users, first_user)
    made = pl.concat(
        [
            _as_raw(libre, "graph", _libre_body(0), _libre_context()),
            _as_raw(libre, "current", _libre_body(1), _libre_context()),
            _as_raw(night, "entries", _entry_body(), pl.lit("{}"), timedelta(seconds=20)),
        ]
    )
    order = ["fetched_at", "provider", "user_id"]
    return pl.concat([made, _revised(made)]).sort(order, maintain_order=True).select(*RAW_SCHEMA)


def _grid(provider: str, users: int, first: int) -> pl.DataFrame:
    """One line per user and reading: when it was taken and what it says."""
    people = pl.DataFrame(
        {
            "user_id": [_user_id(f"{provider}{first + n}") for n in range(users)],
            "seed": range(users),
        },
        schema={"user_id": pl.String, "seed": pl.Int64},
    )
    steps = pl.DataFrame({"step": range(READINGS)}, schema={"step": pl.Int64})
    wave = 45 * (pl.col("step") / 23 + pl.col("seed")).sin()
    wave += 25 * (pl.col("step") / 7.3 + pl.col("seed") * 3).cos()
    return people.join(steps, how="cross").with_columns(
        provider=pl.lit(provider),
        at=pl.lit(MIDNIGHT)
        + pl.col("step") * pl.lit(STEP)
        + pl.duration(seconds=pl.col("seed") * 7919 % 299),
        value=(115 + wave).cast(pl.Int64),
    )


def _user_id(name: str) -> str:
    digest = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-4{digest[13:16]}-a{digest[17:20]}-{digest[20:]}"


def _as_raw(
    grid: pl.DataFrame,
    resource_name: str,
    body: pl.Expr,
    context: pl.Expr,
    changed_after: timedelta | None = None,
) -> pl.DataFrame:
    number = pl.struct("user_id", "step").hash(1)
    changed = pl.lit(changed_after, pl.Duration("us"))
    broken = body.str.replace(r":\d{2,3}([,}])", ':"HI"${1}')
    return grid.with_columns(
        resource=pl.lit(resource_name),
        record_id=pl.concat_str(number, number % 9973).str.slice(0, 24),
        body=pl.when((pl.col("step") * 31 + pl.col("seed")) % 1009 == 17)
        .then(broken)
        .otherwise(body),
        context=context,
        local_date=pl.lit(DAY),
        provider_updated_at=pl.col("at") + changed,
        fetched_at=pl.col("at").dt.truncate("5m") + STEP,
        batch_id=pl.col("at").dt.strftime("sync%H%M"),
        door=pl.lit("poll"),
        is_deleted=pl.lit(value=False),
    ).with_columns(
        content_hash=pl.concat_str(pl.col("body").hash(2), pl.col("body").hash(3)).str.slice(0, 32),
        body=pl.col("body").cast(pl.Binary),
    )


def _revised(made: pl.DataFrame) -> pl.DataFrame:
    """One record in a hundred was corrected a minute later."""
    body = pl.col("body").cast(pl.String).str.replace(r":1\d\d,", ":99,")
    later = timedelta(minutes=1)
    return made.filter(pl.col("step") % 100 == 50).with_columns(
        body=body.cast(pl.Binary),
        content_hash=pl.concat_str(body.hash(4)),
        fetched_at=pl.col("fetched_at") + later,
        provider_updated_at=pl.col("provider_updated_at") + later,
    )


def _libre_body(kind: int) -> pl.Expr:
    at = pl.col("at").dt.strftime(_US_TIME)
    local = (pl.col("at") + timedelta(hours=1)).dt.strftime(_US_TIME)
    arrow = '"TrendArrow":3,"TrendMessage":null,' if kind else ""
    return pl.concat_str(
        pl.lit('{"FactoryTimestamp":"'),
        at,
        pl.lit('","Timestamp":"'),
        local,
        pl.lit(f'","type":{kind},"ValueInMgPerDl":'),
        "value",
        pl.lit(f',{arrow}"MeasurementColor":1,"GlucoseUnits":1,"Value":'),
        "value",
        pl.lit(',"isHigh":false,"isLow":false}'),
    )


def _libre_context() -> pl.Expr:
    number = pl.col("seed")
    return pl.concat_str(
        pl.lit('{"patient_id":"'),
        "user_id",
        pl.lit('","sensor_activation":'),
        number * 7919 + 1_794_000_000,
        pl.lit(',"sensor_pt":4,"sensor_sn":"MH'),
        number + 10_000_000,
        pl.lit('"}'),
    )


def _entry_body() -> pl.Expr:
    at = pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    milliseconds = pl.col("at").dt.epoch("ms")
    number = pl.struct("user_id", "step").hash(7)
    return pl.concat_str(
        pl.lit('{"_id":"'),
        pl.concat_str(number, number % 9973).str.slice(0, 24),
        pl.lit('","date":'),
        milliseconds,
        pl.lit(',"dateString":"'),
        at,
        pl.lit('","sysTime":"'),
        at,
        pl.lit('","utcOffset":60,"type":"sgv","sgv":'),
        "value",
        pl.lit(',"direction":"Flat","noise":1,"device":"xDrip-DexcomG6","filtered":'),
        pl.col("value") * 1000,
        pl.lit(',"unfiltered":'),
        pl.col("value") * 1010,
        pl.lit(',"rssi":100,"app":"xdrip","identifier":"'),
        pl.concat_str(number, number % 9973),
        pl.lit('","srvCreated":'),
        milliseconds + 20_000,
        pl.lit(',"srvModified":'),
        milliseconds + 20_000,
        pl.lit(',"subject":"uploader"}'),
    )


# --- measured in a process of its own


def _in_process(folder: str, what: str, threads: int, *numbers: int) -> dict[str, Any]:
    """What `_rates` or `_memory` found, run with so many polars threads."""
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name if __spec__ else __name__, folder, what]
        + [str(number) for number in numbers],
        env={**os.environ, "POLARS_MAX_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _rates(folder: str, rounds: int, with_slow: int) -> dict[str, dict[str, float]]:
    """MB and records per second of ours and the peers; the methods take turns."""
    raw = pl.read_parquet(f"{folder}/raw.parquet")
    share = raw.sample(fraction=0.25, seed=1) if raw.height > 300_000 else raw
    small = raw.sample(min(raw.height, 15_000), seed=1)
    methods: dict[str, tuple[pl.DataFrame, Callable[[pl.DataFrame], object]]] = {
        "ours": (raw, to_parquet),
        "orjson": (raw, load_with_orjson),
    }
    if with_slow:
        methods |= {
            "rows": (share, to_parquet_by_rows),
            "pandas": (share, to_parquet_with_pandas),
            "dlt": (small, to_parquet_with_dlt),
        }
    took: dict[str, list[tuple[float, float]]] = {}
    to_parquet(raw.head(2_000))  # imports and caches
    for _ in range(rounds):
        for name, (frame, method) in methods.items():
            cpu, clock = time.process_time(), time.perf_counter()
            method(frame)
            found = (time.process_time() - cpu, time.perf_counter() - clock)
            took.setdefault(name, []).append(found)
    rates = {}
    for name, (frame, _) in methods.items():
        megabytes = _body_bytes(frame) / 1e6
        cpu = statistics.median(one[0] for one in took[name])
        clock = statistics.median(one[1] for one in took[name])
        rates[name] = {
            "mb_s": megabytes / cpu,
            "wall_mb_s": megabytes / clock,
            "records_s": frame.height / cpu,
        }
    return rates


def _body_bytes(raw: pl.DataFrame) -> int:
    return int(raw["body"].bin.size().sum())


def to_parquet(raw: pl.DataFrame) -> dict[Partition, bytes]:
    """Ours: canonical, validated, encoded files of the partitions `raw` belongs to."""
    from wearable_pipeline.model import TABLES
    from wearable_pipeline.tables.normalize import normalize
    from wearable_pipeline.tables.refresh import encode_parquet, split_partitions

    rows = normalize(raw, TABLE).rows
    schema = TABLES[TABLE].arrow_schema()
    return {
        cell: encode_parquet(part.to_arrow(), schema)
        for cell, part in split_partitions(rows, Scheme(2)).items()
    }


def load_with_orjson(raw: pl.DataFrame) -> int:
    """The bodies as Python objects, and nothing else."""
    import orjson

    loads = orjson.loads
    count = 0
    for body in raw["body"]:
        loads(body)
        count += 1
    return count


def to_parquet_by_rows(raw: pl.DataFrame) -> bytes:
    """What a careful Python programmer writes without a data frame: one row of samples per user and day."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    newest: dict[tuple[str, str, str, date], tuple[datetime, datetime, bytes, str]] = {}
    columns = (
        "user_id",
        "resource",
        "record_id",
        "local_date",
        "provider_updated_at",
        "fetched_at",
    )
    for user_id, name, record_id, day, updated_at, fetched_at, body, context in raw.select(
        *columns, "body", "context"
    ).iter_rows():
        found = (updated_at or fetched_at, fetched_at, body, context)
        key = (user_id, name, record_id, day)
        if key not in newest or newest[key][:2] < found[:2]:
            newest[key] = found
    merged: dict[tuple[str, date], dict[datetime, dict[str, object]]] = {}
    rejected = []
    for (user_id, name, record_id, day), (_, _, body, context) in newest.items():
        try:
            fields = json.loads(body)
            sample = _entry(fields) if name == "entries" else _reading(fields, json.loads(context))
        except (ValueError, KeyError, TypeError) as error:
            rejected.append((user_id, record_id, str(type(error))))
            continue
        samples = merged.setdefault((user_id, day), {})
        other = samples.get(sample["timestamp"])
        if other is None:
            samples[sample["timestamp"]] = sample
        else:
            for field, value in sample.items():
                if other.get(field) is None:
                    other[field] = value
    rows = [
        {
            "user_id": user_id,
            "local_date": day,
            "glucose_blood_glucose_samples": [samples[at] for at in sorted(samples)],
        }
        for (user_id, day), samples in sorted(merged.items())
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, compression="zstd")
    return buffer.getvalue()


def _reading(fields: dict[str, Any], context: dict[str, Any]) -> dict[str, Any]:
    taken_at = datetime.strptime(fields["FactoryTimestamp"], _US_CLOCK).replace(tzinfo=UTC)
    local = datetime.strptime(fields["Timestamp"], _US_CLOCK).replace(tzinfo=UTC)
    value = _checked(fields["ValueInMgPerDl"])
    return {
        "timestamp": taken_at,
        "local_timestamp": local.replace(tzinfo=None),
        "blood_glucose_mg_per_dl": value,
        "glucose_level_flag": "high" if fields["isHigh"] else "low" if fields["isLow"] else None,
        "trend_arrow": {1: "falling_quickly", 2: "falling", 3: "flat"}.get(
            fields.get("TrendArrow")
        ),
        "native_value": float(fields["Value"]),
        "native_unit": "mg/dL" if fields["GlucoseUnits"] else "mmol/L",
        "sample_kind": "cgm",
        "device_id": context.get("sensor_sn"),
    }


def _entry(fields: dict[str, Any]) -> dict[str, Any]:
    taken_at = datetime.fromtimestamp(fields["date"] / 1000, UTC)
    value = _checked(fields["sgv"])
    return {
        "timestamp": taken_at,
        "local_timestamp": (taken_at + timedelta(minutes=fields["utcOffset"])).replace(tzinfo=None),
        "blood_glucose_mg_per_dl": value,
        "trend_arrow": fields["direction"].lower(),
        "native_value": value,
        "native_unit": "mg/dL",
        "sample_kind": "cgm",
        "native_trend": fields["direction"],
        "device_id": fields["device"],
    }


def _checked(value: object) -> float:
    number = float(value)  # type: ignore[arg-type]
    if not 0 < number <= 1000:
        raise ValueError("out of bounds")
    return number


def to_parquet_with_pandas(raw: pl.DataFrame) -> bytes:
    """`pandas.json_normalize` of the decoded bodies, written as they come."""
    import pandas as pd

    decoded = []
    for body, user_id in raw.select("body", "user_id").iter_rows():
        fields = json.loads(body)
        fields["user_id"] = user_id
        decoded.append(fields)
    frame = pd.json_normalize(decoded)
    # A column with numbers and words among them has no type in Parquet.
    mixed = [name for name in frame.columns if frame[name].dtype == object]
    frame[mixed] = frame[mixed].astype("string")
    buffer = io.BytesIO()
    frame.to_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def to_parquet_with_dlt(raw: pl.DataFrame) -> None:
    """dlt's filesystem destination with Parquet files."""
    import dlt

    def items(name: str) -> Iterator[dict[str, Any]]:
        for body, user_id in (
            raw.filter(pl.col("resource") == name).select("body", "user_id").iter_rows()
        ):
            yield {**json.loads(body), "user_id": user_id}

    with tempfile.TemporaryDirectory() as folder:
        pipeline = dlt.pipeline(
            "bench",
            pipelines_dir=f"{folder}/state",
            destination=dlt.destinations.filesystem(Path(f"{folder}/out").as_uri()),
            dataset_name="raw",
        )
        pipeline.run(
            [dlt.resource(items(name), name=name) for name in ("graph", "current", "entries")],
            loader_file_format="parquet",
        )


def _write_lake(folder: str, partitions: int, users: int) -> float:
    """Raw of so many partitions, four segments each; returns MB of JSON."""
    from wearable_pipeline.lake.layout import partition_prefix, raw_root

    megabytes = 0.0
    for number in range(partitions):
        cell = Partition(DAY, f"s{number:02d}")
        made = raw_frame(users, 0, first_user=number * users)
        # Whom a shard belongs to is not asked again when it is read.
        prefix = Path(folder, "lake", partition_prefix(raw_root("freestyle_libre"), cell))
        prefix.mkdir(parents=True)
        for segment in range(4):
            part = made.slice(segment * made.height // 4, -(-made.height // 4))
            # In order of users and in small row groups, as the store writes them.
            part.sort("user_id", maintain_order=True).write_parquet(
                prefix / f"{segment}.parquet", compression="zstd", row_group_size=32_768
            )
        megabytes += _body_bytes(made) / 1e6
    return megabytes


def _memory(folder: str) -> dict[str, float]:
    """Peak memory of refreshing every partition of the lake, and CPU seconds it took."""
    from wearable_pipeline.lake.storage import Storage
    from wearable_pipeline.raw.store import RawStore
    from wearable_pipeline.settings import load_settings
    from wearable_pipeline.tables.refresh import refresh_in_parts
    from wearable_pipeline.workspace import Lake

    storage = Storage.open(f"{folder}/lake", load_settings())
    scheme = Scheme(COHORTS)
    raw = RawStore(storage, scheme)
    to_parquet(raw_frame(2, 2))  # imports and caches
    before = time.process_time()
    lake = Lake(storage, raw, scheme)
    done = 0
    for part in refresh_in_parts(lake, TABLE, raw.partitions("freestyle_libre")):
        done += len(part.done)
    return {
        "cpu_s": time.process_time() - before,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "partitions": done,
    }


if __name__ == "__main__":
    folder, what, *numbers = sys.argv[1:]
    measured: object = _memory(folder) if what == "memory" else _rates(folder, *map(int, numbers))
    print(json.dumps(measured))  # noqa: T201 - the answer to the process that asked
