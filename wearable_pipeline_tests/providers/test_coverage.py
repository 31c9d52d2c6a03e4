"""The page of coverage says of every field where it comes from, by which door and how surely."""

from dataclasses import replace
from datetime import timedelta

import polars as pl

from wearable_pipeline.model import TABLES
from wearable_pipeline.providers import providers
from wearable_pipeline.providers._contract import (
    Importer,
    Provider,
    Push,
    Resource,
    Samples,
    Scalars,
)
from wearable_pipeline.providers._coverage import doors_of, render_coverage

_TABLES = [TABLES["body"], TABLES["sleep"]]


def resource(name: str, *tables: Samples | Scalars) -> Resource:
    return Resource(
        name=name,
        wire={},
        split=lambda page: iter(()),
        prepare=lambda frame: frame,
        tables=tables,
    )


_NIGHTS = replace(
    resource(
        "nights", Scalars("sleep", {"scores_sleep": pl.lit(1.0), "temperature_delta": pl.lit(0)})
    ),
    evidence="recorded",
)
_PARTS = resource(
    "parts",
    Scalars("sleep", {"temperature_delta": pl.lit(0.0)}),
    Samples("body", "glucose_blood_glucose_samples", {"value": pl.lit(1.0)}),
)
_LINES = replace(
    resource("lines", Samples("body", "measurements_measurements", {"weight_kg": pl.lit(1.0)})),
    media_type="text/csv",
    evidence="vendor-doc",
)


def provider(**changes: object) -> Provider:
    made = Provider(
        name="ring",
        title="Ring",
        client_name="RING",
        summary="Nights.",
        docs_url="https://ring.example.org",
        resources=(_NIGHTS, _PARTS, _LINES),
        importers=(
            Importer(
                name="ring_csv",
                resource="lines",
                title="",
                recognise=lambda head: False,
                read=lambda stream, options: iter(()),
            ),
        ),
        fetch=lambda client, connection, window: None,  # type: ignore[arg-type,return-value]
        poll_interval=timedelta(minutes=90),
        history_days=14,
        freshness="At noon.",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_cell_names_the_doors_of_its_own_resources_and_every_grade_among_them() -> None:
    lines = render_coverage([provider()], _TABLES).splitlines()
    assert "| provider | body | sleep |" in lines
    assert (
        "| [Ring](#ring) | poll, import<br>*vendor-doc, contract only* "
        "| poll<br>*recorded, contract only* |"
    ) in lines


def test_a_table_nobody_fills_is_named_and_takes_no_room() -> None:
    text = render_coverage([provider()], [*_TABLES, TABLES["menstruation"]])
    assert "| provider | body | sleep |" in text.splitlines()
    assert "Nobody fills `menstruation` yet." in text


def test_a_field_names_all_it_comes_from_and_a_list_its_elements_fields() -> None:
    lines = render_coverage([provider()], _TABLES).splitlines()
    sleep = lines[lines.index("### ring: sleep") :]
    assert sleep[4:6] == [
        "| `scores_sleep` | `nights` | recorded |",
        "| `temperature_delta` | `nights`, `parts` | recorded, contract only |",
    ]
    assert "| `glucose_blood_glucose_samples[].value` | `parts` | contract only |" in lines
    assert "| `measurements_measurements[].weight_kg` | `lines` | vendor-doc |" in lines


def test_how_current_a_source_is_stands_beside_how_often_it_is_asked() -> None:
    asked = render_coverage([provider()], _TABLES)
    assert "| [Ring](#ring) | At noon. | 90 min | 14 days |" in asked
    silent = render_coverage([provider(fetch=None, freshness="")], _TABLES)
    assert "| [Ring](#ring) | not stated | — | — |" in silent


def test_what_is_ordered_and_then_posted_comes_by_push() -> None:
    posting = provider(fetch_orders=True, push=Push(read=lambda request: iter(())))
    assert doors_of(posting, _NIGHTS) == {"push"}
    text = render_coverage([posting], _TABLES)
    assert "| push, import<br>*vendor-doc, contract only* | push<br>" in text
    assert "| [Ring](#ring) | At noon. | 90 min, to order history | 14 days |" in text


def test_nothing_of_garmin_is_fetched() -> None:
    garmin = providers()["garmin"]
    assert {door for one in garmin.resources for door in doors_of(garmin, one)} == {"push"}


def test_lines_of_a_file_come_by_no_other_door() -> None:
    assert doors_of(provider(), _LINES) == {"import"}
    assert doors_of(provider(), _NIGHTS) == {"poll"}
    assert doors_of(provider(fetch=None), _NIGHTS) == set()


def test_whatever_has_a_place_in_a_table_comes_in_by_some_door() -> None:
    shut = [
        (one.name, resource.name)
        for one in providers().values()
        for resource in one.resources
        if resource.tables and not doors_of(one, resource)
    ]
    assert shut == []
