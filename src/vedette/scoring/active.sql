-- Scorers in MLflow's tables of the control database. Plain SQL that SQLite, Postgres and MySQL know.

-- name: active_scorers
SELECT s.experiment_id, s.scorer_name, v.scorer_version, v.serialized_scorer,
  c.sample_rate, c.filter_string, e.artifact_location
FROM online_scoring_configs c
JOIN scorers s ON s.scorer_id = c.scorer_id
JOIN experiments e ON e.experiment_id = s.experiment_id
JOIN scorer_versions v ON v.scorer_id = s.scorer_id
WHERE c.sample_rate > 0 AND v.scorer_version = (
  SELECT MAX(latest.scorer_version) FROM scorer_versions latest WHERE latest.scorer_id = s.scorer_id
)
ORDER BY s.experiment_id, s.scorer_name

-- name: registered_scorers
SELECT s.experiment_id, s.scorer_name, v.scorer_version, v.serialized_scorer,
  coalesce(c.sample_rate, 0.0), c.filter_string, e.artifact_location
FROM scorers s
JOIN experiments e ON e.experiment_id = s.experiment_id
JOIN scorer_versions v ON v.scorer_id = s.scorer_id
LEFT JOIN online_scoring_configs c ON c.scorer_id = s.scorer_id
WHERE s.experiment_id = :experiment_id
ORDER BY s.scorer_name, v.scorer_version

-- name: tags
SELECT experiment_id, key, value FROM experiment_tags
WHERE key LIKE :strata OR key LIKE :budgets;

-- name: endpoints
-- MLflow stores a judge of its gateway with the endpoint's id in place of the name.
SELECT endpoint_id, name FROM endpoints;
