{#- made by python -m wearable_pipeline.model.render -#}
SELECT "user_id", "provider", "local_date", sample."timestamp" AS "timestamp", sample."local_timestamp" AS "local_timestamp", sample."level" AS "level", sample."level" AS "value" FROM (SELECT "user_id", "provider", "local_date", unnest("met_met_samples") AS sample FROM {{ ref('stg_daily') }})
