-- On which days of the last 28 was a scorer's mean lower than in the week before?
-- Lower by 0.05 or more than the mean of all scores of the up to 7 days with scores before it.

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
    annotation_type = 'FEEDBACK'
    AND deleted_at IS NULL
    AND valid
    AND source_type <> 'HUMAN' AS counts
  FROM main.default.mlflow_otel_annotations
  WHERE
    updated_at >= CURRENT_TIMESTAMP() - INTERVAL 35 DAYS
    AND COALESCE(annotation_type, 'FEEDBACK') = 'FEEDBACK'  -- NULL: deleted
    AND SPLIT_PART(target_id, ':', 1) NOT IN (
      SELECT target_id
      FROM main.default.mlflow_otel_annotations
      WHERE annotation_type = 'METADATA' AND deleted_at IS NOT NULL
    )
  QUALIFY
    ROW_NUMBER() OVER (PARTITION BY annotation_id ORDER BY updated_at DESC, record_id DESC) = 1
),
days AS (
  SELECT
    scorer,
    DATE_TRUNC('DAY', created_at) AS day,
    COUNT(score) AS scores,
    SUM(score) AS total
  FROM scores
  WHERE counts AND score IS NOT NULL AND created_at >= CURRENT_TIMESTAMP() - INTERVAL 35 DAYS
  GROUP BY scorer, 2
),
weeks AS (
  SELECT
    scorer,
    day,
    scores,
    total / scores AS mean,
    SUM(scores) OVER (
      PARTITION BY scorer ORDER BY day ROWS BETWEEN 7 PRECEDING AND 1 PRECEDING
    ) AS scores_before,
    SUM(total) OVER (
      PARTITION BY scorer ORDER BY day ROWS BETWEEN 7 PRECEDING AND 1 PRECEDING
    ) AS total_before
  FROM days
)
SELECT
  day,
  scorer,
  scores,
  mean,
  scores_before,
  total_before / scores_before AS mean_before,
  mean - total_before / scores_before AS change
FROM weeks
WHERE
  mean <= total_before / scores_before - 0.05
  AND day >= CURRENT_TIMESTAMP() - INTERVAL 28 DAYS
ORDER BY day DESC, scorer
