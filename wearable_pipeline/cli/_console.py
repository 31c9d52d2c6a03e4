"""What every command shares: the application, the console, errors as one line, values as text."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from functools import wraps
from typing import Annotated, ParamSpec, TypeVar

import msgspec
import stamina
import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from wearable_pipeline import __version__
from wearable_pipeline.errors import PipelineError, UsageError

P = ParamSpec("P")
R = TypeVar("R")

EXIT_CODES = {
    "usage": 2,
    "not_connected": 3,
    "transient": 4,
    "rate_limited": 4,
    "quota_spent": 4,
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
