-- How long do scorers take and what do they cost, by day of the last 7?
-- Each attempt counts, those that failed too. Costs in US dollars.

WITH attempts_made AS (  -- the newest of each
  SELECT
    scorer,
    decision,
    decided_at,
    unit_id,
    milliseconds,
    calls,
    input_tokens,
    output_tokens,
    cost_usd
  FROM main.default.mlflow_monitor_decisions
  WHERE decided_at >= CURRENT_TIMESTAMP() - INTERVAL 7 DAYS
  QUALIFY ROW_NUMBER() OVER (PARTITION BY decision_id, attempts ORDER BY record_id DESC) = 1
)
SELECT
  DATE_TRUNC('DAY', decided_at) AS day,
  scorer,
  COUNT(*) AS attempts,
  COUNT_IF(decision = 'scored') AS scored,
  PERCENTILE(milliseconds, 0.5) AS p50_ms,
  PERCENTILE(milliseconds, 0.95) AS p95_ms,
  SUM(calls) AS model_calls,
  SUM(input_tokens) AS input_tokens,
  SUM(output_tokens) AS output_tokens,
  SUM(cost_usd) AS cost_usd
FROM attempts_made
WHERE unit_id IS NOT NULL AND decision IN ('scored', 'failed', 'retrying')
GROUP BY 1, scorer
ORDER BY day, scorer
