{# Where the lake lies is known to the connection alone, see wearable_pipeline/lake/dbt_plugin.py. #}

{% macro lake_path(pattern) -%}
  {%- if execute -%}
    {%- set root = run_query("select getvariable('lake_glob')").columns[0].values()[0] -%}
    {{- root.replace("'", "''") ~ '/' ~ pattern -}}
  {%- endif -%}
{%- endmacro %}

{# Rows of a table of the lake; a table without files yet has the caller's columns and no rows. #}
{% macro lake_rows(name, pattern, rows) -%}
  {%- set relation = source('lake', name) -%}
  {%- if execute -%}
    {%- set path = lake_path(pattern) -%}
    {%- if run_query("select 1 from glob('" ~ path ~ "') limit 1").rows | length > 0 -%}
      {{ rows.replace('__files__', "'" ~ path ~ "'") }}
    {%- else -%}
      {{ caller() }}
    {%- endif -%}
  {%- endif -%}
{%- endmacro %}

{#
  A mart is one Parquet file in the lake, replaced whole, and a view over it: whoever reads the lake
  reads the marts, and a DuckDB file that keeps the views holds nobody's data.
#}
{% materialization lake_file, adapter='duckdb' %}
  {%- set relation = this.incorporate(type='view') -%}
  {%- set existing = load_cached_relation(this) -%}
  {%- set path = lake_path('marts/' ~ model.name ~ '.parquet') -%}
  {%- set file = run_query("select getvariable('lake_url')").columns[0].values()[0].replace("'", "''")
        ~ '/marts/' ~ model.name ~ '.parquet' -%}

  {{ run_hooks(pre_hooks, inside_transaction=False) }}
  {{ run_hooks(pre_hooks, inside_transaction=True) }}
  {% call statement('main') -%}
    copy ({{ sql }}) to '{{ file }}' (format parquet, compression zstd)
  {%- endcall %}
  {% if existing is not none and existing.type != 'view' %}
    {% do adapter.drop_relation(existing) %}
  {% endif %}
  {% call statement('view') -%}
    create or replace view {{ relation }} as select * from read_parquet('{{ path }}')
  {%- endcall %}
  {% do persist_docs(relation, model) %}
  {{ run_hooks(post_hooks, inside_transaction=True) }}
  {% do adapter.commit() %}
  {{ run_hooks(post_hooks, inside_transaction=False) }}
  {{ return({'relations': [relation]}) }}
{% endmaterialization %}
