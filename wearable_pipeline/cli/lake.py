"""Ask the lake and look after it."""

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table as Grid

from wearable_pipeline.cli._console import (
    AsJson,
    app,
    err,
    explained,
    out,
    parse_day,
    print_json,
    progress_bar,
    show_value,
)
from wearable_pipeline.cli.sync import check_timezone
from wearable_pipeline.errors import UsageError
from wearable_pipeline.settings import load_settings


@app.command()
@explained
def normalize(
    file: Annotated[Path, typer.Argument(help="A provider's body as it arrived.")],
    provider: Annotated[str, typer.Option(help="A name from `wearable-pipeline providers`.")],
    resource: Annotated[
        str | None, typer.Option(help="Which resource the body is of (default: recognised).")
    ] = None,
    form: Annotated[
        Literal["columns", "payload"],
        typer.Option("--as", help="Rows as columns or as client JSON."),
    ] = "columns",
    timezone: Annotated[str | None, typer.Option(help="IANA zone of local times.")] = None,
    date_order: Annotated[Literal["dmy", "mdy"] | None, typer.Option(help="As in import.")] = None,
    units: Annotated[Literal["metric", "us"] | None, typer.Option(help="As in import.")] = None,
) -> None:
    """Show what a body becomes, without lake, registry or network; prints one JSON object.

    Example: [bold]wearable-pipeline normalize --provider nightscout entries.json --as payload[/bold]
    """
    from wearable_pipeline.providers import get_provider
    from wearable_pipeline.providers._contract import ImportOptions
    from wearable_pipeline.tables.inspect import LARGEST_BODY, inspect_body

    chosen = get_provider(provider)
    try:
        with file.open("rb") as handle:
            body = handle.read(LARGEST_BODY + 1)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None
    found = inspect_body(
        chosen,
        body,
        name=file.name,
        now=datetime.now(UTC),
        resource_name=resource,
        options=ImportOptions(check_timezone(timezone), date_order, units),
        form=form,
    )
    print_json(
        {
            "tables": found.tables,
            "rejected": found.rejected,
            "unknown_fields": found.unknown_fields,
        }
    )


@app.command()
@explained
def query(
    sql: Annotated[str, typer.Argument(help="SQL over the views of the catalog.")],
    form: Annotated[
        Literal["table", "json", "csv"], typer.Option("--format", help="How to print the rows.")
    ] = "table",
) -> None:
    """Query the lake with DuckDB: tables, and a long view per list of samples.

    Example: [bold]wearable-pipeline query "select user_id, max(timestamp)
    from body_glucose_samples group by 1"[/bold]
    """
    import csv

    from wearable_pipeline.lake.catalog import run_query
    from wearable_pipeline.lake.storage import Storage

    settings = load_settings()
    names, rows = run_query(Storage.open(settings.lake, settings), sql, settings.source_priority)
    if form == "json":
        print_json([dict(zip(names, row, strict=True)) for row in rows])
    elif form == "csv":
        writer = csv.writer(sys.stdout)
        writer.writerow(names)
        writer.writerows(rows)
    else:
        grid = Grid(*names)
        for row in rows:
            grid.add_row(*("" if value is None else show_value(value) for value in row))
        out.print(grid)


@app.command()
@explained
def catalog(
    output: Annotated[Path | None, typer.Option(help="File to write (default: stdout).")] = None,
    use_compact: Annotated[
        bool,
        typer.Option(
            "--compact",
            help="Read closed months from compact/ as it is now: faster; write it again daily.",
        ),
    ] = False,
) -> None:
    """Print the SQL that makes the catalog's views in any DuckDB.

    Example: [bold]wearable-pipeline catalog --output catalog.sql && duckdb -init catalog.sql[/bold]
    """
    from wearable_pipeline.lake.catalog import script
    from wearable_pipeline.lake.storage import Storage

    settings = load_settings()
    text = script(Storage.open(settings.lake, settings), use_compact=use_compact)
    if output is None:
        sys.stdout.write(text)
    else:
        output.write_text(text)


@app.command()
@explained
def rebuild(
    table: Annotated[list[str] | None, typer.Option(help="A table; may be given again.")] = None,
    start: Annotated[str | None, typer.Option(help="First day.")] = None,
    end: Annotated[str | None, typer.Option(help="Last day.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make tables again from raw; files that come out the same are left alone.

    Example: [bold]wearable-pipeline rebuild --table body --start 2026-11-01[/bold]
    """
    from wearable_pipeline.tables.assets import TABLE_NAMES
    from wearable_pipeline.tables.update import rebuild as rebuild_tables
    from wearable_pipeline.workspace import open_workspace

    unknown = set(table or []) - set(TABLE_NAMES)
    if unknown:
        raise UsageError(
            f"no table {', '.join(sorted(unknown))}: choose from {', '.join(TABLE_NAMES)}"
        )
    with open_workspace() as workspace, workspace.writing(), progress_bar(as_json) as progress:
        reports = rebuild_tables(
            workspace,
            table or TABLE_NAMES,
            parse_day(start) if start else None,
            parse_day(end) if end else None,
            lambda name, done, total: progress(f"{name} (of {total} partitions)", done),
        )
    told = {
        name: {
            "partitions": report.partitions,
            "rewritten": report.written,
            "rows": report.rows,
            "samples": report.samples,
            "quarantined": report.rejected,
        }
        for name, report in reports.items()
    }
    if as_json:
        print_json(told)
        return
    grid = Grid("table", "partitions", "rewritten", "rows", "samples", "quarantined")
    for name, figures in told.items():
        grid.add_row(name, *map(str, figures.values()))
    out.print(grid)


@app.command("compact")
@explained
def compact_command(
    table: Annotated[list[str] | None, typer.Option(help="A table; may be given again.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make the sorted files of closed months that are missing or no longer right.

    Example: [bold]wearable-pipeline compact --table body[/bold]
    """
    from wearable_pipeline.lake.compact import compact
    from wearable_pipeline.tables.assets import TABLE_NAMES
    from wearable_pipeline.workspace import open_workspace

    unknown = set(table or []) - set(TABLE_NAMES)
    if unknown:
        raise UsageError(
            f"no table {', '.join(sorted(unknown))}: choose from {', '.join(TABLE_NAMES)}"
        )
    with open_workspace() as workspace, progress_bar(as_json) as progress:
        if not workspace.settings.keep_compact:
            raise UsageError("WEARABLE_KEEP_COMPACT is off: nothing is compacted")
        reports = compact(workspace, table or TABLE_NAMES, progress)
    if as_json:
        print_json([asdict(report) for report in reports])
        return
    grid = Grid("table", "closed months", "open", "files written", "rows", "samples", "MB")
    for report in reports:
        if report.is_left:
            err.print(f"{report.table}: another process is compacting it")
            continue
        grid.add_row(
            report.table,
            *map(str, (report.months, report.open_months, report.files)),
            *map(str, (report.rows, report.samples, round(report.bytes_written / 1e6, 1))),
        )
    out.print(grid)


@app.command()
@explained
def retention(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be deleted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete what is older than the settings keep; by default that is nothing.

    Example: [bold]WEARABLE_TABLES_KEEP_DAYS=730 wearable-pipeline retention --dry-run[/bold]
    """
    from wearable_pipeline.lake.retention import apply_retention
    from wearable_pipeline.workspace import open_workspace

    with open_workspace() as workspace:
        found = apply_retention(workspace, dry_run=dry_run)
    rows = [
        {
            "kind": kind,
            "files": expired.files,
            "bytes": expired.bytes,
            "oldest": expired.oldest,
            "newest": expired.newest,
        }
        for kind, expired in found.items()
    ]
    if as_json:
        print_json({"dry_run": dry_run, "expired": rows})
        return
    grid = Grid("kind", "files", "MB", "from", "to")
    for kind, expired in found.items():
        span = (str(expired.oldest or ""), str(expired.newest or ""))
        grid.add_row(kind, str(expired.files), f"{expired.bytes / 1e6:.1f}", *span)
    out.print(grid)
    err.print("nothing was deleted: --dry-run" if dry_run else "deleted")


@app.command()
@explained
def repartition(
    cohorts: Annotated[
        str, typer.Option(help="Number of cohorts, or `exact` for one partition a user.")
    ],
    as_json: AsJson = False,
) -> None:
    """Cut the lake into other cohorts. Stop the daemon first; broken off, the same call goes on.

    Then set WEARABLE_COHORTS to the new number. Asking for the present number takes a cut back that has
    not moved tables yet.

    Example: [bold]wearable-pipeline repartition --cohorts 16[/bold]
    """
    from wearable_pipeline.lake.repartition import repartition as cut_anew
    from wearable_pipeline.settings import MAX_COHORTS

    if cohorts != "exact" and not (cohorts.isdecimal() and 1 <= int(cohorts) <= MAX_COHORTS):
        raise UsageError(f"--cohorts takes 1 to {MAX_COHORTS} or `exact`, got {cohorts!r}")
    number = None if cohorts == "exact" else int(cohorts)
    with progress_bar(as_json) as progress:
        report = cut_anew(load_settings(), number, progress=progress)
    if as_json:
        print_json(
            {
                "cohorts": report.cohorts,
                "was_needed": report.was_needed,
                "was_taken_back": report.was_taken_back,
                "raw_records": report.raw_records,
                "rows": report.tables,
            }
        )
        return
    if not report.was_needed:
        out.print("the lake is cut that way already")
        return
    if report.was_taken_back:
        out.print("taken back: the lake is as it was")
        return
    told = ", ".join(f"{rows} rows of {name}" for name, rows in report.tables.items())
    out.print(f"{report.raw_records} raw records copied and compared; {told or 'no tables yet'}")
    out.print(
        f"now set WEARABLE_COHORTS={report.cohorts}"
        if report.cohorts
        else "now unset WEARABLE_COHORTS"
    )
