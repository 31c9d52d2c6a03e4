"""The command line: what a person types, and the one clear line they get when it cannot be done.

Exit codes: 0 done, 1 failed for good, 2 the call or its input is wrong, 3 not connected, 4 try again later,
5 a body or file is not what it should be, 6 the lake cannot be read or written.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, ParamSpec, TypeVar

import msgspec
import stamina
import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table as Grid

from wearable_pipeline import __version__
from wearable_pipeline.errors import NotConnectedError, PipelineError, UsageError
from wearable_pipeline.settings import Settings, load_settings

if TYPE_CHECKING:
    from wearable_pipeline.providers._contract import Provider

P = ParamSpec("P")
R = TypeVar("R")

EXIT_CODES = {
    "usage": 2,
    "not_connected": 3,
    "transient": 4,
    "rate_limited": 4,
    "bad_payload": 5,
    "storage": 6,
}

# Piped output has no width of its own; eighty columns would cut what scripts and logs want whole.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True, highlight=False, soft_wrap=True)

app = typer.Typer(
    help="A self-hosted data lake for wearables.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
users_app = typer.Typer(help="Connect, list and disconnect people.", no_args_is_help=True)
app.add_typer(users_app, name="users")
destinations_app = typer.Typer(help="Look at deliveries and try them again.", no_args_is_help=True)
app.add_typer(destinations_app, name="destinations")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def explained(command: Callable[P, R]) -> Callable[P, R]:
    """A command whose errors end as one line on stderr and an exit code with a meaning."""

    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except PipelineError as error:
            err.print(f"error: {error}", markup=False)
            raise typer.Exit(EXIT_CODES.get(error.error_class, 1)) from None
        except KeyboardInterrupt:
            err.print("interrupted; run the same command again to go on")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            raise typer.Exit(0) from None

    return guarded


def print_json(value: object) -> None:
    """Write `value` as JSON on stdout; instants as ISO 8601."""
    sys.stdout.write(msgspec.json.encode(value, enc_hook=str).decode() + "\n")


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Callable[[str, int], None]]:
    """A line per stage on stderr that counts up; silent where nobody looks."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.completed}"),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=quiet or not err.is_terminal,
    ) as bars:
        tasks: dict[str, object] = {}

        def advance(stage: str, done: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=None)
            bars.update(tasks[stage], completed=done)  # type: ignore[arg-type]

        yield advance


def _version(wanted: bool) -> None:
    if wanted:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A self-hosted data lake for wearables: raw, validated, normalized to Parquet, delivered."""
    os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "1000")
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger().setLevel(logging.WARNING)
    # Retries are told by their outcome; the words of each attempt would bury it.
    stamina.instrumentation.set_on_retry_hooks([])


def parse_day(text: str) -> date:
    """A day as YYYY-MM-DD. UsageError for anything else."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a date: write YYYY-MM-DD") from None


@app.command()
@explained
def demo(
    days: Annotated[int, typer.Option(help="Days of history to fetch.", min=1, max=60)] = 14,
    as_json: AsJson = False,
) -> None:
    """Start the sandbox, connect synthetic people, run the whole pipeline, show the result.

    Running it twice changes nothing.

    Example: [bold]wearable-pipeline demo[/bold]
    """
    from wearable_pipeline.demo import run_demo

    with progress_bar(as_json) as progress:
        report = run_demo(days, progress)
    if as_json:
        print_json(report.as_dict())
    else:
        report.render(out)


@app.command()
@explained
def sandbox(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8099,
) -> None:
    """Serve synthetic providers: LibreLinkUp, Nightscout, LibreView exports, Oura.

    Example: [bold]wearable-pipeline sandbox --port 8099[/bold]
    """
    from wearable_pipeline.sandbox.server import run

    err.print(f"sandbox on http://{host}:{port} (people: http://{host}:{port}/control/people)")
    run(host, port)


@app.command()
@explained
def providers(as_json: AsJson = False) -> None:
    """List the providers: how they are asked, what they feed.

    Example: [bold]wearable-pipeline providers --json[/bold]
    """
    from wearable_pipeline.providers import providers as found
    from wearable_pipeline.tables.normalize import tables_fed_by

    rows = [
        {
            "name": provider.name,
            "title": provider.title,
            "client_name": provider.client_name,
            "doors": [
                *(["poll"] if provider.fetch else []),
                *(["push"] if provider.push else []),
                *(["import"] if provider.importers else []),
            ],
            "tables": sorted(tables_fed_by(provider)),
            "resources": [resource.name for resource in provider.resources],
            "credentials": [one.name for one in provider.credentials],
            "poll_interval_seconds": provider.poll_interval.total_seconds(),
            "summary": provider.summary,
        }
        for provider in found().values()
    ]
    if as_json:
        print_json(rows)
        return
    grid = Grid("provider", "doors", "tables", "every", "credentials")
    for row, provider in zip(rows, found().values(), strict=True):
        grid.add_row(
            provider.name,
            ", ".join(map(str, row["doors"])),  # type: ignore[call-overload]
            ", ".join(map(str, row["tables"])),  # type: ignore[call-overload]
            f"{provider.poll_interval.total_seconds() / 60:.0f} min"
            if provider.fetch
            else "on file",
            "in the browser"
            if provider.oauth
            else ", ".join(one.name for one in provider.credentials),
        )
    out.print(grid)


def parse_pairs(pairs: list[str]) -> dict[str, str]:
    """`name=value` options as a mapping; a lone `-` as value reads one line of stdin."""
    values: dict[str, str] = {}
    for pair in pairs:
        name, found, value = pair.partition("=")
        if not found:
            raise UsageError(f"--set takes name=value, got {name!r}")
        values[name] = sys.stdin.readline().rstrip("\n") if value == "-" else value
    return values


@users_app.command("connect")
@explained
def connect_user(
    provider: Annotated[str, typer.Argument(help="A name from `wearable-pipeline providers`.")],
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Credential as name=value; '-' as value reads it from stdin. Asked otherwise.",
        ),
    ] = None,
    reference_id: Annotated[
        str | None, typer.Option(help="Your own id for the person; one person may have many users.")
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option(help="IANA zone, for providers that do not tell, e.g. Europe/Berlin."),
    ] = None,
    import_only: Annotated[
        bool, typer.Option("--import-only", help="No account: this user's data come from files.")
    ] = False,
    open_browser: Annotated[
        bool,
        typer.Option("--open", help="Open the browser, for providers that are connected there."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Connect a person to a provider and print the new user id.

    Providers that let people in by OAuth are connected in the browser: the address is printed, and the
    command waits until it is done there.

    Examples:
    [bold]wearable-pipeline users connect oura --open[/bold]

    [bold]wearable-pipeline users connect nightscout --set base_url=https://ns.example.org[/bold]

    [bold]wearable-pipeline users connect freestyle_libre --import-only --timezone Europe/London[/bold]
    """
    from wearable_pipeline.connect import connect
    from wearable_pipeline.providers import get_provider
    from wearable_pipeline.workspace import open_workspace

    chosen = get_provider(provider)
    given = parse_pairs(values or [])
    if chosen.oauth is not None and not import_only:
        user_id = connect_in_browser(chosen, given, reference_id, timezone, open_browser)
        if as_json:
            print_json({"user_id": user_id, "provider": chosen.name, "status": "connected"})
        else:
            out.print(user_id)
            err.print(f"connected; next: wearable-pipeline sync --user {user_id}")
        return
    if not import_only:
        for one in chosen.credentials:
            if one.name in given or not sys.stdin.isatty():
                continue
            if one.is_required or one.default is not None:
                given[one.name] = typer.prompt(
                    one.help, hide_input=one.is_secret, default=one.default, err=True
                )
    with open_workspace() as workspace:
        user = connect(
            workspace,
            chosen,
            given,
            reference_id=reference_id,
            timezone=timezone,
            import_only=import_only,
        )
    if as_json:
        print_json({"user_id": user.user_id, "provider": user.provider, "status": user.status})
    else:
        out.print(user.user_id)
        err.print(
            f"connected; next: wearable-pipeline {'import' if import_only else 'sync'} --user {user.user_id}"
        )


def connect_in_browser(
    provider: "Provider",
    given: Mapping[str, str],
    reference_id: str | None,
    timezone: str | None,
    open_browser: bool,
) -> str:
    """The id of the user, once the person has said yes in the browser."""
    import time
    import webbrowser

    from wearable_pipeline.api.server import somebody_serving
    from wearable_pipeline.connect import begin_connecting
    from wearable_pipeline.workspace import open_workspace

    if given:
        raise UsageError(f"{provider.title} is connected in the browser: it takes no --set")
    with open_workspace() as workspace:
        session, ticket = begin_connecting(
            workspace, provider, reference_id=reference_id, timezone=timezone
        )
        base = workspace.settings.serve_url.rstrip("/")
        address = f"{base}/connect/{provider.name}?ticket={ticket}"
        with somebody_serving(workspace):
            err.print(f"open within 15 minutes: {address}", markup=False)
            if open_browser:
                webbrowser.open(address)
            while True:
                found = workspace.registry.find_session(session.session_id)
                if found is None or (not found.is_used and found.expires_at <= workspace.now()):
                    raise UsageError("nobody came: the link has expired; run the command again")
                if found.error is not None:
                    raise NotConnectedError(found.error)
                if found.user_id is not None:
                    # The browser still waits for its page.
                    time.sleep(0.3)
                    return found.user_id
                time.sleep(0.5)


def describe_user(user: object, state: object) -> dict[str, object]:
    """What may be shown of a user: no credentials, no account."""
    from wearable_pipeline.registry import SyncState, User

    if not isinstance(user, User):
        raise TypeError("not a user")
    sync = state if isinstance(state, SyncState) else None
    return {
        "user_id": user.user_id,
        "provider": user.provider,
        "reference_id": user.reference_id,
        "status": user.status,
        "status_reason": user.status_reason,
        "timezone": user.timezone,
        "created_at": user.created_at,
        "last_success_at": sync.last_success_at if sync else None,
        "newest_reading_at": sync.newest_reading_at if sync else None,
        "next_due_at": sync.next_due_at if sync else None,
        "failures": sync.failures if sync else 0,
        "error": sync.error_message if sync else None,
    }


@users_app.command("list")
@explained
def list_users(
    provider: Annotated[str | None, typer.Option(help="Only this provider.")] = None,
    as_json: AsJson = False,
) -> None:
    """List users with their state.

    Example: [bold]wearable-pipeline users list --provider nightscout --json[/bold]
    """
    from wearable_pipeline.workspace import open_workspace

    with open_workspace() as workspace:
        found = workspace.registry.find_users(provider=provider)
        states = workspace.registry.load_states([user.user_id for user in found])
    rows = [describe_user(user, states.get(user.user_id)) for user in found]
    if as_json:
        print_json(rows)
        return
    grid = Grid("user", "provider", "status", "newest reading", "failures", "error")
    for row in rows:
        grid.add_row(
            str(row["user_id"]),
            str(row["provider"]),
            str(row["status"]),
            show_instant(row["newest_reading_at"]),
            str(row["failures"]),
            str(row["error"] or row["status_reason"] or ""),
        )
    out.print(grid)


@users_app.command("show")
@explained
def show_user(user_id: str, as_json: AsJson = False) -> None:
    """Show one user: connection, last fetch, rows per table.

    Example: [bold]wearable-pipeline users show USER_ID[/bold]
    """
    from wearable_pipeline.workspace import open_workspace

    with open_workspace() as workspace:
        user = workspace.registry.get_user(user_id)
        state = workspace.registry.load_states([user_id]).get(user_id)
        cells = workspace.registry.partitions(user_ids=[user_id])
    row = describe_user(user, state)
    row["tables"] = {
        name: {
            "days": sum(1 for cell in cells if cell.table == name),
            "samples": sum(cell.samples for cell in cells if cell.table == name),
            "quarantined": sum(cell.rejected for cell in cells if cell.table == name),
        }
        for name in sorted({cell.table for cell in cells})
    }
    if as_json:
        print_json(row)
        return
    for key, value in row.items():
        out.print(f"{key:>18}  {show_instant(value) if isinstance(value, datetime) else value}")


@users_app.command("disconnect")
@explained
def disconnect_user(user_id: str) -> None:
    """Stop asking the provider for this user; what is in the lake stays.

    Example: [bold]wearable-pipeline users disconnect USER_ID[/bold]
    """
    from wearable_pipeline.connect import disconnect
    from wearable_pipeline.providers import get_provider
    from wearable_pipeline.workspace import open_workspace

    with open_workspace() as workspace:
        user = workspace.registry.get_user(user_id)
        disconnect(workspace, user, get_provider(user.provider))
    out.print(f"{user_id} is disconnected")


@users_app.command("erase")
@explained
def erase_command(
    user_id: str,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove every byte of a user from registry and lake, and look through every file for proof.

    Example: [bold]wearable-pipeline users erase USER_ID[/bold]
    """
    from wearable_pipeline.erase import erase_user
    from wearable_pipeline.partitions import check_user_id
    from wearable_pipeline.workspace import open_workspace

    check_user_id(user_id)
    if not yes:
        typer.confirm(f"Erase {user_id} for good?", abort=True, err=True)
    with open_workspace() as workspace, progress_bar(as_json) as progress:
        report = erase_user(workspace, user_id, progress)
    if as_json:
        print_json(asdict(report))
    else:
        out.print(
            f"erased: {sum(report.registry.values())} rows of the registry, {report.rewritten} files"
            f" written again, {report.deleted} deleted; none of {report.scanned} files mentions the user"
        )


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
    from wearable_pipeline.orchestration.jobs import SYNC
    from wearable_pipeline.orchestration.local import run_job
    from wearable_pipeline.orchestration.resources import WorkspaceOpener
    from wearable_pipeline.partitions import check_user_id
    from wearable_pipeline.providers import get_provider
    from wearable_pipeline.workspace import open_workspace

    if not (user or provider or everybody):
        raise UsageError("say whom to sync: --user ID, --provider NAME or --all")
    with open_workspace() as workspace, progress_bar(as_json) as progress:
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
        for asset, values in metadata.items():
            told = [
                f"{key} {value}"
                for key, value in values.items()
                if isinstance(value, int) and not key.startswith("dagster/") and value
            ]
            grid.add_row(asset, ", ".join(told) or "nothing new")
        out.print(grid)
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
            ImportOptions(check_timezone(timezone) or whose.timezone, date_order),
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
        options=ImportOptions(check_timezone(timezone), date_order),
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


def show_value(value: object) -> str:
    """A cell as people read it."""
    if isinstance(value, datetime):
        return show_instant(value)
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}"
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "..."


def show_instant(value: object) -> str:
    """An instant to the second, UTC; empty for none."""
    if not isinstance(value, datetime):
        return ""
    return f"{value:%Y-%m-%d %H:%M:%S}" + ("Z" if value.tzinfo else "")


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


@app.command()
@explained
def status(as_json: AsJson = False) -> None:
    """Show how everything stands: users, tables, freshness, work waiting, deliveries.

    Example: [bold]wearable-pipeline status --json[/bold]
    """
    from wearable_pipeline.destinations import configured, destinations
    from wearable_pipeline.status import read_status
    from wearable_pipeline.workspace import open_workspace

    with open_workspace() as workspace:
        # A kind by its name too: its settings may be gone while rows still wait.
        names = {*destinations(), *configured(workspace.settings)}
        found = read_status(workspace, sorted(names))
    if as_json:
        print_json(found.as_dict())
    else:
        found.render(out)


@destinations_app.command("list")
@explained
def list_destinations(as_json: AsJson = False) -> None:
    """List the configured destinations with what they take and how they stand.

    Example: [bold]wearable-pipeline destinations list --json[/bold]
    """
    from wearable_pipeline.destinations import configured
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


@app.command("rotate-keys")
@explained
def rotate_keys() -> None:
    """Encrypt all stored credentials with the newest key, so that the old ones can go.

    Example: [bold]WEARABLE_SECRET_KEY=new,old wearable-pipeline rotate-keys[/bold]
    """
    from wearable_pipeline.workspace import open_workspace

    with open_workspace() as workspace:
        count = workspace.registry.rotate_keys()
    out.print(f"{count} credentials encrypted with the newest key")


@app.command("config")
@explained
def show_config(as_json: AsJson = False) -> None:
    """List every setting: variable, value, meaning. Secrets are masked.

    Example: [bold]wearable-pipeline config --json[/bold]
    """
    settings = load_settings()
    rows = list_settings(settings)
    if as_json:
        print_json(rows)
        return
    grid = Grid("variable", "value", "meaning")
    for row in rows:
        grid.add_row(str(row["variable"]), str(row["value"]), str(row["meaning"]))
    out.print(grid)


def list_settings(settings: Settings) -> list[Mapping[str, object]]:
    """Every setting with its variable, its value as it may be shown, and its meaning."""
    from pydantic import SecretStr

    derived = {"lake_url": settings.lake, "registry_url": settings.shown_registry}
    rows: list[Mapping[str, object]] = []
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = "********"
        rows.append(
            {
                "variable": f"WEARABLE_{name.upper()}",
                "value": derived.get(name, "" if value is None else value),
                "is_set": name in settings.model_fields_set,
                "meaning": field.description,
            }
        )
    return rows


@app.command()
@explained
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8080,
) -> None:
    """Serve HTTP: connecting in the browser (/connect), what providers push (/in), /healthz.

    Example: [bold]wearable-pipeline serve --host 0.0.0.0 --port 8080[/bold]
    """
    from wearable_pipeline.api.server import make_server
    from wearable_pipeline.workspace import open_workspace

    with open_workspace() as workspace:
        err.print(f"serving on http://{host}:{port}; stop with Ctrl-C")
        server = make_server(workspace, host, port)
        server.run()
        if not server.started:
            raise UsageError(f"cannot listen on {host}:{port}")


push_app = typer.Typer(help="What providers push: subscriptions, the inbox.", no_args_is_help=True)
app.add_typer(push_app, name="push")


@push_app.command("subscribe")
@explained
def subscribe_push(provider: str) -> None:
    """Have a provider post to `serve`; what is subscribed already stays.

    Example: [bold]wearable-pipeline push subscribe oura[/bold]
    """
    from wearable_pipeline.providers import get_provider
    from wearable_pipeline.raw.push import subscribe
    from wearable_pipeline.workspace import open_workspace

    with open_workspace() as workspace:
        made = subscribe(workspace, get_provider(provider))
    grid = Grid("topic", "until")
    for one in made:
        grid.add_row(one.topic, show_instant(one.expires_at))
    out.print(grid)


@push_app.command("unsubscribe")
@explained
def unsubscribe_push(provider: str) -> None:
    """End all subscriptions at a provider.

    Example: [bold]wearable-pipeline push unsubscribe oura[/bold]
    """
    from wearable_pipeline.providers import get_provider
    from wearable_pipeline.raw.push import unsubscribe
    from wearable_pipeline.workspace import open_workspace

    with open_workspace() as workspace:
        count = unsubscribe(workspace, get_provider(provider))
    out.print(f"{count} subscriptions ended")


@push_app.command("take-in")
@explained
def take_in_pushes(as_json: AsJson = False) -> None:
    """Bring what was pushed into raw and the work lists, now and in this process.

    Example: [bold]wearable-pipeline push take-in --json[/bold]
    """
    from wearable_pipeline.providers import providers as found
    from wearable_pipeline.raw.push import take_in
    from wearable_pipeline.workspace import open_workspace

    told: dict[str, dict[str, int]] = {}
    with open_workspace() as workspace:
        for name, provider in found().items():
            report = take_in(workspace, provider) if provider.push is not None else None
            if report is not None:
                told[name] = report.as_dict()
    if as_json:
        print_json(told)
        return
    for name, counts in told.items():
        out.print(f"{name}: " + ", ".join(f"{what} {count}" for what, count in counts.items()))


@app.command()
@explained
def migrate() -> None:
    """Bring registry and Dagster's databases to this version; run it once before anything else starts.

    Running it again, or on several machines at once, changes nothing.

    Example: [bold]wearable-pipeline migrate[/bold]
    """
    from wearable_pipeline.orchestration.instance import prepare_dagster_home
    from wearable_pipeline.workspace import open_workspace

    settings = load_settings()
    home = prepare_dagster_home(settings)
    with open_workspace(settings) as workspace:
        out.print(f"registry {settings.shown_registry}")
        out.print(f"lake {workspace.lake.storage.url}")
    out.print(f"Dagster home {home}")


@app.command()
@explained
def deploy(
    folder: Annotated[Path, typer.Argument(help="Where to write the files.")],
) -> None:
    """Write the files for more machines: dagster.yaml for Celery workers, Dockerfile, Kubernetes.

    Files that are already there are left alone.

    Example: [bold]wearable-pipeline deploy ./deploy[/bold]
    """
    from wearable_pipeline.deploy import write_files

    for path in write_files(folder):
        out.print(str(path))


@app.command()
@explained
def ui(
    port: Annotated[int, typer.Option(help="Port of the Dagster UI.")] = 3000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Open the Dagster UI and daemon on this home's state; sensors keep glucose fresh.

    Example: [bold]wearable-pipeline ui --port 3000[/bold]
    """
    from wearable_pipeline.demo import demo_environment, demo_servers, load_state
    from wearable_pipeline.orchestration.instance import prepare_dagster_home

    settings = load_settings()
    home = prepare_dagster_home(settings)
    environment = {**os.environ, "DAGSTER_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "1"}
    # The code server has its own working directory: a relative home would be another one there.
    environment["WEARABLE_HOME"] = str(settings.home.resolve())
    workspace_file = home / "workspace.yaml"
    workspace_file.write_text(
        "load_from:\n  - python_module:\n      module_name: wearable_pipeline.definitions\n"
        f"      location_name: wearable_pipeline\n      executable_path: {sys.executable}\n"
    )
    command = [str(Path(sys.executable).with_name("dg")), "dev", "-w", str(workspace_file)]
    command += ["--port", str(port), "--host", host, "--log-level", "warning"]
    with ExitStack() as stack:
        state = load_state(settings)
        if state is not None:
            # The demo's people live in the sandbox; without it every one of them would fail.
            stack.enter_context(demo_servers(state))
            environment.update(demo_environment(state))
            err.print(f"the demo's sandbox runs on {state.sandbox_url}")
        err.print(f"Dagster UI on http://{host}:{port} in a few seconds; stop with Ctrl-C")
        raise typer.Exit(subprocess.run(command, env=environment, check=False).returncode)  # noqa: S603


if __name__ == "__main__":
    app()
