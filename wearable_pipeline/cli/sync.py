"""Bring data in: poll, import, fetch history."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table as Grid

from wearable_pipeline.cli._console import (
    EXIT_CODES,
    AsJson,
    app,
    err,
    explained,
    out,
    parse_day,
    print_json,
    progress_bar,
)
from wearable_pipeline.errors import UsageError
from wearable_pipeline.settings import load_settings


@app.command()
@explained
def sync(
    user: Annotated[list[str] | None, typer.Option(help="A user id; may be given again.")] = None,
    provider: Annotated[str | None, typer.Option(help="All users of a provider.")] = None,
    everybody: Annotated[bool, typer.Option("--all", help="All connected users.")] = False,
    start: Annotated[
        str | None, typer.Option(help="First day, YYYY-MM-DD (default: open days).")
    ] = None,
    end: Annotated[str | None, typer.Option(help="Last day (default: today).")] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch, normalize and deliver now, in this process.

    Examples:
    [bold]wearable-pipeline sync --all[/bold]

    [bold]wearable-pipeline sync --user USER_ID --start 2026-11-01[/bold]
    """
    from wearable_pipeline.demo import demo_world
    from wearable_pipeline.orchestration.jobs import SYNC
    from wearable_pipeline.orchestration.local import run_job
    from wearable_pipeline.orchestration.resources import WorkspaceOpener
    from wearable_pipeline.partitions import check_user_id
    from wearable_pipeline.providers import get_provider
    from wearable_pipeline.workspace import open_workspace

    if not (user or provider or everybody):
        raise UsageError("say whom to sync: --user ID, --provider NAME or --all")
    with (
        demo_world(load_settings()) as demo,
        open_workspace() as workspace,
        progress_bar(as_json) as progress,
    ):
        if demo is not None:
            err.print(
                f"this home holds the demo's people: asking its sandbox on {demo.sandbox_url}"
            )
        for user_id in user or []:
            workspace.registry.get_user(check_user_id(user_id))
        if provider:
            get_provider(provider)
        found = workspace.registry.find_users(
            provider=provider, user_ids=user or None, status="connected"
        )
        wanted = [one.user_id for one in found if not one.config.get("import_only")]
        if not wanted:
            raise UsageError(
                "no connected user fits: `wearable-pipeline users list` shows them all"
            )
        today = workspace.now().date()
        open_days = max(get_provider(one.provider).open_days for one in found)
        first = parse_day(start) if start else today - timedelta(days=open_days)
        last = parse_day(end) if end else today + timedelta(days=1)
        if first > last:
            raise UsageError(f"--start {first} lies after --end {last}")
        opener = WorkspaceOpener(workspace.settings, workspace.now, progress)
        runs = run_job(opener, workspace, SYNC, wanted, first, last)
        states = workspace.registry.load_states(wanted)
    failed = {
        user_id: state.error_message for user_id, state in states.items() if state.error_message
    }
    if as_json:
        print_json(
            {
                "users": len(wanted),
                "failed": failed,
                "runs": [
                    {
                        "run_id": run.run_id,
                        "assets": run.metadata,
                        "failed_checks": run.failed_checks,
                    }
                    for run in runs
                ],
            }
        )
    else:
        show_runs([run.metadata for run in runs], [c for run in runs for c in run.failed_checks])
        for user_id, message in sorted(failed.items()):
            err.print(f"failed: {user_id}: {message}", markup=False)
    if failed:
        raise typer.Exit(1 if len(failed) < len(wanted) else _worst(states.values()))


def _worst(states: object) -> int:
    classes = {getattr(state, "error_class", None) for state in states}  # type: ignore[attr-defined]
    return EXIT_CODES.get(classes.pop() or "", 1) if len(classes) == 1 else 1


def show_runs(runs: list[dict[str, dict[str, object]]], failed_checks: list[str]) -> None:
    """Print what each asset of some runs reported."""
    for metadata in runs:
        grid = Grid("asset", "what")
        quiet = []
        for asset, values in metadata.items():
            told = [
                f"{key} {value}"
                for key, value in values.items()
                if isinstance(value, int) and not key.startswith("dagster/") and value
            ]
            if told:
                grid.add_row(asset, ", ".join(told))
            else:
                quiet.append(asset)
        if grid.row_count:
            out.print(grid)
        if quiet:
            out.print(f"nothing new: {', '.join(quiet)}")
    for check in failed_checks:
        err.print(f"check failed: {check}", markup=False)


@app.command("import")
@explained
def import_command(
    file: Annotated[Path, typer.Argument(help="The exported file.")],
    user: Annotated[str, typer.Option(help="Whose data it is.")],
    timezone: Annotated[
        str | None, typer.Option(help="IANA zone of the file's local times (default: the user's).")
    ] = None,
    date_order: Annotated[
        Literal["dmy", "mdy"] | None,
        typer.Option(help="Order of day and month where the file leaves it open."),
    ] = None,
    units: Annotated[
        Literal["metric", "us"] | None,
        typer.Option(help="Units of a file that names none (miles, pounds and °F are us)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Import a file a person exported; importing it twice adds nothing.

    Example: [bold]wearable-pipeline import --user USER_ID glucose_export.csv[/bold]
    """
    from wearable_pipeline.orchestration.jobs import NORMALIZE
    from wearable_pipeline.orchestration.local import run_job
    from wearable_pipeline.orchestration.resources import WorkspaceOpener
    from wearable_pipeline.partitions import check_user_id
    from wearable_pipeline.providers import get_provider
    from wearable_pipeline.providers._contract import ImportOptions
    from wearable_pipeline.raw.files import import_file
    from wearable_pipeline.workspace import open_workspace

    with open_workspace() as workspace, workspace.writing(), progress_bar(as_json) as progress:
        whose = workspace.registry.get_user(check_user_id(user))
        report = import_file(
            workspace,
            get_provider(whose.provider),
            whose,
            file,
            ImportOptions(check_timezone(timezone) or whose.timezone, date_order, units),
            lambda records: progress("records", records),
        )
        opener = WorkspaceOpener(workspace.settings, workspace.now, progress)
        today = workspace.now().date()
        runs = run_job(opener, workspace, NORMALIZE, [whose.user_id], today, today)
    told = {
        "importer": report.importer,
        "records": report.records,
        "new": report.appended.new,
        "changed": report.appended.changed,
        "unchanged": report.appended.unchanged,
        "days": len(report.appended.touched.get(whose.user_id, ())),
    }
    if as_json:
        print_json({**told, "assets": runs[0].metadata if runs else {}})
    else:
        out.print(", ".join(f"{key} {value}" for key, value in told.items()))
        show_runs([run.metadata for run in runs], [c for run in runs for c in run.failed_checks])


def check_timezone(name: str | None) -> str | None:
    """`name` when it is an IANA zone. UsageError otherwise."""
    from zoneinfo import available_timezones

    if name is not None and name not in available_timezones():
        raise UsageError(f"{name!r} is not an IANA time zone: write e.g. Europe/Berlin")
    return name


@app.command()
@explained
def backfill(
    start: Annotated[str, typer.Option(help="First day, YYYY-MM-DD.")],
    end: Annotated[str | None, typer.Option(help="Last day (default: yesterday).")] = None,
    provider: Annotated[str | None, typer.Option(help="Only users of this provider.")] = None,
    user: Annotated[list[str] | None, typer.Option(help="A user id; may be given again.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Ask for days again that have rows already.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put old days in line; the daemon reads them in small runs after everything that is live.

    Only as far back as a provider has them; `status` shows how far it has come.

    Example: [bold]wearable-pipeline backfill --start 2026-01-01 --provider nightscout[/bold]
    """
    from wearable_pipeline.partitions import check_user_id
    from wearable_pipeline.providers import get_provider, providers
    from wearable_pipeline.registry import History
    from wearable_pipeline.workspace import open_workspace

    with open_workspace() as workspace:
        for user_id in user or []:
            workspace.registry.get_user(check_user_id(user_id))
        if provider:
            get_provider(provider)
        today = workspace.now().date()
        first, last = parse_day(start), parse_day(end) if end else today - timedelta(days=1)
        last = min(last, today)
        if first > last:
            raise UsageError(f"--start {first} lies after {last}, the last day asked for")
        wanted = []
        beyond = 0
        for one in workspace.registry.find_users(
            provider=provider, user_ids=user or None, status="connected"
        ):
            source = providers().get(one.provider)
            if source is None or source.fetch is None or one.config.get("import_only"):
                continue
            known = source.history_days
            horizon = first if known is None else max(first, today - timedelta(days=known))
            if horizon > last:
                beyond += 1
                continue
            wanted.append(History(one.user_id, one.provider, horizon, last, force))
        if not wanted:
            raise UsageError(
                f"no connected user has days to read there ({beyond} are of providers that do not reach"
                " back so far)"
            )
        count = workspace.registry.queue_history(wanted)
    if as_json:
        print_json({"users": count, "beyond_the_providers_history": beyond})
        return
    out.print(f"{count} users in line from {first} to {last}")
    if beyond:
        out.print(f"{beyond} are of providers that do not reach back so far")
