-- Which hours of the last 7 days had unusually many or few traces?
-- Compared with the same hour of the up to 14 days before: off by 3 standard deviations, or by 3
-- of a Poisson count if those are larger. Hours without a trace count as 0, since the first one.

WITH traces AS (  -- root spans, each once, without those of deleted traces
  SELECT
    time
  FROM main.default.mlflow_otel_spans
  WHERE
    parent_span_id IS NULL
    AND time >= CURRENT_TIMESTAMP() - INTERVAL 21 DAYS
    AND trace_id NOT IN (
      SELECT target_id
      FROM main.default.mlflow_otel_annotations
      WHERE annotation_type = 'METADATA' AND deleted_at IS NOT NULL
    )
  QUALIFY ROW_NUMBER() OVER (PARTITION BY trace_id, span_id ORDER BY record_id DESC) = 1
),
counts AS (
  SELECT
    DATE_TRUNC('HOUR', time) AS hour,
    COUNT(*) AS traces
  FROM traces
  GROUP BY 1
),
hours AS (  -- the current one isn't over
  SELECT
    EXPLODE(
      SEQUENCE(
        MIN(hour),
        DATE_TRUNC('HOUR', CURRENT_TIMESTAMP()) - INTERVAL 1 HOUR,
        INTERVAL 1 HOUR
      )
    ) AS hour
  FROM counts
),
filled AS (
  SELECT
    hours.hour,
    COALESCE(counts.traces, 0) AS traces
  FROM hours
  LEFT JOIN counts ON hours.hour = counts.hour
),
compared AS (
  SELECT
    hour,
    traces,
    COUNT(traces) OVER same_hour AS days_before,
    AVG(traces) OVER same_hour AS expected,
    GREATEST(STDDEV_POP(traces) OVER same_hour, SQRT(AVG(traces) OVER same_hour), 1) AS deviation
  FROM filled
  WINDOW same_hour AS (
    PARTITION BY HOUR(hour) ORDER BY hour ROWS BETWEEN 14 PRECEDING AND 1 PRECEDING
  )
)
SELECT
  hour,
  traces,
  expected,
  (traces - expected) / deviation AS deviations
FROM compared
WHERE
  days_before >= 3
  AND ABS(traces - expected) > 3 * deviation
  AND hour >= CURRENT_TIMESTAMP() - INTERVAL 7 DAYS
ORDER BY hour DESC
