-- What became of the traffic of the last 7 days: scored, not selected, filtered, ...?
-- Per scorer, units adds up to the traces (or sessions) that were complete. A count may be negative
-- when units that were counted before were decided otherwise; the sums are right. Of live scoring:
-- a backfill decides of the same traces once more.

WITH decisions AS (  -- the newest of each
  SELECT
    scorer,
    decision,
    error_code,
    units
  FROM main.default.mlflow_monitor_decisions
  WHERE completed_at >= CURRENT_TIMESTAMP() - INTERVAL 7 DAYS AND COALESCE(origin, 'live') = 'live'
  QUALIFY ROW_NUMBER() OVER (PARTITION BY decision_id ORDER BY record_id DESC) = 1
)
SELECT
  scorer,
  decision,
  error_code,
  SUM(units) AS units,
  SUM(units) / SUM(SUM(units)) OVER (PARTITION BY scorer) AS share
FROM decisions
WHERE decision <> 'epoch'
GROUP BY scorer, decision, error_code
ORDER BY scorer, units DESC
