"""Deliveries: list, retry, replay, backfill."""

from typing import Annotated

import typer
from rich.table import Table as Grid

from wearable_pipeline.cli._console import (
    AsJson,
    app,
    explained,
    out,
    parse_day,
    print_json,
    progress_bar,
)

destinations_app = typer.Typer(help="Look at deliveries and try them again.", no_args_is_help=True)
app.add_typer(destinations_app, name="destinations")


@destinations_app.command("list")
@explained
def list_destinations(as_json: AsJson = False) -> None:
    """List the configured destinations with what they take and how they stand.

    Example: [bold]wearable-pipeline destinations list --json[/bold]
    """
    from wearable_pipeline.destinations import HOW_TO_CONFIGURE, configured
    from wearable_pipeline.workspace import open_workspace

    with open_workspace() as workspace:
        rows: list[dict[str, object]] = []
        for target in configured(workspace.settings).values():
            counts = workspace.registry.counts(target.name)
            rows.append(
                {
                    "name": target.name,
                    "kind": target.destination.name,
                    "types": sorted(target.filter.types),
                    "providers": sorted(target.filter.providers),
                    "users": sorted(target.filter.users),
                    "delivered": counts.delivered,
                    "pending": counts.pending,
                    "parked": counts.parked,
                }
            )
    if as_json:
        print_json(rows)
        return
    if not rows:
        out.print(f"none is configured: {HOW_TO_CONFIGURE}")
        return
    grid = Grid("destination", "kind", "takes", "delivered", "pending", "parked")
    for row in rows:
        filters = [
            f"{key} {', '.join(map(str, row[key]))}"  # type: ignore[call-overload]
            for key in ("types", "providers", "users")
            if row[key]
        ]
        figures = [str(row[key]) for key in ("delivered", "pending", "parked")]
        grid.add_row(
            str(row["name"]), str(row["kind"]), "; ".join(filters) or "everything", *figures
        )
    out.print(grid)


TargetName = Annotated[str, typer.Argument(help="A destination, e.g. webhook.")]
SomeUsers = Annotated[list[str] | None, typer.Option("--user", help="A user id; may be repeated.")]
SomeTypes = Annotated[list[str] | None, typer.Option("--type", help="A data type, e.g. body.")]


@destinations_app.command("retry")
@explained
def retry_destination(name: TargetName, user: SomeUsers = None) -> None:
    """Put parked rows of a destination back in line.

    Example: [bold]wearable-pipeline destinations retry webhook[/bold]
    """
    from wearable_pipeline.destinations import get_target
    from wearable_pipeline.workspace import open_workspace

    with open_workspace() as workspace:
        get_target(workspace.settings, name)
        count = workspace.registry.retry_parked(name, user or None)
    out.print(f"{count} rows will be sent again")


@destinations_app.command("replay")
@explained
def replay_destination(
    name: TargetName,
    since: Annotated[str, typer.Option(help="First day, YYYY-MM-DD.")],
    until: Annotated[str | None, typer.Option(help="Last day (default: today).")] = None,
    user: SomeUsers = None,
    data_type: SomeTypes = None,
) -> None:
    """Send what a destination has had once more, with the same trace ids.

    Example: [bold]wearable-pipeline destinations replay webhook --since 2026-11-01 --type body[/bold]
    """
    from wearable_pipeline.destinations.history import replay
    from wearable_pipeline.workspace import open_workspace

    with open_workspace() as workspace:
        report = replay(
            workspace,
            name,
            parse_day(since),
            parse_day(until) if until else None,
            user_ids=user or None,
            tables=data_type or None,
        )
    out.print(f"{report.rows} rows will be sent again")


@destinations_app.command("backfill")
@explained
def backfill_destination(
    name: TargetName,
    start: Annotated[str | None, typer.Option(help="First day (default: all history).")] = None,
    end: Annotated[str | None, typer.Option(help="Last day.")] = None,
    user: SomeUsers = None,
    data_type: SomeTypes = None,
    send: Annotated[
        bool, typer.Option("--send/--no-send", help="Send now, or leave it to the daemon.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Send a destination the history in the lake that it does not have, newest days first.

    Example: [bold]wearable-pipeline destinations backfill webhook --start 2026-01-01[/bold]
    """
    from wearable_pipeline.destinations.delivery import deliver
    from wearable_pipeline.destinations.history import backfill
    from wearable_pipeline.workspace import open_workspace

    with open_workspace() as workspace, progress_bar(as_json) as progress:
        report = backfill(
            workspace,
            name,
            parse_day(start) if start else None,
            parse_day(end) if end else None,
            user_ids=user or None,
            tables=data_type or None,
            progress=lambda rows: progress("rows looked at", rows),
        )
        told: dict[str, object] = {"destination": name, "rows": report.rows}
        if send:
            stage = f"delivered (of {report.rows})"
            sent = deliver(
                workspace, name, user_ids=user or None, progress=lambda n: progress(stage, n)
            )
            told |= {
                "delivered": sent.delivered,
                "failed": sent.failed,
                "parked": sent.parked,
                "remaining": sent.remaining,
            }
    if as_json:
        print_json(told)
    else:
        out.print(", ".join(f"{key} {value}" for key, value in told.items()))
