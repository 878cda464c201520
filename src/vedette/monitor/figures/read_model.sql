-- What the pages ask of the read model (SQLite) beside the mirror. Times are ms since the epoch.

-- name: told
-- Traces by their rows, and why they have a score. :ids is a JSON array.
SELECT t.id, t.trace_id, t.timestamp_ms, p.request, (
  SELECT a.rationale FROM assessments a INDEXED BY assessments_by_trace
  WHERE a.trace = t.id AND a.name = :name AND a.assessment_type = 'feedback' AND a.valid = 1
    AND a.source_type <> 'HUMAN'
  ORDER BY a.last_updated_timestamp DESC LIMIT 1)
FROM json_each(:ids) one CROSS JOIN traces t ON t.id = one.value
LEFT JOIN trace_previews p ON p.trace = t.id;

-- name: epochs
SELECT epoch, opened_ms, version, rate, reason FROM scorer_epochs
WHERE scorer = :scorer AND opened_ms >= :since AND opened_ms < :until ORDER BY epoch;

-- name: decided
-- By the hour in which units became complete.
SELECT decision, sum(units) FROM decision_counts
WHERE scorer = :scorer AND hour_ms >= :since AND hour_ms < :until GROUP BY decision;
