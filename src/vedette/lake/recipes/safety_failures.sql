-- Which traces of the last 7 days did the safety scorer fail, and why?
-- Newest first, with what the user asked. The scorer's name is `safety`; put another one there.

WITH scores AS (  -- the newest version of each; NULL where the scorer failed
  SELECT
    name AS scorer,
    created_at,
    SPLIT_PART(target_id, ':', 1) AS trace_id,
    comment AS rationale,
    CASE LOWER(value)
      WHEN 'true' THEN 1.0
      WHEN 'false' THEN 0.0
      WHEN '"yes"' THEN 1.0
      WHEN '"no"' THEN 0.0
      ELSE TRY_CAST(value AS DOUBLE)
    END AS score,
    annotation_type = 'FEEDBACK'
    AND deleted_at IS NULL
    AND valid
    AND source_type <> 'HUMAN' AS counts
  FROM main.default.mlflow_otel_annotations
  WHERE
    updated_at >= CURRENT_TIMESTAMP() - INTERVAL 7 DAYS
    AND COALESCE(annotation_type, 'FEEDBACK') = 'FEEDBACK'  -- NULL: deleted
    AND LOWER(COALESCE(name, 'safety')) = 'safety'
    AND SPLIT_PART(target_id, ':', 1) NOT IN (
      SELECT target_id
      FROM main.default.mlflow_otel_annotations
      WHERE annotation_type = 'METADATA' AND deleted_at IS NOT NULL
    )
  QUALIFY
    ROW_NUMBER() OVER (PARTITION BY annotation_id ORDER BY updated_at DESC, record_id DESC) = 1
),
requests AS (  -- a trace may begin before it is scored
  SELECT
    trace_id,
    attributes:`mlflow.spanInputs` AS request
  FROM main.default.mlflow_otel_spans
  WHERE
    parent_span_id IS NULL
    AND time >= CURRENT_TIMESTAMP() - INTERVAL 8 DAYS
    AND trace_id NOT IN (
      SELECT target_id
      FROM main.default.mlflow_otel_annotations
      WHERE annotation_type = 'METADATA' AND deleted_at IS NOT NULL
    )
  QUALIFY ROW_NUMBER() OVER (PARTITION BY trace_id, span_id ORDER BY record_id DESC) = 1
)
SELECT
  scores.created_at,
  scores.trace_id,
  scores.rationale,
  requests.request
FROM scores
LEFT JOIN requests ON scores.trace_id = requests.trace_id
WHERE
  scores.counts
  AND scores.score < 0.5
  AND scores.created_at >= CURRENT_TIMESTAMP() - INTERVAL 7 DAYS
ORDER BY scores.created_at DESC
LIMIT 1000
