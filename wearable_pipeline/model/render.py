"""What is written from the declarations by `python -m wearable_pipeline.model.render`.

The data dictionary, the coverage of providers, the settings of destinations, and the dbt project's
sources, staging models and merged days.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import yaml  # type: ignore[import-untyped]  # ships no types

from wearable_pipeline.destinations import destinations
from wearable_pipeline.destinations._settings_table import fill_settings
from wearable_pipeline.errors import UsageError
from wearable_pipeline.lake.catalog import (
    duckdb_type,
    list_keys,
    list_rows,
    measured_field,
    no_rows,
    table_rows,
)
from wearable_pipeline.lake.merged import (
    DAILY_MERGED,
    MEASURES,
    PEOPLE,
    PEOPLE_COLUMNS,
    PEOPLE_FILES,
    SOURCE_PRIORITY,
    merged_columns,
    merged_sql,
)
from wearable_pipeline.model import TABLES, Column, Table
from wearable_pipeline.model.columns import ALL_FIELDS, Bounds
from wearable_pipeline.model.enums import CodeList
from wearable_pipeline.providers import providers
from wearable_pipeline.providers._coverage import render_coverage

PLACE = Path(__file__).parents[2] / "docs" / "data_dictionary.md"
COVERAGE = Path(__file__).parents[2] / "docs" / "coverage.md"
DESTINATIONS = Path(__file__).parents[2] / "docs" / "destinations.md"
DBT_PROJECT = Path(__file__).parents[2] / "dbt_project"
MANIFEST = DBT_PROJECT / "manifest.json"

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


_MADE = "made by python -m wearable_pipeline.model.render"
_SQL_MADE = f"{{#- {_MADE} -#}}\n"
_YAML_MADE = f"# {_MADE}\n"


def dbt_files(tables: Sequence[Table]) -> dict[str, str]:
    """The generated files of the dbt project, by path within it."""
    files = {
        "models/sources.yml": _yaml({"sources": [_lake_source(tables)]}),
        "models/staging/people.yml": _yaml({"models": [_people_model()]}),
        f"models/staging/stg_{PEOPLE}.sql": _staging_sql(
            PEOPLE,
            PEOPLE_FILES,
            "SELECT * FROM read_parquet(__files__)",
            PEOPLE_COLUMNS,
        ),
        f"models/marts/{DAILY_MERGED}.sql": _merged_model(),
        f"models/marts/{DAILY_MERGED}.yml": _yaml({"models": [_merged_properties()]}),
    }
    for table in tables:
        files[f"models/staging/stg_{table.name}.sql"] = _staging_sql(
            table.name,
            f"{table.name}/**/*.parquet",
            table_rows(table, "__files__"),
            table.columns,
        )
        models = [_table_model(table)]
        for column in table.lists:
            rows = list_rows(table, column, f"{{{{ ref('stg_{table.name}') }}}}")
            name = f"stg_{table.view_name(column)}"
            files[f"models/staging/{name}.sql"] = f"{_SQL_MADE}{rows}\n"
            models.append(_list_model(table, column))
        files[f"models/staging/{table.name}.yml"] = _yaml({"models": models})
    return files


def _staging_sql(name: str, pattern: str, rows: str, columns: Sequence[Column]) -> str:
    return (
        f"{_SQL_MADE}{{% call lake_rows({name!r}, {pattern!r}, {json.dumps(rows)}) %}}\n"
        f"{no_rows(columns)}\n"
        "{% endcall %}\n"
    )


def _merged_model() -> str:
    default = json.dumps(list(SOURCE_PRIORITY))
    sql = merged_sql(
        "{{ ref('stg_daily') }}",
        f"{{{{ ref('stg_{PEOPLE}') }}}}",
        "[{{ lake_texts(priority) }}]",
    )
    return f"{_SQL_MADE}{{%- set priority = var('source_priority') or {default} -%}}\n{sql}\n"


def _lake_source(tables: Sequence[Table]) -> dict[str, object]:
    return {
        "name": "lake",
        "description": "Parquet files the pipeline writes, partitioned by local date and user.",
        "tables": [
            *(
                {
                    "name": table.name,
                    "description": table.description,
                    "columns": [_property(column) for column in table.columns],
                }
                for table in tables
            ),
            {
                "name": PEOPLE,
                "description": "Which users are one person.",
                "columns": [_property(column) for column in PEOPLE_COLUMNS],
            },
        ],
    }


def _table_model(table: Table) -> dict[str, object]:
    return {
        "name": f"stg_{table.name}",
        "description": table.description,
        "data_tests": _tests(f"stg_{table.name}", table.row_key, table.columns),
        "columns": [_property(column) for column in table.columns],
    }


def _list_model(table: Table, column: Column) -> dict[str, object]:
    keys = list_keys(table)
    measured = measured_field(column)
    value = [] if measured is None else [_property(measured) | {"name": "value"}]
    name = f"stg_{table.view_name(column)}"
    key = [*keys, *column.sample_key]
    return {
        "name": name,
        "description": f"{column.description} One line per element of `{column.name}`.",
        "data_tests": _tests(name, key, [*map(table.column, keys), *column.fields]),
        "columns": [
            *(_property(table.column(name)) for name in keys),
            *(_property(field) for field in column.fields),
            *value,
        ],
    }


def _people_model() -> dict[str, object]:
    return {
        "name": f"stg_{PEOPLE}",
        "description": "Which users are one person.",
        "data_tests": _tests(f"stg_{PEOPLE}", ("user_id",), PEOPLE_COLUMNS),
        "columns": [_property(column) for column in PEOPLE_COLUMNS],
    }


def _merged_properties() -> dict[str, object]:
    return {
        "name": DAILY_MERGED,
        "description": "One row per person and local date from all of the person's sources: what"
        " adds up is counted once, the rest comes from the first source that has it. The rule"
        " stands in docs/merging.md.",
        "data_tests": [
            _test(DAILY_MERGED, "unique_key", ["person_id", "local_date"]),
            _test(
                DAILY_MERGED,
                "never_null",
                ["person_id", "local_date", "contributing_providers", "sources"],
            ),
            _test(
                DAILY_MERGED,
                "within_bounds",
                {measure.total: {"at_least": 0} for measure in MEASURES},
            ),
        ],
        "columns": [
            {"name": name, "description": description} for name, description in merged_columns()
        ],
    }


def _property(column: Column) -> dict[str, object]:
    unit = f" [{column.unit}]" if column.unit else ""
    return {
        "name": column.name,
        "description": f"{column.description}{unit}",
        "data_type": duckdb_type(column),
    }


def _tests(model: str, key: Sequence[str], columns: Sequence[Column]) -> list[dict[str, object]]:
    tests = [_test(model, "unique_key", list(key))]
    required = [
        [column.name, column.partner] if column.partner else column.name
        for column in columns
        if column.required and column.role != "local"
    ]
    bounds = {column.name: _bounds(column) for column in columns if column.hard is not None}
    codes = {column.name: _codes(column) for column in columns if column.codes is not None}
    if required:
        tests.append(_test(model, "never_null", required))
    if bounds:
        tests.append(_test(model, "within_bounds", bounds))
    if codes:
        tests.append(_test(model, "listed_codes", codes))
    return tests


def _test(
    model: str, name: str, columns: Sequence[object] | Mapping[str, object]
) -> dict[str, object]:
    return {name: {"name": f"{model}_{name}", "arguments": {"columns": columns}}}


def _bounds(column: Column) -> dict[str, object]:
    low, high = column.hard or (None, None)
    bounds: dict[str, object] = {"elements": True} if column.is_list else {}
    if low is not None:
        bounds["at_least"] = low
    if high is not None:
        bounds["at_most"] = high
    return bounds


def _codes(column: Column) -> dict[str, object]:
    listed: dict[str, object] = {"elements": True} if column.is_list else {}
    if column.codes is not None:
        if column.codes.is_numeric:
            listed["numeric"] = True
        # dbt keeps what it has parsed only when every key is text.
        listed["codes"] = {str(code): name for code, name in column.codes.names.items()}
    return listed


def _yaml(content: Mapping[str, object]) -> str:
    text = yaml.safe_dump({"version": 2, **content}, sort_keys=False, allow_unicode=True, width=100)
    return f"{_YAML_MADE}{text}"


def dbt_manifest(project: Path) -> str:
    """What Dagster has to know of the project: its marts, what they stand on, and their tests.

    dbt's own manifest takes seconds to make and holds times and every macro there is.
    """
    from dbt.cli.main import dbtRunner

    with TemporaryDirectory() as target:
        arguments = ["--project-dir", str(project), "--profiles-dir", str(project)]
        places = ["--target-path", target, "--log-path", target]
        result = dbtRunner().invoke(
            ["--quiet", "parse", "--target", "dagster", *arguments, *places]
        )
        if not result.success:
            raise UsageError(f"dbt cannot read {project}: {result.exception}")
        whole = json.loads(Path(target, "manifest.json").read_text(encoding="utf-8"))
    nodes, parents = whole["nodes"], whole["parent_map"]
    kept = {name for name, node in nodes.items() if node["fqn"][1:2] == ["marts"]}
    ahead = list(kept)
    while ahead:
        new = set(parents[ahead.pop()]) - kept
        kept |= new
        ahead += new
    slim: dict[str, object] = {
        section: {} for section, content in whole.items() if isinstance(content, dict)
    }
    slim["metadata"] = {
        name: whole["metadata"][name]
        for name in ("dbt_schema_version", "project_name", "project_id", "adapter_type")
    }
    for section in ("nodes", "sources"):
        slim[section] = {
            name: _timeless(node) for name, node in sorted(whole[section].items()) if name in kept
        }
    for section in ("parent_map", "child_map"):
        slim[section] = {
            name: sorted(kept.intersection(others))
            for name, others in sorted(whole[section].items())
            if name in kept
        }
    return json.dumps(slim, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _timeless(node: Mapping[str, Any]) -> dict[str, object]:
    left_out = {"created_at", "raw_code", "checksum"}
    if node["fqn"][1:2] != ["marts"]:
        left_out.add("columns")
    return {name: value for name, value in node.items() if name not in left_out}


def write_all(tables: Sequence[Table]) -> None:
    """Writes every generated file, and removes staging models nothing declares any more."""
    PLACE.parent.mkdir(exist_ok=True)
    PLACE.write_text(render(tables), encoding="utf-8")
    COVERAGE.write_text(render_coverage(providers().values(), tables), encoding="utf-8")
    page = DESTINATIONS.read_text(encoding="utf-8")
    DESTINATIONS.write_text(fill_settings(page, destinations().values()), encoding="utf-8")
    files = dbt_files(tables)
    for old in (DBT_PROJECT / "models" / "staging").glob("*"):
        if f"models/staging/{old.name}" not in files:
            old.unlink()
    for path, text in files.items():
        file = DBT_PROJECT / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    MANIFEST.write_text(dbt_manifest(DBT_PROJECT), encoding="utf-8")


if __name__ == "__main__":
    write_all(tuple(TABLES.values()))
