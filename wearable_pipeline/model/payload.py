"""Rows as the JSON objects Terra's clients read, and back, without loss.

Every key is present; what is absent is null, or `[]` for lists. Columns clients know nothing of
travel under their own name beside the client's keys. Where the clients' whole-number types would
cost precision, the rounded number stands under the client's key and the exact one under
`<leaf>_exact`.
"""

import io
import logging
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import msgspec
import polars as pl

from wearable_pipeline.errors import BadPayloadError
from wearable_pipeline.model.columns import EXACT, MISSING, Column, Table
from wearable_pipeline.model.time import format_instant, format_pair, parse_pair

Compat = Literal["openapi", "sdk"]
Json = dict[str, Any]
Source = Callable[[str], pl.Expr]

_log = logging.getLogger(__name__)

_NAME, _SCORE = "contributor_name", "contributor_score"


def to_payload(table: Table, frame: pl.DataFrame, compat: Compat = "openapi") -> list[Json]:
    """The rows of a validated frame as JSON objects.

    `compat="sdk"` takes the side of Terra's Python client where its types and Terra's schema
    exclude each other: some numbers and booleans become text, contributor maps become lists.
    """
    # A frame put together from many partitions has as many chunks, each planned for by itself.
    shown = frame.rechunk().select(_assemble(_tree(table.columns), pl.col, compat))
    objects = shown.to_dicts()
    if compat == "openapi":
        for column in table.columns:
            if column.is_map and column.path is not None:
                _fold_map(objects, column.path.split("."))
    return objects


def to_json(table: Table, frame: pl.DataFrame, compat: Compat = "openapi") -> list[memoryview]:
    """The JSON texts of what `to_payload` returns, without making objects in between.

    A column at a time: a day of glucose has 144 samples of a dozen keys, and as Python objects they
    cost ten times what writing their text does.
    """
    if frame.is_empty():
        return []
    pieces = _write(_tree(table.columns), frame.rechunk(), compat, folds=compat == "openapi")
    texts = _joined(pieces)
    if isinstance(texts, str):  # a frame without any value: every object is the same
        return [memoryview(texts.encode())] * frame.height
    return list(_bytes_of(texts))


def _bytes_of(texts: pl.Series) -> Iterator[memoryview]:
    """The texts where they lie in memory; a column of them in one piece would be a copy."""
    array = texts.rechunk().to_arrow(compat_level=pl.CompatLevel.newest())
    _, views, *buffers = array.buffers()
    letters = memoryview(views)[16 * array.offset : 16 * (array.offset + len(array))]
    contents = [memoryview(buffer) for buffer in buffers]
    # Of each text 16 bytes: its length, then itself when it fits there, or its beginning and where.
    for at, (size, _, buffer, start) in enumerate(struct.iter_unpack("<4i", letters)):
        if size <= _SHORT_BYTES:
            yield letters[16 * at + 4 : 16 * at + 4 + size]
        else:
            yield contents[buffer][start : start + size]


def from_payload(table: Table, objects: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """The rows JSON objects stand for.

    Keys the table does not know are ignored and counted in the log, `unknown_keys` names them.
    Raises BadPayloadError naming the path when a value is not what the path holds.
    """
    unknown = unknown_keys(table, objects)
    if unknown:
        _log.warning("%s payload: ignored %d unknown keys", table.name, len(unknown))
    wire = _wire(table)
    records = _records(table, wire, objects)
    for column in table.columns:
        _settle(records, column, table.name)
    if not records:
        return table.empty()
    lines = msgspec.json.Encoder().encode_lines(records)
    decoded = pl.read_ndjson(io.BytesIO(lines), schema=wire.schema).rechunk()
    flat = pl.DataFrame(_leaves(decoded, ""))
    said = [column for column in table.columns if _is_said(column, flat)]
    _refuse_unreadable(flat, table, said)
    made = _disassemble(said, pl.col)
    names = {expression.meta.output_name() for expression in made}
    silent = [
        pl.lit(None, column.dtype).alias(column.name)
        for column in table.columns
        if column.name not in names
    ]
    return flat.with_columns(*made, *silent).select(column.name for column in table.columns)


def unknown_keys(table: Table, objects: Sequence[Mapping[str, Any]]) -> list[str]:
    """Paths of keys the table has no column for, sorted."""
    found: set[str] = set()
    known = _known(table)
    for record in objects:
        _collect_unknown(record, known, "", found)
    return sorted(found)


# The tree of JSON keys. A leaf is the column behind the key and what part of it the key shows.


@dataclass(frozen=True, slots=True)
class _Leaf:
    column: Column
    shows: Literal["value", "exact", "missing"] = "value"


_Tree = dict[str, Any]


def _keys(column: Column) -> Iterator[tuple[str, _Leaf]]:
    """JSON paths of a column, companions and twins included."""
    if column.role == "local":
        return
    path = column.path or column.name
    yield path, _Leaf(column)
    if column.sdk_whole:
        yield path + EXACT, _Leaf(column, "exact")
    if isinstance(column.demanded, int | float):
        yield path + MISSING, _Leaf(column, "missing")
    for twin in column.twins:
        yield twin, _Leaf(column)


def _tree(columns: Sequence[Column]) -> _Tree:
    root: _Tree = {}
    for column in columns:
        for path, leaf in _keys(column):
            *heads, last = path.split(".")
            node = root
            for head in heads:
                node = node.setdefault(head, {})
            node[last] = leaf
    return root


# Rows to JSON.


def _assemble(tree: _Tree, source: Source, compat: Compat) -> list[pl.Expr]:
    return [
        (
            _show(node, source, compat)
            if isinstance(node, _Leaf)
            else pl.struct(_assemble(node, source, compat))
        ).alias(key)
        for key, node in tree.items()
    ]


def _show(leaf: _Leaf, source: Source, compat: Compat) -> pl.Expr:
    column = leaf.column
    value = source(column.name)
    if leaf.shows == "exact":
        return value
    if leaf.shows == "missing":
        return value.is_null()
    if column.role == "instant":
        return format_pair(value, source(str(column.partner)))
    if column.fields:
        element = pl.struct(_assemble(_tree(column.fields), _element, compat))
        return _or_empty(value.list.eval(element))
    if column.is_list:
        return _or_empty(value.list.eval(_plain(column, pl.element(), compat)))
    return _plain(column, value, compat)


def _plain(column: Column, value: pl.Expr, compat: Compat) -> pl.Expr:
    if column.codes is not None:
        value = column.codes.encode(value)
    elif isinstance(column.dtype, pl.Datetime):
        value = format_instant(value)
    elif isinstance(column.dtype, pl.Date):
        value = value.dt.strftime("%Y-%m-%d")
    elif column.sdk_whole:
        value = value.round(0, mode="half_away_from_zero").cast(pl.Int64, strict=False)
    if column.demanded is not None:
        value = value.fill_null(column.demanded)
    if column.sdk_text and compat == "sdk":
        value = value.cast(pl.String)
    return value


def _element(name: str) -> pl.Expr:
    return pl.element().struct.field(name)


def _or_empty(values: pl.Expr) -> pl.Expr:
    return values.fill_null([])


def _fold_map(objects: Sequence[Json], segments: Sequence[str]) -> None:
    *heads, leaf = segments
    for record in objects:
        node = record
        for head in heads:
            node = node[head]
        parts = node[leaf]
        node[leaf] = {part[_NAME]: part[_SCORE] for part in parts} if parts else None


# Rows to JSON text. A text that is the same in every row is a `str`, any other a series.

_Text = str | pl.Series
_SHORT_BYTES = 12
_NEEDS_ESCAPE = r'["\\\x00-\x1f]'


def _write(
    tree: _Tree, frame: pl.DataFrame, compat: Compat, *, folds: bool = False
) -> Iterator[_Text]:
    """Parts of the objects `tree` describes, one for each row; `folds` says maps become objects.

    Parts, for whoever puts them together copies them: a day of samples is copied once, however deep
    it lies.
    """
    # One query for all plain values: polars plans a hundred small ones longer than it runs them.
    plain = frame.select(
        _show(leaf, pl.col, compat).alias(path)
        for path, leaf in _leaves_of(tree, "")
        if not leaf.column.fields and not _is_silent(leaf.column, frame)
    )

    def inside(node: _Tree, prefix: str) -> Iterator[_Text]:
        yield "{"
        for index, (key, below) in enumerate(node.items()):
            yield f',"{key}":' if index else f'"{key}":'
            path = f"{prefix}{key}"
            if not isinstance(below, _Leaf):
                yield from inside(below, f"{path}.")
            elif _is_silent(below.column, frame):
                yield _silence(below, compat, folds=folds)
            elif below.column.fields:
                yield from _write_list(below.column, frame[below.column.name], compat, folds=folds)
            else:
                is_clean = below.column.role == "instant"
                yield _value_text(plain[path], is_clean=is_clean)
        yield "}"

    return inside(tree, "")


def _leaves_of(tree: _Tree, prefix: str) -> Iterator[tuple[str, _Leaf]]:
    for key, node in tree.items():
        if isinstance(node, _Leaf):
            yield prefix + key, node
        else:
            yield from _leaves_of(node, f"{prefix}{key}.")


def _is_silent(column: Column, frame: pl.DataFrame) -> bool:
    names = [column.name, column.partner] if column.role == "instant" else [column.name]
    return all(frame[str(name)].null_count() == frame.height for name in names)


def _silence(leaf: _Leaf, compat: Compat, *, folds: bool) -> str:
    """What stands where no row has a value."""
    column = leaf.column
    if leaf.shows == "missing":
        return "true"
    if leaf.shows == "exact":
        return "null"
    if column.is_list:
        return "null" if folds and column.is_map else "[]"
    if column.demanded is None:
        return "null"
    shown = pl.select(_plain(column, pl.lit(None, column.dtype), compat)).item()
    return msgspec.json.encode(shown).decode()


def _write_list(
    column: Column, values: pl.Series, compat: Compat, *, folds: bool
) -> Iterator[_Text]:
    if folds and column.is_map:
        parts = values.to_list()
        yield _encoded([{p[_NAME]: p[_SCORE] for p in row} if row else None for row in parts])
        return
    lengths = values.list.len().fill_null(0)
    filled = values.filter(lengths > 0)
    is_first = pl.int_ranges(filled.list.len(), eager=True).explode() == 0
    marks = pl.select(pl.when(is_first).then(pl.lit("[")).otherwise(pl.lit(","))).to_series()
    elements = filled.explode().struct.unnest()
    texts = _joined([marks, *_write(_tree(column.fields), elements, compat)])
    assert isinstance(texts, pl.Series)  # noqa: S101 - the marks are one
    yield _side_by_side(texts, lengths)
    yield "]"


def _side_by_side(texts: pl.Series, lengths: pl.Series) -> pl.Series:
    """The texts of each list as one text, `[` for an empty one.

    They lie one behind the other in memory as it is: only where each list ends is new.
    """
    import pyarrow as pa  # 40 MB no sensor needs

    _, offsets, letters = texts.to_arrow(compat_level=pl.CompatLevel.oldest()).buffers()
    ends = pl.concat([pl.Series([0], dtype=pl.Int64), lengths.cast(pl.Int64).cum_sum()])
    inner = pa.Array.from_buffers(pa.int64(), len(texts) + 1, [None, offsets])
    _, outer = inner.take(ends.to_arrow()).buffers()
    lists = pl.Series(pa.LargeStringArray.from_buffers(len(lengths), outer, letters))
    return lists.set(lengths == 0, "[") if (lengths == 0).any() else lists


def _value_text(values: pl.Series, *, is_clean: bool) -> pl.Series:
    dtype = values.dtype
    if isinstance(dtype, pl.List):
        return _encoded(values.to_list())
    if dtype == pl.String:
        if not is_clean and values.str.contains(_NEEDS_ESCAPE).any():
            spelt = values.unique().drop_nulls()
            escaped = [msgspec.json.encode(text).decode()[1:-1] for text in spelt]
            values = values.replace_strict(spelt, escaped, default=None)
        text = '"' + values + '"'
    elif dtype.is_float():
        text = values.set(~values.is_finite(), None).cast(pl.String)
    else:
        text = values.cast(pl.String)
    return text.fill_null("null")


def _encoded(values: Sequence[object]) -> pl.Series:
    return pl.Series([msgspec.json.encode(value).decode() for value in values], dtype=pl.String)


def _joined(parts: Iterable[_Text]) -> _Text:
    """The parts side by side, what is the same in every row put together first."""
    run: list[str] = []
    made: list[pl.Expr] = []
    series: list[pl.Series] = []
    for part in parts:
        if isinstance(part, str):
            run.append(part)
            continue
        if run:
            made.append(pl.lit("".join(run)))
            run = []
        name = str(len(series))
        series.append(part.alias(name))
        made.append(pl.col(name))
    if not series:
        return "".join(run)
    if run:
        made.append(pl.lit("".join(run)))
    return pl.DataFrame(series).select(pl.concat_str(made)).to_series()


# JSON to rows. msgspec checks the types and names paths, polars reads the checked text.


@dataclass(frozen=True, slots=True)
class _Wire:
    record: type[msgspec.Struct]
    schema: dict[str, pl.DataType]

    @property
    def dtype(self) -> pl.Struct:
        return pl.Struct(self.schema)


class _Contributor(msgspec.Struct):
    contributor_name: str
    contributor_score: float | None = None


@cache
def _wire(table: Table) -> _Wire:
    return _record(_tree(table.columns), table.name)


def _record(tree: _Tree, title: str) -> _Wire:
    types: list[tuple[str, Any, Any]] = []
    dtypes: dict[str, pl.DataType] = {}
    for key, node in tree.items():
        if isinstance(node, _Leaf):
            accepted, dtypes[key] = _leaf_wire(node, f"{title}_{key}")
            types.append((key, accepted, None))
        else:
            inner = _record(node, f"{title}_{key}")
            dtypes[key] = inner.dtype
            types.append((key, inner.record | None, None))
    return _Wire(msgspec.defstruct(title, types), dtypes)


def _leaf_wire(leaf: _Leaf, title: str) -> tuple[Any, Any]:
    column = leaf.column
    if leaf.shows == "missing":
        return bool | None, pl.Boolean()
    if leaf.shows == "exact":
        return float | None, pl.Float64()
    if column.fields:
        inner = _record(_tree(column.fields), title)
        many = list[inner.record]  # type: ignore[name-defined]
        return (
            many | dict[str, float | None] | None if column.is_map else many | None,
            pl.List(inner.dtype),
        )
    scalar, dtype = _scalar_wire(column)
    if column.is_list:
        return list[scalar] | None, pl.List(dtype)  # type: ignore[valid-type]
    if column.sdk_text:
        return scalar | str | None, dtype
    return scalar | None, dtype


def _scalar_wire(column: Column) -> tuple[Any, pl.DataType]:
    if column.codes is not None:
        return (int, pl.Int64()) if column.codes.is_numeric else (str, pl.String())
    dtype = column.dtype.inner if isinstance(column.dtype, pl.List) else column.dtype
    if dtype == pl.Float64:
        return float, pl.Float64()
    if dtype == pl.Boolean:
        return bool, pl.Boolean()
    if dtype in (pl.Int64, pl.Int32):
        return int, pl.Int64()
    return str, pl.String()


def _records(table: Table, wire: _Wire, objects: Sequence[Mapping[str, Any]]) -> list[Any]:
    many = list[wire.record]  # type: ignore[name-defined]
    try:
        return msgspec.convert(objects, type=many)
    except msgspec.ValidationError:
        # JavaScript and some encoders write the code 4 as 4.0; msgspec takes that for a fraction.
        pass
    try:
        return msgspec.convert(_without_idle_fractions(objects), type=many)
    except msgspec.ValidationError as error:
        raise BadPayloadError(f"{table.name} payload: {error}") from None


def _without_idle_fractions(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _without_idle_fractions(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_idle_fractions(inner) for inner in value]
    return value


def _settle(records: Sequence[Any], column: Column, where: str) -> None:
    """Bring the two shapes clients know for one value into one: text to its value, map to list."""
    if column.fields and not column.is_map:
        odd = [f for f in column.fields if f.sdk_text]
        if not odd:
            return
        for record in records:
            holder, leaf = _holder(record, column)
            elements = getattr(holder, leaf) if holder is not None else None
            for inner in odd:
                _settle(elements or (), inner, f"{where}.{column.path}[]")
        return
    if not (column.is_map or column.sdk_text):
        return
    for record in records:
        holder, leaf = _holder(record, column)
        if holder is None:
            continue
        value = getattr(holder, leaf)
        if column.is_map and isinstance(value, dict):
            setattr(holder, leaf, [_Contributor(name, score) for name, score in value.items()])
        elif column.sdk_text and isinstance(value, str):
            try:
                setattr(holder, leaf, _value_of(value, column))
            except ValueError:
                raise BadPayloadError(f"{where} payload: bad text at {column.path}") from None


def _holder(record: Any, column: Column) -> tuple[Any, str]:
    *heads, leaf = (column.path or column.name).split(".")
    for head in heads:
        record = getattr(record, head)
        if record is None:
            break
    return record, leaf


def _value_of(text: str, column: Column) -> int | bool:
    if column.dtype == pl.Boolean:
        return {"true": True, "false": False}[text.lower()]
    return int(text)


def _leaves(records: pl.DataFrame, prefix: str) -> list[pl.Series]:
    """Every key of nested objects as a series named by its path."""
    # Taken apart eagerly: polars plans a thousand nested field accesses longer than it runs them.
    found: list[pl.Series] = []
    for inner in records.get_columns():
        path = prefix + inner.name
        if isinstance(inner.dtype, pl.Struct):
            found.extend(_leaves(inner.struct.unnest(), f"{path}."))
        else:
            found.append(inner.alias(path))
    return found


def _is_said(column: Column, flat: pl.DataFrame) -> bool:
    """Whether any record says something about the column; planning for silence takes time too."""
    for path, _ in _keys(column):
        values = flat[path]
        if isinstance(values.dtype, pl.List):
            values = values.list.len().replace(0, None)
        if values.null_count() < len(values):
            return True
    return False


def _nested(path: str) -> pl.Expr:
    value = pl.element()
    for segment in path.split("."):
        value = value.struct.field(segment)
    return value


def _disassemble(columns: Sequence[Column], source: Source) -> list[pl.Expr]:
    made: list[pl.Expr] = []
    for column in columns:
        if column.role == "local":
            continue
        if column.role == "instant":
            pair = parse_pair(_read(column, source))
            made.extend(pair.named(column.name, str(column.partner)))
        else:
            made.append(_hide(column, source).alias(column.name))
    return made


def _read(column: Column, source: Source) -> pl.Expr:
    """The value at the path, or at a twin when the path has none."""
    return pl.coalesce(source(path) for path in (column.path or column.name, *column.twins))


def _hide(column: Column, source: Source) -> pl.Expr:
    value = _read(column, source)
    path = column.path or column.name
    if column.fields:
        element = pl.struct(_disassemble(column.fields, _nested))
        return _or_null(value.list.eval(element))
    if column.is_list:
        return _or_null(value.list.eval(_plain_back(column, pl.element())))
    if column.sdk_whole:
        return pl.coalesce(source(path + EXACT), value)
    if isinstance(column.demanded, int | float):
        return (
            pl.when(source(path + MISSING).is_not_null() & source(path + MISSING))
            .then(pl.lit(None, dtype=pl.Float64))
            .otherwise(value)
        )
    return _plain_back(column, value)


def _plain_back(column: Column, value: pl.Expr) -> pl.Expr:
    dtype = column.dtype.inner if isinstance(column.dtype, pl.List) else column.dtype
    if column.codes is not None:
        return column.codes.decode(value)
    if isinstance(column.dtype, pl.Datetime):
        return parse_pair(value).timestamp
    if isinstance(column.dtype, pl.Date):
        return _date(value)
    if column.demanded == "":
        return pl.when(value != "").then(value)
    return value.cast(dtype)


def _date(text: pl.Expr) -> pl.Expr:
    # Terra's days sometimes come as midnight with an offset; the first ten characters are the day.
    sound = pl.when(text.str.contains(r"^\d{4}-\d{2}-\d{2}(?:[Tt ].*)?$")).then(text)
    return sound.str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)


def _or_null(values: pl.Expr) -> pl.Expr:
    return pl.when(values.list.len() > 0).then(values)


def _refuse_unreadable(flat: pl.DataFrame, table: Table, said: Sequence[Column]) -> None:
    """Raise for texts that are not the time or date they should be."""
    checks = dict(_unreadable(said, pl.col, ""))
    if not checks:
        return
    bad = flat.select(expr.any().alias(path) for path, expr in checks.items()).row(0, named=True)
    faults = [path for path, is_bad in bad.items() if is_bad]
    if faults:
        raise BadPayloadError(f"{table.name} payload: not a date or time at {', '.join(faults)}")


def _unreadable(
    columns: Sequence[Column], source: Source, prefix: str
) -> Iterator[tuple[str, pl.Expr]]:
    for column in columns:
        path = prefix + (column.path or column.name)
        if column.role == "local":
            continue
        if column.fields:
            inner = list(_unreadable(column.fields, _nested, f"{path}[]."))
            value = source(column.path or column.name)
            for below, bad in inner:
                yield below, value.list.eval(bad).list.any().fill_null(value=False)
        elif isinstance(column.dtype, pl.Datetime | pl.Date):
            value = _read(column, source)
            if isinstance(column.dtype, pl.Date):
                parsed = _date(value).is_not_null()
            else:
                pair = parse_pair(value)
                parsed = pair.timestamp.is_not_null() | pair.local_timestamp.is_not_null()
            yield path, value.is_not_null() & ~parsed


# Unknown keys.


@dataclass(slots=True)
class _Known:
    keys: dict[str, "_Known | None"] = field(default_factory=dict)


@cache
def _known(table: Table) -> _Known:
    return _known_tree(_tree(table.columns))


def _known_tree(tree: _Tree) -> _Known:
    known = _Known()
    for key, node in tree.items():
        if isinstance(node, _Leaf):
            column = node.column
            known.keys[key] = (
                _known_tree(_tree(column.fields)) if column.fields and not column.is_map else None
            )
        else:
            known.keys[key] = _known_tree(node)
    return known


def _collect_unknown(
    record: Mapping[str, Any], known: _Known, prefix: str, found: set[str]
) -> None:
    for key, value in record.items():
        if key not in known.keys:
            found.add(prefix + key)
            continue
        below = known.keys[key]
        if below is None:
            continue
        if isinstance(value, Mapping):
            _collect_unknown(value, below, f"{prefix}{key}.", found)
        elif isinstance(value, list):
            for element in value:
                if isinstance(element, Mapping):
                    _collect_unknown(element, below, f"{prefix}{key}[].", found)
