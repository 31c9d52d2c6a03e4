"""Readings people export from Keto-Mojo as a table: the app's CSV, and `readings.xlsx` with its CSV twin.

The app's has `type,value,unit,date,time`, month first and without a zone. The other names its columns as
the API does, below a few lines of title. A line of a spreadsheet is kept as the line of CSV it would be.
"""

import csv
import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO, NoReturn

import polars as pl

from wearable_pipeline.errors import BadPayloadError
from wearable_pipeline.providers._contract import ImportOptions, Record
from wearable_pipeline.providers._local_time import check_zone

BATCH_RECORDS = 5_000
# Somebody who pricks ten times a day needs centuries to get there.
_LARGEST_FILE = 64 << 20
# A spreadsheet is compressed: what it unpacks to is bounded, too.
_LARGEST_UNPACKED = 256 << 20
_HEADER_WITHIN_LINES = 10
_DELIMITERS = (",", ";", "\t")
_ZIP = b"PK\x03\x04"

# Names of the app's columns in the words of the API.
_APP: Mapping[str, str] = {
    "type": "reading_type",
    "value": "reading_value",
    "unit": "reading_unit",
    "date": "date",
    "time": "time",
}
_APP_NEEDS = frozenset({"type", "value", "date", "time"})
_API_NEEDS = frozenset({"reading_type", "reading_timestamp", "reading_value"})


@dataclass(frozen=True, slots=True)
class Line:
    """One reading of a file: its bytes and its fields by the API's names."""

    body: bytes
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Table:
    """The lines of a file, and how they are read."""

    header: str
    delimiter: str
    lines: Sequence[Line]


@lru_cache(maxsize=64)
def columns_of(header: str, delimiter: str) -> tuple[str, ...]:
    """The API's name of every column; its own where we know none, and nothing in a header of others."""
    names = [_plain(name) for name in _cells(header, delimiter)]
    if set(names) >= _API_NEEDS:
        return tuple(names)
    if set(names) >= _APP_NEEDS:
        return tuple(_APP.get(name, name) for name in names)
    return ()


def _plain(name: str) -> str:
    # Units and formats may stand behind a name in brackets.
    return name.partition("(")[0].strip().lower().replace(" ", "_")


def _cells(line: str, delimiter: str) -> list[str]:
    if '"' not in line:
        return line.split(delimiter)
    return next(csv.reader([line], delimiter=delimiter), [])


def recognise_csv(head: bytes) -> bool:
    """Whether a file that starts like this is a table of readings."""
    if b"\x00" in head:
        return False
    lines = head.decode("utf-8-sig", errors="replace").splitlines()[:_HEADER_WITHIN_LINES]
    return any(columns_of(line, delimiter) for line in lines for delimiter in _DELIMITERS)


def recognise_xlsx(head: bytes) -> bool:
    """Whether a file that starts like this may be a spreadsheet."""
    return head.startswith(_ZIP) and any(
        mark in head for mark in (b"xl/", b"docProps/", b"[Content_Types].xml")
    )


def read_csv(stream: BinaryIO, options: ImportOptions) -> Table:
    """The table of a CSV. Raises BadPayloadError when it is none."""
    check_zone(options.timezone, "keto_mojo")
    try:
        text = _read(stream).decode("utf-8-sig")
    except UnicodeDecodeError:
        _refuse("it is not UTF-8 text")
    if "\x00" in text:
        _refuse("it is binary, not text")
    return _find_table(list(io.StringIO(text, newline="")))


def _logical_lines(pieces: Sequence[str], delimiter: str) -> Iterator[str]:
    """Lines without their ends; a quoted note may go on over several of them."""
    reader = csv.reader(pieces, delimiter=delimiter, strict=True)
    begin = 0
    try:
        for _ in reader:
            yield "".join(pieces[begin : reader.line_num]).rstrip("\r\n")
            begin = reader.line_num
    except csv.Error:
        _refuse("a quotation mark is never closed, or in the wrong place")


def read_xlsx(stream: BinaryIO, options: ImportOptions) -> Table:
    """The table of a spreadsheet, of whichever sheet has one. Raises BadPayloadError when none has."""
    import fastexcel  # its reader is needed here alone

    check_zone(options.timezone, "keto_mojo")
    content = _read(stream)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as parts:
            if sum(part.file_size for part in parts.infolist()) > _LARGEST_UNPACKED:
                _refuse("it unpacks to more than any export holds")
        book = fastexcel.read_excel(content)
        sheets = [
            book.load_sheet(name, header_row=None, dtypes="string").to_polars()
            for name in book.sheet_names
        ]
    except (zipfile.BadZipFile, fastexcel.FastExcelError):
        _refuse("the spreadsheet cannot be read; export it again")
    found = [[_line_of(row) for row in sheet.iter_rows()] for sheet in sheets]
    tables = [lines for lines in found if _header_of(lines) is not None]
    return _find_table(tables[0] if tables else [])


def _line_of(row: tuple[object, ...]) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="").writerow(["" if one is None else one for one in row])
    return written.getvalue()


def _header_of(lines: Sequence[str]) -> tuple[int, str] | None:
    for number, line in enumerate(lines[:_HEADER_WITHIN_LINES]):
        for delimiter in _DELIMITERS:
            if columns_of(line.rstrip("\r\n"), delimiter):
                return number, delimiter
    return None


def _find_table(lines: Sequence[str]) -> Table:
    found = _header_of(lines)
    if found is None:
        _refuse("no header with type, value, date and time, or with reading_type and its like")
    number, delimiter = found
    header = lines[number].rstrip("\r\n").removeprefix("\ufeff")
    names = columns_of(header, delimiter)
    kept = [
        Line(line.encode(), _fields(line, names, delimiter))
        for line in _logical_lines(lines[number + 1 :], delimiter)
        if line.strip(delimiter + " ")
    ]
    if not kept:
        _refuse("it has a header and no lines")
    return Table(header, delimiter, kept)


def _fields(line: str, names: Sequence[str], delimiter: str) -> dict[str, str]:
    cells = _cells(line, delimiter)
    return {name: cell.strip() for name, cell in zip(names, cells, strict=False) if cell.strip()}


def _read(stream: BinaryIO) -> bytes:
    stream.seek(0)
    content = stream.read(_LARGEST_FILE + 1)
    if len(content) > _LARGEST_FILE:
        _refuse(f"it is larger than {_LARGEST_FILE >> 20} MiB; no export is")
    return content


def _refuse(reason: str) -> NoReturn:
    raise BadPayloadError(f"keto_mojo: not imported: {reason}")


def parse_lines(raw: pl.DataFrame, wire: Sequence[str]) -> pl.DataFrame:
    """One String column per name of `wire` from lines and the header each stood under."""
    lines = raw.select(
        pl.col("body").cast(pl.String, strict=False).alias("line"),
        pl.col("context")
        .str.json_decode(pl.Struct({"header": pl.String, "delimiter": pl.String}))
        .struct.unnest(),
    ).with_row_index("row")
    parts = [
        _columns(part, columns_of(str(header), str(delimiter)), str(delimiter), wire)
        for (header, delimiter), part in lines.partition_by(
            "header", "delimiter", as_dict=True
        ).items()
    ]
    if not parts:
        return pl.DataFrame(schema=dict.fromkeys(wire, pl.String))
    return pl.concat(parts).sort("row").select(*wire)


def _columns(
    part: pl.DataFrame, names: Sequence[str], delimiter: str, wire: Sequence[str]
) -> pl.DataFrame:
    is_quoted = pl.col("line").str.contains('"', literal=True).fill_null(value=False)
    plain = part.filter(~is_quoted).select(
        "row", pl.col("line").str.split(delimiter).alias("cells")
    )
    quoted = part.filter(is_quoted)
    unquoted = quoted.select("row").with_columns(
        pl.Series("cells", [_cells(line, delimiter) for line in quoted["line"]], pl.List(pl.String))
    )
    stripped = {
        name: pl.col("cells").list.get(place, null_on_oob=True).str.strip_chars()
        for place, name in reversed(list(enumerate(names)))
    }
    # Where the decimal sign is a comma, numbers are too.
    value = stripped["reading_value"].str.replace(r"^(-?\d+),(\d+)$", "${1}.${2}")
    stripped["reading_value"] = value
    return pl.concat([plain, unquoted]).select(
        "row",
        *(
            pl.when(stripped[name] != "").then(stripped[name]).alias(name)
            if name in stripped
            else pl.lit(None, pl.String).alias(name)
            for name in wire
        ),
    )


def list_fields(record: Record) -> Iterator[str]:
    """Names of the columns in which the line of `record` has something."""
    header, delimiter = str(record.context["header"]), str(record.context["delimiter"])
    line = record.body.decode("utf-8", "replace")
    yield from (name for name in _fields(line, columns_of(header, delimiter), delimiter) if name)


def in_batches(records: Sequence[Record]) -> Iterator[list[Record]]:
    """`records`, so many at a time as are handed on together."""
    for begin in range(0, len(records), BATCH_RECORDS):
        yield list(records[begin : begin + BATCH_RECORDS])
