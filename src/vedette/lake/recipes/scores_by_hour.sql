-- What did each scorer give, in each hour of the last 7 days?
-- mean is of all scores, pass_rate of true/false and yes/no; without_score: the scorer failed.
-- Plain means: when the sampling rate changed or has strata, see weighted_means.

WITH scores AS (  -- the newest version of each; NULL where the scorer failed
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
    LOWER(value) IN ('true', 'false', '"yes"', '"no"') AS is_verdict,
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
)
SELECT
  DATE_TRUNC('HOUR', created_at) AS hour,
  scorer,
  COUNT(score) AS scores,
  AVG(score) AS mean,
  AVG(CASE WHEN is_verdict THEN score END) AS pass_rate,
  COUNT_IF(score IS NULL) AS without_score
FROM scores
WHERE counts AND created_at >= CURRENT_TIMESTAMP() - INTERVAL 7 DAYS
GROUP BY 1, scorer
ORDER BY hour, scorer
