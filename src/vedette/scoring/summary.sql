-- What pages and commands tell of scoring. Times are ms since the epoch.

-- name: trace
SELECT id, trace_id, experiment_id, session_id, has_root, last_received_ms
FROM traces WHERE trace_id = :trace_id;

-- name: places
SELECT position FROM completed
WHERE trace = :trace AND session_id IS NULL AND reason <> 'annotated' ORDER BY position;

-- name: session_places
SELECT position FROM completed
WHERE session_id = :session_id AND experiment_id = :experiment_id ORDER BY position;

-- name: decisions
-- What was decided of a trace and of its session; the newest revision of each scorer.
SELECT scorer, unit_id, unit_type, max(revision) AS revision, version, epoch, stratum, inclusion_probability,
  draw, decision, scores, error_code, error, attempts, next_attempt_ms, milliseconds, worker, model,
  cost_usd, completed_ms, decided_ms, origin
FROM decisions WHERE unit_id = :unit_id GROUP BY scorer ORDER BY decided_ms;

-- name: ahead
SELECT count(*) FROM completed WHERE position > :cursor AND position <= :place;

-- name: counts
SELECT scorer, decision, sum(units) FROM decision_counts GROUP BY scorer, decision;

-- name: left
-- Selected, and neither scored nor to be.
SELECT scorer, count(*) FROM decisions
WHERE decision IN ('superseded', 'stopped', 'deleted') GROUP BY scorer;

-- name: costs
SELECT scorer, calls, cost_usd, input_tokens, output_tokens FROM scorer_costs WHERE day = :day;

-- name: prices
-- What a call cost on the last day on which that was known.
SELECT scorer, max(day), cost_usd / calls FROM scorer_costs WHERE cost_usd > 0 GROUP BY scorer;

-- name: cursors
SELECT c.scorer, (SELECT count(*) FROM completed u WHERE u.position > c.position),
  (SELECT completed_ms FROM completed u WHERE u.position > c.position ORDER BY position LIMIT 1)
FROM scorer_cursors c
WHERE instr(substr(c.scorer, 1, instr(c.scorer, '/')), ':') = 0;  -- of no backfill: they lie far back

-- name: last_epochs
SELECT scorer, max(epoch), rate, of_sessions FROM scorer_epochs GROUP BY scorer;
