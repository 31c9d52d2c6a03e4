{#- made by python -m wearable_pipeline.model.render -#}
SELECT "user_id", "provider", "local_date", sample."timestamp" AS "timestamp", sample."local_timestamp" AS "local_timestamp", sample."rr_interval_ms" AS "rr_interval_ms", sample."hr_bpm" AS "hr_bpm" FROM (SELECT "user_id", "provider", "local_date", unnest("heart_rr_interval_samples") AS sample FROM {{ ref('stg_body') }})
