-- Multiplies the traces that a stock MLflow server wrote into its sqlite database. Parameters:
-- :copies of each trace, :step_ms between a trace and its copy. Ids and sessions are new, times
-- are shifted, everything else is what MLflow itself stored. Rows go in by time, as live ones do.

-- new ids
CREATE TEMP TABLE copies AS
WITH RECURSIVE numbers (copy) AS (
  SELECT 1 WHERE :copies > 0
  UNION ALL SELECT copy + 1 FROM numbers WHERE copy < :copies
)
SELECT
  request_id AS old_id,
  'tr-' || lower(hex(randomblob(16))) AS new_id,
  '-' || copy AS session_suffix,
  copy * :step_ms AS shift_ms,
  timestamp_ms + copy * :step_ms AS at
FROM trace_info, numbers
ORDER BY at;

-- trace_info
INSERT INTO trace_info (
  request_id, experiment_id, timestamp_ms, execution_time_ms, status, client_request_id,
  request_preview, response_preview, db_payload_generation, trace_name, session_id, input_tokens,
  output_tokens, total_tokens, cache_read_input_tokens, cache_creation_input_tokens,
  cache_creation_input_tokens_above_1hr, input_cost, output_cost, total_cost
)
SELECT
  new_id, experiment_id, at, execution_time_ms, status, client_request_id,
  request_preview, response_preview, db_payload_generation, trace_name,
  session_id || session_suffix, input_tokens,
  output_tokens, total_tokens, cache_read_input_tokens, cache_creation_input_tokens,
  cache_creation_input_tokens_above_1hr, input_cost, output_cost, total_cost
FROM copies JOIN trace_info ON request_id = old_id
ORDER BY copies.rowid;

-- trace_tags
INSERT INTO trace_tags (key, value, request_id)
SELECT key, replace(value, old_id, new_id), new_id
FROM copies JOIN trace_tags ON request_id = old_id
ORDER BY copies.rowid;

-- trace_request_metadata
INSERT INTO trace_request_metadata (key, value, request_id)
SELECT key, value, new_id
FROM copies JOIN trace_request_metadata ON request_id = old_id
ORDER BY copies.rowid;

-- spans
INSERT INTO spans (
  trace_id, experiment_id, span_id, parent_span_id, name, type, status, start_time_unix_nano,
  end_time_unix_nano, content, input_cost, output_cost, total_cost, model_name, model_provider
)
SELECT
  new_id, experiment_id, span_id, parent_span_id, name, type, status,
  start_time_unix_nano + shift_ms * 1000000, end_time_unix_nano + shift_ms * 1000000,
  content, input_cost, output_cost, total_cost, model_name, model_provider
FROM copies JOIN spans ON trace_id = old_id
ORDER BY copies.rowid;

-- assessments
INSERT INTO assessments (
  assessment_id, trace_id, name, assessment_type, value, error, created_timestamp,
  last_updated_timestamp, source_type, source_id, run_id, span_id, rationale, overrides, valid,
  assessment_metadata, experiment_id, trace_timestamp_ms, aggregate_value, is_numeric_value
)
SELECT
  'a-' || lower(hex(randomblob(16))), new_id, name, assessment_type, value, error,
  created_timestamp + shift_ms, last_updated_timestamp + shift_ms, source_type, source_id,
  run_id, span_id, rationale, overrides, valid, assessment_metadata, experiment_id, at,
  aggregate_value, is_numeric_value
FROM copies JOIN assessments ON trace_id = old_id
ORDER BY copies.rowid;
