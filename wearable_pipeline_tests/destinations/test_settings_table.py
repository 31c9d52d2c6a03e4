"""The page of destinations shows every setting of every kind, with default and meaning."""

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel, Field, SecretStr

from wearable_pipeline.destinations import destinations
from wearable_pipeline.destinations._contract import DestinationSettings
from wearable_pipeline.destinations._settings_table import fill_settings
from wearable_pipeline.errors import UsageError

PAGE = Path(__file__).parents[2] / "docs" / "destinations.md"


class Loft(BaseModel):
    floor: int = Field(description="How high.")


class PigeonSettings(DestinationSettings):
    speed: float = Field(60.0, description="Slow | fast.")
    ring: SecretStr = Field(description="Number on the ring.")
    colour: str | None = Field(None, description="Of its feathers.")
    prefix: str = Field("", description="In front of names.")
    by_night: bool = Field(False, description="Let it fly in the dark.")
    loft: Loft | None = Field(None, description="Where it lives.")


PIGEON = replace(destinations()["webhook"], name="pigeon", settings=PigeonSettings)
PLACES = (
    "before\n<!-- settings filter -->\n<!-- end -->\n"
    "between\n<!-- settings pigeon -->\nold\n<!-- end -->\nafter\n"
)


def test_a_line_says_name_default_and_meaning_and_what_a_table_of_its_own_holds() -> None:
    text = fill_settings(PLACES, [PIGEON])
    lines = text.splitlines()
    start = lines.index("<!-- settings pigeon -->")
    assert lines[start + 1 : lines.index("after")] == [
        "| setting | default | meaning |",
        "|---|---|---|",
        "| `ring` | *required* | Number on the ring. |",
        "| `speed` | `60.0` | Slow \\| fast. |",
        "| `colour` |  | Of its feathers. |",
        '| `prefix` | `""` | In front of names. |',
        "| `by_night` | `false` | Let it fly in the dark. |",
        "| `loft` |  | Where it lives. |",
        "| `loft.floor` | *required* | How high. |",
        "<!-- end -->",
    ]
    assert "| `users` | everything | User ids. |" in lines
    assert "old" not in lines
    assert "before" in lines


def test_filling_a_page_again_changes_nothing() -> None:
    once = fill_settings(PLACES, [PIGEON])
    assert fill_settings(once, [PIGEON]) == once


@pytest.mark.parametrize(
    ("page", "named"),
    [
        (PLACES.replace("pigeon", "parrot"), "parrot, pigeon"),
        ("<!-- settings filter -->\n<!-- end -->\n", "pigeon"),
        (PLACES + "<!-- settings pigeon -->\n<!-- end -->\n", "filter, pigeon, pigeon"),
    ],
)
def test_a_kind_without_a_place_and_a_place_without_a_kind_are_refused(
    page: str, named: str
) -> None:
    with pytest.raises(UsageError, match=f"see {named}$"):
        fill_settings(page, [PIGEON])


def test_the_committed_page_shows_the_settings_there_are() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == fill_settings(page, destinations().values()), (
        "run python -m wearable_pipeline.model.render"
    )


def test_every_kind_has_a_section_and_every_setting_a_meaning() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in destinations() if f"\n## {name}\n" not in page] == []
    undescribed = [
        f"{kind.name}.{name}"
        for kind in destinations().values()
        for name, field in kind.settings.model_fields.items()
        if not field.description
    ]
    assert undescribed == []
