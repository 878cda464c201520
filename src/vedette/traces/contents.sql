-- What is known of the spans of some traces; :rows is a JSON array of row ids.

-- name: traces
SELECT id, trace_id, experiment_id, first_received_ms, last_received_ms FROM traces
WHERE id IN (SELECT value FROM json_each(:rows));

-- name: spans
SELECT trace, span_id, received_ms FROM spans
WHERE trace IN (SELECT value FROM json_each(:rows))
ORDER BY trace, parent_span_id IS NOT NULL, start_ns;

-- name: sizes
SELECT trace, sum(content_size) FROM spans
WHERE trace IN (SELECT value FROM json_each(:rows)) GROUP BY trace;
