-- Statements of the fold of scoring's decisions.

-- name: cursor
SELECT position FROM scorer_cursors WHERE scorer = ?;

-- name: put_cursor
INSERT OR REPLACE INTO scorer_cursors (scorer, position) VALUES (?, ?);

-- name: delete_cursor
DELETE FROM scorer_cursors WHERE scorer = ?;

-- name: put_epoch
INSERT OR IGNORE INTO scorer_epochs (scorer, epoch, opened_ms, after_position, version, rate, filter,
  strata, reason, of_sessions)
VALUES (:scorer, :epoch, :opened_ms, :after_position, :version, :rate, :filter, :strata, :reason,
  :of_sessions);

-- name: decision_before
SELECT epoch, stratum, completed_ms, decision, attempts FROM decisions
WHERE scorer = :scorer AND unit_id = :unit_id AND revision = :revision;

-- name: put_decision
INSERT OR REPLACE INTO decisions (scorer, unit_id, revision, unit_type, trace_id, version, epoch,
  stratum, inclusion_probability, draw, decision, scores, error_code, error, attempts,
  first_attempt_ms, next_attempt_ms, milliseconds, worker, model, calls, input_tokens,
  output_tokens, cost_usd, completed_ms, decided_ms, origin)
VALUES (:scorer, :unit_id, :revision, :unit_type, :trace_id, :version, :epoch, :stratum,
  :inclusion_probability, :draw, :decision, :scores, :error_code, :error, :attempts,
  :first_attempt_ms, :next_attempt_ms, :milliseconds, :worker, :model, :calls, :input_tokens,
  :output_tokens, :cost_usd, :completed_ms, :decided_ms, :origin);

-- name: count
INSERT INTO decision_counts (scorer, epoch, stratum, hour_ms, decision, units)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET units = units + excluded.units;

-- name: add_cost
INSERT INTO scorer_costs (scorer, day, calls, input_tokens, output_tokens, cost_usd)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET calls = calls + excluded.calls,
  input_tokens = input_tokens + excluded.input_tokens,
  output_tokens = output_tokens + excluded.output_tokens, cost_usd = cost_usd + excluded.cost_usd;

-- name: put_backfill
INSERT INTO backfills (job, experiment_id, scorers, start_ms, end_ms, trace_arrival, session_arrival,
  rescore, created_ms, cancelled_ms)
VALUES (:job, :experiment_id, :scorers, :start_ms, :end_ms, :trace_arrival, :session_arrival,
  :rescore, :created_ms, :cancelled_ms)
ON CONFLICT DO UPDATE SET cancelled_ms = coalesce(cancelled_ms, excluded.cancelled_ms);
