{#- made by python -m wearable_pipeline.model.render -#}
SELECT "user_id", "provider", "local_date", sample."timestamp" AS "timestamp", sample."local_timestamp" AS "local_timestamp", sample."hrv_sdnn" AS "hrv_sdnn", sample."hrv_sdnn" AS "value" FROM (SELECT "user_id", "provider", "local_date", unnest("heart_rate_detailed_hrv_samples_sdnn") AS sample FROM {{ ref('stg_daily') }})
