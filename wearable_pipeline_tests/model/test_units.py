import polars as pl
import pytest

from wearable_pipeline.model import units


def test_glucose_of_five_point_five_millimoles_is_ninety_nine_milligrams() -> None:
    assert units.glucose_mmol_to_mg(5.5) == pytest.approx(99.0858)
    assert units.glucose_mg_to_mmol(180.156) == pytest.approx(10.0)


def test_ketone_of_one_millimole_is_ten_point_four_one_milligrams() -> None:
    assert units.ketone_mmol_to_mg(1.5) == pytest.approx(15.615)
    assert units.ketone_mg_to_mmol(10.41) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("convert", "given", "expected"),
    [
        (units.kilojoules_to_kilocalories, 418.4, 100.0),
        (units.kilocalories_to_kilojoules, 100.0, 418.4),
        (units.pounds_to_kilograms, 150.0, 68.0388555),
        (units.grams_to_kilograms, 75450.0, 75.45),
        (units.inches_to_centimetres, 70.0, 177.8),
        (units.feet_to_metres, 100.0, 30.48),
        (units.miles_to_metres, 26.2, 42164.8128),
        (units.fluid_ounces_to_millilitres, 12.0, 354.882354750),
        (units.fahrenheit_to_celsius, 98.6, 37.0),
        (units.kilopascals_to_mmhg, 16.0, 120.00986923),
    ],
)
def test_conversions_agree_for_numbers_and_expressions(
    convert: object, given: float, expected: float
) -> None:
    assert callable(convert)
    assert convert(given) == pytest.approx(expected)
    frame = pl.DataFrame({"x": [given, None]}).select(convert(pl.col("x")))
    assert frame.to_series().to_list() == [pytest.approx(expected), None]


def test_values_beside_their_unit_become_milligrams_and_unknown_units_null() -> None:
    frame = pl.DataFrame({"v": [5.0, 90.0, 1.0, 2.0], "u": ["mmol/L", "mg/dL", "mg/L", None]})
    glucose = frame.select(units.glucose_in_mg(pl.col("v"), pl.col("u"))).to_series()
    assert glucose.to_list() == [pytest.approx(90.078), 90.0, None, None]
    ketone = frame.select(units.ketone_in_mg(pl.col("v"), pl.col("u"))).to_series()
    assert ketone.to_list() == [pytest.approx(52.05), 90.0, None, None]
