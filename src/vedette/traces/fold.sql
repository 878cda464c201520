-- Statements of the fold. `:ids` is a JSON array, so that one prepared statement serves any number.

-- name: load_traces
SELECT t.id, t.trace_id, t.experiment_id, t.timestamp_ms, t.execution_time_ms, t.status, t.finalized,
  t.client_request_id, t.trace_name, t.session_id, t.input_tokens, t.output_tokens, t.total_tokens,
  t.cache_read_input_tokens, t.cache_creation_input_tokens, t.cache_creation_input_tokens_above_1hr,
  t.input_cost, t.output_cost, t.total_cost, t.said_tokens, t.said_cost, t.has_root, t.first_received_ms, t.last_received_ms,
  t.completed_ms, p.request, p.response
FROM traces t LEFT JOIN trace_previews p ON p.trace = t.id
WHERE t.trace_id IN (SELECT value FROM json_each(:ids));

-- name: load_spans
SELECT trace, span_id, parent_span_id, usage, cost FROM spans
WHERE trace IN (SELECT value FROM json_each(:ids));

-- name: last_trace
SELECT seq FROM sqlite_sequence WHERE name = 'traces';

-- name: next_batch
UPDATE counters SET value = value + 1 WHERE name = 'batch' RETURNING value;

-- name: put_trace
INSERT INTO traces (id, trace_id, experiment_id, timestamp_ms, execution_time_ms, status, finalized,
  client_request_id, trace_name, session_id, input_tokens, output_tokens, total_tokens,
  cache_read_input_tokens, cache_creation_input_tokens, cache_creation_input_tokens_above_1hr,
  input_cost, output_cost, total_cost, said_tokens, said_cost, has_root, span_count,
  first_received_ms, last_received_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: update_trace
UPDATE traces SET experiment_id = ?, timestamp_ms = ?, execution_time_ms = ?, status = ?,
  finalized = ?, client_request_id = ?, trace_name = ?, session_id = ?, input_tokens = ?,
  output_tokens = ?, total_tokens = ?, cache_read_input_tokens = ?,
  cache_creation_input_tokens = ?, cache_creation_input_tokens_above_1hr = ?, input_cost = ?,
  output_cost = ?, total_cost = ?, said_tokens = ?, said_cost = ?, has_root = ?, span_count = ?, first_received_ms = ?,
  last_received_ms = ?
WHERE id = ?;

-- name: put_previews
INSERT OR REPLACE INTO trace_previews (trace, request, response) VALUES (?, ?, ?);

-- name: put_tag
INSERT INTO trace_tags (trace, key, value) VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET value = excluded.value;

-- name: delete_tag
DELETE FROM trace_tags WHERE trace = ? AND key = ?;

-- name: default_metadata
INSERT OR IGNORE INTO trace_metadata (trace, key, value) VALUES (?, ?, ?);

-- name: put_metadata
INSERT INTO trace_metadata (trace, key, value) VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET value = excluded.value;

-- name: put_span
INSERT OR REPLACE INTO spans (trace, span_id, parent_span_id, name, type, status, start_ns, end_ns,
  usage, cost, input_cost, output_cost, total_cost, model_name, model_provider, received_ms,
  content_size)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: put_assessment
INSERT INTO assessments (assessment_id, trace, name, assessment_type, value, error,
  created_timestamp, last_updated_timestamp, source_type, source_id, run_id, span_id, rationale,
  overrides, valid, assessment_metadata, aggregate_value, is_numeric_value)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (assessment_id) DO UPDATE SET trace = excluded.trace, name = excluded.name,
  assessment_type = excluded.assessment_type, value = excluded.value, error = excluded.error,
  created_timestamp = excluded.created_timestamp,
  last_updated_timestamp = excluded.last_updated_timestamp, source_type = excluded.source_type,
  source_id = excluded.source_id, run_id = excluded.run_id, span_id = excluded.span_id,
  rationale = excluded.rationale, overrides = excluded.overrides, valid = excluded.valid,
  assessment_metadata = excluded.assessment_metadata, aggregate_value = excluded.aggregate_value,
  is_numeric_value = excluded.is_numeric_value;

-- name: delete_assessment
DELETE FROM assessments WHERE assessment_id = ? AND trace = ?;

-- name: link_run
INSERT OR IGNORE INTO run_links (trace_id, run_id) VALUES (?, ?);

-- name: unlink_run
DELETE FROM run_links WHERE trace_id = ? AND run_id = ?;

-- name: link_prompt
INSERT OR IGNORE INTO prompt_links (trace_id, prompt) VALUES (?, ?);

-- name: put_completing
INSERT OR REPLACE INTO completing (trace, last_received_ms) VALUES (?, ?);

-- name: put_completing_session
INSERT INTO completing_sessions (experiment_id, session_id, last_received_ms)
VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET last_received_ms = max(last_received_ms, excluded.last_received_ms);

-- name: put_annotated
INSERT OR IGNORE INTO annotated (trace) VALUES (?);

-- name: put_change
INSERT OR IGNORE INTO changes (batch, trace) VALUES (?, ?);

-- name: put_deletion
INSERT OR IGNORE INTO deletions (batch, trace_id) VALUES (?, ?);

-- name: other_trace
-- The trace that an assessment leaves when it is put on another one.
SELECT trace FROM assessments WHERE assessment_id = ? AND trace <> ?;
