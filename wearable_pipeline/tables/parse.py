"""Verbatim bodies → typed frame, by the wire schema a resource declares.

Leaves are first read as text, so that a number in quotes is a number and one strange record cannot stop
the batch; then every column is cast, and a value that cannot be cast names the record for quarantine.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from wearable_pipeline.errors import PipelineError
from wearable_pipeline.providers._contract import Resource

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
    text, rejected = _decode(raw, resource)
    typed, uncast = _cast(text, {**resource.wire, **_context_columns(resource)})
    return Parsed(typed, pl.concat([rejected, uncast]))


def _context_columns(resource: Resource) -> dict[str, pl.DataType]:
    return {f"context.{path}": dtype for path, dtype in resource.context_wire.items()}


def _decode(raw: pl.DataFrame, resource: Resource) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Envelope plus all wire columns as text, and what could not be decoded at all."""
    envelope = raw.select(*ENVELOPE)
    context = _unnest_json(raw["context"], resource.context_wire, "context.")
    if resource.parse is not None:
        text = resource.parse(raw)
        return pl.concat([envelope, text, context], how="horizontal"), REJECTED_SCHEMA.to_frame()
    decoded = _decode_json(raw["body"], _text_struct(resource.wire))
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
    return _unnest(_decode_json(body, _text_struct(wire)), wire, prefix)


def _unnest(decoded: pl.Series, wire: Mapping[str, pl.DataType], prefix: str) -> pl.DataFrame:
    """One text column per path of `wire`, named `prefix` + path."""
    return (
        decoded.rename("body")
        .to_frame()
        .select(_descend(path.split(".")).alias(prefix + path) for path in wire)
    )


def _decode_json(body: pl.Series, dtype: pl.Struct) -> pl.Series:
    """`body` decoded; null where it cannot be. Halves are tried only when the whole fails."""
    try:
        text = body.cast(pl.String)  # fails for all when one is not UTF-8
        # The decoder skips blank texts, which would move all that follow up by a row.
        return text.set(text.str.strip_chars() == "", None).str.json_decode(dtype)
    except pl.exceptions.PolarsError:
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
    tree: dict[str, object] = {}
    for path, dtype in wire.items():
        *parents, leaf = path.split(".")
        node = tree
        for parent in parents:
            child = node.setdefault(parent, {})
            if not isinstance(child, dict):
                raise PipelineError(f"wire schema: {path!r} goes through a value")
            node = child
        node[leaf] = dtype if dtype.is_nested() else pl.String()
    return _struct_of(tree)


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
