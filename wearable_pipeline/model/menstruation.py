"""The table `menstruation`: where in the cycle a day lies."""

from wearable_pipeline.model import enums
from wearable_pipeline.model.columns import (
    civil_date,
    code,
    flag,
    instant,
    samples,
    under,
    whole,
)
from wearable_pipeline.model.groups import dated_table, sampled_at, timestamp_localization

DAYS = (0, 1_000)
CYCLE = (10, 120)

MENSTRUATION = dated_table(
    "menstruation",
    "Menstrual cycle and pregnancy, one row per user and local date.",
    ("user_id", "local_date"),
    timestamp_localization(),
    under(
        "menstruation_data",
        civil_date("period_start_date", "First day of the cycle."),
        whole("day_in_cycle", "Which day of the cycle it is.", "d", hard=DAYS, plausible=(0, 120)),
        whole("period_length_days", "Length of the bleeding.", "d", hard=DAYS, plausible=(0, 21)),
        code("current_phase", enums.MENSTRUATION_INTERVAL, "Phase of the cycle."),
        whole("length_of_current_phase_days", "Length of the phase.", "d", hard=DAYS),
        whole("days_until_next_phase", "Days until the next phase, predicted.", "d", hard=DAYS),
        whole(
            "cycle_length_days",
            "Length of the cycle.",
            "d",
            hard=DAYS,
            plausible=CYCLE,
            sdk_text=True,
        ),
        whole(
            "predicted_cycle_length_days",
            "Length the cycle is predicted to have.",
            "d",
            hard=DAYS,
            plausible=CYCLE,
        ),
        flag(
            "is_predicted_cycle",
            "Whether the cycle is a prediction rather than a record.",
            sdk_text=True,
        ),
        civil_date("fertility_window_start", "First fertile day."),
        civil_date("fertility_window_end", "Last fertile day."),
        civil_date("ovulation_day", "Day of ovulation."),
        instant("last_updated_time", "When the person last recorded something."),
        samples(
            "menstruation_flow",
            "flow",
            "Strength of bleeding over time.",
            sampled_at(),
            code("flow", enums.MENSTRUATION_FLOW, "Strength of bleeding."),
        ),
        samples(
            "intervals",
            "phases",
            "Phases with start and end.",
            instant("start_timestamp", "Start of the phase.", required=True),
            instant("end_timestamp", "End of the phase."),
            code("phase", enums.MENSTRUATION_INTERVAL, "The phase."),
            kind=("phase",),
        ),
    ),
)
