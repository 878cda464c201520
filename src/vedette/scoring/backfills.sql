-- Backfills and their units, in the read model. Times are ms since the epoch.

-- name: all
SELECT job, experiment_id, scorers, start_ms, end_ms, trace_arrival, session_arrival, rescore,
  created_ms, cancelled_ms
FROM backfills ORDER BY created_ms, job;

-- name: asked_for
SELECT count(*), count(cancelled_ms) FROM backfills;

-- name: scan_end
-- So many places further on; null if there are fewer.
SELECT position FROM completed WHERE position > :after AND position <= :until
ORDER BY position LIMIT 1 OFFSET :count;

-- name: units
-- Of sessions, the newest revision there is up to that place. A session goes on without its first
-- trace, but a trace that was deleted is none.
SELECT c.position, c.trace, t.trace_id, c.session_id, c.revision, c.completed_ms,
  EXISTS (SELECT 1 FROM trace_metadata m WHERE m.trace = t.id AND m.key = :source_run)
FROM completed c CROSS JOIN traces t ON t.id = coalesce(  -- in that order
  (SELECT f.id FROM traces f WHERE f.id = c.trace),
  (SELECT f.id FROM traces f
   WHERE f.session_id = c.session_id AND f.experiment_id = c.experiment_id
     AND f.completed_ms IS NOT NULL
   ORDER BY f.timestamp_ms, f.trace_id LIMIT 1))
WHERE c.position > :after AND c.position <= :until AND c.experiment_id = :experiment_id
  AND (c.session_id IS NOT NULL) = :of_sessions
  AND c.reason IN ('complete', 'late_root', 'session')
  AND t.timestamp_ms >= :start_ms AND t.timestamp_ms < :end_ms
  AND NOT EXISTS (
    SELECT 1 FROM completed n
    WHERE n.session_id = c.session_id AND n.experiment_id = c.experiment_id
      AND n.revision > c.revision AND n.position <= :last)
ORDER BY c.position LIMIT :count;

-- name: scored_before
-- Those of these units that a version has scored, live or in another backfill.
SELECT d.unit_id, d.revision, d.scores FROM json_each(:ids) one
CROSS JOIN decisions d INDEXED BY decisions_of_unit ON d.unit_id = one.value
WHERE d.version = :version AND d.decision IN ('scored', 'reused') AND d.scorer IN (
  SELECT value FROM json_each(:streams));

-- name: streams
-- Keys of everything that has decided something.
SELECT DISTINCT scorer FROM scorer_epochs;

-- name: cursor
SELECT position FROM scorer_cursors WHERE scorer = :scorer;

-- name: each
-- What a unit of a scorer takes on average: calls, dollars (of those whose price is known), seconds.
SELECT avg(calls), avg(cost_usd), avg(milliseconds) / 1000 FROM (
  SELECT calls, cost_usd, milliseconds FROM decisions
  WHERE scorer IN (SELECT value FROM json_each(:streams)) AND decision = 'scored' LIMIT 1000);

-- name: made
SELECT decision, sum(units) FROM decision_counts WHERE scorer = :scorer
GROUP BY decision HAVING sum(units) <> 0;

-- name: spent
SELECT coalesce(sum(calls), 0), coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0),
  coalesce(sum(cost_usd), 0.0)
FROM scorer_costs WHERE scorer = :scorer;

-- name: failures
SELECT unit_id, trace_id, decision, error_code, error, attempts, decided_ms FROM decisions
WHERE scorer = :scorer AND decision IN ('failed', 'retrying') ORDER BY decided_ms DESC LIMIT :count;
