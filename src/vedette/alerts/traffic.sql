-- What alerts read of the read model, in the order in which units became complete.
-- Times are ms since the epoch. %s stands for the conditions of a slice on traces t.

-- name: identity
SELECT value FROM counters WHERE name = 'identity';

-- name: place_of_arrival
-- The last place of what had arrived by then, in a read model that was made anew.
SELECT coalesce(max(position), 0) FROM completed WHERE arrival > 0 AND arrival <= ?;

-- name: arrival_of_place
SELECT arrival FROM completed WHERE position <= ? AND arrival > 0 ORDER BY position DESC LIMIT 1;

-- name: newest_place
SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'completed'), 0);

-- name: place_at
-- Traces alone: their arrivals ascend with their places.
SELECT position, arrival / 1048576 FROM completed
WHERE position >= ? AND session_id IS NULL AND arrival > 0 ORDER BY position LIMIT 1;

-- name: completed_at
SELECT completed_ms FROM completed WHERE position >= ? ORDER BY position LIMIT 1;

-- name: received_at
SELECT id, first_received_ms FROM traces WHERE id >= ? ORDER BY id LIMIT 1;

-- name: newest_trace
SELECT coalesce(max(id), 0) FROM traces;

-- name: cursor
SELECT position FROM scorer_cursors WHERE scorer = ?;

-- name: epochs
SELECT epoch, rate, strata, of_sessions FROM scorer_epochs WHERE scorer = ? ORDER BY epoch;

-- name: alone
-- Traces of no session.
SELECT c.position, c.completed_ms, t.trace_id, t.status, t.execution_time_ms
FROM completed c CROSS JOIN traces t ON t.id = c.trace
WHERE c.position > ? AND c.position <= ? AND c.experiment_id = ? AND c.session_id IS NULL
  AND c.reason IN ('complete', 'late_root') AND t.session_id IS NULL AND (%s)
ORDER BY c.position;

-- name: scored_alone
SELECT c.position, c.completed_ms, t.trace_id, d.scores, d.inclusion_probability, d.epoch
FROM completed c CROSS JOIN traces t ON t.id = c.trace
CROSS JOIN decisions d ON d.scorer = ? AND d.unit_id = t.trace_id
WHERE c.position > ? AND c.position <= ? AND c.experiment_id = ? AND c.session_id IS NULL
  AND c.reason IN ('complete', 'late_root') AND t.session_id IS NULL
  AND d.decision = 'scored' AND d.origin = 'live' AND (%s)
ORDER BY c.position;

-- name: sessions
-- Each once, when it first was complete.
SELECT position, completed_ms, session_id FROM completed
WHERE position > ? AND position <= ? AND experiment_id = ? AND session_id IS NOT NULL
  AND revision = 0
ORDER BY position;

-- name: of_sessions
SELECT t.session_id, t.trace_id, t.status, t.execution_time_ms
FROM json_each(?) s CROSS JOIN traces t ON t.session_id = s.value
WHERE t.experiment_id = ? AND t.completed_ms <= ? AND (%s)
ORDER BY t.session_id, t.completed_ms, t.id;

-- name: scored_of_sessions
SELECT t.session_id, t.trace_id, d.scores, d.inclusion_probability, d.epoch
FROM json_each(?) s CROSS JOIN traces t ON t.session_id = s.value
CROSS JOIN decisions d ON d.scorer = ? AND d.unit_id = t.trace_id
WHERE t.experiment_id = ? AND t.completed_ms <= ?
  AND d.decision = 'scored' AND d.origin = 'live' AND (%s)
ORDER BY t.session_id, t.completed_ms, t.id;

-- name: scored_sessions
-- For a scorer of whole sessions. A slice is one of the sessions' first traces.
SELECT c.position, c.completed_ms, d.trace_id, d.scores, d.inclusion_probability, d.epoch
FROM completed c CROSS JOIN traces t ON t.id = c.trace
CROSS JOIN decisions d ON d.scorer = ? AND d.unit_id = c.session_id AND d.revision = c.revision
WHERE c.position > ? AND c.position <= ? AND c.experiment_id = ? AND c.session_id IS NOT NULL
  AND c.revision = 0 AND d.decision IN ('scored', 'superseded') AND d.origin = 'live'
  AND d.scores <> '[]' AND (%s)
ORDER BY c.position;

-- name: window
SELECT t.session_id, t.trace_id, t.status, t.execution_time_ms
FROM completed c CROSS JOIN traces t ON t.id = c.trace
WHERE c.position > ? AND c.position <= ? AND c.experiment_id = ? AND c.session_id IS NULL
  AND c.reason IN ('complete', 'late_root') AND (%s)
ORDER BY c.position DESC LIMIT ?;

-- name: scored_window
SELECT t.session_id, t.trace_id, d.scores, d.inclusion_probability, d.epoch
FROM completed c CROSS JOIN traces t ON t.id = c.trace
CROSS JOIN decisions d ON d.scorer = ? AND d.unit_id = t.trace_id
WHERE c.position > ? AND c.position <= ? AND c.experiment_id = ? AND c.session_id IS NULL
  AND c.reason IN ('complete', 'late_root')
  AND d.decision = 'scored' AND d.origin = 'live' AND (%s)
ORDER BY c.position DESC LIMIT ?;

-- name: scored_sessions_window
SELECT c.session_id, d.trace_id, d.scores, d.inclusion_probability, d.epoch
FROM completed c CROSS JOIN traces t ON t.id = c.trace
CROSS JOIN decisions d ON d.scorer = ? AND d.unit_id = c.session_id AND d.revision = c.revision
WHERE c.position > ? AND c.position <= ? AND c.arrival > ? AND c.experiment_id = ?
  AND c.session_id IS NOT NULL AND d.decision = 'scored' AND d.origin = 'live' AND (%s)
ORDER BY c.position DESC LIMIT ?;

-- name: retrying
SELECT count(*) FROM decisions INDEXED BY decisions_retrying
WHERE decision = 'retrying' AND scorer = ? AND completed_ms > ?;

-- name: arrived
-- By rows, not by the index of experiments: that would read all that the experiment ever had.
SELECT count(*) FROM traces NOT INDEXED WHERE id >= ? AND id < ? AND experiment_id = ?;

-- name: any_arrived
SELECT EXISTS (SELECT 1 FROM traces NOT INDEXED WHERE id >= ? AND experiment_id = ?);

-- name: first_arrival
SELECT first_received_ms FROM traces NOT INDEXED WHERE experiment_id = ? ORDER BY id LIMIT 1;

-- name: cost
-- Of the scorers whose keys begin with the experiment and a slash; 0 is what comes after that.
SELECT coalesce(sum(cost_usd), 0.0) FROM scorer_costs
WHERE scorer > ?1 || '/' AND scorer < ?1 || '0';

-- name: feedback
-- The latest of each user on each trace.
SELECT t.trace_id, t.session_id, a.value, max(a.last_updated_timestamp)
FROM assessments a INDEXED BY assessments_of_people CROSS JOIN traces t ON t.id = a.trace
WHERE a.name = 'user_feedback' AND a.assessment_type = 'feedback' AND a.source_type = 'HUMAN'
  AND a.valid AND t.experiment_id = ? AND a.last_updated_timestamp > ?
  AND a.last_updated_timestamp <= ?
GROUP BY t.id, a.source_id;

-- name: judged
SELECT d.unit_id, d.scores, d.inclusion_probability
FROM json_each(?) one CROSS JOIN decisions d INDEXED BY decisions_of_unit ON d.unit_id = one.value
WHERE d.decision = 'scored' AND d.scorer > ?2 || '/' AND d.scorer < ?2 || '0';
