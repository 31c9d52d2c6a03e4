{#- made by python -m wearable_pipeline.model.render -#}
SELECT "user_id", "provider", "local_date", sample."contributor_name" AS "contributor_name", sample."contributor_score" AS "contributor_score", sample."contributor_score" AS "value" FROM (SELECT "user_id", "provider", "local_date", unnest("data_enrichment_resilience_contributors") AS sample FROM {{ ref('stg_daily') }})
