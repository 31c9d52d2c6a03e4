{#- made by python -m wearable_pipeline.model.render -#}
SELECT "user_id", "provider", "local_date", sample."timestamp" AS "timestamp", sample."local_timestamp" AS "local_timestamp", sample."systolic_bp" AS "systolic_bp", sample."diastolic_bp" AS "diastolic_bp" FROM (SELECT "user_id", "provider", "local_date", unnest("blood_pressure_blood_pressure_samples") AS sample FROM {{ ref('stg_body') }})
