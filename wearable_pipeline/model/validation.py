"""What may stand in a table: pandera schemas made from the declaration, and the fate of the rest.

A bad sample costs that sample, a bad value that value, a bad key or time the row. Everything left
out is reported; reasons name columns and bounds, never a measured value.

Samples and laps of a session (activity, sleep) lie inside it, or up to `SESSION_TOLERANCE` before or after:
some sources know a night by its date alone, and clocks of sensor and session differ by whole zones. Further
away they are another session's: the sample is refused, the session stays.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from zoneinfo import available_timezones

import pandera.polars as pa
import polars as pl
from pandera.errors import SchemaErrors

from wearable_pipeline.model.columns import INSTANT, Bounds, Column, Table
from wearable_pipeline.model.time import format_pair, sort_key

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
# Clocks of devices run ahead; sensors do not report tomorrow.
AHEAD = timedelta(days=1)
# The furthest zone from UTC is 14 hours ahead.
LOCAL_AHEAD = AHEAD + timedelta(hours=14)
WIDEST_OFFSET = timedelta(hours=18)
# Devices start before the button is pressed and watch the heart recover; zones differ by more.
SESSION_TOLERANCE = timedelta(days=1)

_ROW = "_row"
_MISSING = "not_nullable"


@dataclass(frozen=True, slots=True)
class Validated:
    """A frame that keeps every promise of its table, and what had to go.

    `rejected` has the row's key columns (null where they are missing), `scope` (what was left out:
    row, value or sample), `column`, `sample_at` (its time as text) and `reason`. `flags` has the
    key columns, `column`, `reason` and how many `samples` were kept though they are unusual.
    """

    good: pl.DataFrame
    rejected: pl.DataFrame
    flags: pl.DataFrame


def validate(table: Table, frame: pl.DataFrame, *, now: datetime | None = None) -> Validated:
    """Sort out of `frame` what the table does not admit; rows keep their order.

    Samples come back sorted by time, lists left without elements as null. Raises TypeError when a
    column is missing or of another type: that is a fault of the program, not of the data.
    """
    now = now or datetime.now(UTC)
    _require_types(table, frame)
    rows = (
        frame.select(_types(table).names())
        .rechunk()
        .with_row_index(_ROW)
        .with_columns(_filled(table.columns))
    )
    found: list[pl.DataFrame] = []
    session = None if "local_date" in table.row_key or not table.is_dated else rows.select(*_SPAN)
    # Tables are wide and rows speak of little: what is null throughout is not looked at.
    told = {name for name in rows.columns if rows[name].null_count() < rows.height}
    for column in table.lists:
        if column.name in told:
            rows, left_out = _validate_list(rows, column, column.name, now, session)
            found.append(left_out)
    rows = rows.with_columns(
        pl.when(pl.col(column.name).list.len() > 0).then(pl.col(column.name))
        for column in table.columns
        if column.is_list and not column.fields and column.name in told
    )
    rows, left_out = _validate_values(rows, table, now)
    found.append(left_out)
    doomed = left_out.filter(pl.col("scope") == "row")[_ROW]
    good = _without(rows, doomed)
    repeated = _repeated_keys(good, table)
    found.append(repeated)
    good = _without(good, repeated[_ROW])
    keys = _key_columns(table)
    named = frame.with_row_index(_ROW).select(_ROW, *keys)
    rejected = pl.concat(found).join(named, on=_ROW, how="left", maintain_order="left")
    return Validated(
        good.drop(_ROW),
        rejected.sort(_ROW, maintain_order=True).select(
            *keys, "scope", "column", "sample_at", "reason"
        ),
        _flags(good.drop(_ROW), table),
    )


def _without(rows: pl.DataFrame, numbers: pl.Series) -> pl.DataFrame:
    return rows if numbers.is_empty() else rows.filter(~pl.col(_ROW).is_in(numbers.implode()))


def table_schema(table: Table, now: datetime) -> pa.DataFrameSchema:
    """Pandera schema of the row: types, bounds, code lists, times; lists have `sample_schema`."""
    columns = {rule.column.name: rule.as_pandera() for rule in _table_rules(table, now)}
    return pa.DataFrameSchema(columns, strict=True, ordered=True, name=table.name)


def sample_schema(column: Column, now: datetime) -> pa.DataFrameSchema:
    """Pandera schema of the elements of a list, one per line."""
    return pa.DataFrameSchema(
        {rule.column.name: rule.as_pandera() for rule in _sample_rules(column, now)},
        name=column.name,
    )


# Checks. Each is a claim about a line that must not be false; its text is the reason reported.


@dataclass(frozen=True, slots=True)
class _Claim:
    """One check. `of_all` is true when it holds for every line, where there is a shorter way to say so."""

    of_line: pl.Expr
    reason: str
    speaks_of_nulls: bool = False
    of_all: pl.Expr | None = None

    def as_pandera(self) -> pa.Check:
        def holds(data: pa.PolarsData) -> pl.LazyFrame:
            return data.lazyframe.select(self.of_line.fill_null(value=True))

        return pa.Check(holds, error=self.reason, ignore_na=False)


@dataclass(frozen=True, slots=True)
class _Rule:
    """What is asked of a column."""

    column: Column
    is_nullable: bool
    claims: tuple[_Claim, ...]

    def as_pandera(self) -> pa.Column:
        return pa.Column(
            self.column.dtype,
            [claim.as_pandera() for claim in self.claims],
            nullable=self.is_nullable,
            required=True,
        )

    def speaks_of(self, values: pl.Series) -> bool:
        """Whether anything in `values` could break it."""
        if not self.is_nullable or any(claim.speaks_of_nulls for claim in self.claims):
            return True
        return bool(self.claims) and values.null_count() < len(values)

    def holds(self) -> pl.Expr:
        """Whether every line keeps it."""
        parts = [
            claim.of_line.fill_null(value=True).all() if claim.of_all is None else claim.of_all
            for claim in self.claims
        ]
        if not self.is_nullable:
            parts.append(pl.col(self.column.name).is_not_null().all())
        return pl.all_horizontal(parts).alias(self.column.name)


@lru_cache(maxsize=64)
def _table_rules(table: Table, now: datetime) -> tuple[_Rule, ...]:
    extra = _row_checks(table)
    return tuple(_rule(column, now, extra.get(column.name, [])) for column in table.columns)


@lru_cache(maxsize=256)
def _sample_rules(column: Column, now: datetime) -> tuple[_Rule, ...]:
    return tuple(_rule(field, now, []) for field in column.fields)


def _rule(column: Column, now: datetime, extra: Sequence[_Claim]) -> _Rule:
    is_moment = column.role == "instant"
    return _Rule(column, is_moment or not column.required, (*_checks(column, now), *extra))


def _checks(column: Column, now: datetime) -> Iterator[_Claim]:
    value = pl.col(column.name)
    if column.role == "instant":
        yield from _moment_checks(column, now)
    elif column.role == "local":
        latest = (now.astimezone(UTC) + LOCAL_AHEAD).replace(tzinfo=None)
        yield _Claim(
            value.is_between(EARLIEST.replace(tzinfo=None), latest), "before 2000 or in the future"
        )
    elif column.fields:
        return
    elif column.codes is not None:
        title = f"not in the list {column.codes.title}"
        if column.is_list:
            yield _Claim(value.list.eval(column.codes.admits(pl.element())).list.all(), title)
        else:
            # A handful of names among many samples: each is looked up once.
            names = value.unique()
            admitted = names.filter(column.codes.admits(names))
            yield _Claim(
                value.is_in(admitted.implode()),
                title,
                of_all=column.codes.admits(names).fill_null(value=True).all(),
            )
    elif column.unit == "deg":
        yield _Claim(
            (value.list.len() == 0)
            | (
                (value.list.len() == 2)
                & value.list.get(0, null_on_oob=True).is_between(-90, 90)
                & value.list.get(1, null_on_oob=True).is_between(-180, 180)
            ),
            "not a latitude and longitude",
        )
    elif column.dtype == INSTANT:
        yield _Claim(value.is_between(EARLIEST, now + AHEAD), "before 2000 or in the future")
    elif column.dtype == pl.Float64:
        yield _Claim(value.is_finite(), "not a finite number")
    if column.hard is not None and not column.is_list:
        # NaN passes no upper and every lower bound in polars; it has its own reason.
        inside = _inside(value, column.hard)
        if column.dtype == pl.Float64:
            inside |= ~value.is_finite()
        yield _Claim(inside, f"outside {_words(column.hard, column.unit)}")


def _moment_checks(column: Column, now: datetime) -> Iterator[_Claim]:
    instant, local = pl.col(column.name), pl.col(str(column.partner))
    if column.required:
        yield _Claim(instant.is_not_null() | local.is_not_null(), "no time", speaks_of_nulls=True)
    yield _Claim(instant.is_between(EARLIEST, now + AHEAD), "before 2000 or in the future")
    offset = local - instant.dt.replace_time_zone(None)
    yield _Claim(
        (offset.abs() <= WIDEST_OFFSET) & (offset.dt.total_microseconds() % 60_000_000 == 0),
        "local time is not whole minutes within 18 hours of UTC",
    )


def _row_checks(table: Table) -> dict[str, list[_Claim]]:
    checks = {
        column.name: [_Claim(pl.col(column.name).str.len_bytes() > 0, "empty")]
        for column in (table.column(name) for name in table.row_key)
        if column.dtype == pl.String
    }
    if not table.is_dated:
        return checks
    start, end = pl.col("start_at"), pl.col("end_at")
    in_order = (
        pl.when(start.is_not_null() & end.is_not_null())
        .then(start <= end)
        .otherwise(pl.col("local_start_at") <= pl.col("local_end_at"))
    )
    offset = (pl.col("local_start_at") - start.dt.replace_time_zone(None)).dt.total_seconds()
    return {
        **checks,
        "local_date": [_Claim(pl.col("local_date") >= EARLIEST.date(), "before 2000")],
        "end_at": [_Claim(in_order, "ends before it starts", speaks_of_nulls=True)],
        "utc_offset_seconds": [
            _Claim(pl.col("utc_offset_seconds") == offset, "not the offset of the start")
        ],
        "timezone": [_Claim(pl.col("timezone").is_in(_zones()), "not an IANA zone")],
    }


@cache
def _zones() -> list[str]:
    return sorted(available_timezones())  # asks the disk


def _inside(value: pl.Expr, bounds: Bounds) -> pl.Expr:
    low, high = bounds
    inside = pl.lit(value=True)
    if low is not None:
        inside &= value >= low
    if high is not None:
        inside &= value <= high
    return inside


def _words(bounds: Bounds, unit: str | None) -> str:
    low, high = (None if bound is None else f"{bound:,g}" for bound in bounds)
    span = f"{low} to {high}" if low and high else f"{low} and up" if low else f"up to {high}"
    return f"{span} {unit}" if unit and not unit.startswith("{") else span


def _faults(rules: Sequence[_Rule], frame: pl.DataFrame) -> pl.DataFrame:
    """Line number, column and reason of everything that is refused.

    Pandera names the lines and costs about a millisecond a column: it gets the columns in which a claim is
    broken, which one pass over the frame finds. Their types are known to be right.
    """
    spoken_of = [rule for rule in rules if rule.speaks_of(frame[rule.column.name])]
    whole = frame.select(rule.holds() for rule in spoken_of)
    broken = {
        rule.column.name: rule.as_pandera()
        for rule in spoken_of
        if not whole[rule.column.name].item()
    }
    if broken:
        # No check of a column looks at the list of another.
        wide = [n for n, dtype in frame.schema.items() if dtype.is_nested() and n not in broken]
        try:
            pa.DataFrameSchema(broken).validate(frame.drop(wide), lazy=True)
        except SchemaErrors as error:
            cases: pl.DataFrame = error.failure_cases
            return cases.filter(pl.col("index").is_not_null()).select(
                pl.col("index").cast(pl.UInt32).alias("line"),
                "column",
                pl.col("check").replace({_MISSING: "missing"}).alias("reason"),
            )
    return _NO_FAULTS


# Rows.

_FOUND = pl.Schema(
    {
        _ROW: pl.UInt32,
        "scope": pl.String,
        "column": pl.String,
        "sample_at": pl.String,
        "reason": pl.String,
    }
)
_NOTHING_FOUND = _FOUND.to_frame()
_NO_FAULTS = pl.DataFrame(schema={"line": pl.UInt32, "column": pl.String, "reason": pl.String})


@cache
def _types(table: Table) -> pl.Schema:
    return table.polars_schema()


def _require_types(table: Table, frame: pl.DataFrame) -> None:
    have = frame.schema  # made anew at every access
    for name, dtype in _types(table).items():
        if name not in have:
            raise TypeError(f"{table.name}: no column {name}")
        if have[name] != dtype:
            raise TypeError(f"{table.name}.{name}: {have[name]} instead of {dtype}")


def _filled(columns: Sequence[Column], source: Callable[[str], pl.Expr] = pl.col) -> list[pl.Expr]:
    return [
        source(column.name).fill_null(column.fill).alias(column.name)
        for column in columns
        if column.fill is not None
    ]


def _validate_values(
    rows: pl.DataFrame, table: Table, now: datetime
) -> tuple[pl.DataFrame, pl.DataFrame]:
    if rows.is_empty():
        return rows, _NOTHING_FOUND
    faults = _faults(_table_rules(table, now), rows.drop(_ROW))
    faults = faults.unique(["line", "column"], keep="first", maintain_order=True)
    if faults.is_empty():
        return rows, _NOTHING_FOUND
    needed = {*table.row_key, *(c.name for c in table.columns if c.required)}
    needed |= {str(c.partner) for c in table.columns if c.required and c.partner}
    left_out = faults.select(
        rows[_ROW].gather(faults["line"]).alias(_ROW),
        pl.when(pl.col("column").is_in(sorted(needed)))
        .then(pl.lit("row"))
        .otherwise(pl.lit("value"))
        .alias("scope"),
        "column",
        pl.lit(None, pl.String).alias("sample_at"),
        (pl.col("column") + ": " + pl.col("reason")).alias("reason"),
    )
    cells: dict[str, list[pl.Series]] = {}
    for (name,), bad in faults.partition_by("column", as_dict=True).items():
        column = table.column(str(name))
        for cell in {column.name, column.partner or column.name}:
            cells.setdefault(cell, []).append(bad["line"])
    cleared = [
        pl.when(~pl.int_range(pl.len(), dtype=pl.UInt32).is_in(pl.concat(lines).implode()))
        .then(pl.col(cell))
        .alias(cell)
        for cell, lines in cells.items()
        if cell not in needed
    ]
    return rows.with_columns(cleared), left_out


def _repeated_keys(rows: pl.DataFrame, table: Table) -> pl.DataFrame:
    """Rows whose key another row has too; the one updated last stays, then the first.

    Within a date: what a partition holds must not depend on which other days are validated beside it.
    """
    keys = rows.select(_key_columns(table))
    shared = rows.clear() if keys.n_unique() == rows.height else rows.filter(keys.is_duplicated())
    ordered = shared.select(_ROW, *keys.columns, "updated_at", "revision").sort(
        "updated_at", "revision", descending=True, nulls_last=True, maintain_order=True
    )
    return (
        ordered.filter(~pl.struct(keys.columns).is_first_distinct())
        .select(
            _ROW,
            pl.lit("row").alias("scope"),
            pl.lit(table.row_key[-1]).alias("column"),
            pl.lit(None, pl.String).alias("sample_at"),
            pl.lit(f"{', '.join(table.row_key)}: another row has the same key").alias("reason"),
        )
        .sort(_ROW)
    )


def _key_columns(table: Table) -> list[str]:
    dated = ["local_date"] if table.is_dated else []
    return list(dict.fromkeys(["user_id", *dated, *table.row_key]))


# Lists.


_SPAN = ("start_at", "local_start_at", "end_at", "local_end_at")


def _validate_list(
    rows: pl.DataFrame,
    column: Column,
    label: str,
    now: datetime,
    session: pl.DataFrame | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows with a clean list in `column`, and what was taken out of it.

    `session` has the bounds of each row, where elements must lie between them.
    """
    value = pl.col(column.name)
    size = value.list.len()
    lines = rows.select(_ROW, value).filter(size > 0).explode(column.name).unnest(column.name)
    if lines.is_empty():
        return rows.with_columns(pl.when(size > 0).then(value)), _NOTHING_FOUND
    found: list[pl.DataFrame] = []
    names = [field.name for field in column.fields]
    tidied = lines.with_columns(
        *_filled(column.fields),
        *(
            pl.when(pl.col(f.name).list.len() > 0).then(pl.col(f.name))
            for f in column.fields
            if f.is_list and not f.fields
        ),
    )
    for field in column.fields:
        if not field.fields:
            continue
        inner = tidied.select(pl.int_range(pl.len(), dtype=pl.UInt32).alias(_ROW), field.name)
        inner, left_out = _validate_list(inner, field, f"{label}.{field.name}", now)
        tidied = tidied.with_columns(inner[field.name])
        found.append(left_out.with_columns(tidied[_ROW].gather(left_out[_ROW]).alias(_ROW)))

    faults = _faults(_sample_rules(column, now), tidied.select(names))
    faults = (
        _empty_samples(lines, names)
        .vstack(faults)
        .vstack(_outside_session(tidied, column, session))
        .unique("line", keep="first", maintain_order=True)
    )
    found.append(_samples_left_out(tidied, faults, column, label))
    sound = tidied
    if not faults.is_empty():
        number = pl.int_range(pl.len(), dtype=pl.UInt32)
        sound = tidied.filter(~number.is_in(faults["line"].implode()))
    sound, is_sorted = _sort_samples(sound, column)
    is_repeated = _repeated_samples(sound, column)
    if is_repeated.any():
        repeated = pl.DataFrame({"line": is_repeated.arg_true()}).with_columns(
            pl.lit("").alias("column"), pl.lit("repeated sample").alias("reason")
        )
        found.append(_samples_left_out(sound, repeated, column, label))
        sound = sound.filter(~is_repeated)
    tidied_fields = [field.name for field in column.fields if field.fill or field.is_list]
    if (
        sound.height != lines.height
        or not is_sorted
        or not tidied.select(tidied_fields).equals(lines.select(tidied_fields))
    ):
        rebuilt = sound.group_by(_ROW, maintain_order=True).agg(pl.struct(names).alias(column.name))
        rows = (
            rows.drop(column.name)
            .join(rebuilt, on=_ROW, how="left", maintain_order="left")
            .select(rows.columns)
        )
    return rows.with_columns(pl.when(size > 0).then(value)), pl.concat(found)


def _outside_session(
    lines: pl.DataFrame, column: Column, session: pl.DataFrame | None
) -> pl.DataFrame:
    """Elements that begin or end too far away from the session of their row."""
    moments = [
        field
        for field in column.fields
        if field.role == "instant" and (field.required or field.name in ("start_time", "end_time"))
    ]
    found = [_NO_FAULTS]
    if session is None or not moments:
        return found[0]
    # Rows are numbered from nought.
    spans = session.select(pl.all().gather(lines[_ROW]).name.prefix("session\x00"))
    start, local_start, end, local_end = (pl.col(f"session\x00{name}") for name in _SPAN)
    for field in moments:
        at, local = pl.col(field.name), pl.col(str(field.partner))
        early = pl.coalesce(start - at, local_start - local)
        late = pl.coalesce(at - end, local - local_end)
        is_outside = (
            pl.concat([lines.select(field.name, str(field.partner)), spans], how="horizontal")
            .select(
                ((early > SESSION_TOLERANCE) | (late > SESSION_TOLERANCE)).fill_null(value=False)
            )
            .to_series()
        )
        found.append(
            pl.DataFrame({"line": is_outside.arg_true()}, schema={"line": pl.UInt32}).with_columns(
                pl.lit(field.name).alias("column"), pl.lit("outside its session").alias("reason")
            )
        )
    return pl.concat(found)


def _sort_samples(lines: pl.DataFrame, column: Column) -> tuple[pl.DataFrame, bool]:
    """Samples in order of time within each row; also whether they already were."""
    if column.time is None:
        return lines, True
    time = sort_key(pl.col(column.time.name), pl.col(str(column.time.partner)))
    goes_back = (pl.col(_ROW) == pl.col(_ROW).shift()) & ~(time >= time.shift())
    if not lines.select(goes_back.fill_null(value=True).slice(1).any()).item():
        return lines, True
    return lines.sort(_ROW, time, maintain_order=True), False


def _repeated_samples(lines: pl.DataFrame, column: Column) -> pl.Series:
    """Which samples another one before them in the same row is the same as."""
    identity = pl.struct(_ROW, *_identity(column))
    if column.time is None:
        return lines.select(~identity.is_first_distinct()).to_series()
    # They are sorted: only neighbours of one moment can be the same.
    time = sort_key(pl.col(column.time.name), pl.col(str(column.time.partner)))
    meets = (pl.col(_ROW) == pl.col(_ROW).shift()) & time.eq_missing(time.shift())
    at_once = lines.select(meets.fill_null(value=False)).to_series()
    if not at_once.any():
        return at_once
    close = at_once | at_once.shift(-1, fill_value=False)
    repeated = lines.filter(close).select(~identity.is_first_distinct()).to_series()
    return at_once.clear(lines.height).fill_null(value=False).scatter(close.arg_true(), repeated)


def _empty_samples(lines: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    if any(lines[name].null_count() == 0 for name in names):
        return _NO_FAULTS
    is_empty = lines.select(pl.all_horizontal(pl.col(names).is_null())).to_series()
    return pl.DataFrame({"line": is_empty.arg_true()}, schema={"line": pl.UInt32}).with_columns(
        pl.lit("").alias("column"), pl.lit("empty sample").alias("reason")
    )


def _identity(column: Column) -> list[pl.Expr]:
    """What tells two samples of a row apart: the moment, by the half that decides, and the kind."""
    time = column.time
    if time is None:
        return [pl.col(name) for name in column.sample_key]
    instant, local = pl.col(time.name), pl.col(str(time.partner))
    halves = (time.name, time.partner)
    return [
        sort_key(instant, local),
        instant.is_null().alias("_is_local"),
        *(pl.col(name) for name in column.sample_key if name not in halves),
    ]


def _samples_left_out(
    lines: pl.DataFrame, faults: pl.DataFrame, column: Column, label: str
) -> pl.DataFrame:
    time = column.time
    at = (
        format_pair(pl.col(time.name), pl.col(str(time.partner)))
        if time is not None
        else pl.lit(None, pl.String)
    )
    where = (
        pl.when(pl.col("column") == "")
        .then(pl.lit(label))
        .otherwise(pl.lit(f"{label}.") + pl.col("column"))
    )
    bad = lines[faults["line"]].select(_ROW, at.alias("sample_at"))
    return pl.concat([bad, faults.drop("line")], how="horizontal").select(
        _ROW,
        pl.lit("sample").alias("scope"),
        where.alias("column"),
        "sample_at",
        (where + ": " + pl.col("reason")).alias("reason"),
    )


# Flags.


def _flags(good: pl.DataFrame, table: Table) -> pl.DataFrame:
    counted: list[pl.Expr] = []
    reasons: dict[str, str] = {}
    for column in table.columns:
        if good[column.name].null_count() == good.height:
            continue
        for field in column.fields:
            if field.plausible is None:
                continue
            label = f"{column.name}.{field.name}"
            reasons[label] = f"unusual: outside {_words(field.plausible, field.unit)}"
            value = pl.element().struct.field(field.name)
            unusual = pl.col(column.name).list.eval(~_inside(value, field.plausible)).list.sum()
            counted.append(unusual.cast(pl.UInt32).alias(label))
        if column.plausible is not None:
            reasons[column.name] = f"unusual: outside {_words(column.plausible, column.unit)}"
            unusual = ~_inside(pl.col(column.name), column.plausible)
            counted.append(unusual.cast(pl.UInt32).alias(column.name))
    keys = _key_columns(table)
    if not counted:
        return good.select(
            *keys, column=pl.lit(""), reason=pl.lit(""), samples=pl.lit(0, pl.UInt32)
        ).clear()
    return (
        good.select(*keys, *counted)
        .unpivot(index=keys, variable_name="column", value_name="samples")
        .filter(pl.col("samples") > 0)
        .select(
            *keys,
            "column",
            (pl.col("column") + ": " + pl.col("column").replace_strict(reasons)).alias("reason"),
            "samples",
        )
    )
