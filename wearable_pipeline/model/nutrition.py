"""The table `nutrition`: what was eaten and drunk during a day."""

from wearable_pipeline.model import enums
from wearable_pipeline.model.columns import (
    Bounds,
    Column,
    code,
    flatten,
    instant,
    number,
    samples,
    text,
    under,
)
from wearable_pipeline.model.groups import (
    dated_table,
    sampled_at,
    timestamp_localization,
)

GRAMS: Bounds = (0, 10_000)
MILLIGRAMS: Bounds = (0, 10_000_000)
MILLILITRES: Bounds = (0, 100_000)


def _grams(name: str, what: str) -> Column:
    return number(f"{name}_g", f"{what}.", "g", hard=GRAMS)


def _milligrams(name: str, what: str) -> Column:
    return number(f"{name}_mg", f"{what}.", "mg", hard=MILLIGRAMS)


def _macros() -> tuple[Column, ...]:
    return under(
        "macros",
        number("calories", "Food energy.", "kcal", hard=(0, 50_000), plausible=(0, 10_000)),
        _grams("carbohydrates", "Carbohydrates, fibre included"),
        _grams("net_carbohydrates", "Carbohydrates without fibre"),
        _grams("sugar", "Sugars"),
        _grams("fiber", "Dietary fibre"),
        _grams("fat", "Fat"),
        _grams("saturated_fat", "Saturated fat"),
        _grams("trans_fat", "Trans fat"),
        _grams("protein", "Protein"),
        _grams("alcohol", "Alcohol"),
        _milligrams("cholesterol", "Cholesterol"),
        _milligrams("sodium", "Sodium"),
    )


def _micros() -> tuple[Column, ...]:
    return under(
        "micros",
        _milligrams("biotin", "Biotin, vitamin B7"),
        _milligrams("caffeine", "Caffeine"),
        _milligrams("calcium", "Calcium"),
        _milligrams("chloride", "Chloride"),
        _milligrams("chromium", "Chromium"),
        _milligrams("copper", "Copper"),
        _milligrams("folate", "Folate, vitamin B9"),
        _milligrams("folic_acid", "Folic acid, the synthetic folate"),
        _milligrams("iodine", "Iodine"),
        _milligrams("iron", "Iron"),
        _milligrams("magnesium", "Magnesium"),
        _milligrams("manganese", "Manganese"),
        _milligrams("molybdenum", "Molybdenum"),
        _milligrams("niacin", "Niacin, vitamin B3"),
        _milligrams("pantothenic_acid", "Pantothenic acid, vitamin B5"),
        _milligrams("phosphorus", "Phosphorus"),
        _milligrams("potassium", "Potassium"),
        _milligrams("riboflavin", "Riboflavin, vitamin B2"),
        _milligrams("selenium", "Selenium"),
        _milligrams("sodium", "Sodium"),
        _milligrams("thiamin", "Thiamin, vitamin B1"),
        _milligrams("vitamin_A", "Vitamin A"),
        _milligrams("vitamin_B6", "Vitamin B6"),
        _milligrams("vitamin_B12", "Vitamin B12"),
        _milligrams("vitamin_C", "Vitamin C"),
        _milligrams("vitamin_D", "Vitamin D"),
        _milligrams("vitamin_D2", "Vitamin D2"),
        _milligrams("vitamin_D3", "Vitamin D3"),
        _milligrams("vitamin_E", "Vitamin E"),
        _milligrams("vitamin_K", "Vitamin K"),
        _milligrams("zinc", "Zinc"),
        _grams("cystine", "Cystine"),
        _grams("histidine", "Histidine"),
        _grams("isoleucine", "Isoleucine"),
        _grams("leucine", "Leucine"),
        _grams("lysine", "Lysine"),
        _grams("methionine", "Methionine"),
        _grams("phenylalanine", "Phenylalanine"),
        _grams("threonine", "Threonine"),
        _grams("tryptophan", "Tryptophan"),
        _grams("tyrosine", "Tyrosine"),
        _grams("valine", "Valine"),
        _grams("monounsaturated_fat", "Monounsaturated fat"),
        _grams("polyunsaturated_fat", "Polyunsaturated fat"),
        _grams("omega3", "Omega-3 fatty acids"),
        _grams("omega6", "Omega-6 fatty acids"),
        _grams("starch", "Starch"),
    )


def _nutrients() -> tuple[Column, ...]:
    return flatten((_macros(), _micros()))


NUTRITION = dated_table(
    "nutrition",
    "Food and drink, one row per user and local date.",
    ("user_id", "local_date"),
    timestamp_localization(),
    under(
        "summary",
        _nutrients(),
        number("water_ml", "Water drunk.", "mL", hard=MILLILITRES, plausible=(0, 10_000)),
        number("drink_ml", "Everything drunk.", "mL", hard=MILLILITRES, plausible=(0, 10_000)),
    ),
    samples(
        "meals",
        "meals",
        "Meals and snacks.",
        text("id", "Identity of the meal at the provider.", required=True),
        text("name", "Name of the meal or food.", demanded=""),
        instant("timestamp", "When it was eaten.", required=True),
        code("type", enums.MEAL_TYPE, "Which meal of the day.", fill="unknown"),
        under(
            "quantity",
            code("unit", enums.NUTRITION_UNITS, "Unit of the amount.", fill="unknown"),
            number("amount", "How much was eaten.", hard=(0, None), demanded=0),
        ),
        _nutrients(),
        kind=("id",),
    ),
    samples(
        "drink_samples",
        "drinks",
        "Drinks.",
        sampled_at(),
        text("drink_name", "Name of the drink."),
        number("drink_volume", "How much was drunk.", hard=(0, None)),
        code("drink_unit", enums.NUTRITION_UNITS, "Unit of the volume.", sdk_text=True),
        kind=("drink_name",),
    ),
)
