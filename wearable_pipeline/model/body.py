"""The table `body`: what was measured on and in the body during a day, glucose above all."""

from dataclasses import replace

from wearable_pipeline.model import enums
from wearable_pipeline.model.columns import (
    ALL_FIELDS,
    Bounds,
    Column,
    code,
    instant,
    number,
    samples,
    text,
    under,
    whole,
)
from wearable_pipeline.model.groups import (
    CELSIUS,
    HEART_RATE,
    SHARE,
    USUAL_HEART_RATE,
    dated_table,
    device,
    heart_rate,
    oxygen,
    sampled_at,
    timestamp_localization,
)

# Meters and sensors read from 10 to 600 (some to 900); beyond is a unit mistaken for another.
GLUCOSE: Bounds = (5, 1_500)
USUAL_GLUCOSE: Bounds = (40, 400)
# Blood ketones of 30 mmol/L are not survived; breath and urine scales end below.
KETONE: Bounds = (0, 312)
USUAL_KETONE: Bounds = (0, 84)
WEIGHT: Bounds = (0.2, 700)
METABOLISM: Bounds = (0, 20_000)


def _native(what: str) -> tuple[Column, ...]:
    return (
        number("native_value", f"{what} in the unit the provider used.", own=True),
        code(
            "native_unit",
            enums.CONCENTRATION_UNIT,
            "UCUM unit of `native_value`.",
            own=True,
        ),
    )


def _occurrence() -> Column:
    # Meters that write down minutes list several readings under one of them.
    counted = whole(
        "occurrence",
        "Which of several readings listed under the same time, from 2 on; null for the first or"
        " only one.",
        "{count}",
        hard=(2, None),
    )
    return replace(counted, path=None)


def _glucose(path: str, view: str, description: str) -> Column:
    return samples(
        path,
        view,
        description,
        sampled_at(),
        number(
            "blood_glucose_mg_per_dL",
            "Glucose concentration.",
            "mg/dL",
            hard=GLUCOSE,
            plausible=USUAL_GLUCOSE,
            sdk_whole=True,
        ),
        code(
            "glucose_level_flag", enums.GLUCOSE_FLAG, "Where the value lies in the person's range."
        ),
        code("trend_arrow", enums.TREND_ARROW, "Where the value is going."),
        *_native("The value"),
        code("sample_kind", enums.GLUCOSE_SAMPLE_KIND, "How the value was taken.", own=True),
        code(
            "out_of_range",
            enums.OUT_OF_RANGE,
            "Set when the meter showed only HI or LO; the value is then the end of its range.",
            own=True,
        ),
        text("native_trend", "Trend in the provider's words.", own=True),
        text("sensor_status", "Warm-up, expired and the like, in the provider's words.", own=True),
        text("device_id", "Sensor or meter the value comes from.", own=True),
        _occurrence(),
        kind=("sample_kind", "device_id", "occurrence"),
    )


def _temperatures(path: str, view: str, where: str, plausible: Bounds) -> Column:
    return samples(
        path,
        view,
        f"Temperature {where} over time.",
        sampled_at(),
        number(
            "temperature_celsius", f"Temperature {where}.", "Cel", hard=CELSIUS, plausible=plausible
        ),
    )


def _pressure(path: str, description: str, plausible: Bounds) -> Column:
    return number(path, description, "mm[Hg]", hard=(0, 400), plausible=plausible)


BODY = dated_table(
    "body",
    "Measurements on and in the body, one row per user and local date.",
    ("user_id", "local_date"),
    timestamp_localization(),
    device(),
    under(
        "glucose_data",
        _glucose(
            "blood_glucose_samples",
            "glucose_samples",
            "Glucose readings: finger sticks, scans and sensor values.",
        ),
        _glucose(
            "detailed_blood_glucose_samples",
            "detailed_glucose_samples",
            "Glucose readings at the finest step the sensor gives.",
        ),
        number(
            "day_avg_blood_glucose_mg_per_dL",
            "Mean glucose of the day, as the provider states it.",
            "mg/dL",
            hard=GLUCOSE,
            plausible=USUAL_GLUCOSE,
            twins=("day_avg_blood_glucose_mg_per_dl",),
        ),
        number(
            "day_avg_detailed_blood_glucose_mg_per_dL",
            "Mean of the day's detailed glucose readings, as the provider states it.",
            "mg/dL",
            hard=GLUCOSE,
            plausible=USUAL_GLUCOSE,
        ),
        number(
            "gmi",
            "Glucose management indicator, an estimate of HbA1c.",
            "%",
            hard=(0, 30),
            plausible=(4, 14),
        ),
        number("time_in_range", "Share of time in the target range.", "%", hard=SHARE),
        whole("sensor_usage", "Sensor use as the provider counts it.", "{count}", hard=(0, None)),
        samples(
            "daily_patterns",
            "glucose_patterns",
            "Spread of glucose by hour of the day.",
            whole("time_from_midnight", "Hour of the day.", "h", hard=(0, 23)),
            *(
                number(
                    f"percentile_{share}",
                    f"Glucose below which {share} % of readings lie.",
                    "mg/dL",
                    hard=GLUCOSE,
                    plausible=USUAL_GLUCOSE,
                    sdk_whole=True,
                )
                for share in (5, 25, 50, 75, 95)
            ),
            kind=("time_from_midnight",),
        ),
    ),
    under(
        "ketone_data",
        samples(
            "ketone_samples",
            "ketone_samples",
            "Ketone readings.",
            sampled_at(),
            number(
                "ketone_mg_per_dL",
                "Ketones, as beta-hydroxybutyrate.",
                "mg/dL",
                hard=KETONE,
                plausible=USUAL_KETONE,
            ),
            code("sample_type", enums.KETONE_SAMPLE_TYPE, "Blood, urine or breath."),
            *_native("The value"),
            text("device_id", "Meter the value comes from.", own=True),
            _occurrence(),
            kind=("sample_type", "device_id", "occurrence"),
        ),
        number(
            "day_avg_ketone_mg_per_dL",
            "Mean of the day's ketone readings.",
            "mg/dL",
            hard=KETONE,
            plausible=USUAL_KETONE,
        ),
    ),
    under(
        "measurements_data",
        samples(
            "measurements",
            "measurements",
            "Weighings, doses and other single measurements.",
            instant("measurement_time", "When it was measured.", required=True),
            number("BMI", "Body mass index.", "kg/m2", hard=(3, 250), plausible=(10, 80)),
            number(
                "BMR", "Basal metabolic rate.", "kcal/d", hard=METABOLISM, plausible=(500, 5_000)
            ),
            number(
                "RMR", "Resting metabolic rate.", "kcal/d", hard=METABOLISM, plausible=(500, 5_000)
            ),
            whole(
                "estimated_fitness_age",
                "Age at which this fitness is usual.",
                "a",
                hard=(0, 150),
                sdk_text=True,
            ),
            number("skin_fold_mm", "Thickness of the skin fold.", "mm", hard=(0, 200)),
            number("bodyfat_percentage", "Share of fat.", "%", hard=SHARE, plausible=(2, 70)),
            number("weight_kg", "Body weight.", "kg", hard=WEIGHT, plausible=(2, 350)),
            number("height_cm", "Height.", "cm", hard=(20, 300), plausible=(40, 230)),
            number("bone_mass_g", "Mass of bones.", "g", hard=(0, 50_000)),
            number("muscle_mass_g", "Mass of muscles.", "g", hard=(0, 400_000)),
            number("lean_mass_g", "Mass without fat.", "g", hard=(0, 700_000)),
            number("water_percentage", "Share of water.", "%", hard=SHARE, plausible=(25, 80)),
            number("insulin_units", "Insulin given.", "[IU]", hard=(0, 1_000), plausible=(0, 100)),
            text("insulin_type", "Kind of insulin given."),
            text("urine_color", "Colour of urine."),
            text("user_notes", "What the person noted."),
            number(
                "visceral_fat_level",
                "Fat around the organs, on the device's scale.",
                "{score}",
                hard=(0, None),
            ),
            text("visceral_fat_category", "Fat around the organs, in words."),
            number(
                "native_value",
                "The one quantity of the measurement in the provider's unit.",
                own=True,
            ),
            text("native_unit", "UCUM unit of `native_value`.", own=True),
            text("device_id", "Scale, pen or meter the measurement comes from.", own=True),
            _occurrence(),
            kind=ALL_FIELDS,
        ),
        number(
            "day_avg_bmi",
            "Mean body mass index of the day.",
            "kg/m2",
            hard=(3, 250),
            plausible=(10, 80),
        ),
        number(
            "day_avg_bmr",
            "Mean basal metabolic rate of the day.",
            "kcal/d",
            hard=METABOLISM,
            plausible=(500, 5_000),
        ),
        number(
            "day_avg_rmr",
            "Mean resting metabolic rate of the day.",
            "kcal/d",
            hard=METABOLISM,
            plausible=(500, 5_000),
        ),
        number("day_avg_estimated_fitness_age", "Mean fitness age of the day.", "a", hard=(0, 150)),
        number("day_avg_skin_fold_mm", "Mean skin fold of the day.", "mm", hard=(0, 200)),
        number(
            "day_avg_bodyfat_percentage",
            "Mean share of fat of the day.",
            "%",
            hard=SHARE,
            plausible=(2, 70),
        ),
        number(
            "day_avg_weight_kg", "Mean weight of the day.", "kg", hard=WEIGHT, plausible=(2, 350)
        ),
        number(
            "day_avg_height_cm",
            "Mean height of the day.",
            "cm",
            hard=(20, 300),
            plausible=(40, 230),
        ),
        number("day_avg_bone_mass_g", "Mean mass of bones of the day.", "g", hard=(0, 50_000)),
        number("day_avg_muscle_mass_g", "Mean mass of muscles of the day.", "g", hard=(0, 400_000)),
        number("day_avg_lean_mass_g", "Mean mass without fat of the day.", "g", hard=(0, 700_000)),
        number(
            "day_avg_water_percentage",
            "Mean share of water of the day.",
            "%",
            hard=SHARE,
            plausible=(25, 80),
        ),
        number("day_avg_insulin_units", "Mean insulin dose of the day.", "[IU]", hard=(0, 1_000)),
        number(
            "day_avg_visceral_fat_level", "Mean visceral fat of the day.", "{score}", hard=(0, None)
        ),
    ),
    under(
        "blood_pressure_data",
        samples(
            "blood_pressure_samples",
            "blood_pressure_samples",
            "Blood pressure readings.",
            sampled_at(),
            _pressure("systolic_bp", "Systolic pressure.", (70, 250)),
            _pressure("diastolic_bp", "Diastolic pressure.", (40, 150)),
        ),
        _pressure("day_avg_systolic_bp", "Mean systolic pressure of the day.", (70, 250)),
        _pressure("day_avg_diastolic_bp", "Mean diastolic pressure of the day.", (40, 150)),
    ),
    under(
        "heart_data",
        heart_rate(),
        samples(
            "afib_classification_samples",
            "afib_samples",
            "Verdicts on atrial fibrillation.",
            sampled_at(),
            code("afib_classification", enums.AFIB_FLAG, "The verdict."),
        ),
        samples(
            "ecg_signal",
            "ecg_readings",
            "Electrocardiograms.",
            instant("start_timestamp", "When the recording began.", required=True),
            number(
                "avg_hr_bpm",
                "Mean heart rate of the recording.",
                "/min",
                hard=HEART_RATE,
                plausible=USUAL_HEART_RATE,
            ),
            code("afib_classification", enums.AFIB_FLAG, "Verdict on atrial fibrillation."),
            samples(
                "raw_signal",
                "ecg_signal",
                "The trace.",
                instant("timestamp", "When the point was recorded."),
                number("potential_uV", "Voltage.", "uV", hard=(-1e6, 1e6)),
            ),
        ),
        samples(
            "pulse_wave_velocity_samples",
            "pulse_wave_velocity_samples",
            "Speed of the pulse wave along the arteries.",
            sampled_at(),
            number(
                "pulse_wave_velocity_meters_per_second",
                "Speed of the pulse wave.",
                "m/s",
                hard=(0, 100),
                plausible=(3, 20),
            ),
        ),
        samples(
            "rr_interval_samples",
            "rr_interval_samples",
            "Times between heart beats.",
            sampled_at(),
            number(
                "rr_interval_ms",
                "Time since the beat before.",
                "ms",
                hard=(0, 60_000),
                plausible=(200, 3_000),
            ),
            number("hr_bpm", "Heart rate that follows from it.", "/min", hard=HEART_RATE),
            # Two beats can end in the same instant of a clock that counts whole seconds.
            kind=ALL_FIELDS,
        ),
    ),
    under(
        "hydration_data",
        number(
            "day_total_water_consumption_ml",
            "Water drunk in the day.",
            "mL",
            hard=(0, 100_000),
            plausible=(0, 10_000),
        ),
        number("day_avg_hydration_kg", "Mean water in the body of the day.", "kg", hard=(0, 500)),
        samples(
            "hydration_amount_samples",
            "hydration_samples",
            "Water in the body over time.",
            sampled_at(),
            number("hydration_kg", "Water in the body.", "kg", hard=(0, 500)),
        ),
    ),
    oxygen(),
    under(
        "temperature_data",
        _temperatures("body_temperature_samples", "temperature_samples", "of the body", (34, 42)),
        _temperatures(
            "skin_temperature_samples", "skin_temperature_samples", "of the skin", (15, 42)
        ),
        _temperatures(
            "ambient_temperature_samples",
            "ambient_temperature_samples",
            "around the person",
            (-50, 60),
        ),
        number(
            "day_avg_body_temperature_celsius",
            "Mean body temperature of the day.",
            "Cel",
            hard=CELSIUS,
            plausible=(34, 42),
        ),
        number(
            "day_avg_skin_temperature_celsius",
            "Mean skin temperature of the day.",
            "Cel",
            hard=CELSIUS,
            plausible=(15, 42),
        ),
        number(
            "day_avg_ambient_temperature_celsius",
            "Mean temperature around the person.",
            "Cel",
            hard=CELSIUS,
            plausible=(-50, 60),
        ),
    ),
)
