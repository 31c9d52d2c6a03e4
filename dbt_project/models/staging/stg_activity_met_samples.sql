{#- made by python -m wearable_pipeline.model.render -#}
SELECT "user_id", "provider", "local_date", "metadata_summary_id", sample."timestamp" AS "timestamp", sample."local_timestamp" AS "local_timestamp", sample."level" AS "level", sample."level" AS "value" FROM (SELECT "user_id", "provider", "local_date", "metadata_summary_id", unnest("met_met_samples") AS sample FROM {{ ref('stg_activity') }})
