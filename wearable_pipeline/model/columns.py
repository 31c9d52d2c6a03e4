"""The words tables are declared in: columns, lists of samples, groups under a path, and `Table`.

A column says once what it is: client path, type, unit (UCUM), meaning, code list, bounds. Names
follow from paths; see `column_name`. Everything else about a table (schemas, validation, JSON,
documentation) is made from these declarations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import polars as pl

from wearable_pipeline.model.enums import CodeList

if TYPE_CHECKING:
    import pyarrow as pa

Bounds = tuple[float | None, float | None]
Role = Literal["value", "instant", "local"]

INSTANT = pl.Datetime("us", "UTC")
LOCAL = pl.Datetime("us")

EXACT = "_exact"
MISSING = "_is_missing"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table, or one field of a sample.

    Attributes:
        name: Name in tables, follows from the path unless the column has none or says otherwise.
        dtype: Polars type. For lists of objects made from `fields`.
        description: What the value means.
        path: Client path, relative to the row or to the element of the list; None for our own
            columns, which travel in the JSON as an extra key under their name.
        unit: UCUM unit.
        codes: Code list of the stored names.
        hard: Bounds, both ends allowed, outside of which a value is refused.
        plausible: Bounds outside of which a value is flagged and kept.
        twins: Other spellings of the path: written from this column, read when the path is absent.
        role: `instant` and `local` are the halves of a moment in time, see `partner`.
        partner: Name of the other half of the moment.
        required: Never null. Of an instant: at least one half is set.
        fill: Name stored in place of null, where clients demand a code and `unknown` is the truth.
        sdk_whole: Terra's Python client refuses fractions here: the JSON carries the rounded
            number, and the exact one under `<leaf>_exact`.
        sdk_text: Terra's Python client demands text where its schema says number or boolean.
        demanded: Value clients demand in place of null; `""` stands for null both ways, a number is
            accompanied by `<leaf>_is_missing`.
        is_map: The JSON is an object from name to score instead of a list.
        view: Short name of the long view of a list, unique within the table.
        fields: What an element of the list holds.
        kind: Fields which, with the instant, make an element unique.
        is_provenance: Says where the row comes from; no part of its content.
    """

    name: str
    dtype: pl.DataType
    description: str
    path: str | None = None
    unit: str | None = None
    codes: CodeList | None = None
    hard: Bounds | None = None
    plausible: Bounds | None = None
    twins: tuple[str, ...] = ()
    role: Role = "value"
    partner: str | None = None
    required: bool = False
    fill: str | None = None
    sdk_whole: bool = False
    sdk_text: bool = False
    demanded: str | float | None = None
    is_map: bool = False
    view: str | None = None
    fields: tuple[Column, ...] = ()
    kind: tuple[str, ...] = ()
    is_provenance: bool = False

    @property
    def is_list(self) -> bool:
        """Whether a cell holds many values."""
        return isinstance(self.dtype, pl.List)

    @property
    def time(self) -> Column | None:
        """The instant by which elements of the list are sorted."""
        return next((f for f in self.fields if f.role == "instant" and f.required), None)

    @property
    def sample_key(self) -> tuple[str, ...]:
        """Fields that make an element unique within its list."""
        if self.kind == ALL_FIELDS or not (self.kind or self.time):
            return tuple(f.name for f in self.fields)
        moment = (self.time.name, str(self.time.partner)) if self.time else ()
        return (*moment, *self.kind)


# The kind of lists where only elements equal in every field are the same one.
ALL_FIELDS: tuple[str, ...] = ("*",)

Part = Column | tuple[Column, ...]


def column_name(path: str) -> str:
    """Column of a client path: segments without `_data`, joined by `_`, lower case."""
    return "_".join(segment.removesuffix("_data") for segment in path.split(".")).lower()


def flatten(parts: tuple[Part, ...]) -> tuple[Column, ...]:
    """The columns of several declarations, in order."""
    columns: list[Column] = []
    for part in parts:
        columns.extend((part,) if isinstance(part, Column) else part)
    return tuple(columns)


def number(
    path: str,
    description: str,
    unit: str | None = None,
    *,
    hard: Bounds | None = None,
    plausible: Bounds | None = None,
    twins: tuple[str, ...] = (),
    sdk_whole: bool = False,
    demanded: float | None = None,
    own: bool = False,
) -> Column:
    """A measured quantity."""
    return Column(
        column_name(path),
        pl.Float64(),
        description,
        path=None if own else path,
        unit=unit,
        hard=hard,
        plausible=plausible,
        twins=twins,
        sdk_whole=sdk_whole,
        demanded=demanded,
    )


def whole(
    path: str,
    description: str,
    unit: str | None = None,
    *,
    hard: Bounds | None = None,
    plausible: Bounds | None = None,
    sdk_text: bool = False,
) -> Column:
    """A count or another quantity that has no fractions."""
    return Column(
        column_name(path),
        pl.Int64(),
        description,
        path=path,
        unit=unit,
        hard=hard,
        plausible=plausible,
        sdk_text=sdk_text,
    )


def text(
    path: str,
    description: str,
    *,
    own: bool = False,
    required: bool = False,
    demanded: str | None = None,
) -> Column:
    """Words as the provider wrote them."""
    return Column(
        column_name(path),
        pl.String(),
        description,
        path=None if own else path,
        required=required,
        demanded=demanded,
    )


def flag(path: str, description: str, *, sdk_text: bool = False) -> Column:
    """A claim that is true, false or not made."""
    return Column(column_name(path), pl.Boolean(), description, path=path, sdk_text=sdk_text)


def code(
    path: str,
    codes: CodeList,
    description: str,
    *,
    twins: tuple[str, ...] = (),
    fill: str | None = None,
    sdk_text: bool = False,
    required: bool = False,
    own: bool = False,
) -> Column:
    """A name from a code list."""
    return Column(
        column_name(path),
        pl.String(),
        description,
        path=None if own else path,
        codes=codes,
        twins=twins,
        fill=fill,
        sdk_text=sdk_text,
        required=required or fill is not None,
    )


def codes(path: str, listed: CodeList, description: str) -> Column:
    """Several names from a code list."""
    return Column(column_name(path), pl.List(pl.String()), description, path=path, codes=listed)


def civil_date(path: str, description: str) -> Column:
    """A day of the calendar where the person is."""
    return Column(column_name(path), pl.Date(), description, path=path)


def instant(path: str, description: str, *, required: bool = False) -> tuple[Column, ...]:
    """A moment, as a pair: the instant in UTC and what a clock on the wall showed."""
    head, _, leaf = path.rpartition(".")
    name = column_name(path)
    local = column_name(f"{head}.local_{leaf}" if head else f"local_{leaf}")
    return moment(name, local, path, description, required=required)


def moment(
    name: str, local: str, path: str, description: str, *, required: bool = False
) -> tuple[Column, ...]:
    """Like `instant`, for pairs whose names do not follow from the path."""
    return (
        Column(
            name,
            INSTANT,
            f"{description} Null when only the local time is known.",
            path=path,
            role="instant",
            partner=local,
            required=required,
        ),
        Column(
            local,
            LOCAL,
            f"{description} As local clocks showed it; null when the offset is unknown.",
            path=path,
            role="local",
            partner=name,
        ),
    )


def coordinates(path: str, description: str) -> Column:
    """Latitude and longitude."""
    return Column(
        column_name(path),
        pl.List(pl.Float64()),
        description,
        path=path,
        unit="deg",
        hard=(-180, 180),
    )


def samples(
    path: str,
    view: str,
    description: str,
    *fields: Part,
    kind: tuple[str, ...] = (),
) -> Column:
    """A list of objects, shown in long form as the view `<table>_<view>`."""
    columns = flatten(fields)
    return Column(
        column_name(path),
        pl.List(pl.Struct({column.name: column.dtype for column in columns})),
        description,
        path=path,
        view=view,
        fields=columns,
        kind=kind,
    )


def contributors(path: str, view: str, description: str) -> Column:
    """What a score is made of: the parts by name, each with its own score."""
    column = samples(
        path,
        view,
        description,
        text("contributor_name", "Name of the part.", required=True),
        number("contributor_score", "Score of the part.", "{score}"),
        kind=("contributor_name",),
    )
    return replace(column, is_map=True)


def under(prefix: str, *parts: Part) -> tuple[Column, ...]:
    """The same columns one level deeper in the client's JSON, names following."""
    return tuple(_move(prefix, column) for column in flatten(parts))


def _move(prefix: str, column: Column) -> Column:
    if column.path is None:
        raise ValueError(f"{column.name}: a column of our own has no place under {prefix}")
    stem = column_name(prefix)
    return replace(
        column,
        name=f"{stem}_{column.name}",
        path=f"{prefix}.{column.path}",
        twins=tuple(f"{prefix}.{twin}" for twin in column.twins),
        partner=f"{stem}_{column.partner}" if column.partner else None,
    )


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """A data type: what a row is, its natural key and its columns in order."""

    name: str
    description: str
    row_key: tuple[str, ...]
    columns: tuple[Column, ...]
    _by_name: Mapping[str, Column] = field(init=False)

    def __post_init__(self) -> None:
        by_name = {column.name: column for column in self.columns}
        if len(by_name) != len(self.columns):
            raise ValueError(f"{self.name}: two columns of the same name")
        views = [column.view for column in self.columns if column.view]
        if len(set(views)) != len(views):
            raise ValueError(f"{self.name}: two views of the same name")
        object.__setattr__(self, "_by_name", by_name)

    def __repr__(self) -> str:
        return f"Table({self.name!r})"

    def column(self, name: str) -> Column:
        """The column of that name. KeyError if there is none."""
        try:
            return self._by_name[name]
        except KeyError:
            raise KeyError(f"{self.name} has no column {name!r}") from None

    @property
    def is_dated(self) -> bool:
        """Whether rows belong to a local date."""
        return "local_date" in self._by_name

    @cached_property
    def lists(self) -> tuple[Column, ...]:
        """Columns whose cells are lists of objects."""
        return tuple(column for column in self.columns if column.fields)

    @cached_property
    def content_columns(self) -> tuple[str, ...]:
        """Names of the columns that speak of the person, not of where the row came from."""
        return tuple(column.name for column in self.columns if not column.is_provenance)

    def row_key_expression(self) -> pl.Expr:
        """The natural key within one user as text."""
        parts = [pl.col(name).cast(pl.String) for name in self.row_key if name != "user_id"]
        return pl.concat_str(parts, separator="|") if parts else pl.lit("")

    def view_name(self, column: Column) -> str:
        """Name of the long view of a list."""
        return f"{self.name}_{column.view}"

    def polars_schema(self) -> pl.Schema:
        """Names and polars types, in order."""
        return pl.Schema({column.name: column.dtype for column in self.columns})

    def arrow_schema(self) -> pa.Schema:
        """Arrow schema whose fields carry path, unit, description and codes as metadata."""
        from wearable_pipeline.model.arrow import arrow_schema

        return arrow_schema(self)

    def empty(self) -> pl.DataFrame:
        """A frame of no rows."""
        return pl.DataFrame(schema=self.polars_schema())

    def conform(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame with exactly this table's columns: absent ones null, values cast without loss.

        Structs are matched by field name. Raises InvalidOperationError when a value does not fit.
        """
        have = frame.schema  # made anew at every access
        return frame.select(
            _fit(pl.col(column.name), have[column.name], column.dtype).alias(column.name)
            if column.name in have
            else self._nulls[column.name]
            for column in self.columns
        )

    @cached_property
    def _nulls(self) -> Mapping[str, pl.Expr]:
        return {c.name: pl.lit(None, dtype=c.dtype).alias(c.name) for c in self.columns}

    def paths(self) -> Iterator[tuple[str, Column]]:
        """Every client path the table stands for, twins included; `[]` marks elements."""
        yield from _paths(self.columns, "")


def _fit(value: pl.Expr, have: pl.DataType, want: pl.DataType) -> pl.Expr:
    if have == want:
        return value
    if isinstance(want, pl.List) and isinstance(have, pl.List):
        return value.list.eval(_fit(pl.element(), _inner(have), _inner(want)))
    if isinstance(want, pl.Struct) and isinstance(have, pl.Struct):
        given = {f.name: _instance(f.dtype) for f in have.fields}
        rebuilt = pl.struct(
            _fit(value.struct.field(f.name), given[f.name], _instance(f.dtype)).alias(f.name)
            if f.name in given
            else pl.lit(None, dtype=f.dtype).alias(f.name)
            for f in want.fields
        )
        return pl.when(value.is_not_null()).then(rebuilt)
    return value.cast(want)


def _inner(dtype: pl.List) -> pl.DataType:
    return _instance(dtype.inner)


def _instance(dtype: object) -> pl.DataType:
    if isinstance(dtype, pl.DataType):
        return dtype
    if isinstance(dtype, type) and issubclass(dtype, pl.DataType):
        return dtype()
    raise TypeError(f"not a polars type: {dtype!r}")


def _paths(columns: tuple[Column, ...], prefix: str) -> Iterator[tuple[str, Column]]:
    for column in columns:
        if column.path is None or column.role == "local":
            continue
        for path in (column.path, *column.twins):
            yield prefix + path, column
        yield from _paths(column.fields, f"{prefix}{column.path}[].")
