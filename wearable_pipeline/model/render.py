"""The data dictionary, made from the declarations by `python -m wearable_pipeline.model.render`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from wearable_pipeline.model import TABLES, Column, Table
from wearable_pipeline.model.columns import ALL_FIELDS, Bounds
from wearable_pipeline.model.enums import CodeList

PLACE = Path(__file__).parents[2] / "docs" / "data_dictionary.md"

_OPENING = """\
# Data dictionary

Written by `python -m wearable_pipeline.model.render` from the declarations in
`wearable_pipeline/model`; change those, not this file.

- **Client path** is where Terra's clients find the value in the JSON; a column without one travels
  in the JSON under its own name. `[]` marks the elements of a list.
- **Refused** bounds send a value to quarantine, **unusual** bounds only flag it.
- A moment is a pair: `timestamp` is the instant in UTC, `local_timestamp` what local clocks showed.
  Either may be null, never both where a moment is required. In the JSON the two are one text: with
  offset when both are known, with `Z` when only the instant is, bare when only the local time is.
- Columns marked *whole in JSON* are rounded under the client path, which Terra's Python client
  demands; the exact value stands beside it under `<name>_exact`.
- Lists are columns of structs; each is also a long view with one line per element.
- Code lists store names; a code nobody has documented yet is stored as `unknown:<code>`.
"""


def render(tables: Sequence[Table]) -> str:
    """The data dictionary as Markdown."""
    parts = [_OPENING]
    parts.extend(_table(table) for table in tables)
    parts.append(_code_lists(tables))
    return "\n".join(parts)


def _table(table: Table) -> str:
    lines = [
        f"## {table.name}",
        "",
        table.description,
        "",
        f"Key: {', '.join(f'`{name}`' for name in table.row_key)}.",
        "",
        *_rows(table.columns, ""),
        "",
    ]
    for column in table.lists:
        lines.extend(_list_section(column, f"{table.name}_{column.view}", f"{column.path}[]."))
    return "\n".join(lines)


def _list_section(column: Column, view: str, prefix: str) -> Iterator[str]:
    yield f"### {view}"
    yield ""
    yield f"Elements of `{column.name}`. {column.description}"
    kind = "every field" if column.kind == ALL_FIELDS else ", ".join(map(_code, column.sample_key))
    yield f"Told apart by {kind}."
    yield ""
    yield from _rows(column.fields, prefix)
    yield ""
    for field in column.fields:
        if field.fields:
            yield from _list_section(field, f"{view}.{field.name}", f"{prefix}{field.path}[].")


def _rows(columns: Sequence[Column], prefix: str) -> Iterator[str]:
    yield "| column | type | unit | refused outside | unusual outside | meaning | client path |"
    yield "|---|---|---|---|---|---|---|"
    for column in columns:
        paths = [f"`{prefix}{path}`" for path in (column.path, *column.twins) if path]
        yield (
            f"| `{column.name}` | {_type(column)} | {column.unit or ''} | {_span(column.hard)} "
            f"| {_span(column.plausible)} | {_meaning(column)} | {', '.join(paths)} |"
        )


def _type(column: Column) -> str:
    if column.fields:
        return f"list, see `{column.view}`"
    if column.codes is not None:
        link = f"[{column.codes.title}](#{column.codes.title.lower()})"
        return f"list of {link}" if column.is_list else link
    names: dict[object, str] = {
        pl.String(): "text",
        pl.Float64(): "number",
        pl.Int64(): "integer",
        pl.Int32(): "integer",
        pl.Boolean(): "boolean",
        pl.Date(): "date",
        pl.Datetime("us", "UTC"): "instant",
        pl.Datetime("us"): "local time",
        pl.List(pl.String): "list of text",
        pl.List(pl.Float64): "list of numbers",
    }
    return names[column.dtype]


def _meaning(column: Column) -> str:
    notes = []
    if column.required:
        notes.append("Required.")
    if column.sdk_whole:
        notes.append("*Whole in JSON.*")
    return " ".join([column.description, *notes])


def _span(bounds: Bounds | None) -> str:
    if bounds is None:
        return ""
    low, high = ("" if bound is None else f"{bound:g}" for bound in bounds)
    return f"{low} … {high}".strip()


def _code(name: str) -> str:
    return f"`{name}`"


def _code_lists(tables: Sequence[Table]) -> str:
    found: dict[str, CodeList] = {}
    for table in tables:
        _collect(table.columns, found)
    lines = ["## Code lists", ""]
    for title in sorted(found):
        lines.extend((f"### {title}", "", "| name | JSON |", "|---|---|"))
        lines.extend(f"| `{name}` | `{code}` |" for code, name in found[title].names.items())
        lines.append("")
    return "\n".join(lines)


def _collect(columns: Sequence[Column], found: dict[str, CodeList]) -> None:
    for column in columns:
        if column.codes is not None:
            found[column.codes.title] = column.codes
        _collect(column.fields, found)


if __name__ == "__main__":
    PLACE.parent.mkdir(exist_ok=True)
    PLACE.write_text(render(tuple(TABLES.values())), encoding="utf-8")
