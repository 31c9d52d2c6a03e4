"""The table `athlete`: what a provider knows of the person behind a connection."""

from wearable_pipeline.model.columns import civil_date, samples, text, whole
from wearable_pipeline.model.groups import device_fields, person_table

ATHLETE = person_table(
    "athlete",
    "Profile at the provider, one row per user.",
    text("provider_user_id", "Identity of the person at the provider."),
    text("first_name", "First name."),
    text("last_name", "Last name."),
    text("email", "E-mail address."),
    text("bio", "How the person describes themselves."),
    whole("age", "Age.", "a", hard=(0, 150)),
    civil_date("date_of_birth", "Day of birth."),
    text("sex", "Sex, in the provider's words."),
    text("gender", "Gender, in the provider's words."),
    text("city", "City of residence."),
    text("state", "State or region of residence."),
    text("country", "Country of residence."),
    text("account_creation_date", "When the account at the provider was made, in its words."),
    text("joined_provider", "When the person joined the provider, in its words."),
    samples(
        "devices",
        "devices",
        "Devices the person uses.",
        *device_fields("other_devices"),
        kind=("name", "manufacturer", "serial_number"),
    ),
)
