-- How often do humans and the judge of the same name agree, over the last 28 days?
-- Pairs of a human's and a judge's verdict on one trace; 0.5 and more passes.
-- Each human's newest counts.

WITH versions AS (  -- the newest version of each
  SELECT
    name,
    SPLIT_PART(target_id, ':', 1) AS trace_id,
    source_type = 'HUMAN' AS is_human,
    created_by,
    created_at,
    record_id,
    CASE LOWER(value)
      WHEN 'true' THEN TRUE
      WHEN 'false' THEN FALSE
      WHEN '"yes"' THEN TRUE
      WHEN '"no"' THEN FALSE
      ELSE TRY_CAST(value AS DOUBLE) >= 0.5
    END AS passed,
    deleted_at IS NULL AND valid AND error IS NULL AS counts
  FROM main.default.mlflow_otel_annotations
  WHERE
    updated_at >= CURRENT_TIMESTAMP() - INTERVAL 28 DAYS
    AND COALESCE(annotation_type, 'FEEDBACK') = 'FEEDBACK'  -- NULL: deleted
    AND SPLIT_PART(target_id, ':', 1) NOT IN (
      SELECT target_id
      FROM main.default.mlflow_otel_annotations
      WHERE annotation_type = 'METADATA' AND deleted_at IS NOT NULL
    )
  QUALIFY
    ROW_NUMBER() OVER (PARTITION BY annotation_id ORDER BY updated_at DESC, record_id DESC) = 1
),
verdicts AS (
  SELECT
    name,
    trace_id,
    is_human,
    passed
  FROM versions
  WHERE counts AND passed IS NOT NULL
  QUALIFY
    ROW_NUMBER() OVER (
      PARTITION BY name, trace_id, is_human, created_by ORDER BY created_at DESC, record_id DESC
    ) = 1
),
pairs AS (
  SELECT
    judge.name,
    judge.passed AS judge_passed,
    human.passed AS human_passed
  FROM verdicts AS judge
  JOIN verdicts AS human ON judge.name = human.name AND judge.trace_id = human.trace_id
  WHERE NOT judge.is_human AND human.is_human
)
SELECT
  name AS scorer,
  COUNT(*) AS pairs,
  AVG(CASE WHEN judge_passed = human_passed THEN 1.0 ELSE 0.0 END) AS agreement,
  COUNT_IF(judge_passed AND human_passed) AS both_pass,
  COUNT_IF(judge_passed AND NOT human_passed) AS only_judge_passes,
  COUNT_IF(NOT judge_passed AND human_passed) AS only_human_passes,
  COUNT_IF(NOT judge_passed AND NOT human_passed) AS both_fail
FROM pairs
GROUP BY name
ORDER BY agreement, name
