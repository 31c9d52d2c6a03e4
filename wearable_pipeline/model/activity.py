"""The table `activity`: workouts and other sessions with a start and an end."""

from wearable_pipeline.model import enums
from wearable_pipeline.model.columns import (
    ALL_FIELDS,
    code,
    coordinates,
    instant,
    number,
    samples,
    text,
    under,
    whole,
)
from wearable_pipeline.model.groups import (
    HEART_RATE,
    NOT_NEGATIVE,
    SPEED,
    USUAL_HEART_RATE,
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
    scored,
    strain,
    timer,
    timestamp_localization,
)

WATTS = (0, 10_000)
USUAL_SPEED = (0, 40)

ACTIVITY = dated_table(
    "activity",
    "Workouts and other sessions, one row each.",
    ("user_id", "metadata_summary_id"),
    under(
        "metadata",
        text("summary_id", "Identity of the session at the provider.", required=True),
        text("name", "Title of the session."),
        code("type", enums.ACTIVITY_TYPE, "Kind of activity.", fill="unknown"),
        code("upload_type", enums.UPLOAD_TYPE, "How the session was recorded.", fill="unknown"),
        text("city", "City where it took place."),
        text("state", "State or region where it took place."),
        text("country", "Country where it took place."),
    ),
    timestamp_localization(),
    device(),
    active_durations(),
    calories(),
    number(
        "cheat_detection", "Sign that the session was faked, on the provider's scale.", "{score}"
    ),
    under(
        "data_enrichment",
        *(
            scored(name, what, f"{name}_contributors")
            for name, what in (
                ("efficiency", "the economy of movement"),
                ("strain", "the strain of the session"),
                ("rcrs", "running and cycling recovery"),
                ("trimp", "the training impulse"),
            )
        ),
        whole("stress_score", "Score of stress.", "{score}", hard=(0, 100)),
    ),
    under("distance_data", under("summary", *distance_summary()), distance_samples()),
    under(
        "energy_data",
        number("energy_kilojoules", "Energy burned.", "kJ", hard=(0, 200_000)),
        number(
            "energy_planned_kilojoules", "Energy that was to be burned.", "kJ", hard=(0, 200_000)
        ),
    ),
    heart_rate(),
    under(
        "lap_data",
        samples(
            "laps",
            "laps",
            "Laps of the session.",
            instant("start_time", "Start of the lap."),
            instant("end_time", "End of the lap."),
            number("distance_meters", "Distance of the lap.", "m", hard=(0, 10_000_000)),
            number("calories", "Energy burned in the lap.", "kcal", hard=(0, 50_000)),
            number(
                "avg_hr_bpm",
                "Mean heart rate of the lap.",
                "/min",
                hard=HEART_RATE,
                plausible=USUAL_HEART_RATE,
            ),
            number(
                "avg_speed_meters_per_second",
                "Mean speed of the lap.",
                "m/s",
                hard=SPEED,
                plausible=USUAL_SPEED,
            ),
            number("avg_watts", "Mean power of the lap.", "W", hard=WATTS),
            whole("active_duration_seconds", "Time in motion.", "s", hard=NOT_NEGATIVE),
            whole("total_strokes", "Strokes swum in the lap.", "{count}", hard=NOT_NEGATIVE),
            code("stroke_type", enums.STROKE_TYPE, "Swimming stroke."),
            text("trigger_method", "What ended the lap: distance, time, a button."),
        ),
    ),
    met(),
    under(
        "movement_data",
        number(
            "avg_speed_meters_per_second", "Mean speed.", "m/s", hard=SPEED, plausible=USUAL_SPEED
        ),
        number(
            "max_speed_meters_per_second",
            "Highest speed.",
            "m/s",
            hard=SPEED,
            plausible=USUAL_SPEED,
        ),
        number(
            "adjusted_max_speed_meters_per_second",
            "Highest speed, corrected by the provider.",
            "m/s",
            hard=SPEED,
        ),
        number(
            "normalized_speed_meters_per_second",
            "Mean speed, corrected for slope.",
            "m/s",
            hard=SPEED,
        ),
        number("avg_velocity_meters_per_second", "Mean velocity.", "m/s", hard=(-350, 350)),
        number("max_velocity_meters_per_second", "Highest velocity.", "m/s", hard=(-350, 350)),
        number("avg_pace_minutes_per_kilometer", "Mean pace.", "min/km", hard=NOT_NEGATIVE),
        number("max_pace_minutes_per_kilometer", "Fastest pace.", "min/km", hard=NOT_NEGATIVE),
        number("avg_cadence_rpm", "Mean cadence.", "/min", hard=(0, 1_000), plausible=(0, 300)),
        number("max_cadence_rpm", "Highest cadence.", "/min", hard=(0, 1_000), plausible=(0, 300)),
        number("avg_torque_newton_meters", "Mean torque.", "N.m", hard=(-2_000, 2_000)),
        number("max_torque_newton_meters", "Highest torque.", "N.m", hard=(-2_000, 2_000)),
        samples(
            "speed_samples",
            "speed_samples",
            "Speed over time.",
            sampled_at(),
            number("speed_meters_per_second", "Speed.", "m/s", hard=SPEED, plausible=USUAL_SPEED),
            timer(),
        ),
        samples(
            "cadence_samples",
            "cadence_samples",
            "Cadence over time.",
            sampled_at(),
            number("cadence_rpm", "Cadence.", "/min", hard=(0, 1_000), plausible=(0, 300)),
            timer(),
        ),
        samples(
            "torque_samples",
            "torque_samples",
            "Torque over time.",
            sampled_at(),
            number("torque_newton_meters", "Torque.", "N.m", hard=(-2_000, 2_000)),
            timer(),
        ),
    ),
    oxygen(),
    under("polyline_map_data", text("summary_polyline", "The way taken, as an encoded polyline.")),
    under(
        "position_data",
        coordinates("start_pos_lat_lng_deg", "Where the session started: latitude, longitude."),
        coordinates("center_pos_lat_lng_deg", "Middle of the way: latitude, longitude."),
        coordinates("end_pos_lat_lng_deg", "Where the session ended: latitude, longitude."),
        samples(
            "position_samples",
            "position_samples",
            "Position over time.",
            sampled_at(),
            coordinates("coords_lat_lng_deg", "Latitude and longitude."),
            timer(),
        ),
    ),
    under(
        "power_data",
        number("avg_watts", "Mean power.", "W", hard=WATTS, plausible=(0, 1_000)),
        number("max_watts", "Highest power.", "W", hard=WATTS, plausible=(0, 2_500)),
        samples(
            "power_samples",
            "power_samples",
            "Power over time.",
            sampled_at(),
            number("watts", "Power.", "W", hard=WATTS, plausible=(0, 2_500)),
            timer(),
        ),
    ),
    strain(),
    under(
        "TSS_data",
        samples(
            "TSS_samples",
            "tss",
            "Training stress by method.",
            text("method", "How the stress is computed."),
            number("planned", "Stress that was to be.", "{score}", hard=NOT_NEGATIVE),
            number("actual", "Stress that was.", "{score}", hard=NOT_NEGATIVE),
            number(
                "intensity_factor_planned",
                "Intensity that was to be, of the threshold.",
                "1",
                hard=NOT_NEGATIVE,
            ),
            number(
                "intensity_factor_actual",
                "Intensity that was, of the threshold.",
                "1",
                hard=NOT_NEGATIVE,
            ),
            number("normalized_power_watts", "Power, weighted by its variation.", "W", hard=WATTS),
            kind=ALL_FIELDS,
        ),
    ),
    under("work_data", number("work_kilojoules", "Mechanical work.", "kJ", hard=(0, 200_000))),
)
