"""Verbatim bodies → typed frame, by the wire schema a resource declares.

Leaves are first read as text, so that a number in quotes is a number and one strange record cannot stop
the batch; then every column is cast, and a value that cannot be cast names the record for quarantine.

Bodies of one pattern need no decoder; see `patterns`. For the others there are two: DuckDB's reads whole
columns and is three times as fast, but takes for JSON what is not quite JSON and writes some numbers
differently; polars' is strict. What the fast one reads without a doubt is what the strict one would have
read. Every record with a doubt, and every one that ends in quarantine, goes through the strict one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import msgspec
import polars as pl

from wearable_pipeline.errors import PipelineError
from wearable_pipeline.providers._contract import Resource
from wearable_pipeline.tables.patterns import read_patterns

if TYPE_CHECKING:
    import duckdb

ENVELOPE = (
    "user_id",
    "provider",
    "resource",
    "record_id",
    "content_hash",
    "local_date",
    "fetched_at",
    "revised_at",
    "first_seen_at",
    "revisions",
    "batch_id",
)

_REJECTED_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "user_id": pl.String,
    "provider": pl.String,
    "resource": pl.String,
    "record_id": pl.String,
    "local_date": pl.Date,
    "reason": pl.String,
    "content_hash": pl.String,
    "fetched_at": pl.Datetime("us", "UTC"),
}
REJECTED_SCHEMA = pl.Schema(_REJECTED_COLUMNS)

_ROW = "row\x00"
# Texts are handed to DuckDB without a copy.
_AS_IT_LIES = pl.CompatLevel.newest()


@dataclass(frozen=True, slots=True)
class Parsed:
    """A typed frame, and the records that could not become part of it with their reasons."""

    typed: pl.DataFrame
    rejected: pl.DataFrame


def reject(frame: pl.DataFrame, reason: pl.Expr | str) -> pl.DataFrame:
    """Rows of `frame` in the shape of the quarantine."""
    expression = pl.lit(reason) if isinstance(reason, str) else reason
    return frame.select(
        *[name for name in REJECTED_SCHEMA if name != "reason"], expression.alias("reason")
    ).select(*REJECTED_SCHEMA)


def parse(raw: pl.DataFrame, resource: Resource) -> Parsed:
    """`raw` (latest revisions of one resource) as typed columns; see the contract for their names."""
    wire = {**resource.wire, **_context_columns(resource)}
    if resource.parse is not None or not _is_flat(resource.wire) or raw.is_empty():
        return _parse_strictly(raw, resource, wire, ENVELOPE)
    columns, doubtful = _read_fast(raw["body"], resource.wire)
    context, lost = _cast_fast(
        _decode_context(raw["context"], resource), _context_columns(resource)
    )
    doubtful |= lost
    parts = [raw.select(*ENVELOPE), columns, context]
    if not doubtful.any():
        return Parsed(pl.concat(parts, how="horizontal"), REJECTED_SCHEMA.to_frame())
    typed = pl.concat([part.filter(~doubtful) for part in parts], how="horizontal")
    again = _parse_strictly(
        raw.with_row_index(_ROW).filter(doubtful), resource, wire, (_ROW, *ENVELOPE)
    )
    if not again.typed.is_empty():
        numbers = pl.select(pl.arg_where(~doubtful).alias(_ROW))
        numbered = pl.concat([numbers, typed], how="horizontal")
        typed = pl.concat([numbered, again.typed]).sort(_ROW).drop(_ROW)
    return Parsed(typed, again.rejected)


def _parse_strictly(
    raw: pl.DataFrame,
    resource: Resource,
    wire: Mapping[str, pl.DataType],
    envelope: Iterable[str],
) -> Parsed:
    text, rejected = _decode(raw, resource, envelope)
    typed, uncast = _cast(text, wire)
    return Parsed(typed, pl.concat([rejected, uncast]))


def _context_columns(resource: Resource) -> dict[str, pl.DataType]:
    return {f"context.{path}": dtype for path, dtype in resource.context_wire.items()}


# Fast: without a doubt, or not at all.


def _is_flat(wire: Mapping[str, pl.DataType]) -> bool:
    """Whether the fast decoder can tell the fields apart: no lists, no names that differ in case alone."""
    names = {path.lower() for path in wire}
    return bool(wire) and len(names) == len(wire) and not any(t.is_nested() for t in wire.values())


@cache
def _database() -> "duckdb.DuckDBPyConnection":
    """DuckDB without a file, for its JSON reader; as many threads as polars has."""
    import duckdb  # 30 MB no sensor needs

    return duckdb.connect(
        config={
            "threads": pl.thread_pool_size(),
            # As polars keeps texts.
            "produce_arrow_string_view": True,
            "arrow_output_version": "1.5",
        }
    )


def _read_fast(body: pl.Series, wire: Mapping[str, pl.DataType]) -> tuple[pl.DataFrame, pl.Series]:
    """Typed columns, and which records the strict decoder might read differently."""
    import numpy as np  # 15 MB no sensor needs

    typed, rows = read_patterns(body, wire)
    doubtful = np.ones(len(body), np.bool_)
    doubtful[rows] = False
    others = np.flatnonzero(doubtful)
    if len(others):
        text, odd = _decode_fast(body.gather(others) if len(rows) else body, wire)
        rest, lost = _cast_fast(text, wire)
        if not len(rows):
            return rest, odd | lost
        doubtful[others] = (odd | lost).to_numpy()
        typed, rows = pl.concat([typed, rest]), np.concatenate([rows, others])
    order = np.empty(len(body), np.int64)
    order[rows] = np.arange(len(body))
    # From one piece they are taken four times as fast.
    return typed.rechunk()[pl.Series(order)], pl.Series(doubtful)


def _decode_fast(
    body: pl.Series, wire: Mapping[str, pl.DataType]
) -> tuple[pl.DataFrame, pl.Series]:
    """All wire columns as text, and which records the strict decoder might read differently."""
    parents = sorted({path[:at] for path in wire for at, sign in enumerate(path) if sign == "."})
    shape = msgspec.json.encode(_tree(wire, "VARCHAR")).decode().replace("'", "''")
    made = [f"try(json_transform(body, '{shape}'))"]
    made += [f"try(json_type(body, '{_pointer(parent)}'))" for parent in parents]
    query = f"select {', '.join(made)} from bodies"  # noqa: S608 - all of it declared by us
    bodies = _as_text(body).alias("body").to_frame().to_arrow(compat_level=_AS_IT_LIES)
    with _database().cursor() as cursor:
        cursor.register("bodies", bodies)
        found = pl.DataFrame(cursor.execute(query).to_arrow_table())
    text = _unnest(found.to_series(0), wire, "")
    doubtful = pl.all_horizontal(pl.col(path).is_null() for path in wire)
    for path, dtype in wire.items():
        if dtype == pl.String:
            # In other columns none of these can be cast.
            doubtful |= pl.col(path).str.contains(_ODD_TEXT).fill_null(value=False)
    marks = text.select(doubtful.alias("doubtful")).to_series()
    for kind in found.get_columns()[1:]:
        marks |= ~kind.is_in(["OBJECT", "NULL"]).fill_null(value=True)
    return text, marks


def _as_text(body: pl.Series) -> pl.Series:
    """`body` as text; null where it is not UTF-8."""
    try:
        return body.cast(pl.String)
    except pl.exceptions.PolarsError:  # of all, for the sake of one
        return pl.Series([_text_of(one) for one in body], dtype=pl.String)


def _text_of(body: bytes | None) -> str | None:
    try:
        return None if body is None else body.decode()
    except UnicodeDecodeError:
        return None


# An object where a value belongs; 1.0 that may have been "1.0", NaN that may have been "NaN".
_ODD_TEXT = r"^(?:[{\[]|-?(?:\d+[.eE]|NaN|Inf))"


def _pointer(path: str) -> str:
    quoted = "".join(f'."{step}"' for step in path.split("."))
    return f"${quoted}".replace("'", "''")


def _decode_context(context: pl.Series, resource: Resource) -> pl.DataFrame:
    """The context columns as text; records of a page share one context, so each is decoded once."""
    if not resource.context_wire:
        return pl.DataFrame(height=len(context))
    different = pl.Categories.random()
    numbered = context.cast(pl.Categorical(different))
    # One more, lest there be none to take nothing from.
    texts = different.to_series().extend_constant(None, 1)
    columns = _unnest_json(texts, resource.context_wire, "context.")
    return columns.select(pl.all().gather(numbered.to_physical()))


def _cast_fast(
    text: pl.DataFrame, wire: Mapping[str, pl.DataType]
) -> tuple[pl.DataFrame, pl.Series]:
    """Typed columns, and which records have a value that is gone by that or is no number."""
    flat = {name: dtype for name, dtype in wire.items() if dtype != pl.String}
    typed = text.with_columns(_cast_plain(name, dtype).alias(name) for name, dtype in flat.items())
    lost = pl.repeat(value=False, n=text.height, dtype=pl.Boolean, eager=True)
    for name, dtype in flat.items():
        if typed[name].null_count() != text[name].null_count():
            # Not as plain as that: in quotes with blanks, 5.0 for 5, True for true.
            typed = typed.with_columns(text.select(_cast_text(name, dtype).alias(name)))
            lost |= typed[name].is_null() & text[name].is_not_null()
            if dtype.is_integer():
                # Past that, what 1e17 is depends on who wrote it down.
                lost |= (typed[name].cast(pl.Float64).abs() >= _EXACT).fill_null(value=False)
        if dtype.is_float():
            lost |= (~typed[name].is_finite()).fill_null(value=False)
    return typed, lost


_EXACT = float(1 << 53)


def _cast_plain(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if dtype == pl.Boolean:
        return pl.when(column == "true").then(True).when(column == "false").then(False)
    if dtype.is_integer():
        return column.cast(pl.Int64, strict=False).cast(dtype, strict=False)
    return column.cast(dtype, strict=False)


# Strict: what is doubtful, and the reasons of what is refused.


def _decode(
    raw: pl.DataFrame, resource: Resource, columns: Iterable[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Envelope plus all wire columns as text, and what could not be decoded at all."""
    envelope = raw.select(*columns)
    context = _unnest_json(raw["context"], resource.context_wire, "context.")
    if resource.parse is not None:
        text = resource.parse(raw)
        return pl.concat([envelope, text, context], how="horizontal"), REJECTED_SCHEMA.to_frame()
    decoded = _decode_each(raw["body"], _text_struct(resource.wire))
    readable = decoded.is_not_null()
    rejected = reject(raw.filter(~readable), "body: not the JSON object this resource sends")
    text = _unnest(decoded.filter(readable), resource.wire, "")
    return (
        pl.concat([envelope.filter(readable), text, context.filter(readable)], how="horizontal"),
        rejected,
    )


def _unnest_json(body: pl.Series, wire: Mapping[str, pl.DataType], prefix: str) -> pl.DataFrame:
    if not wire:
        return pl.DataFrame(height=len(body))
    return _unnest(_decode_each(body, _text_struct(wire)), wire, prefix)


def _unnest(decoded: pl.Series, wire: Mapping[str, pl.DataType], prefix: str) -> pl.DataFrame:
    """One text column per path of `wire`, named `prefix` + path."""
    return (
        decoded.rename("body")
        .to_frame()
        .select(_descend(path.split(".")).alias(prefix + path) for path in wire)
    )


def _decode_each(body: pl.Series, dtype: pl.Struct) -> pl.Series:
    """`body` decoded; null where it cannot be.

    The decoder gets its texts end to end: one that stops short would go on in the next. What might do so is
    decoded by itself.
    """
    is_whole = pl.Series([_is_whole(one) for one in body], dtype=pl.Boolean)
    if is_whole.all():
        return _decode_json(body, dtype)
    whole, others = is_whole.arg_true(), (~is_whole).arg_true()
    parts = [body.gather(whole)] if len(whole) else []
    parts += [body.slice(row, 1) for row in others]
    decoded = pl.concat([_decode_json(part, dtype) for part in parts])
    return decoded.gather(pl.concat([whole, others]).arg_sort())


_read_raw = msgspec.json.Decoder(msgspec.Raw).decode


def _is_whole(body: bytes | str | None) -> bool:
    try:
        return body is None or _read_raw(body) is not None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _decode_json(body: pl.Series, dtype: pl.Struct) -> pl.Series:
    """`body` decoded; null where it cannot be. Halves are tried only when the whole fails."""
    try:
        text = body.cast(pl.String)  # fails for all when one is not UTF-8
        # The decoder skips blank texts, which would move all that follow up by a row.
        decoded = text.set(text.str.strip_chars() == "", None).str.json_decode(dtype)
        if len(decoded) == len(body):
            return decoded
    except pl.exceptions.PolarsError:
        pass
    if len(body) == 1:
        return pl.Series([None], dtype=dtype)
    middle = len(body) // 2
    return pl.concat([_decode_json(body[:middle], dtype), _decode_json(body[middle:], dtype)])


def _descend(steps: list[str]) -> pl.Expr:
    expression = pl.col("body")
    for step in steps:
        expression = expression.struct.field(step)
    return expression


def _text_struct(wire: Mapping[str, pl.DataType]) -> pl.Struct:
    return _struct_of(_tree(wire, pl.String()))


def _tree(wire: Mapping[str, pl.DataType], text: object) -> dict[str, object]:
    """`wire` as nested objects, `text` in place of what is no list."""
    tree: dict[str, object] = {}
    for path, dtype in wire.items():
        *parents, leaf = path.split(".")
        node = tree
        for parent in parents:
            child = node.setdefault(parent, {})
            if not isinstance(child, dict):
                raise PipelineError(f"wire schema: {path!r} goes through a value")
            node = child
        node[leaf] = dtype if dtype.is_nested() else text
    return tree


def _struct_of(tree: Mapping[str, object]) -> pl.Struct:
    return pl.Struct(
        {
            name: _struct_of(child) if isinstance(child, dict) else child  # type: ignore[misc]
            for name, child in tree.items()
        }
    )


def _cast(text: pl.DataFrame, wire: Mapping[str, pl.DataType]) -> tuple[pl.DataFrame, pl.DataFrame]:
    flat = {name: dtype for name, dtype in wire.items() if not dtype.is_nested()}
    typed = text.with_columns(_cast_text(name, dtype).alias(name) for name, dtype in flat.items())
    # A value was there and is gone, or is no number: that is a record we do not understand.
    lost = pl.concat_str(
        [
            pl.when(_is_lost(name, dtype)).then(pl.lit(f"{name}: not a {_plain_name(dtype)}"))
            for name, dtype in flat.items()
        ]
        or [pl.lit(None, pl.String)],
        separator="; ",
        ignore_nulls=True,
    )
    both = typed.with_columns(
        text.select(pl.col(name).alias(f"{name}\x00text") for name in flat).get_columns()
    )
    reasons = both.select(lost.alias("reason"))["reason"]
    bad = reasons.fill_null("") != ""
    rejected = reject(typed.filter(bad).with_columns(reasons.filter(bad)), pl.col("reason"))
    return typed.filter(~bad), rejected


def _cast_text(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if dtype == pl.String:
        return column
    stripped = column.str.strip_chars()
    if dtype == pl.Boolean:
        return stripped.str.to_lowercase().replace_strict(
            {"true": True, "false": False, "1": True, "0": False},
            default=None,
            return_dtype=pl.Boolean,
        )
    number = stripped.cast(pl.Float64, strict=False)
    if dtype.is_float():
        return number
    if dtype.is_integer():
        # 5.0 is 5, 5.5 is not an integer; large integers go past Float64's exactness, so try them first.
        return pl.coalesce(
            stripped.cast(pl.Int64, strict=False),
            pl.when(number == number.floor()).then(number).cast(pl.Int64, strict=False),
        ).cast(dtype, strict=False)
    return stripped.cast(dtype, strict=False)


def _is_lost(name: str, dtype: pl.DataType) -> pl.Expr:
    was_there = pl.col(f"{name}\x00text").str.strip_chars().fill_null("") != ""
    gone = pl.col(name).is_null()
    if dtype.is_float():
        gone = gone | ~pl.col(name).is_finite()
    return was_there & gone


def _plain_name(dtype: pl.DataType) -> str:
    if dtype == pl.Boolean:
        return "true/false value"
    if dtype.is_integer():
        return "whole number"
    return "number" if dtype.is_float() else str(dtype).lower()
