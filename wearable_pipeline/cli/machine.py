"""The installation: settings, keys, registry, HTTP face, deployment files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table as Grid

from wearable_pipeline.cli._console import AsJson, app, err, explained, out, print_json
from wearable_pipeline.errors import UsageError
from wearable_pipeline.settings import Settings, load_settings


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
