-- How long did traces take, by name and day of the last 7 days?
-- Milliseconds from begin to end of the root span; what hasn't ended yet isn't counted.

WITH traces AS (  -- root spans, each once, without those of deleted traces
  SELECT
    name,
    time,
    (end_time_unix_nano - start_time_unix_nano) / 1e6 AS milliseconds
  FROM main.default.mlflow_otel_spans
  WHERE
    parent_span_id IS NULL
    AND time >= CURRENT_TIMESTAMP() - INTERVAL 7 DAYS
    AND trace_id NOT IN (
      SELECT target_id
      FROM main.default.mlflow_otel_annotations
      WHERE annotation_type = 'METADATA' AND deleted_at IS NOT NULL
    )
  QUALIFY ROW_NUMBER() OVER (PARTITION BY trace_id, span_id ORDER BY record_id DESC) = 1
)
SELECT
  DATE_TRUNC('DAY', time) AS day,
  name,
  COUNT(milliseconds) AS traces,
  PERCENTILE(milliseconds, 0.5) AS p50_ms,
  PERCENTILE(milliseconds, 0.95) AS p95_ms,
  PERCENTILE(milliseconds, 0.99) AS p99_ms
FROM traces
GROUP BY 1, name
ORDER BY day, name
