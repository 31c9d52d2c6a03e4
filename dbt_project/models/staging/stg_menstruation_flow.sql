{#- made by python -m wearable_pipeline.model.render -#}
SELECT "user_id", "provider", "local_date", sample."timestamp" AS "timestamp", sample."local_timestamp" AS "local_timestamp", sample."flow" AS "flow" FROM (SELECT "user_id", "provider", "local_date", unnest("menstruation_menstruation_flow") AS sample FROM {{ ref('stg_menstruation') }})
