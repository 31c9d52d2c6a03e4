"""LibreView's CSV export: which file it is, which date order it uses, its lines one by one.

The title line may be missing or padded, columns come in any order and are known by the start of
their names, the unit stands in the header, the delimiter is `,` or `;`. Times are those of the
device, without a zone, in the order of the account's country, and a line does not tell which. So a
file is read twice: once to find out, once to yield its lines. Memory stays bounded at any size.

How the date order is decided, by the whole file and never by a line:

1. a number over 12 in the place of day or month, in any line;
2. AM/PM: the United States;
3. the date of the title line, written in the same order;
4. sensor readings that cross midnight: minutes apart in the right order, about a month in the wrong
   one; and no reading is newer than the title's date. These two decide when they do not contradict.

Otherwise the person is asked.
"""

import csv
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import BinaryIO, Literal, NamedTuple, NoReturn

import polars as pl

from wearable_pipeline.errors import BadPayloadError
from wearable_pipeline.providers._contract import ImportOptions, Record
from wearable_pipeline.providers._local_time import check_zone, find_zone

RESOURCE = "libreview_csv"
BATCH_RECORDS = 5_000
# Somebody who scans every minute needs ten years to get there.
LARGEST_ROWS = 5_000_000
_MAX_LINE_BYTES = 64 * 1024
_HEADER_WITHIN_LINES = 10

Order = Literal["dmy", "mdy"]
_ORDERS: tuple[Order, ...] = ("dmy", "mdy")

_NUMBERS = (
    "Historic Glucose",
    "Scan Glucose",
    "Rapid-Acting Insulin",
    "Carbohydrates (grams)",
    "Carbohydrates (servings)",
    "Long-Acting Insulin",
    "Strip Glucose",
    "Ketone",
)
_TEXTS = (
    "Device",
    "Serial Number",
    "Device Timestamp",
    "Non-numeric Rapid-Acting Insulin",
    "Non-numeric Food",
    "Non-numeric Long-Acting Insulin",
    "Notes",
)
WIRE: Mapping[str, pl.DataType] = {
    **{name: pl.String() for name in _TEXTS},
    "Record Type": pl.Int64(),
    **{name: pl.Float64() for name in _NUMBERS},
}
# How the dose calculator of a reader splits a dose; the dose itself has its own column.
IGNORED = frozenset(
    {"Meal Insulin (units)", "Correction Insulin (units)", "User Change Insulin (units)"}
)
CONTEXT_WIRE: Mapping[str, pl.DataType] = {
    "header": pl.String(),
    "delimiter": pl.String(),
    "date_order": pl.String(),
    "unit": pl.String(),
    "timezone": pl.String(),
    "fold": pl.Int64(),
}
_GLUCOSE_COLUMNS = ("Historic Glucose", "Scan Glucose", "Strip Glucose")


# --- header


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a file keeps its columns; `identity`: record type, serial number, time."""

    header: str
    delimiter: str
    columns: Mapping[str, int]
    width: int
    unit: str
    identity: tuple[int, int, int]


def columns_of(header: str, delimiter: str) -> dict[str, int]:
    """Position of every canonical column by the start of its name; the first match counts."""
    found: dict[str, int] = {}
    canonical = sorted(WIRE, key=len, reverse=True)
    for position, name in enumerate(split_fields(header, delimiter)):
        cleaned = name.strip().lower()
        for candidate in canonical:
            wanted = candidate.lower()
            # "Device" is also the start of "Device Timestamp" and of columns nobody has seen yet.
            if cleaned == wanted if candidate == "Device" else cleaned.startswith(wanted):
                found.setdefault(candidate, position)
                break
    return found


def _layout(line: str) -> Layout | None:
    """The layout a header line describes; None when the line is no header of this format."""
    for delimiter in (",", ";"):
        columns = columns_of(line, delimiter)
        if "Device Timestamp" in columns and "Record Type" in columns:
            names = split_fields(line, delimiter)
            if not any(name in columns for name in _GLUCOSE_COLUMNS):
                return None
            # A column that is not there lies beyond every line.
            identity = (
                columns["Record Type"],
                columns.get("Serial Number", _MAX_LINE_BYTES),
                columns["Device Timestamp"],
            )
            return Layout(line, delimiter, columns, len(names), _unit(names, columns), identity)
    return None


def _unit(names: list[str], columns: Mapping[str, int]) -> str:
    units = set()
    for name in _GLUCOSE_COLUMNS:
        text = names[columns[name]].lower() if name in columns else ""
        units |= {unit for unit in ("mg/dL", "mmol/L") if unit.lower() in text}
    if len(units) != 1:
        _refuse("the header does not say whether glucose is in mg/dL or mmol/L")
    return units.pop()


def recognise(head: bytes) -> bool:
    """Whether a file that starts like this is a LibreView export."""
    if b"\x00" in head:
        return False
    lines = head.decode("utf-8-sig", errors="replace").splitlines()[:_HEADER_WITHIN_LINES]
    try:
        return any(_layout(line) is not None for line in lines)
    except BadPayloadError:
        return True


# --- lines


class _Line(NamedTuple):
    number: int
    body: bytes
    is_terminated: bool
    is_open: bool


def _lines(stream: BinaryIO) -> Iterator[_Line]:
    """Logical lines without their ends; a quoted field may go on over several of them."""
    parts: list[bytes] = []
    size = number = 0
    while piece := stream.readline(_MAX_LINE_BYTES + 1):
        number += 1
        parts.append(piece)
        size += len(piece)
        if size > _MAX_LINE_BYTES:
            _refuse(f"line {number} does not end: not a CSV, or a quotation mark is never closed")
        if b'"' in piece or len(parts) > 1:
            whole = b"".join(parts)
            if _is_open(whole):
                continue
        else:
            whole = piece
        parts, size = [], 0
        body = whole.removesuffix(b"\n").removesuffix(b"\r")
        yield _Line(number, body, whole.endswith(b"\n"), is_open=False)
    if parts:
        yield _Line(number, b"".join(parts), is_terminated=False, is_open=True)


def _is_open(line: bytes) -> bool:
    """Whether a quoted field is still open at the end. Quotes count at a field's start only."""
    position = 0
    while True:
        if line[position : position + 1] == b'"':
            position += 1
            while True:
                end = line.find(b'"', position)
                if end < 0:
                    return True
                position = end + 1
                if line[position : position + 1] != b'"':
                    break
                position += 1
        following = _DELIMITER.search(line, position)
        if following is None:
            return False
        position = following.end()


_DELIMITER = re.compile(rb"[,;]")


def split_fields(line: str, delimiter: str) -> list[str]:
    """Fields of a logical line."""
    if '"' not in line:
        return line.split(delimiter)
    return next(csv.reader([line], delimiter=delimiter), [])


def _text(line: _Line) -> str:
    if b"\x00" in line.body:
        _refuse("it is binary, not text")
    try:
        return line.body.decode("utf-8")
    except UnicodeDecodeError:
        if line.number == 1:
            _refuse("it is binary, not UTF-8 text")
        _refuse(f"line {line.number} is not UTF-8 text; download the file again from LibreView")


def _refuse(reason: str) -> NoReturn:
    raise BadPayloadError(f"freestyle_libre: not imported: {reason}")


# --- times

# One pattern for both engines: Python's for a single stamp, polars' for a column.
_STAMP_PARTS = (
    r"^\s*([0-9]{1,4})[-/.]([0-9]{1,2})[-/.]([0-9]{1,4})[ T]+"
    r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?(?: *([AaPp])\.?[Mm]\.?)?\s*$"
)
_STAMP = re.compile(_STAMP_PARTS)


class _Stamp(NamedTuple):
    """A time as written: two numbers in an order not known yet, unless the year came first."""

    first: int
    second: int
    year: int
    hour: int
    minute: int
    seconds: int
    has_half: bool
    is_year_first: bool

    def at(self, order: Order) -> datetime | None:
        """The local time under `order`, None when there is no such time."""
        day, month = (self.first, self.second) if order == "dmy" else (self.second, self.first)
        if self.is_year_first:
            month, day = self.first, self.second
        try:
            return datetime(  # noqa: DTZ001 - a local time, the file has no zone
                self.year, month, day, self.hour, self.minute, self.seconds
            )
        except ValueError:
            return None


@lru_cache(maxsize=4096)
def _stamp(text: str) -> _Stamp | None:
    match = _STAMP.match(text)
    if match is None:
        return None
    a, b, c, hour, minute, seconds = (int(match[n] or 0) for n in range(1, 7))
    half = (match[7] or "").lower()
    if half:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if half == "p" else 0)
    if a > 31:
        return _Stamp(b, c, a, hour, minute, seconds, bool(half), is_year_first=True)
    year = c + 2000 if c < 100 else c
    return _Stamp(a, b, year, hour, minute, seconds, bool(half), is_year_first=False)


def local_time(stamp: pl.Expr, order: pl.Expr) -> pl.Expr:
    """Device timestamps as local times by the file's date order; null where they are no time."""
    parts = stamp.str.extract_groups(_STAMP_PARTS)
    a, b, c, hour, minute, second = (
        parts.struct.field(str(n)).cast(pl.Int64, strict=False) for n in range(1, 7)
    )
    half = parts.struct.field("7").str.to_lowercase()
    year_first = a > 31
    year = pl.when(year_first).then(a).when(c < 100).then(c + 2000).otherwise(c)
    month = pl.when(year_first).then(b).when(order == "mdy").then(a).otherwise(b)
    day = pl.when(year_first).then(c).when(order == "mdy").then(b).otherwise(a)
    hour = (
        pl.when(half.is_null())
        .then(hour)
        .when(hour.is_between(1, 12))
        .then(hour % 12 + pl.when(half == "p").then(12).otherwise(0))
    )
    written = pl.concat_str(
        [
            number.cast(pl.String).str.zfill(width)
            for number, width in (
                (year, 4),
                (month, 2),
                (day, 2),
                (hour, 2),
                (minute, 2),
                (second.fill_null(0), 2),
            )
        ],
        separator=" ",
    )
    return written.str.to_datetime("%Y %m %d %H %M %S", strict=False, time_unit="us")


_CROSSING = timedelta(hours=12)


@dataclass(slots=True)
class _DateOrder:
    """Evidence for the order of day and month, gathered line by line."""

    largest_first: int = 0
    largest_second: int = 0
    has_half: bool = False
    differs: bool = False
    crossings: dict[Order, int] = field(default_factory=lambda: dict.fromkeys(_ORDERS, 0))
    newest: dict[Order, date] = field(default_factory=dict)
    _last_run: tuple[str, str] | None = None
    _last_day: str = ""
    _last_text: str = ""
    _days_seen: set[tuple[int, int, int]] = field(default_factory=set)

    def see(self, written_at: str, record_type: str, serial: str) -> _Stamp | None:
        """Take one line into account; its time where that adds something and can be read."""
        day, run = written_at.partition(" ")[0], (record_type, serial)
        if day == self._last_day and run == self._last_run:
            # Only days tell orders apart.
            self._last_text = written_at
            return None
        stamp = _stamp(written_at)
        if stamp is None:
            return None
        if not stamp.is_year_first:
            self._weigh(stamp, run)
        self._last_day, self._last_run, self._last_text = day, run, written_at
        return stamp

    def _weigh(self, stamp: _Stamp, run: tuple[str, str]) -> None:
        self.largest_first = max(self.largest_first, stamp.first)
        self.largest_second = max(self.largest_second, stamp.second)
        self.has_half |= stamp.has_half
        self.differs |= stamp.first != stamp.second
        if self.largest_first > 12 or self.largest_second > 12:
            return
        written = (stamp.first, stamp.second, stamp.year)
        if written not in self._days_seen:
            # At most 144 a year: no day or month over 12 has been seen.
            self._days_seen.add(written)
            for order in _ORDERS:
                at = stamp.at(order)
                if at is not None:
                    self.newest[order] = max(self.newest.get(order, at.date()), at.date())
        if run == self._last_run and run[0] in ("0", "1"):
            self._see_crossing(stamp)

    def _see_crossing(self, stamp: _Stamp) -> None:
        before = _stamp(self._last_text)
        if before is None or before.is_year_first:
            return
        if (before.first, before.second) == (stamp.first, stamp.second):
            return
        for order in _ORDERS:
            earlier, later = before.at(order), stamp.at(order)
            if earlier and later and timedelta() < later - earlier <= _CROSSING:
                self.crossings[order] += 1

    def decide(self, asked: Order | None, title: _Stamp | None) -> Order:
        """The one order that fits. Raises BadPayloadError when it takes a person to tell."""
        by_lines = self._by_lines()
        if asked is not None:
            if by_lines is not None and by_lines != asked:
                _refuse(f"its dates contradict --date-order {asked}")
            return asked
        if by_lines is not None:
            return by_lines
        if self.has_half:
            return "mdy"
        if not self.differs:
            return "dmy"
        if title is not None and not title.is_year_first and max(title.first, title.second) > 12:
            return "dmy" if title.first > 12 else "mdy"
        votes = {self._by_crossings(), self._by_title(title)} - {None}
        if len(votes) == 1:
            vote = votes.pop()
            if vote is not None:
                return vote
        _refuse(
            "every date reads both as day-month and as month-day; say which with"
            " --date-order dmy or --date-order mdy"
        )

    def _by_lines(self) -> Order | None:
        if self.largest_first > 12 and self.largest_second > 12:
            _refuse("some dates are written day-month and others month-day")
        if self.largest_first > 12:
            return "dmy"
        return "mdy" if self.largest_second > 12 else None

    def _by_crossings(self) -> Order | None:
        seen: list[Order] = [order for order in _ORDERS if self.crossings[order]]
        return seen[0] if len(seen) == 1 else None

    def _by_title(self, title: _Stamp | None) -> Order | None:
        if title is None:
            return None
        fitting: list[Order] = []
        for order in _ORDERS:
            made_at, newest = title.at(order), self.newest.get(order)
            # The title is in UTC, the lines are not: local days may be one ahead.
            if made_at and newest and newest <= made_at.date() + timedelta(days=1):
                fitting.append(order)
        return fitting[0] if len(fitting) == 1 else None


# --- first pass


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the first pass found out; `occurrences` numbers lines of one time, kind and device."""

    layout: Layout
    header_line: int
    order: Order
    fallback_date: date
    occurrences: memoryview


class _Row(NamedTuple):
    """The parts of a line that make its identity."""

    record_type: str
    serial: str
    written_at: str
    fields: int

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.serial, self.written_at, self.record_type)


def _row(text: str, layout: Layout) -> _Row:
    fields = split_fields(text, layout.delimiter)
    count = len(fields)
    kind, serial, written_at = layout.identity
    return _Row(
        fields[kind].strip() if kind < count else "",
        fields[serial].strip() if serial < count else "",
        fields[written_at].strip() if written_at < count else "",
        count,
    )


def _is_blank(text: str, delimiter: str) -> bool:
    return not text.strip(delimiter + " \t")


def _survey(stream: BinaryIO, options: ImportOptions) -> _Plan:
    """Everything that must be known before the first line can be yielded."""
    stream.seek(0)
    layout: Layout | None = None
    header_line = 0
    title: _Stamp | None = None
    evidence = _DateOrder()
    keys = array("q")
    line: _Line | None = None
    last: tuple[_Line, _Row] | None = None
    some_stamp: _Stamp | None = None
    for line in _lines(stream):
        text = _text(line)
        if layout is None:
            layout = _layout(text.removeprefix("\ufeff"))
            header_line = line.number
            title = title or _title_time(text)
            if layout is None and line.number >= _HEADER_WITHIN_LINES:
                break
            continue
        if line.is_open:
            _refuse(f"it is cut off in line {line.number}; download it again")
        if _is_blank(text, layout.delimiter):
            continue
        if len(keys) == LARGEST_ROWS:
            _refuse(f"it has more than {LARGEST_ROWS:,} lines; no export is that long")
        row = _row(text, layout)
        last = (line, row)
        keys.append(hash(row.key))
        stamp = evidence.see(row.written_at, row.record_type, row.serial)
        some_stamp = some_stamp or stamp
    if line is None:
        _refuse("it is empty")
    if layout is None:
        _refuse(
            "no header with Device Timestamp, Record Type and glucose columns;"
            " is it a LibreView export (in English)?"
        )
    if last is None:
        _refuse("it has a header and no lines")
    if not last[0].is_terminated and last[1].fields < layout.width:
        _refuse(f"it is cut off in line {last[0].number}; download it again")
    if some_stamp is None:
        _refuse("no line has a time that can be read")
    order = evidence.decide(options.date_order, title)
    known = (title.at(order) if title else None) or some_stamp.at(order)
    if known is None:
        _refuse("no line has a time that can be read")
    return _Plan(layout, header_line, order, known.date(), _number_occurrences(keys))


# Grouping takes many times the memory of what is grouped: so many keys are looked at together.
_KEYS_AT_ONCE = 400_000


def _number_occurrences(keys: "array[int]") -> memoryview:
    """For every key how often it has come up to there: 1 for the first."""
    # 64 bits of hash: that two of five million differ only in what was hashed has a chance of one
    # in a million, and would cost no line: the number is one part of the identity, the key the
    # other.
    import pyarrow as pa  # 40 MB no sensor needs

    buffer = pa.py_buffer(memoryview(keys))
    hashes = pl.Series("key", pa.Array.from_buffers(pa.int64(), len(keys), [None, buffer]))
    numbers = pl.repeat(1, len(keys), dtype=pl.UInt32, eager=True)
    parts = len(keys) // _KEYS_AT_ONCE + 1
    for part in range(parts):
        rows = (hashes % parts == part).arg_true()
        some = hashes.gather(rows).to_frame()
        counted = some.select(pl.int_range(1, pl.len() + 1, dtype=pl.UInt32).over("key"))
        numbers = numbers.scatter(rows, counted.to_series())
    return memoryview(numbers.rechunk().to_arrow().buffers()[1]).cast("B").cast("I")


_GENERATED = re.compile(r"generated on\W+([^,;\"]+?)\s*(?:UTC)?\s*(?:[,;\"]|$)", re.IGNORECASE)


def _title_time(text: str) -> _Stamp | None:
    match = _GENERATED.search(text)
    return _stamp(match[1].strip()) if match else None


# --- second pass


def read(stream: BinaryIO, options: ImportOptions) -> Iterator[list[Record]]:
    """Lines of an export as records, in batches. Raises BadPayloadError before the first one."""
    check_zone(options.timezone, "freestyle_libre")
    plan = _survey(stream, options)
    stream.seek(0)
    batch: list[Record] = []
    for record in _records(stream, plan, options.timezone):
        batch.append(record)
        if len(batch) == BATCH_RECORDS:
            yield batch
            batch = []
    if batch:
        yield batch


class _Pending(NamedTuple):
    """A line that still waits for its place in a repeated hour."""

    body: bytes
    record_id: str
    local_date: date
    former_date: date | None
    local: datetime | None
    run: tuple[str, str]


def _records(stream: BinaryIO, plan: _Plan, timezone: str | None) -> Iterator[Record]:
    layout = plan.layout
    context: dict[str, object] = {
        "header": layout.header,
        "delimiter": layout.delimiter,
        "date_order": plan.order,
        "unit": layout.unit,
    }
    if timezone:
        context["timezone"] = timezone
    contexts: tuple[Mapping[str, object], ...] = (
        context,
        {**context, "fold": 0},
        {**context, "fold": 1},
    )
    for line, fold in _resolve_folds(_pending(stream, plan), timezone):
        yield Record(
            RESOURCE,
            line.record_id,
            line.body,
            line.local_date,
            contexts[0 if fold is None else fold + 1],
            is_context_content=True,
            former_date=line.former_date,
        )


def _pending(stream: BinaryIO, plan: _Plan) -> Iterator[_Pending]:
    count = 0
    for line in _lines(stream):
        if line.number <= plan.header_line:
            continue
        text = _text(line)
        if _is_blank(text, plan.layout.delimiter):
            continue
        if count == len(plan.occurrences):
            break
        row = _row(text, plan.layout)
        stamp = _stamp(row.written_at)
        local = stamp.at(plan.order) if stamp else None
        yield _Pending(
            line.body,
            f"{row.serial}|{row.written_at}|{row.record_type}|{plan.occurrences[count]}",
            local.date() if local else plan.fallback_date,
            _swapped_date(stamp, plan.order) if stamp else None,
            local,
            (row.record_type, row.serial),
        )
        count += 1
    else:
        if count == len(plan.occurrences):
            return
    _refuse("it changed while it was being read; import it again")


def _swapped_date(stamp: _Stamp, order: Order) -> date | None:
    """The date in the other order of day and month, under which an import may have put the line."""
    if stamp.is_year_first or stamp.first == stamp.second or max(stamp.first, stamp.second) > 12:
        return None
    other = stamp.at("mdy" if order == "dmy" else "dmy")
    return other.date() if other else None


_LONGEST_FOLD = 10_000


def _resolve_folds(
    lines: Iterable[_Pending], timezone: str | None
) -> Iterator[tuple[_Pending, int | None]]:
    """Each line with 0 or 1 where it lies in an hour that came twice and the order of lines tells.

    Within one kind of record of one device lines are in order of time: if the clock steps back once
    inside the repeated hour, what is before is the first pass and what is after the second. If it
    does not, only one pass was recorded and nobody knows which.
    """
    if timezone is None:
        for line in lines:
            yield line, None
        return
    waiting: list[_Pending] = []
    for line in lines:
        repeats = line.local is not None and _is_repeated(line.local, timezone)
        if waiting and not (
            repeats
            and line.run == waiting[0].run
            and line.local_date == waiting[0].local_date
            and len(waiting) < _LONGEST_FOLD
        ):
            yield from _settle(waiting)
            waiting = []
        if repeats:
            waiting.append(line)
        else:
            yield line, None
    yield from _settle(waiting)


def _settle(waiting: list[_Pending]) -> Iterator[tuple[_Pending, int | None]]:
    times = [line.local for line in waiting if line.local is not None]
    steps_back = [n for n in range(1, len(times)) if times[n] < times[n - 1]]
    if len(steps_back) != 1:
        yield from ((line, None) for line in waiting)
        return
    for number, line in enumerate(waiting):
        yield line, int(number >= steps_back[0])


@lru_cache(maxsize=1024)
def _repeats_some_hour(day: date, timezone: str) -> bool:
    zone = find_zone(timezone)
    first = datetime(day.year, day.month, day.day, tzinfo=zone)
    before, after = first.utcoffset(), (first + timedelta(days=1)).utcoffset()
    return before is not None and after is not None and before > after


def _is_repeated(local: datetime, timezone: str) -> bool:
    if not _repeats_some_hour(local.date(), timezone):
        return False
    return _is_repeated_quarter(local.replace(minute=local.minute // 15 * 15, second=0), timezone)


@lru_cache(maxsize=4096)
def _is_repeated_quarter(local: datetime, timezone: str) -> bool:
    # Clocks change at full quarters of an hour; asking once per quarter is enough.
    aware = local.replace(tzinfo=find_zone(timezone))
    first, second = aware.utcoffset(), aware.replace(fold=1).utcoffset()
    return first is not None and second is not None and first > second


# --- lines → columns


def parse_lines(raw: pl.DataFrame) -> pl.DataFrame:
    """One String column per wire path from the lines and what the importer knew of them."""
    lines = raw.select(
        pl.col("body").cast(pl.String, strict=False).alias("line"),
        pl.col("context")
        .str.json_decode(pl.Struct({"header": pl.String, "delimiter": pl.String}))
        .alias("context"),
    ).with_row_index("row")
    lines = lines.unnest("context")
    parts = [
        _fields(part, str(header), str(delimiter))
        for (header, delimiter), part in lines.partition_by(
            "header", "delimiter", as_dict=True
        ).items()
    ]
    if not parts:
        return pl.DataFrame(schema=dict.fromkeys(WIRE, pl.String))
    return pl.concat(parts).sort("row").select(*WIRE)


def list_fields(record: Record) -> Iterator[str]:
    """Names of the columns in which the line of `record` has something; ours where we know them."""
    header, delimiter = str(record.context["header"]), str(record.context["delimiter"])
    names = _names_of(header, delimiter)
    values = split_fields(record.body.decode("utf-8", "replace"), delimiter)
    yield from (name for name, value in zip(names, values, strict=False) if name and value.strip())


@lru_cache(maxsize=64)
def _names_of(header: str, delimiter: str) -> list[str]:
    known = {position: name for name, position in columns_of(header, delimiter).items()}
    return [
        known.get(position, name.strip())
        for position, name in enumerate(split_fields(header, delimiter))
    ]


def _fields(part: pl.DataFrame, header: str, delimiter: str) -> pl.DataFrame:
    quoted = pl.col("line").str.contains('"', literal=True).fill_null(value=False)
    plain = part.filter(~quoted).select("row", pl.col("line").str.split(delimiter).alias("fields"))
    with_quotes = part.filter(quoted)
    unquoted = with_quotes.select("row").with_columns(
        pl.Series(
            "fields",
            [split_fields(line, delimiter) for line in with_quotes["line"]],
            pl.List(pl.String),
        )
    )
    columns = columns_of(header, delimiter)
    fields = pl.concat([plain, unquoted])
    return fields.select(
        "row",
        *(
            _field(columns[name], name).alias(name)
            if name in columns
            else pl.lit(None, pl.String).alias(name)
            for name in WIRE
        ),
    )


def _field(position: int, name: str) -> pl.Expr:
    text = pl.col("fields").list.get(position, null_on_oob=True).str.strip_chars()
    present = pl.when(text != "").then(text)
    if name not in _NUMBERS:
        return present
    # Where the decimal sign is a comma, numbers are too.
    return present.str.replace(r"^(-?\d+),(\d+)$", "${1}.${2}")
