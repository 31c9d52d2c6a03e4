from collections.abc import Sequence

import polars as pl

from wearable_pipeline.model import enums
from wearable_pipeline.model.enums import CodeList


def _apply(expression: pl.Expr, values: Sequence[object]) -> list[object]:
    return pl.DataFrame({"x": values}).select(expression).to_series().to_list()


X = pl.col("x")


def test_codes_become_names_and_novel_codes_survive() -> None:
    codes = [0, 5, 42, -1, None]
    names = _apply(enums.TREND_ARROW.decode(X), codes)
    assert names == ["unknown", "rising_quickly", "unknown:42", "unknown:-1", None]
    assert _apply(enums.TREND_ARROW.encode(X), names) == codes


def test_words_become_names_and_novel_words_survive() -> None:
    words = ["HEART_RATE", "SKIN TEMP", None]
    names = _apply(enums.DEVICE_DATA_TYPE.decode(X), words)
    assert names == ["heart_rate", "unknown:SKIN TEMP", None]
    assert _apply(enums.DEVICE_DATA_TYPE.encode(X), names) == words


def test_the_two_upload_types_number_manual_and_automatic_differently() -> None:
    assert _apply(enums.UPLOAD_TYPE.encode(X), ["automatic", "manual"]) == [1, 2]
    assert _apply(enums.SLEEP_UPLOAD_TYPE.encode(X), ["manual", "automatic"]) == [1, 2]


def test_activity_zero_is_a_kind_of_activity() -> None:
    assert _apply(enums.ACTIVITY_TYPE.decode(X), [0, 154]) == ["in_vehicle", "physical_therapy"]


def test_only_listed_names_and_truly_unlisted_codes_are_admitted() -> None:
    values = [
        "flat",
        "unknown",
        "unknown:42",
        "unknown:3",
        "unknown:03",
        "unknown:",
        "sideways",
        None,
    ]
    assert _apply(enums.TREND_ARROW.admits(X), values) == [
        True,
        True,
        True,
        False,
        False,
        False,
        False,
        None,
    ]


def test_names_within_a_list_are_distinct() -> None:
    lists = [value for value in vars(enums).values() if isinstance(value, CodeList)]
    assert len(lists) == 23
    for codes in lists:
        assert len(set(codes.names.values())) == len(codes.names), codes.title
