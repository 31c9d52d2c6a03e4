"""Our tables as a relational database sees them, made from the model: one per data type and list.

A list of samples is a table of its own, one line per sample, under the name of its long view. Lists
of plain values are JSON. `users` says who has rows, `revisions` what of each row was delivered last:
it orders revisions and remembers withdrawn rows, so that neither a late older one comes back.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import polars as pl

from wearable_pipeline.model import Table
from wearable_pipeline.model.columns import INSTANT, LOCAL, Column

Kind = Literal["key", "text", "number", "whole", "flag", "date", "instant", "local", "json"]

ORDERING = "ordering_timestamp"
POSITION = "position"
_SAMPLE_KEYS = ("user_id", "provider", "local_date")
_KINDS: dict[pl.DataType, Kind] = {
    pl.String(): "text",
    pl.Float64(): "number",
    pl.Int64(): "whole",
    pl.Int32(): "whole",
    pl.Boolean(): "flag",
    pl.Date(): "date",
    INSTANT: "instant",
    LOCAL: "local",
}


@dataclass(frozen=True, slots=True)
class Field:
    """A column of a relation."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Relation:
    """A table to be: its columns in order and the names of those that make a line unique."""

    name: str
    fields: tuple[Field, ...]
    key: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Column names in order."""
        return [field.name for field in self.fields]


@dataclass(frozen=True, slots=True)
class Relations:
    """The relations of one data type: its rows, and the samples of each of its lists."""

    rows: Relation
    samples: tuple[tuple[Column, Relation], ...]
    row_key: tuple[str, ...]

    def all(self) -> Iterator[Relation]:
        """Rows and samples."""
        yield self.rows
        for _, relation in self.samples:
            yield relation


def kind_of(dtype: pl.DataType) -> Kind:
    """What a value of the model is in a database."""
    return "json" if isinstance(dtype, pl.List) else _KINDS[dtype]


@cache
def relations_of(table: Table, prefix: str) -> Relations:
    """The relations of a data type."""

    def field(column: Column) -> Field:
        return Field(column.name, "key" if column.name in keys else kind_of(column.dtype))

    # A date is a date also as a part of the key; text needs a bounded length there.
    keys = {name for name in table.row_key if table.column(name).dtype == pl.String()}
    fields = [field(column) for column in table.columns if not column.fields]
    rows = Relation(prefix + table.name, (*fields, Field(ORDERING, "whole")), table.row_key)
    have = table.polars_schema()
    named = [name for name in (*_SAMPLE_KEYS, *table.row_key) if name in have]
    leading = [field(table.column(name)) for name in dict.fromkeys(named)]
    samples = tuple(
        (
            column,
            Relation(
                prefix + table.view_name(column),
                (
                    *leading,
                    Field(POSITION, "whole"),
                    *(Field(f.name, kind_of(f.dtype)) for f in column.fields),
                ),
                (*table.row_key, POSITION),
            ),
        )
        for column in table.lists
    )
    return Relations(rows, samples, table.row_key)


@cache
def whole_rows_of(table: Table, prefix: str) -> Relation:
    """The data type in one relation: lists of samples are columns, withdrawn rows keep their key."""
    rows = relations_of(table, prefix).rows
    lists = tuple(Field(column.name, "json") for column in table.lists)
    return Relation(rows.name, (*rows.fields, *lists, Field("is_deleted", "flag")), rows.key)


@cache
def users_of(prefix: str) -> Relation:
    """Who has rows, and how their connection stands."""
    return Relation(
        f"{prefix}users",
        (
            Field("user_id", "key"),
            Field("provider", "text"),
            Field("reference_id", "text"),
            Field("scopes", "text"),
            Field("created_at", "instant"),
            Field("is_active", "flag"),
        ),
        ("user_id",),
    )


@cache
def revisions_of(prefix: str) -> Relation:
    """The newest revision of every row that was ever delivered."""
    return Relation(
        f"{prefix}revisions",
        (
            Field("user_id", "key"),
            Field("table_name", "key"),
            Field("row_key", "key"),
            Field(ORDERING, "whole"),
            Field("is_deleted", "flag"),
        ),
        ("user_id", "table_name", "row_key"),
    )


@cache
def events_of(prefix: str) -> Relation:
    """What happened to connections."""
    return Relation(
        f"{prefix}events",
        (
            Field("event_id", "key"),
            Field("user_id", "key"),
            Field("type", "text"),
            Field("happened_at", "instant"),
            Field("body", "json"),
        ),
        ("event_id",),
    )


# What Terra writes into a customer's database, for readers that are still made for it.
TERRA_USERS = Relation(
    "terra_users",
    (
        Field("user_id", "key"),
        Field("reference_id", "text"),
        Field("created_at", "text"),
        Field("granted_scopes", "text"),
        Field("provider", "text"),
        Field("state", "text"),
    ),
    ("user_id",),
)
_TERRA_PAYLOAD = (
    Field("created_at", "key"),
    Field("payload_id", "key"),
    Field("start_time", "text"),
    Field("end_time", "text"),
    Field("payload_url", "text"),
    Field("payload", "json"),
)
TERRA_DATA = Relation(
    "terra_data_payloads",
    (Field("user_id", "key"), Field("data_type", "text"), *_TERRA_PAYLOAD),
    ("user_id", "created_at"),
)
TERRA_OTHER = Relation(
    "terra_other_payloads",
    (
        Field("user_id", "key"),
        Field("data_type", "text"),
        Field("payload_type", "text"),
        *(f for f in _TERRA_PAYLOAD if f.name not in ("start_time", "end_time")),
    ),
    ("user_id", "created_at"),
)
TERRA = (TERRA_USERS, TERRA_DATA, TERRA_OTHER)


def flatten_rows(relations: Relations, rows: pl.DataFrame, ordering: pl.Series) -> pl.DataFrame:
    """The rows as the relation holds them."""
    return rows.with_columns(ordering.alias(ORDERING)).select(
        _flat(field, rows.schema.get(field.name)) for field in relations.rows.fields
    )


def flatten_samples(column: Column, relation: Relation, rows: pl.DataFrame) -> pl.DataFrame | None:
    """One line per sample, in the order of the list; None when there is none."""
    filled = rows.filter(pl.col(column.name).list.len() > 0)
    if filled.is_empty():
        return None
    keys = relation.names[: relation.names.index(POSITION)]
    # The samples as they lie in memory, once; the keys are repeated beside them.
    elements = filled[column.name].explode().struct.unnest()
    repeated = filled.select(
        *keys, pl.int_ranges(filled[column.name].list.len()).alias(POSITION)
    ).explode(POSITION)
    return pl.concat([repeated, elements], how="horizontal").select(
        _flat(field, elements.schema.get(field.name)) for field in relation.fields
    )


def _flat(field: Field, dtype: pl.DataType | None) -> pl.Expr:
    value = pl.col(field.name)
    if not isinstance(dtype, pl.List):
        return value
    # A struct of one field is the only thing polars writes as JSON; its braces are taken off again.
    text = pl.struct(value.alias("")).struct.json_encode()
    bare = text.str.strip_prefix('{"":').str.strip_suffix("}")
    return pl.when(value.is_not_null()).then(bare).alias(field.name)
