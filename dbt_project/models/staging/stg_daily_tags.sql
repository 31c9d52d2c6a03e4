{#- made by python -m wearable_pipeline.model.render -#}
SELECT "user_id", "provider", "local_date", sample."timestamp" AS "timestamp", sample."local_timestamp" AS "local_timestamp", sample."tag_name" AS "tag_name", sample."notes" AS "notes" FROM (SELECT "user_id", "provider", "local_date", unnest("tag_tags") AS sample FROM {{ ref('stg_daily') }})
