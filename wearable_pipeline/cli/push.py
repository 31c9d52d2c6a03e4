"""What providers push: subscriptions and the inbox."""

import typer
from rich.table import Table as Grid

from wearable_pipeline.cli._console import AsJson, app, explained, out, print_json, show_instant

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
