{#- made by python -m wearable_pipeline.model.render -#}
{%- set priority = var('source_priority') or ["*", "huawei", "huawei_health", "samsung", "samsung_health", "health_connect", "google_fit", "apple", "apple_health"] -%}
WITH RECURSIVE
priority AS (SELECT [{{ lake_texts(priority) }}]::VARCHAR[] AS listed),
daily_rows AS (
    SELECT
        coalesce(people.person_id, daily.user_id) AS person_id,
        coalesce(
            list_position(listed, daily.provider), list_position(listed, '*'), len(listed) + 1
        ) AS place,
        daily.start_at AS row_start,
        daily.local_start_at AS local_row_start,
        daily.end_at AS row_end,
        daily.local_end_at AS local_row_end,
        daily.*
    FROM {{ ref('stg_daily') }} AS daily
    CROSS JOIN priority
    LEFT JOIN {{ ref('stg_people') }} AS people ON people.user_id = daily.user_id
),
ranked AS (
    SELECT
        *,
        row_number() OVER by_rank AS rank,
        first_value(timezone IGNORE NULLS) OVER of_day AS zone,
        first_value(utc_offset_seconds IGNORE NULLS) OVER of_day AS utc_offset
    FROM daily_rows
    WINDOW
        by_rank AS (PARTITION BY person_id, local_date ORDER BY place, provider, user_id),
        of_day AS (
            by_rank ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
        )
),
-- A total without samples stands for the span of its row, or for the whole day if it has none.
placed_rows AS (
    SELECT
        * EXCLUDE (row_since, row_until),
        CASE WHEN row_until > row_since THEN row_since ELSE epoch_us(coalesce(NULL::TIMESTAMPTZ, local_date::TIMESTAMP AT TIME ZONE zone, (local_date::TIMESTAMP AT TIME ZONE 'UTC') - to_seconds(utc_offset), local_date::TIMESTAMP AT TIME ZONE 'UTC')) END AS since,
        CASE WHEN row_until > row_since THEN row_until ELSE epoch_us(coalesce(NULL::TIMESTAMPTZ, (local_date::TIMESTAMP + INTERVAL 1 DAY) AT TIME ZONE zone, ((local_date::TIMESTAMP + INTERVAL 1 DAY) AT TIME ZONE 'UTC') - to_seconds(utc_offset), (local_date::TIMESTAMP + INTERVAL 1 DAY) AT TIME ZONE 'UTC')) END AS until
    FROM (SELECT *, epoch_us(coalesce(row_start, local_row_start AT TIME ZONE zone, (local_row_start AT TIME ZONE 'UTC') - to_seconds(utc_offset), local_row_start AT TIME ZONE 'UTC')) AS row_since, epoch_us(coalesce(row_end, local_row_end AT TIME ZONE zone, (local_row_end AT TIME ZONE 'UTC') - to_seconds(utc_offset), local_row_end AT TIME ZONE 'UTC')) AS row_until FROM ranked)
),
totals AS (
    SELECT person_id, local_date, rank, since, until, 'distance_steps' AS measure, "distance_steps"::DOUBLE AS total FROM placed_rows
    UNION ALL
    SELECT person_id, local_date, rank, since, until, 'distance_distance_meters' AS measure, "distance_distance_meters"::DOUBLE AS total FROM placed_rows
    UNION ALL
    SELECT person_id, local_date, rank, since, until, 'distance_floors_climbed' AS measure, "distance_floors_climbed"::DOUBLE AS total FROM placed_rows
    UNION ALL
    SELECT person_id, local_date, rank, since, until, 'calories_total_burned_calories' AS measure, "calories_total_burned_calories"::DOUBLE AS total FROM placed_rows
),
samples AS (
    SELECT person_id, local_date, rank, zone, utc_offset, 'distance_steps' AS measure, sample."timestamp" AS sampled_at, sample.local_timestamp AS local_sampled_at, sample."steps"::DOUBLE AS amount FROM (SELECT person_id, local_date, rank, zone, utc_offset, unnest("distance_detailed_step_samples") AS sample FROM ranked)
    UNION ALL
    SELECT person_id, local_date, rank, zone, utc_offset, 'distance_distance_meters' AS measure, sample."timestamp" AS sampled_at, sample.local_timestamp AS local_sampled_at, sample."distance_meters"::DOUBLE AS amount FROM (SELECT person_id, local_date, rank, zone, utc_offset, unnest("distance_detailed_distance_samples") AS sample FROM ranked)
    UNION ALL
    SELECT person_id, local_date, rank, zone, utc_offset, 'distance_floors_climbed' AS measure, sample."timestamp" AS sampled_at, sample.local_timestamp AS local_sampled_at, sample."floors_climbed"::DOUBLE AS amount FROM (SELECT person_id, local_date, rank, zone, utc_offset, unnest("distance_detailed_floors_climbed_samples") AS sample FROM ranked)
    UNION ALL
    SELECT person_id, local_date, rank, zone, utc_offset, 'calories_total_burned_calories' AS measure, sample."timestamp" AS sampled_at, sample.local_timestamp AS local_sampled_at, sample."calories"::DOUBLE AS amount FROM (SELECT person_id, local_date, rank, zone, utc_offset, unnest("calories_calorie_samples") AS sample FROM ranked)
),
placed_samples AS (
    SELECT person_id, local_date, measure, rank, amount, moment,
        moment - lag(moment) OVER in_time AS step
    FROM (SELECT *, epoch_us(coalesce(sampled_at, local_sampled_at AT TIME ZONE zone, (local_sampled_at AT TIME ZONE 'UTC') - to_seconds(utc_offset), local_sampled_at AT TIME ZONE 'UTC')) AS moment FROM samples WHERE amount IS NOT NULL)
    WINDOW in_time AS (PARTITION BY person_id, local_date, measure, rank ORDER BY moment)
),
sampled AS (
    SELECT
        person_id,
        local_date,
        measure,
        rank,
        sum(amount) AS amount,
        least(coalesce(median(step), 3600000000), 3600000000)::BIGINT AS usual_step
    FROM placed_samples
    GROUP BY ALL
),
stated AS (
    SELECT
        totals.* EXCLUDE (total),
        totals.total,
        sampled.amount AS sampled,
        sampled.usual_step,
        coalesce(sampled.amount, 0) > 0 AS has_samples
    FROM totals
    LEFT JOIN sampled USING (person_id, local_date, measure, rank)
    WHERE totals.total IS NOT NULL OR sampled.amount IS NOT NULL
),
-- A zero claims no time: it may as well mean that the device lay on the table.
intervals AS (
    SELECT
        person_id,
        local_date,
        measure,
        rank,
        true AS has_samples,
        moment - greatest(least(coalesce(step, usual_step), usual_step), 1) AS since,
        moment AS until,
        -- The source's own total is final: samples that exceed it are taken in proportion.
        amount * least(coalesce(total / sampled, 1), 1) AS amount
    FROM placed_samples
    JOIN stated USING (person_id, local_date, measure, rank)
    WHERE amount > 0
    UNION ALL
    SELECT person_id, local_date, measure, rank, false, since, until, total
    FROM stated
    WHERE NOT has_samples AND total > 0
),
-- For each source, the time that sources before it have claimed, as disjoint pieces.
higher AS (
    SELECT DISTINCT
        person_id, local_date, measure, stated.rank AS rank, other.since, other.until
    FROM stated
    JOIN intervals AS other USING (person_id, local_date, measure)
    WHERE other.rank < stated.rank
),
pieces AS (
    SELECT
        *,
        sum(until - since) OVER (
            PARTITION BY person_id, local_date, measure, rank ORDER BY since
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS before
    FROM (
        SELECT
            person_id, local_date, measure, rank, piece, min(since) AS since, max(until) AS until
        FROM (
            SELECT
                *,
                sum(opens) OVER (
                    PARTITION BY person_id, local_date, measure, rank ORDER BY since, until
                ) AS piece
            FROM (
                SELECT
                    *,
                    CASE
                        WHEN since <= max(until) OVER (
                            PARTITION BY person_id, local_date, measure, rank
                            ORDER BY since, until
                            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                        ) THEN 0
                        ELSE 1
                    END AS opens
                FROM higher
            )
        )
        GROUP BY ALL
    )
),
uncovered AS (
    SELECT
        intervals.*,
        1 - (
            coalesce(last.before, 0) + coalesce(least(intervals.until, last.until) - last.since, 0)
            - coalesce(first.before, 0)
            - coalesce(least(intervals.since, first.until) - first.since, 0)
        ) / (intervals.until - intervals.since) AS free
    FROM intervals
    ASOF LEFT JOIN pieces AS first
        ON intervals.person_id = first.person_id
        AND intervals.local_date = first.local_date
        AND intervals.measure = first.measure
        AND intervals.rank = first.rank
        AND intervals.since >= first.since
    ASOF LEFT JOIN pieces AS last
        ON intervals.person_id = last.person_id
        AND intervals.local_date = last.local_date
        AND intervals.measure = last.measure
        AND intervals.rank = last.rank
        AND intervals.until >= last.since
),
-- What each source may add: its samples' free parts; a total without samples, or a rest of the
-- total beyond the samples, up to what is not counted yet. Rests know no time and come last.
claims AS (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY person_id, local_date, measure ORDER BY is_rest, rank
        ) AS turn
    FROM (
        SELECT
            person_id,
            local_date,
            measure,
            rank,
            has_samples,
            false AS is_rest,
            CASE
                WHEN has_samples THEN sum(amount * free)
                ELSE sum(amount) FILTER (WHERE free > 0.01)
            END AS amount,
            sum(amount) AS ceiling,
            min(since) AS since,
            max(until) AS until
        FROM uncovered
        GROUP BY person_id, local_date, measure, rank, has_samples
        UNION ALL
        SELECT
            person_id, local_date, measure, rank, true, true, total - sampled, total, NULL, NULL
        FROM stated
        WHERE has_samples AND total > sampled
    )
),
-- Of every claim before a total without samples, the share that lies within the total's span.
shares AS (
    SELECT
        person_id,
        local_date,
        measure,
        claims.turn,
        other.turn AS other_turn,
        coalesce(
            sum(
                part.amount * part.free
                * greatest(least(part.until, claims.until) - greatest(part.since, claims.since), 0)
                / (part.until - part.since)
            ) / nullif(sum(part.amount * part.free), 0),
            0
        ) AS share
    FROM claims
    JOIN claims AS other USING (person_id, local_date, measure)
    JOIN uncovered AS part USING (person_id, local_date, measure)
    WHERE
        NOT claims.has_samples AND NOT other.is_rest
        AND other.turn < claims.turn AND part.rank = other.rank
    GROUP BY ALL
),
turns AS (
    SELECT
        claims.person_id,
        claims.local_date,
        claims.measure,
        claims.rank,
        claims.turn,
        coalesce(claims.amount, 0) AS amount,
        claims.ceiling,
        CASE
            WHEN claims.is_rest THEN list_resize([]::DOUBLE[], claims.turn - 1, 1.0)
            WHEN claims.has_samples THEN list_resize([]::DOUBLE[], claims.turn - 1, 0.0)
            ELSE coalesce(within.listed, []::DOUBLE[])
        END AS shares
    FROM claims
    LEFT JOIN (
        SELECT
            person_id, local_date, measure, turn, list(share ORDER BY other_turn) AS listed
        FROM shares
        GROUP BY ALL
    ) AS within USING (person_id, local_date, measure, turn)
),
counting AS (
    SELECT person_id, local_date, measure, 0::BIGINT AS turn, []::DOUBLE[] AS counts
    FROM turns
    WHERE turn = 1
    UNION ALL
    SELECT
        turns.person_id,
        turns.local_date,
        turns.measure,
        turns.turn,
        list_append(
            counts,
            least(
                turns.amount,
                greatest(turns.ceiling - list_inner_product(counts, turns.shares), 0)
            )
        )
    FROM counting
    JOIN turns
        ON turns.person_id = counting.person_id
        AND turns.local_date = counting.local_date
        AND turns.measure = counting.measure
        AND turns.turn = counting.turn + 1
),
counted AS (
    SELECT turns.person_id, turns.local_date, turns.measure, turns.rank, sum(counts[-1]) AS counted
    FROM counting
    JOIN turns USING (person_id, local_date, measure, turn)
    GROUP BY ALL
),
parts AS (
    SELECT
        person_id,
        local_date,
        rank,
        max(counted) FILTER (WHERE measure = 'distance_steps') AS "distance_steps",
            max(counted) FILTER (WHERE measure = 'distance_distance_meters') AS "distance_distance_meters",
            max(counted) FILTER (WHERE measure = 'distance_floors_climbed') AS "distance_floors_climbed",
            max(counted) FILTER (WHERE measure = 'calories_total_burned_calories') AS "calories_total_burned_calories"
    FROM (
        SELECT
            stated.person_id,
            stated.local_date,
            stated.rank,
            stated.measure,
            coalesce(counted.counted, 0) AS counted
        FROM stated
        LEFT JOIN counted USING (person_id, local_date, measure, rank)
    )
    GROUP BY ALL
)
SELECT
    daily.person_id,
    daily.local_date,
    coalesce(
        list_distinct(list(daily.provider ORDER BY daily.rank) FILTER (WHERE parts."distance_steps" > 0 OR parts."distance_distance_meters" > 0 OR parts."distance_floors_climbed" > 0 OR parts."calories_total_burned_calories" > 0)),
        []
    ).list_sort() AS contributing_providers,
    list(
        {'user_id': daily.user_id, 'provider': daily.provider, 'distance_steps': parts."distance_steps", 'distance_distance_meters': parts."distance_distance_meters", 'distance_floors_climbed': parts."distance_floors_climbed", 'calories_total_burned_calories': parts."calories_total_burned_calories"}
        ORDER BY daily.rank
    ) AS sources,
    round(sum(parts."distance_steps"))::BIGINT AS "distance_steps",
    sum(parts."distance_distance_meters") AS "distance_distance_meters",
    round(sum(parts."distance_floors_climbed"))::BIGINT AS "distance_floors_climbed",
    sum(parts."calories_total_burned_calories") AS "calories_total_burned_calories",
    arg_min(daily."active_durations_activity_seconds", daily.rank) AS "active_durations_activity_seconds",
    arg_min(daily."active_durations_inactivity_seconds", daily.rank) AS "active_durations_inactivity_seconds",
    arg_min(daily."active_durations_rest_seconds", daily.rank) AS "active_durations_rest_seconds",
    arg_min(daily."active_durations_low_intensity_seconds", daily.rank) AS "active_durations_low_intensity_seconds",
    arg_min(daily."active_durations_moderate_intensity_seconds", daily.rank) AS "active_durations_moderate_intensity_seconds",
    arg_min(daily."active_durations_vigorous_intensity_seconds", daily.rank) AS "active_durations_vigorous_intensity_seconds",
    arg_min(daily."active_durations_standing_seconds", daily.rank) AS "active_durations_standing_seconds",
    arg_min(daily."active_durations_standing_hours_count", daily.rank) AS "active_durations_standing_hours_count",
    arg_min(daily."active_durations_num_continuous_inactive_periods", daily.rank) AS "active_durations_num_continuous_inactive_periods",
    arg_min(daily."calories_bmr_calories", daily.rank) AS "calories_bmr_calories",
    arg_min(daily."calories_net_activity_calories", daily.rank) AS "calories_net_activity_calories",
    arg_min(daily."calories_net_intake_calories", daily.rank) AS "calories_net_intake_calories",
    arg_min(daily."data_enrichment_total_stress_score", daily.rank) AS "data_enrichment_total_stress_score",
    arg_min(daily."data_enrichment_total_stress_score_v2", daily.rank) AS "data_enrichment_total_stress_score_v2",
    arg_min(daily."data_enrichment_respiratory_score", daily.rank) AS "data_enrichment_respiratory_score",
    arg_min(daily."data_enrichment_cardiovascular_score", daily.rank) AS "data_enrichment_cardiovascular_score",
    arg_min(daily."data_enrichment_readiness_score", daily.rank) AS "data_enrichment_readiness_score",
    arg_min(daily."data_enrichment_immune_index", daily.rank) AS "data_enrichment_immune_index",
    arg_min(daily."data_enrichment_resilience_score", daily.rank) AS "data_enrichment_resilience_score",
    arg_min(daily."data_enrichment_strain_index", daily.rank) AS "data_enrichment_strain_index",
    arg_min(daily."data_enrichment_strain_traffic_light", daily.rank) AS "data_enrichment_strain_traffic_light",
    arg_min(daily."distance_elevation_avg_meters", daily.rank) AS "distance_elevation_avg_meters",
    arg_min(daily."distance_elevation_max_meters", daily.rank) AS "distance_elevation_max_meters",
    arg_min(daily."distance_elevation_min_meters", daily.rank) AS "distance_elevation_min_meters",
    arg_min(daily."distance_elevation_gain_actual_meters", daily.rank) AS "distance_elevation_gain_actual_meters",
    arg_min(daily."distance_elevation_gain_planned_meters", daily.rank) AS "distance_elevation_gain_planned_meters",
    arg_min(daily."distance_elevation_loss_actual_meters", daily.rank) AS "distance_elevation_loss_actual_meters",
    arg_min(daily."distance_swimming_num_laps", daily.rank) AS "distance_swimming_num_laps",
    arg_min(daily."distance_swimming_num_strokes", daily.rank) AS "distance_swimming_num_strokes",
    arg_min(daily."distance_swimming_pool_length_meters", daily.rank) AS "distance_swimming_pool_length_meters",
    arg_min(daily."heart_rate_summary_avg_hr_bpm", daily.rank) AS "heart_rate_summary_avg_hr_bpm",
    arg_min(daily."heart_rate_summary_max_hr_bpm", daily.rank) AS "heart_rate_summary_max_hr_bpm",
    arg_min(daily."heart_rate_summary_min_hr_bpm", daily.rank) AS "heart_rate_summary_min_hr_bpm",
    arg_min(daily."heart_rate_summary_resting_hr_bpm", daily.rank) AS "heart_rate_summary_resting_hr_bpm",
    arg_min(daily."heart_rate_summary_user_max_hr_bpm", daily.rank) AS "heart_rate_summary_user_max_hr_bpm",
    arg_min(daily."heart_rate_summary_avg_hrv_rmssd", daily.rank) AS "heart_rate_summary_avg_hrv_rmssd",
    arg_min(daily."heart_rate_summary_avg_hrv_sdnn", daily.rank) AS "heart_rate_summary_avg_hrv_sdnn",
    arg_min(daily."met_avg_level", daily.rank) AS "met_avg_level",
    arg_min(daily."met_num_high_intensity_minutes", daily.rank) AS "met_num_high_intensity_minutes",
    arg_min(daily."met_num_moderate_intensity_minutes", daily.rank) AS "met_num_moderate_intensity_minutes",
    arg_min(daily."met_num_low_intensity_minutes", daily.rank) AS "met_num_low_intensity_minutes",
    arg_min(daily."met_num_inactive_minutes", daily.rank) AS "met_num_inactive_minutes",
    arg_min(daily."oxygen_avg_saturation_percentage", daily.rank) AS "oxygen_avg_saturation_percentage",
    arg_min(daily."oxygen_vo2max_ml_per_min_per_kg", daily.rank) AS "oxygen_vo2max_ml_per_min_per_kg",
    arg_min(daily."oxygen_day_avg_vo2max_ml_per_min_per_kg", daily.rank) AS "oxygen_day_avg_vo2max_ml_per_min_per_kg",
    arg_min(daily."scores_activity", daily.rank) AS "scores_activity",
    arg_min(daily."scores_recovery", daily.rank) AS "scores_recovery",
    arg_min(daily."scores_sleep", daily.rank) AS "scores_sleep",
    arg_min(daily."strain_strain_level", daily.rank) AS "strain_strain_level",
    arg_min(daily."stress_avg_stress_level", daily.rank) AS "stress_avg_stress_level",
    arg_min(daily."stress_max_stress_level", daily.rank) AS "stress_max_stress_level",
    arg_min(daily."stress_stress_rating", daily.rank) AS "stress_stress_rating",
    arg_min(daily."stress_stress_duration_seconds", daily.rank) AS "stress_stress_duration_seconds",
    arg_min(daily."stress_rest_stress_duration_seconds", daily.rank) AS "stress_rest_stress_duration_seconds",
    arg_min(daily."stress_low_stress_duration_seconds", daily.rank) AS "stress_low_stress_duration_seconds",
    arg_min(daily."stress_medium_stress_duration_seconds", daily.rank) AS "stress_medium_stress_duration_seconds",
    arg_min(daily."stress_high_stress_duration_seconds", daily.rank) AS "stress_high_stress_duration_seconds",
    arg_min(daily."stress_activity_stress_duration_seconds", daily.rank) AS "stress_activity_stress_duration_seconds"
FROM ranked AS daily
LEFT JOIN parts USING (person_id, local_date, rank)
GROUP BY daily.person_id, daily.local_date
