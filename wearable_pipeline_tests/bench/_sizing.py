"""The tables of docs/scale.md from the measured costs at its top.

python -m wearable_pipeline_tests.bench._sizing    # writes the tables again after a figure was changed

The document is the one place of the figures: this reads them there, and `build/bench.json` is where they
come from.
"""

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "scale.md"
USERS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
CYCLES_A_DAY = 288
DAYS_A_MONTH = 30
MOST_COHORTS = 64
# Below it a partition holds so few people that files and requests are mostly overhead.
USERS_IN_A_SMALL_COHORT = 250
_INPUT = re.compile(r"^\| `(\w+)` \| ([\d.,]+) \|", re.MULTILINE)
_BLOCK = re.compile(r"(<!-- sizing -->\n).*?(<!-- /sizing -->)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Size:
    """What an installation of `users` needs."""

    users: int
    installations: int
    cohorts: int
    users_per_cohort: int
    pairs_of_cores: float
    lanes: int
    run_memory_gb: float
    registry_gb: float
    lake_gb_a_year: float
    requests_dollars: float
    storage_dollars: float


def read_inputs(text: str) -> dict[str, float]:
    """The measured costs, by name."""
    return {name: float(value.replace(",", "")) for name, value in _INPUT.findall(text)}


def size(users: int, given: Mapping[str, float]) -> Size:
    """The arithmetic of the document, for `users` people with a CGM."""
    capacity = given["cgm_users_per_cycle"]
    installations = max(1, math.ceil(users / given["users_per_installation"]))
    each = users / installations
    cohorts = max(1, min(MOST_COHORTS, round(each / USERS_IN_A_SMALL_COHORT)))
    lanes = max(1, math.ceil(each / capacity))
    cycles_a_month = CYCLES_A_DAY * DAYS_A_MONTH
    # Reads grow with the day's segments; the mean of a day counts.
    reads = given["requests_reads"] + given["requests_reads_growth"] * CYCLES_A_DAY / 2
    request = (
        given["requests_writes"] * given["price_writes"]
        + given["requests_listings"] * given["price_writes"]
        + reads * given["price_reads"]
    ) / 1e6
    lake_a_year = users * 365 * given["bytes_user_day"] / 1e9
    return Size(
        users=users,
        installations=installations,
        cohorts=cohorts,
        users_per_cohort=math.ceil(each / cohorts),
        pairs_of_cores=users / capacity,
        lanes=lanes,
        run_memory_gb=given["run_rss_mb"] / 1000 * lanes,
        registry_gb=users * given["registry_bytes_user"] / 1e9,
        lake_gb_a_year=lake_a_year,
        requests_dollars=installations * cohorts * cycles_a_month * request,
        storage_dollars=lake_a_year / 2 * given["price_gb_month"],
    )


def render(text: str) -> str:
    """`text` with its tables as its figures make them."""
    given = read_inputs(text)
    found = [size(users, given) for users in USERS]
    lines = [
        "| users | installations | cohorts each | users a cohort | pairs of cores, all | live lanes each"
        " | memory of live runs each | registry, all | lake a year, all |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {one.users:,} | {one.installations} | {one.cohorts} | {one.users_per_cohort:,}"
        f" | {one.pairs_of_cores:.2f} | {one.lanes} | {one.run_memory_gb:.1f} GB"
        f" | {one.registry_gb:,.2f} GB | {one.lake_gb_a_year:,.0f} GB |"
        for one in found
    ]
    lines += [
        "",
        "| users | requests a month | storage a month, mean of the first year | a month per million users |",
        "|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {one.users:,} | ${one.requests_dollars:,.0f} | ${one.storage_dollars:,.0f}"
        f" | ${(one.requests_dollars + one.storage_dollars) / one.users * 1e6:,.0f} |"
        for one in found
    ]
    return _BLOCK.sub(lambda match: match[1] + "\n".join(lines) + "\n" + match[2], text)


def main() -> int:
    """Write the document again."""
    DOCUMENT.write_text(render(DOCUMENT.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
