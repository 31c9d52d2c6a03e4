"""The contract every destination meets because it is found."""

import pytest

from wearable_pipeline.destinations import destinations, get_destination
from wearable_pipeline.errors import UsageError
from wearable_pipeline.settings import Settings


def test_the_webhook_is_found() -> None:
    assert "webhook" in destinations()


def test_an_unknown_destination_names_the_choices() -> None:
    with pytest.raises(UsageError, match="webhook"):
        get_destination("pigeon")


@pytest.mark.parametrize("name", sorted(destinations()))
def test_a_destination_is_whole(name: str) -> None:
    destination = destinations()[name]
    assert destination.name == name
    assert destination.title
    assert destination.summary.endswith(".")
    assert destination.required
    assert destination.batch_rows > 0


@pytest.mark.parametrize("name", sorted(destinations()))
def test_a_destination_without_settings_is_not_configured(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for field in destinations()[name].required:
        monkeypatch.delenv(f"WEARABLE_{field.upper()}", raising=False)
    assert not destinations()[name].is_configured(Settings())
