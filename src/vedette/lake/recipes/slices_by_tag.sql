-- For which values of the traces' tags are the scores of the last 7 days low?
-- All tags but MLflow's own. A failure is a score below 0.5.

WITH scores AS (  -- the newest version of each; NULL where the scorer failed
  SELECT
    name AS scorer,
    created_at,
    SPLIT_PART(target_id, ':', 1) AS trace_id,
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
    AND SPLIT_PART(target_id, ':', 1) NOT IN (
      SELECT target_id
      FROM main.default.mlflow_otel_annotations
      WHERE annotation_type = 'METADATA' AND deleted_at IS NOT NULL
    )
  QUALIFY
    ROW_NUMBER() OVER (PARTITION BY annotation_id ORDER BY updated_at DESC, record_id DESC) = 1
),
tags AS (  -- the newest version of each
  SELECT
    target_id AS trace_id,
    name,
    GET_JSON_OBJECT(value, '$') AS value,
    deleted_at
  FROM main.default.mlflow_otel_annotations
  WHERE
    updated_at >= CURRENT_TIMESTAMP() - INTERVAL 8 DAYS
    AND annotation_type = 'TAG'
    AND NOT name LIKE 'mlflow.%'
  QUALIFY
    ROW_NUMBER() OVER (PARTITION BY annotation_id ORDER BY updated_at DESC, record_id DESC) = 1
),
slices AS (
  SELECT
    trace_id,
    CONCAT(name, ' = ', value) AS tag
  FROM tags
  WHERE deleted_at IS NULL
)
SELECT
  slices.tag,
  scores.scorer,
  COUNT(score) AS scores,
  AVG(score) AS mean,
  COUNT_IF(score < 0.5) AS failures
FROM scores
JOIN slices ON scores.trace_id = slices.trace_id
WHERE scores.counts AND scores.created_at >= CURRENT_TIMESTAMP() - INTERVAL 7 DAYS
GROUP BY slices.tag, scores.scorer
ORDER BY scores.scorer, mean, slices.tag
