-- What MLflow's issues and gateway ask of the read model.

-- name: issue_trace_counts
SELECT name, COUNT(DISTINCT trace) FROM assessments
WHERE assessment_type = 'issue' AND name IN (SELECT value FROM json_each(:issue_ids))
GROUP BY name;

-- name: gateway_cost
-- Cost of the calls through MLflow's gateway, for its budgets; null stands for any.
SELECT COALESCE(SUM(t.total_cost), 0.0)
FROM traces t JOIN trace_metadata e ON e.trace = t.id AND e.key = :endpoint_key
WHERE t.timestamp_ms >= :start_ms AND t.timestamp_ms < :end_ms
  AND (:endpoint_id IS NULL OR e.value = :endpoint_id)
  AND (:username IS NULL OR EXISTS (
    SELECT 1 FROM trace_metadata u
    WHERE u.trace = t.id AND u.key = :user_key AND u.value = :username));
