"""The table `daily`: a day's totals and averages, and what ran through the day."""

from wearable_pipeline.model import enums
from wearable_pipeline.model.columns import (
    ALL_FIELDS,
    Column,
    code,
    contributors,
    instant,
    number,
    samples,
    text,
    under,
    whole,
)
from wearable_pipeline.model.groups import (
    NOT_NEGATIVE,
    OF_A_DAY,
    SHARE,
    active_durations,
    calories,
    dated_table,
    device,
    distance_samples,
    distance_summary,
    heart_rate,
    met,
    oxygen,
    sampled_at,
    score,
    scored,
    strain,
    timestamp_localization,
)


def _stress_seconds(name: str, what: str) -> Column:
    return number(f"{name}_seconds", f"{what}.", "s", hard=NOT_NEGATIVE, plausible=OF_A_DAY)


DAILY = dated_table(
    "daily",
    "Totals and averages of a day, one row per user and local date.",
    ("user_id", "local_date"),
    code("metadata.upload_type", enums.UPLOAD_TYPE, "How the day was recorded.", fill="unknown"),
    timestamp_localization(),
    device(),
    active_durations(),
    calories(),
    under(
        "data_enrichment",
        instant("start_time", "Start of the time the scores cover."),
        score("total_stress_score", "Score of the day's stress."),
        contributors(
            "stress_contributors", "stress_contributors", "What the stress score is made of."
        ),
        score("total_stress_score_v2", "Score of the day's stress, second version."),
        contributors(
            "total_stress_score_v2_contributors",
            "stress_v2_contributors",
            "What the second version of the stress score is made of.",
        ),
        *(
            scored(name, what, f"{name}_contributors")
            for name, what in (
                ("respiratory", "breathing"),
                ("cardiovascular", "heart and circulation"),
                ("readiness", "readiness for effort"),
            )
        ),
        whole(
            "immune_index",
            "State of the defences, 0 to 5.",
            "{score}",
            hard=(0, 100),
            plausible=(0, 5),
        ),
        contributors(
            "immune_contributors", "immune_contributors", "What the immune index is made of."
        ),
        whole("resilience_score", "Score of resilience.", "{score}", hard=SHARE),
        contributors(
            "resilience_contributors",
            "resilience_contributors",
            "What the resilience score is made of.",
        ),
        number("strain_index", "Index of strain.", "{score}"),
        text("strain_traffic_light", "Strain as a colour."),
        contributors(
            "strain_contributors", "strain_contributors", "What the strain index is made of."
        ),
    ),
    under("distance_data", *distance_summary(), distance_samples()),
    heart_rate(),
    met(),
    oxygen(),
    under(
        "scores",
        score("activity", "Activity score of the provider."),
        score("recovery", "Recovery score of the provider."),
        score("sleep", "Sleep score of the provider."),
    ),
    strain(),
    under(
        "stress_data",
        number("avg_stress_level", "Mean stress.", "{score}", hard=SHARE),
        number("max_stress_level", "Highest stress.", "{score}", hard=SHARE),
        code("stress_rating", enums.STRESS_LEVEL, "Stress of the day in words."),
        _stress_seconds("stress_duration", "Time under stress"),
        _stress_seconds("rest_stress_duration", "Time at rest"),
        _stress_seconds("low_stress_duration", "Time under low stress"),
        _stress_seconds("medium_stress_duration", "Time under medium stress"),
        _stress_seconds("high_stress_duration", "Time under high stress"),
        _stress_seconds("activity_stress_duration", "Time in activity, when stress cannot be told"),
        samples(
            "samples",
            "stress_samples",
            "Stress over time.",
            sampled_at(),
            # Devices report states such as "asleep" as negative levels.
            number("level", "Stress.", "{score}", hard=(-10, 100), plausible=SHARE),
        ),
        samples(
            "body_battery_samples",
            "body_battery_samples",
            "Energy reserve over time.",
            sampled_at(),
            number("level", "Energy reserve.", "{score}", hard=SHARE),
        ),
    ),
    under(
        "tag_data",
        samples(
            "tags",
            "tags",
            "What the person marked in the day.",
            instant("timestamp", "When the mark applies.", required=True),
            text("tag_name", "The mark.", required=True),
            text("notes", "What the person wrote.", demanded=""),
            kind=ALL_FIELDS,
        ),
    ),
)
