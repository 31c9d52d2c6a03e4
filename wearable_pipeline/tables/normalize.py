"""Raw records → canonical rows: the pure function everything right of raw hangs on.

Latest revision per record → typed frame → reject rules → mapping → samples merged per key → one row per
natural key → canonical validation. All users of a batch go through together; nothing loops over rows.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from zoneinfo import available_timezones

import polars as pl

from wearable_pipeline import __version__
from wearable_pipeline.model import TABLES
from wearable_pipeline.model.columns import LOCAL, Column, Table
from wearable_pipeline.model.time import (
    Pair,
    day_in_zone,
    day_with_offset,
    offset_seconds,
    pair_from_instant,
    sort_key,
)
from wearable_pipeline.providers import providers
from wearable_pipeline.providers._contract import Provider, Reject, Resource, Samples, Scalars
from wearable_pipeline.raw.store import latest_revisions
from wearable_pipeline.tables.parse import REJECTED_SCHEMA, parse, reject

# Part of every row: a new version makes every partition stale.
CODE_VERSION = __version__

# Best first: how sure we are of a time zone.
_TZ_SOURCES = ("provider", "profile", "inferred", "unknown")


@dataclass(frozen=True, slots=True)
class Normalized:
    """Canonical rows of one table, what was left out, and counts for the run's metadata."""

    rows: pl.DataFrame
    rejected: pl.DataFrame
    records: int
    merged: int


# A bound that moved with the wall clock would make a rebuild differ: the fetch of the record is the limit.
_RULES_OF_TIME = (
    Reject(
        "time: missing or not a date",
        pl.col("timestamp").is_null() & pl.col("local_timestamp").is_null(),
    ),
    Reject(
        "time: before the year 2000",
        pl.coalesce(pl.col("timestamp").dt.replace_time_zone(None), "local_timestamp").dt.year()
        < 2000,
    ),
    Reject(
        "time: more than a day after it was fetched",
        pl.coalesce(pl.col("timestamp").dt.replace_time_zone(None), "local_timestamp")
        > pl.col("fetched_at").dt.replace_time_zone(None).dt.offset_by("1d"),
    ),
)


_NO_BOUND = datetime(9000, 1, 1, tzinfo=UTC)


def tables_fed_by(provider: Provider) -> set[str]:
    """Names of the tables a provider has a mapping to."""
    return {mapping.table for resource in provider.resources for mapping in resource.tables}


def providers_feeding(table: str) -> list[str]:
    """Names of the providers that have a mapping to `table`."""
    return sorted(
        name for name, provider in providers().items() if table in tables_fed_by(provider)
    )


def normalize(raw: pl.DataFrame, table_name: str) -> Normalized:
    """Rows of `table_name` made from `raw` (all revisions, any users, dates and providers)."""
    table = TABLES[table_name]
    living = latest_revisions(raw)
    alive = ~living["is_deleted"]
    if not alive.all(ignore_nulls=False):
        living = living.filter(alive)
    # Every column is copied when resources are told apart.
    living = living.drop("is_deleted", "door", "provider_updated_at")
    parts: list[_Part] = []
    rejected: list[pl.DataFrame] = []
    counted = numbered = 0
    number = _number_of_cell(living)
    # In order of their names: of equals the first wins, and which one that is must not depend on who
    # else is in the batch.
    for (provider_name, resource_name), records in sorted(
        living.partition_by("provider", "resource", as_dict=True).items(),
        key=lambda found: [str(name) for name in found[0]],
    ):
        resource = _resource(str(provider_name), str(resource_name))
        mappings = [m for m in resource.tables if m.table == table_name] if resource else []
        if resource is None or not mappings:
            continue
        typed, left_out = _type_and_check(records, resource)
        typed = typed.with_columns(
            pl.int_range(numbered, numbered + typed.height).alias(_LINE), number.alias(_CELL)
        )
        counted += records.height
        # A record may have become several lines.
        numbered += typed.height
        rejected.append(left_out)
        parts.extend(_apply(mapping, typed, table) for mapping in mappings)
    if not any(part.frame.height for part in parts):
        return Normalized(table.empty(), _concat_rejected(rejected), counted, 0)
    rows, merged = _assemble(table, parts)
    # The future is bounded per record above; a bound by the wall clock would make a rebuild differ.
    from wearable_pipeline.model.validation import validate  # 80 MB of pandera no sensor needs

    checked = validate(table, rows, now=_NO_BOUND)
    rejected.append(_canonical_rejects(checked.rejected, rows))
    return Normalized(checked.good, _concat_rejected(rejected), counted, merged)


@dataclass(frozen=True, slots=True)
class _Part:
    """What one mapping made: one line per record, with the envelope.

    `is_whole`: there is a line for every record of the resource.
    """

    mapping: Samples | Scalars
    frame: pl.DataFrame
    is_whole: bool


# Number of the record among all records of a batch.
_LINE = "line\x00"
# Ends the name of a column of the envelope as records themselves state it.
_SAID = "\x00said"
# Number of the row a record goes to.
_CELL = "cell\x00"


def _number_of_cell(living: pl.DataFrame) -> pl.Expr:
    """One number for user and date, in order of both: comparing those makes grouping and sorting cheap."""
    users = pl.Enum(living["user_id"].unique().sort())
    days = living["local_date"].to_physical().cast(pl.Int64)
    first, last = days.min(), days.max()
    if not isinstance(first, int) or not isinstance(last, int):
        return pl.lit(0, pl.Int64)  # nobody is there to be numbered
    user = pl.col("user_id").cast(users).to_physical().cast(pl.Int64)
    return user * (last - first + 1) + (pl.col("local_date").to_physical() - first)


_ENVELOPE = (
    "user_id",
    "provider",
    "local_date",
    "resource",
    "record_id",
    "fetched_at",
    "revised_at",
    "first_seen_at",
    "revisions",
    "batch_id",
    "timestamp",
    "local_timestamp",
    "timezone",
    "tz_source",
)


def _resource(provider_name: str, resource_name: str) -> Resource | None:
    provider = providers().get(provider_name)
    if provider is None:
        return None
    try:
        return provider.resource(resource_name)
    except KeyError:
        return None


def _type_and_check(records: pl.DataFrame, resource: Resource) -> tuple[pl.DataFrame, pl.DataFrame]:
    parsed = parse(records, resource)
    typed = resource.prepare(parsed.typed)
    reason = pl.concat_str(
        [
            pl.when(rule.when).then(pl.lit(rule.reason))
            for rule in (*resource.rejects, *_RULES_OF_TIME)
        ],
        separator="; ",
        ignore_nulls=True,
    )
    reasons = typed.select(reason.alias("reason"))["reason"]
    bad = reasons.fill_null("") != ""
    if not bad.any():
        return typed, parsed.rejected
    broken = reject(typed.filter(bad).with_columns(reasons.filter(bad)), pl.col("reason"))
    return typed.filter(~bad), pl.concat([parsed.rejected, broken])


def _apply(mapping: Samples | Scalars, typed: pl.DataFrame, table: Table) -> _Part:
    records = typed.height
    if mapping.where is not None:
        fits = typed.select(mapping.where.fill_null(value=False).alias("fits")).to_series()
        if not fits.all():
            typed = typed.filter(fits)
    if isinstance(mapping, Samples):
        column = table.column(mapping.column)
        fields = {field.name: field.dtype for field in column.fields}
        targets = {**_sample_time(column), **mapping.fields}
    else:
        targets = dict(mapping.columns)
        fields = {name: table.column(name).dtype for name in targets}
    unknown = set(targets) - set(fields)
    if unknown:
        raise KeyError(f"{table.name}: no column for {sorted(unknown)}")
    frame = typed.select(
        _LINE,
        _CELL,
        *_ENVELOPE,
        *_session_key(mapping, table),
        *(expression.cast(fields[name]).alias(f"={name}") for name, expression in targets.items()),
    )
    return _Part(mapping, frame, frame.height == records)


def _session_key(mapping: Samples | Scalars, table: Table) -> list[pl.Expr]:
    """What names the row besides user and date, in tables of sessions."""
    known = {**(mapping.columns if isinstance(mapping, Scalars) else {}), **mapping.key}
    return [
        known[name].cast(table.column(name).dtype).alias(name)
        for name in table.row_key
        if name not in _ENVELOPE
    ]


def _sample_time(column: Column) -> dict[str, pl.Expr]:
    """The record's own moment as the moment of its sample."""
    time = column.time
    if time is None:
        return {}
    pair = {time.name: pl.col("timestamp")}
    if time.partner:
        pair[time.partner] = pl.col("local_timestamp")
    return pair


def _assemble(table: Table, parts: list[_Part]) -> tuple[pl.DataFrame, int]:
    """One row per natural key from all parts; also how many records were merged into another."""
    # The date is part of it in every table: a partition must not depend on what is read beside it.
    key = list(dict.fromkeys((*table.row_key, "local_date")))
    session_key = [name for name in key if name not in ("user_id", "local_date")]
    parts = _number_rows(_join_main(parts, session_key), session_key)
    merged = 0
    by_column: dict[str, list[pl.DataFrame]] = {}
    scalars: list[pl.DataFrame] = []
    for part in parts:
        if isinstance(part.mapping, Samples):
            by_column.setdefault(part.mapping.column, []).append(part.frame)
        else:
            scalars.append(part.frame)
    rows = _envelope(_lines_once(parts, key), key).sort(key)
    for name, found in by_column.items():
        column = table.column(name)
        samples = pl.concat(
            [frame.select(_CELL, *_AGE, pl.selectors.starts_with("=")) for frame in found],
            how="diagonal",
            rechunk=True,
        )
        unique = _merge_samples(samples, column)
        merged += samples.height - unique.height
        elements = unique.group_by(_CELL, maintain_order=True).agg(
            pl.struct(
                pl.col(f"={field.name}").alias(field.name)
                if f"={field.name}" in unique.columns
                else pl.lit(None, field.dtype).alias(field.name)
                for field in column.fields
            ).alias(name)
        )
        if elements[_CELL].equals(rows[_CELL]):
            rows = rows.with_columns(elements[name])
        else:
            rows = rows.join(elements, on=_CELL, how="left", maintain_order="left")
    if scalars:
        newest = _merge_scalars(pl.concat(scalars, how="diagonal"), key)
        both = [name for name in newest.columns if name in rows.columns and name != _CELL]
        rows = rows.join(newest, on=_CELL, how="left", maintain_order="left", suffix=_SAID)
        rows = rows.with_columns(
            pl.when(_is_named(parts, name)).then(f"{name}{_SAID}").otherwise(name).alias(name)
            for name in both
        ).drop(f"{name}{_SAID}" for name in both)
    offset = offset_seconds(pl.col("start_at"), pl.col("local_start_at"))
    if "utc_offset_seconds" in rows.columns:
        offset = (
            pl.when(_is_named(parts, "utc_offset_seconds"))
            .then("utc_offset_seconds")
            .otherwise(offset)
        )
    rows = rows.with_columns(offset.alias("utc_offset_seconds"))
    return table.conform(rows), merged


def _is_named(parts: list[_Part], name: str) -> pl.Expr:
    """Whether a record of the row itself speaks of `name`: other rows' records have no say in it."""
    cells = [
        part.frame[_CELL]
        for part in parts
        if isinstance(part.mapping, Scalars) and name in part.mapping.columns
    ]
    if not cells:
        return pl.lit(value=False)
    return pl.col(_CELL).is_in(pl.concat(cells).unique().implode())


def _join_main(parts: list[_Part], session_key: list[str]) -> list[_Part]:
    """`parts` where what is of a day's main session goes by its name, if the day has exactly one."""
    if not any(part.mapping.joins_main for part in parts):
        return parts
    key = [_CELL, *session_key]
    sessions = [
        part.frame.select(
            *key,
            (
                pl.col(_IS_NAP).fill_null(value=False)
                if _IS_NAP in part.frame.columns
                else pl.lit(value=False)
            ).alias(_IS_NAP),
        )
        for part in parts
        if not part.mapping.joins_main
    ]
    if not sessions:
        return parts
    mains = pl.concat(sessions).group_by(key).agg(pl.col(_IS_NAP).any())
    only = mains.filter(~pl.col(_IS_NAP)).filter(pl.len().over(_CELL) == 1)
    named = only.select(_CELL, *(pl.col(name).alias(f"{name}{_SAID}") for name in session_key))
    return [
        _Part(
            part.mapping,
            part.frame.join(named, on=_CELL, how="left", maintain_order="left")
            .with_columns(pl.coalesce(f"{name}{_SAID}", name).alias(name) for name in session_key)
            .drop(f"{name}{_SAID}" for name in session_key),
            part.is_whole,
        )
        if part.mapping.joins_main
        else part
        for part in parts
    ]


_IS_NAP = "=metadata_is_nap"


def _number_rows(parts: list[_Part], session_key: list[str]) -> list[_Part]:
    """`parts` with one number for the whole key of a row, where that is more than user and date."""
    if not session_key:
        return parts
    key = [_CELL, *session_key]
    number = pl.concat([part.frame.select(key) for part in parts]).unique().with_row_index(_ROW)
    return [
        _Part(
            part.mapping,
            part.frame.join(number, on=key, how="left", nulls_equal=True, maintain_order="left")
            .drop(_CELL)
            .rename({_ROW: _CELL}),
            part.is_whole,
        )
        for part in parts
    ]


_ROW = "row\x00"


def _lines_once(parts: list[_Part], key: list[str]) -> pl.DataFrame:
    """The envelope of every record that went anywhere; of one that went to several rows the first."""
    named = list(dict.fromkeys((_LINE, _CELL, *_ENVELOPE, *key)))
    lines: list[pl.DataFrame] = []
    complete: set[tuple[object, object]] = set()
    is_once = True
    seen: set[tuple[object, object]] = set()
    for part in parts:
        if part.frame.is_empty():
            continue
        resource = part.frame.select("provider", "resource").row(0)
        if resource in complete:
            continue
        is_once &= resource not in seen
        seen.add(resource)
        if part.is_whole:
            complete.add(resource)
        lines.append(part.frame.select(named))
    found = pl.concat(lines)
    return found if is_once else found.unique(_LINE, keep="first", maintain_order=True)


_AT = "at\x00"
_RUN = "run\x00"
_AGE = ("revised_at", "fetched_at", "record_id")


def _merge_samples(samples: pl.DataFrame, column: Column) -> pl.DataFrame:
    """One line per sample key, sorted in time; of twins the newest wins, field by field.

    A field the newest does not have is taken from the older twin: a graph point without a trend must not
    erase the trend the live reading came with. Twins share user, moment, kind and device; a reading whose
    device is not named is the twin of the one at the same moment whose device is.
    """
    fields = [name for name in samples.columns if name.startswith("=")]
    own = [f"={name}" for name in column.sample_key if f"={name}" in fields]
    if "device_id" in column.kind and "=device_id" in fields:
        samples = _with_named_devices(samples, [_CELL, *(n for n in own if n != "=device_id")])
    time = column.time
    if time is None:
        merged = _fold_any(samples.with_columns(pl.lit(0).alias(_RUN)), own, fields)
        return merged.sort(_CELL, *fields, nulls_last=True)
    at = sort_key(pl.col(f"={time.name}"), pl.col(f"={time.partner}")).alias(_AT)
    ordered = _in_time(samples.select(_CELL, *_AGE, *fields, at))

    def goes_on(*names: str) -> pl.Expr:
        return pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift(-1)) for name in names)

    meets = ordered.select(goes_on(_CELL, _AT).alias("meets")).to_series()
    # The last line of all compares with nothing.
    meets = meets & (pl.int_range(len(meets), eager=True) < len(meets) - 1)
    if not meets.any():
        return ordered.select(_CELL, *fields)
    ordered = ordered.with_columns((~meets.shift(1, fill_value=False)).cum_sum().alias(_RUN))
    # Lines of one moment that are no twins, or whose age does not say which is the newer.
    is_simple = goes_on(*own) & (~goes_on("revised_at", "fetched_at") | goes_on("record_id"))
    tangled = ordered.filter(meets & ~ordered.select(is_simple.alias("simple")).to_series())[_RUN]
    if tangled.is_empty():
        return _fold_runs(ordered, fields).select(_CELL, *fields)
    is_tangled = pl.col(_RUN).is_in(tangled.unique().implode())
    others = _fold_any(ordered.filter(is_tangled), own, fields).sort(_RUN, *own, nulls_last=True)
    both = pl.concat([_fold_runs(ordered.filter(~is_tangled), fields), others])
    return both.sort(_RUN, maintain_order=True).select(_CELL, *fields)


_ORDER = "order\x00"
_MOMENT = "moment\x00"
_HIGHEST = 1 << 62


def _in_time(samples: pl.DataFrame) -> pl.DataFrame:
    """`samples` of each cell in order of time; of one moment the newest first, else as they come."""
    order = _order_of_time(samples)
    if order is not None:
        return samples[order]
    return samples.sort(
        *(_CELL, _AT, "revised_at", "fetched_at"),
        descending=[False, False, True, True],
        nulls_last=[False, True, True, True],
        maintain_order=True,
    )


def _order_of_time(samples: pl.DataFrame) -> pl.Series | None:
    """The order `_in_time` makes, where cell and moment fit into one number and few share one.

    Sorting by that number costs a third of sorting by all columns.
    """
    cell, at = samples[_CELL].cast(pl.Int64), samples[_AT].to_physical()
    first, last, cells = at.min(), at.max(), cell.max()
    if not isinstance(first, int) or not isinstance(last, int) or not isinstance(cells, int):
        return None
    span = last - first + 1
    if at.null_count() or (cells + 1) * span > _HIGHEST:
        return None
    moments = samples.select(
        (cell * span + (at - first)).alias(_MOMENT), "revised_at", "fetched_at"
    )
    order = moments.select(pl.arg_sort_by(_MOMENT, maintain_order=True).alias(_ORDER)).to_series()
    revised, fetched = pl.col("revised_at"), pl.col("fetched_at")
    is_newer = (revised > revised.shift(-1)) | (
        (revised == revised.shift(-1)) & (fetched >= fetched.shift(-1))
    )
    pairs = moments[order].select(
        (pl.col(_MOMENT) == pl.col(_MOMENT).shift(-1)).fill_null(value=False).alias("meets"),
        is_newer.fill_null(value=False).alias("is_newer"),
    )
    meets = pairs["meets"]
    turned = meets & ~pairs["is_newer"]
    if not turned.any():
        return order
    if (turned & (meets.shift(1, fill_value=False) | meets.shift(-1, fill_value=False))).any():
        return None  # three of one moment and more
    return pl.select(
        pl.when(turned)
        .then(order.shift(-1))
        .when(turned.shift(1, fill_value=False))
        .then(order.shift(1))
        .otherwise(order)
    ).to_series()


def _with_named_devices(samples: pl.DataFrame, moment: list[str]) -> pl.DataFrame:
    """`samples` where one without a device has the device that is named at the same `moment`."""
    device = pl.col("=device_id")
    unnamed = samples.filter(device.is_null())
    if unnamed.height in (0, samples.height):
        return samples
    named = (
        samples.filter(device.is_not_null())
        .join(unnamed.select(moment), on=moment, how="semi", nulls_equal=True)
        .group_by(moment)
        .agg(device.max().alias(_ROW))
    )
    if named.is_empty():
        return samples
    return (
        samples.join(named, on=moment, how="left", nulls_equal=True, maintain_order="left")
        .with_columns(device.fill_null(pl.col(_ROW)))
        .drop(_ROW)
    )


def _fold_runs(ordered: pl.DataFrame, fields: list[str]) -> pl.DataFrame:
    """The first line of every run, its nulls filled from the first line after it that has a value."""
    longest = ordered[_RUN].rle().struct.field("len").max() if ordered.height else 0
    open_fields = [name for name in fields if 0 < ordered[name].null_count() < ordered.height]
    step = 1
    while isinstance(longest, int) and step < longest and open_fields:
        # Each round looks twice as far.
        inside = pl.col(_RUN) == pl.col(_RUN).shift(-step)
        ordered = ordered.with_columns(
            pl.coalesce(name, pl.when(inside).then(pl.col(name).shift(-step)))
            for name in open_fields
        )
        step *= 2
    is_first = (pl.col(_RUN) != pl.col(_RUN).shift(1)).fill_null(value=True)
    return ordered.select(_CELL, _RUN, *fields).filter(is_first)


def _fold_any(samples: pl.DataFrame, own: list[str], fields: list[str]) -> pl.DataFrame:
    """One line per run and sample key, whatever else is in the run."""
    identity = list(dict.fromkeys([_CELL, _RUN, *own]))
    return (
        samples.sort(*_AGE, descending=True, maintain_order=True)
        .group_by(identity, maintain_order=True)
        .agg(pl.col(name).drop_nulls().first() for name in fields if name not in identity)
        .select(_CELL, _RUN, *fields)
    )


def _merge_scalars(scalars: pl.DataFrame, key: list[str]) -> pl.DataFrame:
    """The newest non-null value of every column per row."""
    names = [name for name in scalars.columns if name.startswith("=") and name[1:] not in key]
    said = scalars.select(_CELL, *names)
    if not any(dtype.is_nested() for dtype in said.dtypes):
        # What every record of a day repeats (its device) has no newest.
        said = said.unique()
        several = said.filter(pl.col(_CELL).is_duplicated())[_CELL].unique().implode()
        alone = said.filter(~pl.col(_CELL).is_in(several))
        scalars = scalars.filter(pl.col(_CELL).is_in(several))
    else:
        alone = said.clear()
    newest = (
        scalars.sort(*_AGE, descending=True, maintain_order=True)
        .group_by(_CELL, maintain_order=True)
        .agg(pl.col(name).drop_nulls().first() for name in names)
    )
    return pl.concat([alone, newest]).rename({name: name[1:] for name in names})


def _envelope(lines: pl.DataFrame, key: list[str]) -> pl.DataFrame:
    """Key, time frame and provenance of every row."""
    rank = {name: number for number, name in enumerate(_TZ_SOURCES)}
    offset = offset_seconds(pl.col("timestamp"), pl.col("local_timestamp"))
    lines = lines.with_columns(
        offset.alias("offset"),
        pl.when(offset.is_not_null()).then(pl.col("timestamp")).alias(_AT),
        pl.col("tz_source").replace_strict(rank, return_dtype=pl.Int8),
    )
    rows = lines.group_by(_CELL).agg(
        *(pl.col(name).first() for name in (*key, "provider")),
        first_offset=pl.col("offset").min(),
        last_offset=pl.col("offset").max(),
        # A moment with an offset is sorted by its instant.
        first_at=pl.col(_AT).min(),
        has_instant=pl.col("timestamp").is_not_null().any(),
        timezone=pl.col("timezone").min(),
        other_zone=pl.col("timezone").max(),
        tz_source=pl.col("tz_source").min(),
        source_record_ids=pl.col("record_id").unique().sort(),
        revision=pl.col("revisions").sum().cast(pl.Int32),
        first_seen_at=pl.col("first_seen_at").min(),
        updated_at=pl.col("fetched_at").max(),
        batch_ids=pl.col("batch_id").unique().sort(),
    )
    travelled = (pl.col("first_offset") != pl.col("last_offset")) | (
        pl.col("timezone") != pl.col("other_zone")
    )
    moved = rows.filter(travelled)[_CELL]
    if not moved.is_empty():
        rows = rows.update(_in_order(lines.filter(pl.col(_CELL).is_in(moved.implode()))), on=_CELL)
    return rows.with_columns(
        *_day_bounds(sorted(set(rows["timezone"].drop_nulls()) & _known_zones())),
        pl.col("tz_source").replace_strict(dict(enumerate(_TZ_SOURCES)), return_dtype=pl.String),
        pl.lit(CODE_VERSION).alias("code_version"),
    ).with_columns(
        pl.when(pl.col("local_start_at").is_null())
        .then(pl.lit("utc"))
        .otherwise(pl.lit("local"))
        .alias("metadata_timestamp_localization"),
    )


def _in_order(lines: pl.DataFrame) -> pl.DataFrame:
    """Offsets at both ends and the last zone of rows in which they changed."""
    return (
        lines.sort(
            sort_key(pl.col("timestamp"), pl.col("local_timestamp")),
            "record_id",
            "resource",
            nulls_last=True,
        )
        .group_by(_CELL, maintain_order=True)
        .agg(
            first_offset=pl.col("offset").drop_nulls().first(),
            last_offset=pl.col("offset").drop_nulls().last(),
            timezone=pl.col("timezone").drop_nulls().last(),
        )
    )


@cache
def _known_zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _day_bounds(zones: list[str]) -> list[pl.Expr]:
    """Local midnight to local midnight, as far as it is known.

    By the zone where there is one, else by the offsets of the day's first and last record. Without an
    offset the day is the UTC day of instants, or a day on some wall calendar without instants.
    """
    day = pl.col("local_date")
    utc_day = (
        pair_from_instant(day.cast(LOCAL).dt.replace_time_zone("UTC")),
        pair_from_instant(day.dt.offset_by("1d").cast(LOCAL).dt.replace_time_zone("UTC")),
    )
    # Null offsets leave the instants null: a day on some wall calendar.
    by_offset = day_with_offset(day, pl.col("first_offset"), pl.col("last_offset"))
    by_zone = {zone: day_in_zone(day, zone) for zone in zones}

    def choose(end: int, half: str) -> pl.Expr:
        def of(bounds: tuple[Pair, Pair]) -> pl.Expr:
            expression: pl.Expr = getattr(bounds[end], half)
            return expression

        chosen = (
            pl.when(pl.col("first_offset").is_null() & pl.col("has_instant"))
            .then(of(utc_day))
            .otherwise(of(by_offset))
        )
        for zone, bounds in by_zone.items():
            # Somebody away from the zone of their profile: what was observed counts.
            there = pair_from_instant(pl.col("first_at"), zone)
            fits = (
                offset_seconds(there.timestamp, there.local_timestamp) == pl.col("first_offset")
            ).fill_null(value=True)
            chosen = pl.when((pl.col("timezone") == zone) & fits).then(of(bounds)).otherwise(chosen)
        return chosen

    return [
        choose(0, "timestamp").alias("start_at"),
        choose(0, "local_timestamp").alias("local_start_at"),
        choose(1, "timestamp").alias("end_at"),
        choose(1, "local_timestamp").alias("local_end_at"),
    ]


def _canonical_rejects(rejected: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Rejections of the canonical check in the shape of the quarantine."""
    if rejected.is_empty():
        return REJECTED_SCHEMA.to_frame()
    return (
        rejected.join(
            rows.select("user_id", "local_date", "provider", fetched_at="updated_at").unique(
                subset=["user_id", "local_date"], keep="last", maintain_order=True
            ),
            on=["user_id", "local_date"],
            how="left",
            maintain_order="left",
        )
        .with_columns(
            resource=pl.lit(None, pl.String),
            record_id=pl.lit(None, pl.String),
            content_hash=pl.lit(None, pl.String),
            reason=pl.format("{}: {}", "column", "reason"),
        )
        .select(*REJECTED_SCHEMA)
    )


def _concat_rejected(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat([REJECTED_SCHEMA.to_frame(), *frames]).sort(
        "user_id", "local_date", "provider", "resource", "record_id", "reason", nulls_last=True
    )


def reasons_of(rejected: pl.DataFrame) -> Mapping[str, int]:
    """How often each reason occurs, most frequent first; free of values and ids."""
    counts = rejected.group_by("reason").len().sort("len", "reason", descending=[True, False])
    return {str(reason): int(count) for reason, count in counts.rows()}
