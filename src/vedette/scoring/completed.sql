-- The order in which traces became complete, in the read model. Times are ms since the epoch.

-- name: any_quiet
SELECT EXISTS (SELECT 1 FROM completing WHERE last_received_ms <= :quiet_since);

-- name: complete
INSERT INTO completed (trace, completed_ms)
SELECT c.trace, :now FROM completing c JOIN traces t ON t.id = c.trace
WHERE c.last_received_ms <= :quiet_since AND t.has_root
ORDER BY c.last_received_ms, c.trace;

-- name: mark_complete
UPDATE traces SET completed_ms = :now
WHERE id IN (SELECT trace FROM completed WHERE position > :after);

-- name: forget_quiet
DELETE FROM completing WHERE last_received_ms <= :quiet_since;

-- name: newest
SELECT seq FROM sqlite_sequence WHERE name = 'completed';

-- name: after
SELECT c.position, t.id, t.trace_id, t.experiment_id,
  EXISTS (SELECT 1 FROM trace_metadata m WHERE m.trace = t.id AND m.key = :source_run)
FROM completed c LEFT JOIN traces t ON t.id = c.trace
WHERE c.position > :after ORDER BY c.position LIMIT :count;

-- name: oldest_after
SELECT completed_ms FROM completed WHERE position > :after ORDER BY position LIMIT 1;

-- name: cursors
SELECT scorer, position FROM scorer_cursors;
