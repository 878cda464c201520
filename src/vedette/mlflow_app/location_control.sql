-- name: has_traces
SELECT 1 FROM traces WHERE experiment_id = :experiment_id LIMIT 1;
