"""People: connect, list, show, disconnect, erase."""

import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column
from rich.table import Table as Grid

from wearable_pipeline.cli._console import (
    AsJson,
    app,
    err,
    explained,
    out,
    print_json,
    progress_bar,
    show_instant,
)
from wearable_pipeline.errors import NotConnectedError, UsageError

if TYPE_CHECKING:
    from wearable_pipeline.providers._contract import Provider

users_app = typer.Typer(help="Connect, list and disconnect people.", no_args_is_help=True)
app.add_typer(users_app, name="users")


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
    provider: Annotated[
        str | None, typer.Argument(help="A name from `wearable-pipeline providers`.")
    ] = None,
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
    from wearable_pipeline.providers import get_provider, providers
    from wearable_pipeline.workspace import open_workspace

    if provider is None:
        raise UsageError(
            f"say to which provider: {', '.join(providers())}"
            " (`wearable-pipeline providers` shows what each asks for)"
        )
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
    whole = Column("user", no_wrap=True)
    grid = Grid(whole, "provider", "status", "newest reading", "failures", "error")
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
    keep_delivered: Annotated[
        bool, typer.Option("--keep-delivered", help="Leave what destinations have.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove every byte of a user: withdraw what was delivered, erase registry and lake, and prove it.

    Every file is looked through at the end. What a receiver of events or messages keeps is told to go and
    is its own matter.

    Example: [bold]wearable-pipeline users erase USER_ID[/bold]
    """
    from wearable_pipeline.erase import erase_user
    from wearable_pipeline.partitions import check_user_id
    from wearable_pipeline.workspace import open_workspace

    check_user_id(user_id)
    if not yes:
        typer.confirm(f"Erase {user_id} for good?", abort=True, err=True)
    with open_workspace() as workspace, progress_bar(as_json) as progress:
        report = erase_user(workspace, user_id, progress, withdraws=not keep_delivered)
    if as_json:
        print_json(asdict(report))
    else:
        if not (any(report.registry.values()) or report.rewritten or report.deleted):
            out.print(f"there was no user {user_id}; none of {report.scanned} files mentions one")
            return
        for name, rows in report.withdrawn.items():
            out.print(f"withdrawn from {name}: {rows} rows")
        out.print(
            f"erased: {sum(report.registry.values())} rows of the registry, {report.rewritten} files"
            f" written again, {report.deleted} deleted; none of {report.scanned} files mentions the user"
        )
