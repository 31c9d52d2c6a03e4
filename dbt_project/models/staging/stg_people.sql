{#- made by python -m wearable_pipeline.model.render -#}
{% call lake_rows('people', 'people/*.parquet', "SELECT * FROM read_parquet(__files__)") %}
SELECT CAST(NULL AS VARCHAR) AS "user_id", CAST(NULL AS VARCHAR) AS "person_id" WHERE false
{% endcall %}
