"""Look around: a demo, its sandbox, the providers there are, the Dagster UI."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table as Grid

from wearable_pipeline.cli._console import (
    AsJson,
    app,
    err,
    explained,
    out,
    print_json,
    progress_bar,
)
from wearable_pipeline.settings import load_settings


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
    """Serve synthetic providers with synthetic people, to try things without an account.

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
            _show_interval(provider.poll_interval) if provider.fetch else "on file",
            "in the browser"
            if provider.oauth
            else ", ".join(one.name for one in provider.credentials),
        )
    out.print(grid)


def _show_interval(interval: timedelta) -> str:
    minutes = round(interval.total_seconds() / 60)
    return f"{minutes} min" if minutes % 60 else f"{minutes // 60} h"


@app.command()
@explained
def ui(
    port: Annotated[int, typer.Option(help="Port of the Dagster UI.")] = 3000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Open the Dagster UI and daemon on this home's state; sensors keep glucose fresh.

    Example: [bold]wearable-pipeline ui --port 3000[/bold]
    """
    from wearable_pipeline.demo import demo_world
    from wearable_pipeline.orchestration.instance import prepare_dagster_home

    settings = load_settings()
    home = prepare_dagster_home(settings)
    workspace_file = home / "workspace.yaml"
    workspace_file.write_text(
        "load_from:\n  - python_module:\n      module_name: wearable_pipeline.definitions\n"
        f"      location_name: wearable_pipeline\n      executable_path: {sys.executable}\n"
    )
    command = [str(Path(sys.executable).with_name("dg")), "dev", "-w", str(workspace_file)]
    command += ["--port", str(port), "--host", host, "--log-level", "warning"]
    with demo_world(settings) as demo:
        environment = {**os.environ, "DAGSTER_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "1"}
        # The code server has its own working directory: a relative home would be another one there.
        environment["WEARABLE_HOME"] = str(settings.home.resolve())
        if demo is not None:
            err.print(f"the demo's sandbox runs on {demo.sandbox_url}")
        err.print(f"Dagster UI on http://{host}:{port} in a few seconds; stop with Ctrl-C")
        raise typer.Exit(run_until_stopped(command, environment))


def run_until_stopped(command: list[str], environment: dict[str, str]) -> int:
    """The exit code, once all of it has ended: who stops us stops Dagster's processes, not us alone."""
    with subprocess.Popen(command, env=environment) as child:  # noqa: S603

        def pass_on(number: int, frame: object) -> None:
            child.send_signal(number)

        before = signal.signal(signal.SIGTERM, pass_on)
        try:
            while True:
                # Ctrl-C reaches the child by itself.
                with suppress(KeyboardInterrupt):
                    return child.wait()
        finally:
            signal.signal(signal.SIGTERM, before)
