"""Bodies a machine wrote to one pattern, read side by side without a parser.

What is measured every five minutes comes with the same keys in the same order, and most values are as long as
they were the last time. One body of such a pattern is decoded. Of the others it is shown that they differ
from it in nothing but digits of its numbers and characters of its texts: then they are JSON as well, and
their values lie where its values lie.

Nothing is guessed. A body that differs in any other way, and one with a value of another kind than its column
asks for, is left to the decoders.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import polars as pl

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Finding out about a pattern costs as much as decoding so many bodies.
_FEWEST = 128
_PATTERNS_OF_A_LENGTH = 8
# So many more bodies of no pattern than patterns, and the batch is not of the kind.
_MISSES = 2
_LONGEST = 1 << 15
# What is compared at a time stays in the cache of the processor.
_BYTES_AT_ONCE = 1 << 17
# Whole numbers of that many digits are exact as floats, and so are their quotients with a power of ten.
_DIGITS = 15
# Decoders differ on numbers that go past 64 bits.
_DIGITS_OF_ANY = 18

_READ = frozenset({pl.String(), pl.Int64(), pl.Float64(), pl.Boolean()})
_WORDS = {b"null": None, b"true": True, b"false": False}
# What has no room for another value.
_CONSTANTS = {**_WORDS, b'""': ""}
_TOKEN = re.compile(rb'"([^"]*)" *:|("[^"]*"|[-+.\w]+)|[{}\[]')
_NUMBER = re.compile(rb"-?(\d+)(?:\.(\d+))?")

# Names of the objects around a value, and its own. The body itself has an empty one.
_Path = tuple[str, ...]


def read_patterns(
    body: pl.Series, wire: Mapping[str, pl.DataType]
) -> tuple[pl.DataFrame, "NDArray[np.int64]"]:
    """Typed columns of the bodies that keep to a pattern, and which rows of `body` those are."""
    import numpy as np  # 15 MB no sensor needs

    found = [pl.DataFrame(schema=dict(wire))]
    rows = [np.empty(0, np.int64)]
    for columns, numbers in _read_each(body, wire) if _READ.issuperset(wire.values()) else ():
        found.append(columns)
        rows.append(numbers)
    return pl.concat(found), np.concatenate(rows)


def _read_each(
    body: pl.Series, wire: Mapping[str, pl.DataType]
) -> Iterator[tuple[pl.DataFrame, "NDArray[np.int64]"]]:
    import numpy as np

    hits = misses = 0
    for numbers, bodies in _by_length(body):
        for _ in range(_PATTERNS_OF_A_LENGTH):
            if len(numbers) < _FEWEST:
                break
            # Most likely one of many: the first may well be the odd one.
            sample = len(bodies) // 2
            pattern = _Pattern.of(bodies[sample].tobytes(), wire)
            fits = np.arange(len(bodies)) == sample if pattern is None else pattern.fits(bodies)
            if pattern is not None and np.count_nonzero(fits) >= _FEWEST:
                yield pattern.read(bodies, fits, wire), numbers[fits]
                hits += 1
            else:
                misses += 1
                if misses > hits + _MISSES:
                    return
            numbers, bodies = numbers[~fits], bodies[~fits]


def _by_length(body: pl.Series) -> Iterator[tuple["NDArray[np.int64]", "NDArray[np.uint8]"]]:
    """Which rows are of one length, and their bytes, one body below the other; most rows first."""
    import numpy as np

    lengths = body.bin.size().fill_null(0).to_numpy()
    # An escape is not one character.
    is_plain = (lengths < _LONGEST) & ~body.bin.contains(b"\\").fill_null(value=True).to_numpy()
    lengths = np.where(is_plain, lengths, 0).astype(np.uint16)
    counts = np.bincount(lengths, minlength=1)
    ends = np.cumsum(counts)
    counts[0] = 0
    order = np.argsort(lengths, kind="stable")
    body = body.gather(order)
    for length in np.argsort(-counts)[: np.count_nonzero(counts >= _FEWEST)].tolist():
        first = ends[length] - counts[length]
        alike = body.slice(first, counts[length]).to_arrow(compat_level=pl.CompatLevel.oldest())
        content = np.frombuffer(alike.buffers()[2], np.uint8)
        yield order[first : ends[length]], content.reshape(-1, length)


@dataclass(frozen=True, slots=True)
class _Pattern:
    """A body, where its values are, and what may stand in each place: `lowest` and `room` above it."""

    sample: bytes
    places: Mapping[str, slice]
    lowest: "NDArray[np.uint8]"
    room: "NDArray[np.uint8]"

    @classmethod
    def of(cls, sample: bytes, wire: Mapping[str, pl.DataType]) -> "_Pattern | None":
        """The pattern of `sample`; None where it takes a decoder to read that."""
        values = _values_in(sample)
        if values is None:
            return None
        places = {}
        for name, dtype in wire.items():
            path = ("", *name.split("."))
            around = [values[path[:end]] for end in range(1, len(path)) if path[:end] in values]
            if any(sample[one] not in (b"{", b"null") for one in around):
                return None
            if path in values:
                places[name] = values[path]
                if not _is_written_as(sample[values[path]], dtype):
                    return None
        bounds = _bounds(sample, values)
        return None if bounds is None else cls(sample, places, *bounds)

    def fits(self, bodies: "NDArray[np.uint8]") -> "NDArray[np.bool_]":
        """Which bodies differ from the sample in digits and characters alone."""
        import numpy as np

        some = max(1, _BYTES_AT_ONCE // len(self.sample))
        # Made once: memory of that size is fetched from the system and given back every time.
        above = np.empty((some, len(self.sample)), np.uint8)
        too_high = np.empty(above.shape, np.bool_)
        fits = np.ones(len(bodies), np.bool_)
        for first in range(0, len(bodies), some):
            part = bodies[first : first + some]
            lines = slice(0, len(part))
            np.subtract(part, self.lowest, out=above[lines])
            np.greater(above[lines], self.room, out=too_high[lines])
            if too_high[lines].any():
                fits[first : first + some] = ~too_high[lines].any(axis=1)
        return fits

    def read(
        self,
        bodies: "NDArray[np.uint8]",
        fits: "NDArray[np.bool_]",
        wire: Mapping[str, pl.DataType],
    ) -> pl.DataFrame:
        """Typed columns of the bodies that fit."""
        import numpy as np

        columns = {}
        for name, dtype in wire.items():
            place = self.places.get(name, slice(0))
            written = self.sample[place] or b"null"
            if written in _CONSTANTS:
                constant = pl.Series([_CONSTANTS[written]], dtype=dtype)
                columns[name] = constant.new_from_index(0, int(fits.sum()))
                continue
            if dtype == pl.String:
                place = slice(place.start + 1, place.stop - 1)
            # As one item of so many bytes each, they are copied four times as fast.
            width = place.stop - place.start
            items = np.ndarray(
                len(bodies), f"V{width}", bodies.data, place.start, bodies.strides[:1]
            )[fits]
            letters = items.view(np.uint8).reshape(len(items), width)
            columns[name] = (
                _texts(letters) if dtype == pl.String else _numbers(letters, written, dtype)
            )
        return pl.DataFrame(columns)


def _values_in(body: bytes) -> dict[_Path, slice] | None:
    """Where the values of a JSON object are; of objects in it, where they open.

    None if `body` is no such thing, repeats a name, or has lists in it.
    """
    if min(body) < ord(" "):
        return None
    try:
        body.decode()
        msgspec.json.decode(body)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None
    values: dict[_Path, slice] = {}
    around: list[str] = []
    name = ""
    for token in _TOKEN.finditer(body):
        key, scalar = token.groups()
        if key is not None:
            name = key.decode()
        elif token[0] == b"}":
            around.pop()
        else:
            path = (*around, name)
            if path in values or token[0] == b"[":
                return None
            values[path] = slice(*token.span())
            if scalar is None:
                around.append(name)
    return values if body[values["",]] == b"{" else None


def _is_written_as(written: bytes, dtype: pl.DataType) -> bool:
    """Whether a value is of the kind a column asks for, in the plainest form there is."""
    if written == b"null":
        return True
    if dtype == pl.Boolean:
        return written in _WORDS
    if dtype == pl.String:
        return written.startswith(b'"')
    number = _NUMBER.fullmatch(written)
    if number is None:
        return False
    whole, fraction = number[1], number[2] or b""
    return len(whole + fraction) <= _DIGITS and (not fraction or dtype.is_float())


def _bounds(
    sample: bytes, values: Mapping[_Path, slice]
) -> tuple["NDArray[np.uint8]", "NDArray[np.uint8]"] | None:
    """The lowest byte of each place, and how far above it others may be; None if it takes a decoder."""
    import numpy as np

    lowest, room = bytearray(sample), bytearray(len(sample))
    for place in values.values():
        written = sample[place]
        if written.startswith(b'"'):
            lowest[place] = written.translate(_LOWEST_IN_TEXT)
            room[place] = written.translate(_ROOM_IN_TEXT)
        elif written not in _WORDS and written != b"{":
            number = _NUMBER.fullmatch(written)
            if number is None or len(number[1]) > _DIGITS_OF_ANY:
                return None
            lowest[place] = written.translate(_LOWEST_IN_NUMBER)
            room[place] = written.translate(_ROOM_IN_NUMBER)
            if len(number[1]) > 1:  # 007 is no number
                first = place.start + number.start(1)
                lowest[first], room[first] = ord("1"), ord("9") - ord("1")
    return np.frombuffer(lowest, np.uint8), np.frombuffer(room, np.uint8)


def _tables(low: str, high: str) -> tuple[bytes, bytes]:
    """For `bytes.translate`: the lowest byte and the room, where any from `low` to `high` may stand."""
    inside = range(ord(low), ord(high) + 1)
    return (
        bytes(inside.start if byte in inside else byte for byte in range(256)),
        bytes(len(inside) - 1 if byte in inside else 0 for byte in range(256)),
    )


_LOWEST_IN_NUMBER, _ROOM_IN_NUMBER = _tables("0", "9")
# All of ASCII above the quote, which would end the text. Other letters take several bytes.
_LOWEST_IN_TEXT, _ROOM_IN_TEXT = _tables("#", "~")


def _texts(letters: "NDArray[np.uint8]") -> pl.Series:
    """One text per line of letters."""
    import numpy as np
    import pyarrow as pa  # 40 MB no sensor needs

    count, width = letters.shape
    ends = np.arange(0, (count + 1) * width, width, dtype=np.int64)
    return pl.Series(
        pa.LargeStringArray.from_buffers(count, pa.py_buffer(ends), pa.py_buffer(letters))
    )


def _numbers(letters: "NDArray[np.uint8]", written: bytes, dtype: pl.DataType) -> pl.Series:
    """The number each line of letters spells, in the places of `written`."""
    import numpy as np

    digits = [letter not in b"-." for letter in written]
    exponents = np.cumsum(digits[::-1])[::-1] - 1
    weights = np.where(digits, 10.0**exponents, 0.0)
    # Not a product of matrices: that would start threads.
    number = np.einsum("ij,j->i", letters - ord("0"), weights)
    fraction = len(written.partition(b".")[2])
    if fraction:
        # Not by polars, which multiplies by the reciprocal: 188 / 100 would not be 1.88.
        number = number / 10.0**fraction
    found = pl.Series(number).cast(dtype)
    # There is a negative nought.
    return found * -1 if written.startswith(b"-") else found
