-- Plain SQL that SQLite, Postgres and MySQL know.

-- name: archival
-- Not of experiments that were deleted: they may come back.
SELECT t.experiment_id, t.value FROM experiment_tags t
JOIN experiments e ON e.experiment_id = t.experiment_id
WHERE t.key = :tag AND e.lifecycle_stage = 'active'
ORDER BY t.experiment_id;
