-- Which scorers failed more traces of the last 24 hours than they may?
-- The limits are yours to change: below which score a trace has failed, which share may fail.

WITH limits AS (
  SELECT 0.5 AS passing_score, 0.1 AS accepted_failure_rate
),
scores AS (  -- the newest version of each; NULL where the scorer failed
  SELECT
    name AS scorer,
    created_at,
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
    updated_at >= CURRENT_TIMESTAMP() - INTERVAL 1 DAYS
    AND COALESCE(annotation_type, 'FEEDBACK') = 'FEEDBACK'  -- NULL: deleted
    AND SPLIT_PART(target_id, ':', 1) NOT IN (
      SELECT target_id
      FROM main.default.mlflow_otel_annotations
      WHERE annotation_type = 'METADATA' AND deleted_at IS NOT NULL
    )
  QUALIFY
    ROW_NUMBER() OVER (PARTITION BY annotation_id ORDER BY updated_at DESC, record_id DESC) = 1
),
rates AS (
  SELECT
    scorer,
    COUNT(score) AS scores,
    COUNT_IF(score < passing_score) AS failures,
    AVG(CASE WHEN score < passing_score THEN 1.0 ELSE 0.0 END) AS failure_rate,
    MAX(accepted_failure_rate) AS accepted_failure_rate
  FROM scores
  CROSS JOIN limits
  WHERE counts AND score IS NOT NULL AND created_at >= CURRENT_TIMESTAMP() - INTERVAL 1 DAYS
  GROUP BY scorer
)
SELECT
  *,
  failure_rate > accepted_failure_rate AS is_above
FROM rates
ORDER BY failure_rate DESC, scorer
