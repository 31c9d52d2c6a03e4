{# Tests of whole relations: one question each, however many columns it has. #}

{% test unique_key(model, columns) %}
  select {{ columns | map('wearable_quoted') | join(', ') if false else lake_names(columns) }}, count(*) as copies
  from {{ model }}
  group by all
  having count(*) > 1
{% endtest %}

{% macro lake_names(columns) -%}
  {%- for column in columns -%}"{{ column }}"{{ ', ' if not loop.last }}{%- endfor -%}
{%- endmacro %}

{# Each entry is a column, or a list of columns of which one at least is set. #}
{% test never_null(model, columns) %}
  {%- for column in columns %}
    {%- set names = [column] if column is string else column %}
    select '{{ names | join(', ') }}' as "column", * from (
      select count(*) as missing from {{ model }}
      where {% for name in names %}"{{ name }}" is null{{ ' and ' if not loop.last }}{% endfor %}
    ) where missing > 0
    {{ 'union all' if not loop.last }}
  {%- endfor %}
{% endtest %}

{# `columns` maps names to [lowest, highest], either of which may be null; lists by their elements. #}
{% test within_bounds(model, columns) %}
  {%- for name, bounds in columns.items() %}
    select '{{ name }}' as "column", * from (
      select count(*) as outside from {{ model }}
      where {% if bounds[0] is not none %}{{ lake_extreme(name, 'min', bounds) }} < {{ bounds[0] }}{% endif %}
        {%- if bounds[0] is not none and bounds[1] is not none %} or {% endif %}
        {%- if bounds[1] is not none %}{{ lake_extreme(name, 'max', bounds) }} > {{ bounds[1] }}{% endif %}
    ) where outside > 0
    {{ 'union all' if not loop.last }}
  {%- endfor %}
{% endtest %}

{% macro lake_extreme(name, which, bounds) -%}
  {%- if bounds | length > 2 -%}list_{{ which }}("{{ name }}"){%- else -%}"{{ name }}"{%- endif -%}
{%- endmacro %}
