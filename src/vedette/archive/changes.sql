-- What the archives ask the read model. `:rows` and `:ids` are JSON arrays.

-- name: head
SELECT
  (SELECT value FROM counters WHERE name = 'identity'),
  (SELECT value FROM counters WHERE name = 'batch'),
  coalesce((SELECT value FROM counters WHERE name = 'trimmed'), 0);

-- name: last_trace
SELECT coalesce(max(id), 0) FROM traces;

-- name: until
-- The last of the next batches of changes that have about `:count` changes.
SELECT max(batch) FROM (
  SELECT batch FROM changes WHERE batch > :after AND batch <= :head ORDER BY batch LIMIT :count);

-- name: changed
SELECT DISTINCT t.id, t.trace_id, t.experiment_id, t.first_received_ms
FROM changes c JOIN traces t ON t.id = c.trace
WHERE c.batch > :after AND c.batch <= :until;

-- name: deleted
SELECT trace_id FROM deletions WHERE batch > :after AND batch <= :until;

-- name: block
-- In the order of arrival; the plus keeps SQLite from another order that it would have to sort.
SELECT id, trace_id, first_received_ms FROM traces
WHERE id > :after AND id <= :until AND +experiment_id = :experiment ORDER BY id LIMIT :count;

-- name: arrived
SELECT id, first_received_ms FROM traces
WHERE id IN (SELECT value FROM json_each(:rows)) AND experiment_id = :experiment;

-- name: gone
-- Of these traces, those that were deleted or are in another experiment now.
SELECT trace_id FROM traces
WHERE trace_id IN (SELECT value FROM json_each(:ids)) AND experiment_id <> :experiment
UNION
SELECT d.trace_id FROM deletions d
WHERE d.trace_id IN (SELECT value FROM json_each(:ids))
  AND NOT EXISTS (SELECT 1 FROM traces t WHERE t.trace_id = d.trace_id);
