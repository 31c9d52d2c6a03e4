"""How it stands: who is stale, what failed, what is parked."""

from wearable_pipeline.cli._console import AsJson, app, explained, out, print_json


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
