-- Where does the time go: how long do spans take, by name, in the last 7 days?
-- Sorted by the time they took in all; a parent's time has that of its children in it.

WITH spans AS (  -- each once, without those of deleted traces
  SELECT
    name,
    span_type,
    status,
    (end_time_unix_nano - start_time_unix_nano) / 1e6 AS milliseconds
  FROM main.default.mlflow_otel_spans
  WHERE
    time >= CURRENT_TIMESTAMP() - INTERVAL 7 DAYS
    AND trace_id NOT IN (
      SELECT target_id
      FROM main.default.mlflow_otel_annotations
      WHERE annotation_type = 'METADATA' AND deleted_at IS NOT NULL
    )
  QUALIFY ROW_NUMBER() OVER (PARTITION BY trace_id, span_id ORDER BY record_id DESC) = 1
)
SELECT
  name,
  span_type,
  COUNT(*) AS spans,
  COUNT_IF(status.code = 'STATUS_CODE_ERROR') AS errors,
  PERCENTILE(milliseconds, 0.5) AS p50_ms,
  PERCENTILE(milliseconds, 0.95) AS p95_ms,
  SUM(milliseconds) / 1000 AS total_seconds
FROM spans
GROUP BY name, span_type
ORDER BY total_seconds DESC NULLS LAST
