"""The benchmarks run: their short forms, whose figures stand for nothing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wearable_pipeline_tests.bench.__main__ import ROOT, render, topics

WANTED = {
    "cycle": {"cgm_users_per_cycle", "run_rss_mb", "cycle_cpu_users_25", "cycle_cpu_users_100"},
    "destinations": {
        f"{way}_rows_per_second: {kind}"
        for way in ("backfill", "send")
        for kind in ("firestore", "mongodb", "kafka", "sql", "sqs", "webhook")
    },
    "tick": {"sensor_tick_s"},
    "backfill": {"backfill_users_s", "backfill_in_flight", "backfill_rss_mb"},
}


@pytest.mark.slow
@pytest.mark.parametrize("topic", WANTED)
def test_a_topic_writes_its_figures_beside_their_peers(topic: str, tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    command = [sys.executable, "-m", "wearable_pipeline_tests.bench", topic, "--short"]
    done = subprocess.run(
        [*command, "--output", str(output)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    found: dict[str, Any] = json.loads(output.read_text())
    assert {"machine", "commit", "versions"} <= found.keys()
    figures = {one["name"]: one for one in found["figures"]}
    assert figures.keys() >= WANTED[topic]
    for one in figures.values():
        assert one["ratio"] == pytest.approx(one["value"] / one["peer_value"])
    assert f"## {topic}" in render(found)


def test_every_topic_of_the_document_can_be_measured_again() -> None:
    document = (ROOT / "docs" / "benchmarks.md").read_text()
    described = {line[3:] for line in document.splitlines() if line.startswith("## ")}
    assert described <= set(topics())
