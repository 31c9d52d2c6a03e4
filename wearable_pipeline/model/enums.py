"""Code lists: the number or word clients see for each name the tables store.

Tables store names (`rising_quickly`), JSON carries codes (`5`). A code nobody has documented yet
survives as `unknown:<code>` in both directions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

UNKNOWN = "unknown:"


@dataclass(frozen=True, slots=True, eq=False)
class CodeList:
    """A closed list of codes as documented, open for codes that appear later.

    `names` maps the code on the wire to the stored name.
    """

    title: str
    names: Mapping[int, str] | Mapping[str, str]

    @property
    def is_numeric(self) -> bool:
        """Whether codes are numbers on the wire."""
        return all(isinstance(code, int) for code in self.names)

    def encode(self, names: pl.Expr) -> pl.Expr:
        """Stored names as wire codes; a name that is not listed and not `unknown:…` is null."""
        wire = pl.Int64 if self.is_numeric else pl.String
        codes = {name: code for code, name in self.names.items()}
        listed = names.replace_strict(codes, default=None, return_dtype=wire)
        unlisted = names.str.strip_prefix(UNKNOWN).cast(wire, strict=False)
        return pl.when(names.str.starts_with(UNKNOWN)).then(unlisted).otherwise(listed)

    def decode(self, codes: pl.Expr) -> pl.Expr:
        """Wire codes as stored names; unlisted codes become `unknown:<code>`."""
        listed = codes.replace_strict(dict(self.names), default=None, return_dtype=pl.String)
        return pl.coalesce(listed, pl.lit(UNKNOWN) + codes.cast(pl.String))

    def admits(self, names: pl.Expr) -> pl.Expr:
        """True where a stored name is listed, or `unknown:` with a code that is not."""
        pattern = rf"^{UNKNOWN}(0|-?[1-9]\d{{0,17}})$" if self.is_numeric else rf"^{UNKNOWN}.+$"
        known = [f"{UNKNOWN}{code}" for code in self.names]
        return names.is_in(list(self.names.values())) | (
            names.str.contains(pattern) & ~names.is_in(known)
        )


ACTIVITY_LEVEL = CodeList(
    "ActivityLevel",
    {
        0: "unknown",
        1: "rest",
        2: "inactive",
        3: "low_intensity",
        4: "medium_intensity",
        5: "high_intensity",
    },
)
ACTIVITY_TYPE = CodeList(
    "ActivityType",
    {
        0: "in_vehicle",
        1: "biking",
        3: "still",
        4: "unknown",
        5: "tilting",
        7: "walking",
        8: "running",
        9: "aerobics",
        10: "badminton",
        11: "baseball",
        12: "basketball",
        13: "biathlon",
        14: "hand_biking",
        15: "mountain_biking",
        16: "road_biking",
        17: "spinning",
        18: "stationary_biking",
        19: "utility_biking",
        20: "boxing",
        21: "calisthenics",
        22: "circuit_training",
        23: "cricket",
        24: "dancing",
        25: "elliptical",
        26: "fencing",
        27: "american_football",
        28: "australian_football",
        29: "english_football",
        30: "frisbee",
        31: "gardening",
        32: "golf",
        33: "gymnastics",
        34: "handball",
        35: "hiking",
        36: "hockey",
        37: "horseback_riding",
        38: "housework",
        39: "jumping_rope",
        40: "kayaking",
        41: "kettlebell_training",
        42: "kickboxing",
        43: "kitesurfing",
        44: "martial_arts",
        45: "meditation",
        46: "mixed_martial_arts",
        47: "p90x_exercises",
        48: "paragliding",
        49: "pilates",
        50: "polo",
        51: "racquetball",
        52: "rock_climbing",
        53: "rowing",
        54: "rowing_machine",
        55: "rugby",
        56: "jogging",
        57: "running_on_sand",
        58: "treadmill_running",
        59: "sailing",
        60: "scuba_diving",
        61: "skateboarding",
        62: "skating",
        63: "cross_skating",
        64: "indoor_rollerblading",
        65: "skiing",
        66: "back_country_skiing",
        67: "cross_country_skiing",
        68: "downhill_skiing",
        69: "kite_skiing",
        70: "roller_skiing",
        71: "sledding",
        73: "snowboarding",
        74: "snowmobile",
        75: "snowshoeing",
        76: "squash",
        77: "stair_climbing",
        78: "stair_climbing_machine",
        79: "stand_up_paddleboarding",
        80: "strength_training",
        81: "surfing",
        82: "swimming",
        83: "swimming_in_pool",
        84: "open_water_swimming",
        85: "table_tennis",
        86: "team_sports",
        87: "tennis",
        88: "treadmill",
        89: "volleyball",
        90: "beach_volleyball",
        91: "indoor_volleyball",
        92: "wakeboarding",
        93: "walking_for_fitness",
        94: "nordic_walking",
        95: "treadmill_walking",
        96: "water_polo",
        97: "weightlifting",
        98: "wheelchair",
        99: "windsurfing",
        100: "yoga",
        101: "zumba",
        102: "diving",
        103: "ergometer",
        104: "ice_skating",
        105: "indoor_skating",
        106: "curling",
        108: "other",
        113: "crossfit",
        114: "hiit",
        115: "interval_training",
        116: "walking_with_stroller",
        117: "elevator",
        118: "escalator",
        119: "archery",
        120: "softball",
        122: "guided_breathing",
        123: "cardio_training",
        124: "lacrosse",
        125: "stretching",
        126: "triathlon",
        127: "inline_skating",
        128: "sky_diving",
        129: "paddling",
        130: "mountaineering",
        131: "fishing",
        132: "water_skiing",
        133: "indoor_running",
        134: "padel_tennis",
        135: "driving",
        136: "off_road_driving",
        137: "motorbiking",
        138: "motor_racing",
        139: "enduro",
        140: "canoeing",
        141: "orienteering",
        142: "hang_gliding",
        143: "flying",
        144: "hot_air_ballooning",
        145: "jet_skiing",
        146: "power_boating",
        147: "gaelic_football",
        148: "hurling",
        149: "trail_running",
        150: "gravel_cycling",
        151: "multisport",
        152: "e_biking",
        153: "e_mountain_biking",
        154: "physical_therapy",
    },
)
AFIB_FLAG = CodeList(
    "AFibFlag",
    {
        0: "negative",
        1: "positive",
        2: "inconclusive",
    },
)
DEVICE_DATA_TYPE = CodeList(
    "DeviceDataType",
    {
        "STEPS": "steps",
        "ACTIVE_MINUTES": "active_minutes",
        "BMR": "bmr",
        "CALORIES": "calories",
        "DISTANCE": "distance",
        "HEART_RATE": "heart_rate",
        "OXYGEN_SATURATION": "oxygen_saturation",
        "SLEEP_TYPE": "sleep_type",
        "SPEED": "speed",
        "CADENCE": "cadence",
    },
)
GLUCOSE_FLAG = CodeList(
    "GlucoseFlag",
    {
        0: "normal",
        1: "high",
        2: "low",
    },
)
HEART_RATE_CONTEXT = CodeList(
    "HeartRateContext",
    {
        0: "not_set",
        1: "active",
        2: "not_active",
    },
)
KETONE_SAMPLE_TYPE = CodeList(
    "KetoneSampleType",
    {
        0: "unknown",
        1: "blood",
        2: "urine",
        3: "breath",
    },
)
MEAL_TYPE = CodeList(
    "MealType",
    {
        0: "unknown",
        1: "breakfast",
        2: "morning_snack",
        3: "lunch",
        4: "afternoon_snack",
        5: "dinner",
        6: "snack",
    },
)
MENSTRUATION_FLOW = CodeList(
    "MenstruationFlow",
    {
        0: "unknown",
        1: "none",
        2: "light",
        3: "medium",
        4: "heavy",
        5: "had",
    },
)
MENSTRUATION_INTERVAL = CodeList(
    "MenstruationInterval",
    {
        0: "unknown",
        1: "period",
        2: "follicular",
        3: "fertile_window",
        4: "ovulation",
        5: "luteal",
        6: "pms",
        7: "first_trimester",
        8: "second_trimester",
        9: "third_trimester",
    },
)
NUTRITION_UNITS = CodeList(
    "NutritionUnits",
    {
        0: "unknown",
        1: "gram",
        2: "teaspoon",
        3: "tablespoon",
        4: "cup",
        5: "medium_egg",
        6: "large_egg",
        7: "small_egg",
        8: "milliliter",
        9: "ounce",
        10: "count",
        11: "scoop",
        12: "fluid_ounce",
    },
)
OXYGEN_SATURATION_TYPE = CodeList(
    "OxygenSaturationType",
    {
        0: "blood",
        1: "muscle",
    },
)
SLEEP_LEVEL = CodeList(
    "SleepLevel",
    {
        0: "unknown",
        1: "awake",
        2: "sleeping",
        3: "out_of_bed",
        4: "light_sleep",
        5: "deep_sleep",
        6: "rem_sleep",
    },
)
SLEEP_UPLOAD_TYPE = CodeList(
    "SleepUploadType",
    {
        0: "unknown",
        1: "manual",
        2: "automatic",
        3: "tentative",
        4: "indeterminate",
    },
)
STRESS_LEVEL = CodeList(
    "StressLevel",
    {
        0: "unknown",
        1: "rest",
        2: "low",
        3: "medium",
        4: "high",
    },
)
STROKE_TYPE = CodeList(
    "StrokeType",
    {
        "other": "other",
        "freestyle": "freestyle",
        "backstroke": "backstroke",
        "breaststroke": "breaststroke",
        "butterfly": "butterfly",
    },
)
TIMESTAMP_LOCALIZATION = CodeList(
    "TimestampLocalization",
    {
        0: "utc",
        1: "local",
    },
)
TREND_ARROW = CodeList(
    "TrendArrow",
    {
        0: "unknown",
        1: "falling_quickly",
        2: "falling",
        3: "flat",
        4: "rising",
        5: "rising_quickly",
    },
)
UPLOAD_TYPE = CodeList(
    "UploadType",
    {
        0: "unknown",
        1: "automatic",
        2: "manual",
        3: "update",
        4: "delete",
        5: "pending",
        6: "third_party_upload",
    },
)

# Lists of our own; the word on the wire is the stored name.
GLUCOSE_SAMPLE_KIND = CodeList(
    "GlucoseSampleKind",
    {"cgm": "cgm", "scan": "scan", "fingerstick": "fingerstick", "manual": "manual"},
)
OUT_OF_RANGE = CodeList("OutOfRange", {"high": "high", "low": "low"})
CONCENTRATION_UNIT = CodeList("ConcentrationUnit", {"mg/dL": "mg/dL", "mmol/L": "mmol/L"})
TZ_SOURCE = CodeList(
    "TzSource",
    {"provider": "provider", "profile": "profile", "inferred": "inferred", "unknown": "unknown"},
)
