"""The table `sleep`: nights and naps."""

from wearable_pipeline.model import enums
from wearable_pipeline.model.columns import (
    Column,
    code,
    contributors,
    flag,
    flatten,
    instant,
    number,
    samples,
    text,
    under,
    whole,
)
from wearable_pipeline.model.groups import (
    CELSIUS,
    NOT_NEGATIVE,
    OF_A_DAY,
    SHARE,
    dated_table,
    device,
    heart_rate,
    sampled_at,
    saturation_samples,
    score,
    scored,
    timestamp_localization,
)

BREATHS = (0, 150)
USUAL_BREATHS = (5, 40)


def _seconds(name: str, what: str) -> Column:
    return number(f"{name}_seconds", f"{what}.", "s", hard=NOT_NEGATIVE, plausible=OF_A_DAY)


def _times(name: str, what: str) -> Column:
    return whole(name, f"{what}.", "{count}", hard=NOT_NEGATIVE)


def _breaths(name: str, what: str) -> Column:
    return number(name, f"{what}.", "/min", hard=BREATHS, plausible=USUAL_BREATHS)


def _measured_time() -> tuple[Column, ...]:
    return flatten(
        (
            instant("start_time", "Start of the measurement."),
            instant("end_time", "End of the measurement."),
        )
    )


SLEEP = dated_table(
    "sleep",
    "Nights and naps, one row each.",
    ("user_id", "metadata_summary_id"),
    under(
        "metadata",
        text("summary_id", "Identity of the sleep at the provider.", required=True),
        code("upload_type", enums.SLEEP_UPLOAD_TYPE, "How the sleep was recorded.", fill="unknown"),
        flag("is_nap", "Whether it was a nap."),
    ),
    timestamp_localization(),
    device(),
    under(
        "data_enrichment",
        *(
            scored(name, what, view)
            for name, what, view in (
                ("sleep", "the sleep", "score_contributors"),
                ("readiness", "readiness for effort", "readiness_contributors"),
            )
        ),
        score("sleep_score_v2", "Score of the sleep, second version."),
        contributors(
            "sleep_score_v2_contributors",
            "score_v2_contributors",
            "What the second version of the sleep score is made of.",
        ),
        score("respiratory_score_v2", "Score of breathing, second version."),
        contributors(
            "respiratory_score_v2_contributors",
            "respiratory_v2_contributors",
            "What the second version of the breathing score is made of.",
        ),
    ),
    under(
        "sleep_durations_data",
        under(
            "asleep",
            _seconds("duration_asleep_state", "Time asleep"),
            _seconds("duration_light_sleep_state", "Time in light sleep"),
            _seconds("duration_deep_sleep_state", "Time in deep sleep"),
            _seconds("duration_REM_sleep_state", "Time in REM sleep"),
            _times("num_REM_events", "Spells of REM sleep"),
        ),
        under(
            "awake",
            _seconds("duration_awake_state", "Time awake"),
            _seconds("duration_short_interruption", "Time awake in short interruptions"),
            _seconds("duration_long_interruption", "Time awake in long interruptions"),
            _seconds("sleep_latency", "Time until falling asleep"),
            _seconds("wake_up_latency", "Time from waking until getting up"),
            _times("num_wakeup_events", "Times the person woke"),
            _times("num_out_of_bed_events", "Times the person got up"),
        ),
        under(
            "other",
            _seconds("duration_in_bed", "Time in bed"),
            _seconds("duration_unmeasurable_sleep", "Time that could not be told"),
        ),
        number("sleep_efficiency", "Share of the time in bed spent asleep.", "%", hard=SHARE),
        samples(
            "hypnogram_samples",
            "hypnogram",
            "Stage of sleep over time; each holds until the next.",
            sampled_at(),
            code("level", enums.SLEEP_LEVEL, "Stage of sleep."),
        ),
    ),
    heart_rate(),
    under(
        "readiness_data",
        number("readiness", "Readiness for effort.", "{score}", hard=SHARE, sdk_whole=True),
        number("recovery_level", "Level of recovery.", "{score}"),
    ),
    under(
        "respiration_data",
        under(
            "breaths_data",
            _measured_time(),
            _breaths("avg_breaths_per_min", "Mean breathing rate"),
            _breaths("max_breaths_per_min", "Highest breathing rate"),
            _breaths("min_breaths_per_min", "Lowest breathing rate"),
            flag("on_demand_reading", "Whether the person started the measurement."),
            samples(
                "samples",
                "breath_samples",
                "Breathing rate over time.",
                sampled_at(),
                _breaths("breaths_per_min", "Breathing rate"),
            ),
        ),
        under(
            "oxygen_saturation_data",
            _measured_time(),
            number(
                "avg_saturation_percentage",
                "Mean oxygen saturation.",
                "%",
                hard=SHARE,
                plausible=(70, 100),
            ),
            saturation_samples("samples", "oxygen_saturation_samples"),
        ),
        under(
            "snoring_data",
            _measured_time(),
            _times("num_snoring_events", "Spells of snoring"),
            _seconds("total_snoring_duration", "Time snoring"),
            samples(
                "samples",
                "snoring_samples",
                "Spells of snoring.",
                sampled_at(),
                _seconds("duration", "Length of the spell"),
            ),
        ),
    ),
    score("scores.sleep", "Sleep score of the provider.", twins=("scores.sleep_score",)),
    under(
        "temperature_data",
        number(
            "delta",
            "Skin temperature against the person's usual.",
            "Cel",
            hard=CELSIUS,
            plausible=(-5, 5),
        ),
    ),
)
