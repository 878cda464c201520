-- Which share of the traces failed, in each hour of the last 7 days?
-- A trace has failed when its root span's status is an error.

WITH traces AS (  -- root spans, each once, without those of deleted traces
  SELECT
    time,
    status
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
  DATE_TRUNC('HOUR', time) AS hour,
  COUNT(*) AS traces,
  COUNT_IF(status.code = 'STATUS_CODE_ERROR') AS errors,
  AVG(CASE WHEN status.code = 'STATUS_CODE_ERROR' THEN 1.0 ELSE 0.0 END) AS error_rate
FROM traces
GROUP BY 1
ORDER BY hour
