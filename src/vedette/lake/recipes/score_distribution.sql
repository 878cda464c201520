-- How are the values of each scorer spread, over the last 7 days?
-- Numbers are rounded to one tenth; other values are as they are.

WITH answers AS (  -- the newest version of each
  SELECT
    name AS scorer,
    created_at,
    COALESCE(CAST(ROUND(TRY_CAST(value AS DOUBLE), 1) AS STRING), value) AS value,
    annotation_type = 'FEEDBACK'
    AND deleted_at IS NULL
    AND valid
    AND source_type <> 'HUMAN'
    AND error IS NULL AS counts
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
)
SELECT
  scorer,
  value,
  COUNT(*) AS scores,
  COUNT(*) / SUM(COUNT(*)) OVER (PARTITION BY scorer) AS share
FROM answers
WHERE counts AND created_at >= CURRENT_TIMESTAMP() - INTERVAL 7 DAYS
GROUP BY scorer, value
ORDER BY scorer, value
