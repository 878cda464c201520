-- What the checklist asks. The control database first: plain SQL that SQLite, Postgres and MySQL know.

-- name: experiments
SELECT experiment_id, name FROM experiments WHERE lifecycle_stage = 'active' ORDER BY experiment_id;

-- name: scorers
-- Every registered scorer in its latest version. No rate: it was never started; 0: it was stopped.
SELECT s.experiment_id, s.scorer_name, v.serialized_scorer, c.sample_rate
FROM scorers s
JOIN experiments e ON e.experiment_id = s.experiment_id
JOIN scorer_versions v ON v.scorer_id = s.scorer_id
LEFT JOIN online_scoring_configs c ON c.scorer_id = s.scorer_id
WHERE e.lifecycle_stage = 'active' AND v.scorer_version = (
  SELECT MAX(latest.scorer_version) FROM scorer_versions latest WHERE latest.scorer_id = s.scorer_id
)
ORDER BY s.experiment_id, s.scorer_name;

-- The read model.

-- name: costs
SELECT scorer, calls, cost_usd FROM scorer_costs WHERE day = :day;

-- name: decided
SELECT scorer, sum(units),
  coalesce(sum(units) FILTER (WHERE decision IN ('scored', 'failed', 'retrying', 'budget')), 0)
FROM decision_counts WHERE hour_ms >= :since_ms GROUP BY scorer;

-- name: any_trace
SELECT 1 FROM traces LIMIT 1;
