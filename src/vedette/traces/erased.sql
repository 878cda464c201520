-- Traces that were deleted for good, in the read model.

-- name: any_erased
SELECT 1 FROM erased LIMIT 1;

-- name: erased_among
SELECT trace_id FROM erased WHERE trace_id IN (SELECT value FROM json_each(:ids));

-- name: put_erased
INSERT OR IGNORE INTO erased (trace_id) VALUES (:trace_id);

-- name: put_leaving
INSERT INTO leaving (trace_id, for_good, deleted_us) VALUES (:trace_id, :for_good, :deleted_us)
ON CONFLICT DO UPDATE SET for_good = max(for_good, excluded.for_good),
  deleted_us = max(deleted_us, excluded.deleted_us);

-- name: decisions_of
SELECT scorer, unit_id, revision, epoch, stratum, completed_ms - completed_ms % 3600000, decision
FROM decisions WHERE unit_id = :trace_id AND unit_type = 'trace'
UNION ALL
SELECT scorer, unit_id, revision, epoch, stratum, completed_ms - completed_ms % 3600000, decision
FROM decisions WHERE trace_id = :trace_id AND unit_type = 'session';

-- name: uncount
UPDATE decision_counts SET units = units - 1
WHERE scorer = ? AND epoch = ? AND stratum = ? AND hour_ms = ? AND decision = ?;

-- name: forget_count
DELETE FROM decision_counts
WHERE scorer = ? AND epoch = ? AND stratum = ? AND hour_ms = ? AND decision = ? AND units = 0;

-- name: forget_decision
DELETE FROM decisions WHERE scorer = ? AND unit_id = ? AND revision = ?;

-- name: forget_run_links
DELETE FROM run_links WHERE trace_id = :trace_id;

-- name: forget_prompt_links
DELETE FROM prompt_links WHERE trace_id = :trace_id;

-- name: session_of
SELECT id, experiment_id, session_id FROM traces
WHERE trace_id = :trace_id AND session_id IS NOT NULL;

-- name: others
-- Whether the session has other traces.
SELECT 1 FROM traces
WHERE session_id = :session_id AND experiment_id = :experiment_id AND id <> :trace LIMIT 1;

-- name: forget_completed
-- The place in the order stays: scorers' cursors run over it.
UPDATE completed SET session_id = '' WHERE trace = :trace AND session_id = :session_id;

-- name: forget_completing
DELETE FROM completing_sessions WHERE experiment_id = :experiment_id AND session_id = :session_id;

-- name: forget_revisions
DELETE FROM session_revisions WHERE experiment_id = :experiment_id AND session_id = :session_id;

-- name: most_urgent
-- Whether a trace that was deleted for good waits, and since when the others do.
SELECT EXISTS (SELECT 1 FROM leaving WHERE for_good = 1),
  (SELECT min(deleted_us) FROM leaving WHERE for_good = 0);

-- name: leaving
-- With whether the trace is there again. What was not deleted for good waits until `:before`.
SELECT l.trace_id, l.for_good, l.deleted_us, t.id IS NOT NULL
FROM leaving l LEFT JOIN traces t ON t.trace_id = l.trace_id
WHERE l.for_good = 1 OR l.deleted_us < :before
ORDER BY l.for_good DESC, l.deleted_us LIMIT :most;

-- name: left
DELETE FROM leaving WHERE trace_id = ? AND deleted_us = ?;

-- name: batch
SELECT value FROM counters WHERE name = 'batch';
