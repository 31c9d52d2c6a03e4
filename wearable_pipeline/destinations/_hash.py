"""The hash by which a destination tells whether it has a row already.

Provenance is left out, so a row fetched again without a change keeps its hash; null fields are too,
so a column added to the table changes only the rows that have a value there.
"""

import hashlib
from collections.abc import Callable, Iterator

import polars as pl

from wearable_pipeline.model import Table

# A key without a value, after others and as the first. Quotes inside values are escaped, so neither
# matches inside one.
_LATER_NULL = r',"[A-Za-z0-9_]+":null'
_FIRST_NULL = r'"[A-Za-z0-9_]+":null,?'
_SLICE_ROWS = 2_000

# One buffer of offsets and one of text, instead of views.
_LARGE_TEXT = pl.CompatLevel.oldest()

# What one part of row `index` adds to the row's hash.
_Feed = Callable[[int], Iterator[bytes | memoryview]]


def hash_rows(rows: pl.DataFrame, table: Table) -> pl.DataFrame:
    """`user_id`, `row_key`, `local_date` and `content_hash` of every row, in order."""
    names = sorted(table.content_columns)
    hashes: list[str] = []
    for part in table.conform(rows.rechunk()).select(names).iter_slices(_SLICE_ROWS):
        hashes += _hash_part(part)
    return rows.select(
        "user_id",
        table.row_key_expression().alias("row_key"),
        "local_date",
        pl.Series("content_hash", hashes, dtype=pl.String),
    )


def _hash_part(part: pl.DataFrame) -> list[str]:
    filled = [column.name for column in part if column.null_count() < part.height]
    flat = [name for name in filled if _is_flat_list(part.schema[name])]
    texts = (
        part.select(
            pl.struct([name for name in filled if name not in flat])
            .struct.json_encode()
            .str.replace_all(_LATER_NULL, "")
            .str.replace_all(_FIRST_NULL, "")
        )
        .to_series()
        .to_list()
    )
    feeds = [_feed_list(part[name]) for name in flat]
    hashes = []
    for index, text in enumerate(texts):
        digest = hashlib.blake2b(text.encode(), digest_size=16)
        for feed in feeds:
            for piece in feed(index):
                digest.update(piece)
        hashes.append(digest.hexdigest())
    return hashes


def _is_flat_list(dtype: pl.DataType) -> bool:
    return (
        isinstance(dtype, pl.List)
        and isinstance(dtype.inner, pl.Struct)
        and not any(isinstance(f.dtype, pl.List | pl.Struct | pl.Array) for f in dtype.inner.fields)
    )


def _feed_list(values: pl.Series) -> _Feed:
    """Samples as the bytes of their columns: as text a day of them costs thirty times as much."""
    lengths = values.list.len().fill_null(0)
    ends = lengths.cast(pl.Int64).cum_sum().to_numpy()
    starts = ends - lengths.to_numpy()
    elements = values.filter(lengths > 0).explode().struct.unnest()
    fields = [_feed_field(elements[name]) for name in sorted(elements.columns)]
    title = values.name.encode()

    def feed(index: int) -> Iterator[bytes | memoryview]:
        start, end = int(starts[index]), int(ends[index])
        if start == end:
            return
        yield b"\x00%s\x00%d" % (title, end - start)
        for field in fields:
            if field is not None:
                yield from field(start, end)

    return feed


def _feed_field(
    values: pl.Series,
) -> Callable[[int, int], Iterator[bytes | memoryview]] | None:
    if values.null_count() == len(values):
        return None
    import numpy as np  # 15 MB no sensor needs

    known = values.is_not_null().to_numpy().astype(np.uint8)
    known_before = np.concatenate([[0], np.cumsum(known, dtype=np.int64)])
    marks = known.data
    title = values.name.encode()
    ends: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None
    if values.dtype == pl.String:
        _, offsets, letters = values.fill_null("").to_arrow(compat_level=_LARGE_TEXT).buffers()
        ends = np.frombuffer(offsets, np.int64, len(values) + 1)
        content = memoryview(letters) if letters else memoryview(b"")
        widths = np.diff(ends).data.cast("B")
        width = 8
    else:
        plain = values.cast(pl.UInt8) if values.dtype == pl.Boolean else values.to_physical()
        numbers = np.ascontiguousarray(plain.fill_null(0).to_numpy())
        width = numbers.dtype.itemsize
        widths = numbers.data.cast("B")
        content = memoryview(b"")

    def feed(start: int, end: int) -> Iterator[bytes | memoryview]:
        count = int(known_before[end] - known_before[start])
        if count == 0:
            return
        yield b"\x00%s\x00%d" % (title, count)
        if count < end - start:
            yield marks[start:end]
        yield widths[start * width : end * width]
        if ends is not None:
            yield content[int(ends[start]) : int(ends[end])]

    return feed
