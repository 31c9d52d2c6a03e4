"""Settings of an Azure container; what all object stores share is in `test_objects`."""

import pytest

from wearable_pipeline.destinations import configured, get_target
from wearable_pipeline.destinations._objects import AzureBlobSettings
from wearable_pipeline.errors import UsageError
from wearable_pipeline_tests.destinations.test_targets import FromFile, from_file

__all__ = ["from_file"]

HEAD = "[archive]\nkind = 'azure_blob'\naccount = 'clinic'\n"


def test_a_container_is_described_in_the_file(from_file: FromFile) -> None:
    text = f"{HEAD}container = 'c'\nprefix = '/p/'\naccount_key = 'hush'"
    target = get_target(from_file(text), "archive")
    assert isinstance(target.settings, AzureBlobSettings)
    assert target.settings.store.url == "az://c/p"
    assert "hush" not in repr(target.settings) + repr(target)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            "container = 'c'\naccount_key = 'a'\nsas_token = 'b'",
            "account_key or sas_token, not both",
        ),
        ("prefix = 'x'", "container is not set"),
    ],
)
def test_a_mistake_is_said_in_one_line(from_file: FromFile, lines: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        configured(from_file(HEAD + lines))
    assert "destination archive" in str(caught.value)
    assert "\n" not in str(caught.value)
