-- What a write looks up in the read model before it is journaled. Lists of ids are JSON arrays: one
-- prepared statement for any number.

-- name: experiment_of
SELECT experiment_id FROM traces WHERE trace_id = :trace_id;

-- name: experiments_of
SELECT trace_id, experiment_id FROM traces
WHERE trace_id IN (SELECT value FROM json_each(:trace_ids));

-- name: tag_exists
SELECT t.experiment_id FROM traces t JOIN trace_tags g ON g.trace = t.id
WHERE t.trace_id = :trace_id AND g.key = :key;

-- name: name_exists
SELECT experiment_id FROM traces WHERE trace_id = :trace_id AND trace_name IS NOT NULL;

-- name: assessment
SELECT a.assessment_id, t.trace_id, a.name, a.assessment_type, a.value, a.error,
  a.created_timestamp, a.last_updated_timestamp, a.source_type, a.source_id, a.run_id, a.span_id,
  a.rationale, a.overrides, a.valid, a.assessment_metadata, a.aggregate_value, a.is_numeric_value
FROM assessments a JOIN traces t ON t.id = a.trace
WHERE a.assessment_id = :assessment_id;

-- name: assessments_of_runs
-- Those an evaluation run has written: the run is named in their metadata, as MLflow has it.
SELECT t.experiment_id, t.trace_id, a.assessment_id FROM assessments a JOIN traces t ON t.id = a.trace
WHERE a.run_id IN (SELECT value FROM json_each(:run_ids))
  AND json_extract(a.assessment_metadata, '$."mlflow.assessment.sourceRunId"') = a.run_id;

-- name: traces_of_user
-- The oldest first. CROSS JOIN: SQLite keeps the order of the tables.
SELECT t.trace_id, t.experiment_id, t.timestamp_ms, t.span_count
FROM trace_metadata m CROSS JOIN traces t ON t.id = m.trace
WHERE m.key = :key AND m.value = :user
  AND (:experiment_id IS NULL OR t.experiment_id = :experiment_id)
ORDER BY t.timestamp_ms, t.trace_id;

-- name: waiting_for_erasure
SELECT count(*) FROM leaving WHERE for_good = 1;

-- name: traces_to_delete
-- The oldest first, at most :max_traces of them (-1: all).
SELECT trace_id FROM traces
WHERE experiment_id = :experiment_id
  AND (:max_timestamp_ms IS NULL OR timestamp_ms <= :max_timestamp_ms)
  AND (:trace_ids IS NULL OR trace_id IN (SELECT value FROM json_each(:trace_ids)))
ORDER BY timestamp_ms, trace_id
LIMIT :max_traces;
