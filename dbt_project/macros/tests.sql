{# Tests of whole relations: one pass over the rows, however many columns are looked at. #}

{% test unique_key(model, columns) %}
  select {{ lake_names(columns) }}, count(*) as copies
  from {{ model }}
  group by all
  having count(*) > 1
{% endtest %}

{# Each entry is a column, or a list of columns at least one of which is set. #}
{% test never_null(model, columns) %}
  {%- set faults = {} -%}
  {%- for entry in columns -%}
    {%- set names = [entry] if entry is string else entry -%}
    {%- do faults.update({names | join(' or '): '"' ~ names | join('" is null and "') ~ '" is null'}) -%}
  {%- endfor -%}
  {{ lake_faults(model, faults) }}
{% endtest %}

{# `columns` maps names to `at_least` and `at_most`; with `elements` they hold inside a list. #}
{% test within_bounds(model, columns) %}
  {%- set faults = {} -%}
  {%- for name, bounds in columns.items() -%}
    {%- set lowest = 'list_min("' ~ name ~ '")' if bounds.elements else '"' ~ name ~ '"' -%}
    {%- set highest = 'list_max("' ~ name ~ '")' if bounds.elements else '"' ~ name ~ '"' -%}
    {%- set beyond = [] -%}
    {%- if bounds.at_least is defined -%}{%- do beyond.append(lowest ~ ' < ' ~ bounds.at_least) -%}{%- endif -%}
    {%- if bounds.at_most is defined -%}{%- do beyond.append(highest ~ ' > ' ~ bounds.at_most) -%}{%- endif -%}
    {%- do faults.update({name: beyond | join(' or ')}) -%}
  {%- endfor -%}
  {{ lake_faults(model, faults) }}
{% endtest %}

{#
  `columns` maps names to `codes` (code: name). A name is listed, or `unknown:` with a code that is
  not, a whole number with `numeric`; with `elements` that holds inside a list.
#}
{% test listed_codes(model, columns) %}
  {%- set faults = {} -%}
  {%- for name, list in columns.items() -%}
    {%- set unknown = '^unknown:(0|-?[1-9][0-9]{0,17})$' if list.numeric else '^unknown:.+$' -%}
    {%- set value = 'listed' if list.elements else '"' ~ name ~ '"' -%}
    {%- set refused -%}
      not (
        {{ value }} in ({{ lake_texts(list.codes.values()) }})
        or (
          regexp_matches({{ value }}, '{{ unknown }}')
          and {{ value }} not in ({{ lake_texts(list.codes.keys(), 'unknown:') }})
        )
      )
    {%- endset -%}
    {%- if list.elements -%}
      {%- do faults.update({name: 'len(list_filter("' ~ name ~ '", lambda listed: ' ~ refused ~ ')) > 0'}) -%}
    {%- else -%}
      {%- do faults.update({name: refused}) -%}
    {%- endif -%}
  {%- endfor -%}
  {{ lake_faults(model, faults) }}
{% endtest %}

{# The named conditions that hold for some rows, with the number of those. #}
{% macro lake_faults(model, conditions) %}
  select * from (
    unpivot (
      select
        {%- for name, condition in conditions.items() %}
        count(*) filter (where {{ condition }}) as "{{ name }}"{{ ',' if not loop.last }}
        {%- endfor %}
      from {{ model }}
    ) on columns(*) into name "column" value "rows"
  ) where "rows" > 0
{% endmacro %}

{% macro lake_names(columns) -%}
  {%- for column in columns -%}"{{ column }}"{{ ', ' if not loop.last }}{%- endfor -%}
{%- endmacro %}

{% macro lake_texts(values, prefix='') -%}
  {%- for value in values -%}'{{ prefix ~ (value | string).replace("'", "''") }}'{{ ', ' if not loop.last }}{%- endfor -%}
{%- endmacro %}
