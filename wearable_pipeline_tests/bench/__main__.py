"""Runs the benchmarks and writes `build/bench.json`; `--docs` renders docs/benchmarks.md from it.

python -m wearable_pipeline_tests.bench                 # everything, medians of 5 rounds
python -m wearable_pipeline_tests.bench normalize       # one topic; other figures in the file stay
python -m wearable_pipeline_tests.bench --short         # the form CI runs, into build/bench-short.json
"""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wearable_pipeline_tests.bench._figures import Figure, Scale

ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / "build" / "bench.json"
# Figures of small inputs never stand where those of large ones did.
SHORT_OUTPUT = ROOT / "build" / "bench-short.json"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
_VERSIONS = (
    "dagster",
    "polars",
    "pandera",
    "duckdb",
    "pyarrow",
    "msgspec",
    "httpx",
    "orjson",
    "dlt",
)


def topics() -> list[str]:
    """Every module here that measures something, by name."""
    return sorted(
        path.stem
        for path in Path(__file__).parent.glob("*.py")
        if not path.stem.startswith(("_", "test_"))
    )


def main(arguments: list[str]) -> int:
    """Measure the topics asked for, print and write what came out."""
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("topics", nargs="*", metavar="topic", help=", ".join(topics()))
    parser.add_argument("--rounds", type=int, default=5, help="medians of so many rounds")
    parser.add_argument("--short", action="store_true", help="small inputs, one round")
    parser.add_argument(
        "--docs", action="store_true", help=f"write {DOCUMENT.relative_to(ROOT)} too"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help=f"file to write ({OUTPUT.relative_to(ROOT)}, or {SHORT_OUTPUT.relative_to(ROOT)})",
    )
    asked = parser.parse_args(arguments)
    output = asked.output or (SHORT_OUTPUT if asked.short else OUTPUT)
    unknown = set(asked.topics) - set(topics())
    if unknown:
        parser.error(f"no topic {', '.join(sorted(unknown))}; there are {', '.join(topics())}")
    scale = Scale(1 if asked.short else asked.rounds, asked.short)
    for topic in asked.topics or topics():
        print(f"{topic} …", flush=True)  # noqa: T201 - a command's output
        module = importlib.import_module(f"wearable_pipeline_tests.bench.{topic}")
        surroundings = _surroundings(scale)
        figures: list[Figure] = module.measure(scale)
        for figure in figures:
            print(f"  {_line(figure)}", flush=True)  # noqa: T201
        _write(output, topic, figures, surroundings)
    if asked.docs:
        DOCUMENT.write_text(render(json.loads(output.read_text())))
    return 0


def _line(figure: Figure) -> str:
    return (
        f"{figure.name}: {_number(figure.value)} {figure.unit}"
        f" = {figure.ratio:.3g} × {figure.peer} ({_number(figure.peer_value)})"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def _write(
    output: Path, topic: str, figures: Iterable[Figure], surroundings: Mapping[str, object]
) -> None:
    """Put a topic's figures into the file; those of other topics stay."""
    found = json.loads(output.read_text()) if output.exists() else {}
    kept = [one for one in found.get("figures", []) if one["topic"] != topic]
    mine = [
        {"topic": topic, **{name: getattr(figure, name) for name in Figure.__slots__}}
        | {"ratio": figure.ratio, "measured": surroundings}
        for figure in figures
    ]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({**surroundings, "figures": kept + mine}, indent=1) + "\n")


def _surroundings(scale: Scale) -> dict[str, object]:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "machine": f"{os.cpu_count()} × {_processor()}, {_memory_gib()} GiB, {platform.system()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _VERSIONS},
        "rounds": scale.rounds,
        "short": scale.short,
        "load_before": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def render(found: Mapping[str, Any]) -> str:
    """docs/benchmarks.md from what `build/bench.json` holds."""
    figures = found["figures"]
    lines = [
        "# Benchmarks",
        "",
        "Every figure stands beside a peer or a limit measured in the same run; a ratio says more than a",
        'time on somebody else\'s machine. `make bench` measures all again, `make bench TOPICS="tick query"`',
        "some, `BENCH_ARGS=--short` with small inputs; the figures land in `build/bench.json`.",
        "",
        f"Machine: {found['machine']}, Python {found['python']}; "
        + ", ".join(f"{name} {number}" for name, number in found["versions"].items())
        + ".",
    ]
    for topic in sorted({one["topic"] for one in figures}):
        lines += _section(topic, [one for one in figures if one["topic"] == topic])
    return "\n".join(lines) + "\n"


def _section(topic: str, figures: Sequence[Mapping[str, Any]]) -> list[str]:
    module = importlib.import_module(f"wearable_pipeline_tests.bench.{topic}")
    when = figures[0]["measured"]
    lines = [
        "",
        f"## {topic}",
        "",
        (module.__doc__ or "").strip(),
        "",
        f"Measured {when['at'][:16]}Z at commit {when['commit']}, medians of {when['rounds']},"
        f" load before {when['load_before']}{', short form' if when['short'] else ''}.",
        "",
        "| figure | value | peer | peer's value | ratio | target |",
        "|---|---:|---|---:|---:|---|",
    ]
    lines += [
        f"| `{one['name']}` | {_number(one['value'])} {one['unit']} | {one['peer']}"
        f" | {_number(one['peer_value'])} | {one['ratio']:.3g} | {one['target']} |"
        for one in figures
    ]
    notes = [f"- `{one['name']}`: {one['note']}" for one in figures if one["note"]]
    chart = module.chart(figures) if hasattr(module, "chart") else []
    return [*lines, *(["", *notes] if notes else []), *(["", *chart] if chart else [])]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
