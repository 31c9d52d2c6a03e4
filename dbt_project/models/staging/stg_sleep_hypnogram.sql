{#- made by python -m wearable_pipeline.model.render -#}
SELECT "user_id", "provider", "local_date", "metadata_summary_id", sample."timestamp" AS "timestamp", sample."local_timestamp" AS "local_timestamp", sample."level" AS "level" FROM (SELECT "user_id", "provider", "local_date", "metadata_summary_id", unnest("sleep_durations_hypnogram_samples") AS sample FROM {{ ref('stg_sleep') }})
