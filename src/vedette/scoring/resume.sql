-- Putting scorers where they were, in a read model that is made anew. Times are ms since the epoch.

-- name: make_annotated_at
CREATE TEMP TABLE annotated_at (
  trace_id TEXT PRIMARY KEY,
  at_ms INTEGER NOT NULL              -- arrival of the newest tag or assessment
) WITHOUT ROWID;

-- name: put_annotated_at
INSERT OR REPLACE INTO annotated_at (trace_id, at_ms) VALUES (?, ?);

-- name: recall_annotated
INSERT INTO annotated (trace)
SELECT t.id FROM annotated_at a JOIN traces t ON t.trace_id = a.trace_id
WHERE a.at_ms > :since AND t.completed_ms IS NOT NULL;

-- name: begin_positions
INSERT INTO sqlite_sequence (name, seq) VALUES ('completed', :position);

-- name: put_epoch_position
UPDATE scorer_epochs SET after_position = :position WHERE scorer = :scorer AND epoch = :epoch;

-- name: put_cursor
INSERT INTO scorer_cursors (scorer, position) VALUES (:scorer, :position);
