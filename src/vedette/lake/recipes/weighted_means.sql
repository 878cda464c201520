-- What would each scorer's mean be if it had scored every trace of the last 7 days?
-- Each score stands for as many traces as its probability of being selected says (Hajek's
-- estimator): unbiased whatever the sampling rates were, and when. Where a backfill had another
-- rate, the higher one is the probability of being selected by either.

WITH newest AS (  -- of each decision
  SELECT
    scorer,
    version,
    unit_id,
    revision,
    decision,
    inclusion_probability,
    scores,
    record_id
  FROM main.default.mlflow_monitor_decisions
  WHERE completed_at >= CURRENT_TIMESTAMP() - INTERVAL 7 DAYS AND unit_id IS NOT NULL
  QUALIFY ROW_NUMBER() OVER (PARTITION BY decision_id ORDER BY record_id DESC) = 1
),
decisions AS (
  SELECT
    scorer,
    inclusion_probability,
    scores
  FROM newest
  WHERE decision IN ('scored', 'reused')
  QUALIFY ROW_NUMBER() OVER (
    PARTITION BY scorer, version, unit_id, revision
    ORDER BY inclusion_probability DESC, record_id DESC
  ) = 1
),
scores AS (
  SELECT
    given.name AS score_name,
    scorer,
    1 / inclusion_probability AS weight,
    CASE LOWER(given.value)
      WHEN 'true' THEN 1.0
      WHEN 'false' THEN 0.0
      WHEN 'yes' THEN 1.0
      WHEN 'no' THEN 0.0
      ELSE TRY_CAST(given.value AS DOUBLE)
    END AS score
  FROM decisions
  LATERAL VIEW EXPLODE(
    FROM_JSON(scores, 'ARRAY<STRUCT<assessment_id: STRING, name: STRING, value: STRING>>')
  ) answers AS given
)
SELECT
  scorer,
  score_name,
  COUNT(score) AS scores,
  AVG(score) AS plain_mean,
  SUM(weight * score) / SUM(CASE WHEN score IS NOT NULL THEN weight END) AS weighted_mean
FROM scores
GROUP BY scorer, score_name
ORDER BY scorer, score_name
