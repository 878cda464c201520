-- The order in which units became complete, in the read model. Times are ms since the epoch.

-- name: any_quiet
SELECT EXISTS (SELECT 1 FROM completing WHERE last_received_ms <= :quiet_since)
  OR EXISTS (SELECT 1 FROM completing_sessions WHERE last_received_ms <= :session_quiet_since)
  OR EXISTS (SELECT 1 FROM rootless WHERE first_received_ms <= :too_old)
  OR (:annotations AND EXISTS (SELECT 1 FROM annotated));

-- name: complete
INSERT INTO completed (reason, trace, experiment_id, completed_ms)
SELECT
  CASE WHEN EXISTS (SELECT 1 FROM completed e WHERE e.trace = t.id AND e.reason = 'incomplete')
    THEN 'late_root' ELSE 'complete' END,
  t.id, t.experiment_id, :now
FROM completing c JOIN traces t ON t.id = c.trace
WHERE c.last_received_ms <= :quiet_since AND t.has_root
ORDER BY c.last_received_ms, c.trace;

-- name: mark_complete
UPDATE traces SET completed_ms = :now
WHERE id IN (SELECT trace FROM completed WHERE position > :after AND reason IN ('complete', 'late_root'));

-- name: forget_rooted
DELETE FROM rootless WHERE trace IN (SELECT trace FROM completed WHERE position > :after);

-- name: note_rootless
INSERT OR IGNORE INTO rootless (trace, first_received_ms)
SELECT t.id, t.first_received_ms FROM completing c JOIN traces t ON t.id = c.trace
WHERE c.last_received_ms <= :quiet_since AND NOT t.has_root
  AND NOT EXISTS (SELECT 1 FROM completed e WHERE e.trace = t.id);

-- name: forget_quiet
DELETE FROM completing WHERE last_received_ms <= :quiet_since;

-- name: give_up
INSERT INTO completed (reason, trace, experiment_id, completed_ms)
SELECT 'incomplete', r.trace, t.experiment_id, :now FROM rootless r JOIN traces t ON t.id = r.trace
WHERE r.first_received_ms <= :too_old AND NOT t.has_root ORDER BY r.first_received_ms, r.trace;

-- name: forget_given_up
DELETE FROM rootless WHERE first_received_ms <= :too_old;

-- name: quiet_sessions
SELECT experiment_id, session_id FROM completing_sessions
WHERE last_received_ms <= :session_quiet_since ORDER BY last_received_ms, session_id;

-- name: forget_quiet_sessions
DELETE FROM completing_sessions WHERE last_received_ms <= :session_quiet_since;

-- name: session_traces
-- What a session consists of: its complete traces but those that evaluations made.
SELECT t.id, t.trace_id FROM traces t
WHERE t.session_id = :session_id AND t.experiment_id = :experiment_id AND t.completed_ms IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM trace_metadata m WHERE m.trace = t.id AND m.key = :source_run)
ORDER BY t.timestamp_ms, t.trace_id;

-- name: next_revision
INSERT INTO session_revisions (experiment_id, session_id, revision)
VALUES (:experiment_id, :session_id, 0)
ON CONFLICT DO UPDATE SET revision = revision + 1 RETURNING revision;

-- name: newest_revision
SELECT revision FROM session_revisions
WHERE experiment_id = :experiment_id AND session_id = :session_id;

-- name: complete_session
INSERT INTO completed (reason, trace, experiment_id, session_id, revision, completed_ms)
VALUES ('session', :trace, :experiment_id, :session_id, :revision, :now);

-- name: reconsider
INSERT INTO completed (reason, trace, experiment_id, completed_ms)
SELECT 'annotated', t.id, t.experiment_id, :now FROM annotated a JOIN traces t ON t.id = a.trace
ORDER BY t.id;

-- name: any_annotated
SELECT EXISTS (SELECT 1 FROM annotated);

-- name: forget_annotated
DELETE FROM annotated;

-- name: newest_arrival
SELECT max(coalesce((SELECT max(last_received_ms) FROM completing), 0),
  coalesce((SELECT max(last_received_ms) FROM completing_sessions), 0));

-- name: newest
SELECT seq FROM sqlite_sequence WHERE name = 'completed';

-- name: after
SELECT c.position, c.reason, c.trace, coalesce(t.trace_id, ''), c.experiment_id, c.session_id,
  c.revision, c.completed_ms,
  EXISTS (SELECT 1 FROM trace_metadata m WHERE m.trace = t.id AND m.key = :source_run),
  t.id IS NULL
FROM completed c LEFT JOIN traces t ON t.id = c.trace
WHERE c.position > :after ORDER BY c.position LIMIT :count;

-- name: oldest_after
SELECT completed_ms FROM completed WHERE position > :after ORDER BY position LIMIT 1;

-- name: cursors
SELECT scorer, position FROM scorer_cursors;
