"""Settings of a Google bucket; what all object stores share is in `test_objects`."""

import pytest

from wearable_pipeline.destinations import configured, get_target
from wearable_pipeline.destinations._objects import GcsSettings
from wearable_pipeline.errors import UsageError
from wearable_pipeline_tests.destinations.test_targets import FromFile, from_file

__all__ = ["from_file"]


def test_a_bucket_is_described_in_the_file(from_file: FromFile) -> None:
    target = get_target(
        from_file("[archive]\nkind = 'gcs'\nbucket = 'b'\ntoken = 'hush'"), "archive"
    )
    assert isinstance(target.settings, GcsSettings)
    assert target.settings.store.url == "gs://b"
    assert "hush" not in repr(target.settings) + repr(target)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("token = 'a'\nservice_account = '{}'", "give service_account or token, not both"),
        ("service_account = '/etc/key.json'", "is the JSON of a key, not the name of its file"),
    ],
)
def test_a_mistake_is_said_in_one_line(from_file: FromFile, lines: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        configured(from_file(f"[archive]\nkind = 'gcs'\nbucket = 'b'\n{lines}\n"))
    assert "destination archive" in str(caught.value)
    assert "\n" not in str(caught.value)
