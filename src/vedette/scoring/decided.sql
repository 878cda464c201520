-- What was decided, and what it rests on, in the read model. Times are ms since the epoch.

-- name: epochs
SELECT scorer, epoch, opened_ms, after_position, version, rate, filter, strata, reason
FROM scorer_epochs ORDER BY scorer, epoch;

-- name: is_decided
SELECT 1 FROM decisions WHERE scorer = :scorer AND unit_id = :unit_id AND revision = :revision;

-- name: was_complete
SELECT position, completed_ms FROM completed
WHERE trace = :trace AND position < :before AND reason IN ('complete', 'late_root')
ORDER BY position DESC LIMIT 1;

-- name: was_incomplete
SELECT position FROM completed WHERE trace = :trace AND reason = 'incomplete';

-- name: retrying
SELECT scorer, unit_id, revision, unit_type, trace_id, epoch, stratum,
  inclusion_probability, draw, attempts, first_attempt_ms, next_attempt_ms, completed_ms
FROM decisions WHERE decision = 'retrying' ORDER BY next_attempt_ms;

-- name: scores_before
SELECT scores FROM decisions
WHERE scorer = :scorer AND unit_id = :unit_id AND revision < :revision;
