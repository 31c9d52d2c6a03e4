{#- made by python -m wearable_pipeline.model.render -#}
SELECT "user_id", "provider", "local_date", sample."timestamp" AS "timestamp", sample."local_timestamp" AS "local_timestamp", sample."percentage" AS "percentage", sample."type" AS "type", sample."percentage" AS "value" FROM (SELECT "user_id", "provider", "local_date", unnest("oxygen_saturation_samples") AS sample FROM {{ ref('stg_body') }})
