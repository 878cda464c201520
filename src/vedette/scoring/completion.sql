-- The order in which units became complete, in the read model. Times are ms since the epoch.

-- name: any_quiet
SELECT EXISTS (SELECT 1 FROM completing WHERE last_received_ms <= :quiet_since)
  OR EXISTS (SELECT 1 FROM completing_sessions WHERE last_received_ms <= :session_quiet_since)
  OR EXISTS (SELECT 1 FROM rootless WHERE since_ms <= :too_old)
  OR (:annotations AND EXISTS (SELECT 1 FROM annotated));

-- name: note_rootless
INSERT OR IGNORE INTO rootless (trace, since_ms)
SELECT t.id, max(t.first_received_ms, c.last_received_ms + :buffer - :age)
FROM completing c JOIN traces t ON t.id = c.trace
WHERE c.last_received_ms <= :quiet_since AND NOT t.has_root
  AND NOT EXISTS (SELECT 1 FROM completed e WHERE e.trace = t.id);

-- name: forget_in_time
-- Too old, but the root came before that. One that came later may be folded already.
DELETE FROM rootless WHERE since_ms <= :too_old AND EXISTS (
  SELECT 1 FROM spans s WHERE s.trace = rootless.trace AND s.parent_span_id IS NULL
    AND s.end_ns IS NOT NULL AND s.received_ms <= since_ms + :age);

-- name: complete
-- A trace is given up when its root hasn't come by then, and has its place as if it had.
WITH due AS (
  SELECT CASE WHEN EXISTS (SELECT 1 FROM completed e WHERE e.trace = t.id AND e.reason = 'incomplete')
      OR EXISTS (SELECT 1 FROM rootless r WHERE r.trace = t.id AND r.since_ms <= :too_old)
    THEN 'late_root' ELSE 'complete' END AS reason,
    t.id, t.experiment_id, arrival(c.last_received_ms, t.trace_id) AS arrival
  FROM completing c JOIN traces t ON t.id = c.trace
  WHERE c.last_received_ms <= :quiet_since AND t.has_root
  UNION ALL
  SELECT 'incomplete', t.id, t.experiment_id,
    arrival(r.since_ms + :age - :buffer, t.trace_id)
  FROM rootless r JOIN traces t ON t.id = r.trace WHERE r.since_ms <= :too_old
)
INSERT INTO completed (reason, trace, experiment_id, arrival, completed_ms)
SELECT reason, id, experiment_id, arrival, :folded_until FROM due ORDER BY arrival, reason;

-- name: mark_complete
UPDATE traces SET completed_ms = :folded_until
WHERE id IN (SELECT trace FROM completed WHERE position > :after AND reason IN ('complete', 'late_root'));

-- name: forget_rootless
-- They are complete, or given up.
DELETE FROM rootless WHERE trace IN (SELECT trace FROM completed WHERE position > :after);

-- name: forget_quiet
DELETE FROM completing WHERE last_received_ms <= :quiet_since;

-- name: quiet_sessions
SELECT experiment_id, session_id, arrival(last_received_ms, session_id) AS arrival
FROM completing_sessions
WHERE last_received_ms <= :session_quiet_since ORDER BY arrival;

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
INSERT INTO completed (reason, trace, experiment_id, session_id, revision, arrival, completed_ms)
VALUES ('session', :trace, :experiment_id, :session_id, :revision, :arrival, :folded_until);

-- name: recall_late_roots
INSERT INTO rootless (trace, since_ms)
SELECT t.id, t.first_received_ms FROM traces t
WHERE t.has_root AND t.last_received_ms > t.first_received_ms + :age
  AND t.first_received_ms + :age < (
    SELECT min(s.received_ms) FROM spans s
    WHERE s.trace = t.id AND s.parent_span_id IS NULL AND s.end_ns IS NOT NULL);

-- name: recall_revisions
-- The newest that was decided; if that was of the session as it is, it is still to be given.
INSERT INTO session_revisions (experiment_id, session_id, revision)
SELECT s.experiment_id, s.session_id, d.revision - (s.last_received_ms <= d.completed_ms)
FROM completing_sessions s JOIN (
  SELECT CAST(substr(scorer, 1, instr(scorer, '/') - 1) AS INTEGER) AS experiment_id, unit_id,
    max(revision) AS revision, completed_ms  -- of that revision
  FROM decisions WHERE unit_type = 'session' GROUP BY 1, 2
) d ON d.experiment_id = s.experiment_id AND d.unit_id = s.session_id;

-- name: reconsider
INSERT INTO completed (reason, trace, experiment_id, completed_ms)
SELECT 'annotated', t.id, t.experiment_id, :folded_until
FROM annotated a JOIN traces t ON t.id = a.trace ORDER BY t.id;

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
