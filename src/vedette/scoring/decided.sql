-- What was decided, and what it rests on, in the read model. Times are ms since the epoch.

-- name: epochs
SELECT scorer, epoch, opened_ms, after_position, version, rate, filter, strata, reason, of_sessions
FROM scorer_epochs ORDER BY scorer, epoch;

-- name: decided_before
SELECT decision, stratum FROM decisions
WHERE scorer = :scorer AND unit_id = :unit_id AND revision = :revision;

-- name: decided
-- A trace that was deleted and has come again is another one.
SELECT d.unit_id, d.revision FROM json_each(:ids) one
CROSS JOIN decisions d ON d.scorer = :scorer AND d.unit_id = one.value  -- in this order
WHERE d.unit_type = 'session'
  OR d.decided_ms >= (SELECT t.first_received_ms FROM traces t WHERE t.trace_id = d.unit_id);

-- name: was_complete
SELECT position, completed_ms FROM completed
WHERE trace = :trace AND position < :before AND reason IN ('complete', 'late_root')
ORDER BY position DESC LIMIT 1;

-- name: was_incomplete
SELECT position, completed_ms FROM completed WHERE trace = :trace AND reason = 'incomplete';

-- name: left
-- Units between two places, by the hour. One that was given up, and counted then, isn't again.
SELECT completed_ms - completed_ms % 3600000, count(*) FROM completed c
WHERE position > :after AND position <= :until AND experiment_id = :experiment_id
  AND (session_id IS NOT NULL) = :of_sessions AND reason <> 'annotated'
  AND NOT (reason = 'late_root' AND EXISTS (
    SELECT 1 FROM completed e
    WHERE e.trace = c.trace AND e.reason = 'incomplete' AND e.position > :begin))
GROUP BY 1;

-- name: retrying
SELECT scorer, unit_id, revision, unit_type, trace_id, epoch, stratum,
  inclusion_probability, draw, attempts, first_attempt_ms, next_attempt_ms, completed_ms
FROM decisions WHERE decision = 'retrying' ORDER BY next_attempt_ms;

-- name: trace_exists
SELECT 1 FROM traces WHERE trace_id = :trace_id;

-- name: scores_before
-- By whatever stream of whatever scorer.
SELECT scorer, revision, version, decision, decided_ms, scores FROM decisions
WHERE unit_id = :unit_id AND revision <= :revision;
