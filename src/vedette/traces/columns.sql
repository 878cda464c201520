-- name: tables
-- The mirror's tables (DuckDB). What metrics group by or filter on stands on every row: no joins.
-- `mirror` has one row: which read model this mirrors, its last batch of changes taken over, and the
-- layout of these tables. `session` is the session's number, the same in all tables; null: of none.
CREATE TABLE IF NOT EXISTS mirror (identity BIGINT, batch BIGINT, layout BIGINT);
CREATE TABLE IF NOT EXISTS traces (
  id BIGINT, experiment_id BIGINT, timestamp_ms BIGINT, execution_time_ms BIGINT, status VARCHAR,
  trace_name VARCHAR, session_id VARCHAR, input_tokens BIGINT, output_tokens BIGINT,
  total_tokens BIGINT, cache_read_input_tokens BIGINT, cache_creation_input_tokens BIGINT,
  total_cost DOUBLE, of_evaluation BOOLEAN, session UBIGINT);
CREATE TABLE IF NOT EXISTS spans (
  trace BIGINT, experiment_id BIGINT, trace_timestamp_ms BIGINT, start_ns BIGINT,
  latency_ms BIGINT, name VARCHAR, type VARCHAR, status VARCHAR, model_name VARCHAR,
  model_provider VARCHAR, input_cost DOUBLE, output_cost DOUBLE, total_cost DOUBLE);
CREATE TABLE IF NOT EXISTS assessments (
  trace BIGINT, experiment_id BIGINT, trace_timestamp_ms BIGINT, name VARCHAR,
  assessment_type VARCHAR, value VARCHAR, aggregate_value DOUBLE);
-- Live scores, of each unit the newest. A score is a number (true, yes, pass are 1; false, no, fail
-- are 0), or else a label.
CREATE TABLE IF NOT EXISTS scores (
  trace BIGINT, experiment_id BIGINT, trace_timestamp_ms BIGINT, scorer VARCHAR, name VARCHAR,
  version BIGINT, epoch BIGINT, inclusion_probability DOUBLE, kind VARCHAR, value DOUBLE,
  label VARCHAR, milliseconds DOUBLE, session UBIGINT);

-- The rest reads the read model (SQLite); `:ids` is a JSON array of trace row ids.

-- name: head
SELECT
  (SELECT value FROM counters WHERE name = 'identity'),
  (SELECT value FROM counters WHERE name = 'batch'),
  (SELECT value FROM counters WHERE name = 'trimmed');

-- name: changed
SELECT DISTINCT trace FROM changes WHERE batch > :after AND batch <= :until;

-- name: behind
SELECT count(*) FROM (SELECT 1 FROM changes WHERE batch > :after LIMIT :bound);

-- name: all_ids
SELECT id FROM traces WHERE id > :after ORDER BY id LIMIT :count;

-- name: traces
SELECT t.id, t.experiment_id, t.timestamp_ms, t.execution_time_ms, t.status, t.trace_name,
  t.session_id, t.input_tokens, t.output_tokens, t.total_tokens, t.cache_read_input_tokens,
  t.cache_creation_input_tokens, t.total_cost,
  EXISTS (SELECT 1 FROM trace_metadata m WHERE m.trace = t.id AND m.key = 'mlflow.sourceRun')
FROM traces t WHERE t.id IN (SELECT value FROM json_each(:ids));

-- name: spans
SELECT t.id, t.experiment_id, t.timestamp_ms, s.start_ns, (s.end_ns - s.start_ns) / 1000000, s.name,
  s.type, s.status, s.model_name, s.model_provider, s.input_cost, s.output_cost, s.total_cost
FROM traces t CROSS JOIN spans s ON s.trace = t.id
WHERE t.id IN (SELECT value FROM json_each(:ids));

-- name: assessments
-- Of overridden assessments nothing is ever counted.
SELECT t.id, t.experiment_id, t.timestamp_ms, a.name, a.assessment_type, a.value, a.aggregate_value
FROM traces t CROSS JOIN assessments a INDEXED BY assessments_by_trace ON a.trace = t.id
WHERE t.id IN (SELECT value FROM json_each(:ids)) AND a.valid = 1;

-- name: scores
-- A session's is on its first trace. A trace that was deleted and has come again is another one.
WITH scored AS (
  SELECT t.id, t.experiment_id, t.timestamp_ms, t.session_id, d.scorer, d.version, d.epoch,
    d.inclusion_probability, d.scores, d.milliseconds
  FROM traces t CROSS JOIN decisions d ON d.unit_id = t.trace_id
  WHERE t.id IN (SELECT value FROM json_each(:ids)) AND d.unit_type = 'trace'
    AND d.decision = 'scored' AND d.origin = 'live' AND d.decided_ms >= t.first_received_ms
  UNION ALL
  SELECT t.id, t.experiment_id, t.timestamp_ms, t.session_id, d.scorer, d.version, d.epoch,
    d.inclusion_probability, d.scores, d.milliseconds
  FROM traces t CROSS JOIN decisions d ON d.unit_id = t.session_id
  WHERE t.id IN (SELECT value FROM json_each(:ids)) AND d.unit_type = 'session'
    AND d.trace_id = t.trace_id AND d.decision = 'scored' AND d.origin = 'live'
    AND NOT EXISTS (
      SELECT 1 FROM decisions n
      WHERE n.scorer = d.scorer AND n.unit_id = d.unit_id AND n.revision > d.revision
        AND n.decision = 'scored' AND n.origin = 'live')
), given AS (
  SELECT s.*, json_extract(one.value, '$.name') AS name, json_type(one.value, '$.value') AS type,
    json_extract(one.value, '$.value') AS score
  FROM scored s CROSS JOIN json_each(s.scores) one
), meant AS (
  SELECT *, CASE
    WHEN type IN ('true', 'false') THEN score = 1
    WHEN type = 'text' AND lower(trim(score)) IN ('yes', 'true', 'pass', 'passed', 'positive') THEN 1
    WHEN type = 'text' AND lower(trim(score)) IN ('no', 'false', 'fail', 'failed', 'negative') THEN 0
  END AS passed
  FROM given
)
SELECT id, experiment_id, timestamp_ms, substr(scorer, instr(scorer, '/') + 1), name, version, epoch,
  inclusion_probability,
  CASE WHEN passed IS NOT NULL THEN 'boolean' WHEN type IN ('integer', 'real') THEN 'number'
    ELSE 'label' END,
  CASE WHEN passed IS NOT NULL THEN passed + 0.0
    WHEN type IN ('integer', 'real') THEN score + 0.0 END,
  CASE WHEN passed IS NULL AND type = 'text' THEN score END, milliseconds, session_id
FROM meant
WHERE type IN ('true', 'false', 'integer', 'real', 'text');

-- name: oldest_to_keep
SELECT batch FROM changes ORDER BY batch DESC, trace DESC LIMIT 1 OFFSET :keep;

-- name: bite
-- The last of the oldest batches, not after `:until`, that have about `:bite` changes.
SELECT max(batch) FROM (
  SELECT batch FROM changes WHERE batch <= :until ORDER BY batch, trace LIMIT :bite);

-- name: trim
DELETE FROM changes WHERE batch <= :until;

-- name: any_deletion_to_trim
SELECT 1 FROM deletions ORDER BY batch DESC LIMIT 1 OFFSET :keep;

-- name: trim_deletions
-- All but the newest `:keep`.
DELETE FROM deletions WHERE batch <= (
  SELECT batch FROM deletions ORDER BY batch DESC, trace_id DESC LIMIT 1 OFFSET :keep);

-- name: note_trimmed
INSERT INTO counters VALUES ('trimmed', :until)
ON CONFLICT DO UPDATE SET value = max(value, excluded.value);
