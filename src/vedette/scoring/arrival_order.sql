-- Between positions in the order of completion and places in the order of arrivals.

-- name: trace_arrival
-- Of the last trace that is passed, or just before that of the next, should it not be later.
SELECT min(arrival, coalesce((
  SELECT arrival - 1 FROM completed INDEXED BY completed_traces
  WHERE position > :position AND session_id IS NULL AND arrival > 0 ORDER BY position LIMIT 1
), arrival))
FROM completed INDEXED BY completed_traces
WHERE position <= :position AND session_id IS NULL AND arrival > 0 ORDER BY position DESC LIMIT 1;

-- name: session_arrival
SELECT min(arrival, coalesce((
  SELECT arrival - 1 FROM completed INDEXED BY completed_sessions
  WHERE position > :position AND session_id IS NOT NULL ORDER BY position LIMIT 1
), arrival))
FROM completed INDEXED BY completed_sessions
WHERE position <= :position AND session_id IS NOT NULL ORDER BY position DESC LIMIT 1;

-- name: trace_position
SELECT position FROM completed INDEXED BY completed_traces
WHERE session_id IS NULL AND arrival > 0 AND arrival <= :arrival ORDER BY position DESC LIMIT 1;

-- name: session_position
SELECT position FROM completed INDEXED BY completed_sessions
WHERE session_id IS NOT NULL AND arrival <= :arrival ORDER BY position DESC LIMIT 1;
