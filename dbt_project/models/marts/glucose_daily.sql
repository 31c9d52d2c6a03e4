{#- Shares and thresholds: international consensus on CGM metrics, Battelino et al. 2019 and 2022. -#}
{%- set longest = "to_minutes(" ~ var('glucose_reading_minutes') ~ ")" -%}

with readings as (
    {%- for list in ['glucose_blood_glucose_samples', 'glucose_detailed_blood_glucose_samples'] %}
    select user_id, local_date, timezone, utc_offset_seconds, list_number, sample.*
    from (
        select *, {{ loop.index }} as list_number, unnest("{{ list }}") as sample
        from {{ ref('stg_body') }}
    )
    {{ 'union all by name' if not loop.last }}
    {%- endfor %}
),

placed as (
    select
        user_id,
        local_date,
        timezone,
        blood_glucose_mg_per_dl as glucose,
        coalesce(sample_kind, 'cgm') = 'cgm' as is_cgm,
        -- Where only the local time is known, days of this user still compare with one another.
        coalesce(
            "timestamp",
            local_timestamp at time zone timezone,
            (local_timestamp at time zone 'UTC') - to_seconds(utc_offset_seconds),
            local_timestamp at time zone 'UTC'
        ) as moment,
        coalesce(
            local_timestamp,
            ("timestamp" at time zone timezone),
            ("timestamp" at time zone 'UTC') + to_seconds(coalesce(utc_offset_seconds, 0))
        ) as local_moment,
        list_number
    from readings
    where blood_glucose_mg_per_dl is not null
),

-- On a day with a sensor its readings alone count: finger sticks beside it are no sample of time.
counted as (
    select *
    from (
        select *, bool_or(is_cgm) over (partition by user_id, local_date) as has_cgm
        from placed
    )
    where is_cgm = has_cgm
    qualify row_number() over (
        partition by user_id, moment order by list_number desc, glucose
    ) = 1
),

weighted as (
    select
        *,
        -- To the next reading, to the end of the longest time one may stand for, or to midnight.
        epoch(least(
            coalesce(lead(moment) over (partition by user_id order by moment) - moment, {{ longest }}),
            {{ longest }},
            local_date + interval 1 day - local_moment
        )) as seconds
    from counted
),

days as (
    select
        user_id,
        local_date,
        bool_or(has_cgm) as is_cgm,
        count(*) as readings,
        avg(glucose) as mean,
        stddev_samp(glucose) as deviation,
        sum(greatest(seconds, 0)) as covered,
        {%- for name, condition in {
            'below_54': 'glucose < 54',
            'from_54_below_70': 'glucose >= 54 and glucose < 70',
            'from_70_to_180': 'glucose >= 70 and glucose <= 180',
            'above_180_to_250': 'glucose > 180 and glucose <= 250',
            'above_250': 'glucose > 250',
        }.items() %}
        coalesce(sum(greatest(seconds, 0)) filter (where {{ condition }}), 0) as {{ name }},
        {%- endfor %}
        coalesce(
            any_value(
                epoch((local_date + interval 1 day) at time zone timezone)
                - epoch(local_date::timestamp at time zone timezone)
            ),
            86400
        ) as day_length
    from weighted
    group by user_id, local_date
)

select
    user_id,
    local_date,
    is_cgm,
    readings,
    mean as mean_glucose_mg_per_dl,
    100 * deviation / mean as coefficient_of_variation_percentage,
    3.31 + 0.02392 * mean as glucose_management_indicator_percentage,
    100 * from_70_to_180 / nullif(covered, 0) as time_in_range_percentage,
    100 * from_54_below_70 / nullif(covered, 0) as time_below_range_level_1_percentage,
    100 * below_54 / nullif(covered, 0) as time_below_range_level_2_percentage,
    100 * above_180_to_250 / nullif(covered, 0) as time_above_range_level_1_percentage,
    100 * above_250 / nullif(covered, 0) as time_above_range_level_2_percentage,
    100 * covered / day_length as coverage_percentage
from days
order by user_id, local_date
