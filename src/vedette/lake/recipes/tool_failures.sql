-- Which tools fail, how often, and where can I see it, in the last 7 days?
-- newest_trace_id is the newest trace in which the tool failed.

WITH spans AS (  -- each once, without those of deleted traces
  SELECT
    trace_id,
    name,
    time,
    status.code = 'STATUS_CODE_ERROR' AS failed,
    status.message AS message
  FROM main.default.mlflow_otel_spans
  WHERE
    time >= CURRENT_TIMESTAMP() - INTERVAL 7 DAYS
    AND span_type = 'TOOL'
    AND trace_id NOT IN (
      SELECT target_id
      FROM main.default.mlflow_otel_annotations
      WHERE annotation_type = 'METADATA' AND deleted_at IS NOT NULL
    )
  QUALIFY ROW_NUMBER() OVER (PARTITION BY trace_id, span_id ORDER BY record_id DESC) = 1
)
SELECT
  name AS tool,
  COUNT(*) AS calls,
  COUNT_IF(failed) AS failures,
  AVG(CASE WHEN failed THEN 1.0 ELSE 0.0 END) AS failure_rate,
  MAX_BY(trace_id, time) FILTER (WHERE failed) AS newest_trace_id,
  MAX_BY(message, time) FILTER (WHERE failed) AS newest_message
FROM spans
GROUP BY name
ORDER BY failures DESC, calls DESC
