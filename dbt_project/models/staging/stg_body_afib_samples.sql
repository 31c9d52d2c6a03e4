{#- made by python -m wearable_pipeline.model.render -#}
SELECT "user_id", "provider", "local_date", sample."timestamp" AS "timestamp", sample."local_timestamp" AS "local_timestamp", sample."afib_classification" AS "afib_classification" FROM (SELECT "user_id", "provider", "local_date", unnest("heart_afib_classification_samples") AS sample FROM {{ ref('stg_body') }})
