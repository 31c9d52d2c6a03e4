"""Groups of columns that several tables share: row, origin, device, heart, movement, air."""

from dataclasses import replace

import polars as pl

from wearable_pipeline.model import enums
from wearable_pipeline.model.columns import (
    INSTANT,
    Bounds,
    Column,
    Part,
    Table,
    code,
    codes,
    contributors,
    flatten,
    instant,
    moment,
    number,
    samples,
    text,
    under,
    whole,
)

SHARE: Bounds = (0, 100)
NOT_NEGATIVE: Bounds = (0, None)
# The longest local day has 25 hours; a second more than that is not a share of a day.
OF_A_DAY: Bounds = (0, 90_000)
HEART_RATE: Bounds = (0, 400)
USUAL_HEART_RATE: Bounds = (25, 230)
SPEED: Bounds = (0, 350)
CELSIUS: Bounds = (-90, 100)


def dated_table(name: str, description: str, key: tuple[str, ...], *parts: Part) -> Table:
    """A table whose rows belong to a local date."""
    return Table(name, description, key, (*_person(), *_span(), *flatten(parts), *_provenance()))


def person_table(name: str, description: str, *parts: Part) -> Table:
    """A table of one row per user."""
    return Table(name, description, ("user_id",), (*_person(), *flatten(parts), *_provenance()))


def _person() -> tuple[Column, ...]:
    return (
        text("user_id", "One person's connection to one provider.", own=True, required=True),
        text("provider", "Module of the provider.", own=True, required=True),
    )


def _span() -> tuple[Column, ...]:
    return (
        Column(
            "local_date", pl.Date(), "Day the row belongs to, where the person was.", required=True
        ),
        *moment(
            "start_at", "local_start_at", "metadata.start_time", "Start of the row.", required=True
        ),
        *moment("end_at", "local_end_at", "metadata.end_time", "End of the row.", required=True),
        Column(
            "utc_offset_seconds",
            pl.Int32(),
            "Offset of local time from UTC at the start; null when nobody said.",
            unit="s",
            hard=(-64_800, 64_800),
        ),
        text("timezone", "IANA time zone, when known.", own=True),
        code("tz_source", enums.TZ_SOURCE, "Who knew the offset.", own=True, fill="unknown"),
    )


def _provenance() -> tuple[Column, ...]:
    columns = (
        Column(
            "source_record_ids", pl.List(pl.String()), "Provider records the row was made from."
        ),
        Column(
            "revision",
            pl.Int32(),
            "Number of raw revisions that went into the row.",
            unit="{count}",
            hard=(0, None),
        ),
        Column("first_seen_at", INSTANT, "When the first of its records was fetched."),
        Column("updated_at", INSTANT, "When the last of its records was fetched."),
        Column("batch_ids", pl.List(pl.String()), "Ingests that brought its records."),
        text("code_version", "Version of the code that made the row.", own=True),
    )
    return tuple(replace(column, is_provenance=True) for column in columns)


def timestamp_localization() -> Column:
    """How the times of a row are to be read."""
    return code(
        "metadata.timestamp_localization",
        enums.TIMESTAMP_LOCALIZATION,
        "Whether times are UTC or local time.",
    )


def _device_facts() -> tuple[Part, ...]:
    return (
        text("name", "Model of the device."),
        text("manufacturer", "Maker of the device."),
        text("serial_number", "Serial number of the device."),
        text("hardware_version", "Hardware version."),
        text("software_version", "Firmware or app version."),
        instant("activation_timestamp", "When the device was first put to use."),
        instant("last_upload_date", "When the device last handed over data."),
        codes("data_provided", enums.DEVICE_DATA_TYPE, "Kinds of data the device contributes."),
    )


def device_fields(view: str) -> tuple[Column, ...]:
    """What is known of a device and of those that contributed beside it."""
    return flatten(
        (
            *_device_facts(),
            text("sensor_state", "State of the sensor as the provider words it."),
            samples(
                "other_devices",
                view,
                "Further devices that contributed to the row.",
                *_device_facts(),
                kind=("name", "manufacturer", "serial_number"),
            ),
        )
    )


def device() -> tuple[Column, ...]:
    """Which device the row comes from."""
    return under("device_data", *device_fields("other_devices"))


def heart_rate() -> tuple[Column, ...]:
    """Heart rate and its variability: summary, zones and samples."""
    return under(
        "heart_rate_data",
        under(
            "summary",
            number(
                "avg_hr_bpm",
                "Mean heart rate.",
                "/min",
                hard=HEART_RATE,
                plausible=USUAL_HEART_RATE,
            ),
            number(
                "max_hr_bpm",
                "Highest heart rate.",
                "/min",
                hard=HEART_RATE,
                plausible=USUAL_HEART_RATE,
            ),
            number(
                "min_hr_bpm",
                "Lowest heart rate.",
                "/min",
                hard=HEART_RATE,
                plausible=USUAL_HEART_RATE,
            ),
            number(
                "resting_hr_bpm",
                "Heart rate at rest.",
                "/min",
                hard=HEART_RATE,
                plausible=(25, 130),
            ),
            number(
                "user_max_hr_bpm",
                "Highest heart rate the person is taken to be capable of.",
                "/min",
                hard=HEART_RATE,
                plausible=(80, 230),
            ),
            number(
                "avg_hrv_rmssd",
                "Mean heart rate variability, RMSSD.",
                "ms",
                hard=(0, 2000),
                plausible=(1, 300),
            ),
            number(
                "avg_hrv_sdnn",
                "Mean heart rate variability, SDNN.",
                "ms",
                hard=(0, 2000),
                plausible=(1, 400),
            ),
            samples(
                "hr_zone_data",
                "heart_rate_zones",
                "Time spent in each heart rate zone.",
                whole("zone", "Number of the zone.", hard=(0, 20)),
                text("name", "Name of the zone."),
                number(
                    "start_percentage",
                    "Lower end of the zone, of the highest rate.",
                    "%",
                    hard=SHARE,
                ),
                number(
                    "end_percentage", "Upper end of the zone, of the highest rate.", "%", hard=SHARE
                ),
                number("duration_seconds", "Time in the zone.", "s", hard=NOT_NEGATIVE),
                kind=("zone", "name"),
            ),
        ),
        under(
            "detailed",
            samples(
                "hr_samples",
                "heart_rate_samples",
                "Heart rate over time.",
                sampled_at(),
                number("bpm", "Heart rate.", "/min", hard=HEART_RATE, plausible=USUAL_HEART_RATE),
                timer(),
                code("context", enums.HEART_RATE_CONTEXT, "Whether the person was active."),
                kind=("context",),
            ),
            samples(
                "hrv_samples_rmssd",
                "hrv_rmssd_samples",
                "Heart rate variability over time, RMSSD.",
                sampled_at(),
                number("hrv_rmssd", "RMSSD.", "ms", hard=(0, 2000), plausible=(1, 300)),
            ),
            samples(
                "hrv_samples_sdnn",
                "hrv_sdnn_samples",
                "Heart rate variability over time, SDNN.",
                sampled_at(),
                number("hrv_sdnn", "SDNN.", "ms", hard=(0, 2000), plausible=(1, 400)),
            ),
        ),
    )


def sampled_at() -> tuple[Column, ...]:
    """When a sample was taken."""
    return instant("timestamp", "When the sample was taken.", required=True)


def timer() -> Column:
    """Time on the stopwatch of a session."""
    return number(
        "timer_duration_seconds",
        "Time since the start of the session, pauses left out.",
        "s",
        hard=NOT_NEGATIVE,
    )


def active_durations() -> tuple[Column, ...]:
    """How long the person was how active."""
    return under(
        "active_durations_data",
        number(
            "activity_seconds", "Time being active.", "s", hard=NOT_NEGATIVE, plausible=OF_A_DAY
        ),
        number(
            "inactivity_seconds",
            "Time awake and inactive.",
            "s",
            hard=NOT_NEGATIVE,
            plausible=OF_A_DAY,
        ),
        number("rest_seconds", "Time resting.", "s", hard=NOT_NEGATIVE, plausible=OF_A_DAY),
        number(
            "low_intensity_seconds",
            "Time in light activity.",
            "s",
            hard=NOT_NEGATIVE,
            plausible=OF_A_DAY,
        ),
        number(
            "moderate_intensity_seconds",
            "Time in moderate activity.",
            "s",
            hard=NOT_NEGATIVE,
            plausible=OF_A_DAY,
        ),
        number(
            "vigorous_intensity_seconds",
            "Time in vigorous activity.",
            "s",
            hard=NOT_NEGATIVE,
            plausible=OF_A_DAY,
        ),
        number("standing_seconds", "Time standing.", "s", hard=NOT_NEGATIVE, plausible=OF_A_DAY),
        number(
            "standing_hours_count",
            "Hours in which the person stood up.",
            "h",
            hard=NOT_NEGATIVE,
            plausible=(0, 25),
        ),
        whole(
            "num_continuous_inactive_periods",
            "Long spells without movement.",
            "{count}",
            hard=NOT_NEGATIVE,
        ),
        samples(
            "activity_levels_samples",
            "level_samples",
            "Level of activity over time.",
            sampled_at(),
            code("activity_level", enums.ACTIVITY_LEVEL, "Level of activity.", twins=("level",)),
            timer(),
        ),
    )


def calories() -> tuple[Column, ...]:
    """Energy burned and taken in."""
    day: Bounds = (0, 15_000)
    return under(
        "calories_data",
        number(
            "BMR_calories",
            "Energy burned by being alive.",
            "kcal",
            hard=(0, 50_000),
            plausible=(500, 5_000),
            sdk_whole=True,
        ),
        number(
            "net_activity_calories",
            "Energy burned by activity.",
            "kcal",
            hard=(0, 50_000),
            plausible=day,
            sdk_whole=True,
        ),
        number(
            "net_intake_calories",
            "Energy eaten and drunk.",
            "kcal",
            hard=(0, 50_000),
            plausible=day,
            sdk_whole=True,
        ),
        number(
            "total_burned_calories",
            "All energy burned.",
            "kcal",
            hard=(0, 50_000),
            plausible=day,
            sdk_whole=True,
        ),
        samples(
            "calorie_samples",
            "calorie_samples",
            "Energy burned over time.",
            sampled_at(),
            number("calories", "Energy burned since the sample before.", "kcal", hard=(0, 50_000)),
            timer(),
        ),
    )


def elevation_and_swimming() -> tuple[Column, ...]:
    """Climbing and swimming parts of a distance summary."""
    return flatten(
        (
            under(
                "elevation",
                number(
                    "avg_meters",
                    "Mean elevation above sea level.",
                    "m",
                    hard=(-12_000, 50_000),
                    plausible=(-430, 9_000),
                ),
                number(
                    "max_meters",
                    "Highest elevation.",
                    "m",
                    hard=(-12_000, 50_000),
                    plausible=(-430, 9_000),
                ),
                number(
                    "min_meters",
                    "Lowest elevation.",
                    "m",
                    hard=(-12_000, 50_000),
                    plausible=(-430, 9_000),
                ),
                number("gain_actual_meters", "Metres climbed.", "m", hard=NOT_NEGATIVE),
                number(
                    "gain_planned_meters", "Metres that were to be climbed.", "m", hard=NOT_NEGATIVE
                ),
                number("loss_actual_meters", "Metres descended.", "m", hard=NOT_NEGATIVE),
            ),
            under(
                "swimming",
                whole("num_laps", "Lengths swum.", "{count}", hard=NOT_NEGATIVE),
                whole("num_strokes", "Strokes swum.", "{count}", hard=NOT_NEGATIVE),
                whole(
                    "pool_length_meters",
                    "Length of the pool.",
                    "m",
                    hard=NOT_NEGATIVE,
                    plausible=(5, 200),
                ),
            ),
        )
    )


def distance_summary() -> tuple[Column, ...]:
    """Distance, steps, floors."""
    return flatten(
        (
            number(
                "distance_meters",
                "Distance covered.",
                "m",
                hard=(0, 10_000_000),
                plausible=(0, 500_000),
                sdk_whole=True,
            ),
            whole("steps", "Steps taken.", "{steps}", hard=(0, 1_000_000), plausible=(0, 120_000)),
            whole(
                "floors_climbed",
                "Floors climbed.",
                "{floors}",
                hard=(0, 10_000),
                plausible=(0, 500),
            ),
            elevation_and_swimming(),
        )
    )


def distance_samples() -> tuple[Column, ...]:
    """Distance, elevation, floors and steps over time."""
    return under(
        "detailed",
        samples(
            "distance_samples",
            "distance_samples",
            "Distance over time.",
            sampled_at(),
            number(
                "distance_meters",
                "Distance covered since the sample before.",
                "m",
                hard=(0, 10_000_000),
            ),
            timer(),
        ),
        samples(
            "elevation_samples",
            "elevation_samples",
            "Elevation over time.",
            sampled_at(),
            number(
                "elev_meters",
                "Elevation above sea level.",
                "m",
                hard=(-12_000, 50_000),
                plausible=(-430, 9_000),
            ),
            timer(),
        ),
        samples(
            "floors_climbed_samples",
            "floors_climbed_samples",
            "Floors climbed over time.",
            sampled_at(),
            number(
                "floors_climbed",
                "Floors climbed since the sample before.",
                "{floors}",
                hard=(0, 10_000),
                sdk_whole=True,
            ),
            timer(),
        ),
        samples(
            "step_samples",
            "step_samples",
            "Steps over time.",
            sampled_at(),
            number(
                "steps",
                "Steps taken since the sample before.",
                "{steps}",
                hard=(0, 1_000_000),
                sdk_whole=True,
            ),
            timer(),
        ),
    )


def met() -> tuple[Column, ...]:
    """Metabolic equivalents: effort as a multiple of rest."""
    return under(
        "MET_data",
        number("avg_level", "Mean effort.", "[MET]", hard=(0, 100), plausible=(0, 25)),
        number(
            "num_high_intensity_minutes",
            "Minutes of vigorous effort.",
            "min",
            hard=NOT_NEGATIVE,
            plausible=(0, 1500),
        ),
        number(
            "num_moderate_intensity_minutes",
            "Minutes of moderate effort.",
            "min",
            hard=NOT_NEGATIVE,
            plausible=(0, 1500),
        ),
        number(
            "num_low_intensity_minutes",
            "Minutes of light effort.",
            "min",
            hard=NOT_NEGATIVE,
            plausible=(0, 1500),
        ),
        number(
            "num_inactive_minutes",
            "Minutes without effort.",
            "min",
            hard=NOT_NEGATIVE,
            plausible=(0, 1500),
        ),
        samples(
            "MET_samples",
            "met_samples",
            "Effort over time.",
            sampled_at(),
            number("level", "Effort.", "[MET]", hard=(0, 100), plausible=(0, 25)),
        ),
    )


def oxygen() -> tuple[Column, ...]:
    """Oxygen saturation and uptake."""
    return under(
        "oxygen_data",
        number(
            "avg_saturation_percentage",
            "Mean oxygen saturation.",
            "%",
            hard=SHARE,
            plausible=(70, 100),
        ),
        number(
            "vo2max_ml_per_min_per_kg",
            "Highest oxygen uptake.",
            "mL/min/kg",
            hard=(0, 150),
            plausible=(10, 100),
        ),
        number(
            "day_avg_vo2max_ml_per_min_per_kg",
            "Mean of the day's highest oxygen uptakes.",
            "mL/min/kg",
            hard=(0, 150),
            plausible=(10, 100),
        ),
        saturation_samples("saturation_samples", "oxygen_saturation_samples"),
        samples(
            "vo2_samples",
            "vo2max_samples",
            "Highest oxygen uptake over time.",
            sampled_at(),
            number(
                "vo2max_ml_per_min_per_kg",
                "Highest oxygen uptake.",
                "mL/min/kg",
                hard=(0, 150),
                plausible=(10, 100),
            ),
        ),
    )


def saturation_samples(path: str, view: str) -> Column:
    """Oxygen saturation over time."""
    return samples(
        path,
        view,
        "Oxygen saturation over time.",
        sampled_at(),
        number("percentage", "Oxygen saturation.", "%", hard=SHARE, plausible=(70, 100)),
        code("type", enums.OXYGEN_SATURATION_TYPE, "Where it was measured."),
        kind=("type",),
    )


def strain() -> tuple[Column, ...]:
    """Strain as the provider scores it."""
    return under(
        "strain_data",
        number(
            "strain_level",
            "Strain on the body, on the provider's scale.",
            "{score}",
            hard=NOT_NEGATIVE,
        ),
    )


def score(path: str, description: str, *, twins: tuple[str, ...] = ()) -> Column:
    """A score from 0 to 100."""
    return number(path, description, "{score}", hard=SHARE, twins=twins)


def scored(name: str, what: str, view: str) -> tuple[Column, ...]:
    """`<name>_score` with `<name>_contributors`."""
    return flatten(
        (
            score(f"{name}_score", f"Score of {what}."),
            contributors(f"{name}_contributors", view, f"What the score of {what} is made of."),
        )
    )
