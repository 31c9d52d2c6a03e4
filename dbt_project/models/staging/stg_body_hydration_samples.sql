{#- made by python -m wearable_pipeline.model.render -#}
SELECT "user_id", "provider", "local_date", sample."timestamp" AS "timestamp", sample."local_timestamp" AS "local_timestamp", sample."hydration_kg" AS "hydration_kg", sample."hydration_kg" AS "value" FROM (SELECT "user_id", "provider", "local_date", unnest("hydration_hydration_amount_samples") AS sample FROM {{ ref('stg_body') }})
