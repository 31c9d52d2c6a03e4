{#- made by python -m wearable_pipeline.model.render -#}
SELECT "user_id", "provider", "local_date", sample."timestamp" AS "timestamp", sample."local_timestamp" AS "local_timestamp", sample."hrv_rmssd" AS "hrv_rmssd", sample."hrv_rmssd" AS "value" FROM (SELECT "user_id", "provider", "local_date", unnest("heart_heart_rate_detailed_hrv_samples_rmssd") AS sample FROM {{ ref('stg_body') }})
