"""What the README says is what there is."""

from pathlib import Path

from wearable_pipeline.destinations import destinations
from wearable_pipeline.providers import providers
from wearable_pipeline.settings import Settings

README = Path(__file__).parents[1].joinpath("README.md").read_text()


def test_every_setting_is_in_the_readme() -> None:
    missing = [name for name in Settings.model_fields if f"`WEARABLE_{name.upper()}`" not in README]
    assert missing == []


def test_every_provider_and_destination_is_in_the_readme() -> None:
    names = [*providers(), *destinations()]
    assert [name for name in names if f"| `{name}` |" not in README] == []
